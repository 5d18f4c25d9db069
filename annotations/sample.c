/*
 * sample.c: halter-annotations sample.
 *
 * One model is in memory at a time: the first response of every pair is drawn, then the second; where the two
 * say the same, the second is drawn again with the next k. All are kept in the database, so the command can
 * be stopped and repeated.
 */
#include "annotations/sample.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/generate/draws.h"
#include "core/train/train.h"

typedef struct sample_config {
    char *db, *model, *other, *out;
    int64_t prompts, test_prompts, round, seed, first_round, last_round, threads;
    double max_minutes;
    int64_t max_prompt_tokens, max_new_tokens, tries, sequences, cache_tokens, chunk;
    ht_floats temperatures;
    double top_p;
    int kind, too_long, dtype, backend;
} sample_config;

/* First coordinate of HT_RNG_CHOICE, by purpose. */
enum { CHOICE_PROMPTS = 2 };

#define S sample_config
static const ht_option options[] = {
    HT_OPT_PATH(S, db, "db", NULL, HT_OPTION_REQUIRED,
                "project database with the prompts; the responses go there"),
    HT_OPT_PATH(S, model, "model", NULL, HT_OPTION_REQUIRED, "model folder: the latest model"),
    HT_OPT_PATH(S, other, "other", NULL, 0,
                "model folder of the second response; default: the first model again"),
    HT_OPT_PATH(S, out, "out", NULL, HT_OPTION_REQUIRED, "CSV file to write, for annotators to fill in"),
    HT_OPT_INT(S, prompts, "prompts", NULL, 0, 1000000000, HT_OPTION_REQUIRED,
               "random prompts of split train"),
    HT_OPT_INT(S, test_prompts, "test_prompts", "0", 0, 1000000000, 0,
               "random prompts of split test: comparisons held out from the reward models"),
    HT_OPT_INT(S, round, "round", "0", 0, 1000000, 0, "round of the samples and of their annotations"),
    HT_OPT_INT(S, seed, "seed", "1", 0, 9007199254740992.0, 0, "seed of every random number"),
    HT_OPT_CHOICE(S, kind, "kind", "all", ht_kind_choices, 0, "prompts of this kind"),
    HT_OPT_INT(S, first_round, "first_round", "0", 0, 1000000, 0, "first round whose prompts are taken"),
    HT_OPT_INT(S, last_round, "last_round", "-1", -1, 1000000, 0,
               "last round whose prompts are taken; -1: no end"),
    HT_OPT_FLOATS(S, temperatures, "temperatures", "0.7,1.0", 0.01, 100, 0,
                  "temperatures; the two of a pair differ when there are several"),
    HT_OPT_FLOAT(S, top_p, "top_p", "1", 1e-6, 1, 0,
                 "draw from the most probable tokens of this mass; 1: off"),
    HT_OPT_FLOAT(S, max_minutes, "max_minutes", "0", 0, 1e7, 0,
                 "stop, exit code 75, before so many minutes are over; the same command goes on; 0: no limit"),
    HT_OPT_INT(S, max_new_tokens, "max_new_tokens", "512", 1, 1 << 20, 0, "longest response, tokens"),
    HT_OPT_INT(S, max_prompt_tokens, "max_prompt_tokens", "1024", 1, 1 << 20, 0, "longest prompt, tokens"),
    HT_OPT_CHOICE(S, too_long, "too_long", "skip", ht_too_long_names, 0, "what to do with a longer prompt"),
    HT_OPT_INT(S, tries, "tries", "4", 1, 100, 0,
               "second responses drawn before a pair that says the same is left out"),
    HT_OPT_INT(S, sequences, "sequences", "128", 1, HT_LOGIT_ROWS, 0, "most responses sampled at once"),
    HT_OPT_INT(
        S, cache_tokens, "cache_tokens", "0", 0, 1e12, 0,
        "positions in the KV cache, shared by the responses sampled at once; 0: as many as they can need"),
    HT_OPT_INT(S, chunk, "chunk", "1024", 1, 1 << 20, 0, "responses sampled and kept at once"),
    HT_DEVICE_OPTIONS(S),
};
#undef S

/* A model's folder and its row. */
typedef struct source {
    const char *folder;
    int64_t id;
} source;

typedef struct pair {
    int64_t prompt; /* index in the set */
    ht_pair_settings settings;
    int64_t response[2]; /* ids: first, second model's */
    ht_pair_state state;
} pair;

typedef struct session {
    const sample_config *config;
    ht_store *store;
    ht_backend *be;
    source sources[2];
    ht_prompt_set prompts; /* of the split being sampled */
    pair *pairs;           /* [prompts.count] */
    int64_t states[HT_PAIR_COUNT], redrawn, number;
    ht_file_writer writer;
} session;

/* --- drawing ----------------------------------------------------------------------------------------------
 */

/* Draws side 0 or 1 of every pair whose side is still wanted; `attempt` counts from 0. */
static ht_status draw_side(session *s, int side, int64_t attempt, ht_policy *policy, ht_error *err) {
    ht_status status = HT_OK;
    const sample_config *c = s->config;
    ht_draw_list list = {.prompts = &s->prompts,
                         .model_id = s->sources[side].id,
                         .round = c->round,
                         .seed = c->seed,
                         .top_p = c->top_p,
                         .max_new_tokens = c->max_new_tokens,
                         .chunk = c->chunk};
    int64_t longest = c->max_prompt_tokens + c->max_new_tokens;
    ht_engine_limits limits = {.max_sequences = c->sequences,
                               .cache_tokens = c->cache_tokens ? c->cache_tokens : c->sequences * longest};
    ht_llama_config shape;
    int64_t missing;
    HT_TRY(ht_calloc(&list.draws, s->prompts.count, sizeof(ht_draw_entry), err));
    for (size_t i = 0; i < s->prompts.count; i++) {
        if (s->pairs[i].state == HT_PAIR_FINE) continue;
        list.draws[list.count++] = (ht_draw_entry){.prompt = s->pairs[i].prompt,
                                                   .k = HT_DRAW_ANNOTATION_K + side + attempt,
                                                   .temperature = s->pairs[i].settings.temperature[side]};
    }
    HT_TRY(ht_model_folder_config(s->sources[side].folder, &shape, err));
    list.max_positions = shape.max_positions;
    HT_TRY(ht_draws_find(&list, s->store, &missing, err));
    if (missing && !policy->engine)
        HT_TRY(ht_policy_open(policy, s->be, s->sources[side].folder, ht_backend_dtype(s->be), &limits, err));
    if (missing) HT_TRY(ht_draws_sample(&list, s->store, policy, NULL, err));
    for (size_t i = 0, d = 0; i < s->prompts.count; i++)
        if (s->pairs[i].state != HT_PAIR_FINE) s->pairs[i].response[side] = list.draws[d++].response_id;
done:
    free(list.draws);
    return status;
}

/* Copies the text of a response. */
static ht_status read_text(ht_store *store, int64_t id, char **text, ht_error *err) {
    ht_scored_row row;
    ht_status status = ht_store_get_response(store, id, &row, err);
    return status == HT_OK ? ht_strdup(text, row.response.text, err) : status;
}

static ht_status judge(session *s, pair *p, ht_error *err) {
    ht_status status = HT_OK;
    char *text[2] = {NULL, NULL};
    for (int side = 0; side < 2; side++)
        HT_TRY(read_text(s->store, p->response[side], &text[side], err));
    p->state = ht_pair_judge(text[0], text[1]);
done:
    free(text[0]);
    free(text[1]);
    return status;
}

static ht_status draw_pairs(session *s, ht_error *err) {
    ht_status status = HT_OK;
    const sample_config *c = s->config;
    ht_policy policy = {0};
    int64_t unfit = (int64_t)s->prompts.count;
    HT_TRY(draw_side(s, 0, 0, &policy, err));
    if (s->sources[1].id != s->sources[0].id) ht_policy_free(&policy);
    for (int64_t attempt = 0; attempt < c->tries && unfit; attempt++) {
        HT_TRY(draw_side(s, 1, attempt, &policy, err));
        if (attempt) s->redrawn += unfit;
        unfit = 0;
        for (size_t i = 0; i < s->prompts.count; i++) {
            if (s->pairs[i].state == HT_PAIR_FINE) continue;
            HT_TRY(judge(s, &s->pairs[i], err));
            unfit += s->pairs[i].state != HT_PAIR_FINE;
        }
    }
done:
    ht_policy_free(&policy);
    return status;
}

/* --- one split --------------------------------------------------------------------------------------------
 */

static ht_status choose_prompts(session *s, ht_split split, int64_t wanted, ht_error *err) {
    ht_status status = HT_OK;
    const sample_config *c = s->config;
    ht_tokenizer *tokenizer = NULL;
    ht_llama_config shape;
    HT_TRY(ht_model_folder_config_of(c->model, HT_HEAD_LM, &shape, err));
    HT_TRY(ht_model_folder_open_tokenizer(c->model, &shape, &tokenizer, err));
    ht_chat chat = {.tokenizer = tokenizer, .which = HT_TEMPLATE_LLAMA2};
    ht_prompt_limits limits = {.max_tokens = c->max_prompt_tokens, .too_long = (ht_too_long)c->too_long};
    ht_store_filter filter = {.kinds = ht_choice_mask(c->kind),
                              .splits = 1u << split,
                              .first_round = c->first_round,
                              .end_round = c->last_round + 1};
    HT_TRY(ht_prompt_set_load(&s->prompts, s->store, &filter, &chat, &limits, err));
    if ((int64_t)s->prompts.count < wanted)
        ht_warn("%" PRId64 " prompts of split %s are wanted, but only %zu fit: all are taken", wanted,
                ht_split_text(split), s->prompts.count);
    uint64_t stream = ht_rng_stream(HT_RNG_CHOICE, CHOICE_PROMPTS, (uint64_t)c->round);
    HT_TRY(ht_prompt_set_choose(&s->prompts, wanted, (uint64_t)c->seed, stream, err));
done:
    ht_tokenizer_free(tokenizer);
    return status;
}

static ht_status write_pair(session *s, const pair *p, ht_error *err) {
    ht_status status = HT_OK;
    ht_scored_row row;
    ht_dialog_row dialog;
    char *text[2] = {NULL, NULL};
    int left = p->settings.is_swapped;
    HT_TRY(read_text(s->store, p->response[left], &text[0], err));
    HT_TRY(read_text(s->store, p->response[!left], &text[1], err));
    HT_TRY(ht_store_get_response(s->store, p->response[0], &row, err));
    HT_TRY(ht_store_get_dialog(s->store, row.dialog.id, &dialog, err));
    ht_pair_row out = {.number = ++s->number,
                       .round = s->config->round,
                       .dialog = &dialog,
                       .id = {p->response[left], p->response[!left]},
                       .text = {text[0], text[1]}};
    ht_pair_write(s->writer.stream, &out);
done:
    free(text[0]);
    free(text[1]);
    return status;
}

static ht_status sample_split(session *s, ht_split split, int64_t wanted, ht_error *err) {
    ht_status status = HT_OK;
    const sample_config *c = s->config;
    if (!wanted) return HT_OK;
    HT_TRY(choose_prompts(s, split, wanted, err));
    HT_TRY(ht_calloc(&s->pairs, s->prompts.count, sizeof *s->pairs, err));
    for (size_t i = 0; i < s->prompts.count; i++)
        s->pairs[i] = (pair){.prompt = (int64_t)i,
                             .settings = ht_pair_draw(c->temperatures.values, c->temperatures.count, c->seed,
                                                      c->round, s->prompts.dialog_ids[i]),
                             .state = HT_PAIR_IDENTICAL}; /* until it is judged */
    HT_TRY(draw_pairs(s, err));
    for (size_t i = 0; i < s->prompts.count; i++) {
        s->states[s->pairs[i].state]++;
        if (s->pairs[i].state == HT_PAIR_FINE) HT_TRY(write_pair(s, &s->pairs[i], err));
    }
done:
    free(s->pairs);
    s->pairs = NULL;
    ht_prompt_set_free(&s->prompts);
    return status;
}

/* --- the command ------------------------------------------------------------------------------------------
 */

static ht_status report(const session *s, ht_error *err) {
    printf("%s: %" PRId64 " pairs", s->config->out, s->states[HT_PAIR_FINE]);
    if (s->redrawn) printf(", %" PRId64 " second responses drawn again", s->redrawn);
    putchar('\n');
    for (int i = HT_PAIR_FINE + 1; i < HT_PAIR_COUNT; i++)
        if (s->states[i])
            printf("  left out %" PRId64 ": %s\n", s->states[i], ht_pair_text((ht_pair_state)i));
    if (fflush(stdout) != 0 || ferror(stdout)) return ht_fail(err, HT_ERR_IO, "cannot write to stdout");
    return HT_OK;
}

static ht_status open_sources(session *s, ht_error *err) {
    ht_status status = HT_OK;
    const sample_config *c = s->config;
    char path[HT_PATH_MAX], hash[2][HT_HASH_LEN];
    s->sources[0].folder = c->model;
    s->sources[1].folder = c->other && c->other[0] ? c->other : c->model;
    for (int i = 0; i < 2; i++) {
        HT_TRY(ht_model_folder_tokenizer(s->sources[i].folder, path, err));
        HT_TRY(ht_file_hash(path, hash[i], err));
    }
    if (strcmp(hash[0], hash[1]))
        HT_TRY(ht_fail(err, HT_ERR_DATA,
                       "%s: the tokenizer differs from that of %s; the prompt's ids serve both models", path,
                       c->model));
    for (int i = 0; i < 2; i++)
        HT_TRY(ht_train_register_model(s->store, s->sources[i].folder, &s->sources[i].id, err));
done:
    return status;
}

static ht_status run(void *values, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    const sample_config *c = values;
    session s = {.config = c};
    (void)invocation;
    if (c->max_minutes > 0) ht_stop_at(ht_now() + 60 * c->max_minutes);
    if (!c->temperatures.count) return ht_fail(err, HT_ERR_USAGE, "temperatures is empty");
    if (!c->prompts && !c->test_prompts)
        return ht_fail(err, HT_ERR_USAGE, "prompts and test_prompts are both 0");
    if (c->cache_tokens && c->cache_tokens < c->max_prompt_tokens + c->max_new_tokens)
        return ht_fail(err, HT_ERR_USAGE,
                       "cache_tokens = %" PRId64 " is below max_prompt_tokens + max_new_tokens = %" PRId64,
                       c->cache_tokens, c->max_prompt_tokens + c->max_new_tokens);
    HT_TRY(ht_store_open(&s.store, c->db, HT_STORE_EXISTING, err));
    HT_TRY(ht_file_create(&s.writer, c->out, err));
    HT_TRY(open_sources(&s, err));
    HT_TRY(ht_backend_open(&s.be, (ht_backend_kind)c->backend, (int)c->threads, err));
    HT_TRY(ht_backend_choose_dtype(s.be, (ht_dtype_choice)c->dtype, err));
    ht_pair_write_header(s.writer.stream);
    HT_TRY(sample_split(&s, HT_SPLIT_TRAIN, c->prompts, err));
    HT_TRY(sample_split(&s, HT_SPLIT_TEST, c->test_prompts, err));
    HT_TRY(ht_file_commit(&s.writer, err));
    HT_TRY(report(&s, err));
done:
    ht_file_abandon(&s.writer);
    if (s.be) ht_backend_close(s.be);
    ht_store_close(s.store);
    return status;
}

const ht_command ht_annotations_sample_command = {
    .name = "sample",
    .summary = "Sample two responses to each of some prompts into a CSV file for annotators.",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(sample_config),
    .run = run,
};
