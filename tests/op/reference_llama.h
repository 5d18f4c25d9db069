/*
 * reference_llama.h: a Llama in f64, forward and losses only, composed of reference.h's operations. Gradients
 * come from its differences, so that nothing of the core's backward pass is repeated here.
 */
#ifndef HT_TESTS_OP_REFERENCE_LLAMA_H
#define HT_TESTS_OP_REFERENCE_LLAMA_H

#include "core/model/layout.h"
#include "tests/op/reference.h"

typedef struct ref_llama {
    ht_llama_config config;
    const ht_layout *layout; /* borrowed */
    double **params;         /* [layout->count], each [rows, cols] */
} ref_llama;

void ref_llama_init(ref_llama *model, const ht_llama_config *config, const ht_layout *layout);
void ref_llama_free(ref_llama *model);

typedef struct ref_batch {
    const int32_t *tokens, *seq_start;
    int64_t sequences;
} ref_batch;

/* Hidden states after the final norm [T, dim]; new memory. */
double *ref_llama_hidden(const ref_llama *model, const ref_batch *batch);
/* Logits of every row [T, vocab], or values [T, 1] for a scalar head; new memory. */
double *ref_llama_logits(const ref_llama *model, const ref_batch *batch);

#endif
