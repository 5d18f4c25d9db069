/*
 * rng.h: counter-based random numbers, Philox4x32-10.
 *
 * There is no generator state: a number is a pure function of (seed, stream, index), so a run can be cut, resumed
 * and re-batched, and a sample does not depend on what else is in the batch. A stream names a purpose and its
 * coordinates (ht_rng_stream), an index counts inside it.
 *
 * Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the known-answer vectors of Random123
 * are a test.
 */
#ifndef HT_BASE_RNG_H
#define HT_BASE_RNG_H

#include <stdint.h>

/* The purposes that own streams; values are part of the reproducibility contract and never change. */
typedef enum ht_rng_purpose {
    HT_RNG_INIT = 1,     /* weight initialisation: (tensor, -) */
    HT_RNG_ORDER = 2,    /* order of examples: (epoch, data set) */
    HT_RNG_SAMPLE = 3,   /* token sampling: (prompt, k); index = position */
    HT_RNG_SYNTH = 4,    /* the synthetic world */
    HT_RNG_CHOICE = 5,   /* choosing prompts, pairs, sides */
    HT_RNG_ANNOTATE = 6, /* annotator noise */
    HT_RNG_ROUND = 7,    /* stochastic rounding of an update: (model and parameter, update); index = pair of elements */
} ht_rng_purpose;

/* Stream id of a purpose and two coordinates (mixed to 64 bits). */
uint64_t ht_rng_stream(ht_rng_purpose purpose, uint64_t a, uint64_t b);

/* 64 random bits. */
uint64_t ht_rng_u64(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform in [0, 1), 53 bits. */
double ht_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform integer in [0, n), n > 0 (bias below n / 2^64). */
uint64_t ht_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);

/* Standard normal (Box-Muller on one block). */
double ht_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* Fills order[0..n) with a random permutation of 0..n-1 (Fisher-Yates). */
void ht_rng_permutation(uint64_t seed, uint64_t stream, int64_t n, int64_t *order);

#endif
