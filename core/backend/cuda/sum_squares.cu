/*
 * Sum of squares on CUDA.  Contract: backend.h, ht_sum_squares.
 * Launch   up to 1024 blocks of 256 threads, by n alone, so that the order of the sum depends on nothing else; then
 *          one block.
 * Traffic  x once: memory-bound, floor = 4 n bytes over bandwidth.
 * Fused    nothing.
 * Measured not yet.
 */
#include "core/backend/cuda/device.h"

enum { THREADS = 256, BLOCKS = 1024, FINAL_THREADS = 1024 };

template <int W>
static __global__ void __launch_bounds__(THREADS)
    square(double *__restrict__ partial, const float *__restrict__ x, int64_t n) {
    HT_SHARED(double, partials, [32]);
    int64_t packs = n / W, step = (int64_t)gridDim.x * THREADS;
    double sums[W] = {0}, sum = 0;
#pragma unroll 4
    for (int64_t pack = (int64_t)blockIdx.x * THREADS + threadIdx.x; pack < packs; pack += step) {
        float v[W];
        ht_load(v, x + pack * W);
#pragma unroll
        for (int k = 0; k < W; k++)
            sums[k] += (double)v[k] * (double)v[k];
    }
    if (blockIdx.x == 0 && threadIdx.x < n % W) {
        double v = (double)x[packs * W + threadIdx.x];
        sum = v * v;
    }
#pragma unroll
    for (int k = 0; k < W; k++)
        sum += sums[k];
    sum = ht_block_sum(sum, partials);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(FINAL_THREADS)
    add_up(double *total, const double *__restrict__ partial, int blocks) {
    HT_SHARED(double, partials, [32]);
    double sum = ht_block_sum((int)threadIdx.x < blocks ? partial[threadIdx.x] : 0.0, partials);
    if (threadIdx.x == 0) *total = sum;
}

ht_status ht_cuda_sum_squares(ht_backend *be, const float *x, int64_t n, double *sum, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    *sum = 0;
    if (n <= 0) return HT_OK;
    void *scratch = NULL;
    HT_CHECK(ht_cuda_scratch(be, (BLOCKS + 1) * sizeof(double), &scratch, err));
    double *partial = (double *)scratch, *total = partial + BLOCKS;
    int packed = (uintptr_t)x % 16 == 0;
    int64_t blocks = ht_least(ht_ceil_div(n, 4 * THREADS), BLOCKS); /* whether x is aligned or not */
    if (packed)
        HT_LAUNCH(square<4>, dim3((unsigned)blocks), dim3(THREADS), 0, cuda->stream, partial, x, n);
    else
        HT_LAUNCH(square<1>, dim3((unsigned)blocks), dim3(THREADS), 0, cuda->stream, partial, x, n);
    HT_CHECK(ht_cuda_launched("sum_squares", err));
    HT_LAUNCH(add_up, dim3(1), dim3(FINAL_THREADS), 0, cuda->stream, total, partial, (int)blocks);
    HT_CHECK(ht_cuda_launched("sum_squares", err));
    const void *host;
    HT_CHECK(ht_cuda_fetch(be, total, sizeof *total, &host, err));
    *sum = *(const double *)host;
    return HT_OK;
}
