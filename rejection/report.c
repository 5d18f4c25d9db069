/*
 * The report, as JSON and as a table.
 */
#include <inttypes.h>
#include <math.h>

#include "core/model/score.h"
#include "rejection/rejection.h"

static const char *const group_names[HT_GROUP_COUNT] = {"all", "helpfulness", "safety"};

/* null where there is no number. */
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *ratio(double sum, int64_t count) {
    return number(count ? sum / (double)count : NAN);
}

static json_t *whole(int64_t value) {
    return json_integer((json_int_t)value);
}

static json_t *group_json(const ht_rejection_sums *s) {
    int64_t made = s->choices[HT_CHOICE_MADE];
    json_t *samples =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "count", whole(s->samples), "reward_mean",
                  ratio(s->reward, s->samples), "reward_median", ratio(s->median, s->prompts), "helpful_mean",
                  ratio(s->helpful, s->samples), "safe_mean", ratio(s->safe, s->samples), "unsafe",
                  whole(s->unsafe), "truncated", whole(s->truncated), "prompts", whole(s->prompts));
    json_t *chosen = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "count", whole(made), "reward_mean",
                               ratio(s->chosen_reward, made), "helpful_mean", ratio(s->chosen_helpful, made),
                               "safe_mean", ratio(s->chosen_safe, made), "unsafe", whole(s->chosen_unsafe),
                               "of_earlier_rounds", whole(s->chosen_earlier));
    json_t *none = json_pack("{s:o, s:o}", "all_truncated", whole(s->choices[HT_CHOICE_ALL_TRUNCATED]),
                             "below_min_reward", whole(s->choices[HT_CHOICE_BELOW_MIN]));
    return json_pack("{s:o, s:o, s:o}", "samples", samples, "chosen", chosen, "prompts_without_choice", none);
}

/* Entry N - 1 for N samples. */
static json_t *curve_json(const ht_curve *curve, double (*value)(const ht_curve *, int64_t)) {
    json_t *list = json_array();
    for (int64_t N = 1; N <= curve->n; N++)
        json_array_append_new(list, number(value(curve, N)));
    return list;
}

static json_t *temperatures_json(const ht_rejection *r, const ht_rejection_result *result) {
    json_t *list = json_array();
    for (size_t t = 0; t < result->temperature_count; t++) {
        const ht_curve *curve = &result->temperatures[t];
        json_array_append_new(
            list, json_pack("{s:f, s:o, s:o, s:o, s:o}", "temperature", r->config->temperatures.values[t],
                            "samples", whole(curve->n), "reward_mean", number(ht_curve_mean(curve)), "max",
                            curve_json(curve, ht_curve_best), "median", curve_json(curve, ht_curve_median)));
    }
    return list;
}

json_t *ht_rejection_report(const ht_rejection *r, const ht_rejection_result *result) {
    const ht_rejection_config *c = r->config;
    json_t *groups = json_object();
    for (int i = 0; i < HT_GROUP_COUNT; i++)
        json_object_set_new(groups, group_names[i], group_json(&result->sums[i]));
    json_t *curve = json_pack("{s:o, s:o, s:o}", "prompts", whole(result->curve.prompts), "max",
                              curve_json(&result->curve, ht_curve_best), "median",
                              curve_json(&result->curve, ht_curve_median));
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:f, s:s, s:f, s:b, s:o, s:o, s:o}", "model", c->model,
                     "helpful", c->helpful, "safe", c->safe, "round", whole(c->round), "seed", whole(c->seed),
                     "k", whole(c->k), "top_p", c->top_p, "pool", c->pool == HT_POOL_ALL ? "all" : "last",
                     "safety_threshold", HT_SAFETY_THRESHOLD, "demonstrations_written", !c->report_only,
                     "groups", groups, "curve", curve, "temperatures", temperatures_json(r, result));
}

/* --- the table --------------------------------------------------------------------------------------------
 */

static void cell(FILE *out, double value) {
    if (isfinite(value))
        fprintf(out, " %10.4f", value);
    else
        fprintf(out, " %10s", "-");
}

static double mean(double sum, int64_t count) {
    return count ? sum / (double)count : NAN;
}

static void print_group(FILE *out, const char *name, const ht_rejection_sums *s) {
    int64_t made = s->choices[HT_CHOICE_MADE];
    fprintf(out, "%-12s %9" PRId64 " %10" PRId64, name, s->prompts, s->samples);
    cell(out, mean(s->reward, s->samples));
    cell(out, mean(s->median, s->prompts));
    cell(out, mean(s->chosen_reward, made));
    fprintf(out, " %9" PRId64, made);
    cell(out, mean(100 * (double)s->unsafe, s->samples));
    cell(out, mean(100 * (double)s->chosen_unsafe, made));
    cell(out, mean(100 * (double)s->truncated, s->samples));
    fputc('\n', out);
}

/* 1, 2, 3, 5, 7, 10, 15, 20, 30, ... and n: rows enough to see the curve. */
static int is_shown(int64_t N, int64_t n) {
    static const int64_t steps[] = {1, 2, 3, 5, 7, 10, 15};
    int64_t scaled = N;
    while (scaled >= 20 && scaled % 10 == 0)
        scaled /= 10;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (scaled == steps[i]) return 1;
    return N == n;
}

void ht_rejection_print(const ht_rejection *r, const ht_rejection_result *result, FILE *out) {
    const ht_rejection_sums *all = &result->sums[HT_GROUP_ALL];
    fprintf(out, "%-12s %9s %10s %10s %10s %10s %9s %10s %10s %10s\n", "prompts", "count", "samples", "mean",
            "median", "chosen", "chosen n", "unsafe %", "ch.unsafe%", "cut %");
    for (int i = 0; i < HT_GROUP_COUNT; i++)
        if (result->sums[i].prompts || result->sums[i].choices[HT_CHOICE_MADE])
            print_group(out, group_names[i], &result->sums[i]);
    fprintf(out, "\n%-12s %10s %10s\n", "samples", "max", "median");
    for (int64_t N = 1; N <= result->curve.n; N++) {
        if (!is_shown(N, result->curve.n)) continue;
        fprintf(out, "%-12" PRId64, N);
        cell(out, ht_curve_best(&result->curve, N));
        cell(out, ht_curve_median(&result->curve, N));
        fputc('\n', out);
    }
    fprintf(out, "\n%-12s %9s %10s %10s\n", "temperature", "samples", "mean", "max");
    for (size_t t = 0; t < result->temperature_count; t++) {
        const ht_curve *curve = &result->temperatures[t];
        fprintf(out, "%-12g %9" PRId64, r->config->temperatures.values[t], curve->n);
        cell(out, ht_curve_mean(curve));
        cell(out, ht_curve_best(curve, curve->n));
        fputc('\n', out);
    }
    fprintf(out, "\nchosen %" PRId64 " responses (%" PRId64 " of earlier rounds)%s\n",
            all->choices[HT_CHOICE_MADE], all->chosen_earlier,
            r->config->report_only ? "; not kept: --report-only" : "");
    if (all->choices[HT_CHOICE_ALL_TRUNCATED])
        fprintf(out, "no choice for %" PRId64 " prompts: every response was cut at its greatest length\n",
                all->choices[HT_CHOICE_ALL_TRUNCATED]);
    if (all->choices[HT_CHOICE_BELOW_MIN])
        fprintf(out, "no choice for %" PRId64 " prompts: the best reward is below choose.min_reward\n",
                all->choices[HT_CHOICE_BELOW_MIN]);
}
