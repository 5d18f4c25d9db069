#include "core/generate/policy.h"

#include <inttypes.h>
#include <string.h>

#include "core/base/log.h"
#include "core/checkpoint/model_folder.h"

static ht_status open_tokenizer(ht_policy *policy, const char *folder, ht_error *err) {
    const ht_llama_config *config = &policy->model.config;
    ht_status status = ht_model_folder_open_tokenizer(folder, config, &policy->tokenizer, err);
    if (status == HT_OK && ht_tokenizer_eos(policy->tokenizer) != config->eos_id)
        ht_warn("%s: EOS is %" PRId32 " in the model and %" PRId32
                " in its tokenizer; the model's ends a response",
                folder, config->eos_id, ht_tokenizer_eos(policy->tokenizer));
    return status;
}

/* Model and engine: booked while the arena is planning. */
static ht_status take_memory(ht_policy *policy, const ht_llama_config *config, ht_dtype dtype,
                             const ht_engine_limits *limits, int planning, ht_error *err) {
    ht_status status = HT_OK;
    ht_arena_init(&policy->arena, planning);
    ht_backend_arena(policy->be, &policy->arena);
    HT_TRY(ht_llama_init(&policy->model, policy->be, &policy->arena, config, dtype, err));
    HT_TRY(ht_engine_init(&policy->engine, &policy->model, &policy->arena, limits, err));
done:
    return status;
}

/* HT_ERR_NOMEM when it would not fit. */
static ht_status check_memory(ht_policy *policy, const ht_llama_config *config, ht_dtype dtype,
                              const ht_engine_limits *limits, ht_error *err) {
    ht_policy plan = {.be = policy->be};
    ht_status status = take_memory(&plan, config, dtype, limits, 1, err);
    if (status == HT_OK) status = ht_backend_check_plan(plan.be, &plan.arena, err);
    ht_policy_free(&plan);
    return status;
}

ht_status ht_policy_open(ht_policy *policy, ht_backend *be, const char *folder, ht_dtype dtype,
                         const ht_engine_limits *limits, ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config config;
    ht_engine_limits full = *limits;
    int head_loaded = 0;
    memset(policy, 0, sizeof *policy);
    policy->be = be;
    HT_TRY(ht_model_folder_config_of(folder, HT_HEAD_LM, &config, err));
    if (!full.cache_tokens) full.cache_tokens = full.max_sequences * config.max_positions;
    if (!full.prefill_tokens) full.prefill_tokens = HT_POLICY_PREFILL;
    HT_TRY(check_memory(policy, &config, dtype, &full, err));
    HT_TRY(take_memory(policy, &config, dtype, &full, 0, err));
    HT_TRY(open_tokenizer(policy, folder, err)); /* before the weights: it fails sooner */
    HT_TRY(ht_model_folder_load(folder, &policy->model, &head_loaded, err));
    ht_arena_seal(&policy->arena);
done:
    if (status != HT_OK) ht_policy_free(policy);
    return status;
}

void ht_policy_free(ht_policy *policy) {
    ht_engine_free(policy->engine);
    ht_tokenizer_free(policy->tokenizer);
    ht_llama_free(&policy->model);
    ht_arena_clear(&policy->arena);
    memset(policy, 0, sizeof *policy);
}
