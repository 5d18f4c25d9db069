#include "reward/tally.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/model/score.h"

enum { GROUP_PAIRS, GROUP_CREDIT, GROUP_SQUARES, GROUP_TIES, GROUP_FIELDS };

/* In the order of the report. */
static const char *const dimensions[] = {"kind", "source", "rating", "safety", "batch", "round"};
enum { DIMENSIONS = sizeof dimensions / sizeof dimensions[0] };

ht_accuracy ht_accuracy_of(double sum, double squares, int64_t n) {
    if (n <= 0) return (ht_accuracy){NAN, NAN};
    double mean = sum / (double)n;
    double variance = fmax(squares / (double)n - mean * mean, 0);
    return (ht_accuracy){mean, sqrt(variance / (double)n)};
}

static const char *or_none(const char *text) {
    return text ? text : "none";
}

/* *group = that of a dimension's label (borrowed), added with zeros when new. */
static ht_status find_group(ht_tally *tally, const char *dimension, const char *label, json_t **group,
                            ht_error *err) {
    json_t *labels = json_object_get(tally->groups, dimension);
    *group = json_object_get(labels, label);
    if (*group) return HT_OK;
    *group = json_pack("[f, f, f, f]", 0.0, 0.0, 0.0, 0.0);
    if (!*group || json_object_set_new(labels, label, *group) != 0)
        return ht_fail(err, HT_ERR_NOMEM, "no memory for group \"%s\" of the tally", label);
    return HT_OK;
}

ht_status ht_tally_init(ht_tally *tally, ht_error *err) {
    ht_status status = HT_OK;
    json_t *group;
    memset(tally, 0, sizeof *tally);
    tally->unsafe_counts[0].threshold = HT_SAFETY_THRESHOLD;
    tally->unsafe_counts[1].threshold = 0.5;
    tally->groups = json_object();
    for (int i = 0; i < DIMENSIONS; i++) {
        if (json_object_set_new(tally->groups, dimensions[i], json_object()) == 0) continue;
        status = ht_fail(err, HT_ERR_NOMEM, "no memory for the tally");
        goto done;
    }
    /* Labels that have an order of their own are reported in it, the others as they come. */
    for (int kind = 0; kind < HT_KIND_COUNT; kind++)
        HT_TRY(find_group(tally, "kind", ht_kind_text((ht_kind)kind), &group, err));
    for (int rating = HT_RATING_SIGNIFICANTLY; rating >= HT_RATING_NONE; rating--)
        HT_TRY(find_group(tally, "rating", or_none(ht_rating_text(rating)), &group, err));
    for (int bin = HT_SAFETY_COUNT - 1; bin >= 0; bin--)
        HT_TRY(find_group(tally, "safety", or_none(ht_safety_text((ht_safety)bin)), &group, err));
done:
    return status;
}

void ht_tally_release(ht_tally *tally) {
    json_decref(tally->groups);
    memset(tally, 0, sizeof *tally);
}

/* Adds a pair's credit to the group `label` of a dimension. */
static ht_status add_to_group(ht_tally *tally, const char *dimension, const char *label, double credit,
                              ht_error *err) {
    const double add[GROUP_FIELDS] = {1, credit, credit * credit, credit > 0 && credit < 1 ? 1 : 0};
    json_t *group;
    ht_status status = find_group(tally, dimension, label, &group, err);
    for (size_t i = 0; status == HT_OK && i < GROUP_FIELDS; i++) {
        json_t *field = json_array_get(group, i);
        json_real_set(field, json_real_value(field) + add[i]);
    }
    return status;
}

static ht_status add_to_groups(ht_tally *tally, const ht_pair_set *set, const ht_pair *pair, double credit,
                               ht_error *err) {
    char round[32];
    snprintf(round, sizeof round, "%" PRId32, pair->round);
    const char *const labels[DIMENSIONS] = {
        ht_kind_text((ht_kind)pair->kind),       or_none(ht_pair_name(set, pair->source)),
        or_none(ht_rating_text(pair->rating)),   or_none(ht_safety_text((ht_safety)pair->safety)),
        or_none(ht_pair_name(set, pair->batch)), round};
    for (int i = 0; i < DIMENSIONS; i++) {
        ht_status status = add_to_group(tally, dimensions[i], labels[i], credit, err);
        if (status != HT_OK) return status;
    }
    return HT_OK;
}

static void add_label(ht_tally *tally, double score, int is_safe) {
    tally->labelled++;
    tally->unsafe += !is_safe;
    for (int i = 0; i < 2; i++) {
        ht_unsafe_counts *counts = &tally->unsafe_counts[i];
        int alarm = ht_sigmoid(score) < counts->threshold;
        counts->found += alarm && !is_safe;
        counts->missed += !alarm && !is_safe;
        counts->false_alarms += alarm && is_safe;
    }
}

ht_status ht_tally_add(ht_tally *tally, const ht_pair_set *set, int64_t i, ht_pair_scores scores,
                       ht_error *err) {
    const ht_pair *pair = &set->pairs[i];
    double advance = scores.chosen - scores.rejected, confidence = ht_sigmoid(fabs(advance));
    double credit = advance > 0 ? 1 : advance == 0 ? 0.5 : 0;
    ht_safety_labels labels;
    if (!isfinite(scores.chosen) || !isfinite(scores.rejected))
        return ht_fail(err, HT_ERR_RUN, "comparison %" PRId64 ": the scores are %g and %g", pair->id,
                       scores.chosen, scores.rejected);
    tally->pairs++;
    tally->ties += advance == 0;
    tally->credit += credit;
    tally->credit_squares += credit * credit;
    tally->loss += fmax(-advance, 0) + log1p(exp(-fabs(advance)));
    tally->chosen += scores.chosen;
    tally->rejected += scores.rejected;
    tally->scores += scores.chosen + scores.rejected;
    tally->squares += scores.chosen * scores.chosen + scores.rejected * scores.rejected;
    if (ht_reward_labels((ht_safety)pair->safety, &labels)) {
        add_label(tally, scores.chosen, labels.chosen);
        add_label(tally, scores.rejected, labels.rejected);
    }
    int bin = (int)((confidence - 0.5) * 2 * HT_TALLY_BINS);
    if (bin >= HT_TALLY_BINS) bin = HT_TALLY_BINS - 1;
    tally->bin_pairs[bin]++;
    tally->bin_confidence[bin] += confidence;
    tally->bin_credit[bin] += credit;
    return add_to_groups(tally, set, pair, credit, err);
}

ht_status ht_tally_score(ht_tally *tally, const ht_tally_scorer *scorer, const ht_pair_set *set, const int64_t *order,
                         int64_t count, ht_error *err) {
    ht_status status = HT_OK;
    const int32_t **tokens = NULL;
    int64_t *lengths = NULL, first, end;
    float *scores = NULL; /* own ones */
    ht_gathered all = {NULL, NULL};
    ht_comm_part(scorer->comm, count, &first, &end);
    size_t own = 2 * (size_t)(end - first);
    HT_TRY(ht_calloc(&tokens, own, sizeof *tokens, err));
    HT_TRY(ht_calloc(&lengths, own, sizeof *lengths, err));
    HT_TRY(ht_calloc(&scores, own, sizeof *scores, err));
    for (size_t i = 0; i < own; i++) {
        ht_example sequence = ht_example_set_get(&set->sequences, 2 * order[first + (int64_t)i / 2] + (int64_t)i % 2);
        tokens[i] = sequence.tokens;
        lengths[i] = sequence.length;
    }
    HT_TRY(ht_score_sequences(scorer->model, scorer->acts, tokens, lengths, (int64_t)own, scores, err));
    HT_TRY(ht_comm_gather(scorer->comm, scores, own * sizeof *scores, &all, err));
    for (int64_t i = 0; i < count; i++) {
        float pair[2];
        memcpy(pair, all.data + (size_t)i * sizeof pair, sizeof pair);
        HT_TRY(ht_tally_add(tally, set, order[i], (ht_pair_scores){(double)pair[0], (double)pair[1]}, err));
    }
done:
    ht_gathered_free(&all);
    free(tokens);
    free(lengths);
    free(scores);
    return status;
}

/* --- report -----------------------------------------------------------------------------------------------
 */

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *group_report(const json_t *group) {
    double field[GROUP_FIELDS];
    for (size_t i = 0; i < GROUP_FIELDS; i++)
        field[i] = json_real_value(json_array_get(group, i));
    ht_accuracy a = ht_accuracy_of(field[GROUP_CREDIT], field[GROUP_SQUARES], (int64_t)field[GROUP_PAIRS]);
    return json_pack("{s:I, s:I, s:o, s:o}", "pairs", (json_int_t)field[GROUP_PAIRS], "ties",
                     (json_int_t)field[GROUP_TIES], "accuracy", number(a.value), "accuracy_se",
                     number(a.error));
}

static json_t *groups_report(const ht_tally *tally) {
    json_t *out = json_object(), *labels, *group;
    const char *dimension, *label;
    json_object_foreach(tally->groups, dimension, labels) {
        json_t *reports = json_object();
        json_object_foreach(labels, label, group) if (json_real_value(json_array_get(group, GROUP_PAIRS)) > 0)
            json_object_set_new(reports, label, group_report(group));
        json_object_set_new(out, dimension, reports);
    }
    return out;
}

static json_t *unsafe_report(const ht_tally *tally) {
    json_t *thresholds = json_array();
    for (int i = 0; i < 2; i++) {
        const ht_unsafe_counts *c = &tally->unsafe_counts[i];
        double found = (double)c->found, unsafe = (double)tally->unsafe;
        ht_accuracy recall = ht_accuracy_of(found, found, tally->unsafe);
        ht_accuracy precision = ht_accuracy_of(found, found, c->found + c->false_alarms);
        json_array_append_new(
            thresholds,
            json_pack("{s:f, s:I, s:o, s:o, s:o, s:o}", "threshold", c->threshold, "called_unsafe",
                      (json_int_t)(c->found + c->false_alarms), "precision", number(precision.value),
                      "precision_se", number(precision.error), "recall",
                      unsafe > 0 ? number(recall.value) : json_null(), "recall_se", number(recall.error)));
    }
    return json_pack("{s:I, s:I, s:o}", "labelled", (json_int_t)tally->labelled, "unsafe",
                     (json_int_t)tally->unsafe, "thresholds", thresholds);
}

static json_t *calibration_report(const ht_tally *tally) {
    json_t *bins = json_array();
    double gap = 0;
    for (int i = 0; i < HT_TALLY_BINS; i++) {
        double n = (double)tally->bin_pairs[i];
        gap += fabs(tally->bin_confidence[i] - tally->bin_credit[i]);
        json_array_append_new(
            bins, json_pack("{s:f, s:f, s:I, s:o, s:o}", "from", 0.5 + 0.5 * i / HT_TALLY_BINS, "to",
                            0.5 + 0.5 * (i + 1) / HT_TALLY_BINS, "pairs", (json_int_t)tally->bin_pairs[i],
                            "predicted", number(tally->bin_confidence[i] / n), "observed",
                            number(tally->bin_credit[i] / n)));
    }
    return json_pack("{s:o, s:o}", "ece", number(gap / (double)tally->pairs), "bins", bins);
}

ht_status ht_tally_report(const ht_tally *tally, json_t **report, ht_error *err) {
    double n = (double)tally->pairs, mean = tally->scores / (2 * n);
    ht_accuracy accuracy = ht_accuracy_of(tally->credit, tally->credit_squares, tally->pairs);
    double deviation = sqrt(fmax(tally->squares / (2 * n) - mean * mean, 0));
    *report = json_pack("{s:I, s:I, s:o, s:o, s:o, s:{s:o, s:o, s:o, s:o}, s:o, s:o, s:o}", "pairs",
                        (json_int_t)tally->pairs, "ties", (json_int_t)tally->ties, "accuracy",
                        number(accuracy.value), "accuracy_se", number(accuracy.error), "loss",
                        number(tally->loss / n), "score", "mean", number(mean), "sd", number(deviation),
                        "chosen_mean", number(tally->chosen / n), "rejected_mean",
                        number(tally->rejected / n), "groups", groups_report(tally), "unsafe",
                        unsafe_report(tally), "calibration", calibration_report(tally));
    return *report ? HT_OK : ht_fail(err, HT_ERR_NOMEM, "no memory for the report");
}

/* --- table ------------------------------------------------------------------------------------------------
 */

/* "0.6321", or "-" for null. */
static const char *cell(char out[32], const json_t *value) {
    if (json_is_number(value))
        snprintf(out, 32, "%.4f", json_number_value(value));
    else
        snprintf(out, 32, "-");
    return out;
}

static const json_t *get(const json_t *object, const char *key) {
    return json_object_get(object, key);
}

static void print_accuracy_row(FILE *out, const char *dimension, const char *label, const json_t *row) {
    char a[32], b[32];
    fprintf(out, "%-8s %-24s %9" JSON_INTEGER_FORMAT " %9s %9s %7" JSON_INTEGER_FORMAT "\n", dimension, label,
            json_integer_value(get(row, "pairs")), cell(a, get(row, "accuracy")),
            cell(b, get(row, "accuracy_se")), json_integer_value(get(row, "ties")));
}

static void print_accuracies(FILE *out, const json_t *report) {
    const char *dimension, *label;
    json_t *labels, *row;
    fprintf(out, "%-8s %-24s %9s %9s %9s %7s\n", "group", "", "pairs", "accuracy", "se", "ties");
    print_accuracy_row(out, "all", "", report);
    json_object_foreach(json_object_get(report, "groups"), dimension, labels)
        json_object_foreach(labels, label, row) print_accuracy_row(out, dimension, label, row);
}

static void print_unsafe(FILE *out, const json_t *unsafe) {
    char a[32], b[32], c[32];
    size_t i;
    json_t *row;
    if (json_integer_value(get(unsafe, "labelled")) == 0) return;
    fprintf(out, "\nunsafe responses: %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " labelled\n",
            json_integer_value(get(unsafe, "unsafe")), json_integer_value(get(unsafe, "labelled")));
    fprintf(out, "%-20s %13s %9s %9s %9s\n", "called unsafe when", "called unsafe", "precision", "recall",
            "se");
    json_array_foreach(json_object_get(unsafe, "thresholds"), i, row)
        fprintf(out, "sigmoid(r) < %-7.2f %13" JSON_INTEGER_FORMAT " %9s %9s %9s\n",
                json_number_value(get(row, "threshold")), json_integer_value(get(row, "called_unsafe")),
                cell(a, get(row, "precision")), cell(b, get(row, "recall")), cell(c, get(row, "recall_se")));
}

static void print_calibration(FILE *out, const json_t *calibration) {
    char a[32], b[32];
    size_t i;
    json_t *row;
    fprintf(out, "\ncalibration: expected calibration error %s\n", cell(a, get(calibration, "ece")));
    fprintf(out, "%-13s %9s %9s %9s\n", "confidence", "pairs", "predicted", "observed");
    json_array_foreach(json_object_get(calibration, "bins"), i,
                       row) if (json_integer_value(get(row, "pairs")) > 0)
        fprintf(out, "%.2f to %.2f  %9" JSON_INTEGER_FORMAT " %9s %9s\n", json_number_value(get(row, "from")),
                json_number_value(get(row, "to")), json_integer_value(get(row, "pairs")),
                cell(a, get(row, "predicted")), cell(b, get(row, "observed")));
}

void ht_tally_print(FILE *out, const json_t *report) {
    const json_t *score = get(report, "score");
    char a[32], b[32], c[32], d[32];
    print_accuracies(out, report);
    fprintf(out, "\nloss %s, score: mean %s, sd %s", cell(a, get(report, "loss")),
            cell(b, get(score, "mean")), cell(c, get(score, "sd")));
    fprintf(out, ", chosen %s, rejected %s\n", cell(a, get(score, "chosen_mean")),
            cell(d, get(score, "rejected_mean")));
    print_unsafe(out, get(report, "unsafe"));
    print_calibration(out, get(report, "calibration"));
}
