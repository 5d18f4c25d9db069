#include "reward/loss.h"

#include <math.h>
#include <string.h>

#include "core/model/score.h"

const char *const ht_margin_names[] = {"none", "small", "large", "table", NULL};

/* log(1 + e^x) without overflow. */
static double softplus(double x) {
    return fmax(x, 0) + log1p(exp(-fabs(x)));
}

ht_status ht_reward_margins(ht_reward_loss *loss, ht_margin_kind kind, const ht_floats *table,
                            ht_error *err) {
    enum { RATINGS = HT_RATING_SIGNIFICANTLY };
    memset(loss->margin, 0, sizeof loss->margin);
    if (kind != HT_MARGIN_TABLE && table->count)
        return ht_fail(err, HT_ERR_USAGE,
                       "reward.margin_table is given, but reward.margin = \"%s\", not \"table\"",
                       ht_margin_names[kind]);
    if (kind == HT_MARGIN_TABLE && table->count != RATINGS)
        return ht_fail(
            err, HT_ERR_USAGE,
            "reward.margin_table has %zu numbers, not %d (negligibly, slightly, better, significantly)",
            table->count, RATINGS);
    for (int i = 0; i < RATINGS; i++) {
        double third = (double)i / 3.0;
        loss->margin[i + 1] = kind == HT_MARGIN_SMALL   ? third
                              : kind == HT_MARGIN_LARGE ? (double)i
                              : kind == HT_MARGIN_TABLE ? table->values[i]
                                                        : 0;
    }
    return HT_OK;
}

int ht_reward_labels(ht_safety safety, ht_safety_labels *labels) {
    *labels = (ht_safety_labels){-1, -1};
    if (safety == HT_SAFETY_CHOSEN_SAFE) *labels = (ht_safety_labels){1, 0};
    if (safety == HT_SAFETY_BOTH_SAFE) *labels = (ht_safety_labels){1, 1};
    if (safety == HT_SAFETY_BOTH_UNSAFE) *labels = (ht_safety_labels){0, 0};
    return labels->chosen < 0 ? 0 : 2;
}

/* Adds -log of the label's probability to *total; returns its derivative by the score, sigmoid(score) -
 * label. */
static double cross_entropy(double score, int label, double *total) {
    *total += softplus(label ? -score : score);
    return ht_sigmoid(score) - (double)label;
}

ht_pair_scores ht_reward_pair_loss(const ht_reward_loss *loss, const ht_reward_denominators *step, int rating,
                                   ht_safety safety, ht_pair_scores scores, ht_reward_sums *sums) {
    double advance = scores.chosen - scores.rejected, x = advance - loss->margin[rating];
    double slope = -ht_sigmoid(-x) / (double)step->pairs;
    ht_pair_scores gradient = {slope, -slope};
    ht_safety_labels labels;
    sums->ranking += softplus(-x);
    sums->correct += advance > 0 ? 1 : advance == 0 ? 0.5 : 0;
    sums->chosen += scores.chosen;
    sums->rejected += scores.rejected;
    if (loss->aux_weight != 0 && ht_reward_labels(safety, &labels)) {
        double scale = loss->aux_weight / (double)step->labelled;
        gradient.chosen += scale * cross_entropy(scores.chosen, labels.chosen, &sums->auxiliary);
        gradient.rejected += scale * cross_entropy(scores.rejected, labels.rejected, &sums->auxiliary);
    }
    return gradient;
}
