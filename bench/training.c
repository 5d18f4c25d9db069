/*
 * Training steps and scoring, by the stages' own code.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/works.h"
#include "core/base/memory.h"
#include "core/model/score.h"
#include "reward/step.h"
#include "sft/sft.h"

/* *tokens = new memory, the amount's sequences one after the other. */
static ht_status random_sequences(const work *w, int32_t **tokens, ht_error *err) {
    const work_amount *a = &w->amount;
    ht_status status = ht_calloc(tokens, (size_t)(a->sequences * a->length), sizeof **tokens, err);
    for (int64_t i = 0; status == HT_OK && i < a->sequences * a->length; i++)
        (*tokens)[i] = work_token(w, (uint64_t)(i / a->length), i % a->length);
    return status;
}

/* Forward and backward of every token, the backward pass being twice the forward one. */
static double limit_of_step(const work *w, const ht_profile *peaks) {
    double head = w->kind == &work_sft ? work_head_flop(w) : 0;
    return peaks->product_peak / (3 * (work_layers_flop(w, w->amount.length) + head));
}

/* --- sft -------------------------------------------------------------------------------------------------- */

typedef struct sft {
    work_training training;
    ht_sft_config config;
    ht_sft_data data;
    ht_sft_plan plan;
    ht_sft_trainer trainer;
} sft;

static ht_status sft_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    const work_amount *a = &w->amount;
    sft *self = NULL;
    int32_t *tokens = NULL;
    uint8_t *is_target = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    self->config.train.micro_tokens = a->micro_tokens;
    self->config.data = (ht_data_config){.seq_len = a->length, .batch_size = a->sequences, .epochs = 1};
    HT_TRY(random_sequences(w, &tokens, err));
    HT_TRY(ht_calloc(&is_target, (size_t)a->length, 1, err));
    memset(is_target + 1, 1, (size_t)a->length - 1);
    for (int64_t s = 0; s < a->sequences; s++) {
        ht_example example = {.id = s, .tokens = tokens + s * a->length, .is_target = is_target, .length = a->length};
        HT_TRY(ht_sft_set_add(&self->data.train, &example, 1, err));
    }
    HT_TRY(ht_sft_plan_init(&self->plan, &self->data.train, &self->config.data, 1, err));
    HT_TRY(work_training_init(w, &self->training, HT_HEAD_LM, err));
    HT_TRY(ht_sft_trainer_init(&self->trainer, &self->training.trainable, &self->data, &self->plan, &self->config,
                               &w->arena, err));
done:
    free(is_target);
    free(tokens);
    return status;
}

static ht_status sft_run(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    sft *self = w->self;
    ht_metrics metrics = {.count = 0};
    HT_TRY(ht_sft_accumulate(&self->trainer, 0, 0, &metrics, err));
    HT_TRY(work_training_update(&self->training, err));
    *tokens = w->amount.sequences * w->amount.length;
done:
    return status;
}

static void sft_close(work *w) {
    sft *self = w->self;
    ht_sft_trainer_free(&self->trainer);
    ht_sft_plan_free(&self->plan);
    ht_sft_data_free(&self->data);
    work_training_free(&self->training);
}

const work_kind work_sft = {"sft", sft_open, sft_run, limit_of_step, sft_close, NULL};

/* --- reward ----------------------------------------------------------------------------------------------- */

typedef struct reward {
    work_training training;
    ht_activations *acts;
    ht_pair_set pairs;
    ht_reward_loss loss;
    ht_reward_pass pass;
    int64_t *order; /* of the pairs */
} reward;

static ht_status reward_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    const work_amount *a = &w->amount;
    int64_t pass = a->micro_tokens > 2 * a->length ? a->micro_tokens : 2 * a->length; /* a pair fits one */
    reward *self = NULL;
    int32_t *tokens = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    HT_TRY(ht_reward_margins(&self->loss, HT_MARGIN_SMALL, &(ht_floats){.count = 0}, err));
    self->pairs.count = (size_t)a->sequences / 2;
    HT_TRY(ht_calloc(&self->pairs.pairs, self->pairs.count, sizeof *self->pairs.pairs, err));
    HT_TRY(ht_calloc(&self->order, self->pairs.count, sizeof *self->order, err));
    for (size_t i = 0; i < self->pairs.count; i++)
        self->order[i] = (int64_t)i;
    HT_TRY(random_sequences(w, &tokens, err));
    for (int64_t s = 0; s < a->sequences; s++)
        HT_TRY(ht_example_set_add(&self->pairs.sequences, s, tokens + s * a->length, NULL, a->length, err));
    HT_TRY(work_training_init(w, &self->training, HT_HEAD_SCALAR, err));
    HT_TRY(ht_activations_init(&self->acts, &self->training.model, &w->arena, HT_KEEP_ALL, pass, a->sequences, err));
    HT_TRY(ht_reward_pass_init(&self->pass, &self->training.model, self->acts, pass, a->sequences, err));
done:
    free(tokens);
    return status;
}

static ht_status reward_run(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    reward *self = w->self;
    ht_reward_result result;
    HT_TRY(ht_reward_step(&self->pass, &self->loss, &self->pairs, self->order, (int64_t)self->pairs.count,
                          &self->training.trainable.grads, &result, err));
    HT_TRY(work_training_update(&self->training, err));
    *tokens = result.tokens;
done:
    return status;
}

static void reward_close(work *w) {
    reward *self = w->self;
    ht_reward_pass_free(&self->pass);
    ht_activations_free(self->acts);
    ht_pair_set_free(&self->pairs);
    free(self->order);
    work_training_free(&self->training);
}

const work_kind work_reward = {"reward", reward_open, reward_run, limit_of_step, reward_close, NULL};

/* --- score ------------------------------------------------------------------------------------------------ */

typedef struct scoring {
    ht_llama model;
    ht_activations *acts;
    int32_t *tokens;
    const int32_t **sequences;
    int64_t *lengths;
    float *scores;
} scoring;

static ht_status score_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    const work_amount *a = &w->amount;
    scoring *self = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    HT_TRY(random_sequences(w, &self->tokens, err));
    HT_TRY(ht_calloc(&self->sequences, (size_t)a->sequences, sizeof *self->sequences, err));
    HT_TRY(ht_calloc(&self->lengths, (size_t)a->sequences, sizeof *self->lengths, err));
    HT_TRY(ht_calloc(&self->scores, (size_t)a->sequences, sizeof *self->scores, err));
    for (int64_t s = 0; s < a->sequences; s++) {
        self->sequences[s] = self->tokens + s * a->length;
        self->lengths[s] = a->length;
    }
    HT_TRY(work_model(w, &self->model, HT_HEAD_SCALAR, err));
    HT_TRY(ht_activations_init(&self->acts, &self->model, &w->arena, HT_KEEP_NOTHING, a->micro_tokens, a->sequences, err));
done:
    return status;
}

static ht_status score_run(work *w, int64_t *tokens, ht_error *err) {
    scoring *self = w->self;
    *tokens = w->amount.sequences * w->amount.length;
    return ht_score_sequences(&self->model, self->acts, self->sequences, self->lengths, w->amount.sequences, self->scores,
                              err);
}

static double score_limit(const work *w, const ht_profile *peaks) {
    return peaks->product_peak / work_layers_flop(w, w->amount.length);
}

static void score_close(work *w) {
    scoring *self = w->self;
    free(self->scores);
    free(self->lengths);
    free(self->sequences);
    free(self->tokens);
    ht_activations_free(self->acts);
    ht_llama_free(&self->model);
}

const work_kind work_score = {"score", score_open, score_run, score_limit, score_close, NULL};
