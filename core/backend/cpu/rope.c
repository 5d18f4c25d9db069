#include "core/backend/cpu/cpu.h"

ht_status ht_cpu_rope(ht_backend *be, ht_tensor *x, int64_t heads, int64_t head_dim, const int32_t *positions,
                      const ht_tensor *table, int direction, ht_error *err) {
    ht_status status = ht_cpu_need_f32("rope", x, err);
    if (status) return status;
    int64_t half = head_dim / 2;
    float sign = direction < 0 ? -1.0f : 1.0f;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * x->cols > 16384)
    for (int64_t t = 0; t < x->rows; t++) {
        const float *restrict cosine = ht_row(table, positions[t]), *restrict sine = cosine + half;
        for (int64_t h = 0; h < heads; h++) {
            float *restrict low = ht_row(x, t) + h * head_dim, *restrict high = low + half;
            for (int64_t i = 0; i < half; i++) {
                float a = low[i], b = high[i], s = sign * sine[i];
                low[i] = a * cosine[i] - b * s;
                high[i] = b * cosine[i] + a * s;
            }
        }
    }
    return HT_OK;
}
