/*
 * Products by oneDNN.  Contract: backend.h.
 *
 * f32: dnnl_sgemm, whose C signature is the same in oneDNN 2 and 3: row-major, C = A B + beta C. It needs no primitive.
 * bf16: matmul primitives (onednn.h). The number of tokens differs from batch to batch, and a primitive made for a number of
 * rows is up to a tenth faster than one for any number: so rows go in pieces of two fixed sizes, and only what is left, and
 * the sums over tokens of a weight's gradient, by primitives for any number.
 */
#include <dnnl.h>
#include <string.h>

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/onednn.h"

/* C[m, n] = op(A) op(B) (+ C); 'T' reads the transpose. */
static ht_status product_f32(const char *op, char trans_a, char trans_b, const ht_tensor *c, const ht_tensor *a,
                             const ht_tensor *b, int64_t k, int accumulate, ht_error *err) {
    dnnl_status_t result = dnnl_sgemm(trans_a, trans_b, c->rows, c->cols, k, 1.0f, a->data, a->stride, b->data,
                                      b->stride, accumulate ? 1.0f : 0.0f, c->data, c->stride);
    if (result == dnnl_out_of_memory) return ht_fail(err, HT_ERR_NOMEM, "%s: oneDNN ran out of memory", op);
    if (result != dnnl_success) return ht_fail(err, HT_ERR_RUN, "%s: oneDNN failed with status %d", op, (int)result);
    return HT_OK;
}

static const void *advance(const void *data, int64_t elements, size_t width) {
    return (const char *)data + (size_t)elements * width;
}

/* C = A B (+ C) for bf16 A and B, rows of A and C in pieces. */
static ht_status product_rows(ht_backend *be, ht_onednn_product p, ht_error *err) {
    static const int64_t pieces[] = {1024, 256};
    ht_onednn *library = ht_cpu_onednn(be);
    size_t width = p.c_is_f32 ? 4 : 2;
    int64_t left = p.m;
    ht_status status = HT_OK;
    /* oneDNN 2.6 crashes on AMX when a fixed depth is exactly 63: its products for any number of rows do not. */
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces && p.k != 63; i++)
        for (p.m = pieces[i]; left >= p.m; left -= p.m) {
            HT_TRY(ht_onednn_matmul(library, &p, err));
            p.a.data = advance(p.a.data, p.m * p.a.row, 2);
            p.c.data = advance(p.c.data, p.m * p.c.row, width);
        }
    p.m = left;
    p.any_rows = 1;
    if (left > 0) HT_TRY(ht_onednn_matmul(library, &p, err));
done:
    return status;
}

ht_status ht_cpu_matmul_forward(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                                const ht_tensor *add, ht_error *err) {
    ht_status status = HT_OK;
    if (y->rows == 0 || y->cols == 0) return HT_OK;
    if (add && add->data != y->data) HT_TRY(ht_copy(be, y, add, err));
    if (x->dtype == HT_F32) return product_f32("matmul_forward", 'N', 'T', y, x, w, x->cols, add != NULL, err);
    HT_TRY(product_rows(be,
                        (ht_onednn_product){.m = y->rows,
                                            .n = y->cols,
                                            .k = x->cols,
                                            .a = {x->data, x->stride, 1},
                                            .b = {w->data, 1, w->stride},
                                            .c = {y->data, y->stride, 1},
                                            .c_is_f32 = y->dtype == HT_F32,
                                            .accumulate = add != NULL},
                        err));
done:
    return status;
}

ht_status ht_cpu_matmul_backward_data(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const ht_tensor *w,
                                      ht_error *err) {
    if (dx->rows == 0 || dx->cols == 0) return HT_OK;
    if (dy->dtype == HT_F32) return product_f32("matmul_backward_data", 'N', 'N', dx, dy, w, dy->cols, 0, err);
    return product_rows(be,
                        (ht_onednn_product){.m = dx->rows,
                                            .n = dx->cols,
                                            .k = dy->cols,
                                            .a = {dy->data, dy->stride, 1},
                                            .b = {w->data, w->stride, 1},
                                            .c = {dx->data, dx->stride, 1}},
                        err);
}

ht_status ht_cpu_matmul_backward_weight(ht_backend *be, ht_tensor *dw, const ht_tensor *dy, const ht_tensor *x,
                                        ht_error *err) {
    if (dy->rows == 0) return HT_OK;
    if (dy->dtype == HT_F32) return product_f32("matmul_backward_weight", 'T', 'N', dw, dy, x, dy->rows, 1, err);
    return ht_onednn_matmul(ht_cpu_onednn(be),
                            &(ht_onednn_product){.m = dw->rows,
                                                 .n = dw->cols,
                                                 .k = dy->rows,
                                                 .a = {dy->data, 1, dy->stride},
                                                 .b = {x->data, x->stride, 1},
                                                 .c = {dw->data, dw->stride, 1},
                                                 .c_is_f32 = 1,
                                                 .accumulate = 1,
                                                 .any_depth = 1},
                            err);
}
