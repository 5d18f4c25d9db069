/*
 * What stays in the database: the chosen responses as demonstrations, the numbers of the report.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/memory.h"
#include "rejection/rejection.h"

static int by_id(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* What this round chose before must be what it chooses now: two answers to a prompt would both be trained on.
 */
static ht_status check_earlier(const ht_rejection *r, const ht_rejection_result *result, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    int64_t *sorted = NULL, round = r->config->round;
    ht_demonstration_row row;
    int found;
    ht_store_filter filter = {
        .origins = 1u << HT_ORIGIN_REJECTION, .first_round = round, .end_round = round + 1};
    HT_TRY(ht_calloc(&sorted, result->chosen_count, sizeof *sorted, err));
    if (result->chosen_count) memcpy(sorted, result->chosen, result->chosen_count * sizeof *sorted);
    qsort(sorted, result->chosen_count, sizeof *sorted, by_id);
    HT_TRY(ht_store_read(r->store, HT_STORE_DEMONSTRATIONS, &filter, &cursor, err));
    for (;;) {
        HT_TRY(ht_store_next_demonstration(cursor, &row, &found, err));
        if (!found) break;
        if (!bsearch(&row.response_id, sorted, result->chosen_count, sizeof *sorted, by_id))
            HT_TRY(ht_fail(err, HT_ERR_DATA,
                           "%s: round %" PRId64 " has chosen response %" PRId64 " of dialog %" PRId64
                           " before, and this command does not; give it another --round, or "
                           "--report-only",
                           r->config->db, round, row.response_id, row.dialog.id));
    }
done:
    ht_store_cursor_free(cursor);
    free(sorted);
    return status;
}

static ht_status keep_numbers(const ht_rejection *r, const ht_rejection_result *result, const json_t *report,
                              int64_t run_id, ht_error *err) {
    ht_status status = HT_OK;
    const ht_rejection_sums *all = &result->sums[HT_GROUP_ALL];
    double samples = (double)all->samples, made = (double)all->choices[HT_CHOICE_MADE];
    char *details;
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"rejection_mean_reward", all->reward / samples},
        {"rejection_median_reward", all->median / (double)all->prompts},
        {"rejection_max_reward", ht_curve_best(&result->curve, result->curve.n)},
        {"rejection_chosen_reward", all->chosen_reward / made},
        {"rejection_unsafe_share", (double)all->unsafe / samples},
        {"rejection_truncated_share", (double)all->truncated / samples},
    };
    HT_TRY(ht_json_text(&details, report, JSON_COMPACT, err));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        ht_evaluation_row row = {.model_id = r->policy_id,
                                 .name = numbers[i].name,
                                 .value = numbers[i].value,
                                 .details = i == 0 ? details : NULL};
        ht_metric metric = {.name = numbers[i].name, .value = numbers[i].value};
        HT_TRY(ht_store_record_evaluation(r->store, &row, err));
        HT_TRY(ht_store_add_metrics(r->store, run_id, &metric, 1, err));
    }
    for (int64_t N = 1; N <= result->curve.n; N++) { /* the step of these is N */
        ht_metric metrics[] = {{N, "max_reward", ht_curve_best(&result->curve, N)},
                               {N, "median_reward", ht_curve_median(&result->curve, N)}};
        HT_TRY(ht_store_add_metrics(r->store, run_id, metrics, 2, err));
    }
done:
    free(details);
    return status;
}

ht_status ht_rejection_keep(const ht_rejection *r, const ht_rejection_result *result, const json_t *report,
                            int64_t run_id, ht_error *err) {
    ht_status status = HT_OK;
    int64_t id;
    HT_TRY(ht_store_begin(r->store, err));
    if (!r->config->report_only) {
        HT_TRY(check_earlier(r, result, err));
        for (size_t i = 0; i < result->chosen_count; i++) {
            ht_demonstration_row row = {.response_id = result->chosen[i],
                                        .origin = HT_ORIGIN_REJECTION,
                                        .round = r->config->round,
                                        .weight = 1};
            HT_TRY(ht_store_add_demonstration(r->store, &row, &id, NULL, err));
        }
    }
    HT_TRY(keep_numbers(r, result, report, run_id, err));
    HT_TRY(ht_store_end_run(r->store, run_id, HT_OK, 0, err));
    HT_TRY(ht_store_commit(r->store, err));
done:
    if (status != HT_OK) ht_store_rollback(r->store);
    return status;
}
