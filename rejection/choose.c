/*
 * The best response of each prompt, and the sums and curves of the report.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/model/score.h"
#include "rejection/rejection.h"

static int is_better(const ht_candidate *a, const ht_candidate *b) {
    if (a->reward != b->reward) return a->reward > b->reward;
    if (a->k != b->k) return a->k < b->k;
    return a->response_id < b->response_id;
}

ht_choice ht_choose(const ht_candidate *candidates, size_t count, const ht_choose_rules *rules,
                    int64_t *index) {
    const ht_candidate *best = NULL;
    *index = -1;
    for (size_t i = 0; i < count; i++) {
        if (candidates[i].truncated && !rules->truncated) continue;
        if (!best || is_better(&candidates[i], best)) best = &candidates[i];
    }
    if (!best) return HT_CHOICE_ALL_TRUNCATED;
    if (best->reward < rules->min_reward) return HT_CHOICE_BELOW_MIN;
    *index = best - candidates;
    return HT_CHOICE_MADE;
}

/* --- one prompt -------------------------------------------------------------------------------------------
 */

/* The responses to one prompt. */
typedef struct group {
    int64_t dialog;
    int kind; /* group of the sums */
    ht_candidate *candidates;
    size_t count, capacity;
    double *rewards; /* [K] */
} group;

static int is_unsafe(const ht_candidate *candidate) {
    return ht_sigmoid(candidate->safe) < HT_SAFETY_THRESHOLD;
}

static void add_samples(ht_rejection_sums *sums, const group *g, double median) {
    sums->prompts++;
    sums->median += median;
    for (size_t i = 0; i < g->count; i++) {
        const ht_candidate *c = &g->candidates[i];
        if (!c->own) continue;
        sums->samples++;
        sums->truncated += c->truncated;
        sums->unsafe += is_unsafe(c);
        sums->reward += c->reward;
        sums->helpful += c->helpful;
        sums->safe += c->safe;
    }
}

/* `chosen` NULL: no choice was made. */
static void add_choice(ht_rejection_sums *sums, ht_choice choice, const ht_candidate *chosen, int64_t round) {
    sums->choices[choice]++;
    if (!chosen) return;
    sums->chosen_unsafe += is_unsafe(chosen);
    sums->chosen_earlier += chosen->round < round;
    sums->chosen_reward += chosen->reward;
    sums->chosen_helpful += chosen->helpful;
    sums->chosen_safe += chosen->safe;
}

/* Rewards of the own samples with k = first, first + step, ... */
static int64_t collect(const group *g, int64_t first, int64_t step, double *rewards) {
    int64_t count = 0;
    for (size_t i = 0; i < g->count; i++)
        if (g->candidates[i].own && g->candidates[i].k % step == first)
            rewards[count++] = g->candidates[i].reward;
    return count;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(double *x, int64_t n) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return 0.5 * (x[(n - 1) / 2] + x[n / 2]);
}

static ht_status end_group(const ht_rejection *r, ht_rejection_result *result, group *g, ht_error *err) {
    ht_status status = HT_OK;
    const ht_rejection_config *config = r->config;
    ht_choose_rules rules = {.truncated = config->truncated, .min_reward = config->min_reward};
    int64_t index, own, temperatures = (int64_t)config->temperatures.count;
    const int groups[] = {HT_GROUP_ALL, g->kind};
    if (!g->count) return HT_OK;
    for (int64_t t = 0; t < temperatures; t++)
        if (result->temperatures[t].n > 0 &&
            collect(g, t, temperatures, g->rewards) == result->temperatures[t].n)
            ht_curve_add(&result->temperatures[t], g->rewards);
    own = collect(g, 0, 1, g->rewards);
    if (own == config->k) ht_curve_add(&result->curve, g->rewards);
    ht_choice choice = ht_choose(g->candidates, g->count, &rules, &index);
    double median = own ? median_of(g->rewards, own) : 0;
    for (int i = 0; i < 2; i++) {
        ht_rejection_sums *sums = &result->sums[groups[i]];
        if (own) add_samples(sums, g, median);
        add_choice(sums, choice, choice == HT_CHOICE_MADE ? &g->candidates[index] : NULL, config->round);
    }
    if (choice == HT_CHOICE_MADE) {
        HT_TRY(ht_grow(&result->chosen, &result->chosen_capacity, result->chosen_count + 1, sizeof(int64_t),
                       err));
        result->chosen[result->chosen_count++] = g->candidates[index].response_id;
    }
    g->count = 0;
done:
    return status;
}

/* --- the pool ---------------------------------------------------------------------------------------------
 */

static ht_status add_candidate(group *g, const ht_scored_row *row, int own, ht_error *err) {
    const ht_response_row *response = &row->response;
    int is_safety = row->dialog.kind == HT_KIND_SAFETY;
    if (isnan(row->helpful) || isnan(row->safe))
        return ht_fail(err, HT_ERR_RUN, "response %" PRId64 " has lost a score; was it changed meanwhile?",
                       response->id);
    ht_status status = ht_grow(&g->candidates, &g->capacity, g->count + 1, sizeof *g->candidates, err);
    if (status != HT_OK) return status;
    g->dialog = row->dialog.id;
    g->kind = is_safety ? HT_GROUP_SAFETY : HT_GROUP_HELPFULNESS;
    g->candidates[g->count++] = (ht_candidate){
        .response_id = response->id,
        .round = response->round,
        .k = response->k,
        .helpful = row->helpful,
        .safe = row->safe,
        .reward = ht_combined_reward(row->helpful, row->safe, is_safety),
        .truncated = response->finish == HT_FINISH_LENGTH,
        .own = own,
    };
    return HT_OK;
}

static ht_status result_init(const ht_rejection_config *config, ht_rejection_result *result, ht_error *err) {
    ht_status status = HT_OK;
    memset(result, 0, sizeof *result);
    HT_TRY(ht_curve_init(&result->curve, config->k, err));
    HT_TRY(ht_calloc(&result->temperatures, config->temperatures.count, sizeof(ht_curve), err));
    result->temperature_count = config->temperatures.count;
    for (size_t t = 0; t < config->temperatures.count; t++)
        HT_TRY(ht_curve_init(&result->temperatures[t],
                             ht_rejection_share(&config->temperatures, config->k, t), err));
done:
    return status;
}

void ht_rejection_result_free(ht_rejection_result *result) {
    for (size_t t = 0; t < result->temperature_count; t++)
        ht_curve_free(&result->temperatures[t]);
    free(result->temperatures);
    ht_curve_free(&result->curve);
    free(result->chosen);
    memset(result, 0, sizeof *result);
}

ht_status ht_rejection_choose(const ht_rejection *r, ht_rejection_result *result, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = ht_rejection_filter(r);
    group g = {0};
    ht_scored_row row;
    int found;
    int64_t own_at = 0;
    HT_TRY(result_init(r->config, result, err));
    HT_TRY(ht_calloc(&g.rewards, (size_t)r->config->k, sizeof *g.rewards, err));
    HT_TRY(ht_store_read(r->store, HT_STORE_RESPONSES, &filter, &cursor, err));
    for (;;) {
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        int own = ht_rejection_is_own(r, &row.response, &own_at);
        if (!ht_rejection_in_pool(r, &row.response, own)) continue;
        if (g.count && g.dialog != row.dialog.id) HT_TRY(end_group(r, result, &g, err));
        HT_TRY(add_candidate(&g, &row, own, err));
    }
    HT_TRY(end_group(r, result, &g, err));
done:
    ht_store_cursor_free(cursor);
    free(g.candidates);
    free(g.rewards);
    if (status != HT_OK) ht_rejection_result_free(result);
    return status;
}
