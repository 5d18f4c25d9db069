#include "core/backend/cpu/cpu.h"

ht_status ht_cpu_embedding_forward(ht_backend *be, ht_tensor *y, const ht_tensor *table, const int32_t *ids,
                                   ht_error *err) {
    return ht_cpu_gather_rows(be, y, table, ids, err);
}

/* Each thread owns a slice of the columns and walks all tokens in order: no atomics, and the same sums for any number
 * of threads. */
ht_status ht_cpu_embedding_backward(ht_backend *be, ht_tensor *dtable, const ht_tensor *dy, const int32_t *ids,
                                    ht_error *err) {
    ht_status status = ht_cpu_need_f32("embedding_backward", dy, err);
    if (status) return status;
    int64_t slices = be->threads, width = (dy->cols + slices - 1) / slices;
    width = (width + 15) / 16 * 16;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (dy->rows * dy->cols > 65536)
    for (int64_t slice = 0; slice < slices; slice++) {
        int64_t first = slice * width, end = first + width < dy->cols ? first + width : dy->cols;
        for (int64_t t = 0; t < dy->rows; t++) {
            float *to = ht_row(dtable, ids[t]);
            const float *from = ht_row(dy, t);
            for (int64_t i = first; i < end; i++)
                to[i] += from[i];
        }
    }
    return HT_OK;
}
