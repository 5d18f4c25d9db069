/*
 * halter-reward apply: scores of responses, of a database or of a file.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/model/score.h"
#include "reward/pairs.h"
#include "reward/reward.h"

#define SCORED_AT_ONCE 128 /* responses a transaction, or a group of output lines */

/* Responses that are encoded and wait for their scores. */
typedef struct waiting {
    ht_example_set sequences; /* ids: of the responses, or line numbers */
    json_t *lines;            /* array of the input's objects, with --input */
    const int32_t *tokens[SCORED_AT_ONCE];
    int64_t lengths[SCORED_AT_ONCE];
    float scores[SCORED_AT_ONCE];
} waiting;

typedef struct applying {
    ht_reward_judge judge;
    ht_store *store;
    int64_t model_id;
    ht_chat_ids encoded;
    waiting waiting;
    int64_t scored, present, from_text;
    double sum, squares;
} applying;

static ht_status too_long(const applying *a, int64_t length, ht_error *err) {
    return ht_fail(err, HT_ERR_DATA,
                   "prompt and response have %" PRId64 " tokens, above %" PRId64
                   " (--pass-tokens or the model's positions)",
                   length, a->judge.max_tokens);
}

/* Encodes a response and puts it into the waiting ones; the message of an error lacks the place. */
static ht_status enqueue(applying *a, int64_t id, const ht_messages *messages,
                         const ht_response_row *response, ht_error *err) {
    ht_status status = HT_OK;
    ht_prompt prompt = {messages->items, messages->count};
    int from_text = 0;
    HT_TRY(ht_reward_encode(&a->judge.chat, prompt, response, &a->encoded, &from_text, err));
    int64_t length = (int64_t)a->encoded.ids.count;
    if (length > a->judge.max_tokens) {
        status = too_long(a, length, err);
        goto done;
    }
    a->from_text += from_text;
    HT_TRY(ht_example_set_add(&a->waiting.sequences, id, a->encoded.ids.data, NULL, length, err));
done:
    return status;
}

/* Scores of all waiting responses. */
static ht_status score_waiting(applying *a, ht_error *err) {
    ht_status status = HT_OK;
    waiting *w = &a->waiting;
    int64_t count = (int64_t)w->sequences.count;
    for (int64_t i = 0; i < count; i++) {
        ht_example sequence = ht_example_set_get(&w->sequences, i);
        w->tokens[i] = sequence.tokens;
        w->lengths[i] = sequence.length;
    }
    HT_TRY(ht_scorer_score(&a->judge.scorer, w->tokens, w->lengths, count, w->scores, err));
    for (int64_t i = 0; i < count; i++) {
        double score = (double)w->scores[i];
        if (!isfinite(score)) {
            status = ht_fail(err, HT_ERR_RUN, "the score of response %" PRId64 " is %g", w->sequences.ids[i],
                             score);
            goto done;
        }
        a->sum += score;
        a->squares += score * score;
    }
    a->scored += count;
done:
    return status;
}

static void empty_waiting(applying *a) {
    a->waiting.sequences.count = 0;
    if (a->waiting.lines) json_array_clear(a->waiting.lines);
}

/* --- the database -----------------------------------------------------------------------------------------
 */

static ht_status flush_to_store(applying *a, ht_error *err) {
    ht_status status = HT_OK;
    waiting *w = &a->waiting;
    if (!w->sequences.count) return HT_OK;
    HT_TRY(score_waiting(a, err));
    HT_TRY(ht_store_begin(a->store, err));
    for (size_t i = 0; i < w->sequences.count; i++)
        HT_TRY(ht_store_add_score(a->store, w->sequences.ids[i], a->model_id, (double)w->scores[i], err));
    HT_TRY(ht_store_commit(a->store, err));
    empty_waiting(a);
done:
    if (status != HT_OK) ht_store_rollback(a->store);
    return status;
}

static ht_status take_row(applying *a, const ht_scored_row *row, ht_error *err) {
    ht_status status = HT_OK;
    ht_messages messages = {0};
    if (!isnan(row->helpful)) {
        a->present++;
        return HT_OK;
    }
    HT_TRY(ht_messages_parse(&messages, row->dialog.messages, err));
    HT_TRY(enqueue(a, row->response.id, &messages, &row->response, err));
done:
    ht_messages_release(&messages);
    if (status != HT_OK) ht_fail_in(err, "response %" PRId64, row->response.id);
    return status;
}

/* The filter of the responses; this model's scores come with them, so that scored ones are known. */
static ht_status response_filter(const applying *a, const ht_reward_apply_config *config,
                                 ht_store_filter *filter, ht_error *err) {
    ht_status status = HT_OK;
    ht_model_row sampler;
    int found = 0;
    *filter = ht_reward_filter(&config->rows);
    filter->run_id = config->run;
    filter->helpful_model_id = a->model_id;
    if (!config->sampled_by || !config->sampled_by[0]) return HT_OK;
    HT_TRY(ht_store_find_model(a->store, config->sampled_by, &sampler, &found, err));
    if (!found)
        status = ht_fail(err, HT_ERR_DATA, "%s: there is no model \"%s\"", config->db, config->sampled_by);
    filter->model_id = sampler.id;
done:
    return status;
}

static ht_status score_rows(applying *a, const ht_store_filter *filter, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_progress progress;
    int64_t total = 0;
    HT_TRY(ht_store_count(a->store, HT_STORE_RESPONSES, filter, &total, err));
    ht_progress_start(&progress, "apply", total);
    HT_TRY(ht_store_read(a->store, HT_STORE_RESPONSES, filter, &cursor, err));
    for (;;) {
        ht_scored_row row;
        int found;
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        HT_TRY(take_row(a, &row, err));
        if (a->waiting.sequences.count < SCORED_AT_ONCE) continue;
        HT_TRY(flush_to_store(a, err));
        ht_progress_update(&progress, a->scored + a->present, NULL);
        status = ht_stop_requested();
        if (status != HT_OK) {
            ht_fail(err, status,
                    "stopped; %" PRId64 " responses are scored, another run goes on with the rest",
                    a->scored);
            goto done;
        }
    }
    HT_TRY(flush_to_store(a, err));
    ht_progress_finish(&progress, a->scored + a->present, NULL);
done:
    ht_store_cursor_free(cursor);
    return status;
}

static void print_summary(const applying *a, int as_json) {
    double n = (double)a->scored, mean = a->sum / n, deviation = sqrt(fmax(a->squares / n - mean * mean, 0));
    if (as_json && a->scored)
        printf("{\"scored\": %" PRId64 ", \"already_scored\": %" PRId64 ", \"mean\": %.9g, \"sd\": %.9g}\n",
               a->scored, a->present, mean, deviation);
    else if (as_json)
        printf("{\"scored\": 0, \"already_scored\": %" PRId64 ", \"mean\": null, \"sd\": null}\n",
               a->present);
    else
        printf("scored %" PRId64 ", already scored %" PRId64 "\n", a->scored, a->present);
    if (!as_json && a->scored) printf("mean %.4f, sd %.4f\n", mean, deviation);
    if (a->from_text)
        ht_info("%" PRId64 " responses sampled with another tokenizer are encoded from their text",
                a->from_text);
}

static ht_status apply_to_store(applying *a, const ht_reward_apply_config *config, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_filter filter;
    HT_TRY(ht_train_register_model(a->store, config->place.model, &a->model_id, err));
    HT_TRY(response_filter(a, config, &filter, err));
    HT_TRY(score_rows(a, &filter, err));
    if (!a->scored && !a->present) {
        status = ht_fail(err, HT_ERR_DATA, "%s: there is no response that fits the filter", config->db);
        goto done;
    }
    print_summary(a, config->json);
done:
    return status;
}

/* --- a file -----------------------------------------------------------------------------------------------
 */

/* The input's objects with "score" and "sigmoid" added, a line each. */
static ht_status flush_to_stdout(applying *a, ht_error *err) {
    ht_status status = HT_OK;
    waiting *w = &a->waiting;
    size_t i;
    json_t *line;
    HT_TRY(score_waiting(a, err));
    json_array_foreach(w->lines, i, line) {
        double score = (double)w->scores[i];
        json_object_set_new(line, "score", json_real(score));
        json_object_set_new(line, "sigmoid", json_real(ht_sigmoid(score)));
        json_dumpf(line, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
        putchar('\n');
    }
    empty_waiting(a);
done:
    return status;
}

static ht_status take_line(applying *a, int64_t number, const char *text, size_t size, ht_error *err) {
    ht_status status = HT_OK;
    ht_messages messages = {0};
    json_error_t where;
    json_t *line = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    const char *response = ht_json_string(line, "response"), *finish = ht_json_string(line, "finish");
    ht_response_row row = {.text = response};
    if (!line) {
        status = ht_fail(err, HT_ERR_DATA, "malformed JSON: %s", where.text);
        goto done;
    }
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
    HT_TRY(enqueue(a, number, &messages, &row, err));
    if (json_array_append(a->waiting.lines, line) != 0)
        status = ht_fail(err, HT_ERR_NOMEM, "no memory for a line of the input");
done:
    json_decref(line);
    ht_messages_release(&messages);
    return status;
}

static ht_status apply_to_lines(applying *a, const char *path, ht_error *err) {
    ht_status status = HT_OK;
    int is_stdin = strcmp(path, "-") == 0;
    FILE *stream = is_stdin ? stdin : fopen(path, "r");
    char *text = NULL;
    size_t capacity = 0;
    int64_t number = 0;
    ssize_t size;
    if (!stream) return ht_fail(err, HT_ERR_IO, "cannot open \"%s\": %s", path, strerror(errno));
    a->waiting.lines = json_array();
    while ((size = getline(&text, &capacity, stream)) >= 0) {
        number++;
        if (strspn(text, " \t\r\n") == (size_t)size) continue;
        status = take_line(a, number, text, (size_t)size, err);
        if (status != HT_OK) {
            ht_fail_in(err, "%s:%" PRId64, path, number);
            goto done;
        }
        if (a->waiting.sequences.count < SCORED_AT_ONCE) continue;
        HT_TRY(flush_to_stdout(a, err));
        status = ht_stop_requested();
        if (status != HT_OK) {
            ht_fail(err, status, "stopped; %" PRId64 " responses are scored", a->scored);
            goto done;
        }
    }
    if (ferror(stream)) {
        status = ht_fail(err, HT_ERR_IO, "cannot read \"%s\": %s", path, strerror(errno));
        goto done;
    }
    HT_TRY(flush_to_stdout(a, err));
    if (!a->scored) status = ht_fail(err, HT_ERR_DATA, "%s: there is nothing to score", path);
done:
    free(text);
    if (!is_stdin) fclose(stream);
    return status;
}

ht_status ht_reward_apply(void *configuration, const ht_invocation *invocation, ht_error *err) {
    const ht_reward_apply_config *config = configuration;
    ht_status status = HT_OK;
    int to_store = config->db && config->db[0], to_lines = config->input && config->input[0];
    applying *a = NULL;
    (void)invocation;
    if (to_store == to_lines)
        return ht_fail(err, HT_ERR_USAGE,
                       to_store ? "give --db or --input, not both" : "give --db or --input");
    HT_TRY(ht_calloc(&a, 1, sizeof *a, err));
    if (to_store) HT_TRY(ht_store_open(&a->store, config->db, HT_STORE_EXISTING, err));
    HT_TRY(ht_reward_judge_open(&a->judge, &config->place, err));
    if (to_store)
        HT_TRY(apply_to_store(a, config, err));
    else
        HT_TRY(apply_to_lines(a, config->input, err));
done:
    if (a) {
        json_decref(a->waiting.lines);
        ht_example_set_free(&a->waiting.sequences);
        ht_chat_ids_release(&a->encoded);
        ht_reward_judge_close(&a->judge);
        ht_store_close(a->store);
    }
    free(a);
    return status;
}
