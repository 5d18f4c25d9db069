/*
 * AdamW on CUDA.  Contract: backend.h, ht_adamw.
 * Launch   256 threads a block, one pack of 16 bytes of each array a thread, on a grid that fills the GPU twice over.
 * Traffic  w, m, v, grad in and out, bf16 out: memory-bound, floor = 34 n bytes over bandwidth.
 * Fused    clipping's scale, the bf16 copy, and the zeroing of the gradient.
 * Measured not yet.
 */
#include <math.h>

#include "core/backend/cuda/device.h"

enum { THREADS = 256, BLOCKS_A_MULTIPROCESSOR = 16 };

struct adamw_coefficients {
    float beta1, beta2, eps, scale, keep, correction2, rate;
};

template <int W>
static __device__ __forceinline__ void update(const ht_adamw_run &run, const adamw_coefficients &c, int64_t at) {
    float w[W], m[W], v[W], grad[W];
    const float zero[W] = {0};
    ht_load(w, run.w + at);
    ht_load(m, run.m + at);
    ht_load(v, run.v + at);
    ht_load(grad, run.grad + at);
#pragma unroll
    for (int k = 0; k < W; k++) {
        float g = grad[k] * c.scale;
        m[k] = c.beta1 * m[k] + (1.0f - c.beta1) * g;
        v[k] = c.beta2 * v[k] + (1.0f - c.beta2) * g * g;
        w[k] = w[k] * c.keep - c.rate * m[k] / (sqrtf(v[k]) * c.correction2 + c.eps);
    }
    ht_store(run.w + at, w);
    ht_store(run.m + at, m);
    ht_store(run.v + at, v);
    ht_store(run.grad + at, zero);
    if (run.bf16) ht_store((ht_bf16 *)run.bf16 + at, w);
}

template <int W> static __global__ void __launch_bounds__(THREADS) adamw(ht_adamw_run run, adamw_coefficients c) {
    int64_t packs = run.n / W, step = (int64_t)gridDim.x * THREADS;
    for (int64_t pack = (int64_t)blockIdx.x * THREADS + threadIdx.x; pack < packs; pack += step)
        update<W>(run, c, pack * W);
    if (blockIdx.x == 0 && threadIdx.x < run.n % W) update<1>(run, c, packs * W + threadIdx.x);
}

ht_status ht_cuda_adamw(ht_backend *be, const ht_adamw_run *run, const ht_adamw_args *args, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    if (run->n <= 0) return HT_OK;
    adamw_coefficients c;
    c.beta1 = (float)args->beta1, c.beta2 = (float)args->beta2, c.eps = (float)args->eps;
    c.scale = (float)args->grad_scale, c.keep = (float)(1.0 - args->lr * args->decay);
    c.correction2 = (float)(1.0 / sqrt(1.0 - pow(args->beta2, (double)args->step)));
    c.rate = (float)(args->lr / (1.0 - pow(args->beta1, (double)args->step)));
    uintptr_t places = (uintptr_t)run->w | (uintptr_t)run->m | (uintptr_t)run->v | (uintptr_t)run->grad;
    int packed = places % 16 == 0 && (uintptr_t)run->bf16 % 8 == 0;
    int64_t blocks = ht_ceil_div(packed ? ht_ceil_div(run->n, 4) : run->n, THREADS);
    int64_t most = (int64_t)cuda->multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    dim3 grid((unsigned)ht_least(blocks, most));
    if (packed)
        HT_LAUNCH(adamw<4>, grid, dim3(THREADS), 0, cuda->stream, *run, c);
    else
        HT_LAUNCH(adamw<1>, grid, dim3(THREADS), 0, cuda->stream, *run, c);
    return ht_cuda_launched("adamw", err);
}
