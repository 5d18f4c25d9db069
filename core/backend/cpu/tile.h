/*
 * tile.h: small single-threaded products on packed tiles, for attention and for rows.
 *
 * Written with the compiler's vector extension: 16 floats are one AVX-512 register, two AVX2 or four NEON ones.
 */
#ifndef HT_BACKEND_CPU_TILE_H
#define HT_BACKEND_CPU_TILE_H

#include <stdint.h>
#include <string.h>

#define HT_LANES 16
typedef float ht_lanes __attribute__((vector_size(HT_LANES * 4), aligned(4), may_alias));
typedef uint32_t ht_lanes_bits __attribute__((vector_size(HT_LANES * 4), aligned(4), may_alias));
typedef int32_t ht_lanes_index __attribute__((vector_size(HT_LANES * 4)));
typedef uint16_t ht_half_lanes __attribute__((vector_size(HT_LANES * 2), aligned(2), may_alias));

#define HT_INLINE static inline __attribute__((always_inline))

/* Accumulators of a kernel, rows by vectors: as many as the registers hold. */
#ifdef __AVX512F__
enum { HT_KERNEL_ROWS = 4, HT_KERNEL_VECTORS = 4 };
#else
enum { HT_KERNEL_ROWS = 4, HT_KERNEL_VECTORS = 1 };
#endif

/* n rounded up to whole vectors. */
static inline int64_t ht_padded(int64_t n) {
    return (n + HT_LANES - 1) / HT_LANES * HT_LANES;
}

/* 16 elements at p, f32 or (half) bf16. */
HT_INLINE ht_lanes ht_lanes_load(const int half, const void *p) {
    if (!half) return *(const ht_lanes *)p;
    return (ht_lanes)(__builtin_convertvector(*(const ht_half_lanes *)p, ht_lanes_bits) << 16);
}

/* --- exchanges of lanes ----------------------------------------------------------------------------------- */

/* a0 b0 a1 b1 .. of the lower halves, and of the upper ones. */
HT_INLINE ht_lanes ht_interleave_low(ht_lanes a, ht_lanes b) {
    return __builtin_shuffle(a, b, (ht_lanes_index){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
HT_INLINE ht_lanes ht_interleave_high(ht_lanes a, ht_lanes b) {
    return __builtin_shuffle(a, b, (ht_lanes_index){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}

/* Four perfect shuffles transpose a 16 x 16 matrix. */
HT_INLINE void ht_transpose(ht_lanes m[HT_LANES]) {
    for (int round = 0; round < 4; round++) {
        ht_lanes next[HT_LANES];
        for (int i = 0; i < HT_LANES / 2; i++) {
            next[2 * i] = ht_interleave_low(m[i], m[i + HT_LANES / 2]);
            next[2 * i + 1] = ht_interleave_high(m[i], m[i + HT_LANES / 2]);
        }
        for (int i = 0; i < HT_LANES; i++)
            m[i] = next[i];
    }
}

/* Lane i of the result = the sum of m[i]'s lanes, by the same tree for every i. */
HT_INLINE ht_lanes ht_sum_each(ht_lanes m[HT_LANES]) {
    for (int left = HT_LANES / 2; left > 0; left /= 2)
        for (int i = 0; i < left; i++)
            m[i] = ht_interleave_low(m[i], m[i + left]) + ht_interleave_high(m[i], m[i + left]);
    return m[0];
}

/* --- C += A B --------------------------------------------------------------------------------------------- */

/* The left operand: element (i, k) is at data[i * row + k * col], so a transpose costs nothing. */
typedef struct ht_tile_left {
    const float *data;
    int64_t row, col;
} ht_tile_left;

/* The right operand: row k of vector j is at columns[j] + k * stride elements; f32, or (half) bf16. */
typedef struct ht_tile_right {
    const void *columns[HT_KERNEL_VECTORS];
    int64_t stride;
    int half;
} ht_tile_right;

/* Constants `rows` and `vectors`, so that accumulators stay in registers. An element's sum runs over k in order, whatever
 * the shape: its bits depend on its row and column alone. */
HT_INLINE void ht_tile_kernel(const int rows, const int vectors, const int half, float *c, int64_t ldc, ht_tile_left a,
                              const ht_tile_right *b, int64_t depth) {
    ht_lanes acc[HT_KERNEL_ROWS][HT_KERNEL_VECTORS];
    size_t step = (size_t)b->stride * (half ? 2 : 4);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            acc[i][j] = *(const ht_lanes *)(c + i * ldc + j * HT_LANES);
    for (int64_t k = 0; k < depth; k++) {
        ht_lanes right[HT_KERNEL_VECTORS];
        for (int j = 0; j < vectors; j++)
            right[j] = ht_lanes_load(half, (const char *)b->columns[j] + (size_t)k * step);
        for (int i = 0; i < rows; i++) {
            float left = a.data[i * a.row + k * a.col];
            for (int j = 0; j < vectors; j++)
                acc[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            *(ht_lanes *)(c + i * ldc + j * HT_LANES) = acc[i][j];
}

HT_INLINE void ht_tile_strip(const int vectors, const int half, float *c, int64_t ldc, ht_tile_left a,
                             const ht_tile_right *b, int64_t m, int64_t depth) {
    int64_t i = 0;
    for (; i + HT_KERNEL_ROWS <= m; i += HT_KERNEL_ROWS) {
        ht_tile_left rows = {a.data + i * a.row, a.row, a.col};
        ht_tile_kernel(HT_KERNEL_ROWS, vectors, half, c + i * ldc, ldc, rows, b, depth);
    }
    for (; i < m; i++) {
        ht_tile_left row = {a.data + i * a.row, a.row, a.col};
        ht_tile_kernel(1, vectors, half, c + i * ldc, ldc, row, b, depth);
    }
}

/* C[m, 16 vectors] += A[m, depth] B, `vectors` at most HT_KERNEL_VECTORS. */
static inline void ht_tile_columns(int vectors, float *c, int64_t ldc, ht_tile_left a, const ht_tile_right *b,
                                   int64_t m, int64_t depth) {
#define STRIP(n)                                                                                              \
    case n:                                                                                                   \
        if (b->half)                                                                                          \
            ht_tile_strip(n, 1, c, ldc, a, b, m, depth);                                                      \
        else                                                                                                  \
            ht_tile_strip(n, 0, c, ldc, a, b, m, depth);                                                      \
        break;
    switch (vectors) {
        STRIP(1)
#if defined(__AVX512F__)
        STRIP(2)
        STRIP(3)
        STRIP(4)
#endif
    default: break;
    }
#undef STRIP
}

/* C[m, n] += A[m, depth] B[depth, n], B f32 or (half) bf16 in rows of `ldb`; n a multiple of 16 (C and B are padded that far). */
static inline void ht_tile_product(float *c, int64_t ldc, ht_tile_left a, const void *b, int64_t ldb, int half,
                                   int64_t m, int64_t n, int64_t depth) {
    for (int64_t j = 0; j < n; j += HT_KERNEL_VECTORS * HT_LANES) {
        int64_t left = (n - j) / HT_LANES;
        int vectors = left < HT_KERNEL_VECTORS ? (int)left : HT_KERNEL_VECTORS;
        ht_tile_right right = {.stride = ldb, .half = half};
        for (int v = 0; v < vectors; v++)
            right.columns[v] = (const char *)b + (size_t)(j + v * HT_LANES) * (half ? 2 : 4);
        ht_tile_columns(vectors, c + j, ldc, a, &right, m, depth);
    }
}

#endif
