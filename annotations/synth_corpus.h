/*
 * synth_corpus.h: the files a run in the synthetic world begins with.
 */
#ifndef HT_ANNOTATIONS_SYNTH_CORPUS_H
#define HT_ANNOTATIONS_SYNTH_CORPUS_H

#include <stdint.h>

#include "annotations/world.h"
#include "core/base/error.h"

typedef struct ht_corpus_request {
    uint64_t seed;
    const char *folder;     /* made when it does not exist; files in it are replaced */
    int64_t documents;      /* lines of pretrain.txt */
    int64_t demonstrations; /* rows of demonstrations.csv */
    int64_t train_prompts;  /* rows of prompts.csv with split train */
    int64_t test_prompts;   /* and with split test */
} ht_corpus_request;

/*
 * Writes pretrain.txt (one document a line), demonstrations.csv and prompts.csv. The same request gives the
 * same bytes. Prompts are distinct, demonstrations of train prompts only. HT_ERR_IO; HT_ERR_USAGE when so
 * many distinct prompts cannot be found.
 */
ht_status ht_corpus_write(const ht_corpus_request *request, ht_error *err);

/* Parts of the above that tests look at. */

/* *out = document `index` of pretrain.txt, to be released with free(). */
ht_status ht_corpus_document(char **out, uint64_t seed, uint64_t index, ht_error *err);

/* Demonstration `index`: its dialogue, the answer, and which vendor wrote it (static). */
ht_status ht_corpus_demonstration(ht_dialogue *dialogue, ht_phrase *answer, const char **vendor,
                                  uint64_t seed, uint64_t index, ht_error *err);

#endif
