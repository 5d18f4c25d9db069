/*
 * Copies of matrices, with conversion between f32 and bf16.  Contract: backend.h, ht_copy.
 * Launch   tiles of 256 threads, four packs of eight elements a thread; one dtype: the copy engine's own.
 * Traffic  x once, y once: memory-bound, floor = bytes(x) + bytes(y) over bandwidth.
 * Fused    nothing.
 * Measured not yet.
 */
#include "core/backend/cuda/device.h"

enum { PACKS = 4 };

/* A pack is W elements of each dtype: 32 and 16 bytes, or one element. */
template <typename TO, typename FROM, int W>
static __global__ void convert(TO *__restrict__ y, int64_t y_stride, const FROM *__restrict__ x, int64_t x_stride,
                               int64_t rows, int64_t packs) {
    int64_t tiles = ht_tiles<PACKS>(rows, packs);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int64_t row, first;
        ht_tile<PACKS>(tile, packs, &row, &first);
        if (row >= rows) continue;
        float v[PACKS][W];
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack < packs) ht_load(v[i], x + row * x_stride + pack * W);
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int64_t pack = first + i * blockDim.x;
            if (pack < packs) ht_store(y + row * y_stride + pack * W, v[i]);
        }
    }
}

template <typename TO, typename FROM, int W>
static void launch(const ht_cuda *cuda, ht_tensor *y, const ht_tensor *x, int64_t rows, int64_t cols) {
    ht_launch_shape shape = ht_tile_shape(cuda, rows, cols / W, PACKS);
    HT_LAUNCH((convert<TO, FROM, W>), shape.grid, shape.block, 0, cuda->stream, (TO *)y->data, y->stride,
              (const FROM *)x->data, x->stride, rows, cols / W);
}

static ht_status copy_same(const ht_cuda *cuda, ht_tensor *y, const ht_tensor *x, ht_error *err) {
    size_t width = ht_dtype_size(x->dtype), row = (size_t)x->cols * width;
    if (y->stride == x->cols && x->stride == x->cols)
        HT_CUDA(cudaMemcpyAsync(y->data, x->data, (size_t)x->rows * row, cudaMemcpyDeviceToDevice, cuda->stream));
    else
        HT_CUDA(cudaMemcpy2DAsync(y->data, (size_t)y->stride * width, x->data, (size_t)x->stride * width, row,
                                  (size_t)x->rows, cudaMemcpyDeviceToDevice, cuda->stream));
    return HT_OK;
}

ht_status ht_cuda_copy(ht_backend *be, ht_tensor *y, const ht_tensor *x, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    if (x->rows == 0 || x->cols == 0) return HT_OK;
    if (x->dtype == y->dtype) return copy_same(cuda, y, x, err);
    HT_CHECK(ht_cuda_need_float("copy", x, err));
    HT_CHECK(ht_cuda_need_float("copy", y, err));
    int whole = y->stride == y->cols && x->stride == x->cols; /* one row: it is cut evenly, whatever its shape */
    int64_t rows = whole ? 1 : x->rows, cols = whole ? x->rows * x->cols : x->cols;
    int packed = ht_packed(x) && ht_packed(y) && cols % 8 == 0;
    if (y->dtype == HT_BF16 && packed)
        launch<ht_bf16, float, 8>(cuda, y, x, rows, cols);
    else if (y->dtype == HT_BF16)
        launch<ht_bf16, float, 1>(cuda, y, x, rows, cols);
    else if (packed)
        launch<float, ht_bf16, 8>(cuda, y, x, rows, cols);
    else
        launch<float, ht_bf16, 1>(cuda, y, x, rows, cols);
    return ht_cuda_launched("copy", err);
}
