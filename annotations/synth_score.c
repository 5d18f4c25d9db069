/*
 * synth_score.c: the oracle's scores of the responses in a database.
 */
#include "annotations/synth.h"

#include <math.h>
#include <string.h>

#include "annotations/oracle.h"
#include "core/base/json.h"
#include "core/base/signals.h"

enum { ROWS_A_TRANSACTION = 512 };

static ht_status oracle_model(ht_store *store, const char *name, int64_t *id, ht_error *err) {
    const ht_model_row row = {.name = name, .path = "", .hash = HT_WORLD_VERSION, .stage = HT_ORACLE_STAGE};
    return ht_store_add_model(store, &row, id, err);
}

/* Judges one response; *known = 0 when its dialogue is not of the world. */
static ht_status judge_row(ht_judgement *judgement, const ht_scored_row *row, int *known, ht_error *err) {
    ht_task task;
    json_error_t reason;
    ht_status status;
    json_t *messages;
    *known = 0;
    status = ht_json_parse(&messages, row->dialog.messages, strlen(row->dialog.messages), &reason, err);
    if (status == HT_ERR_DATA)
        ht_fail(err, status, "messages of dialogue %lld: %s", (long long)row->dialog.id, reason.text);
    HT_TRY(status);
    HT_TRY(ht_world_recognise(messages, &task, known, err));
    if (*known) HT_TRY(ht_oracle_judge_task(judgement, &task, row->response.text, err));
done:
    json_decref(messages);
    return status;
}

static void tally(ht_synth_score_result *result, ht_kind kind, double helpfulness, double violation) {
    ht_synth_tally *of_kind = &result->kinds[kind];
    of_kind->responses++;
    of_kind->helpfulness += helpfulness;
    of_kind->violations += violation > 0.5;
}

/* Scores one response when it lacks scores; *written += 1 when rows were added. */
static ht_status score_row(ht_store *store, const ht_scored_row *row, const ht_store_filter *filter,
                           ht_synth_score_result *result, int64_t *written, ht_error *err) {
    ht_judgement judgement;
    int known;
    if (!isnan(row->helpful) && !isnan(row->safe)) {
        result->existing++;
        tally(result, row->dialog.kind, row->helpful, row->safe);
        return HT_OK;
    }
    ht_status status = judge_row(&judgement, row, &known, err);
    if (status != HT_OK) return status;
    if (!known) {
        result->unknown++;
        return HT_OK;
    }
    status =
        ht_store_add_score(store, row->response.id, filter->helpful_model_id, judgement.helpfulness, err);
    if (status != HT_OK) return status;
    result->scored++;
    ++*written;
    tally(result, row->dialog.kind, judgement.helpfulness, judgement.violation);
    return ht_store_add_score(store, row->response.id, filter->safe_model_id, judgement.violation, err);
}

ht_status ht_synth_score(ht_store *store, const ht_store_filter *filter, ht_synth_score_result *result,
                         ht_error *err) {
    ht_store_cursor *cursor = NULL;
    ht_store_filter scored = *filter;
    int64_t written = 0;
    int found = 1, open = 0;
    ht_status status;
    memset(result, 0, sizeof *result);
    HT_TRY(oracle_model(store, HT_ORACLE_HELPFULNESS, &scored.helpful_model_id, err));
    HT_TRY(oracle_model(store, HT_ORACLE_VIOLATION, &scored.safe_model_id, err));
    HT_TRY(ht_store_read(store, HT_STORE_RESPONSES, &scored, &cursor, err));
    for (;;) {
        ht_scored_row row;
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        if (!open) HT_TRY(ht_store_begin(store, err));
        open = 1;
        HT_TRY(score_row(store, &row, &scored, result, &written, err));
        if (written < ROWS_A_TRANSACTION) continue;
        written = open = 0;
        HT_TRY(ht_store_commit(store, err));
        status = ht_stop_requested();
        if (status != HT_OK) {
            ht_fail(err, status, "not all responses are scored");
            goto done;
        }
    }
    if (open) {
        open = 0;
        HT_TRY(ht_store_commit(store, err));
    }
done:
    ht_store_cursor_free(cursor);
    if (open) ht_store_rollback(store);
    return status;
}
