/*
 * Loss and gradient of a step.
 *
 * The loss is the weighted mean over the target tokens of the whole step: each micro-batch divides by the
 * step's sum of weights, which is known before the first one runs.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/signals.h"
#include "sft/sft.h"

/* What a run over examples adds up. */
typedef struct sums {
    double loss, weight;
    int64_t tokens, targets;
} sums;

ht_status ht_sft_trainer_init(ht_sft_trainer *trainer, ht_trainable *trainable, const ht_sft_data *data,
                              const ht_sft_plan *plan, const ht_sft_config *config, ht_arena *arena,
                              ht_error *err) {
    *trainer = (ht_sft_trainer){.model = trainable->model,
                                .grads = &trainable->grads,
                                .data = data,
                                .plan = plan,
                                .eval_examples = config->data.eval_examples};
    ht_status status = HT_OK;
    int64_t longest = data->train.longest, shortest = data->train.shortest,
            capacity = config->train.micro_tokens;
    int64_t most = config->data.seq_len * config->data.batch_size;
    if (data->held_out.longest > longest) longest = data->held_out.longest;
    if (data->held_out.examples.count && data->held_out.shortest < shortest)
        shortest = data->held_out.shortest;
    if (longest > capacity)
        return ht_fail(err, HT_ERR_USAGE,
                       "train.micro_tokens = %" PRId64 " is below the longest example, %" PRId64 " tokens",
                       capacity, longest);
    if (capacity > most) capacity = most;
    int64_t sequences = capacity / (shortest > 0 ? shortest : 1);
    ht_keep keep = config->train.recompute ? HT_KEEP_RECOMPUTE : HT_KEEP_ALL;
    HT_TRY(ht_activations_init(&trainer->acts, trainable->model, arena, keep, capacity, sequences, err));
    HT_TRY(ht_batch_init(&trainer->batch, capacity, sequences, err));
    HT_TRY(ht_calloc(&trainer->rows, (size_t)capacity, sizeof *trainer->rows, err));
    HT_TRY(ht_calloc(&trainer->targets, (size_t)capacity, sizeof *trainer->targets, err));
    HT_TRY(ht_calloc(&trainer->weights, (size_t)capacity, sizeof *trainer->weights, err));
    HT_TRY(ht_calloc(&trainer->logp, (size_t)capacity, sizeof *trainer->logp, err));
done:
    if (status != HT_OK) ht_sft_trainer_free(trainer);
    return status;
}

void ht_sft_trainer_free(ht_sft_trainer *trainer) {
    ht_activations_free(trainer->acts);
    ht_batch_free(&trainer->batch);
    free(trainer->rows);
    free(trainer->targets);
    free(trainer->weights);
    free(trainer->logp);
    *trainer = (ht_sft_trainer){.model = NULL};
}

/* Adds an example and its targets to the batch; 1, or 0 when it does not fit. */
static int add_example(ht_sft_trainer *t, const ht_sft_set *set, int64_t index) {
    ht_example e = ht_example_set_get(&set->examples, index);
    int64_t base = t->batch.n_tokens;
    if (!ht_batch_add(&t->batch, e.tokens, e.length)) return 0;
    for (int64_t i = 1; i < e.length; i++) {
        if (!e.is_target[i]) continue;
        t->rows[t->row_count] = (int32_t)(base + i - 1);
        t->targets[t->row_count] = e.tokens[i];
        t->weights[t->row_count++] = set->weights[index];
    }
    return 1;
}

/* Runs the batch and empties it. total_weight 0: no gradient. */
static ht_status run_batch(ht_sft_trainer *t, double total_weight, sums *sum, ht_error *err) {
    ht_status status = HT_OK;
    ht_token_loss loss = {.kind = HT_TOKEN_LOSS_NLL, .weight = t->weights};
    int learn = total_weight > 0;
    double batch_loss = 0;
    HT_TRY(ht_llama_forward(t->model, t->acts, &t->batch, err));
    for (int64_t i = 0; i < t->row_count; i++) {
        sum->weight += (double)t->weights[i];
        if (learn) t->weights[i] = (float)((double)t->weights[i] / total_weight);
    }
    HT_TRY(ht_lm_loss(t->model, t->acts,
                      &(ht_lm_rows){.count = t->row_count,
                                    .rows = t->rows,
                                    .targets = t->targets,
                                    .logp = t->logp,
                                    .loss = learn ? &loss : NULL,
                                    .total = &batch_loss},
                      learn ? t->grads : NULL, err));
    if (learn)
        HT_TRY(ht_llama_backward(t->model, t->acts, t->grads, err));
    else
        for (int64_t i = 0; i < t->row_count; i++)
            batch_loss -= (double)t->weights[i] * (double)t->logp[i];
    sum->loss += batch_loss;
    sum->tokens += t->batch.n_tokens;
    sum->targets += t->row_count;
    ht_batch_clear(&t->batch);
    t->row_count = 0;
done:
    return status;
}

/* Runs examples order[first .. end) (order NULL: themselves) in as many passes as they need. */
static ht_status run_examples(ht_sft_trainer *t, const ht_sft_set *set, const int64_t *order, int64_t first,
                              int64_t end, double total_weight, sums *sum, ht_error *err) {
    ht_status status = HT_OK;
    *sum = (sums){.loss = 0};
    ht_batch_clear(&t->batch);
    t->row_count = 0;
    for (int64_t i = first; i < end; i++) {
        int64_t index = order ? order[i] : i;
        if (add_example(t, set, index)) continue;
        HT_TRY(run_batch(t, total_weight, sum, err));
        add_example(t, set, index); /* no example is longer than an empty batch */
    }
    if (t->batch.n_tokens > 0) HT_TRY(run_batch(t, total_weight, sum, err));
done:
    return status;
}

/* The sums of all ranks. */
static ht_status add_ranks(ht_sft_trainer *t, sums *sum, ht_error *err) {
    double values[] = {sum->loss, sum->weight, (double)sum->tokens, (double)sum->targets};
    ht_status status = ht_comm_sum(t->comm, values, sizeof values / sizeof *values, err);
    *sum = (sums){values[0], values[1], (int64_t)values[2], (int64_t)values[3]};
    return status;
}

ht_status ht_sft_accumulate(void *self, int64_t step, int model, ht_metrics *metrics, ht_error *err) {
    ht_sft_trainer *t = self;
    const ht_sft_set *set = &t->data->train;
    int64_t first, end, own_first, own_end;
    double total_weight = 0;
    (void)model;
    sums sum;
    ht_sft_plan_step(t->plan, step, NULL, &first, &end);
    ht_sft_plan_step(t->plan, step, t->comm, &own_first, &own_end);
    for (int64_t i = first; i < end; i++) {
        ht_example e = ht_example_set_get(&set->examples, t->plan->order[i]);
        int64_t targets = 0;
        for (int64_t k = 0; k < e.length; k++)
            targets += e.is_target[k];
        total_weight += (double)targets * (double)set->weights[t->plan->order[i]];
    }
    ht_status status = run_examples(t, set, t->plan->order, own_first, own_end, total_weight, &sum, err);
    if (status == HT_OK) status = add_ranks(t, &sum, err);
    if (status != HT_OK) return status;
    ht_metrics_set(metrics, "loss", sum.loss);
    ht_metrics_set(metrics, "tokens", (double)sum.tokens);
    ht_metrics_set(metrics, "targets", (double)sum.targets);
    ht_metrics_set(metrics, "examples", (double)(end - first));
    return HT_OK;
}

int64_t ht_sft_row(void *self, int64_t step, int64_t index) {
    const ht_sft_trainer *t = self;
    int64_t first, end;
    ht_sft_plan_step(t->plan, step, NULL, &first, &end);
    return first + index < end ? t->data->train.examples.ids[t->plan->order[first + index]] : -1;
}

ht_status ht_sft_evaluate(void *self, int64_t updates, ht_metrics *metrics, int *stop, ht_error *err) {
    ht_sft_trainer *t = self;
    (void)updates;
    *stop = 0;
    int64_t count = (int64_t)t->data->held_out.examples.count;
    if (t->eval_examples > 0 && t->eval_examples < count) count = t->eval_examples;
    int64_t first, end;
    sums sum;
    ht_comm_part(t->comm, count, &first, &end);
    ht_status status = run_examples(t, &t->data->held_out, NULL, first, end, 0, &sum, err);
    if (status == HT_OK) status = add_ranks(t, &sum, err);
    if (status != HT_OK) return status;
    ht_metrics_set(metrics, "eval_loss", sum.loss / sum.weight);
    ht_metrics_set(metrics, "eval_targets", (double)sum.targets);
    return HT_OK;
}
