#include "core/generate/generate.h"

#include <stdlib.h>
#include <string.h>

#include "core/backend/profile.h"
#include "core/base/memory.h"
#include "core/base/signals.h"
#include "core/generate/scheduler.h"

struct ht_engine {
    const ht_llama *model; /* borrowed */
    ht_activations *acts;
    ht_kv_cache cache;
    ht_scheduler scheduler;
    int32_t drawn[HT_LOGIT_ROWS];
    float logp[HT_LOGIT_ROWS];
};

ht_status ht_engine_init(ht_engine **engine, const ht_llama *model, ht_arena *arena,
                         const ht_engine_limits *limits, ht_error *err) {
    ht_status status = HT_OK;
    ht_engine *made = NULL;
    *engine = NULL;
    int64_t most =
        limits->prefill_tokens > limits->max_sequences ? limits->prefill_tokens : limits->max_sequences;
    ht_schedule_limits schedule = {
        .places = limits->max_sequences,
        .blocks = (limits->cache_tokens + HT_CACHE_BLOCK - 1) / HT_CACHE_BLOCK,
        .pass_tokens = most,
        .logit_rows = HT_LOGIT_ROWS,
        .max_positions = model->config.max_positions,
        .vocab_size = model->config.vocab_size,
        .eos_id = model->config.eos_id,
        .keep_cache = limits->keep_cache,
    };
    if (model->config.head != HT_HEAD_LM)
        return ht_fail(err, HT_ERR_USAGE, "a model with a scalar head cannot generate");
    HT_TRY(ht_calloc(&made, 1, sizeof *made, err));
    made->model = model;
    HT_TRY(ht_scheduler_init(&made->scheduler, &schedule, err));
    HT_TRY(
        ht_kv_cache_init(&made->cache, model, arena, schedule.blocks, HT_CACHE_BLOCK, schedule.places, err));
    HT_TRY(ht_activations_init(&made->acts, model, arena, HT_KEEP_NOTHING, most, limits->max_sequences, err));
    *engine = made;
done:
    if (status != HT_OK) ht_engine_free(made);
    return status;
}

void ht_engine_free(ht_engine *engine) {
    if (!engine) return;
    ht_activations_free(engine->acts);
    ht_kv_cache_free(&engine->cache);
    ht_scheduler_release(&engine->scheduler);
    free(engine);
}

ht_status ht_generate(ht_engine *engine, const ht_request *requests, int64_t count,
                      ht_completion *completions, ht_token_callback on_token, void *context, ht_error *err) {
    ht_status status = HT_OK;
    ht_scheduler *s = &engine->scheduler;
    ht_tensor logits;
    ht_profile_enter(engine->model->be);
    memset(completions, 0, (size_t)count * sizeof *completions);
    HT_TRY(ht_scheduler_begin(s, requests, count, completions, err));
    for (;;) {
        ht_status stop = ht_stop_requested();
        if (stop != HT_OK) HT_TRY(ht_fail(err, stop, "generation stopped"));
        HT_TRY(ht_scheduler_plan(s, err));
        if (s->batch.sequences == 0) break;
        HT_TRY(ht_llama_decode(engine->model, engine->acts, &engine->cache, &s->batch, &logits, err));
        if (s->batch.logit_count > 0)
            HT_TRY(ht_sample(engine->model->be, &logits, s->settings, engine->drawn, engine->logp, err));
        HT_TRY(ht_scheduler_accept(s, engine->drawn, engine->logp, on_token, context, err));
    }
done:
    ht_scheduler_end(s);
    ht_profile_leave(engine->model->be, HT_STRETCH_GENERATION);
    if (status != HT_OK) ht_completions_free(completions, count);
    return status;
}

void ht_completions_free(ht_completion *completions, int64_t count) {
    for (int64_t i = 0; completions && i < count; i++) {
        free(completions[i].tokens);
        free(completions[i].logp);
        completions[i] = (ht_completion){0};
    }
}

ht_engine_stats ht_engine_statistics(const ht_engine *engine) {
    return engine->scheduler.stats;
}
