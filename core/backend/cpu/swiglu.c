#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/exp.h"
#include "core/backend/cpu/rows.h"

ht_status HT_CPU(swiglu_forward)(ht_backend *be, ht_tensor *y, const ht_tensor *gu, ht_error *err) {
    (void)err;
    int64_t ffn = y->cols;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (y->rows * ffn > 16384)
    for (int64_t t = 0; t < y->rows; t++) {
        float g_buffer[HT_PIECE], u_buffer[HT_PIECE], y_buffer[HT_PIECE];
        for (int64_t col = 0, n; col < ffn; col += n) {
            n = ht_piece(ffn, col);
            const float *g = ht_read(gu, t, col, n, g_buffer), *u = ht_read(gu, t, ffn + col, n, u_buffer);
            float *out = ht_target(y, t, col, y_buffer);
            int64_t i = 0;
            for (; i + HT_LANES <= n; i += HT_LANES) {
                ht_lanes gate = *(const ht_lanes *)(g + i);
                *(ht_lanes *)(out + i) = gate / (1.0f + ht_exp_lanes(-gate)) * *(const ht_lanes *)(u + i);
            }
            for (; i < n; i++)
                out[i] = g[i] / (1.0f + ht_expf(-g[i])) * u[i];
            ht_written(y, t, col, n, out);
        }
    }
    return HT_OK;
}

/* silu'(g) = s (1 + g (1 - s)), s = sigmoid(g). dgu may alias gu: both halves are read before they are written. */
ht_status HT_CPU(swiglu_backward)(ht_backend *be, ht_tensor *dgu, const ht_tensor *dy, const ht_tensor *gu,
                                  ht_error *err) {
    (void)err;
    int64_t ffn = dy->cols;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (dy->rows * ffn > 16384)
    for (int64_t t = 0; t < dy->rows; t++) {
        float g_buffer[HT_PIECE], u_buffer[HT_PIECE], d_buffer[HT_PIECE];
        for (int64_t col = 0, n; col < ffn; col += n) {
            n = ht_piece(ffn, col);
            const float *g = ht_read(gu, t, col, n, g_buffer), *u = ht_read(gu, t, ffn + col, n, u_buffer);
            const float *d = ht_read(dy, t, col, n, d_buffer);
            float *dg = ht_target(dgu, t, col, g_buffer), *du = ht_target(dgu, t, ffn + col, u_buffer);
#pragma omp simd
            for (int64_t i = 0; i < n; i++) {
                float gate = g[i], up = u[i], down = d[i], s = 1.0f / (1.0f + ht_expf(-gate));
                dg[i] = down * up * s * (1.0f + gate * (1.0f - s));
                du[i] = down * gate * s;
            }
            ht_written(dgu, t, col, n, dg);
            ht_written(dgu, t, ffn + col, n, du);
        }
    }
    return HT_OK;
}
