/*
 * Which responses count, and scoring them.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/generate/scorer.h"
#include "rejection/rejection.h"

ht_store_filter ht_rejection_filter(const ht_rejection *r) {
    const ht_rejection_config *c = r->config;
    int last = c->pool == HT_POOL_LAST;
    return (ht_store_filter){
        .kinds = c->kind ? 1u << (c->kind - 1) : 0,
        .splits = 1u << HT_SPLIT_TRAIN,
        .first_round = last ? c->round : 0,
        .end_round = c->round + 1,
        .model_id = last ? r->policy_id : 0,
        .helpful_model_id = r->helpful_id,
        .safe_model_id = r->safe_id,
    };
}

int ht_rejection_is_own(const ht_rejection *r, const ht_response_row *row, int64_t *cursor) {
    const ht_draw_list *list = &r->draws;
    int64_t k = r->config->k;
    if (row->model_id != r->policy_id || row->round != r->config->round) return 0;
    while (*cursor < list->count && list->prompts->dialog_ids[list->draws[*cursor].prompt] < row->dialog_id)
        *cursor += k; /* a prompt's draws follow each other */
    if (*cursor >= list->count || list->prompts->dialog_ids[list->draws[*cursor].prompt] != row->dialog_id)
        return 0;
    for (int64_t i = *cursor; i < *cursor + k; i++)
        if (list->draws[i].response_id == row->id) return 1;
    return 0;
}

int ht_rejection_in_pool(const ht_rejection *r, const ht_response_row *row, int own) {
    if (own) return 1;
    return r->config->pool == HT_POOL_ALL && row->model_id && !row->run_id && row->k < HT_DRAW_ANNOTATION_K &&
           row->round <= r->config->round;
}

/* --- scoring ----------------------------------------------------------------------------------------------
 */

/* Responses of a chunk that are to be scored, ids of prompt and response end to end. */
typedef struct chunk {
    const ht_rejection *r;
    const ht_rejection_scorer *which;
    ht_scorer scorer;
    ht_ids ids;
    int64_t *response_ids, *start;
    const int32_t **tokens;
    int64_t *lengths;
    float *scores;
    size_t count, seen; /* to score; of the pool, scored or not */
    size_t id_capacity, start_capacity;
    ht_messages messages; /* of dialogue `dialog` */
    int64_t dialog;
    ht_chat_ids encoded;
} chunk;

/* Rows of the pool a transaction; a chunk is cut by rows, scored or not, so that a repeated command batches
 * alike. */
enum { CHUNK_ROWS = 1024 };

/*
 * The ids a reward model reads. A policy with the same tokenizer: exactly as sampled. Another: its text,
 * encoded as an answer.
 */
static ht_status encode(chunk *c, const ht_scored_row *row, ht_error *err) {
    ht_status status = HT_OK;
    const ht_response_row *response = &row->response;
    ht_chat chat = {.tokenizer = c->scorer.tokenizer, .which = HT_TEMPLATE_LLAMA2};
    if (c->dialog != row->dialog.id) {
        c->dialog = row->dialog.id;
        ht_messages_release(&c->messages);
        HT_TRY(ht_messages_parse(&c->messages, row->dialog.messages, err));
    }
    ht_prompt prompt = {c->messages.items, c->messages.count};
    int same = response->tokens && response->tokenizer_hash &&
               strcmp(response->tokenizer_hash, ht_tokenizer_hash(c->scorer.tokenizer)) == 0;
    if (same)
        HT_TRY(ht_chat_encode_response(&chat, prompt, response->tokens, (size_t)response->token_count,
                                       &c->encoded, err));
    else
        HT_TRY(ht_chat_encode_dialog(
            &chat, prompt, response->text,
            response->finish == HT_FINISH_LENGTH ? HT_ANSWER_CUT : HT_ANSWER_FINISHED, &c->encoded, err));
    if ((int64_t)c->encoded.ids.count > c->r->config->score_tokens)
        status =
            ht_fail(err, HT_ERR_DATA, "prompt and response have %zu tokens, above score.tokens = %" PRId64,
                    c->encoded.ids.count, c->r->config->score_tokens);
done:
    if (status != HT_OK) ht_fail_in(err, "response %" PRId64, response->id);
    return status;
}

static ht_status add(chunk *c, const ht_scored_row *row, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(encode(c, row, err));
    HT_TRY(ht_grow(&c->response_ids, &c->id_capacity, c->count + 1, sizeof(int64_t), err));
    HT_TRY(ht_grow(&c->start, &c->start_capacity, c->count + 2, sizeof(int64_t), err));
    HT_TRY(ht_ids_append(&c->ids, c->encoded.ids.data, c->encoded.ids.count, err));
    c->response_ids[c->count] = row->response.id;
    c->start[++c->count] = (int64_t)c->ids.count;
done:
    return status;
}

static ht_status keep_scores(const chunk *c, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_store_begin(c->r->store, err));
    for (size_t i = 0; i < c->count; i++) {
        double score = (double)c->scores[i];
        if (!isfinite(score))
            HT_TRY(ht_fail(err, HT_ERR_RUN, "%s: the score of response %" PRId64 " is not finite",
                           c->which->folder, c->response_ids[i]));
        HT_TRY(ht_store_add_score(c->r->store, c->response_ids[i], c->which->model_id, score, err));
    }
    HT_TRY(ht_store_commit(c->r->store, err));
done:
    if (status != HT_OK) ht_store_rollback(c->r->store);
    return status;
}

/* Scores the chunk, keeps the scores and begins the next. */
static ht_status flush(chunk *c, ht_error *err) {
    ht_status status = ht_stop_requested();
    if (status != HT_OK) return ht_fail(err, status, "scoring stopped");
    c->seen = 0;
    if (!c->count) return HT_OK;
    for (size_t i = 0; i < c->count; i++) {
        c->tokens[i] = c->ids.data + c->start[i];
        c->lengths[i] = c->start[i + 1] - c->start[i];
    }
    HT_TRY(ht_scorer_score(&c->scorer, c->tokens, c->lengths, (int64_t)c->count, c->scores, err));
    HT_TRY(keep_scores(c, err));
    c->count = 0;
    c->ids.count = 0;
done:
    return status;
}

static ht_status score_pool(chunk *c, ht_store_cursor *cursor, int64_t rows, ht_error *err) {
    ht_status status = HT_OK;
    ht_progress progress;
    ht_scored_row row;
    int found;
    int64_t own_at = 0, done_rows = 0;
    ht_progress_start(&progress, c->which->label, rows);
    for (;;) {
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        ht_progress_update(&progress, ++done_rows, "responses");
        int own = ht_rejection_is_own(c->r, &row.response, &own_at);
        if (!ht_rejection_in_pool(c->r, &row.response, own)) continue;
        double known = c->which->model_id == c->r->helpful_id ? row.helpful : row.safe;
        if (isnan(known)) HT_TRY(add(c, &row, err));
        if (++c->seen == CHUNK_ROWS) HT_TRY(flush(c, err));
    }
    HT_TRY(flush(c, err));
    ht_progress_finish(&progress, done_rows, "responses");
done:
    return status;
}

static void chunk_free(chunk *c) {
    ht_chat_ids_release(&c->encoded);
    ht_messages_release(&c->messages);
    ht_ids_release(&c->ids);
    free(c->response_ids);
    free(c->start);
    free(c->tokens);
    free(c->lengths);
    free(c->scores);
    ht_scorer_free(&c->scorer);
}

/* 1 into *wanted when a response of the pool has no score: else the model need not be loaded. */
static ht_status any_missing(const ht_rejection *r, const ht_rejection_scorer *which, int *wanted,
                             ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = ht_rejection_filter(r);
    ht_scored_row row;
    int found = 1;
    int64_t own_at = 0;
    *wanted = 0;
    HT_TRY(ht_store_read(r->store, HT_STORE_RESPONSES, &filter, &cursor, err));
    while (!*wanted) {
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        int own = ht_rejection_is_own(r, &row.response, &own_at);
        *wanted = ht_rejection_in_pool(r, &row.response, own) &&
                  isnan(which->model_id == r->helpful_id ? row.helpful : row.safe);
    }
done:
    ht_store_cursor_free(cursor);
    return status;
}

ht_status ht_rejection_score(const ht_rejection *r, const ht_rejection_scorer *which, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = ht_rejection_filter(r);
    chunk c = {.r = r, .which = which};
    int64_t rows = 0;
    int wanted = 0;
    HT_TRY(any_missing(r, which, &wanted, err));
    if (!wanted) return HT_OK;
    HT_TRY(ht_calloc(&c.tokens, CHUNK_ROWS, sizeof *c.tokens, err));
    HT_TRY(ht_calloc(&c.lengths, CHUNK_ROWS, sizeof *c.lengths, err));
    HT_TRY(ht_calloc(&c.scores, CHUNK_ROWS, sizeof *c.scores, err));
    HT_TRY(ht_scorer_open(&c.scorer, r->be, which->folder, (ht_dtype)r->config->dtype,
                          r->config->score_tokens, err));
    HT_TRY(ht_store_count(r->store, HT_STORE_RESPONSES, &filter, &rows, err));
    HT_TRY(ht_store_read(r->store, HT_STORE_RESPONSES, &filter, &cursor, err));
    HT_TRY(score_pool(&c, cursor, rows, err));
done:
    ht_store_cursor_free(cursor);
    chunk_free(&c);
    return status;
}
