/*
 * halter-reward apply: scores of responses, of a database or of a file.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/lines.h"
#include "core/base/memory.h"
#include "core/base/signals.h"
#include "core/batch/batch.h"
#include "core/checkpoint/model_folder.h"
#include "core/generate/samples.h"
#include "core/generate/scoring.h"
#include "reward/reward.h"

#define SCORED_AT_ONCE 128 /* lines of a group */

/* A group of the input's lines, encoded, that waits for its scores. */
typedef struct lines {
    ht_reward_judge judge;
    ht_example_set sequences; /* ids: line numbers */
    json_t *objects;          /* array of the input's objects */
    ht_chat_ids encoded;
    const int32_t *tokens[SCORED_AT_ONCE];
    int64_t lengths[SCORED_AT_ONCE];
    float scores[SCORED_AT_ONCE];
    int64_t scored;
} lines;

/* --- the database -----------------------------------------------------------------------------------------
 */

static ht_status response_filter(ht_store *store, const ht_reward_apply_config *config, ht_store_filter *filter,
                                 ht_error *err) {
    ht_status status = HT_OK;
    ht_model_row sampler;
    int found = 0;
    *filter = ht_reward_filter(&config->rows);
    filter->run_id = config->run;
    if (!config->sampled_by || !config->sampled_by[0]) return HT_OK;
    HT_TRY(ht_store_find_model(store, config->sampled_by, &sampler, &found, err));
    if (!found)
        status = ht_fail(err, HT_ERR_DATA, "%s: there is no model \"%s\"", config->db, config->sampled_by);
    filter->model_id = sampler.id;
done:
    return status;
}

static void print_summary(const ht_scoring_result *result, int as_json) {
    double n = (double)result->scored, mean = result->sum / n;
    double deviation = sqrt(fmax(result->squares / n - mean * mean, 0));
    if (as_json && result->scored)
        printf("{\"scored\": %" PRId64 ", \"already_scored\": %" PRId64 ", \"mean\": %.9g, \"sd\": %.9g}\n",
               result->scored, result->present, mean, deviation);
    else if (as_json)
        printf("{\"scored\": 0, \"already_scored\": %" PRId64 ", \"mean\": null, \"sd\": null}\n",
               result->present);
    else
        printf("scored %" PRId64 ", already scored %" PRId64 "\n", result->scored, result->present);
    if (!as_json && result->scored) printf("mean %.4f, sd %.4f\n", mean, deviation);
}

static ht_status apply_to_store(const ht_reward_apply_config *config, ht_comm *comm, ht_error *err) {
    ht_status status = HT_OK;
    const ht_reward_place *place = &config->place;
    ht_llama_config shape;
    ht_scoring_result result;
    ht_scoring scoring = {.comm = comm, .folder = place->model, .pass_tokens = place->pass_tokens, .label = "apply"};
    int leads = ht_comm_rank(comm) == 0;
    HT_TRY(ht_store_open(&scoring.store, config->db, HT_STORE_EXISTING, err));
    HT_TRY(ht_backend_open_device(&scoring.be, (ht_backend_kind)place->backend, ht_comm_local_rank(comm),
                                  (int)place->threads, err));
    HT_TRY(ht_backend_choose_dtype(scoring.be, (ht_dtype_choice)place->dtype, err));
    HT_TRY(ht_model_folder_config_of(place->model, HT_HEAD_SCALAR, &shape, err)); /* before it becomes a row */
    if (leads) HT_TRY(ht_train_register_model(scoring.store, place->model, &scoring.model_id, err));
    HT_TRY(ht_comm_broadcast(comm, &scoring.model_id, sizeof scoring.model_id, err));
    HT_TRY(response_filter(scoring.store, config, &scoring.filter, err));
    HT_TRY(ht_score_responses(&scoring, &result, err));
    if (!result.scored && !result.present)
        HT_TRY(ht_fail(err, HT_ERR_DATA, "%s: there is no response that fits the filter", config->db));
    if (leads) print_summary(&result, config->json);
done:
    if (scoring.be) ht_backend_close(scoring.be);
    ht_store_close(scoring.store);
    return status;
}

/* --- a file -----------------------------------------------------------------------------------------------
 */

static ht_status add_line(lines *l, int64_t number, const ht_messages *messages, const ht_response_row *response,
                          ht_error *err) {
    ht_status status = HT_OK;
    ht_prompt prompt = {messages->items, messages->count};
    int from_text = 0;
    HT_TRY(ht_response_encode(&l->judge.chat, prompt, response, &l->encoded, &from_text, err));
    int64_t length = (int64_t)l->encoded.ids.count;
    if (length > l->judge.scorer.max_tokens)
        HT_TRY(ht_fail(err, HT_ERR_DATA,
                       "prompt and response have %" PRId64 " tokens, above %" PRId64
                       " (--pass-tokens or the model's positions)",
                       length, l->judge.scorer.max_tokens));
    HT_TRY(ht_example_set_add(&l->sequences, number, l->encoded.ids.data, NULL, length, err));
done:
    return status;
}

/* Scores the group of lines of the file `path` and prints its objects with "score" and "sigmoid" added, a line each. */
static ht_status flush_lines(lines *l, const char *path, ht_error *err) {
    ht_status status = HT_OK;
    int64_t count = (int64_t)l->sequences.count;
    for (int64_t i = 0; i < count; i++) {
        ht_example sequence = ht_example_set_get(&l->sequences, i);
        l->tokens[i] = sequence.tokens;
        l->lengths[i] = sequence.length;
    }
    HT_TRY(ht_scorer_score(&l->judge.scorer, l->tokens, l->lengths, count, l->scores, err));
    for (int64_t i = 0; i < count; i++) {
        double score = (double)l->scores[i];
        json_t *object = json_array_get(l->objects, (size_t)i);
        if (!isfinite(score))
            HT_TRY(ht_fail(err, HT_ERR_RUN, "the score of line %" PRId64 " is %g", l->sequences.ids[i], score));
        json_object_set_new(object, "score", json_real(score));
        json_object_set_new(object, "sigmoid", json_real(ht_sigmoid(score)));
        HT_TRY(ht_json_print(object, JSON_COMPACT | JSON_PRESERVE_ORDER, stdout, err));
    }
    l->scored += count;
    l->sequences.count = 0;
    json_array_clear(l->objects);
done:
    return status == HT_OK ? HT_OK : ht_fail_in(err, "%s", path);
}

static ht_status take_line(lines *l, int64_t number, const char *text, size_t size, ht_error *err) {
    ht_status status = HT_OK;
    ht_messages messages = {0};
    json_error_t where;
    json_t *line;
    status = ht_json_parse(&line, text, size, &where, err);
    if (status == HT_ERR_DATA) ht_fail(err, status, "malformed JSON: %s", where.text);
    if (status != HT_OK) return status;
    const char *response = ht_json_string(line, "response"), *finish = ht_json_string(line, "finish");
    ht_response_row row = {.text = response};
    if (!response) {
        status = ht_fail(err, HT_ERR_DATA, "\"response\" is missing or no text");
        goto done;
    }
    if (json_object_get(line, "finish") && (!finish || ht_finish_find(finish) < 0)) {
        status = ht_fail(err, HT_ERR_DATA, "\"finish\" is neither \"eos\" nor \"length\"");
        goto done;
    }
    if (finish) row.finish = (ht_finish)ht_finish_find(finish);
    HT_TRY(ht_messages_from_json(&messages, json_object_get(line, "messages"), err));
    HT_TRY(add_line(l, number, &messages, &row, err));
    if (json_array_append(l->objects, line) != 0)
        status = ht_fail(err, HT_ERR_NOMEM, "no memory for a line of the input");
done:
    json_decref(line);
    ht_messages_release(&messages);
    return status;
}

static ht_status read_lines(lines *l, const char *path, ht_error *err) {
    ht_status status = HT_OK;
    const char *line;
    size_t size;
    ht_json_lines file;
    HT_TRY(ht_json_lines_open(&file, path, err));
    for (;;) {
        HT_TRY(ht_json_lines_next(&file, &line, &size, err));
        if (!line) break;
        if (take_line(l, file.reader.number, line, size, err) != HT_OK) HT_TRY(ht_json_lines_fail_in(&file, err));
        if (l->sequences.count < SCORED_AT_ONCE) continue;
        HT_TRY(flush_lines(l, path, err));
        status = ht_stop_requested();
        if (status != HT_OK) {
            ht_fail(err, status, "stopped; %" PRId64 " responses are scored", l->scored);
            goto done;
        }
    }
    HT_TRY(flush_lines(l, path, err));
    if (!l->scored) status = ht_fail(err, HT_ERR_DATA, "%s: there is nothing to score", path);
done:
    ht_json_lines_close(&file);
    return status;
}

static ht_status apply_to_lines(const ht_reward_apply_config *config, ht_error *err) {
    ht_status status = HT_OK;
    lines *l = NULL;
    HT_TRY(ht_calloc(&l, 1, sizeof *l, err));
    l->objects = json_array();
    HT_TRY(ht_reward_judge_open(&l->judge, &config->place, NULL, err));
    HT_TRY(read_lines(l, config->input, err));
done:
    if (l) {
        json_decref(l->objects);
        ht_example_set_free(&l->sequences);
        ht_chat_ids_release(&l->encoded);
        ht_reward_judge_close(&l->judge);
    }
    free(l);
    return status;
}

ht_status ht_reward_apply(void *configuration, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    const ht_reward_apply_config *config = configuration;
    int to_store = config->db && config->db[0], to_lines = config->input && config->input[0];
    ht_comm *comm = NULL;
    (void)invocation;
    HT_TRY(ht_comm_open(&comm, err));
    if (to_store == to_lines)
        status = ht_fail(err, HT_ERR_USAGE, to_store ? "give --db or --input, not both" : "give --db or --input");
    else if (to_store)
        status = apply_to_store(config, comm, err);
    else if (comm)
        status = ht_fail(err, HT_ERR_USAGE, "a file is scored by one process: start it without the launcher, or give --db");
    else
        status = apply_to_lines(config, err);
done:
    return ht_comm_close(comm, status, err);
}
