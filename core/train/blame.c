/*
 * What to say of a step whose loss or gradient is not finite: which rows it was made of, which weights are
 * bad.
 */
#include "core/train/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/log.h"
#include "core/base/memory.h"

#define CHUNK ((size_t)1 << 18) /* elements looked at at once */

void ht_train_say_rows(const ht_train_task *task, int64_t step) {
    char *text = NULL;
    size_t size = 0;
    int64_t count = 0, id;
    FILE *list = task->row ? open_memstream(&text, &size) : NULL;
    if (!list) return;
    while ((id = task->row(task->self, step, count)) >= 0)
        fprintf(list, "%s%" PRId64, count++ ? ", " : "", id);
    if (fclose(list) == 0)
        ht_warn("step %" PRId64 " is made of %" PRId64 " rows; %s: %s", step + 1, count, task->rows, text);
    free(text);
}

static int all_finite(const void *values, ht_dtype dtype, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float x =
            dtype == HT_F32 ? ((const float *)values)[i] : ht_bf16_to_f32(((const uint16_t *)values)[i]);
        if (!isfinite(x)) return 0;
    }
    return 1;
}

ht_status ht_train_bad_weight(const ht_llama *model, const char **name, ht_error *err) {
    ht_status status = HT_OK;
    void *values = NULL;
    size_t element = ht_dtype_size(model->weights.dtype);
    *name = NULL;
    HT_TRY(ht_calloc(&values, CHUNK, element, err));
    for (int64_t p = 0; p < model->layout.count && !*name; p++) {
        ht_tensor tensor = ht_params_tensor(&model->weights, p);
        size_t total = (size_t)(tensor.rows * tensor.cols);
        for (size_t first = 0; first < total && !*name; first += CHUNK) {
            size_t count = total - first < CHUNK ? total - first : CHUNK;
            HT_TRY(
                ht_download(model->be, values, (char *)tensor.data + first * element, count * element, err));
            if (!all_finite(values, tensor.dtype, count)) *name = model->layout.params[p].name;
        }
    }
done:
    free(values);
    return status;
}
