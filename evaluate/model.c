/*
 * halter-evaluate model and compare.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "evaluate/evaluation.h"

/* --- reports ---------------------------------------------------------------------------------------------- */

/* {"model", "path", "run", "sampled", "prompts", "settings", "judges", "measures"} */
static json_t *describe(const ht_evaluation *evaluation, const ht_evaluator *e) {
    ht_mean means[HT_MEASURE_COUNT];
    json_t *measures = json_object();
    ht_measure_all(evaluation->responses, evaluation->count, means);
    for (int m = 0; m < HT_MEASURE_COUNT; m++)
        json_object_set_new(measures, ht_measure_text((ht_measure)m), ht_mean_json(&means[m]));
    return json_pack("{s:s, s:s, s:I, s:b, s:I, s:O, s:O, s:o}", "model", evaluation->name, "path", evaluation->folder,
                     "run", (json_int_t)evaluation->run_id, "sampled", evaluation->is_sampled, "prompts",
                     (json_int_t)evaluation->count, "settings", evaluation->settings, "judges", e->judges, "measures",
                     measures);
}

/* {"against", "path", "run", "all", "helpfulness", "safety"} */
static json_t *describe_rates(const ht_win_rates *rates, const ht_evaluation *against) {
    return json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "against", against->name, "path", against->folder, "run",
                     (json_int_t)against->run_id, "all", ht_wins_json(&rates->all), "helpfulness",
                     ht_wins_json(&rates->kind[HT_KIND_HELPFULNESS]), "safety",
                     ht_wins_json(&rates->kind[HT_KIND_SAFETY]));
}

static ht_status print_json(json_t *report, ht_error *err) {
    ht_status status = ht_json_print(report, JSON_INDENT(2), stdout, err);
    json_decref(report);
    return status;
}

static void print_mean(const char *name, const ht_mean *mean) {
    if (!mean->count)
        printf("%-22s %10s\n", name, "-");
    else if (isnan(ht_mean_error(mean)))
        printf("%-22s %10.4f            of %" PRId64 "\n", name, ht_mean_value(mean), mean->count);
    else
        printf("%-22s %10.4f ± %-8.4f of %" PRId64 "\n", name, ht_mean_value(mean), ht_mean_error(mean), mean->count);
}

static void print_evaluation(const ht_evaluation *evaluation) {
    ht_mean means[HT_MEASURE_COUNT];
    ht_measure_all(evaluation->responses, evaluation->count, means);
    printf("%s: %zu responses, run %" PRId64 "\n", evaluation->name, evaluation->count, evaluation->run_id);
    for (int m = 0; m < HT_MEASURE_COUNT; m++)
        print_mean(ht_measure_text((ht_measure)m), &means[m]);
}

static void print_rates(const ht_win_rates *rates, const ht_evaluation *a, const ht_evaluation *b) {
    const struct {
        const char *name;
        const ht_wins *wins;
    } rows[] = {{"all", &rates->all},
                {"helpfulness", &rates->kind[HT_KIND_HELPFULNESS]},
                {"safety", &rates->kind[HT_KIND_SAFETY]}};
    printf("win rate of %s against %s\n", a->name, b->name);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        print_mean(rows[i].name, &rows[i].wins->rate);
        printf("%-22s %10" PRId64 " wins, %" PRId64 " ties, %" PRId64 " losses\n", "", rows[i].wins->wins,
               rows[i].wins->ties, rows[i].wins->losses);
    }
}

/* --- commands --------------------------------------------------------------------------------------------- */

/* Makes an evaluation, and records it when it is new. */
static ht_status evaluate(ht_evaluation *evaluation, ht_evaluator *e, const char *folder, ht_reuse reuse,
                          ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_evaluation_make(evaluation, e, folder, reuse, err));
    if (!evaluation->is_sampled)
        ht_info("%s: the %zu responses of run %" PRId64 " have these settings and are taken", evaluation->name,
                evaluation->count, evaluation->run_id);
    HT_TRY(ht_evaluation_record(evaluation, e, err));
done:
    return status;
}

static int is_given(const char *text) {
    return text && text[0];
}

static ht_status run(const ht_evaluate_config *config, const ht_invocation *invocation, ht_reuse reuse, ht_error *err) {
    ht_status status = HT_OK;
    ht_evaluator e = {.store = NULL};
    ht_evaluation evaluation = {.count = 0}, against = {.count = 0};
    ht_win_rates rates;
    int compares = is_given(config->against);
    HT_TRY(ht_evaluator_open(&e, config, invocation, err));
    HT_TRY(evaluate(&evaluation, &e, config->model, reuse, err));
    if (compares) {
        HT_TRY(evaluate(&against, &e, config->against, HT_REUSE_SAME_SETTINGS, err));
        HT_TRY(ht_evaluation_compare(&rates, &evaluation, &against, &e, err));
    }
    if (config->json) {
        json_t *report = describe(&evaluation, &e);
        if (compares) json_object_set_new(report, "win_rate", describe_rates(&rates, &against));
        HT_TRY(print_json(report, err));
    } else {
        print_evaluation(&evaluation);
        if (compares) print_rates(&rates, &evaluation, &against);
    }
done:
    ht_evaluation_release(&against);
    ht_evaluation_release(&evaluation);
    ht_evaluator_close(&e);
    return status;
}

ht_status ht_evaluate_model(void *config, const ht_invocation *invocation, ht_error *err) {
    return run(config, invocation, HT_REUSE_NEVER, err);
}

ht_status ht_evaluate_compare(void *config, const ht_invocation *invocation, ht_error *err) {
    return run(config, invocation, HT_REUSE_SAME_SETTINGS, err);
}
