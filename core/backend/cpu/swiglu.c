#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/exp.h"

ht_status ht_cpu_swiglu_forward(ht_backend *be, ht_tensor *y, const ht_tensor *gu, ht_error *err) {
    ht_status status = ht_cpu_need_f32("swiglu_forward", gu, err);
    if (status) return status;
    int64_t ffn = y->cols;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (y->rows * ffn > 16384)
    for (int64_t t = 0; t < y->rows; t++) {
        const float *restrict g = ht_row(gu, t), *restrict u = g + ffn;
        float *restrict out = ht_row(y, t);
        for (int64_t i = 0; i < ffn; i++)
            out[i] = g[i] / (1.0f + ht_expf(-g[i])) * u[i];
    }
    return HT_OK;
}

/* silu'(g) = s (1 + g (1 - s)), s = sigmoid(g). dgu may alias gu: both halves are read before they are written. */
ht_status ht_cpu_swiglu_backward(ht_backend *be, ht_tensor *dgu, const ht_tensor *dy, const ht_tensor *gu,
                                 ht_error *err) {
    ht_status status = ht_cpu_need_f32("swiglu_backward", gu, err);
    if (status) return status;
    int64_t ffn = dy->cols;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (dy->rows * ffn > 16384)
    for (int64_t t = 0; t < dy->rows; t++) {
        const float *g = ht_row(gu, t), *u = g + ffn, *d = ht_row(dy, t);
        float *dg = ht_row(dgu, t), *du = dg + ffn;
#pragma omp simd
        for (int64_t i = 0; i < ffn; i++) {
            float gate = g[i], up = u[i], s = 1.0f / (1.0f + ht_expf(-gate));
            dg[i] = d[i] * up * s * (1.0f + gate * (1.0f - s));
            du[i] = d[i] * gate * s;
        }
    }
    return HT_OK;
}
