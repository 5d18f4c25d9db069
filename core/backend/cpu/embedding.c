#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"

ht_status HT_CPU(embedding_forward)(ht_backend *be, ht_tensor *y, const ht_tensor *table, const int32_t *ids,
                                    ht_error *err) {
    return HT_CPU(gather_rows)(be, y, table, ids, err);
}

/* Each thread owns a slice of the columns and walks all tokens in order: no atomics, and the same sums for any number
 * of threads. */
ht_status HT_CPU(embedding_backward)(ht_backend *be, ht_tensor *dtable, const ht_tensor *dy, const int32_t *ids,
                                     ht_error *err) {
    (void)err;
    int64_t slices = be->threads, width = (dy->cols + slices - 1) / slices;
    width = (width + 15) / 16 * 16;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (dy->rows * dy->cols > 65536)
    for (int64_t slice = 0; slice < slices; slice++) {
        float buffer[HT_PIECE];
        int64_t first = slice * width, end = first + width < dy->cols ? first + width : dy->cols;
        for (int64_t t = 0; t < dy->rows; t++) {
            for (int64_t col = first, n; col < end; col += n) {
                n = ht_piece(end, col);
                const float *from = ht_read(dy, t, col, n, buffer);
                float *to = ht_row(dtable, ids[t]) + col;
                for (int64_t i = 0; i < n; i++)
                    to[i] += from[i];
            }
        }
    }
    return HT_OK;
}
