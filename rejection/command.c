/*
 * halter-rejection: options, and the passes in their order.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/base/signals.h"
#include "core/checkpoint/model_folder.h"
#include "core/generate/scorer.h"
#include "core/train/train.h"
#include "rejection/rejection.h"

static const char *const pools[] = {"last", "all", NULL}; /* ht_pool */

/* Coordinate of HT_RNG_CHOICE: which prompts are sampled. */
enum { CHOICE_PROMPTS = 1 };

#define S ht_rejection_config
static const ht_option options[] = {
    HT_OPT_PATH(S, db, "db", NULL, HT_OPTION_REQUIRED,
                "database with the prompts; responses, scores and choices go there"),
    HT_OPT_PATH(S, model, "model", NULL, HT_OPTION_REQUIRED, "model folder of the policy to sample from"),
    HT_OPT_PATH(S, helpful, "helpful", NULL, HT_OPTION_REQUIRED, "helpfulness reward model's folder"),
    HT_OPT_PATH(S, safe, "safe", NULL, HT_OPTION_REQUIRED, "safety reward model's folder"),
    HT_OPT_PATH(S, out, "out", NULL, 0, "folder for curves.json; default: none is written"),
    HT_OPT_INT(S, round, "round", "0", 0, 1000000, 0, "round the samples and the chosen responses belong to"),
    HT_OPT_INT(S, seed, "seed", "1", 0, 9007199254740992.0, 0, "seed of every random number"),
    HT_OPT_INT(S, prompts, "prompts", "0", 0, 1000000000, 0,
               "random prompts to take; 0: all that fit the filters"),
    HT_OPT_CHOICE(S, kind, "kind", "all", ht_kind_choices, 0, "prompts of this kind"),
    HT_OPT_INT(S, first_round, "data.first_round", "0", 0, 1000000, 0,
               "first round whose prompts are sampled"),
    HT_OPT_INT(S, last_round, "data.last_round", "-1", -1, 1000000, 0,
               "last round whose prompts are sampled; -1: no end"),
    HT_OPT_INT(S, max_prompt_tokens, "data.max_prompt_tokens", "1024", 1, 1 << 20, 0,
               "longest prompt, tokens"),
    HT_OPT_CHOICE(S, too_long, "data.too_long", "error", ht_too_long_names, 0,
                  "what to do with a longer prompt"),
    HT_OPT_INT(S, k, "sample.k", "20", 1, HT_REJECTION_K_MAX, 0, "responses a prompt"),
    HT_OPT_FLOATS(S, temperatures, "sample.temperatures", "1.0", 0.01, 100, 0,
                  "temperatures; sample k has the one at k modulo their number"),
    HT_OPT_FLOAT(S, top_p, "sample.top_p", "1", 1e-6, 1, 0,
                 "draw from the most probable tokens of this mass; 1: off"),
    HT_OPT_INT(S, max_new_tokens, "sample.max_new_tokens", "512", 1, 1 << 20, 0, "longest response, tokens"),
    HT_OPT_INT(S, sequences, "sample.sequences", "128", 1, HT_LOGIT_ROWS, 0,
               "most responses sampled at once"),
    HT_OPT_INT(
        S, cache_tokens, "sample.cache_tokens", "0", 0, 1e12, 0,
        "positions in the KV cache, shared by the responses sampled at once; 0: as many as they can need"),
    HT_OPT_INT(S, chunk, "sample.chunk", "64", 1, 1 << 20, 0, "prompts sampled and kept at once"),
    HT_OPT_INT(S, score_tokens, "score.tokens", "4096", 8, 1 << 24, 0,
               "tokens a forward pass of a reward model; bounds memory"),
    HT_OPT_CHOICE(S, pool, "pool.rounds", "last", pools, 0,
                  "what is chosen from: last: these samples; all: those of earlier rounds too"),
    HT_OPT_FLAG(S, truncated, "choose.truncated", 0, "responses cut at their greatest length may be chosen"),
    HT_OPT_FLOAT(S, min_reward, "choose.min_reward", "-1e30", -1e30, 1e30, 0,
                 "prompts whose best reward is below it give no choice; -1e30: none is"),
    HT_OPT_FLAG(S, report_only, "report_only", 0, "sample, score and report, but keep no choice"),
    HT_DEVICE_OPTIONS(S),
    HT_OPT_FLOAT(
        S, max_minutes, "max_minutes", "0", 0, 1e7, 0,
        "stop, exit code 75, before so many minutes are over; the same command goes on; 0: no limit"),
    HT_PROFILE_OPTION(S),
    HT_OPT_FLAG(S, json, "json", 0, "print the report as JSON"),
    HT_OPT_FLAG(S, dry_run, "dry_run", 0,
                "print how much is to be sampled and the memory it takes, do nothing"),
};
#undef S

/* --- checks -----------------------------------------------------------------------------------------------
 */

static ht_status check_config(const ht_rejection_config *c, ht_error *err) {
    const ht_floats *t = &c->temperatures;
    int64_t longest = c->max_prompt_tokens + c->max_new_tokens;
    if (!t->count) return ht_fail(err, HT_ERR_USAGE, "sample.temperatures is empty");
    for (size_t i = 0; i < t->count; i++)
        for (size_t j = 0; j < i; j++)
            if (t->values[i] == t->values[j])
                return ht_fail(err, HT_ERR_USAGE, "sample.temperatures has %g twice", t->values[i]);
    if (c->k < (int64_t)t->count)
        return ht_fail(err, HT_ERR_USAGE, "sample.k = %" PRId64 " is below the number of temperatures, %zu",
                       c->k, t->count);
    if (c->k % (int64_t)t->count)
        ht_warn("sample.k = %" PRId64 " is no multiple of %zu temperatures: the first %" PRId64
                " have one sample more",
                c->k, t->count, c->k % (int64_t)t->count);
    if (longest > c->score_tokens)
        return ht_fail(err, HT_ERR_USAGE,
                       "score.tokens = %" PRId64
                       " is below data.max_prompt_tokens + sample.max_new_tokens = %" PRId64,
                       c->score_tokens, longest);
    if (c->cache_tokens && c->cache_tokens < longest)
        return ht_fail(err, HT_ERR_USAGE,
                       "sample.cache_tokens = %" PRId64
                       " is below data.max_prompt_tokens + sample.max_new_tokens = %" PRId64,
                       c->cache_tokens, longest);
    return HT_OK;
}

/* Before hours of sampling: every folder is of its kind, and takes the longest prompt and response. */
static ht_status check_model(const char *folder, ht_head head, const ht_rejection_config *c,
                             ht_llama_config *model, ht_error *err) {
    char tokenizer[HT_PATH_MAX];
    int64_t longest = c->max_prompt_tokens + c->max_new_tokens;
    ht_status status = ht_model_folder_config_of(folder, head, model, err);
    if (status != HT_OK) return status;
    if (model->max_positions < longest)
        return ht_fail(err, HT_ERR_USAGE,
                       "data.max_prompt_tokens + sample.max_new_tokens = %" PRId64 " is above the %" PRId64
                       " positions of %s",
                       longest, model->max_positions, folder);
    return ht_model_folder_tokenizer(folder, tokenizer, err);
}

/* --- the work ---------------------------------------------------------------------------------------------
 */

/* Everything that is open while the command runs. */
typedef struct session {
    const ht_rejection_config *config;
    ht_rejection work;
    ht_llama_config shape; /* of the policy */
    ht_tokenizer *tokenizer;
    ht_prompt_set prompts;
    ht_rejection_result result;
    json_t *report;
    int64_t missing, run_id;
    ht_lock lock;
} session;

/* Rank 0 writes the database, and what people read. */
static int leads(const session *s) {
    return ht_comm_rank(s->work.comm) == 0;
}

static ht_engine_limits engine_limits(const ht_rejection_config *c) {
    int64_t longest = c->max_prompt_tokens + c->max_new_tokens;
    return (ht_engine_limits){.max_sequences = c->sequences,
                              .cache_tokens = c->cache_tokens ? c->cache_tokens : c->sequences * longest,
                              .prefill_tokens = HT_POLICY_PREFILL};
}

static ht_status read_prompts(session *s, ht_error *err) {
    const ht_rejection_config *c = s->config;
    ht_status status = HT_OK;
    HT_TRY(ht_model_folder_open_tokenizer(c->model, &s->shape, &s->tokenizer, err));
    ht_chat chat = {.tokenizer = s->tokenizer, .which = HT_TEMPLATE_LLAMA2};
    ht_prompt_limits limits = {.max_tokens = c->max_prompt_tokens, .too_long = (ht_too_long)c->too_long};
    ht_store_filter filter = {.kinds = ht_choice_mask(c->kind),
                              .splits = 1u << HT_SPLIT_TRAIN,
                              .first_round = c->first_round,
                              .end_round = c->last_round + 1};
    HT_TRY(ht_prompt_set_load(&s->prompts, s->work.store, &filter, &chat, &limits, err));
    if (!c->prompts) goto done;
    if ((int64_t)s->prompts.count < c->prompts)
        ht_warn("prompts = %" PRId64 ", but only %zu fit the filters: all are taken", c->prompts,
                s->prompts.count);
    uint64_t stream = ht_rng_stream(HT_RNG_CHOICE, CHOICE_PROMPTS, (uint64_t)c->round);
    HT_TRY(ht_prompt_set_choose(&s->prompts, c->prompts, (uint64_t)c->seed, stream, err));
done:
    return status;
}

/* Every draw of every prompt, and which of them are in the database. */
static ht_status plan_draws(session *s, ht_error *err) {
    const ht_rejection_config *c = s->config;
    ht_status status = HT_OK;
    ht_draw_list *list = &s->work.draws;
    *list = (ht_draw_list){.prompts = &s->prompts,
                           .model_id = s->work.policy_id,
                           .round = c->round,
                           .seed = c->seed,
                           .top_p = c->top_p,
                           .max_new_tokens = c->max_new_tokens,
                           .max_positions = s->shape.max_positions,
                           .chunk = c->chunk * c->k};
    HT_TRY(ht_calloc(&list->draws, s->prompts.count * (size_t)c->k, sizeof(ht_draw_entry), err));
    for (size_t p = 0; p < s->prompts.count; p++)
        for (int64_t k = 0; k < c->k; k++)
            list->draws[list->count++] = (ht_draw_entry){
                .prompt = (int64_t)p, .k = k, .temperature = ht_rejection_temperature(&c->temperatures, k)};
    if (leads(s)) HT_TRY(ht_draws_find(list, s->work.store, &s->missing, err));
    HT_TRY(ht_comm_broadcast(s->work.comm, list->draws, (size_t)list->count * sizeof *list->draws, err));
    HT_TRY(ht_comm_broadcast(s->work.comm, &s->missing, sizeof s->missing, err));
    if (s->missing < list->count)
        ht_info("%" PRId64 " of %" PRId64 " responses are there already", list->count - s->missing,
                list->count);
done:
    return status;
}

/* Found before the work rather than after it: what is missing cannot have been chosen from. */
static ht_status check_not_chosen(const session *s, ht_error *err) {
    int64_t chosen = 0, round = s->config->round;
    ht_store_filter filter = {
        .origins = 1u << HT_ORIGIN_REJECTION, .first_round = round, .end_round = round + 1};
    if (!s->missing || s->config->report_only) return HT_OK;
    ht_status status = ht_store_count(s->work.store, HT_STORE_DEMONSTRATIONS, &filter, &chosen, err);
    if (status == HT_OK && chosen)
        status =
            ht_fail(err, HT_ERR_USAGE,
                    "%s: round %" PRId64 " has %" PRId64
                    " chosen responses, from other samples than this command's; give it another --round, or "
                    "--report-only",
                    s->config->db, round, chosen);
    return status;
}

static ht_status sample(session *s, ht_error *err) {
    ht_status status = HT_OK;
    ht_policy policy = {0};
    ht_engine_limits limits = engine_limits(s->config);
    if (!s->missing) return HT_OK;
    HT_TRY(ht_policy_open(&policy, s->work.be, s->config->model, ht_backend_dtype(s->work.be), &limits, err));
    HT_TRY(ht_draws_sample(&s->work.draws, s->work.store, &policy, s->work.comm, err));
done:
    ht_policy_free(&policy);
    return status;
}

static ht_status write_report(session *s, ht_error *err) {
    const ht_rejection_config *c = s->config;
    ht_status status = HT_OK;
    char path[HT_PATH_MAX];
    if (c->out && c->out[0]) {
        HT_TRY(ht_folder_create(c->out, err));
        HT_TRY(ht_path_join(path, c->out, "curves.json", err));
        HT_TRY(ht_json_write(path, s->report, err));
    }
    if (c->json)
        HT_TRY(ht_json_print(s->report, JSON_INDENT(2), stdout, err));
    else
        ht_rejection_print(&s->work, &s->result, stdout);
    if (fflush(stdout) != 0 || ferror(stdout))
        status = ht_fail(err, HT_ERR_IO, "cannot write the report to stdout");
done:
    return status;
}

static ht_status run_passes(session *s, ht_error *err) {
    ht_status status = HT_OK;
    ht_rejection *work = &s->work;
    const ht_rejection_scorer helpful = {s->config->helpful, work->helpful_id, "score helpful"};
    const ht_rejection_scorer safe = {s->config->safe, work->safe_id, "score safe"};
    HT_TRY(sample(s, err));
    HT_TRY(ht_rejection_score(work, &helpful, err));
    HT_TRY(ht_rejection_score(work, &safe, err));
    if (!leads(s)) return HT_OK;
    HT_TRY(ht_rejection_choose(work, &s->result, err));
    s->report = ht_rejection_report(work, &s->result);
    HT_TRY(ht_rejection_keep(work, &s->result, s->report, s->run_id, err));
    HT_TRY(write_report(s, err));
done:
    return status;
}

static ht_status register_models(ht_rejection *work, ht_error *err) {
    ht_status status = HT_OK;
    const char *const folders[] = {work->config->model, work->config->helpful, work->config->safe};
    int64_t *const ids[] = {&work->policy_id, &work->helpful_id, &work->safe_id};
    for (int i = 0; i < 3; i++) {
        if (ht_comm_rank(work->comm) == 0) HT_TRY(ht_train_register_model(work->store, folders[i], ids[i], err));
        HT_TRY(ht_comm_broadcast(work->comm, ids[i], sizeof *ids[i], err));
    }
done:
    return status;
}

static ht_status begin_run(session *s, const ht_invocation *invocation, ht_error *err) {
    const ht_rejection_config *c = s->config;
    char *resolved;
    ht_status status = ht_json_text(&resolved, invocation->resolved, JSON_COMPACT, err);
    if (status != HT_OK) return status;
    ht_run_row row = {.stage = "rejection",
                      .round = c->round,
                      .model_id = s->work.policy_id,
                      .config = resolved,
                      .folder = c->out && c->out[0] ? c->out : NULL};
    status = ht_store_begin_run(s->work.store, &row, &s->run_id, err);
    free(resolved);
    return status;
}

/* --- dry run ----------------------------------------------------------------------------------------------
 */

/* Bytes of the policy with its cache, or of a reward model; unless it is a dry run, they must be there. */
static ht_status plan_memory(const session *s, const ht_llama_config *shape, size_t *bytes, ht_error *err) {
    ht_status status = HT_OK;
    const ht_rejection_config *c = s->config;
    ht_arena arena;
    ht_llama model = {0};
    ht_engine *engine = NULL;
    ht_activations *acts = NULL;
    ht_engine_limits limits = engine_limits(c);
    int64_t sequences = ht_scorer_sequences(c->score_tokens);
    ht_arena_init(&arena, 1);
    ht_backend_arena(s->work.be, &arena);
    HT_TRY(ht_llama_init(&model, s->work.be, &arena, shape, ht_backend_dtype(s->work.be), err));
    if (shape->head == HT_HEAD_LM)
        HT_TRY(ht_engine_init(&engine, &model, &arena, &limits, err));
    else
        HT_TRY(ht_activations_init(&acts, &model, &arena, HT_KEEP_NOTHING, c->score_tokens, sequences, err));
    *bytes = ht_arena_total(&arena);
    if (!c->dry_run) HT_TRY(ht_backend_check_plan(s->work.be, &arena, err));
done:
    ht_activations_free(acts);
    ht_engine_free(engine);
    ht_llama_free(&model);
    ht_arena_clear(&arena);
    return status;
}

static ht_status print_plan(session *s, const ht_llama_config shapes[3], ht_error *err) {
    ht_status status = HT_OK;
    static const char *const names[] = {"policy", "helpful", "safe"};
    printf("prompts %zu\nresponses %" PRId64 "\n", s->prompts.count,
           (int64_t)s->prompts.count * s->config->k);
    for (int i = 0; i < 3; i++) {
        size_t bytes = 0;
        HT_TRY(plan_memory(s, &shapes[i], &bytes, err));
        printf("%-8s %14zu bytes %10.3f GiB\n", names[i], bytes, (double)bytes / (1024.0 * 1024.0 * 1024.0));
    }
    puts("one model is in memory at a time");
done:
    return status;
}

/* --- the command ------------------------------------------------------------------------------------------
 */

static ht_status work_in_database(session *s, const ht_llama_config shapes[3], const ht_invocation *invocation,
                                  ht_error *err) {
    ht_status status = HT_OK;
    size_t bytes;
    for (int i = 0; i < 3; i++)
        HT_TRY(plan_memory(s, &shapes[i], &bytes, err));
    HT_TRY(register_models(&s->work, err));
    HT_TRY(plan_draws(s, err));
    if (leads(s)) HT_TRY(check_not_chosen(s, err));
    if (leads(s)) HT_TRY(begin_run(s, invocation, err));
    HT_TRY(run_passes(s, err));
done:
    if (status != HT_OK && s->run_id) {
        ht_error ignored = HT_ERROR_INIT;
        if (ht_store_end_run(s->work.store, s->run_id, status, 0, &ignored) != HT_OK)
            ht_warn("%s", ignored.message);
        if (ht_status_is_stop(status))
            ht_info("what was sampled and scored is kept; the same command goes on from there");
    }
    return status;
}

static ht_status run_rejection(void *values, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    const ht_rejection_config *c = values;
    session s = {.config = c, .work = {.config = c}};
    ht_llama_config shapes[3];
    HT_TRY(ht_comm_open(&s.work.comm, err));
    if (c->max_minutes > 0) ht_stop_at(ht_now() + 60 * c->max_minutes);
    HT_TRY(check_config(c, err));
    HT_TRY(check_model(c->model, HT_HEAD_LM, c, &shapes[0], err));
    HT_TRY(check_model(c->helpful, HT_HEAD_SCALAR, c, &shapes[1], err));
    HT_TRY(check_model(c->safe, HT_HEAD_SCALAR, c, &shapes[2], err));
    s.shape = shapes[0];
    if (c->out && c->out[0] && !c->dry_run && leads(&s)) {
        HT_TRY(ht_folder_check_writable(c->out, err));
        HT_TRY(ht_lock_acquire(&s.lock, c->out, err));
    }
    HT_TRY(ht_store_open(&s.work.store, c->db, HT_STORE_EXISTING, err));
    HT_TRY(read_prompts(&s, err));
    HT_TRY(ht_backend_open_device(&s.work.be, (ht_backend_kind)c->backend, ht_comm_local_rank(s.work.comm),
                                  (int)c->threads, err));
    HT_TRY(ht_backend_choose_dtype(s.work.be, (ht_dtype_choice)c->dtype, err));
    if (c->profile && !c->dry_run) HT_TRY(ht_profile_start(s.work.be, err));
    if (!c->dry_run)
        status = work_in_database(&s, shapes, invocation, err);
    else if (leads(&s))
        status = print_plan(&s, shapes, err);
done:
    json_decref(s.report);
    ht_rejection_result_free(&s.result);
    free(s.work.draws.draws);
    ht_prompt_set_free(&s.prompts);
    ht_tokenizer_free(s.tokenizer);
    if (s.work.be) ht_backend_close(s.work.be);
    ht_store_close(s.work.store);
    ht_lock_release(&s.lock);
    return ht_comm_close(s.work.comm, status, err);
}

const ht_command ht_rejection_command = {
    .summary = "Sample K responses to each prompt, score them, keep the best as demonstrations.",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(ht_rejection_config),
    .parallel = 1,
    .run = run_rejection,
};
