/*
 * Which responses count, and scoring them.
 */
#include "core/generate/scoring.h"
#include "rejection/rejection.h"

ht_store_filter ht_rejection_filter(const ht_rejection *r) {
    const ht_rejection_config *c = r->config;
    int last = c->pool == HT_POOL_LAST;
    return (ht_store_filter){
        .kinds = ht_choice_mask(c->kind),
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

/* A walk over the rows of the pool. */
typedef struct walk {
    const ht_rejection *r;
    int64_t own_at, dialog; /* of the last row */
} walk;

static int counts(void *context, const ht_scored_row *row) {
    walk *w = context;
    if (row->dialog.id < w->dialog) w->own_at = 0; /* from the beginning again */
    w->dialog = row->dialog.id;
    int own = ht_rejection_is_own(w->r, &row->response, &w->own_at);
    return ht_rejection_in_pool(w->r, &row->response, own);
}

ht_status ht_rejection_score(const ht_rejection *r, const ht_rejection_scorer *which, ht_error *err) {
    walk w = {.r = r};
    ht_scoring_result result;
    const ht_scoring scoring = {.store = r->store,
                                .be = r->be,
                                .comm = r->comm,
                                .folder = which->folder,
                                .model_id = which->model_id,
                                .pass_tokens = r->config->score_tokens,
                                .filter = ht_rejection_filter(r),
                                .counts = counts,
                                .context = &w,
                                .label = which->label};
    return ht_score_responses(&scoring, &result, err);
}
