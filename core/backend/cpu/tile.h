/*
 * tile.h: small single-threaded products on packed tiles, for attention and for rows.
 *
 * Written with the compiler's vector extension: 16 floats are one AVX-512 register, two AVX2 or four NEON ones.
 */
#ifndef HT_BACKEND_CPU_TILE_H
#define HT_BACKEND_CPU_TILE_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define HT_LANES 16
typedef float ht_lanes __attribute__((vector_size(HT_LANES * 4), aligned(4), may_alias));
typedef uint32_t ht_lanes_bits __attribute__((vector_size(HT_LANES * 4), aligned(4), may_alias));
typedef int32_t ht_lanes_index __attribute__((vector_size(HT_LANES * 4)));

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

/*
 * The two kinds of 32-bit units that products work on: an f32 number, or a pair of bf16 ones.
 * sum + a b of 16 f32 units; of 16 pairs, sum + a.low b.low + a.high b.high.
 */
HT_INLINE ht_lanes ht_multiply_add(const int pairs, ht_lanes sum, ht_lanes a, ht_lanes b) {
    if (!pairs) return sum + a * b;
#ifdef __AVX512BF16__
    return (ht_lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    ht_lanes_bits x = (ht_lanes_bits)a, y = (ht_lanes_bits)b;
    sum += (ht_lanes)(x << 16) * (ht_lanes)(y << 16);
    return sum + (ht_lanes)(x & 0xffff0000u) * (ht_lanes)(y & 0xffff0000u);
#endif
}

/* One unit in every lane, whatever its bits mean. */
HT_INLINE ht_lanes ht_broadcast(const float *unit) {
    uint32_t bits;
    memcpy(&bits, unit, sizeof bits);
    return (ht_lanes)((ht_lanes_bits){0} + bits);
}

/* bf16 pairs: low halves from one vector of f32, high halves from another; round to nearest even. */
HT_INLINE ht_lanes ht_pair_up(ht_lanes low, ht_lanes high) {
    ht_lanes_bits a = (ht_lanes_bits)low, b = (ht_lanes_bits)high;
    a += 0x7fffu + ((a >> 16) & 1);
    b += 0x7fffu + ((b >> 16) & 1);
    return (ht_lanes)((a >> 16) | (b & 0xffff0000u));
}

/* --- exchanges of lanes ----------------------------------------------------------------------------------- */

/* a0 b0 a1 b1 .. of the lower halves, and of the upper ones. */
HT_INLINE ht_lanes ht_interleave_low(ht_lanes a, ht_lanes b) {
    return __builtin_shuffle(a, b, (ht_lanes_index){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
HT_INLINE ht_lanes ht_interleave_high(ht_lanes a, ht_lanes b) {
    return __builtin_shuffle(a, b, (ht_lanes_index){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}

/* Four perfect shuffles transpose a 16 x 16 matrix. (Loops are unrolled: an index that is not constant would put the
 * vectors into memory.) */
HT_INLINE void ht_transpose(ht_lanes m[HT_LANES]) {
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
        ht_lanes next[HT_LANES];
#pragma GCC unroll 8
        for (int i = 0; i < HT_LANES / 2; i++) {
            next[2 * i] = ht_interleave_low(m[i], m[i + HT_LANES / 2]);
            next[2 * i + 1] = ht_interleave_high(m[i], m[i + HT_LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < HT_LANES; i++)
            m[i] = next[i];
    }
}

/* m[i] = pairs of lanes of m[i] and m[i + left] added up. */
HT_INLINE void ht_sum_pairs(ht_lanes m[HT_LANES], const int left) {
#pragma GCC unroll 8
    for (int i = 0; i < left; i++)
        m[i] = ht_interleave_low(m[i], m[i + left]) + ht_interleave_high(m[i], m[i + left]);
}

/* Lane i of the result = the sum of m[i]'s lanes, by the same tree for every i. */
HT_INLINE ht_lanes ht_sum_each(ht_lanes m[HT_LANES]) {
    ht_sum_pairs(m, 8);
    ht_sum_pairs(m, 4);
    ht_sum_pairs(m, 2);
    ht_sum_pairs(m, 1);
    return m[0];
}

/* --- C += A B --------------------------------------------------------------------------------------------- */

/* The left operand, in units: (i, k) is at data[i * row + k * col], so a transpose costs nothing. */
typedef struct ht_tile_left {
    const float *data;
    int64_t row, col;
} ht_tile_left;

/* The right operand, in units: row k of vector j is at columns[j] + k * stride. */
typedef struct ht_tile_right {
    const float *columns[HT_KERNEL_VECTORS];
    int64_t stride;
} ht_tile_right;

/* Constants `pairs`, `rows` and `vectors`, so that accumulators stay in registers. An element's sum runs over k in order,
 * whatever the shape: its bits depend on its row and column alone. */
HT_INLINE void ht_tile_kernel(const int pairs, const int rows, const int vectors, float *c, int64_t ldc, ht_tile_left a,
                              const ht_tile_right *b, int64_t depth) {
    ht_lanes acc[HT_KERNEL_ROWS][HT_KERNEL_VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            acc[i][j] = *(const ht_lanes *)(c + i * ldc + j * HT_LANES);
    for (int64_t k = 0; k < depth; k++) {
        ht_lanes right[HT_KERNEL_VECTORS];
        for (int j = 0; j < vectors; j++)
            right[j] = *(const ht_lanes *)(b->columns[j] + k * b->stride);
        for (int i = 0; i < rows; i++) {
            ht_lanes left = ht_broadcast(a.data + i * a.row + k * a.col);
            for (int j = 0; j < vectors; j++)
                acc[i][j] = ht_multiply_add(pairs, acc[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            *(ht_lanes *)(c + i * ldc + j * HT_LANES) = acc[i][j];
}

HT_INLINE void ht_tile_strip(const int pairs, const int vectors, float *c, int64_t ldc, ht_tile_left a,
                             const ht_tile_right *b, int64_t m, int64_t depth) {
    int64_t i = 0;
    for (; i + HT_KERNEL_ROWS <= m; i += HT_KERNEL_ROWS) {
        ht_tile_left rows = {a.data + i * a.row, a.row, a.col};
        ht_tile_kernel(pairs, HT_KERNEL_ROWS, vectors, c + i * ldc, ldc, rows, b, depth);
    }
    for (; i < m; i++) {
        ht_tile_left row = {a.data + i * a.row, a.row, a.col};
        ht_tile_kernel(pairs, 1, vectors, c + i * ldc, ldc, row, b, depth);
    }
}

/* C[m, 16 vectors] += A[m, depth] B, `vectors` at most HT_KERNEL_VECTORS, depth in units. */
static inline void ht_tile_columns(int pairs, int vectors, float *c, int64_t ldc, ht_tile_left a,
                                   const ht_tile_right *b, int64_t m, int64_t depth) {
#define STRIP(n)                                                                                              \
    case n:                                                                                                   \
        if (pairs)                                                                                            \
            ht_tile_strip(1, n, c, ldc, a, b, m, depth);                                                      \
        else                                                                                                  \
            ht_tile_strip(0, n, c, ldc, a, b, m, depth);                                                      \
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

/* C[m, n] += A[m, depth] B[depth, n]; B in rows of `ldb` units; n a multiple of 16 (C and B are padded that far). */
static inline void ht_tile_product(int pairs, float *c, int64_t ldc, ht_tile_left a, const float *b, int64_t ldb,
                                   int64_t m, int64_t n, int64_t depth) {
    for (int64_t j = 0; j < n; j += HT_KERNEL_VECTORS * HT_LANES) {
        int64_t left = (n - j) / HT_LANES;
        int vectors = left < HT_KERNEL_VECTORS ? (int)left : HT_KERNEL_VECTORS;
        ht_tile_right right = {.stride = ldb};
        for (int v = 0; v < vectors; v++)
            right.columns[v] = b + j + v * HT_LANES;
        ht_tile_columns(pairs, vectors, c + j, ldc, a, &right, m, depth);
    }
}

#endif
