/*
 * RMSNorm on CUDA.  Contract: backend.h, ht_rms_norm_forward.
 * Launch   a block a row, a thread for every four packs of 16 bytes (32 to 512 threads), 128 B shared.
 * Traffic  x once, y once: memory-bound, floor = bytes(x) + bytes(y) over bandwidth.
 * Fused    nothing.
 * Measured not yet.
 */
#include "core/backend/cuda/device.h"

enum {
    KEPT = 4, /* packs of a thread that stay in registers; those of longer rows are read twice */
    MOST_THREADS = 512
};

template <typename T, int W>
static __global__ void __launch_bounds__(MOST_THREADS)
    norm(T *y, int64_t y_stride, float *rstd, const T *x, int64_t x_stride, const T *gain, int64_t rows, int packs,
         float eps) {
    ht_begin();
    HT_SHARED(float, partials, [32]);
    int threads = (int)blockDim.x, first = (int)threadIdx.x;
    ht_raw<T, W> gains[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        if (first + i * threads < packs) gains[i] = ht_fetch<W>(gain + (int64_t)(first + i * threads) * W);
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *in = x + row * x_stride;
        T *out = y + row * y_stride;
        ht_raw<T, W> kept[KEPT];
        float v[W], g[W], squares = 0;
#pragma unroll
        for (int i = 0; i < KEPT; i++)
            if (first + i * threads < packs) kept[i] = ht_fetch<W>(in + (int64_t)(first + i * threads) * W);
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            if (first + i * threads >= packs) continue;
            ht_unpack(v, kept[i]);
#pragma unroll
            for (int k = 0; k < W; k++)
                squares += v[k] * v[k];
        }
        for (int pack = first + KEPT * threads; pack < packs; pack += threads) {
            ht_load(v, in + (int64_t)pack * W);
#pragma unroll
            for (int k = 0; k < W; k++)
                squares += v[k] * v[k];
        }
        squares = ht_block_sum(squares, partials);
        float scale = 1.0f / sqrtf(squares / ((float)packs * W) + eps);
        if (first == 0) rstd[row] = scale;
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int pack = first + i * threads;
            if (pack >= packs) continue;
            ht_unpack(v, kept[i]);
            ht_unpack(g, gains[i]);
#pragma unroll
            for (int k = 0; k < W; k++)
                v[k] *= scale * g[k];
            ht_store(out + (int64_t)pack * W, v);
        }
        for (int pack = first + KEPT * threads; pack < packs; pack += threads) {
            ht_load(v, in + (int64_t)pack * W);
            ht_load(g, gain + (int64_t)pack * W);
#pragma unroll
            for (int k = 0; k < W; k++)
                v[k] *= scale * g[k];
            ht_store(out + (int64_t)pack * W, v);
        }
    }
}

template <typename T, int W>
static ht_status launch(const ht_cuda *cuda, ht_tensor *y, float *rstd, const ht_tensor *x, const ht_tensor *gain,
                        float eps, ht_error *err) {
    enum { BLOCKS_A_MULTIPROCESSOR = 64 };
    int64_t packs = x->cols / W, most = (int64_t)cuda->multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    HT_LAUNCH_EARLY((norm<T, W>), dim3((unsigned)ht_least(x->rows, most)),
                    dim3(ht_row_threads(packs, KEPT, MOST_THREADS)), 0, cuda, (T *)y->data, y->stride, rstd,
                    (const T *)x->data, x->stride, (const T *)gain->data, x->rows, (int)packs, eps);
    return ht_cuda_launched("rms_norm_forward", err);
}

ht_status ht_cuda_rms_norm_forward(ht_backend *be, ht_tensor *y, float *rstd, const ht_tensor *x, const ht_tensor *gain,
                                   float eps, ht_error *err) {
    HT_CHECK(ht_cuda_need_float("rms_norm_forward", x, err));
    if (x->rows == 0 || x->cols == 0) return HT_OK;
    int packed = ht_packed(y) && ht_packed(x) && ht_packed(gain);
    return HT_DISPATCH(x->dtype, packed, launch, ht_cuda_of(be), y, rstd, x, gain, eps, err);
}
