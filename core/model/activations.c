#include "core/model/activations.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

/* *t = [rows, cols] of `dtype` from the arena. */
static ht_status take(ht_tensor *t, ht_arena *arena, ht_memory_category category, ht_dtype dtype, int64_t rows,
                      int64_t cols, ht_error *err) {
    void *data = NULL;
    ht_status status = ht_arena_take(arena, category, (size_t)(rows * cols) * ht_dtype_size(dtype), &data, err);
    *t = ht_tensor_of(data, dtype, rows, cols);
    return status;
}

static ht_status take_layer(ht_layer_activations *l, const ht_llama_config *c, ht_dtype dtype, ht_arena *arena,
                            int64_t tokens, ht_error *err) {
    ht_status status = HT_OK;
    ht_memory_category category = HT_MEMORY_ACTIVATIONS;
    size_t row_bytes = (size_t)tokens * sizeof(float);
    HT_TRY(take(&l->qkv, arena, category, dtype, tokens, (c->n_heads + 2 * c->n_kv_heads) * c->head_dim, err));
    HT_TRY(take(&l->attention, arena, category, dtype, tokens, c->n_heads * c->head_dim, err));
    HT_TRY(take(&l->middle, arena, category, dtype, tokens, c->dim, err));
    HT_TRY(take(&l->gate_up, arena, category, dtype, tokens, 2 * c->ffn_dim, err));
    HT_TRY(ht_arena_take(arena, category, row_bytes * (size_t)c->n_heads, &l->lse, err));
    HT_TRY(ht_arena_take(arena, category, row_bytes, &l->rstd_input, err));
    HT_TRY(ht_arena_take(arena, category, row_bytes, &l->rstd_post, err));
done:
    return status;
}

/* Layers' inputs: one each when they are kept, else two that take turns. */
static ht_status take_layers(ht_activations *a, const ht_llama_config *c, ht_arena *arena, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_calloc(&a->layers, (size_t)c->n_layers, sizeof *a->layers, err));
    HT_TRY(ht_calloc(&a->inputs, (size_t)c->n_layers + 1, sizeof *a->inputs, err));
    for (int64_t i = 0; i <= c->n_layers; i++) {
        if (a->keep == HT_KEEP_NOTHING && i >= 2)
            a->inputs[i] = a->inputs[i % 2];
        else
            HT_TRY(take(&a->inputs[i], arena, HT_MEMORY_ACTIVATIONS, a->dtype, a->max_tokens, c->dim, err));
    }
    for (int64_t i = 0; i < c->n_layers; i++) {
        if (a->keep == HT_KEEP_ALL || i == 0)
            HT_TRY(take_layer(&a->layers[i], c, a->dtype, arena, a->max_tokens, err));
        else
            a->layers[i] = a->layers[0];
        a->layers[i].x = a->inputs[i];
    }
done:
    return status;
}

static ht_status take_gradients(ht_activations *a, const ht_llama_config *c, ht_arena *arena, ht_error *err) {
    ht_status status = HT_OK;
    int64_t t = a->max_tokens, wide = c->n_heads * c->head_dim;
    ht_memory_category category = HT_MEMORY_ACTIVATIONS;
    HT_TRY(take(&a->dhidden, arena, category, a->dtype, t, c->dim, err));
    HT_TRY(take(&a->dattention, arena, category, a->dtype, t, wide, err));
    HT_TRY(take(&a->dqkv, arena, category, a->dtype, t, wide + 2 * c->n_kv_heads * c->head_dim, err));
    HT_TRY(take(&a->dhead_rows, arena, HT_MEMORY_WORKSPACE, a->dtype, HT_LOGIT_ROWS, c->dim, err));
    a->dlogits = a->logits;
    if (a->dtype != HT_F32)
        HT_TRY(take(&a->dlogits, arena, HT_MEMORY_WORKSPACE, a->dtype, HT_LOGIT_ROWS, a->logits.cols, err));
    if (a->keep == HT_KEEP_RECOMPUTE) HT_TRY(take(&a->discard, arena, category, a->dtype, t, c->dim, err));
done:
    return status;
}

static ht_status take_batch(ht_activations *a, const ht_llama_config *c, ht_arena *arena, ht_error *err) {
    ht_status status = HT_OK;
    size_t ids = (size_t)a->max_tokens * sizeof(int32_t), starts = (size_t)(a->max_sequences + 1) * sizeof(int32_t);
    int64_t t = a->max_tokens;
    ht_memory_category category = HT_MEMORY_WORKSPACE;
    HT_TRY(ht_arena_take(arena, category, ids, &a->tokens, err));
    HT_TRY(ht_arena_take(arena, category, ids, &a->positions, err));
    HT_TRY(ht_arena_take(arena, category, ids, &a->rows, err));
    HT_TRY(ht_arena_take(arena, category, starts, &a->seq_start, err));
    HT_TRY(ht_arena_take(arena, category, starts, &a->past, err));
    HT_TRY(ht_arena_take(arena, category, HT_LOGIT_ROWS * sizeof(int32_t), &a->targets, err));
    HT_TRY(ht_arena_take(arena, category, HT_ROW_FLOATS * HT_LOGIT_ROWS * sizeof(float), &a->row_floats, err));
    HT_TRY(ht_calloc(&a->positions_host, (size_t)t, sizeof(int32_t), err));
    HT_TRY(ht_calloc(&a->seq_start_host, (size_t)a->max_sequences + 1, sizeof(int32_t), err));
    HT_TRY(ht_calloc(&a->row_floats_host, HT_ROW_FLOATS * HT_LOGIT_ROWS, sizeof(float), err));
    HT_TRY(take(&a->normed, arena, category, a->dtype, t, c->dim, err));
    HT_TRY(take(&a->ffn, arena, category, a->dtype, t, c->ffn_dim, err));
    HT_TRY(take(&a->hidden, arena, category, a->dtype, t, c->dim, err));
    HT_TRY(ht_arena_take(arena, category, (size_t)t * sizeof(float), &a->rstd_final, err));
    HT_TRY(take(&a->head_rows, arena, category, a->dtype, HT_LOGIT_ROWS, c->dim, err));
    HT_TRY(take(&a->logits, arena, category, HT_F32, HT_LOGIT_ROWS, c->head == HT_HEAD_LM ? c->vocab_size : 1, err));
done:
    return status;
}

ht_status ht_activations_init(ht_activations **acts, const ht_llama *model, ht_arena *arena, ht_keep keep,
                              int64_t max_tokens, int64_t max_sequences, ht_error *err) {
    ht_status status = HT_OK;
    const ht_llama_config *c = &model->config;
    ht_activations *a = NULL;
    *acts = NULL;
    HT_TRY(ht_calloc(&a, 1, sizeof *a, err));
    a->be = model->be;
    a->keep = keep;
    a->max_tokens = max_tokens;
    a->max_sequences = max_sequences;
    a->n_layers = c->n_layers;
    a->dtype = model->weights.dtype;
    HT_TRY(take_layers(a, c, arena, err));
    HT_TRY(take_batch(a, c, arena, err));
    if (keep != HT_KEEP_NOTHING) HT_TRY(take_gradients(a, c, arena, err));
    *acts = a;
    a = NULL;
done:
    ht_activations_free(a);
    return status;
}

void ht_activations_free(ht_activations *acts) {
    if (!acts) return;
    ht_recording_free(acts->be, acts->recording);
    free(acts->layers);
    free(acts->inputs);
    free(acts->positions_host);
    free(acts->seq_start_host);
    free(acts->row_floats_host);
    free(acts);
}

ht_layer_activations ht_activations_layer(const ht_activations *a, int64_t layer) {
    ht_layer_activations l = a->layers[layer];
    l.x.rows = l.qkv.rows = l.attention.rows = l.middle.rows = l.gate_up.rows = a->tokens_now;
    return l;
}

ht_tensor ht_activations_layer_input(const ht_activations *a, int64_t layer) {
    return ht_tensor_rows(a->inputs[layer], 0, a->tokens_now);
}

ht_tensor ht_activations_hidden(const ht_activations *acts) {
    return acts->hidden;
}

ht_status ht_activations_load(ht_activations *a, const ht_llama *model, const int32_t *tokens,
                              const int32_t *seq_start, const int32_t *past, int64_t sequences, ht_error *err) {
    ht_status status = HT_OK;
    int64_t n = seq_start[sequences];
    if (n > a->max_tokens || sequences > a->max_sequences)
        return ht_fail(err, HT_ERR_USAGE,
                       "a batch of %" PRId64 " tokens in %" PRId64 " sequences is above the planned %" PRId64 " in %" PRId64,
                       n, sequences, a->max_tokens, a->max_sequences);
    for (int64_t t = 0; t < n; t++)
        if (tokens[t] < 0 || tokens[t] >= model->config.vocab_size)
            return ht_fail(err, HT_ERR_DATA, "token id %" PRId32 " at row %" PRId64 " is not in 0 to %" PRId64, tokens[t], t,
                           model->config.vocab_size - 1);
    memcpy(a->seq_start_host, seq_start, (size_t)(sequences + 1) * sizeof(int32_t));
    HT_TRY(ht_upload(model->be, a->tokens, tokens, (size_t)n * sizeof(int32_t), err));
    for (int64_t s = 0; s < sequences; s++)
        for (int64_t t = seq_start[s]; t < seq_start[s + 1]; t++)
            a->positions_host[t] = (int32_t)((past ? past[s] : 0) + t - seq_start[s]);
    HT_TRY(ht_upload(model->be, a->positions, a->positions_host, (size_t)n * sizeof(int32_t), err));
    if (past) HT_TRY(ht_upload(model->be, a->past, past, (size_t)sequences * sizeof(int32_t), err));
    HT_TRY(ht_upload(model->be, a->seq_start, seq_start, (size_t)(sequences + 1) * sizeof(int32_t), err));
    a->tokens_now = n;
    a->sequences = sequences;
    a->has_gradient = 0;
    a->normed.rows = a->ffn.rows = a->hidden.rows = a->discard.rows = n;
    a->dhidden.rows = a->dattention.rows = a->dqkv.rows = n;
done:
    return status;
}

ht_status ht_activations_check_keep(const ht_activations *a, ht_error *err) {
    if (a->keep != HT_KEEP_NOTHING) return HT_OK;
    return ht_fail(err, HT_ERR_USAGE, "these activations keep nothing for a gradient");
}

ht_status ht_activations_need_gradient(ht_activations *a, const ht_llama *model, ht_error *err) {
    if (a->has_gradient) return HT_OK;
    a->has_gradient = 1;
    size_t bytes = (size_t)(a->dhidden.rows * a->dhidden.stride) * ht_dtype_size(a->dhidden.dtype);
    return ht_zero(model->be, a->dhidden.data, bytes, err);
}
