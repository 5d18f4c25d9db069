/*
 * batch.h: packed batches and the order of examples.
 *
 * A batch is tokens of all sequences end to end; there is no padding anywhere. Attention is causal inside a sequence
 * and blind across sequences; positions restart at 0.
 */
#ifndef HT_BATCH_BATCH_H
#define HT_BATCH_BATCH_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"

typedef struct ht_batch {
    int32_t *tokens;    /* [T] */
    int32_t *seq_start; /* [S + 1] */
    int64_t n_tokens, n_sequences;
    int64_t max_tokens, max_sequences; /* capacity */
} ht_batch;

/* Host memory for up to max_tokens tokens and max_sequences sequences; empty. */
ht_status ht_batch_init(ht_batch *batch, int64_t max_tokens, int64_t max_sequences, ht_error *err);
void ht_batch_free(ht_batch *batch);
void ht_batch_clear(ht_batch *batch);

/* Appends one sequence of n >= 1 tokens; 1 when it was added, 0 when it does not fit. */
int ht_batch_add(ht_batch *batch, const int32_t *tokens, int64_t n);

/*
 * A tokenised example and the tokens in it that carry loss: weight 1 at target positions. Position t (t >= 1) being a
 * target means that the logits of row t - 1 predict tokens[t].
 */
typedef struct ht_example {
    int64_t id;               /* database id, or index in a text */
    int32_t *tokens;          /* [length] */
    uint8_t *is_target;       /* [length]; is_target[0] = 0 */
    int64_t length;
} ht_example;

/* Growing set of examples in one block of memory: offsets, not pointers, so that millions fit. */
typedef struct ht_example_set {
    int32_t *tokens;
    uint8_t *is_target;
    int64_t *start; /* [count + 1] */
    int64_t *ids;   /* [count] */
    size_t count, token_capacity, target_capacity, start_capacity, id_capacity;
} ht_example_set;

/* Appends a copy; is_target NULL: every token but the first is a target. */
ht_status ht_example_set_add(ht_example_set *set, int64_t id, const int32_t *tokens, const uint8_t *is_target,
                             int64_t length, ht_error *err);
ht_example ht_example_set_get(const ht_example_set *set, int64_t index); /* borrowed */
void ht_example_set_free(ht_example_set *set);

/*
 * Packs examples, in the given order, into bins of at most seq_len tokens: an example goes whole into the open bin, or
 * opens the next one; none is cut. bin_start [*n_bins + 1] (new memory, free()) are positions in `order`.
 * Every example must be at most seq_len tokens (HT_ERR_DATA names the first that is not).
 */
ht_status ht_pack(const ht_example_set *set, const int64_t *order, int64_t n, int64_t seq_len, int64_t **bin_start,
                  int64_t *n_bins, ht_error *err);

#endif
