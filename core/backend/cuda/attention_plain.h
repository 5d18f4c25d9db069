/*
 * attention_plain.h: what the plain attention kernels are made of: f32 arithmetic on tiles of 32 x 32 in shared memory.
 *
 * A block has 64 threads; of a product of two tiles thread (y, x) = (t / 8, t % 8) makes the elements
 * (y + 8 i, x + 8 j). Heads of any width go through in slices of 32 columns; a block keeps the sums of HT_PLAIN_SLICES
 * of them, and wider heads are shared among blocks (the grid's z), which make the scores anew.
 */
#ifndef HT_BACKEND_CUDA_ATTENTION_PLAIN_H
#define HT_BACKEND_CUDA_ATTENTION_PLAIN_H

#include "core/backend/cuda/attention.h"

enum {
    HT_PLAIN_TILE = 32,
    HT_PLAIN_STRIDE = 34, /* of a tile: reads down a column, by eights and in pairs of rows, lie in different banks */
    HT_PLAIN_SIZE = HT_PLAIN_TILE * HT_PLAIN_STRIDE,
    HT_PLAIN_THREADS = 64,
    HT_PLAIN_SLICES = 4,
    HT_PLAIN_COLUMNS = HT_PLAIN_SLICES * HT_PLAIN_TILE
};

/* tile = 32 rows, columns [column, column + 32): from(row) is where one lies, NULL: zeros; zeros from `width` on. */
template <typename F> __device__ __forceinline__ void ht_plain_load(float *tile, F from, int column, int width) {
    int lane = (int)threadIdx.x % 32;
    for (int row = (int)threadIdx.x / 32; row < HT_PLAIN_TILE; row += HT_PLAIN_THREADS / 32) {
        auto source = from(row);
        float value[1] = {0};
        if (source && column + lane < width) ht_load(value, source + column + lane);
        tile[row * HT_PLAIN_STRIDE + lane] = value[0];
    }
}

/* sums[i][j] += sum over k < depth of a(y + 8 i, k) b(x + 8 j, k); element (r, k) of a lies at a[r * A_ROW + k * A_K]. */
template <int A_ROW, int A_K, int B_ROW, int B_K>
__device__ __forceinline__ void ht_plain_product(float (&sums)[4][4], const float *a, const float *b, int depth) {
    a += threadIdx.x / 8 * A_ROW, b += threadIdx.x % 8 * B_ROW;
    for (int k = 0; k < depth; k++) {
        float x[4], y[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = a[8 * i * A_ROW + k * A_K], y[i] = b[8 * i * B_ROW + k * B_K];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                sums[i][j] += x[i] * y[j];
    }
}

/* sums = a b^T over all columns of the rows that from_a and from_b name; by way of two tiles. */
template <typename A, typename B>
__device__ __forceinline__ void ht_plain_rows_by_rows(float (&sums)[4][4], float *left, float *right, A from_a,
                                                      B from_b, int width) {
#pragma unroll
    for (int i = 0; i < 16; i++)
        sums[i / 4][i % 4] = 0;
    for (int column = 0; column < width; column += HT_PLAIN_TILE) {
        __syncthreads(); /* all are done with what the tiles held */
        ht_plain_load(left, from_a, column, width);
        ht_plain_load(right, from_b, column, width);
        __syncthreads();
        int depth = width - column < HT_PLAIN_TILE ? width - column : HT_PLAIN_TILE;
        ht_plain_product<HT_PLAIN_STRIDE, 1, HT_PLAIN_STRIDE, 1>(sums, left, right, depth);
    }
}

/* sums[slice] += w b for the block's slices of columns of the rows that from_b names: w = a tile, or its transpose. */
template <bool TRANSPOSED, typename B>
__device__ __forceinline__ void ht_plain_tile_by_rows(float (&sums)[HT_PLAIN_SLICES][4][4], const float *w,
                                                      float *right, B from_b, int width, int depth) {
    int first = (int)blockIdx.z * HT_PLAIN_COLUMNS;
#pragma unroll
    for (int slice = 0; slice < HT_PLAIN_SLICES; slice++) {
        int column = first + slice * HT_PLAIN_TILE;
        if (column >= width) continue;
        __syncthreads(); /* w is there, and all are done with what the other tile held */
        ht_plain_load(right, from_b, column, width);
        __syncthreads();
        ht_plain_product<TRANSPOSED ? 1 : HT_PLAIN_STRIDE, TRANSPOSED ? HT_PLAIN_STRIDE : 1, 1, HT_PLAIN_STRIDE>(
            sums[slice], w, right, depth);
    }
}

/* The thread's elements of a tile. */
__device__ __forceinline__ void ht_plain_keep(float *tile, const float (&v)[4][4]) {
    tile += threadIdx.x / 8 * HT_PLAIN_STRIDE + threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < 16; i++)
        tile[i / 4 * 8 * HT_PLAIN_STRIDE + i % 4 * 8] = v[i / 4][i % 4];
}

/* Row y + 8 i of the block's sums, times scale[i], rounded, to where to(row) points; NULL: nowhere. */
template <typename F>
__device__ __forceinline__ void ht_plain_write(const float (&sums)[HT_PLAIN_SLICES][4][4], const float (&scale)[4],
                                               F to, int width) {
    int first = (int)blockIdx.z * HT_PLAIN_COLUMNS + (int)threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        auto target = to((int)threadIdx.x / 8 + 8 * i);
        if (!target) continue;
#pragma unroll
        for (int j = 0; j < 4 * HT_PLAIN_SLICES; j++) {
            const float value[1] = {sums[j / 4][i][j % 4] * scale[i]};
            if (first + j * 8 < width) ht_store(target + first + j * 8, value);
        }
    }
}

/* Blocks of 32 rows, for every key/value head and share of the columns. */
static inline dim3 ht_plain_grid(int64_t tokens, int64_t sequences, int64_t rows_a_token, int64_t kv_heads,
                                 int64_t width) {
    return dim3(ht_work_blocks(tokens, sequences, rows_a_token, HT_PLAIN_TILE), (unsigned)kv_heads,
                (unsigned)ht_ceil_div(width, HT_PLAIN_COLUMNS));
}

#endif
