/*
 * RMSNorm on the CPU.  Contract: backend.h. One row is one thread's, so its bits do not depend on the number of rows.
 */
#include <math.h>

#include "core/backend/cpu/cpu.h"

ht_status ht_cpu_rms_norm_forward(ht_backend *be, ht_tensor *y, float *rstd, const ht_tensor *x, const ht_tensor *gain,
                                  float eps, ht_error *err) {
    ht_status status = ht_cpu_need_f32("rms_norm_forward", x, err);
    if (status) return status;
    int64_t dim = x->cols;
    const float *g = gain->data;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * dim > 16384)
    for (int64_t t = 0; t < x->rows; t++) {
        const float *in = ht_row(x, t);
        float *out = ht_row(y, t);
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < dim; i++)
            squares += in[i] * in[i];
        float scale = 1.0f / sqrtf(squares / (float)dim + eps);
        rstd[t] = scale;
        for (int64_t i = 0; i < dim; i++)
            out[i] = in[i] * scale * g[i];
    }
    return HT_OK;
}

/* dgain's columns are shared out over the threads, each walking all rows in order. */
static void gain_gradient(ht_backend *be, ht_tensor *dgain, const ht_tensor *dy, const ht_tensor *x,
                          const float *rstd) {
    int64_t dim = x->cols, slices = be->threads;
    int64_t width = ((dim + slices - 1) / slices + 15) / 16 * 16;
    float *sum = dgain->data;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * dim > 16384)
    for (int64_t slice = 0; slice < slices; slice++) {
        int64_t first = slice * width, end = first + width < dim ? first + width : dim;
        for (int64_t t = 0; t < x->rows; t++) {
            const float *in = ht_row(x, t), *d = ht_row(dy, t);
            float scale = rstd[t];
            for (int64_t i = first; i < end; i++)
                sum[i] += d[i] * in[i] * scale;
        }
    }
}

ht_status ht_cpu_rms_norm_backward(ht_backend *be, ht_tensor *dx, ht_tensor *dgain, const ht_tensor *dy,
                                   const ht_tensor *x, const float *rstd, const ht_tensor *gain, ht_error *err) {
    ht_status status = ht_cpu_need_f32("rms_norm_backward", x, err);
    if (status) return status;
    int64_t dim = x->cols;
    const float *g = gain->data;
    if (dgain) gain_gradient(be, dgain, dy, x, rstd);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * dim > 16384)
    for (int64_t t = 0; t < x->rows; t++) {
        const float *in = ht_row(x, t), *d = ht_row(dy, t);
        float *out = ht_row(dx, t);
        float scale = rstd[t], dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < dim; i++)
            dot += g[i] * d[i] * in[i];
        /* mean(gain dy xhat) xhat rstd = dot rstd^3 / dim x */
        float pull = dot * scale * scale * scale / (float)dim;
        for (int64_t i = 0; i < dim; i++)
            out[i] += g[i] * d[i] * scale - in[i] * pull;
    }
    return HT_OK;
}
