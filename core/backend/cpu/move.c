/*
 * Rows from one place to another: copy, gather, scatter.
 */
#include <string.h>

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"

static void copy_row(const ht_tensor *y, int64_t to, const ht_tensor *x, int64_t from) {
    if (x->dtype == y->dtype)
        memcpy(ht_element(y, to, 0), ht_element(x, from, 0), (size_t)x->cols * ht_dtype_size(x->dtype));
    else if (y->dtype == HT_F32)
        ht_from_bf16(ht_element(y, to, 0), ht_element(x, from, 0), x->cols);
    else
        ht_to_bf16(ht_element(y, to, 0), ht_element(x, from, 0), x->cols);
}

ht_status HT_CPU(copy)(ht_backend *be, ht_tensor *y, const ht_tensor *x, ht_error *err) {
    (void)err;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * x->cols > 65536)
    for (int64_t r = 0; r < x->rows; r++)
        copy_row(y, r, x, r);
    return HT_OK;
}

ht_status HT_CPU(gather_rows)(ht_backend *be, ht_tensor *y, const ht_tensor *x, const int32_t *rows, ht_error *err) {
    (void)err;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (y->rows * y->cols > 65536)
    for (int64_t r = 0; r < y->rows; r++)
        copy_row(y, r, x, rows[r]);
    return HT_OK;
}

ht_status HT_CPU(scatter_rows)(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const int32_t *rows,
                               ht_error *err) {
    (void)err;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (dy->rows * dy->cols > 65536)
    for (int64_t r = 0; r < dy->rows; r++) {
        float dx_buffer[HT_PIECE], dy_buffer[HT_PIECE];
        for (int64_t col = 0, n; col < dy->cols; col += n) {
            n = ht_piece(dy->cols, col);
            const float *from = ht_read(dy, r, col, n, dy_buffer), *before = ht_read(dx, rows[r], col, n, dx_buffer);
            float *to = ht_target(dx, rows[r], col, dx_buffer);
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                to[i] = before[i] + from[i];
            ht_written(dx, rows[r], col, n, to);
        }
    }
    return HT_OK;
}
