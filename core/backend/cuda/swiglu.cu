/*
 * SwiGLU on CUDA, forward and backward.  Contract: backend.h.
 * Launch   tiles of 256 threads, two packs of 16 bytes of each half a thread.
 * Traffic  forward: gu once, y once. backward: gu and dy once, dgu once. Memory-bound: bytes over bandwidth.
 * Fused    the gate's sigmoid, its derivative and both products.
 * Measured not yet.
 */
#include "core/backend/cuda/mma.h"

enum { PACKS = 2 };

static __device__ __forceinline__ float sigmoid(float x) {
    return ht_reciprocal(1.0f + expf(-x)); /* a true division is half of what the kernel does */
}

template <typename T, int W>
static __global__ void forward(T *y, int64_t y_stride, const T *gu, int64_t gu_stride, int64_t rows, int64_t packs) {
    ht_begin();
    int64_t tiles = ht_tiles<PACKS>(rows, packs);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t row, first;
        ht_tile<PACKS>(tile, packs, &row, &first);
        if (row >= rows) continue;
        const T *gates = gu + row * gu_stride, *ups = gates + packs * W;
        ht_raw<T, W> gate[PACKS], up[PACKS];
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack >= packs) continue;
            gate[i] = ht_fetch<W>(gates + pack * W);
            up[i] = ht_fetch<W>(ups + pack * W);
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack >= packs) continue;
            float g[W], u[W];
            ht_unpack(g, gate[i]);
            ht_unpack(u, up[i]);
#pragma unroll
            for (int k = 0; k < W; k++)
                g[k] = g[k] * sigmoid(g[k]) * u[k];
            ht_store(y + row * y_stride + pack * W, g);
        }
    }
}

/* silu'(g) = s (1 + g (1 - s)), s = sigmoid(g). dgu may be gu: a thread reads an element's g and u before it writes
 * them. */
template <typename T, int W>
static __global__ void backward(T *dgu, int64_t dgu_stride, const T *__restrict__ dy, int64_t dy_stride, const T *gu,
                                int64_t gu_stride, int64_t rows, int64_t packs) {
    int64_t tiles = ht_tiles<PACKS>(rows, packs);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t row, first;
        ht_tile<PACKS>(tile, packs, &row, &first);
        if (row >= rows) continue;
        const T *gates = gu + row * gu_stride, *ups = gates + packs * W;
        ht_raw<T, W> gate[PACKS], up[PACKS], coming[PACKS];
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack >= packs) continue;
            gate[i] = ht_fetch<W>(gates + pack * W);
            up[i] = ht_fetch<W>(ups + pack * W);
            coming[i] = ht_fetch<W>(dy + row * dy_stride + pack * W);
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack >= packs) continue;
            float g[W], u[W], d[W];
            ht_unpack(g, gate[i]);
            ht_unpack(u, up[i]);
            ht_unpack(d, coming[i]);
#pragma unroll
            for (int k = 0; k < W; k++) {
                float s = sigmoid(g[k]), slope = s * (1.0f + g[k] * (1.0f - s));
                float dg = d[k] * u[k] * slope;
                u[k] = d[k] * g[k] * s;
                g[k] = dg;
            }
            T *to = dgu + row * dgu_stride + pack * W;
            ht_store(to, g);
            ht_store(to + packs * W, u);
        }
    }
}

/* The halves of gu are whole packs. */
static int halves_packed(const ht_tensor *gu) {
    ht_tensor half = ht_tensor_columns(*gu, 0, gu->cols / 2);
    return ht_packed(&half);
}

template <typename T, int W>
static ht_status launch_forward(const ht_cuda *cuda, ht_tensor *y, const ht_tensor *gu, ht_error *err) {
    ht_launch_shape shape = ht_tile_shape(cuda, y->rows, y->cols / W, PACKS);
    HT_LAUNCH_EARLY((forward<T, W>), shape.grid, shape.block, 0, cuda, (T *)y->data, y->stride, (const T *)gu->data,
                    gu->stride, y->rows, y->cols / W);
    return ht_cuda_launched("swiglu_forward", err);
}

ht_status ht_cuda_swiglu_forward(ht_backend *be, ht_tensor *y, const ht_tensor *gu, ht_error *err) {
    HT_CHECK(ht_cuda_need_float("swiglu_forward", gu, err));
    if (y->rows == 0 || y->cols == 0) return HT_OK;
    return HT_DISPATCH(gu->dtype, ht_packed(y) && halves_packed(gu), launch_forward, ht_cuda_of(be), y, gu, err);
}

template <typename T, int W>
static ht_status launch_backward(const ht_cuda *cuda, ht_tensor *dgu, const ht_tensor *dy, const ht_tensor *gu,
                                 ht_error *err) {
    ht_launch_shape shape = ht_tile_shape(cuda, dy->rows, dy->cols / W, PACKS);
    HT_LAUNCH((backward<T, W>), shape.grid, shape.block, 0, cuda->stream, (T *)dgu->data, dgu->stride,
              (const T *)dy->data, dy->stride, (const T *)gu->data, gu->stride, dy->rows, dy->cols / W);
    return ht_cuda_launched("swiglu_backward", err);
}

ht_status ht_cuda_swiglu_backward(ht_backend *be, ht_tensor *dgu, const ht_tensor *dy, const ht_tensor *gu,
                                  ht_error *err) {
    HT_CHECK(ht_cuda_need_float("swiglu_backward", gu, err));
    if (dy->rows == 0 || dy->cols == 0) return HT_OK;
    int packed = ht_packed(dy) && halves_packed(gu) && halves_packed(dgu);
    return HT_DISPATCH(gu->dtype, packed, launch_backward, ht_cuda_of(be), dgu, dy, gu, err);
}
