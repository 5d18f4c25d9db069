#include "core/batch/batch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

ht_status ht_batch_init(ht_batch *batch, int64_t max_tokens, int64_t max_sequences, ht_error *err) {
    memset(batch, 0, sizeof *batch);
    ht_status status = HT_OK;
    HT_TRY(ht_calloc(&batch->tokens, (size_t)max_tokens, sizeof(int32_t), err));
    HT_TRY(ht_calloc(&batch->seq_start, (size_t)max_sequences + 1, sizeof(int32_t), err));
    batch->max_tokens = max_tokens;
    batch->max_sequences = max_sequences;
done:
    if (status) ht_batch_free(batch);
    return status;
}

void ht_batch_free(ht_batch *batch) {
    free(batch->tokens);
    free(batch->seq_start);
    memset(batch, 0, sizeof *batch);
}

void ht_batch_clear(ht_batch *batch) {
    batch->n_tokens = 0;
    batch->n_sequences = 0;
}

int ht_batch_add(ht_batch *batch, const int32_t *tokens, int64_t n) {
    if (batch->n_tokens + n > batch->max_tokens || batch->n_sequences == batch->max_sequences) return 0;
    memcpy(batch->tokens + batch->n_tokens, tokens, (size_t)n * sizeof(int32_t));
    batch->n_tokens += n;
    batch->seq_start[++batch->n_sequences] = (int32_t)batch->n_tokens;
    return 1;
}

ht_status ht_example_set_add(ht_example_set *set, int64_t id, const int32_t *tokens, const uint8_t *is_target,
                             int64_t length, ht_error *err) {
    ht_status status = HT_OK;
    int64_t used = set->count ? set->start[set->count] : 0;
    size_t needed = (size_t)(used + length);
    HT_TRY(ht_grow(&set->tokens, &set->token_capacity, needed, sizeof(int32_t), err));
    HT_TRY(ht_grow(&set->is_target, &set->target_capacity, needed, sizeof(uint8_t), err));
    HT_TRY(ht_grow(&set->start, &set->start_capacity, set->count + 2, sizeof(int64_t), err));
    HT_TRY(ht_grow(&set->ids, &set->id_capacity, set->count + 1, sizeof(int64_t), err));
    memcpy(set->tokens + used, tokens, (size_t)length * sizeof(int32_t));
    if (is_target)
        memcpy(set->is_target + used, is_target, (size_t)length);
    else
        memset(set->is_target + used, 1, (size_t)length);
    if (length > 0) set->is_target[used] = 0; /* nothing predicts a first token */
    set->start[set->count] = used;
    set->start[set->count + 1] = used + length;
    set->ids[set->count++] = id;
done:
    return status;
}

ht_example ht_example_set_get(const ht_example_set *set, int64_t index) {
    int64_t start = set->start[index];
    return (ht_example){.id = set->ids[index],
                        .tokens = set->tokens + start,
                        .is_target = set->is_target + start,
                        .length = set->start[index + 1] - start};
}

void ht_example_set_free(ht_example_set *set) {
    free(set->tokens);
    free(set->is_target);
    free(set->start);
    free(set->ids);
    memset(set, 0, sizeof *set);
}

ht_status ht_pack(const ht_example_set *set, const int64_t *order, int64_t n, int64_t seq_len, int64_t **bin_start,
                  int64_t *n_bins, ht_error *err) {
    *bin_start = NULL;
    *n_bins = 0;
    ht_status status = HT_OK;
    int64_t *start = NULL, bins = 0, room = 0;
    HT_TRY(ht_calloc(&start, (size_t)n + 1, sizeof(int64_t), err));
    for (int64_t i = 0; i < n; i++) {
        ht_example example = ht_example_set_get(set, order[i]);
        if (example.length > seq_len) {
            status = ht_fail(err, HT_ERR_DATA, "example %" PRId64 " has %" PRId64 " tokens, above seq_len %" PRId64,
                             example.id, example.length, seq_len);
            goto done;
        }
        if (example.length > room) {
            start[bins++] = i;
            room = seq_len;
        }
        room -= example.length;
    }
    start[bins] = n;
    *bin_start = start;
    *n_bins = bins;
    start = NULL;
done:
    free(start);
    return status;
}
