/*
 * RMSNorm on the CPU.  Contract: backend.h. One row is one thread's, so its bits do not depend on the number of rows.
 */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"

static float sum_of_squares(const ht_tensor *x, int64_t row, float *buffer) {
    float squares = 0;
    for (int64_t col = 0, n; col < x->cols; col += n) {
        n = ht_piece(x->cols, col);
        const float *in = ht_read(x, row, col, n, buffer);
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < n; i++)
            squares += in[i] * in[i];
    }
    return squares;
}

ht_status HT_CPU(rms_norm_forward)(ht_backend *be, ht_tensor *y, float *rstd, const ht_tensor *x, const ht_tensor *gain,
                                   float eps, ht_error *err) {
    (void)err;
    int64_t dim = x->cols;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * dim > 16384)
    for (int64_t t = 0; t < x->rows; t++) {
        float in_buffer[HT_PIECE], gain_buffer[HT_PIECE], out_buffer[HT_PIECE];
        float scale = 1.0f / sqrtf(sum_of_squares(x, t, in_buffer) / (float)dim + eps);
        rstd[t] = scale;
        for (int64_t col = 0, n; col < dim; col += n) {
            n = ht_piece(dim, col);
            const float *in = ht_read(x, t, col, n, in_buffer), *g = ht_read(gain, 0, col, n, gain_buffer);
            float *out = ht_target(y, t, col, out_buffer);
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                out[i] = in[i] * scale * g[i];
            ht_written(y, t, col, n, out);
        }
    }
    return HT_OK;
}

/* sum of gain dy x over a row; dgain += dy xhat (NULL: not wanted). */
static float pull_of(const ht_tensor *dy, const ht_tensor *x, const ht_tensor *gain, int64_t t, float scale,
                     float *dgain) {
    float x_buffer[HT_PIECE], dy_buffer[HT_PIECE], gain_buffer[HT_PIECE], dot = 0;
    for (int64_t col = 0, n; col < x->cols; col += n) {
        n = ht_piece(x->cols, col);
        const float *in = ht_read(x, t, col, n, x_buffer), *d = ht_read(dy, t, col, n, dy_buffer);
        const float *g = ht_read(gain, 0, col, n, gain_buffer);
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < n; i++)
            dot += g[i] * d[i] * in[i];
        if (!dgain) continue;
        float *sum = dgain + col;
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            sum[i] += d[i] * in[i] * scale;
    }
    return dot;
}

static void backward_row(const ht_tensor *dx, const ht_tensor *dy, const ht_tensor *x, const ht_tensor *gain, int64_t t,
                         float scale, float *dgain) {
    float x_buffer[HT_PIECE], dy_buffer[HT_PIECE], gain_buffer[HT_PIECE], dx_buffer[HT_PIECE];
    /* mean(gain dy xhat) xhat rstd = dot rstd^3 / dim x */
    float pull = pull_of(dy, x, gain, t, scale, dgain) * scale * scale * scale / (float)x->cols;
    for (int64_t col = 0, n; col < x->cols; col += n) {
        n = ht_piece(x->cols, col);
        const float *in = ht_read(x, t, col, n, x_buffer), *d = ht_read(dy, t, col, n, dy_buffer);
        const float *g = ht_read(gain, 0, col, n, gain_buffer), *before = ht_read(dx, t, col, n, dx_buffer);
        float *out = ht_target(dx, t, col, dx_buffer);
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            out[i] = before[i] + g[i] * d[i] * scale - in[i] * pull;
        ht_written(dx, t, col, n, out);
    }
}

/* Each thread takes a run of rows and sums its part of dgain; the parts are added in the threads' order. */
ht_status HT_CPU(rms_norm_backward)(ht_backend *be, ht_tensor *dx, ht_tensor *dgain, const ht_tensor *dy,
                                    const ht_tensor *x, const float *rstd, const ht_tensor *gain, ht_error *err) {
    int64_t dim = x->cols, rows = x->rows;
    int threads = rows * dim > 16384 && rows >= be->threads ? be->threads : 1;
    ht_status status = ht_cpu_scratch_all(be, (size_t)dim * sizeof(float), err);
    if (status) return status;
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        float *part = dgain ? ht_cpu_scratch(be, thread) : NULL;
        if (part) memset(part, 0, (size_t)dim * sizeof *part);
        for (int64_t t = rows * thread / threads; t < rows * (thread + 1) / threads; t++)
            backward_row(dx, dy, x, gain, t, rstd[t], part);
    }
    for (int thread = 0; dgain && thread < threads; thread++) {
        const float *part = ht_cpu_scratch(be, thread);
        float *sum = dgain->data;
        for (int64_t i = 0; i < dim; i++)
            sum[i] += part[i];
    }
    return HT_OK;
}
