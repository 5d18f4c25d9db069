/*
 * task.h: the training loop's task of halter-ppo.
 */
#ifndef HT_PPO_TASK_H
#define HT_PPO_TASK_H

#include "ppo/ppo.h"

typedef struct ht_ppo_task {
    const ht_ppo_config *config; /* borrowed */
    ht_ppo_models *models;       /* borrowed */
    ht_prompt_set prompts, held_out;
    const ht_tokenizer *tokenizer; /* borrowed */
    ht_comm *comm;                 /* borrowed; NULL: alone */
    ht_store *store;               /* borrowed; NULL: no sample tables */
    const ht_train_run *run;       /* borrowed: the run's id in the database */
    int64_t policy_id, helpful_id, safe_id; /* rows of the models in the database */
    int64_t steps_per_iteration;

    ht_rollout rollout, held_out_rollout;
    ht_batch batch;
    int64_t *chosen;  /* [batch] prompts of the iteration */
    int64_t *members; /* [batch] order of the responses in the epoch's mini-batches */
    int64_t *order;   /* [prompts] order of the prompts in epoch order_epoch */
    int64_t order_epoch;
    int64_t *held_out_index, held_out_count; /* evenly spread over the held-out prompts */

    /* rows of one pass: [micro_tokens] */
    int32_t *rows, *targets;
    int64_t *token; /* index in the rollout */
    float *weight, *old_logp, *advantage, *logp;

    double best_reward; /* early stopping, saved with the state */
    int64_t worse;
} ht_ppo_task;

/* Activations and engine of models that have their weights; passes of limits->prefill_tokens, trained ones keep `keep`. */
ht_status ht_ppo_models_init_passes(ht_ppo_models *models, ht_arena *arena, ht_keep keep, const ht_engine_limits *limits,
                                    ht_error *err);
/* Of zeroed models: does nothing. The arena owns their memory. */
void ht_ppo_models_free(ht_ppo_models *models);

/* From a zeroed task whose prompts and held_out have been read. */
ht_status ht_ppo_task_init(ht_ppo_task *task, const ht_ppo_config *config, ht_ppo_models *models, ht_error *err);
void ht_ppo_task_free(ht_ppo_task *task);

ht_train_task ht_ppo_train_task(ht_ppo_task *task);

#endif
