/*
 * ppo.h: proximal policy optimisation against a helpfulness and a safety reward model.
 *
 * An iteration samples one response to each of `batch` prompts from the policy itself (temperature 1, nothing filtered),
 * scores them, and takes one optimizer step on each mini-batch. Llama 2 section 3.2.3; METHOD.md section 6.
 */
#ifndef HT_PPO_PPO_H
#define HT_PPO_PPO_H

#include "core/config/config.h"
#include "core/generate/generate.h"
#include "core/generate/prompts.h"
#include "core/train/train.h"

typedef struct ht_ppo_config {
    ht_train_config train;
    char *db, *model, *helpful, *safe;
    int64_t iterations, batch, mini_batch, epochs;
    int64_t max_new_tokens, max_prompt_tokens, sequences, cache_tokens;
    int too_long; /* ht_too_long */
    double kl_coef, clip, value_clip, value_lr, gamma, lambda, truncation_penalty;
    int64_t first_round, last_round;   /* of the prompts; last -1: no end */
    int64_t eval_prompts, patience, samples;
    double max_kl;
} ht_ppo_config;

/* The models, and what runs them: one at a time, so that activations lie in the same memory (ht_arena_turn). */
typedef struct ht_ppo_models {
    ht_llama policy, reference, helpful, safe, value;
    ht_trainable policy_training, value_training;
    ht_activations *policy_acts, *value_acts, *safe_acts; /* reference: the policy's; helpful: the value model's */
    ht_engine *engine;
} ht_ppo_models;

/* The responses of one iteration, end to end, and everything about their tokens. */
typedef struct ht_rollout {
    int64_t count;               /* responses */
    int64_t *prompt;             /* [count] index in the prompt set */
    ht_completion *completions;  /* [count] */
    ht_ids sequences;            /* prompt and response ids of all, end to end */
    int64_t *sequence_start;     /* [count + 1] in `sequences` */
    int64_t *start;              /* [count + 1] first token of each response in the arrays below */
    float *logp, *reference, *entropy, *value; /* a response token each: before the iteration's first update */
    double *reward, *advantage, *returns;      /* a response token each */
    float *helpful, *safe;       /* [count] linear scores */
    double *combined, *score;    /* [count] Rc, and what goes on the last token */
    size_t token_capacity;
} ht_rollout;

/* What a rollout needs. All borrowed. */
typedef struct ht_rollout_plan {
    const ht_ppo_config *config;
    ht_ppo_models *models;
    const ht_prompt_set *prompts;
    ht_batch *batch; /* of micro_tokens tokens */
    ht_comm *comm;   /* NULL: alone */
} ht_rollout_plan;

ht_status ht_rollout_init(ht_rollout *rollout, int64_t count, ht_error *err);
void ht_rollout_free(ht_rollout *rollout);

/* Each rank does what follows for its part of the responses; every rank has the results for all of them. */

/* Samples a response to prompts index[0 .. count) and scores them: completions, sequences, helpful, safe, combined. `stream` of
 * response i is that of (the prompt's dialogue, first_sample + i). */
ht_status ht_rollout_sample(ht_rollout *rollout, const ht_rollout_plan *plan, const int64_t *index, int64_t count,
                            uint64_t first_sample, ht_error *err);

/* Log-probabilities under policy and reference by the trainer's own forward pass, and values. */
ht_status ht_rollout_evaluate(ht_rollout *rollout, const ht_rollout_plan *plan, ht_error *err);

/* Whitened scores, rewards, advantages (whitened over the batch after returns are taken), returns. */
void ht_rollout_credit(ht_rollout *rollout, const ht_ppo_config *config);

/* Means over the batch: rewards, KL, entropy, lengths, finished share, and the sampler against the trainer. */
void ht_rollout_metrics(const ht_rollout *rollout, ht_metrics *metrics);

/* halter-ppo's only command. */
extern const ht_command ht_ppo_command;

#endif
