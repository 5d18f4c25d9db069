/*
 * sample.h: halter-annotations sample: pairs of responses for annotators to compare.
 *
 * Two responses to each prompt, from two different models (the latest and the one before it; two samples when
 * there is one model), at different temperatures, in random left-right order. Source: Llama 2 section 3.2.1;
 * METHOD.md section 3.
 */
#ifndef HT_ANNOTATIONS_SAMPLE_H
#define HT_ANNOTATIONS_SAMPLE_H

#include <stdint.h>
#include <stdio.h>

#include "core/config/config.h"
#include "core/store/store.h"

extern const ht_command ht_annotations_sample_command;

/* Temperatures of a pair, drawn from a list: different ones when the list has several. */
typedef struct ht_pair_settings {
    double temperature[2];
    int is_swapped; /* the second model's response stands on the left */
} ht_pair_settings;
ht_pair_settings ht_pair_draw(const double *temperatures, size_t count, int64_t seed, int64_t round,
                              int64_t dialog);

/* Why a pair cannot be compared: the import would refuse it. */
#define HT_PAIR_MAP(X)                                                                                       \
    X(FINE, "fine")                                                                                          \
    X(IDENTICAL, "identical text")                                                                           \
    X(TAGGED, "a tag of the chat format in a response")
typedef enum ht_pair_state {
#define HT_PAIR_ENUM(name, text) HT_PAIR_##name,
    HT_PAIR_MAP(HT_PAIR_ENUM)
#undef HT_PAIR_ENUM
        HT_PAIR_COUNT
} ht_pair_state;
const char *ht_pair_text(ht_pair_state state);
ht_pair_state ht_pair_judge(const char *first, const char *second);

/* The file to annotate: columns of annotation.h, those that an annotator fills in empty. Errors stay in the
 * stream. */
void ht_pair_write_header(FILE *stream);
typedef struct ht_pair_row {
    int64_t number, round;
    const ht_dialog_row *dialog;
    int64_t id[2]; /* responses: left, right */
    const char *text[2];
} ht_pair_row;
void ht_pair_write(FILE *stream, const ht_pair_row *row);

#endif
