/*
 * loss.h: the reward model's loss of a preference pair, and its gradient.
 *
 * With c and r the linear scores of the chosen and the rejected response of a pair, over the P pairs of the
 * whole optimizer step and the L responses in it that carry a safe/unsafe label:
 *
 *   loss = 1/P sum over pairs of -log sigmoid(c - r - margin(rating))
 *        + aux_weight * 1/L sum over labelled responses of BCE(sigmoid(score), 1 if safe else 0)
 *
 * P and L are those of the step, not of a micro-batch. Everything is f64: a margin is never rounded away.
 * Source: Llama 2 section 3.2.2, equations 1 and 2, table 27 (margins). The paper gives neither form nor
 * weight of the auxiliary safety loss (A.3.4): the cross-entropy is this project's reading, see
 * docs/reward.md.
 */
#ifndef HT_REWARD_LOSS_H
#define HT_REWARD_LOSS_H

#include <stdint.h>

#include "core/config/config.h"
#include "core/store/store.h"

typedef enum ht_margin_kind {
    HT_MARGIN_NONE,
    HT_MARGIN_SMALL,
    HT_MARGIN_LARGE,
    HT_MARGIN_TABLE
} ht_margin_kind;
extern const char *const ht_margin_names[]; /* "none", "small", "large", "table" */

typedef struct ht_reward_loss {
    double margin[HT_RATING_SIGNIFICANTLY + 1]; /* by rating; of a pair that is not rated: 0 */
    double aux_weight;
} ht_reward_loss;

/*
 * Fills the margins: table 27's small or large, none, or the four numbers of `table` (negligibly, slightly,
 * better, significantly). HT_ERR_USAGE when `kind` is TABLE and there are not four, or when there are any and
 * it is not.
 */
ht_status ht_reward_margins(ht_reward_loss *loss, ht_margin_kind kind, const ht_floats *table, ht_error *err);

/* Labels of the two responses by the pair's bin: 1 safe, 0 unsafe, -1 not labelled. Returns how many are
 * labelled. */
typedef struct ht_safety_labels {
    int chosen, rejected;
} ht_safety_labels;
int ht_reward_labels(ht_safety safety, ht_safety_labels *labels);

/* The means' denominators: pairs of the whole step, and labelled responses among theirs. */
typedef struct ht_reward_denominators {
    int64_t pairs, labelled;
} ht_reward_denominators;

/* Sums over pairs; the caller zeroes and divides them. */
typedef struct ht_reward_sums {
    double ranking, auxiliary; /* losses, not weighted */
    double correct;            /* pairs with c > r; a tie counts as half */
    double chosen, rejected;   /* scores */
} ht_reward_sums;

typedef struct ht_pair_scores {
    double chosen, rejected;
} ht_pair_scores;

/*
 * Adds one pair to *sums and returns d loss / d (c, r), as a part of the step's loss. Infinite scores give
 * the limit or NaN; none overflows otherwise.
 */
ht_pair_scores ht_reward_pair_loss(const ht_reward_loss *loss, const ht_reward_denominators *step, int rating,
                                   ht_safety safety, ht_pair_scores scores, ht_reward_sums *sums);

#endif
