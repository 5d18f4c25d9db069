/*
 * Sets of tokenised examples, their hash, and the order in which they are trained on.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "sft/sft.h"

void ht_sft_set_free(ht_sft_set *set) {
    ht_example_set_free(&set->examples);
    free(set->weights);
    *set = (ht_sft_set){.weights = NULL};
}

ht_status ht_sft_set_add(ht_sft_set *set, const ht_example *example, double weight, ht_error *err) {
    ht_status status = HT_OK;
    if (!(weight > 0) || !isfinite((float)weight))
        return ht_fail(err, HT_ERR_DATA, "weight %g is not above 0 and finite in 32 bits", weight);
    HT_TRY(ht_grow(&set->weights, &set->weight_capacity, set->examples.count + 1, sizeof *set->weights, err));
    HT_TRY(ht_example_set_add(&set->examples, example->id, example->tokens, example->is_target,
                              example->length, err));
    set->weights[set->examples.count - 1] = (float)weight;
    if (set->examples.count == 1 || example->length < set->shortest) set->shortest = example->length;
    if (example->length > set->longest) set->longest = example->length;
    ht_example kept = ht_example_set_get(&set->examples, (int64_t)set->examples.count - 1);
    for (int64_t t = 0; t < kept.length; t++)
        set->targets += kept.is_target[t];
done:
    return status;
}

void ht_sft_data_free(ht_sft_data *data) {
    ht_sft_set_free(&data->train);
    ht_sft_set_free(&data->held_out);
    json_decref(data->lineage);
    data->lineage = NULL;
}

/* --- order ------------------------------------------------------------------------------------------------
 */

void ht_sft_plan_free(ht_sft_plan *plan) {
    free(plan->order);
    free(plan->bin_start);
    *plan = (ht_sft_plan){.order = NULL};
}

/* Appends the bins of one epoch, whose examples stand at `offset` in plan->order. */
static ht_status plan_epoch(ht_sft_plan *plan, const ht_sft_set *set, int64_t offset, int64_t seq_len,
                            size_t *capacity, ht_error *err) {
    ht_status status = HT_OK;
    int64_t *start = NULL, bins = 0;
    HT_TRY(ht_pack(&set->examples, plan->order + offset, (int64_t)set->examples.count, seq_len, &start, &bins,
                   err));
    HT_TRY(
        ht_grow(&plan->bin_start, capacity, (size_t)(plan->bins + bins) + 1, sizeof *plan->bin_start, err));
    for (int64_t b = 0; b <= bins; b++)
        plan->bin_start[plan->bins + b] = offset + start[b];
    plan->bins += bins;
done:
    free(start);
    return status;
}

ht_status ht_sft_plan_init(ht_sft_plan *plan, const ht_sft_set *set, const ht_data_config *config,
                           int64_t seed, ht_error *err) {
    *plan = (ht_sft_plan){.batch_size = config->batch_size};
    ht_status status = HT_OK;
    int64_t n = (int64_t)set->examples.count;
    size_t capacity = 0;
    HT_TRY(ht_calloc(&plan->order, (size_t)n * (size_t)config->epochs, sizeof *plan->order, err));
    for (int64_t epoch = 0; epoch < config->epochs; epoch++) {
        ht_rng_permutation((uint64_t)seed, ht_rng_stream(HT_RNG_ORDER, (uint64_t)epoch, 0), n,
                           plan->order + epoch * n);
        HT_TRY(plan_epoch(plan, set, epoch * n, config->seq_len, &capacity, err));
    }
    plan->steps = (plan->bins + plan->batch_size - 1) / plan->batch_size;
    if (config->max_steps > 0 && plan->steps > config->max_steps) plan->steps = config->max_steps;
done:
    if (status != HT_OK) ht_sft_plan_free(plan);
    return status;
}

void ht_sft_plan_step(const ht_sft_plan *plan, int64_t step, const ht_comm *comm, int64_t *first, int64_t *end) {
    int64_t bin = step * plan->batch_size, last = bin + plan->batch_size, from, to;
    if (last > plan->bins) last = plan->bins;
    ht_comm_part(comm, last - bin, &from, &to);
    *first = plan->bin_start[bin + from];
    *end = plan->bin_start[bin + to];
}
