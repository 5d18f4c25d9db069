/*
 * tile.h: tiles of bf16 rows of D elements in shared memory, and a warp's products of them on tensor cores.
 */
#ifndef HT_BACKEND_CUDA_TILE_H
#define HT_BACKEND_CUDA_TILE_H

#include "core/backend/cuda/mma.h"

/* --- tiles ------------------------------------------------------------------------------------------------- */

/* Chunk `chunk` (8 elements) of row `row`. The chunks of a row are permuted by its number, so that eight rows' chunks of
 * one column lie in different banks. */
template <int D> __device__ __forceinline__ ht_bf16 *ht_spot(ht_bf16 *tile, unsigned row, unsigned chunk) {
    return tile + row * D + (chunk ^ row % 8) * 8;
}

/* Begins to bring ROWS rows: from(row) is where one lies, a multiple of 16 bytes, NULL: zeros. All THREADS threads. */
template <int ROWS, int D, int THREADS, typename F>
__device__ __forceinline__ void ht_bring(ht_bf16 *tile, const void *anywhere, F from) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS; i += THREADS) {
        unsigned at = i + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
        const ht_bf16 *source = from((int)row);
        const void *begin = source ? (const void *)(source + chunk * 8) : anywhere;
        ht_copy_async(ht_spot<D>(tile, row, chunk), begin, source ? 16 : 0);
    }
}

/* Writes 16 MT rows of a warp's sums, times scale[i][h] for row 16 i + 8 h + lane / 4, rounded, to where to(row) points
 * (NULL: nowhere), in packs of 16 bytes where those are aligned. They go by way of as many rows of a tile that nobody
 * else uses any more. */
template <int MT, int D, typename F>
__device__ __forceinline__ void ht_write_rows(ht_bf16 *tile, const float (&v)[MT][D / 8][4],
                                              const float (&scale)[MT][2], bool aligned, F to) {
    unsigned lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                uint32_t pair = ht_pair(v[i][j][2 * h] * scale[i][h], v[i][j][2 * h + 1] * scale[i][h]);
                ht_bf16 *chunk = ht_spot<D>(tile, i * 16 + h * 8 + lane / 4, j);
                reinterpret_cast<uint32_t *>(chunk)[lane % 4] = pair;
            }
    __syncwarp();
    for (unsigned at = lane; at < 16 * MT * D / 8; at += 32) {
        unsigned row = at / (D / 8), chunk = at % (D / 8);
        const ht_bf16 *from = ht_spot<D>(tile, row, chunk);
        ht_bf16 *target = to((int)row);
        if (!target) continue;
        if (aligned)
            ht_put(target + chunk * 8, ht_fetch<8>(from));
        else
            for (int e = 0; e < 8; e++)
                target[chunk * 8 + e] = from[e];
    }
}

/* --- a warp's products (fragments: mma.h) ------------------------------------------------------------------- */

/*
 * A lane's part of an ldmatrix of 16 rows and columns: `row` of the 16, chunk `half` of the two, at chunks 0 and 1 of a
 * tile. At chunks 2 k and 2 k + 1 it lies at the place with the bits of 32 k turned: one register serves a whole tile.
 */
template <int D> __device__ __forceinline__ unsigned ht_place(unsigned row, unsigned half) {
    return row * D * 2 + (half ^ row % 8) * 16;
}
__device__ __forceinline__ const void *ht_at(const ht_bf16 *tile, unsigned place, int k) {
    return reinterpret_cast<const char *>(tile) + (place ^ (unsigned)k * 32);
}

/* sums[i] += a b^T: 16 MT rows of tile a, 8 NT rows of tile b. */
template <int MT, int NT, int D>
__device__ __forceinline__ void ht_rows_by_rows(float (&sums)[MT][NT][4], const ht_bf16 *a, const ht_bf16 *b) {
    unsigned lane = threadIdx.x % 32;
    /* matrices of a: rows 0..7, 8..15, then the same of the next 8 columns; of b: columns first */
    unsigned a_place = ht_place<D>(lane % 16, lane / 16), b_place = ht_place<D>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t left[MT][4];
#pragma unroll
        for (int i = 0; i < MT; i++)
            ht_ldmatrix(left[i], ht_at(a + i * 16 * D, a_place, k));
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
            uint32_t right[4];
            ht_ldmatrix(right, ht_at(b + j * 16 * D, b_place, k));
            const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
#pragma unroll
            for (int i = 0; i < MT; i++) {
                ht_mma(sums[i][2 * j], left[i], first);
                ht_mma(sums[i][2 * j + 1], left[i], second);
            }
        }
    }
}

/* What a product has left, [16 MT, 8 NT], rounded to bf16, as the left side of the next. */
template <int MT, int NT> struct ht_left { uint32_t a[MT][NT / 2][4]; };
template <int MT, int NT> __device__ __forceinline__ ht_left<MT, NT> ht_as_left(const float (&w)[MT][NT][4]) {
    ht_left<MT, NT> left;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                left.a[i][j / 2][j % 2 * 2 + h] = ht_pair(w[i][j][2 * h], w[i][j][2 * h + 1]);
    return left;
}

/* sums[i] += left b: by the 8 NT rows of tile b. */
template <int MT, int NT, int D>
__device__ __forceinline__ void ht_left_by_rows(float (&sums)[MT][D / 8][4], const ht_left<MT, NT> &left,
                                                const ht_bf16 *b) {
    unsigned lane = threadIdx.x % 32;
    unsigned place = ht_place<D>(lane % 16, lane / 16); /* matrices: rows 0..7, 8..15, then the next 8 columns */
#pragma unroll
    for (int k = 0; k < NT / 2; k++) {
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            uint32_t right[4];
            ht_ldmatrix_trans(right, ht_at(b + k * 16 * D, place, j));
            const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
#pragma unroll
            for (int i = 0; i < MT; i++) {
                ht_mma(sums[i][2 * j], left.a[i][k], first);
                ht_mma(sums[i][2 * j + 1], left.a[i][k], second);
            }
        }
    }
}

#endif
