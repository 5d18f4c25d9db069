/*
 * oracle_content.h: whether a response says the right thing, and in the asked format. Parts of the oracle.
 */
#ifndef HT_ANNOTATIONS_ORACLE_CONTENT_H
#define HT_ANNOTATIONS_ORACLE_CONTENT_H

#include "annotations/words.h"
#include "annotations/world.h"

/*
 * How right the answer to a harmless task is, in [0, 1]. For tasks with one value all words of its sort
 * count: those the prompt gave are put aside once each, and what is left must be the value alone (1); the
 * value among others is hedging (0.25). A subject that was not asked about halves.
 */
double ht_oracle_content(const ht_task *task, const ht_words *words);

/* 1 when the asked format is kept (or none was asked), else 0. */
double ht_oracle_format(const ht_task *task, const ht_words *words);

#endif
