/*
 * Gradient of RMSNorm on CUDA.  Contract: backend.h, ht_rms_norm_backward.
 * Launch   a block every few rows, a thread for every four packs of 16 bytes; the gain's gradient of a block's rows
 *          grows in shared memory, [dim] f32. Then a sum over the blocks, 32 columns by 32 threads.
 * Traffic  x, dy and dx once, dx written: memory-bound, floor = 4 bytes(x) over bandwidth.
 * Fused    the sum into dx; the gain's gradient, which needs the same x and dy.
 * Measured not yet.
 */
#include <inttypes.h>

#include "core/backend/cuda/device.h"

enum { KEPT = 4, MOST_THREADS = 512, ROWS_A_BLOCK = 4, BLOCKS_A_MULTIPROCESSOR = 4, SUM_SIDE = 32 };

template <typename T> struct norm_arguments {
    T *dx;
    const T *dy, *x, *gain;
    const float *rstd;
    float *partial; /* [gridDim.x, dim]; NULL: not wanted */
    int64_t dx_stride, dy_stride, x_stride, rows;
    int packs;
};

/* One pack of dx, and of the gain's gradient. */
template <typename T, int W>
static __device__ __forceinline__ void finish(const norm_arguments<T> &a, int64_t row, int pack, const float (&in)[W],
                                              const float (&d)[W], float scale, float pull, float *sums) {
    float out[W], g[W];
    ht_load(out, a.dx + row * a.dx_stride + (int64_t)pack * W);
    ht_load(g, a.gain + (int64_t)pack * W);
#pragma unroll
    for (int k = 0; k < W; k++)
        out[k] += g[k] * d[k] * scale - in[k] * pull;
    ht_store(a.dx + row * a.dx_stride + (int64_t)pack * W, out);
    if (!a.partial) return;
    ht_load(g, sums + (int64_t)pack * W);
#pragma unroll
    for (int k = 0; k < W; k++)
        g[k] += d[k] * in[k] * scale;
    ht_store(sums + (int64_t)pack * W, g);
}

template <typename T, int W>
static __device__ __forceinline__ float dot_of(const norm_arguments<T> &a, int pack, const float (&in)[W],
                                               const float (&d)[W]) {
    float g[W], dot = 0;
    ht_load(g, a.gain + (int64_t)pack * W);
#pragma unroll
    for (int k = 0; k < W; k++)
        dot += g[k] * d[k] * in[k];
    return dot;
}

template <typename T, int W> static __global__ void __launch_bounds__(MOST_THREADS) norm_backward(norm_arguments<T> a) {
    HT_SHARED(float, partials, [32]);
    HT_DYNAMIC_SHARED(float, sums); /* [dim]; each thread has its own columns of it */
    int threads = (int)blockDim.x, first = (int)threadIdx.x;
    const float zero[W] = {0};
    if (a.partial)
        for (int pack = first; pack < a.packs; pack += threads)
            ht_store(sums + (int64_t)pack * W, zero);
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const T *x = a.x + row * a.x_stride, *dy = a.dy + row * a.dy_stride;
        ht_raw<T, W> kept_x[KEPT], kept_dy[KEPT];
        float in[W], d[W], dot = 0, scale = a.rstd[row];
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int pack = first + i * threads;
            if (pack >= a.packs) continue;
            kept_x[i] = ht_fetch<W>(x + (int64_t)pack * W);
            kept_dy[i] = ht_fetch<W>(dy + (int64_t)pack * W);
        }
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int pack = first + i * threads;
            if (pack >= a.packs) continue;
            ht_unpack(in, kept_x[i]);
            ht_unpack(d, kept_dy[i]);
            dot += dot_of<T, W>(a, pack, in, d);
        }
        for (int pack = first + KEPT * threads; pack < a.packs; pack += threads) {
            ht_load(in, x + (int64_t)pack * W);
            ht_load(d, dy + (int64_t)pack * W);
            dot += dot_of<T, W>(a, pack, in, d);
        }
        dot = ht_block_sum(dot, partials);
        /* mean(gain dy xhat) xhat rstd = dot rstd^3 / dim x */
        float pull = dot * scale * scale * scale / ((float)a.packs * W);
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int pack = first + i * threads;
            if (pack >= a.packs) continue;
            ht_unpack(in, kept_x[i]);
            ht_unpack(d, kept_dy[i]);
            finish<T, W>(a, row, pack, in, d, scale, pull, sums);
        }
        for (int pack = first + KEPT * threads; pack < a.packs; pack += threads) {
            ht_load(in, x + (int64_t)pack * W);
            ht_load(d, dy + (int64_t)pack * W);
            finish<T, W>(a, row, pack, in, d, scale, pull, sums);
        }
    }
    if (!a.partial) return;
    float *to = a.partial + (int64_t)blockIdx.x * a.packs * W;
    for (int pack = first; pack < a.packs; pack += threads) {
        float v[W];
        ht_load(v, sums + (int64_t)pack * W);
        ht_store(to + (int64_t)pack * W, v);
    }
}

/* dgain += the partial sums, in a fixed order: every 32nd by one thread, then those of 32 threads. */
static __global__ void sum_partials(float *dgain, const float *__restrict__ partial, int64_t blocks, int64_t dim) {
    HT_SHARED(float, sums, [SUM_SIDE][SUM_SIDE + 1]);
    int64_t col = (int64_t)blockIdx.x * SUM_SIDE + threadIdx.x;
    float sum = 0;
    if (col < dim)
        for (int64_t b = threadIdx.y; b < blocks; b += SUM_SIDE)
            sum += partial[b * dim + col];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || col >= dim) return;
    sum = 0;
    for (int y = 0; y < SUM_SIDE; y++)
        sum += sums[y][threadIdx.x];
    dgain[col] += sum;
}

template <typename T, int W>
static ht_status launch(ht_backend *be, ht_tensor *dx, ht_tensor *dgain, const ht_tensor *dy, const ht_tensor *x,
                        const float *rstd, const ht_tensor *gain, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    int64_t dim = x->cols, most = (int64_t)cuda->multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    int64_t blocks = ht_least(ht_ceil_div(x->rows, ROWS_A_BLOCK), most),
            shared = dgain ? dim * (int64_t)sizeof(float) : 0;
    void *partial = NULL;
    if (dgain) HT_CHECK(ht_cuda_scratch(be, (size_t)(blocks * dim) * sizeof(float), &partial, err));
    HT_CHECK(ht_cuda_allow_shared((const void *)norm_backward<T, W>, shared, err));
    norm_arguments<T> a = {};
    a.dx = (T *)dx->data, a.dx_stride = dx->stride;
    a.dy = (const T *)dy->data, a.dy_stride = dy->stride;
    a.x = (const T *)x->data, a.x_stride = x->stride;
    a.gain = (const T *)gain->data, a.rstd = rstd;
    a.partial = (float *)partial;
    a.rows = x->rows, a.packs = (int)(dim / W);
    HT_LAUNCH((norm_backward<T, W>), dim3((unsigned)blocks), dim3(ht_row_threads(a.packs, KEPT, MOST_THREADS)), shared,
              cuda->stream, a);
    HT_CHECK(ht_cuda_launched("rms_norm_backward", err));
    if (!dgain) return HT_OK;
    HT_LAUNCH(sum_partials, dim3((unsigned)ht_ceil_div(dim, SUM_SIDE)), dim3(SUM_SIDE, SUM_SIDE), 0, cuda->stream,
              (float *)dgain->data, a.partial, blocks, dim);
    return ht_cuda_launched("rms_norm_backward", err);
}

ht_status ht_cuda_rms_norm_backward(ht_backend *be, ht_tensor *dx, ht_tensor *dgain, const ht_tensor *dy,
                                    const ht_tensor *x, const float *rstd, const ht_tensor *gain, ht_error *err) {
    HT_CHECK(ht_cuda_need_float("rms_norm_backward", x, err));
    if (x->rows == 0 || x->cols == 0) return HT_OK;
    int64_t most = (ht_cuda_of(be)->shared_limit - 1024) / (int64_t)sizeof(float);
    if (dgain && x->cols > most)
        return ht_fail(err, HT_ERR_USAGE, "rms_norm_backward: %" PRId64 " columns are more than the GPU's %" PRId64,
                       x->cols, most);
    int packed = ht_packed(dx) && ht_packed(dy) && ht_packed(x) && ht_packed(gain);
    return HT_DISPATCH(x->dtype, packed, launch, be, dx, dgain, dy, x, rstd, gain, err);
}
