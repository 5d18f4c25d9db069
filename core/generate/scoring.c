#include "core/generate/scoring.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/batch/batch.h"
#include "core/checkpoint/model_folder.h"
#include "core/generate/samples.h"

enum { CHUNK_ROWS = 256 }; /* responses a transaction, and between two looks at the signals */

/* Responses of a chunk that wait for their scores. */
typedef struct chunk {
    const ht_scoring *scoring;
    ht_scoring_result *result;
    ht_scorer scorer;
    ht_example_set waiting; /* ids: of the responses */
    int64_t rows;           /* of the chunk, scored or not */
    int64_t missing, from_text;
    double seconds; /* the last chunk took */
    ht_progress progress;
    ht_messages messages; /* of dialogue `dialog` */
    int64_t dialog;
    ht_chat_ids encoded;
} chunk;

static ht_status check_length(const chunk *c, ht_error *err) {
    int64_t length = (int64_t)c->encoded.ids.count, positions = c->scorer.model.config.max_positions;
    if (length <= c->scorer.max_tokens) return HT_OK;
    if (length > positions)
        return ht_fail(err, HT_ERR_DATA, "prompt and response have %" PRId64 " tokens, above the %" PRId64 " positions of %s",
                       length, positions, c->scoring->folder);
    return ht_fail(err, HT_ERR_DATA, "prompt and response have %" PRId64 " tokens, above the %" PRId64 " of a pass", length,
                   c->scorer.max_tokens);
}

static ht_status add(chunk *c, const ht_scored_row *row, ht_error *err) {
    ht_status status = HT_OK;
    ht_chat chat = {.tokenizer = c->scorer.tokenizer, .which = HT_TEMPLATE_LLAMA2};
    int from_text = 0;
    if (c->dialog != row->dialog.id) {
        c->dialog = row->dialog.id;
        ht_messages_release(&c->messages);
        HT_TRY(ht_messages_parse(&c->messages, row->dialog.messages, err));
    }
    ht_prompt prompt = {c->messages.items, c->messages.count};
    HT_TRY(ht_response_encode(&chat, prompt, &row->response, &c->encoded, &from_text, err));
    HT_TRY(check_length(c, err));
    HT_TRY(ht_example_set_add(&c->waiting, row->response.id, c->encoded.ids.data, NULL, (int64_t)c->encoded.ids.count, err));
    c->from_text += from_text;
done:
    if (status != HT_OK) ht_fail_in(err, "response %" PRId64, row->response.id);
    return status;
}

/* Checks and adds up; rank 0 stores. */
static ht_status keep_scores(const chunk *c, const float *scores, ht_error *err) {
    ht_status status = HT_OK;
    const ht_scoring *scoring = c->scoring;
    int stores = ht_comm_rank(scoring->comm) == 0;
    if (stores) HT_TRY(ht_store_begin(scoring->store, err));
    for (size_t i = 0; i < c->waiting.count; i++) {
        double score = (double)scores[i];
        if (!isfinite(score))
            HT_TRY(ht_fail(err, HT_ERR_RUN, "%s gives response %" PRId64 " the score %g", scoring->folder, c->waiting.ids[i],
                           score));
        if (stores) HT_TRY(ht_store_add_score(scoring->store, c->waiting.ids[i], scoring->model_id, score, err));
        c->result->sum += score;
        c->result->squares += score * score;
    }
    if (stores) HT_TRY(ht_store_commit(scoring->store, err));
done:
    if (stores && status != HT_OK) ht_store_rollback(scoring->store);
    return status;
}

/* scores [count] of the waiting responses: this rank's part by its model, the others' from them. */
static ht_status score_waiting(chunk *c, float *scores, int64_t count, ht_error *err) {
    ht_status status = HT_OK;
    const int32_t *tokens[CHUNK_ROWS];
    int64_t lengths[CHUNK_ROWS], first, end;
    ht_gathered all = {NULL, NULL};
    ht_comm_part(c->scoring->comm, count, &first, &end);
    for (int64_t i = first; i < end; i++) {
        ht_example sequence = ht_example_set_get(&c->waiting, i);
        tokens[i - first] = sequence.tokens;
        lengths[i - first] = sequence.length;
    }
    HT_TRY(ht_scorer_score(&c->scorer, tokens, lengths, end - first, scores, err));
    HT_TRY(ht_comm_gather(c->scoring->comm, scores, (size_t)(end - first) * sizeof *scores, &all, err));
    memcpy(scores, all.data, (size_t)count * sizeof *scores);
done:
    ht_gathered_free(&all);
    return status;
}

/* Scores the chunk, keeps the scores and begins the next. */
static ht_status flush(chunk *c, ht_error *err) {
    ht_status status = ht_stop_within(c->seconds);
    double started = ht_now();
    int64_t count = (int64_t)c->waiting.count;
    float scores[CHUNK_ROWS];
    c->rows = 0;
    if (status != HT_OK) return ht_fail(err, status, "stopped after %" PRId64 " scores", c->result->scored);
    if (!count) return HT_OK;
    HT_TRY(score_waiting(c, scores, count, err));
    HT_TRY(keep_scores(c, scores, err));
    c->result->scored += count;
    c->waiting.count = 0;
    c->seconds = ht_now() - started;
    ht_progress_update(&c->progress, c->result->scored, "responses");
done:
    return status;
}

/* What is done with each row that counts. */
typedef ht_status ht_scoring_visit(chunk *c, const ht_scored_row *row, ht_error *err);

static ht_status each_row(chunk *c, ht_scoring_visit *visit, ht_error *err) {
    ht_status status = HT_OK;
    const ht_scoring *scoring = c->scoring;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = scoring->filter;
    filter.helpful_model_id = scoring->model_id;
    filter.safe_model_id = 0;
    HT_TRY(ht_store_read(scoring->store, HT_STORE_RESPONSES, &filter, &cursor, err));
    for (;;) {
        ht_scored_row row;
        int found;
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        if (!scoring->counts || scoring->counts(scoring->context, &row)) HT_TRY(visit(c, &row, err));
    }
done:
    ht_store_cursor_free(cursor);
    return status;
}

static ht_status count(chunk *c, const ht_scored_row *row, ht_error *err) {
    (void)err;
    if (isnan(row->helpful))
        c->missing++;
    else
        c->result->present++;
    return HT_OK;
}

static ht_status take(chunk *c, const ht_scored_row *row, ht_error *err) {
    ht_status status = HT_OK;
    if (isnan(row->helpful)) HT_TRY(add(c, row, err));
    if (++c->rows == CHUNK_ROWS) HT_TRY(flush(c, err));
done:
    return status;
}

ht_status ht_score_responses(const ht_scoring *scoring, ht_scoring_result *result, ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config config;
    chunk c = {.scoring = scoring, .result = result};
    memset(result, 0, sizeof *result);
    HT_TRY(ht_model_folder_config_of(scoring->folder, HT_HEAD_SCALAR, &config, err));
    HT_TRY(each_row(&c, count, err));
    if (!c.missing) goto done;
    ht_progress_start(&c.progress, scoring->label, c.missing);
    HT_TRY(ht_scorer_open(&c.scorer, scoring->be, scoring->folder, ht_backend_dtype(scoring->be), scoring->pass_tokens, err));
    HT_TRY(each_row(&c, take, err));
    HT_TRY(flush(&c, err));
    HT_TRY(ht_comm_barrier(scoring->comm, err)); /* all of it is in the database */
    ht_progress_finish(&c.progress, result->scored, "responses");
    if (c.from_text)
        ht_info("%" PRId64 " responses are scored from their text: they were sampled with another tokenizer than %s's",
                c.from_text, scoring->folder);
done:
    ht_chat_ids_release(&c.encoded);
    ht_messages_release(&c.messages);
    ht_example_set_free(&c.waiting);
    ht_scorer_free(&c.scorer);
    return status;
}
