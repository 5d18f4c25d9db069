#include "core/model/score.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/memory.h"
#include "core/model/activations.h"

/* Runs the collected batch; scores of its sequences go to `scores`. */
static ht_status score_batch(const ht_llama *model, ht_activations *acts, const ht_batch *batch, int32_t *last_rows,
                             float *scores, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t s = 0; s < batch->n_sequences; s++)
        last_rows[s] = batch->seq_start[s + 1] - 1;
    HT_TRY(ht_llama_forward(model, acts, batch, err));
    HT_TRY(ht_scalar_forward(model, acts, last_rows, batch->n_sequences, scores, err));
done:
    return status;
}

ht_status ht_score_sequences(const ht_llama *model, ht_activations *acts, const int32_t *const *tokens,
                             const int64_t *lengths, int64_t count, float *scores, ht_error *err) {
    ht_status status = HT_OK;
    ht_batch batch = {0};
    int32_t *last_rows = NULL;
    int64_t first = 0;
    HT_TRY(ht_batch_init(&batch, acts->max_tokens, acts->max_sequences, err));
    HT_TRY(ht_calloc(&last_rows, (size_t)acts->max_sequences, sizeof(int32_t), err));
    for (int64_t i = 0; i < count; i++) {
        if (lengths[i] < 1 || lengths[i] > acts->max_tokens) {
            status = ht_fail(err, HT_ERR_DATA, "score: sequence %" PRId64 " has %" PRId64 " tokens, not 1 to %" PRId64, i,
                             lengths[i], acts->max_tokens);
            goto done;
        }
        if (ht_batch_add(&batch, tokens[i], lengths[i])) continue;
        HT_TRY(score_batch(model, acts, &batch, last_rows, scores + first, err));
        first = i;
        ht_batch_clear(&batch);
        ht_batch_add(&batch, tokens[i], lengths[i]);
    }
    if (batch.n_sequences) HT_TRY(score_batch(model, acts, &batch, last_rows, scores + first, err));
done:
    free(last_rows);
    ht_batch_free(&batch);
    return status;
}

double ht_sigmoid(double x) {
    return x >= 0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}

double ht_combined_reward(double helpful, double safe, int is_safety_prompt) {
    if (!isfinite(helpful) || !isfinite(safe)) return NAN;
    return is_safety_prompt || ht_sigmoid(safe) < HT_SAFETY_THRESHOLD ? safe : helpful;
}

void ht_whiten(double *x, int64_t n) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; i++)
        mean += x[i];
    mean /= (double)(n > 0 ? n : 1);
    for (int64_t i = 0; i < n; i++)
        variance += (x[i] - mean) * (x[i] - mean);
    variance /= (double)(n > 0 ? n : 1);
    double scale = 1.0 / sqrt(variance + 1e-8);
    for (int64_t i = 0; i < n; i++)
        x[i] = (x[i] - mean) * scale;
}
