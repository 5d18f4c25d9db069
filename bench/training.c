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

static void random_sequence(const work *w, int64_t s, int32_t tokens[WORK_LENGTH]) {
    for (int64_t i = 0; i < WORK_LENGTH; i++)
        tokens[i] = work_token(w, (uint64_t)s, i);
}

/* Forward and backward of every token, the backward pass being twice the forward one. */
static double limit_of_step(const work *w, const ht_profile *peaks) {
    double head = w->kind == &work_sft ? work_head_flop(w) : 0;
    return peaks->product_peak / (3 * (work_layers_flop(w, WORK_LENGTH) + head));
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
    sft *self = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    self->config.train.micro_tokens = WORK_SEQUENCES * WORK_LENGTH;
    self->config.data = (ht_data_config){.seq_len = WORK_LENGTH, .batch_size = WORK_SEQUENCES, .epochs = 1};
    for (int64_t s = 0; s < WORK_SEQUENCES; s++) {
        int32_t tokens[WORK_LENGTH];
        uint8_t is_target[WORK_LENGTH];
        memset(is_target, 1, sizeof is_target);
        is_target[0] = 0;
        random_sequence(w, s, tokens);
        ht_example example = {.id = s, .tokens = tokens, .is_target = is_target, .length = WORK_LENGTH};
        HT_TRY(ht_sft_set_add(&self->data.train, &example, 1, err));
    }
    HT_TRY(ht_sft_plan_init(&self->plan, &self->data.train, &self->config.data, 1, err));
    HT_TRY(work_training_init(w, &self->training, HT_HEAD_LM, err));
    HT_TRY(ht_sft_trainer_init(&self->trainer, &self->training.trainable, &self->data, &self->plan, &self->config,
                               &w->arena, err));
done:
    return status;
}

static ht_status sft_run(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    sft *self = w->self;
    ht_metrics metrics = {.count = 0};
    HT_TRY(ht_sft_accumulate(&self->trainer, 0, &metrics, err));
    HT_TRY(work_training_update(&self->training, err));
    *tokens = WORK_SEQUENCES * WORK_LENGTH;
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

const work_kind work_sft = {"sft", sft_open, sft_run, limit_of_step, sft_close};

/* --- reward ----------------------------------------------------------------------------------------------- */

typedef struct reward {
    work_training training;
    ht_activations *acts;
    ht_pair_set pairs;
    ht_reward_loss loss;
    ht_reward_pass pass;
} reward;

enum { PAIRS = WORK_SEQUENCES / 2 };

static ht_status reward_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    reward *self = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    HT_TRY(ht_reward_margins(&self->loss, HT_MARGIN_SMALL, &(ht_floats){.count = 0}, err));
    HT_TRY(ht_calloc(&self->pairs.pairs, PAIRS, sizeof *self->pairs.pairs, err));
    self->pairs.count = PAIRS;
    for (int64_t s = 0; s < WORK_SEQUENCES; s++) {
        int32_t tokens[WORK_LENGTH];
        random_sequence(w, s, tokens);
        HT_TRY(ht_example_set_add(&self->pairs.sequences, s, tokens, NULL, WORK_LENGTH, err));
    }
    HT_TRY(work_training_init(w, &self->training, HT_HEAD_SCALAR, err));
    HT_TRY(ht_activations_init(&self->acts, &self->training.model, &w->arena, HT_KEEP_ALL, WORK_SEQUENCES * WORK_LENGTH,
                               WORK_SEQUENCES, err));
    HT_TRY(ht_reward_pass_init(&self->pass, &self->training.model, self->acts, WORK_SEQUENCES * WORK_LENGTH,
                               WORK_SEQUENCES, err));
done:
    return status;
}

static ht_status reward_run(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    reward *self = w->self;
    const int64_t order[PAIRS] = {0, 1, 2, 3};
    ht_reward_result result;
    HT_TRY(ht_reward_step(&self->pass, &self->loss, &self->pairs, order, PAIRS, &self->training.trainable.grads, &result,
                          err));
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
    work_training_free(&self->training);
}

const work_kind work_reward = {"reward", reward_open, reward_run, limit_of_step, reward_close};

/* --- score ------------------------------------------------------------------------------------------------ */

typedef struct scoring {
    ht_llama model;
    ht_activations *acts;
    int32_t tokens[WORK_SEQUENCES][WORK_LENGTH];
} scoring;

static ht_status score_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    scoring *self = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    for (int64_t s = 0; s < WORK_SEQUENCES; s++)
        random_sequence(w, s, self->tokens[s]);
    HT_TRY(work_model(w, &self->model, HT_HEAD_SCALAR, err));
    HT_TRY(ht_activations_init(&self->acts, &self->model, &w->arena, HT_KEEP_NOTHING, WORK_SEQUENCES * WORK_LENGTH,
                               WORK_SEQUENCES, err));
done:
    return status;
}

static ht_status score_run(work *w, int64_t *tokens, ht_error *err) {
    scoring *self = w->self;
    const int32_t *sequences[WORK_SEQUENCES];
    int64_t lengths[WORK_SEQUENCES];
    float scores[WORK_SEQUENCES];
    for (int64_t s = 0; s < WORK_SEQUENCES; s++) {
        sequences[s] = self->tokens[s];
        lengths[s] = WORK_LENGTH;
    }
    *tokens = WORK_SEQUENCES * WORK_LENGTH;
    return ht_score_sequences(&self->model, self->acts, sequences, lengths, WORK_SEQUENCES, scores, err);
}

static double score_limit(const work *w, const ht_profile *peaks) {
    return peaks->product_peak / work_layers_flop(w, WORK_LENGTH);
}

static void score_close(work *w) {
    scoring *self = w->self;
    ht_activations_free(self->acts);
    ht_llama_free(&self->model);
}

const work_kind work_score = {"score", score_open, score_run, score_limit, score_close};
