/*
 * Opening, sampling, and finding again what was sampled.
 */
#include "evaluate/evaluation.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend/profile.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/generate/policy.h"
#include "core/generate/samples.h"
#include "core/generate/scoring.h"

/* Prompts given to the engine together, for each that it answers at once: what is lost when stopped, against the time in
 * which the last of them run alone. */
#define PROMPTS_A_PLACE 8

/* --- what all evaluations share --------------------------------------------------------------------------- */

static ht_status add_judge(ht_evaluator *e, const char *folder, const char *key, int64_t *id, ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config shape;
    ht_model_row row;
    int found = 0;
    HT_TRY(ht_model_folder_config_of(folder, HT_HEAD_SCALAR, &shape, err));
    if (!e->judge_positions || shape.max_positions < e->judge_positions) e->judge_positions = shape.max_positions;
    HT_TRY(ht_train_register_model(e->store, folder, id, err));
    HT_TRY(ht_store_get_model(e->store, *id, &row, &found, err));
    json_object_set_new(e->judges, key,
                        json_pack("{s:I, s:s, s:s}", "id", (json_int_t)*id, "name", row.name, "path", folder));
done:
    return status;
}

ht_status ht_evaluator_open(ht_evaluator *e, const ht_evaluate_config *config, const ht_invocation *invocation,
                            ht_error *err) {
    ht_status status = HT_OK;
    *e = (ht_evaluator){.config = config, .invocation = invocation, .judges = json_object()};
    HT_TRY(ht_store_open(&e->store, config->db, HT_STORE_EXISTING, err));
    HT_TRY(ht_backend_open(&e->be, (ht_backend_kind)config->backend, (int)config->threads, err));
    HT_TRY(ht_backend_choose_dtype(e->be, (ht_dtype_choice)config->dtype, err));
    if (config->profile) HT_TRY(ht_profile_start(e->be, err));
    HT_TRY(add_judge(e, config->helpful, "helpful", &e->helpful_id, err));
    HT_TRY(add_judge(e, config->safe, "safe", &e->safe_id, err));
    if (e->helpful_id == e->safe_id) ht_warn("--helpful and --safe are the same model");
done:
    if (status != HT_OK) ht_evaluator_close(e);
    return status;
}

void ht_evaluator_close(ht_evaluator *e) {
    json_decref(e->judges);
    if (e->be) ht_backend_close(e->be);
    ht_store_close(e->store);
    memset(e, 0, sizeof *e);
}

/* --- prompts ---------------------------------------------------------------------------------------------- */

/* The chosen prompts of one model: ids of its own tokenizer. */
typedef struct chosen_prompts {
    ht_prompt_set set;
    int64_t *index; /* [count] in the set, ascending */
    int64_t count, longest;
} chosen_prompts;

static void prompts_release(chosen_prompts *p) {
    ht_prompt_set_free(&p->set);
    free(p->index);
}

/* Longest prompt that leaves the policy and both reward models room for the longest response. */
static ht_status prompt_limit(const ht_evaluator *e, const char *folder, const ht_llama_config *shape, int64_t *limit,
                              ht_error *err) {
    const ht_evaluate_config *config = e->config;
    int64_t positions = shape->max_positions < e->judge_positions ? shape->max_positions : e->judge_positions;
    int64_t room = positions - config->max_new_tokens;
    if (room < 1 || config->max_prompt_tokens > room)
        return ht_fail(err, HT_ERR_USAGE,
                       "max_prompt_tokens = %" PRId64 " and max_new_tokens = %" PRId64 " do not fit the %" PRId64
                       " positions of the smallest of %s and the reward models",
                       config->max_prompt_tokens, config->max_new_tokens, positions, folder);
    *limit = config->max_prompt_tokens ? config->max_prompt_tokens : room;
    return HT_OK;
}

static ht_status choose(chosen_prompts *p, int64_t wanted, ht_error *err) {
    ht_status status = HT_OK;
    uint8_t *is_chosen = NULL;
    HT_TRY(ht_calloc(&is_chosen, p->set.count, 1, err));
    HT_TRY(ht_calloc(&p->index, p->set.count, sizeof *p->index, err));
    HT_TRY(ht_choose_prompts(is_chosen, p->set.is_safety, p->set.count, wanted, err));
    for (size_t i = 0; i < p->set.count; i++) {
        int64_t length = p->set.start[i + 1] - p->set.start[i];
        if (!is_chosen[i]) continue;
        p->index[p->count++] = (int64_t)i;
        if (length > p->longest) p->longest = length;
    }
done:
    free(is_chosen);
    return status;
}

static ht_status load_prompts(chosen_prompts *p, const ht_evaluator *e, const char *folder, ht_error *err) {
    ht_status status = HT_OK;
    const ht_evaluate_config *config = e->config;
    ht_tokenizer *tokenizer = NULL;
    ht_llama_config shape;
    ht_prompt_limits limits = {.too_long = (ht_too_long)config->too_long};
    ht_store_filter filter = {.splits = 1U << config->split};
    memset(p, 0, sizeof *p);
    HT_TRY(ht_model_folder_config_of(folder, HT_HEAD_LM, &shape, err));
    HT_TRY(prompt_limit(e, folder, &shape, &limits.max_tokens, err));
    HT_TRY(ht_model_folder_open_tokenizer(folder, &shape, &tokenizer, err));
    ht_chat chat = {.tokenizer = tokenizer, .which = HT_TEMPLATE_LLAMA2};
    HT_TRY(ht_prompt_set_load(&p->set, e->store, &filter, &chat, &limits, err));
    HT_TRY(choose(p, config->prompts, err));
done:
    ht_tokenizer_free(tokenizer);
    return status;
}

/* --- settings --------------------------------------------------------------------------------------------- */

/* What two evaluations must share for their responses to be compared. */
static ht_status make_settings(json_t **settings, const ht_evaluator *e, const chosen_prompts *p, ht_error *err) {
    ht_status status = HT_OK;
    const ht_evaluate_config *config = e->config;
    int64_t *dialogs = NULL;
    char hash[HT_HASH_LEN];
    HT_TRY(ht_calloc(&dialogs, (size_t)p->count, sizeof *dialogs, err));
    for (int64_t i = 0; i < p->count; i++)
        dialogs[i] = p->set.dialog_ids[p->index[i]];
    ht_hash(dialogs, (size_t)p->count * sizeof *dialogs, hash);
    *settings = json_pack("{s:s, s:I, s:s, s:f, s:f, s:I, s:I, s:s}", "split", ht_split_text((ht_split)config->split),
                          "prompts", (json_int_t)p->count, "dialogs_hash", hash, "temperature", config->temperature,
                          "top_p", config->top_p, "max_new_tokens", (json_int_t)config->max_new_tokens, "seed",
                          (json_int_t)config->seed, "dtype", ht_dtype_torch_name(ht_backend_dtype(e->be)));
    if (!*settings) status = ht_fail(err, HT_ERR_NOMEM, "no memory for an evaluation's settings");
done:
    free(dialogs);
    return status;
}

/* *run = that of the model's latest evaluation, when its settings are these and its responses are all there; else 0. */
static ht_status find_run(int64_t *run, const ht_evaluation *evaluation, const ht_evaluator *e, int64_t prompts,
                          ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = {.model_id = evaluation->model_id, .name = HT_ROW_PROMPTS};
    ht_evaluation_row row;
    json_t *details = NULL;
    json_error_t problem;
    int found;
    *run = 0;
    HT_TRY(ht_store_read(e->store, HT_STORE_EVALUATIONS, &filter, &cursor, err));
    HT_TRY(ht_store_next_evaluation(cursor, &row, &found, err));
    if (!found || !row.details) goto done;
    status = ht_json_parse(&details, row.details, strlen(row.details), &problem, err);
    if (status == HT_ERR_DATA) ht_fail(err, status, "evaluation \"%s\": details: %s", HT_ROW_PROMPTS, problem.text);
    HT_TRY(status);
    int64_t latest = json_integer_value(json_object_get(details, "run")), count = 0;
    if (!latest || !json_equal(json_object_get(details, "settings"), evaluation->settings)) goto done;
    filter = (ht_store_filter){.model_id = evaluation->model_id, .run_id = latest};
    HT_TRY(ht_store_count(e->store, HT_STORE_RESPONSES, &filter, &count, err));
    if (count == prompts) *run = latest;
done:
    json_decref(details);
    ht_store_cursor_free(cursor);
    return status;
}

/* --- sampling --------------------------------------------------------------------------------------------- */

typedef struct sampler {
    const ht_evaluator *e;
    const ht_evaluation *evaluation;
    const chosen_prompts *prompts;
    ht_policy policy;
    ht_request *requests;
    ht_completion *completions;
    int64_t most; /* of both */
    ht_progress progress;
    int64_t finished, new_tokens;
} sampler;

/* Shows progress. */
static ht_status count_token(void *context, int64_t index, int32_t token, ht_error *err) {
    (void)err;
    sampler *s = context;
    const ht_llama_config *shape = &s->policy.model.config;
    int64_t length = s->completions[index].length;
    char note[64];
    s->new_tokens++;
    s->finished += token == shape->eos_id || length == s->requests[index].max_new_tokens ||
                   s->requests[index].prompt_length + length == shape->max_positions;
    snprintf(note, sizeof note, "%" PRId64 " tokens  %.1f tokens/s", s->new_tokens,
             (double)s->new_tokens / fmax(ht_now() - s->progress.started, 1e-9));
    ht_progress_update(&s->progress, s->finished, note);
    return HT_OK;
}

static ht_status store_group(sampler *s, int64_t first, int64_t count, ht_error *err) {
    ht_status status = HT_OK;
    const ht_evaluate_config *config = s->e->config;
    ht_response_row row = {.model_id = s->evaluation->model_id,
                           .run_id = s->evaluation->run_id,
                           .round = s->evaluation->round,
                           .temperature = config->temperature,
                           .top_p = config->top_p,
                           .seed = config->seed};
    HT_TRY(ht_store_begin(s->e->store, err));
    for (int64_t i = 0; i < count; i++) {
        int64_t id;
        row.dialog_id = s->prompts->set.dialog_ids[s->prompts->index[first + i]];
        HT_TRY(ht_store_sample(s->e->store, s->policy.tokenizer, &row, &s->completions[i], &id, err));
    }
    HT_TRY(ht_store_commit(s->e->store, err));
done:
    if (status != HT_OK) ht_store_rollback(s->e->store);
    return status;
}

static ht_status sample_group(sampler *s, int64_t first, int64_t count, ht_error *err) {
    ht_status status = HT_OK;
    const ht_evaluate_config *config = s->e->config;
    for (int64_t i = 0; i < count; i++) {
        int64_t prompt = s->prompts->index[first + i], length;
        const int32_t *tokens = ht_prompt_tokens(&s->prompts->set, prompt, &length);
        s->requests[i] = (ht_request){
            .prompt = tokens,
            .prompt_length = length,
            .max_new_tokens = config->max_new_tokens,
            .temperature = (float)config->temperature,
            .top_p = (float)config->top_p,
            .seed = (uint64_t)config->seed,
            .stream = ht_rng_stream(HT_RNG_SAMPLE, (uint64_t)s->prompts->set.dialog_ids[prompt], 0),
        };
    }
    HT_TRY(ht_generate(s->policy.engine, s->requests, count, s->completions, count_token, s, err));
    HT_TRY(store_group(s, first, count, err));
done:
    ht_completions_free(s->completions, count);
    return status;
}

static ht_status sample_all(sampler *s, ht_error *err) {
    ht_status status = HT_OK;
    int64_t total = s->prompts->count;
    char label[128];
    snprintf(label, sizeof label, "sample %.100s", s->evaluation->name);
    ht_progress_start(&s->progress, label, total);
    for (int64_t first = 0; first < total; first += s->most) {
        int64_t count = total - first < s->most ? total - first : s->most;
        status = sample_group(s, first, count, err);
        if (status != HT_OK) {
            ht_fail_in(err, "after %" PRId64 " of %" PRId64 " responses", first, total);
            goto done;
        }
    }
    ht_progress_finish(&s->progress, total, NULL);
done:
    return status;
}

static ht_status sample(const ht_evaluation *evaluation, const ht_evaluator *e, const chosen_prompts *prompts,
                        ht_error *err) {
    ht_status status = HT_OK;
    sampler s = {.e = e, .evaluation = evaluation, .prompts = prompts};
    int64_t places = e->config->sequences < prompts->count ? e->config->sequences : prompts->count;
    /* whole blocks: 16 positions at most are lost a sequence */
    ht_engine_limits limits = {.max_sequences = places,
                               .cache_tokens = places * (prompts->longest + e->config->max_new_tokens + 16)};
    s.most = places * PROMPTS_A_PLACE;
    HT_TRY(ht_calloc(&s.requests, (size_t)s.most, sizeof *s.requests, err));
    HT_TRY(ht_calloc(&s.completions, (size_t)s.most, sizeof *s.completions, err));
    HT_TRY(ht_policy_open(&s.policy, e->be, evaluation->folder, ht_backend_dtype(e->be), &limits, err));
    HT_TRY(sample_all(&s, err));
done:
    ht_policy_free(&s.policy);
    free(s.completions);
    free(s.requests);
    return status;
}

/* --- an evaluation ---------------------------------------------------------------------------------------- */

static ht_status identify(ht_evaluation *evaluation, const ht_evaluator *e, ht_error *err) {
    ht_status status = HT_OK;
    ht_model_row row;
    int found = 0;
    HT_TRY(ht_train_register_model(e->store, evaluation->folder, &evaluation->model_id, err));
    HT_TRY(ht_store_get_model(e->store, evaluation->model_id, &row, &found, err));
    evaluation->round = row.round;
    HT_TRY(ht_strdup(&evaluation->name, row.name, err));
done:
    return status;
}

static ht_status begin_run(ht_evaluation *evaluation, const ht_evaluator *e, ht_error *err) {
    char *config;
    ht_status status = ht_json_text(&config, e->invocation->resolved, JSON_COMPACT, err);
    if (status != HT_OK) return status;
    status = ht_store_begin_run(e->store,
                                          &(ht_run_row){.stage = "evaluate",
                                                        .round = evaluation->round,
                                                        .model_id = evaluation->model_id,
                                                        .config = config},
                                          &evaluation->run_id, err);
    free(config);
    evaluation->is_sampled = 1;
    return status;
}

/* Scores of those responses of the run that have none by this reward model. */
static ht_status score(const ht_evaluation *evaluation, const ht_evaluator *e, const char *folder, int64_t model_id,
                       ht_error *err) {
    char label[128];
    ht_scoring_result result;
    const ht_scoring scoring = {.store = e->store,
                                .be = e->be,
                                .folder = folder,
                                .model_id = model_id,
                                .filter = {.run_id = evaluation->run_id},
                                .label = label};
    snprintf(label, sizeof label, "score by %.100s", folder);
    return ht_score_responses(&scoring, &result, err);
}

/* Appends the responses of the run with both scores. */
static ht_status read_scores(ht_evaluation *evaluation, const ht_evaluator *e, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = {
        .run_id = evaluation->run_id, .helpful_model_id = e->helpful_id, .safe_model_id = e->safe_id};
    HT_TRY(ht_store_read(e->store, HT_STORE_RESPONSES, &filter, &cursor, err));
    for (;;) {
        ht_scored_row row;
        int found;
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        HT_TRY(ht_grow(&evaluation->responses, &evaluation->capacity, evaluation->count + 1,
                       sizeof *evaluation->responses, err));
        evaluation->responses[evaluation->count++] = (ht_judged){
            .dialog_id = row.dialog.id,
            .response_id = row.response.id,
            .tokens = row.response.token_count,
            .is_safety = row.dialog.kind == HT_KIND_SAFETY,
            .is_finished = row.response.finish == HT_FINISH_EOS,
            .helpful = row.helpful,
            .safe = row.safe,
        };
    }
done:
    ht_store_cursor_free(cursor);
    return status;
}

/* Samples, when that is wanted, and judges. */
static ht_status fill(ht_evaluation *evaluation, const ht_evaluator *e, const chosen_prompts *prompts, ht_error *err) {
    ht_status status = HT_OK;
    const ht_evaluate_config *config = e->config;
    if (evaluation->is_sampled) HT_TRY(sample(evaluation, e, prompts, err));
    HT_TRY(score(evaluation, e, config->helpful, e->helpful_id, err));
    HT_TRY(score(evaluation, e, config->safe, e->safe_id, err));
    HT_TRY(read_scores(evaluation, e, err));
done:
    return status;
}

ht_status ht_evaluation_make(ht_evaluation *evaluation, ht_evaluator *e, const char *folder, ht_reuse reuse,
                             ht_error *err) {
    ht_status status = HT_OK;
    chosen_prompts prompts = {.index = NULL};
    *evaluation = (ht_evaluation){.folder = folder};
    HT_TRY(load_prompts(&prompts, e, folder, err));
    HT_TRY(identify(evaluation, e, err));
    HT_TRY(make_settings(&evaluation->settings, e, &prompts, err));
    if (reuse == HT_REUSE_SAME_SETTINGS) HT_TRY(find_run(&evaluation->run_id, evaluation, e, prompts.count, err));
    if (!evaluation->run_id) HT_TRY(begin_run(evaluation, e, err));
    status = fill(evaluation, e, &prompts, err);
    if (evaluation->is_sampled) {
        ht_error ignored = HT_ERROR_INIT;
        ht_status ended = ht_store_end_run(e->store, evaluation->run_id, status, 0, status ? &ignored : err);
        if (status == HT_OK) status = ended;
    }
done:
    prompts_release(&prompts);
    if (status != HT_OK) ht_evaluation_release(evaluation);
    return status;
}

void ht_evaluation_release(ht_evaluation *evaluation) {
    free(evaluation->name);
    free(evaluation->responses);
    json_decref(evaluation->settings);
    memset(evaluation, 0, sizeof *evaluation);
}
