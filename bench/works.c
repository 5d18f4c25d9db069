#include "bench/works.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"

enum { SEQUENCES = 8, LENGTH = 512, PROMPT = 32, NEW = 128 };

static const struct {
    const char *name;
    int64_t dim, layers, heads, hidden, vocab;
} sizes[] = {
    {"tiny", 128, 4, 4, 352, 1024},
    {"small", 288, 6, 6, 768, 32000},
    {"medium", 768, 12, 12, 2048, 32000},
};

static ht_status config_of(const char *size, ht_llama_config *config, ht_error *err) {
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (strcmp(size, sizes[i].name) != 0) continue;
        *config = (ht_llama_config){.vocab_size = sizes[i].vocab,
                                    .dim = sizes[i].dim,
                                    .n_layers = sizes[i].layers,
                                    .n_heads = sizes[i].heads,
                                    .n_kv_heads = sizes[i].heads,
                                    .head_dim = sizes[i].dim / sizes[i].heads,
                                    .ffn_dim = sizes[i].hidden,
                                    .max_positions = LENGTH,
                                    .norm_eps = 1e-5,
                                    .rope_theta = 10000,
                                    .bos_id = 1,
                                    .eos_id = 2,
                                    .head = HT_HEAD_LM};
        return HT_OK;
    }
    return ht_fail(err, HT_ERR_USAGE, "no model size \"%s\": tiny, small, medium", size);
}

static int32_t random_token(const work *w, uint64_t stream, int64_t i) {
    return 3 + (int32_t)ht_rng_below(1, stream, (uint64_t)i, (uint64_t)w->model.config.vocab_size - 3);
}

/* Eight sequences, every token but the first a target. */
static ht_status fill_batch(work *w, ht_error *err) {
    enum { TARGETS = SEQUENCES * (LENGTH - 1) };
    ht_status status = HT_OK;
    int32_t *rows = NULL, *targets = NULL;
    float *weights = NULL, *logp = NULL;
    HT_TRY(ht_batch_init(&w->batch, SEQUENCES * LENGTH, SEQUENCES, err));
    HT_TRY(ht_calloc(&rows, TARGETS, sizeof *rows, err));
    w->rows.rows = rows;
    HT_TRY(ht_calloc(&targets, TARGETS, sizeof *targets, err));
    w->rows.targets = targets;
    HT_TRY(ht_calloc(&weights, TARGETS, sizeof *weights, err));
    w->loss.weight = weights;
    HT_TRY(ht_calloc(&logp, TARGETS, sizeof *logp, err));
    w->rows.logp = logp;
    for (int64_t s = 0; s < SEQUENCES; s++) {
        int32_t tokens[LENGTH];
        for (int64_t i = 0; i < LENGTH; i++)
            tokens[i] = random_token(w, (uint64_t)s, i);
        ht_batch_add(&w->batch, tokens, LENGTH);
        for (int64_t i = 1; i < LENGTH; i++) {
            rows[w->rows.count] = (int32_t)(s * LENGTH + i - 1);
            weights[w->rows.count] = 1.0f / TARGETS;
            targets[w->rows.count++] = tokens[i];
        }
    }
    w->loss.kind = HT_TOKEN_LOSS_NLL;
    if (w->trains) w->rows.loss = &w->loss;
done:
    return status;
}

static ht_status open_batch_work(work *w, ht_error *err) {
    ht_status status = HT_OK;
    ht_keep keep = w->trains ? HT_KEEP_ALL : HT_KEEP_NOTHING;
    HT_TRY(ht_activations_init(&w->acts, &w->model, &w->arena, keep, SEQUENCES * LENGTH, SEQUENCES, err));
    if (w->trains) HT_TRY(ht_trainable_init(&w->trainable, &w->model, &w->arena, err));
    HT_TRY(fill_batch(w, err));
done:
    return status;
}

static ht_status open_generation(work *w, ht_error *err) {
    ht_status status = HT_OK;
    const ht_engine_limits limits = {.max_sequences = w->parallel,
                                     .cache_tokens = w->parallel * (PROMPT + NEW + 16),
                                     .prefill_tokens = w->parallel * PROMPT};
    HT_TRY(ht_engine_init(&w->engine, &w->model, &w->arena, &limits, err));
    HT_TRY(ht_calloc(&w->prompts, (size_t)(w->parallel * PROMPT), sizeof *w->prompts, err));
    for (int64_t i = 0; i < w->parallel * PROMPT; i++)
        w->prompts[i] = random_token(w, 99, i);
done:
    return status;
}

ht_status work_open(work *w, ht_backend *be, const char *size, const char *name, const char *dtype,
                    ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config config;
    memset(w, 0, sizeof *w);
    w->be = be;
    ht_arena_init(&w->arena, 0);
    ht_backend_arena(be, &w->arena);
    int is_bf16 = strcmp(dtype, "bf16") == 0;
    if (!is_bf16 && strcmp(dtype, "fp32") != 0)
        return ht_fail(err, HT_ERR_USAGE, "no dtype \"%s\": fp32, bf16", dtype);
    HT_TRY(config_of(size, &config, err));
    HT_TRY(ht_llama_init(&w->model, be, &w->arena, &config, is_bf16 ? HT_BF16 : HT_F32, err));
    HT_TRY(ht_llama_randomize(&w->model, 1, err));
    w->trains = strcmp(name, "sft") == 0;
    if (strncmp(name, "generate-", 9) == 0) w->parallel = atoi(name + 9);
    if (w->parallel > 0)
        HT_TRY(open_generation(w, err));
    else if (w->trains || strcmp(name, "forward") == 0)
        HT_TRY(open_batch_work(w, err));
    else
        HT_TRY(ht_fail(err, HT_ERR_USAGE, "no work \"%s\": sft, forward, generate-N", name));
done:
    return status;
}

void work_close(work *w) {
    free(w->prompts);
    free((void *)(uintptr_t)w->rows.rows);
    free((void *)(uintptr_t)w->rows.targets);
    free((void *)(uintptr_t)w->loss.weight);
    free(w->rows.logp);
    ht_engine_free(w->engine);
    ht_batch_free(&w->batch);
    ht_trainable_free(&w->trainable);
    ht_activations_free(w->acts);
    ht_llama_free(&w->model);
    ht_arena_clear(&w->arena);
}

static ht_status generate(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    ht_request *requests = NULL;
    ht_completion *done = NULL;
    HT_TRY(ht_calloc(&requests, (size_t)w->parallel, sizeof *requests, err));
    HT_TRY(ht_calloc(&done, (size_t)w->parallel, sizeof *done, err));
    for (int64_t i = 0; i < w->parallel; i++) {
        requests[i] = (ht_request){.prompt = w->prompts + i * PROMPT,
                                   .prompt_length = PROMPT,
                                   .max_new_tokens = NEW,
                                   .top_p = 1,
                                   .ignore_eos = 1};
    }
    HT_TRY(ht_generate(w->engine, requests, w->parallel, done, NULL, NULL, err));
    for (int64_t i = 0; i < w->parallel; i++)
        *tokens += done[i].length;
    ht_completions_free(done, w->parallel);
done:
    free(done);
    free(requests);
    return status;
}

ht_status work_run(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    double norm;
    *tokens = 0;
    if (w->parallel > 0) return generate(w, tokens, err);
    HT_TRY(ht_llama_forward(&w->model, w->acts, &w->batch, err));
    HT_TRY(ht_lm_loss(&w->model, w->acts, &w->rows, w->trains ? &w->trainable.grads : NULL, err));
    *tokens = w->batch.n_tokens;
    if (!w->trains) return HT_OK;
    HT_TRY(ht_llama_backward(&w->model, w->acts, &w->trainable.grads, err));
    HT_TRY(ht_optimizer_step(&w->trainable, &ht_optimizer_defaults, 1e-4, &norm, err));
done:
    return status;
}
