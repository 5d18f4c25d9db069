/*
 * tile.h: small single-threaded products on packed tiles, for attention.
 *
 * Written with the compiler's vector extension: 16 floats are one AVX-512 register, two AVX2 or four NEON ones.
 */
#ifndef HT_BACKEND_CPU_TILE_H
#define HT_BACKEND_CPU_TILE_H

#include <stdint.h>
#include <string.h>

#define HT_LANES 16
typedef float ht_lanes __attribute__((vector_size(HT_LANES * sizeof(float)), aligned(4), may_alias));

/* n rounded up to whole vectors. */
static inline int64_t ht_padded(int64_t n) {
    return (n + HT_LANES - 1) / HT_LANES * HT_LANES;
}

/* The left operand: element (i, k) is at data[i * row + k * col], so a transpose costs nothing. */
typedef struct ht_tile_left {
    const float *data;
    int64_t row, col;
} ht_tile_left;

/* C[rows, 16 vectors] += A B for constants `rows` (at most 4) and `vectors` (at most 2): accumulators stay in registers. */
static inline __attribute__((always_inline)) void ht_tile_kernel(const int rows, const int vectors, float *c,
                                                                 int64_t ldc, ht_tile_left a, const float *b,
                                                                 int64_t ldb, int64_t depth) {
    ht_lanes acc[4][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            acc[i][j] = *(const ht_lanes *)(c + i * ldc + j * HT_LANES);
    for (int64_t k = 0; k < depth; k++) {
        ht_lanes right[2];
        for (int j = 0; j < vectors; j++)
            right[j] = *(const ht_lanes *)(b + k * ldb + j * HT_LANES);
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

static inline __attribute__((always_inline)) void ht_tile_strip(const int vectors, float *c, int64_t ldc,
                                                                ht_tile_left a, const float *b, int64_t ldb,
                                                                int64_t m, int64_t depth) {
    int64_t i = 0;
    for (; i + 4 <= m; i += 4) {
        ht_tile_left rows = {a.data + i * a.row, a.row, a.col};
        ht_tile_kernel(4, vectors, c + i * ldc, ldc, rows, b, ldb, depth);
    }
    for (; i < m; i++) {
        ht_tile_left row = {a.data + i * a.row, a.row, a.col};
        ht_tile_kernel(1, vectors, c + i * ldc, ldc, row, b, ldb, depth);
    }
}

/* C[m, n] += A[m, depth] B[depth, n]; n a multiple of 16 (C and B are padded that far). */
static inline void ht_tile_product(float *c, int64_t ldc, ht_tile_left a, const float *b, int64_t ldb, int64_t m,
                                   int64_t n, int64_t depth) {
    int64_t j = 0;
    for (; j + 2 * HT_LANES <= n; j += 2 * HT_LANES)
        ht_tile_strip(2, c + j, ldc, a, b + j, ldb, m, depth);
    for (; j < n; j += HT_LANES)
        ht_tile_strip(1, c + j, ldc, a, b + j, ldb, m, depth);
}

#endif
