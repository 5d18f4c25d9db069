/*
 * The KV cache, and new tokens over it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/model/activations.h"

ht_status ht_kv_cache_init(ht_kv_cache *cache, const ht_llama *model, ht_arena *arena, int64_t blocks,
                           int64_t block_size, int64_t max_sequences, ht_error *err) {
    ht_status status = HT_OK;
    int64_t rows = blocks * block_size, width = model->config.n_kv_heads * model->config.head_dim;
    ht_dtype dtype = model->weights.dtype;
    size_t bytes = (size_t)(rows * width) * ht_dtype_size(dtype);
    *cache = (ht_kv_cache){.blocks = blocks, .block_size = block_size, .max_sequences = max_sequences};
    cache->max_blocks = (model->config.max_positions + block_size - 1) / block_size;
    HT_TRY(ht_arena_take(arena, HT_MEMORY_KV_CACHE, (size_t)(max_sequences * cache->max_blocks) * sizeof(int32_t),
                         &cache->tables, err));
    HT_TRY(ht_calloc(&cache->layers, (size_t)model->config.n_layers, sizeof *cache->layers, err));
    for (int64_t layer = 0; layer < model->config.n_layers; layer++) {
        void *keys = NULL, *values = NULL;
        HT_TRY(ht_arena_take(arena, HT_MEMORY_KV_CACHE, bytes, &keys, err));
        HT_TRY(ht_arena_take(arena, HT_MEMORY_KV_CACHE, bytes, &values, err));
        cache->layers[layer] = (ht_kv_pages){.keys = ht_tensor_of(keys, dtype, rows, width),
                                             .values = ht_tensor_of(values, dtype, rows, width),
                                             .block_size = block_size};
    }
done:
    if (status) ht_kv_cache_free(cache);
    return status;
}

void ht_kv_cache_free(ht_kv_cache *cache) {
    free(cache->layers);
    memset(cache, 0, sizeof *cache);
}

/* Every block that the batch will touch exists, and no position is beyond the model's. */
static ht_status check_batch(const ht_llama *model, const ht_kv_cache *cache, const ht_decode_batch *b,
                             ht_error *err) {
    if (b->logit_count > HT_LOGIT_ROWS)
        return ht_fail(err, HT_ERR_USAGE, "decode: %" PRId64 " rows of logits are above %d", b->logit_count,
                       HT_LOGIT_ROWS);
    if (b->sequences > cache->max_sequences)
        return ht_fail(err, HT_ERR_USAGE, "decode: %" PRId64 " sequences are above the cache's %" PRId64, b->sequences,
                       cache->max_sequences);
    for (int64_t s = 0; s < b->sequences; s++) {
        int64_t end = b->past[s] + b->seq_start[s + 1] - b->seq_start[s];
        int64_t blocks = (end + cache->block_size - 1) / cache->block_size;
        if (end > model->config.max_positions)
            return ht_fail(err, HT_ERR_USAGE,
                           "decode: sequence %" PRId64 " ends at position %" PRId64 ", above the model's %" PRId64, s, end,
                           model->config.max_positions);
        for (int64_t i = 0; i < blocks; i++) {
            int32_t block = b->block_tables[s * cache->max_blocks + i];
            if (block < 0 || block >= cache->blocks)
                return ht_fail(err, HT_ERR_USAGE, "decode: sequence %" PRId64 " has block %" PRId32 " of %" PRId64, s,
                               block, cache->blocks);
        }
    }
    return HT_OK;
}

/* A pass over what has been uploaded. */
typedef struct pass {
    const ht_llama *model;
    ht_activations *acts;
    ht_decode_context context;
} pass;

static ht_status run_pass(void *context, ht_error *err) {
    ht_status status = HT_OK;
    const pass *p = context;
    ht_activations *a = p->acts;
    ht_backend *be = p->model->be;
    ht_tensor w = ht_llama_output(p->model, &p->model->weights);
    HT_TRY(ht_llama_run(p->model, a, &p->context, err));
    HT_TRY(ht_gather_rows(be, &a->head_rows, &a->hidden, a->rows, err));
    HT_TRY(ht_matmul_rows(be, &a->logits, &a->head_rows, &w, NULL, err));
done:
    return status;
}

/*
 * Of a generation, most passes have one row a sequence and want the logits of each: while no sequence comes or goes, they
 * repeat. The first of them runs as it is, so that a pass which does not come again costs nothing to record.
 */
static ht_status run_or_replay(pass *p, const ht_decode_batch *batch, ht_error *err) {
    ht_activations *a = p->acts;
    const ht_decode_key key = {p->model->weights.units[0], p->context.cache->tables, batch->sequences,
                               ht_cached_most_keys(&p->context.shape)};
    if (a->tokens_now != key.sequences || batch->logit_count != key.sequences) return run_pass(p, err);
    if (memcmp(&a->steady, &key, sizeof key) == 0) return ht_replay(a->be, &a->recording, run_pass, p, err);
    ht_recording_free(a->be, a->recording);
    a->recording = NULL;
    ht_status status = run_pass(p, err);
    a->steady = status == HT_OK ? key : (ht_decode_key){0};
    return status;
}

ht_status ht_llama_decode(const ht_llama *model, ht_activations *a, ht_kv_cache *cache, const ht_decode_batch *batch,
                          ht_tensor *logits, ht_error *err) {
    ht_status status = HT_OK;
    if (model->config.head != HT_HEAD_LM) return ht_fail(err, HT_ERR_USAGE, "decode: the model has a scalar head");
    HT_TRY(check_batch(model, cache, batch, err));
    HT_TRY(ht_activations_load(a, model, batch->tokens, batch->seq_start, batch->past, batch->sequences, err));
    HT_TRY(ht_upload(model->be, cache->tables, batch->block_tables,
                     (size_t)(batch->sequences * cache->max_blocks) * sizeof(int32_t), err));
    HT_TRY(ht_upload(model->be, a->rows, batch->logit_rows, (size_t)batch->logit_count * sizeof(int32_t), err));
    a->head_rows.rows = a->logits.rows = batch->logit_count;
    pass p = {.model = model,
              .acts = a,
              .context = {.cache = cache,
                          .shape = {.heads = model->config.n_heads,
                                    .kv_heads = model->config.n_kv_heads,
                                    .head_dim = model->config.head_dim,
                                    .sequences = batch->sequences,
                                    .seq_start = a->seq_start,
                                    .past = a->past,
                                    .block_tables = cache->tables,
                                    .max_blocks = cache->max_blocks,
                                    .seq_start_host = a->seq_start_host,
                                    .past_host = batch->past,
                                    .block_tables_host = batch->block_tables}}};
    HT_TRY(run_or_replay(&p, batch, err));
    *logits = a->logits;
done:
    return status;
}
