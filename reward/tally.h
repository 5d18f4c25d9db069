/*
 * tally.h: how well a reward model agrees with annotators: accuracy, unsafe responses found, calibration.
 *
 * A pair is judged right when the chosen response scores higher; a tie counts as half and is also reported.
 * Standard errors are those of a mean of independent pairs: sqrt(variance of the credits 0, 1/2, 1 over n).
 */
#ifndef HT_REWARD_TALLY_H
#define HT_REWARD_TALLY_H

#include <jansson.h>

#include "core/comm/comm.h"
#include "core/model/llama.h"
#include "reward/loss.h"
#include "reward/pairs.h"

#define HT_TALLY_BINS 10

/* Responses with sigmoid(score) < threshold are called unsafe. */
typedef struct ht_unsafe_counts {
    double threshold;
    int64_t found, missed, false_alarms; /* of labelled responses */
} ht_unsafe_counts;

typedef struct ht_tally {
    json_t *groups; /* {dimension: {label: [pairs, credit, credit squared, ties]}} */
    int64_t pairs, ties;
    double credit, credit_squares;
    double loss;                              /* sum of -log sigmoid(c - r), without margin */
    double scores, squares, chosen, rejected; /* sums of scores */
    int64_t labelled, unsafe;                 /* responses */
    ht_unsafe_counts unsafe_counts[2];        /* at 0.15 (METHOD section 6's threshold) and at 0.5 */
    /* By confidence = sigmoid(|c - r|), which is 1/2 to 1, in equal bins. */
    int64_t bin_pairs[HT_TALLY_BINS];
    double bin_confidence[HT_TALLY_BINS], bin_credit[HT_TALLY_BINS];
} ht_tally;

/* Release it also after a failure. */
ht_status ht_tally_init(ht_tally *tally, ht_error *err);
void ht_tally_release(ht_tally *tally);

/* Adds pair i of a set. HT_ERR_RUN when a score is not finite: names the comparison. */
ht_status ht_tally_add(ht_tally *tally, const ht_pair_set *set, int64_t i, ht_pair_scores scores,
                       ht_error *err);

/* What scores pairs. Pointers are borrowed. */
typedef struct ht_tally_scorer {
    const ht_llama *model;
    ht_activations *acts;
    ht_comm *comm; /* every rank scores its part; NULL: there is one rank */
} ht_tally_scorer;

/* Scores pairs order[0 .. count) of a set and adds them: on every rank all, in this order. */
ht_status ht_tally_score(ht_tally *tally, const ht_tally_scorer *scorer, const ht_pair_set *set, const int64_t *order,
                         int64_t count, ht_error *err);

/*
 * *report = everything as one JSON object (new reference), as docs/reward.md describes it. A number that has
 * no meaning, such as the precision of no alarm, is null.
 */
ht_status ht_tally_report(const ht_tally *tally, json_t **report, ht_error *err);

/* The report as a table for people. */
void ht_tally_print(FILE *out, const json_t *report);

/* Mean and standard error of n credits with this sum and sum of squares; NAN for n = 0. */
typedef struct ht_accuracy {
    double value, error;
} ht_accuracy;
ht_accuracy ht_accuracy_of(double sum, double squares, int64_t n);

#endif
