#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"

ht_status HT_CPU(rope)(ht_backend *be, ht_tensor *x, int64_t heads, int64_t head_dim, const int32_t *positions,
                       const ht_tensor *table, int direction, ht_error *err) {
    (void)err;
    int64_t half = head_dim / 2;
    float sign = direction < 0 ? -1.0f : 1.0f;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * x->cols > 16384)
    for (int64_t t = 0; t < x->rows; t++) {
        float low_buffer[HT_PIECE], high_buffer[HT_PIECE];
        for (int64_t col = 0, n; col < half; col += n) {
            n = ht_piece(half, col);
            const float *cosine = ht_row(table, positions[t]) + col, *sine = cosine + half;
            for (int64_t h = 0; h < heads; h++) {
                int64_t at = h * head_dim + col;
                const float *a = ht_read(x, t, at, n, low_buffer), *b = ht_read(x, t, at + half, n, high_buffer);
                float *low = ht_target(x, t, at, low_buffer), *high = ht_target(x, t, at + half, high_buffer);
#pragma omp simd
                for (int64_t i = 0; i < n; i++) {
                    float first = a[i], second = b[i], s = sign * sine[i];
                    low[i] = first * cosine[i] - second * s;
                    high[i] = second * cosine[i] + first * s;
                }
                ht_written(x, t, at, n, low);
                ht_written(x, t, at + half, n, high);
            }
        }
    }
    return HT_OK;
}
