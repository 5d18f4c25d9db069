#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"
#include "core/backend/cpu/simd.h"

/* n elements of both halves of a head, n <= HT_PIECE; sign -1 rotates back. */
HT_INLINE void rotate(const ht_tensor *x, int64_t row, int64_t low_col, int64_t high_col, const float *cosine,
                      const float *sine, float sign, const int64_t n) {
    float low_buffer[HT_PIECE], high_buffer[HT_PIECE];
    const float *a = ht_read(x, row, low_col, n, low_buffer), *b = ht_read(x, row, high_col, n, high_buffer);
    float *low = ht_target(x, row, low_col, low_buffer), *high = ht_target(x, row, high_col, high_buffer);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float first = a[i], second = b[i], s = sign * sine[i];
        low[i] = first * cosine[i] - second * s;
        high[i] = second * cosine[i] + first * s;
    }
    ht_written(x, row, low_col, n, low);
    ht_written(x, row, high_col, n, high);
}

ht_status HT_CPU(rope)(ht_backend *be, ht_tensor *x, int64_t heads, int64_t head_dim, const int32_t *positions,
                       const ht_tensor *table, int direction, ht_error *err) {
    (void)err;
    int64_t half = head_dim / 2, whole = half / HT_LANES * HT_LANES;
    float sign = direction < 0 ? -1.0f : 1.0f;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * x->cols > 16384)
    for (int64_t t = 0; t < x->rows; t++) {
        const float *cosine = ht_row(table, positions[t]), *sine = cosine + half;
        for (int64_t h = 0; h < heads; h++) {
            int64_t at = h * head_dim;
            for (int64_t d = 0; d < whole; d += HT_LANES) /* so many that they stay in registers */
                rotate(x, t, at + d, at + half + d, cosine + d, sine + d, sign, HT_LANES);
            if (whole < half)
                rotate(x, t, at + whole, at + half + whole, cosine + whole, sine + whole, sign, half - whole);
        }
    }
    return HT_OK;
}
