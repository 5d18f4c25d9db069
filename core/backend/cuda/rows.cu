/*
 * Rows by index: gather (embedding_forward is the same operation) and scatter.  Contract: backend.h.
 * Launch   tiles of 256 threads, four packs of 16 bytes a thread.
 * Traffic  gather: the rows once, y once. scatter: dy once, the rows of dx twice. Memory-bound: bytes over bandwidth.
 * Fused    nothing.
 * Measured not yet.
 */
#include "core/backend/cuda/device.h"

enum { PACKS = 4 };

template <typename T, int W>
static __global__ void gather(T *y, int64_t y_stride, const T *x, int64_t x_stride, const int32_t *index, int64_t rows,
                              int64_t packs) {
    ht_begin();
    int64_t tiles = ht_tiles<PACKS>(rows, packs);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t row, first;
        ht_tile<PACKS>(tile, packs, &row, &first);
        if (row >= rows) continue;
        const T *from = x + index[row] * x_stride;
        T *to = y + row * y_stride;
        ht_raw<T, W> raw[PACKS];
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack < packs) raw[i] = ht_fetch<W>(from + pack * W);
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack < packs) ht_put(to + pack * W, raw[i]);
        }
    }
}

/* The rows are distinct: no two threads add to one element. */
template <typename T, int W>
static __global__ void scatter(T *__restrict__ dx, int64_t dx_stride, const T *__restrict__ dy, int64_t dy_stride,
                               const int32_t *__restrict__ index, int64_t rows, int64_t packs) {
    int64_t tiles = ht_tiles<PACKS>(rows, packs);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t row, first;
        ht_tile<PACKS>(tile, packs, &row, &first);
        if (row >= rows) continue;
        const T *from = dy + row * dy_stride;
        T *to = dx + index[row] * dx_stride;
        ht_raw<T, W> there[PACKS], added[PACKS];
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack >= packs) continue;
            there[i] = ht_fetch<W>(to + pack * W);
            added[i] = ht_fetch<W>(from + pack * W);
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack >= packs) continue;
            float a[W], b[W];
            ht_unpack(a, there[i]);
            ht_unpack(b, added[i]);
#pragma unroll
            for (int k = 0; k < W; k++)
                a[k] += b[k];
            ht_store(to + pack * W, a);
        }
    }
}

template <typename T, int W>
static ht_status launch_gather(const ht_cuda *cuda, ht_tensor *y, const ht_tensor *x, const int32_t *rows,
                               ht_error *err) {
    ht_launch_shape shape = ht_tile_shape(cuda, y->rows, y->cols / W, PACKS);
    HT_LAUNCH_EARLY((gather<T, W>), shape.grid, shape.block, 0, cuda, (T *)y->data, y->stride, (const T *)x->data,
                    x->stride, rows, y->rows, y->cols / W);
    return ht_cuda_launched("gather_rows", err);
}

ht_status ht_cuda_gather_rows(ht_backend *be, ht_tensor *y, const ht_tensor *x, const int32_t *rows, ht_error *err) {
    if (y->rows == 0 || y->cols == 0) return HT_OK;
    HT_CHECK(ht_cuda_need_float("gather_rows", x, err));
    return HT_DISPATCH(x->dtype, ht_packed(y) && ht_packed(x), launch_gather, ht_cuda_of(be), y, x, rows, err);
}

template <typename T, int W>
static ht_status launch_scatter(const ht_cuda *cuda, ht_tensor *dx, const ht_tensor *dy, const int32_t *rows,
                                ht_error *err) {
    ht_launch_shape shape = ht_tile_shape(cuda, dy->rows, dy->cols / W, PACKS);
    HT_LAUNCH((scatter<T, W>), shape.grid, shape.block, 0, cuda->stream, (T *)dx->data, dx->stride, (const T *)dy->data,
              dy->stride, rows, dy->rows, dy->cols / W);
    return ht_cuda_launched("scatter_rows", err);
}

ht_status ht_cuda_scatter_rows(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const int32_t *rows, ht_error *err) {
    if (dy->rows == 0 || dy->cols == 0) return HT_OK;
    HT_CHECK(ht_cuda_need_float("scatter_rows", dx, err));
    return HT_DISPATCH(dx->dtype, ht_packed(dx) && ht_packed(dy), launch_scatter, ht_cuda_of(be), dx, dy, rows, err);
}
