/*
 * reward.h: halter-reward: trains, evaluates and applies reward models.
 *
 * Sources: Llama 2 section 3.2.2; docs/reward.md.
 */
#ifndef HT_REWARD_REWARD_H
#define HT_REWARD_REWARD_H

#include "core/comm/comm.h"
#include "core/generate/scorer.h"
#include "core/tokenizer/chat.h"
#include "core/train/train.h"
#include "reward/loss.h"

extern const ht_program ht_reward_program;

typedef struct ht_reward_rounds {
    int64_t first, last; /* last -1: no end */
} ht_reward_rounds;

/* --- train ------------------------------------------------------------------------------------------------
 */

typedef struct ht_reward_config {
    ht_train_config train;
    char *db, *model;
    int kind;   /* ht_kind */
    int margin; /* ht_margin_kind */
    ht_floats margin_table;
    double aux_weight; /* HT_REWARD_BY_KIND */
    double own_share;  /* HT_REWARD_BY_KIND */
    ht_strings own_sources, sources;
    ht_reward_rounds rounds;
    int64_t max_tokens;
    int too_long; /* ht_too_long */
    int64_t batch_size, epochs, eval_pairs;
} ht_reward_config;

/* Of aux_weight: 0 for helpfulness, 1 for safety; of own_share: 0.5 and 0.9. */
#define HT_REWARD_BY_KIND (-1.0)

/* HT_ERR_USAGE for values between HT_REWARD_BY_KIND and what is allowed; *weight, *share are what is meant.
 */
ht_status ht_reward_settle(const ht_reward_config *config, double *weight, double *share, ht_error *err);

ht_status ht_reward_train(void *config, const ht_invocation *invocation, ht_error *err);

/* --- evaluate, apply --------------------------------------------------------------------------------------
 */

/* Where and how a reward model is run. */
typedef struct ht_reward_place {
    char *model;
    int backend, dtype;
    int64_t threads, pass_tokens;
} ht_reward_place;

/* Which rows: choices are one past the enum's value, 0 is all. */
typedef struct ht_reward_rows {
    int split, kind;
    ht_reward_rounds rounds;
    char *source;
} ht_reward_rows;

typedef struct ht_reward_evaluate_config {
    ht_reward_place place;
    ht_reward_rows rows;
    char *db;
    int too_long; /* ht_too_long */
    int json;
} ht_reward_evaluate_config;

typedef struct ht_reward_apply_config {
    ht_reward_place place;
    ht_reward_rows rows;
    char *db, *input, *sampled_by;
    int64_t run;
    int json;
} ht_reward_apply_config;

ht_status ht_reward_evaluate(void *config, const ht_invocation *invocation, ht_error *err);
ht_status ht_reward_apply(void *config, const ht_invocation *invocation, ht_error *err);

/* A reward model with its backend, on each of the ranks (comm NULL: one; borrowed). {.be = NULL} is closed. */
typedef struct ht_reward_judge {
    ht_comm *comm;
    ht_backend *be;
    ht_scorer scorer;
    ht_chat chat;
} ht_reward_judge;
ht_status ht_reward_judge_open(ht_reward_judge *judge, const ht_reward_place *place, ht_comm *comm, ht_error *err);
void ht_reward_judge_close(ht_reward_judge *judge);

/* The store's filter of these rows. */
ht_store_filter ht_reward_filter(const ht_reward_rows *rows);

#endif
