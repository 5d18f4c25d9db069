/*
 * mix.h: which pairs an epoch trains on, and in which order.
 *
 * Every epoch takes all own pairs once, and as many of the rest, drawn anew without replacement, as make the
 * own pairs the declared share of the whole. Llama 2 section 3.2.2: helpfulness 50 % own, safety 90 % own.
 */
#ifndef HT_REWARD_MIX_H
#define HT_REWARD_MIX_H

#include "reward/pairs.h"

typedef struct ht_mix {
    int64_t *own, *rest; /* indices into the pair set, ascending */
    int64_t own_count, rest_count;
    int64_t drawn;    /* of the rest, an epoch */
    double own_share; /* as reached: own / (own + drawn) */
    uint64_t seed;
    int64_t *draw; /* scratch [rest_count], [own_count + drawn] */
    int64_t *places;
} ht_mix;

/*
 * own_share in (0, 1]. drawn = own * (1 - own_share) / own_share, to the nearest; when the rest has fewer,
 * all of them are taken and a warning says the share that is reached. HT_ERR_DATA when there is no own pair.
 */
ht_status ht_mix_init(ht_mix *mix, const ht_pair_set *set, double own_share, int64_t seed, ht_error *err);
void ht_mix_free(ht_mix *mix);

/* Pairs of an epoch. */
static inline int64_t ht_mix_count(const ht_mix *mix) {
    return mix->own_count + mix->drawn;
}

/* order [ht_mix_count] out: a pure function of (set, share, seed, epoch). */
void ht_mix_order(const ht_mix *mix, int64_t epoch, int64_t *order);

#endif
