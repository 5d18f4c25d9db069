/*
 * halter-reward evaluate: a reward model against annotators' choices.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "reward/reward.h"
#include "reward/tally.h"

#define SCORED_AT_ONCE 64 /* pairs a rank between two looks at signals and progress */

static ht_status load_pairs(const ht_reward_evaluate_config *config, const ht_reward_judge *judge,
                            ht_store *store, ht_pair_set *set, ht_error *err) {
    const ht_pair_query query = {.filter = ht_reward_filter(&config->rows),
                                 .max_tokens = judge->scorer.max_tokens,
                                 .too_long = (ht_too_long)config->too_long};
    ht_status status = ht_pair_set_load(set, store, &query, &judge->chat, err);
    if (status == HT_OK && !set->count)
        status =
            ht_fail(err, HT_ERR_DATA,
                    "%s: there is no comparison to evaluate on (split \"%s\", kind, rounds and source given)",
                    config->db, ht_split_choices[config->rows.split]);
    return status;
}

static ht_status score_pairs(ht_reward_judge *judge, const ht_pair_set *set, ht_tally *tally, ht_error *err) {
    ht_status status = HT_OK;
    ht_progress progress;
    const ht_tally_scorer scorer = {&judge->scorer.model, judge->scorer.acts, judge->comm};
    int64_t *order = NULL, together = (int64_t)ht_comm_size(judge->comm) * SCORED_AT_ONCE, total = (int64_t)set->count;
    ht_progress_start(&progress, "evaluate", total);
    HT_TRY(ht_calloc(&order, set->count, sizeof *order, err));
    for (int64_t i = 0; i < total; i++)
        order[i] = i;
    for (int64_t first = 0; first < total; first += together) {
        int64_t count = total - first < together ? total - first : together;
        HT_TRY(ht_tally_score(tally, &scorer, set, order + first, count, err));
        ht_progress_update(&progress, first + count, NULL);
        status = ht_stop_requested();
        if (status != HT_OK) {
            ht_fail(err, status, "stopped after %" PRId64 " of %" PRId64 " comparisons; nothing is recorded",
                    first + count, total);
            goto done;
        }
    }
done:
    ht_progress_finish(&progress, tally->pairs, NULL);
    free(order);
    return status;
}

/* A row of the evaluation table. Other splits than test have their name in it. */
static ht_status record(ht_store *store, int64_t model_id, int split, const char *name, const json_t *value,
                        const char *details, ht_error *err) {
    char full[96];
    int is_test = split == 1 + HT_SPLIT_TEST;
    if (!json_is_number(value)) return HT_OK;
    snprintf(full, sizeof full, "reward_%s%s%s", name, is_test ? "" : "_", is_test ? "" : ht_split_choices[split]);
    return ht_store_record_evaluation(
        store,
        &(ht_evaluation_row){
            .model_id = model_id, .name = full, .value = json_number_value(value), .details = details},
        err);
}

static ht_status print_report(const json_t *report, int as_json, ht_error *err) {
    if (as_json) return ht_json_print(report, JSON_INDENT(2), stdout, err);
    ht_tally_print(stdout, report);
    return HT_OK;
}

static ht_status record_report(ht_store *store, const ht_reward_evaluate_config *config, const json_t *report,
                               ht_error *err) {
    ht_status status = HT_OK;
    int64_t model_id = 0;
    int split = config->rows.split;
    size_t i;
    const char *kind;
    json_t *row, *kinds = json_object_get(json_object_get(report, "groups"), "kind");
    char *details, name[64];
    HT_TRY(ht_json_text(&details, report, JSON_COMPACT, err));
    HT_TRY(ht_train_register_model(store, config->place.model, &model_id, err));
    HT_TRY(ht_store_begin(store, err));
    HT_TRY(record(store, model_id, split, "accuracy", json_object_get(report, "accuracy"), details, err));
    HT_TRY(record(store, model_id, split, "accuracy_se", json_object_get(report, "accuracy_se"), NULL, err));
    HT_TRY(record(store, model_id, split, "ece",
                  json_object_get(json_object_get(report, "calibration"), "ece"), NULL, err));
    json_object_foreach(kinds, kind, row) {
        snprintf(name, sizeof name, "accuracy_%s", kind);
        HT_TRY(record(store, model_id, split, name, json_object_get(row, "accuracy"), NULL, err));
    }
    json_array_foreach(json_object_get(json_object_get(report, "unsafe"), "thresholds"), i, row) {
        double threshold = json_number_value(json_object_get(row, "threshold"));
        snprintf(name, sizeof name, "unsafe_recall_%g", threshold);
        HT_TRY(record(store, model_id, split, name, json_object_get(row, "recall"), NULL, err));
        snprintf(name, sizeof name, "unsafe_precision_%g", threshold);
        HT_TRY(record(store, model_id, split, name, json_object_get(row, "precision"), NULL, err));
    }
    HT_TRY(ht_store_commit(store, err));
done:
    if (status != HT_OK) ht_store_rollback(store);
    free(details);
    return status;
}

ht_status ht_reward_evaluate(void *configuration, const ht_invocation *invocation, ht_error *err) {
    const ht_reward_evaluate_config *config = configuration;
    ht_status status = HT_OK;
    ht_reward_judge judge = {.be = NULL};
    ht_store *store = NULL;
    ht_pair_set set = {.count = 0};
    ht_tally tally = {.groups = NULL};
    json_t *report = NULL;
    ht_comm *comm = NULL;
    HT_TRY(ht_comm_open(&comm, err));
    HT_TRY(ht_store_open(&store, config->db, HT_STORE_EXISTING, err));
    HT_TRY(ht_reward_judge_open(&judge, &config->place, comm, err));
    HT_TRY(load_pairs(config, &judge, store, &set, err));
    HT_TRY(ht_tally_init(&tally, err));
    HT_TRY(score_pairs(&judge, &set, &tally, err));
    HT_TRY(ht_tally_report(&tally, &report, err));
    json_object_set_new(report, "model", json_string(config->place.model));
    json_object_set_new(report, "split", json_string(ht_split_choices[config->rows.split]));
    json_object_set_new(report, "too_long_left_out", json_integer(set.skipped));
    json_object_set(report, "options", invocation->resolved);
    if (ht_comm_rank(comm) == 0) {
        HT_TRY(record_report(store, config, report, err));
        HT_TRY(print_report(report, config->json, err));
    }
done:
    json_decref(report);
    ht_tally_release(&tally);
    ht_pair_set_free(&set);
    ht_reward_judge_close(&judge);
    ht_store_close(store);
    return ht_comm_close(comm, status, err);
}
