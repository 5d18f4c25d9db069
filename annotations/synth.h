/*
 * synth.h: halter-annotations synth: the synthetic world's corpora, annotators and true scores.
 * docs/synthetic-world.md describes the command.
 */
#ifndef HT_ANNOTATIONS_SYNTH_H
#define HT_ANNOTATIONS_SYNTH_H

#include <stdint.h>

#include "core/base/error.h"
#include "core/config/config.h"
#include "core/store/store.h"

extern const ht_command ht_annotations_synth_command;

/* The store's names of the oracle: two model rows of stage "oracle" with HT_WORLD_VERSION as hash. */
#define HT_ORACLE_HELPFULNESS "oracle-helpfulness" /* scores: helpfulness, [0, 1] */
#define HT_ORACLE_VIOLATION   "oracle-violation"   /* scores: 0 or 1 */
#define HT_ORACLE_STAGE       "oracle"

typedef struct ht_synth_annotate_result {
    int64_t rows;
    int64_t annotated;
    int64_t kept;      /* had a choice already */
    int64_t identical; /* two equal responses: left without a choice */
    int64_t chosen_a;
    int64_t bins[5]; /* ht_bin, of rows annotated here */
    int64_t ratings[5];
} ht_synth_annotate_result;

/*
 * Copies the CSV `input` to `output` with choice, rating, safety and annotator filled by the panel. An
 * annotator that a row names must be one of the panel; else one is drawn. The guideline is that of the row's
 * kind. Each row's noise depends on (seed, id, messages, responses) alone. Columns come out in the order of
 * HT_COLUMN_MAP. HT_ERR_DATA names file and line of a row that cannot be read, is of no known prompt, or
 * lacks a response.
 */
ht_status ht_synth_annotate(const char *input, const char *output, uint64_t seed,
                            ht_synth_annotate_result *result, ht_error *err);

/* What the oracle says of responses: of one kind of dialogue. */
typedef struct ht_synth_tally {
    int64_t responses;
    double helpfulness; /* sum */
    int64_t violations;
} ht_synth_tally;

typedef struct ht_synth_score_result {
    int64_t scored, existing;
    int64_t unknown;                     /* responses to dialogues that are not of the world: left alone */
    ht_synth_tally kinds[HT_KIND_COUNT]; /* of scored and existing ones */
} ht_synth_score_result;

/*
 * Scores responses that lack the oracle's scores, of dialogues in filter->splits and by filter->model_id (0:
 * all). In transactions of some hundreds, so an interruption keeps what was done.
 */
ht_status ht_synth_score(ht_store *store, const ht_store_filter *filter, ht_synth_score_result *result,
                         ht_error *err);

#endif
