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

/* One pack of each row, as f32. */
template <int W> struct pack_values { float x[W], dy[W], gain[W], dx[W]; };

template <int W> static __device__ __forceinline__ float dot_of(const pack_values<W> &v) {
    float dot = 0;
#pragma unroll
    for (int k = 0; k < W; k++)
        dot += v.gain[k] * v.dy[k] * v.x[k];
    return dot;
}

/* A pack of dx, and of the gain's gradient in shared memory (NULL: not wanted). */
template <typename T, int W>
static __device__ __forceinline__ void finish(T *dx, pack_values<W> &v, float scale, float pull, float *sums) {
#pragma unroll
    for (int k = 0; k < W; k++)
        v.dx[k] += v.gain[k] * v.dy[k] * scale - v.x[k] * pull;
    ht_store(dx, v.dx);
    if (!sums) return;
    float sum[W];
    ht_load(sum, sums);
#pragma unroll
    for (int k = 0; k < W; k++)
        sum[k] += v.dy[k] * v.x[k] * scale;
    ht_keep(sums, sum);
}

template <typename T, int W> static __global__ void __launch_bounds__(MOST_THREADS) norm_backward(norm_arguments<T> a) {
    ht_begin();
    HT_SHARED(float, partials, [32]);
    HT_DYNAMIC_SHARED(float, dynamic);
    float *sums = a.partial ? dynamic : NULL; /* [dim]; each thread has its own columns of it */
    int threads = (int)blockDim.x, first = (int)threadIdx.x;
    const float zero[W] = {0};
    for (int pack = first; sums && pack < a.packs; pack += threads)
        ht_keep(sums + (int64_t)pack * W, zero);
    ht_raw<T, W> gains[KEPT], kept_x[KEPT], kept_dy[KEPT], kept_dx[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        if (first + i * threads < a.packs) gains[i] = ht_fetch<W>(a.gain + (int64_t)(first + i * threads) * W);
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const T *x = a.x + row * a.x_stride, *dy = a.dy + row * a.dy_stride;
        T *dx = a.dx + row * a.dx_stride;
        pack_values<W> v;
        float dot = 0, scale = a.rstd[row];
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int64_t at = (int64_t)(first + i * threads) * W;
            if (first + i * threads >= a.packs) continue;
            kept_x[i] = ht_fetch<W>(x + at);
            kept_dy[i] = ht_fetch<W>(dy + at);
            kept_dx[i] = ht_fetch<W>(dx + at);
        }
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            if (first + i * threads >= a.packs) continue;
            ht_unpack(v.x, kept_x[i]);
            ht_unpack(v.dy, kept_dy[i]);
            ht_unpack(v.gain, gains[i]);
            dot += dot_of(v);
        }
        for (int pack = first + KEPT * threads; pack < a.packs; pack += threads) {
            ht_load(v.x, x + (int64_t)pack * W);
            ht_load(v.dy, dy + (int64_t)pack * W);
            ht_load(v.gain, a.gain + (int64_t)pack * W);
            dot += dot_of(v);
        }
        dot = ht_block_sum(dot, partials);
        /* mean(gain dy xhat) xhat rstd = dot rstd^3 / dim x */
        float pull = dot * scale * scale * scale / ((float)a.packs * W);
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int64_t at = (int64_t)(first + i * threads) * W;
            if (first + i * threads >= a.packs) continue;
            ht_unpack(v.x, kept_x[i]);
            ht_unpack(v.dy, kept_dy[i]);
            ht_unpack(v.gain, gains[i]);
            ht_unpack(v.dx, kept_dx[i]);
            finish<T, W>(dx + at, v, scale, pull, sums ? sums + at : NULL);
        }
        for (int pack = first + KEPT * threads; pack < a.packs; pack += threads) {
            int64_t at = (int64_t)pack * W;
            ht_load(v.x, x + at);
            ht_load(v.dy, dy + at);
            ht_load(v.gain, a.gain + at);
            ht_load(v.dx, dx + at);
            finish<T, W>(dx + at, v, scale, pull, sums ? sums + at : NULL);
        }
    }
    if (!sums) return;
    float *to = a.partial + (int64_t)blockIdx.x * a.packs * W;
    for (int pack = first; pack < a.packs; pack += threads) {
        float v[W];
        ht_load(v, sums + (int64_t)pack * W);
        ht_store(to + (int64_t)pack * W, v);
    }
}

/* dgain += the partial sums, in a fixed order: every 32nd by one thread, then those of 32 threads. */
static __global__ void sum_partials(float *dgain, const float *partial, int64_t blocks, int64_t dim) {
    ht_begin();
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
    HT_LAUNCH_EARLY((norm_backward<T, W>), dim3((unsigned)blocks), dim3(ht_row_threads(a.packs, KEPT, MOST_THREADS)),
                    shared, cuda, a);
    HT_CHECK(ht_cuda_launched("rms_norm_backward", err));
    if (!dgain) return HT_OK;
    HT_LAUNCH_EARLY(sum_partials, dim3((unsigned)ht_ceil_div(dim, SUM_SIDE)), dim3(SUM_SIDE, SUM_SIDE), 0, cuda,
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
