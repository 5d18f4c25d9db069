/*
 * rejection.h: halter-rejection: sample K responses to each prompt, score them with both reward models, keep
 * the best of each prompt as a demonstration for fine-tuning. Llama 2 section 3.2.3; METHOD.md section 5;
 * docs/rejection.md.
 *
 * The work goes in passes, one model in memory at a time: sample with the policy, score with one reward
 * model, score with the other, choose. Every pass keeps its results in the database chunk by chunk and leaves
 * alone what is there, so the same command goes on where it was stopped. Of several ranks each samples and scores its
 * part of every chunk; rank 0 alone stores and chooses.
 */
#ifndef HT_REJECTION_REJECTION_H
#define HT_REJECTION_REJECTION_H

#include "core/comm/comm.h"
#include "core/config/config.h"
#include "core/generate/draws.h"
#include "core/store/store.h"
#include "rejection/curves.h"

/* --- configuration ----------------------------------------------------------------------------------------
 */

typedef enum ht_pool { HT_POOL_LAST, HT_POOL_ALL } ht_pool;

#define HT_REJECTION_K_MAX 1024

typedef struct ht_rejection_config {
    char *db, *model, *helpful, *safe, *out;
    int64_t round, seed, threads;
    int backend, dtype, profile;
    int64_t prompts;                /* 0: all */
    int kind;                       /* of ht_kind_choices */
    int64_t first_round, last_round; /* of the prompts; last -1: no end */
    int64_t max_prompt_tokens;
    int too_long; /* ht_too_long */
    int64_t k, max_new_tokens, sequences, cache_tokens, chunk;
    ht_floats temperatures;
    double top_p;
    int64_t score_tokens;
    int pool; /* ht_pool */
    int truncated;
    double min_reward, max_minutes;
    int report_only, json, dry_run;
} ht_rejection_config;

extern const ht_command ht_rejection_command;

/* Temperature of sample k: they take turns, so that more samples do not change those there are. When K is not
 * a multiple of their number, the first K mod count temperatures have one sample more. */
static inline double ht_rejection_temperature(const ht_floats *temperatures, int64_t k) {
    return temperatures->values[(size_t)k % temperatures->count];
}
/* How many of k samples have temperature number `index`. */
static inline int64_t ht_rejection_share(const ht_floats *temperatures, int64_t k, size_t index) {
    int64_t count = (int64_t)temperatures->count;
    return k / count + ((int64_t)index < k % count);
}

/* --- the pool ---------------------------------------------------------------------------------------------
 */

/* The command at work: what the passes share. Pointers are borrowed. */
typedef struct ht_rejection {
    const ht_rejection_config *config;
    ht_comm *comm; /* NULL: alone */
    ht_store *store;
    ht_backend *be;
    int64_t policy_id, helpful_id, safe_id;
    ht_draw_list draws; /* this command's samples */
} ht_rejection;

/* Rows that may be in the pool, in the order of their dialogues; ht_rejection_is_* decide. */
ht_store_filter ht_rejection_filter(const ht_rejection *r);

/* 1 when the row is one of this command's own samples. *cursor (0 at first) is the position in the draws;
 * rows must come in the order of their dialogues. */
int ht_rejection_is_own(const ht_rejection *r, const ht_response_row *row, int64_t *cursor);

/* 1 when the row may be chosen: one's own, and with pool `all` every sample of rejection sampling of this
 * round or an earlier one, whatever model and settings drew it. Samples for annotators and of PPO are not in
 * the pool. */
int ht_rejection_in_pool(const ht_rejection *r, const ht_response_row *row, int own);

/* Scores every response of the pool that `model_id` has not scored, with the reward model in `folder`.
 * HT_ERR_RUN when a score is not finite. */
typedef struct ht_rejection_scorer {
    const char *folder;
    int64_t model_id;
    const char *label; /* of the progress line */
} ht_rejection_scorer;
ht_status ht_rejection_score(const ht_rejection *r, const ht_rejection_scorer *scorer, ht_error *err);

/* --- choosing ---------------------------------------------------------------------------------------------
 */

/* A response to a prompt, scored. */
typedef struct ht_candidate {
    int64_t response_id, round, k;
    double helpful, safe; /* linear */
    double reward;        /* combined */
    int truncated;        /* cut at its greatest length */
    int own;              /* drawn by this command */
} ht_candidate;

typedef struct ht_choose_rules {
    int truncated; /* 1: a cut response may be chosen */
    double min_reward;
} ht_choose_rules;

typedef enum ht_choice {
    HT_CHOICE_MADE,
    HT_CHOICE_ALL_TRUNCATED,
    HT_CHOICE_BELOW_MIN,
    HT_CHOICE_COUNT
} ht_choice;

/* *index = the candidate of greatest reward; ties go to the lowest k, then the lowest response id. -1 unless
 * MADE. */
ht_choice ht_choose(const ht_candidate *candidates, size_t count, const ht_choose_rules *rules,
                    int64_t *index);

/* --- results ----------------------------------------------------------------------------------------------
 */

/* Sums over the prompts of a group. Rewards are combined ones; a helpfulness prompt's is on the helpfulness
 * model's scale, unless the response is unsafe, a safety prompt's on the safety model's. */
typedef struct ht_rejection_sums {
    int64_t prompts; /* with this command's samples */
    int64_t samples, truncated, unsafe;
    double reward, helpful, safe;          /* over samples */
    double median;                         /* over prompts, of each prompt's median reward */
    int64_t choices[HT_CHOICE_COUNT];      /* prompts of the pool by what became of them */
    int64_t chosen_unsafe, chosen_earlier; /* of earlier rounds */
    double chosen_reward, chosen_helpful, chosen_safe;
} ht_rejection_sums;

enum { HT_GROUP_ALL, HT_GROUP_HELPFULNESS, HT_GROUP_SAFETY, HT_GROUP_COUNT };

typedef struct ht_rejection_result {
    ht_rejection_sums sums[HT_GROUP_COUNT];
    ht_curve curve;         /* over all K samples of a prompt, cut ones too */
    ht_curve *temperatures; /* [temperature_count] over the samples of one temperature */
    size_t temperature_count;
    int64_t *chosen; /* [chosen_count] response ids */
    size_t chosen_count, chosen_capacity;
} ht_rejection_result;

/* Goes through the pool once. Every response must have both scores. */
ht_status ht_rejection_choose(const ht_rejection *r, ht_rejection_result *result, ht_error *err);
void ht_rejection_result_free(ht_rejection_result *result);

/* The report as JSON, a new reference; docs/rejection.md names its members. */
json_t *ht_rejection_report(const ht_rejection *r, const ht_rejection_result *result);
/* The same as a table for people. */
void ht_rejection_print(const ht_rejection *r, const ht_rejection_result *result, FILE *out);

/* Demonstrations (unless report_only), evaluations of the policy and metrics of the run, in one transaction.
 * HT_ERR_DATA when this round has a chosen response that is none of these. */
ht_status ht_rejection_keep(const ht_rejection *r, const ht_rejection_result *result, const json_t *report,
                            int64_t run_id, ht_error *err);

#endif
