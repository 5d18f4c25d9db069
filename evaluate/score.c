/*
 * Scores of a run's responses: what the database does not have yet is computed, then all is read from there.
 */
#include "evaluate/score.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/generate/scorer.h"

#define SCORED_AT_ONCE 128 /* responses a transaction */

/* Responses that are encoded and wait for their scores. */
typedef struct scoring {
    const ht_evaluator *e;
    ht_score_model model;
    ht_scorer scorer;
    ht_example_set waiting; /* ids: of the responses */
    ht_chat_ids encoded;
    int64_t from_text, done;
} scoring;

/* The sampled ids where the reward model shares the policy's tokenizer: decoding and encoding again could change them. */
static ht_status encode(scoring *s, const ht_scored_row *row, ht_error *err) {
    ht_status status = HT_OK;
    ht_messages messages = {0};
    const ht_response_row *response = &row->response;
    ht_chat chat = {s->scorer.tokenizer, HT_TEMPLATE_LLAMA2};
    int is_same = response->tokenizer_hash && strcmp(response->tokenizer_hash, ht_tokenizer_hash(chat.tokenizer)) == 0;
    HT_TRY(ht_messages_parse(&messages, row->dialog.messages, err));
    ht_prompt prompt = {messages.items, messages.count};
    if (is_same) {
        HT_TRY(ht_chat_encode_response(&chat, prompt, response->tokens, (size_t)response->token_count, &s->encoded, err));
    } else {
        ht_answer_end end = response->finish == HT_FINISH_LENGTH ? HT_ANSWER_CUT : HT_ANSWER_FINISHED;
        HT_TRY(ht_chat_encode_dialog(&chat, prompt, response->text, end, &s->encoded, err));
        s->from_text++;
    }
    int64_t length = (int64_t)s->encoded.ids.count, limit = s->scorer.model.config.max_positions;
    if (length > limit)
        HT_TRY(ht_fail(err, HT_ERR_DATA, "prompt and response have %" PRId64 " tokens, above the %" PRId64
                                         " positions of %s",
                       length, limit, s->model.folder));
    HT_TRY(ht_example_set_add(&s->waiting, response->id, s->encoded.ids.data, NULL, length, err));
done:
    ht_messages_release(&messages);
    if (status != HT_OK) ht_fail_in(err, "response %" PRId64, response->id);
    return status;
}

static ht_status score_waiting(scoring *s, ht_error *err) {
    ht_status status = HT_OK;
    ht_store *store = s->e->store;
    const int32_t *tokens[SCORED_AT_ONCE];
    int64_t lengths[SCORED_AT_ONCE], count = (int64_t)s->waiting.count;
    float scores[SCORED_AT_ONCE];
    for (int64_t i = 0; i < count; i++) {
        ht_example sequence = ht_example_set_get(&s->waiting, i);
        tokens[i] = sequence.tokens;
        lengths[i] = sequence.length;
    }
    HT_TRY(ht_scorer_score(&s->scorer, tokens, lengths, count, scores, err));
    HT_TRY(ht_store_begin(store, err));
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(scores[i]))
            HT_TRY(ht_fail(err, HT_ERR_RUN, "%s gives response %" PRId64 " the score %g", s->model.folder,
                           s->waiting.ids[i], (double)scores[i]));
        HT_TRY(ht_store_add_score(store, s->waiting.ids[i], s->model.id, (double)scores[i], err));
    }
    HT_TRY(ht_store_commit(store, err));
    s->waiting.count = 0;
    s->done += count;
    status = ht_stop_requested();
    if (status != HT_OK) ht_fail(err, status, "stopped after %" PRId64 " scores", s->done);
done:
    if (status != HT_OK) ht_store_rollback(store);
    return status;
}

static ht_status score_rows(scoring *s, ht_store_cursor *cursor, ht_progress *progress, ht_error *err) {
    ht_status status = HT_OK;
    for (;;) {
        ht_scored_row row;
        int found;
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        if (!isnan(row.helpful)) continue;
        HT_TRY(encode(s, &row, err));
        if (s->waiting.count < SCORED_AT_ONCE) continue;
        HT_TRY(score_waiting(s, err));
        ht_progress_update(progress, s->done, NULL);
    }
    if (s->waiting.count) HT_TRY(score_waiting(s, err));
    if (s->from_text)
        ht_info("%" PRId64 " responses are scored from their text: %s has another tokenizer", s->from_text,
                s->model.folder);
done:
    return status;
}

/* Responses of the run that the model has not scored. */
static ht_status count_unscored(const ht_evaluator *e, const ht_store_filter *filter, int64_t *count, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    *count = 0;
    HT_TRY(ht_store_read(e->store, HT_STORE_RESPONSES, filter, &cursor, err));
    for (;;) {
        ht_scored_row row;
        int found;
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        *count += isnan(row.helpful) != 0;
    }
done:
    ht_store_cursor_free(cursor);
    return status;
}

ht_status ht_score_run(const ht_evaluator *e, int64_t run_id, ht_score_model model, ht_error *err) {
    ht_status status = HT_OK;
    scoring s = {.e = e, .model = model};
    ht_store_filter filter = {.run_id = run_id, .helpful_model_id = model.id};
    ht_store_cursor *cursor = NULL;
    ht_progress progress;
    char label[128];
    int64_t total = 0;
    HT_TRY(count_unscored(e, &filter, &total, err));
    if (!total) goto done; /* nothing to load the model for */
    snprintf(label, sizeof label, "score by %.100s", model.folder);
    ht_progress_start(&progress, label, total);
    HT_TRY(ht_scorer_open(&s.scorer, e->be, model.folder, (ht_dtype)e->config->dtype, 0, err));
    HT_TRY(ht_store_read(e->store, HT_STORE_RESPONSES, &filter, &cursor, err));
    HT_TRY(score_rows(&s, cursor, &progress, err));
    ht_progress_finish(&progress, s.done, NULL);
done:
    ht_store_cursor_free(cursor);
    ht_example_set_free(&s.waiting);
    ht_chat_ids_release(&s.encoded);
    ht_scorer_free(&s.scorer);
    return status;
}

ht_status ht_score_read(ht_evaluation *evaluation, const ht_evaluator *e, ht_error *err) {
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
