/*
 * Products by oneDNN's dnnl_sgemm, whose C signature is the same in oneDNN 2 and 3: row-major, C = A B + beta C.
 */
#include <dnnl.h>

#include "core/backend/cpu/cpu.h"

/* C[m, n] = op(A) op(B) + beta C; 'T' reads the transpose. */
static ht_status product(const char *op, char trans_a, char trans_b, ht_tensor *c, const ht_tensor *a,
                         const ht_tensor *b, int64_t k, ht_accumulate accumulate, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_cpu_need_f32(op, a, err));
    HT_TRY(ht_cpu_need_f32(op, b, err));
    HT_TRY(ht_cpu_need_f32(op, c, err));
    if (c->rows == 0 || c->cols == 0) return HT_OK;
    float beta = accumulate == HT_ACCUMULATE ? 1.0f : 0.0f;
    dnnl_status_t result = dnnl_sgemm(trans_a, trans_b, c->rows, c->cols, k, 1.0f, a->data, a->stride, b->data,
                                      b->stride, beta, c->data, c->stride);
    if (result == dnnl_out_of_memory) return ht_fail(err, HT_ERR_NOMEM, "%s: oneDNN ran out of memory", op);
    if (result != dnnl_success) return ht_fail(err, HT_ERR_RUN, "%s: oneDNN failed with status %d", op, (int)result);
done:
    return status;
}

ht_status ht_cpu_matmul_forward(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                                ht_accumulate accumulate, ht_error *err) {
    (void)be;
    return product("matmul_forward", 'N', 'T', y, x, w, x->cols, accumulate, err);
}

ht_status ht_cpu_matmul_backward_data(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const ht_tensor *w,
                                      ht_accumulate accumulate, ht_error *err) {
    (void)be;
    return product("matmul_backward_data", 'N', 'N', dx, dy, w, dy->cols, accumulate, err);
}

ht_status ht_cpu_matmul_backward_weight(ht_backend *be, ht_tensor *dw, const ht_tensor *dy, const ht_tensor *x,
                                        ht_error *err) {
    (void)be;
    if (dy->rows == 0) return HT_OK;
    return product("matmul_backward_weight", 'T', 'N', dw, dy, x, dy->rows, HT_ACCUMULATE, err);
}
