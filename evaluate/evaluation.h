/*
 * evaluation.h: one model's responses to the held-out prompts, sampled and judged.
 */
#ifndef HT_EVALUATE_EVALUATION_H
#define HT_EVALUATE_EVALUATION_H

#include "core/train/train.h"
#include "evaluate/evaluate.h"

/* What all evaluations of a command share. {.store = NULL} is closed. */
typedef struct ht_evaluator {
    const ht_evaluate_config *config; /* borrowed, as the next */
    const ht_invocation *invocation;
    ht_store *store;
    ht_backend *be;
    int64_t helpful_id, safe_id;
    int64_t judge_positions; /* of the reward model with fewer */
    json_t *judges;          /* {"helpful": {"id", "name", "path"}, "safe": ...} */
} ht_evaluator;

/* Opens database and backend, and looks at both reward models, so that a wrong one is found before anything is sampled. */
ht_status ht_evaluator_open(ht_evaluator *evaluator, const ht_evaluate_config *config, const ht_invocation *invocation,
                            ht_error *err);
void ht_evaluator_close(ht_evaluator *evaluator);

/* Responses in the order of their dialogues' ids, one a prompt. {0} is empty. */
typedef struct ht_evaluation {
    int64_t model_id, run_id, round;
    char *name;         /* of the model */
    const char *folder; /* borrowed */
    json_t *settings;   /* prompts and sampling: equal settings of two models make their responses comparable */
    ht_judged *responses;
    size_t count, capacity;
    int is_sampled; /* 0: the responses were in the database */
} ht_evaluation;

/* Whether responses that an earlier evaluation of the model has left in the database are taken. */
typedef enum ht_reuse { HT_REUSE_NEVER, HT_REUSE_SAME_SETTINGS } ht_reuse;

/*
 * Samples one response to each chosen prompt (a run of stage "evaluate" in the database), has those judged that have no
 * score yet, and gives all with their scores. One model is in memory at a time. The stream of a prompt is (dialogue, 0), so
 * that every model is sampled with the same random numbers.
 */
ht_status ht_evaluation_make(ht_evaluation *evaluation, ht_evaluator *evaluator, const char *folder, ht_reuse reuse,
                             ht_error *err);
void ht_evaluation_release(ht_evaluation *evaluation);

/*
 * Rows of the evaluation table: every measure, with {"standard_error", "count", "run", "helpful", "safe"} (ids) as details,
 * and "prompts", the number of responses, with {"run", "settings", "judges"}, by which the latest evaluation is found again.
 */
ht_status ht_evaluation_record(const ht_evaluation *evaluation, const ht_evaluator *evaluator, ht_error *err);

/* Names of the rows that are not a measure. */
#define HT_ROW_PROMPTS  "prompts"
#define HT_ROW_WIN_RATE "win_rate" /* "win_rate:NAME", "win_rate_helpfulness:NAME", "win_rate_safety:NAME" */

/* Win rate of `a` against `b`, judged by the reward models, recorded for `a`. */
ht_status ht_evaluation_compare(ht_win_rates *rates, const ht_evaluation *a, const ht_evaluation *b,
                                const ht_evaluator *evaluator, ht_error *err);

#endif
