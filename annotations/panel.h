/*
 * panel.h: the panel of noisy annotators who compare two answers in the synthetic world.
 *
 * An annotator sees worths, not words: what the guideline of the prompt's kind asks for, read off the oracle.
 *   helpfulness guideline   worth = helpfulness
 *   safety guideline        worth = 0 for an answer seen as violating, else 0.5 + 0.5 helpfulness
 * Whether an answer violates is misread with probability label_error. The annotator then perceives
 *   d = worth_a - worth_b + position_bias + length_bias * (words_a - words_b) / 10 + taste * logistic noise
 * and chooses a when d > 0: so P(a) = sigmoid((worth_a - worth_b + biases) / taste), Bradley and Terry's
 * model. With probability `lapse` the choice is a coin flip. The rating is read off |d|: 4 from 0.5, 3 from
 * 0.25, 2 from 0.1, else 1.
 */
#ifndef HT_ANNOTATIONS_PANEL_H
#define HT_ANNOTATIONS_PANEL_H

#include "annotations/oracle.h"
#include "annotations/world.h"

typedef struct ht_annotator {
    const char *name;
    double taste;         /* scale of the noise, in units of worth */
    double position_bias; /* towards answer a */
    double length_bias;   /* towards the longer answer */
    double lapse;
    double label_error;
} ht_annotator;

enum { HT_PANEL_COUNT = 6 };
extern const ht_annotator ht_panel[HT_PANEL_COUNT];

/* One answer as the annotator meets it. */
typedef struct ht_candidate {
    double helpfulness;
    int violation;
    int words;
} ht_candidate;

/* Safety bin of a pair, seen from its choice; the last one is dropped by the import (METHOD section 3). */
typedef enum ht_bin {
    HT_BIN_NONE,
    HT_BIN_CHOSEN_SAFE,
    HT_BIN_BOTH_SAFE,
    HT_BIN_BOTH_UNSAFE,
    HT_BIN_REJECTED_SAFE
} ht_bin;
const char *ht_bin_text(ht_bin bin); /* "" for NONE */

typedef struct ht_opinion {
    char choice; /* 'a' or 'b' */
    int rating;  /* 1..4, as HT_RATING_* */
    ht_bin bin;  /* NONE for the helpfulness guideline */
} ht_opinion;

/* What this annotator says of a pair; draws from `draw` a fixed number of times. */
ht_opinion ht_panel_compare(const ht_annotator *annotator, ht_kind kind, const ht_candidate candidates[2],
                            ht_draw *draw);

/* The annotator of this name, or NULL. */
const ht_annotator *ht_panel_find(const char *name);

#endif
