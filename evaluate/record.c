/*
 * Evaluations as rows of the database.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "core/base/json.h"
#include "evaluate/evaluation.h"

/* Takes the reference to `details`. */
static ht_status record(const ht_evaluator *e, int64_t model_id, const char *name, double value, json_t *details,
                        ht_error *err) {
    char *text;
    ht_status status = ht_json_text(&text, details, JSON_COMPACT, err);
    json_decref(details);
    if (status != HT_OK) return status;
    ht_evaluation_row row = {.model_id = model_id, .name = name, .value = value, .details = text};
    status = ht_store_record_evaluation(e->store, &row, err);
    free(text);
    return status;
}

/* Adds "run" and the reward models' ids to `details`. */
static json_t *with_origin(json_t *details, const ht_evaluation *evaluation, const ht_evaluator *e) {
    json_object_set_new(details, "run", json_integer(evaluation->run_id));
    json_object_set_new(details, "helpful", json_integer(e->helpful_id));
    json_object_set_new(details, "safe", json_integer(e->safe_id));
    return details;
}

ht_status ht_evaluation_record(const ht_evaluation *evaluation, const ht_evaluator *e, ht_error *err) {
    ht_status status = HT_OK;
    ht_mean measures[HT_MEASURE_COUNT];
    ht_measure_all(evaluation->responses, evaluation->count, measures);
    HT_TRY(ht_store_begin(e->store, err));
    for (int m = 0; m < HT_MEASURE_COUNT; m++)
        HT_TRY(record(e, evaluation->model_id, ht_measure_text((ht_measure)m), ht_mean_value(&measures[m]),
                      with_origin(ht_mean_json(&measures[m]), evaluation, e), err));
    HT_TRY(record(e, evaluation->model_id, HT_ROW_PROMPTS, (double)evaluation->count,
                  json_pack("{s:I, s:O, s:O}", "run", (json_int_t)evaluation->run_id, "settings", evaluation->settings,
                            "judges", e->judges),
                  err));
    HT_TRY(ht_store_commit(e->store, err));
done:
    if (status != HT_OK) ht_store_rollback(e->store);
    return status;
}

static ht_status record_rate(const ht_evaluation *a, const ht_evaluation *b, const ht_evaluator *e, const char *suffix,
                             const ht_wins *wins, ht_error *err) {
    char name[HT_PATH_MAX];
    json_t *details = with_origin(ht_wins_json(wins), a, e);
    json_object_set_new(details, "against", json_integer(b->model_id));
    json_object_set_new(details, "against_run", json_integer(b->run_id));
    snprintf(name, sizeof name, HT_ROW_WIN_RATE "%s:%.4000s", suffix, b->name);
    return record(e, a->model_id, name, ht_mean_value(&wins->rate), details, err);
}

ht_status ht_evaluation_compare(ht_win_rates *rates, const ht_evaluation *a, const ht_evaluation *b,
                                const ht_evaluator *e, ht_error *err) {
    ht_status status = HT_OK;
    const ht_pairing pairing = {.a = a->responses,
                                .b = b->responses,
                                .a_count = a->count,
                                .b_count = b->count,
                                .judge = ht_judge_by_rewards};
    HT_TRY(ht_wins_count(rates, &pairing, err));
    HT_TRY(ht_store_begin(e->store, err));
    HT_TRY(record_rate(a, b, e, "", &rates->all, err));
    HT_TRY(record_rate(a, b, e, "_helpfulness", &rates->kind[HT_KIND_HELPFULNESS], err));
    HT_TRY(record_rate(a, b, e, "_safety", &rates->kind[HT_KIND_SAFETY], err));
    HT_TRY(ht_store_commit(e->store, err));
done:
    if (status != HT_OK) ht_store_rollback(e->store);
    return status;
}
