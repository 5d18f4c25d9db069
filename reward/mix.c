#include "reward/mix.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/rng.h"

#define DATA_SET 1 /* second coordinate of the streams: training pairs of a reward model */

ht_status ht_mix_init(ht_mix *mix, const ht_pair_set *set, double own_share, int64_t seed, ht_error *err) {
    ht_status status = HT_OK;
    memset(mix, 0, sizeof *mix);
    mix->seed = (uint64_t)seed;
    HT_TRY(ht_calloc(&mix->own, set->count, sizeof(int64_t), err));
    HT_TRY(ht_calloc(&mix->rest, set->count, sizeof(int64_t), err));
    for (size_t i = 0; i < set->count; i++) {
        if (set->pairs[i].own)
            mix->own[mix->own_count++] = (int64_t)i;
        else
            mix->rest[mix->rest_count++] = (int64_t)i;
    }
    if (!mix->own_count) {
        status = ht_fail(err, HT_ERR_DATA,
                         "no comparison of the reward model's own kind fits the filter (split, round, "
                         "source)");
        goto done;
    }
    double wanted = round((double)mix->own_count * (1 - own_share) / own_share);
    mix->drawn = wanted < (double)mix->rest_count ? (int64_t)wanted : mix->rest_count;
    mix->own_share = (double)mix->own_count / (double)ht_mix_count(mix);
    if ((double)mix->rest_count < wanted)
        ht_warn("reward.own_share = %g asks for %.0f other comparisons beside %" PRId64
                " own ones; there are %" PRId64 ": the own share is %.4f",
                own_share, wanted, mix->own_count, mix->rest_count, mix->own_share);
    HT_TRY(ht_calloc(&mix->draw, (size_t)mix->rest_count, sizeof(int64_t), err));
    HT_TRY(ht_calloc(&mix->places, (size_t)ht_mix_count(mix), sizeof(int64_t), err));
done:
    if (status != HT_OK) ht_mix_free(mix);
    return status;
}

void ht_mix_free(ht_mix *mix) {
    free(mix->own);
    free(mix->rest);
    free(mix->draw);
    free(mix->places);
    memset(mix, 0, sizeof *mix);
}

void ht_mix_order(const ht_mix *mix, int64_t epoch, int64_t *order) {
    ht_rng_permutation(mix->seed, ht_rng_stream(HT_RNG_CHOICE, (uint64_t)epoch, DATA_SET), mix->rest_count,
                       mix->draw);
    ht_rng_permutation(mix->seed, ht_rng_stream(HT_RNG_ORDER, (uint64_t)epoch, DATA_SET), ht_mix_count(mix),
                       mix->places);
    for (int64_t i = 0; i < ht_mix_count(mix); i++)
        order[mix->places[i]] = i < mix->own_count ? mix->own[i] : mix->rest[mix->draw[i - mix->own_count]];
}
