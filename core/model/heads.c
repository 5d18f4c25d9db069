/*
 * The heads that read hidden states: token losses in chunks of rows, and the scalar head.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/model/activations.h"

ht_tensor ht_llama_output(const ht_llama *model, const ht_params *params) {
    int64_t index = ht_layout_output(&model->layout);
    return ht_params_tensor(params, index >= 0 ? index : ht_layout_embedding(&model->layout));
}

/* Rows `rows` of the hidden states -> a->head_rows. */
static ht_status gather(const ht_llama *model, ht_activations *a, const int32_t *rows, int64_t count, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t i = 0; i < count; i++)
        if (rows[i] < 0 || rows[i] >= a->tokens_now)
            return ht_fail(err, HT_ERR_USAGE, "head: row %" PRId32 " is not in the batch's %" PRId64, rows[i],
                           a->tokens_now);
    HT_TRY(ht_upload(model->be, a->rows, rows, (size_t)count * sizeof(int32_t), err));
    a->head_rows.rows = a->logits.rows = count;
    if (a->dhead_rows.data) a->dhead_rows.rows = a->dlogits.rows = count;
    HT_TRY(ht_gather_rows(model->be, &a->head_rows, &a->hidden, a->rows, err));
done:
    return status;
}

/* From a->dlogits: the head's gradient, and the hidden states'. */
static ht_status head_backward(const ht_llama *model, ht_activations *a, ht_params *grads, ht_error *err) {
    ht_status status = HT_OK;
    ht_tensor w = ht_llama_output(model, &model->weights), dw = ht_llama_output(model, grads);
    HT_TRY(ht_activations_need_gradient(a, model, err));
    HT_TRY(ht_matmul_backward_weight(model->be, &dw, &a->dlogits, &a->head_rows, err));
    HT_TRY(ht_matmul_backward_data(model->be, &a->dhead_rows, &a->dlogits, &w, err));
    HT_TRY(ht_scatter_rows(model->be, &a->dhidden, &a->dhead_rows, a->rows, err));
done:
    return status;
}

/* --- token losses ----------------------------------------------------------------------------------------- */

/* Adds up one chunk's losses from log-probabilities that are on the host. */
static double chunk_loss(const ht_token_loss *loss, const float *logp, int64_t first, int64_t count) {
    double total = 0;
    for (int64_t i = 0; i < count; i++) {
        double weight = loss->weight[first + i], value = logp[i];
        if (loss->kind == HT_TOKEN_LOSS_CLIP) {
            double ratio = exp((double)logp[i] - (double)loss->old_logp[first + i]);
            double clipped = fmin(fmax(ratio, 1 - (double)loss->clip), 1 + (double)loss->clip);
            double advantage = loss->advantage[first + i];
            value = fmin(ratio * advantage, clipped * advantage);
        }
        total -= weight * value;
    }
    return total;
}

static float *row_floats(const ht_activations *a, int which) {
    return a->row_floats + which * HT_LOGIT_ROWS;
}

/* Uploads one of the loss's host arrays; *view becomes the backend's copy. */
static ht_status upload_row_floats(const ht_llama *model, ht_activations *a, int which, const float **view,
                                   int64_t first, int64_t count, ht_error *err) {
    if (!*view) return HT_OK;
    float *to = row_floats(a, which);
    ht_status status = ht_upload(model->be, to, *view + first, (size_t)count * sizeof(float), err);
    *view = to;
    return status;
}

static int has_loss(const ht_lm_rows *rows) {
    return rows->loss && rows->loss->kind != HT_TOKEN_LOSS_NONE;
}

static ht_status lm_chunk(const ht_llama *model, ht_activations *a, const ht_lm_rows *rows, int64_t first,
                          int64_t count, ht_params *grads, ht_error *err) {
    ht_status status = HT_OK;
    int with_loss = has_loss(rows);
    ht_token_loss loss = with_loss ? *rows->loss : (ht_token_loss){.kind = HT_TOKEN_LOSS_NONE};
    ht_tensor w = ht_llama_output(model, &model->weights);
    float *host = a->row_floats_host;
    HT_TRY(gather(model, a, rows->rows + first, count, err));
    HT_TRY(ht_matmul_forward(model->be, &a->logits, &a->head_rows, &w, NULL, err));
    HT_TRY(ht_upload(model->be, a->targets, rows->targets + first, (size_t)count * sizeof(int32_t), err));
    HT_TRY(upload_row_floats(model, a, HT_ROW_WEIGHT, &loss.weight, first, count, err));
    HT_TRY(upload_row_floats(model, a, HT_ROW_OLD_LOGP, &loss.old_logp, first, count, err));
    HT_TRY(upload_row_floats(model, a, HT_ROW_ADVANTAGE, &loss.advantage, first, count, err));
    HT_TRY(ht_token_loss_forward(model->be, &a->logits, with_loss ? &a->dlogits : NULL, a->targets,
                                 row_floats(a, HT_ROW_LOGP),
                                 rows->entropy ? row_floats(a, HT_ROW_ENTROPY) : NULL, &loss, err));
    HT_TRY(ht_download(model->be, host, row_floats(a, HT_ROW_LOGP), (size_t)count * sizeof(float), err));
    if (rows->logp) memcpy(rows->logp + first, host, (size_t)count * sizeof(float));
    if (rows->entropy)
        HT_TRY(ht_download(model->be, rows->entropy + first, row_floats(a, HT_ROW_ENTROPY),
                           (size_t)count * sizeof(float), err));
    if (rows->total && with_loss) *rows->total += chunk_loss(rows->loss, host, first, count);
    if (with_loss && grads) HT_TRY(head_backward(model, a, grads, err));
done:
    return status;
}

ht_status ht_lm_loss(const ht_llama *model, ht_activations *a, const ht_lm_rows *rows, ht_params *grads,
                     ht_error *err) {
    ht_status status = HT_OK;
    if (model->config.head != HT_HEAD_LM) return ht_fail(err, HT_ERR_USAGE, "lm loss: the model has a scalar head");
    for (int64_t i = 0; i < rows->count; i++)
        if (rows->targets[i] < 0 || rows->targets[i] >= model->config.vocab_size)
            return ht_fail(err, HT_ERR_DATA, "lm loss: target %" PRId32 " is not in 0 to %" PRId64, rows->targets[i],
                           model->config.vocab_size - 1);
    if (has_loss(rows)) HT_TRY(ht_activations_check_keep(a, err));
    if (rows->total) *rows->total = 0;
    for (int64_t first = 0; first < rows->count; first += HT_LOGIT_ROWS) {
        int64_t count = rows->count - first < HT_LOGIT_ROWS ? rows->count - first : HT_LOGIT_ROWS;
        HT_TRY(lm_chunk(model, a, rows, first, count, grads, err));
    }
done:
    return status;
}

/* --- scalar head ------------------------------------------------------------------------------------------ */

static ht_status need_scalar_head(const ht_llama *model, ht_error *err) {
    if (model->config.head == HT_HEAD_SCALAR) return HT_OK;
    return ht_fail(err, HT_ERR_USAGE, "scalar head: the model has a language-model head");
}

ht_status ht_scalar_forward(const ht_llama *model, ht_activations *a, const int32_t *rows, int64_t count,
                            float *values, ht_error *err) {
    ht_status status = HT_OK;
    ht_tensor w = ht_llama_output(model, &model->weights);
    HT_TRY(need_scalar_head(model, err));
    for (int64_t first = 0; first < count; first += HT_LOGIT_ROWS) {
        int64_t n = count - first < HT_LOGIT_ROWS ? count - first : HT_LOGIT_ROWS;
        HT_TRY(gather(model, a, rows + first, n, err));
        HT_TRY(ht_matmul_forward(model->be, &a->logits, &a->head_rows, &w, NULL, err));
        HT_TRY(ht_download(model->be, values + first, a->logits.data, (size_t)n * sizeof(float), err));
    }
done:
    return status;
}

ht_status ht_scalar_backward(const ht_llama *model, ht_activations *a, const int32_t *rows, int64_t count,
                             const float *dvalues, ht_params *grads, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(need_scalar_head(model, err));
    HT_TRY(ht_activations_check_keep(a, err));
    for (int64_t first = 0; first < count; first += HT_LOGIT_ROWS) {
        int64_t n = count - first < HT_LOGIT_ROWS ? count - first : HT_LOGIT_ROWS;
        HT_TRY(gather(model, a, rows + first, n, err));
        HT_TRY(ht_upload(model->be, a->logits.data, dvalues + first, (size_t)n * sizeof(float), err));
        if (a->dlogits.data != a->logits.data) HT_TRY(ht_copy(model->be, &a->dlogits, &a->logits, err));
        HT_TRY(head_backward(model, a, grads, err));
    }
done:
    return status;
}
