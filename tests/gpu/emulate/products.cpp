/*
 * The products in place of core/backend/cuda/products.cu: plain loops in the order of the formula, sums in f64.
 */
#include "core/backend/cuda/cuda.h"

#include <cuda_bf16.h>

#include <stdlib.h>
#include <vector>

struct ht_cuda_products {
    int nothing;
};

ht_status ht_cuda_products_open(ht_cuda_products **products, ht_error *err) {
    *products = (ht_cuda_products *)calloc(1, sizeof **products);
    return *products ? HT_OK : ht_fail(err, HT_ERR_NOMEM, "no memory for the emulated products");
}

void ht_cuda_products_close(ht_cuda_products *products) {
    free(products);
}

/* Element (i, j) of a matrix or of its transpose lies at data[i * down + j * across]. */
struct view {
    ht_tensor t;
    int64_t down, across;
};

static double get(const ht_tensor &t, int64_t at) {
    if (t.dtype == HT_F32) return (double)((const float *)t.data)[at];
    return (double)__bfloat162float(((const __nv_bfloat16 *)t.data)[at]);
}

static void put(const ht_tensor &t, int64_t at, double value) {
    if (t.dtype == HT_F32)
        ((float *)t.data)[at] = (float)value;
    else
        ((__nv_bfloat16 *)t.data)[at] = __float2bfloat16_rn((float)value);
}

/* d[i, j] = sum over k of a[i, k] b[j, k] + c[i, j]; c without data: nothing. The row of a is unpacked once. */
static void multiply(ht_tensor d, view a, view b, int64_t terms, ht_tensor c) {
    std::vector<double> row((size_t)terms);
    for (int64_t i = 0; i < d.rows; i++) {
        for (int64_t k = 0; k < terms; k++)
            row[(size_t)k] = get(a.t, i * a.down + k * a.across);
        for (int64_t j = 0; j < d.cols; j++) {
            double sum = c.data ? get(c, i * c.stride + j) : 0;
            for (int64_t k = 0; k < terms; k++)
                sum += row[(size_t)k] * get(b.t, j * b.down + k * b.across);
            put(d, i * d.stride + j, sum);
        }
    }
}

static ht_status enqueue(ht_backend *be, const char *op, const ht_tensor *d, view a, view b, int64_t terms,
                         const ht_tensor *c, ht_error *err) {
    HT_CHECK(ht_cuda_need_float(op, &a.t, err));
    ht_tensor from = c ? *c : ht_tensor(), to = *d;
    ht_emulated_enqueue(ht_cuda_of(be)->stream, [=] { multiply(to, a, b, terms, from); });
    return HT_OK;
}

ht_status ht_cuda_matmul_forward(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                                 const ht_tensor *add, ht_error *err) {
    return enqueue(be, "matmul_forward", y, {*x, x->stride, 1}, {*w, w->stride, 1}, x->cols, add, err);
}

ht_status ht_cuda_matmul_backward_data(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const ht_tensor *w,
                                       ht_error *err) {
    return enqueue(be, "matmul_backward_data", dx, {*dy, dy->stride, 1}, {*w, 1, w->stride}, dy->cols, NULL, err);
}

ht_status ht_cuda_matmul_backward_weight(ht_backend *be, ht_tensor *dw, const ht_tensor *dy, const ht_tensor *x,
                                         ht_error *err) {
    return enqueue(be, "matmul_backward_weight", dw, {*dy, 1, dy->stride}, {*x, 1, x->stride}, dy->rows, dw, err);
}
