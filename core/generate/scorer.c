#include "core/generate/scorer.h"

#include <string.h>

#include "core/checkpoint/model_folder.h"

/* Model and activations: booked while the arena is planning. */
static ht_status take_memory(ht_scorer *scorer, const ht_llama_config *config, ht_dtype dtype, int64_t tokens, int planning,
                             ht_error *err) {
    ht_status status = HT_OK;
    ht_arena_init(&scorer->arena, planning);
    ht_backend_arena(scorer->be, &scorer->arena);
    HT_TRY(ht_llama_init(&scorer->model, scorer->be, &scorer->arena, config, dtype, err));
    HT_TRY(ht_activations_init(&scorer->acts, &scorer->model, &scorer->arena, HT_KEEP_NOTHING, tokens,
                               ht_scorer_sequences(tokens), err));
done:
    return status;
}

/* HT_ERR_NOMEM when it would not fit. */
static ht_status check_memory(ht_scorer *scorer, const ht_llama_config *config, ht_dtype dtype, int64_t tokens,
                              ht_error *err) {
    ht_scorer plan = {.be = scorer->be};
    ht_status status = take_memory(&plan, config, dtype, tokens, 1, err);
    if (status == HT_OK) status = ht_backend_check_plan(plan.be, &plan.arena, err);
    ht_scorer_free(&plan);
    return status;
}

ht_status ht_scorer_open(ht_scorer *scorer, ht_backend *be, const char *folder, ht_dtype dtype,
                         int64_t pass_tokens, ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config config;
    int head_loaded = 0;
    memset(scorer, 0, sizeof *scorer);
    scorer->be = be;
    HT_TRY(ht_model_folder_config_of(folder, HT_HEAD_SCALAR, &config, err));
    int64_t tokens = pass_tokens ? pass_tokens : config.max_positions;
    scorer->max_tokens = tokens < config.max_positions ? tokens : config.max_positions;
    HT_TRY(check_memory(scorer, &config, dtype, tokens, err));
    HT_TRY(take_memory(scorer, &config, dtype, tokens, 0, err));
    HT_TRY(ht_model_folder_open_tokenizer(folder, &config, &scorer->tokenizer, err));
    HT_TRY(ht_model_folder_load(folder, &scorer->model, &head_loaded, err));
    ht_arena_seal(&scorer->arena);
done:
    if (status != HT_OK) ht_scorer_free(scorer);
    return status;
}

void ht_scorer_free(ht_scorer *scorer) {
    ht_activations_free(scorer->acts);
    ht_tokenizer_free(scorer->tokenizer);
    ht_llama_free(&scorer->model);
    ht_arena_clear(&scorer->arena);
    memset(scorer, 0, sizeof *scorer);
}

ht_status ht_scorer_score(ht_scorer *scorer, const int32_t *const *tokens, const int64_t *lengths,
                          int64_t count, float *scores, ht_error *err) {
    return ht_score_sequences(&scorer->model, scorer->acts, tokens, lengths, count, scores, err);
}
