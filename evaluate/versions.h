/*
 * versions.h: the table of versions: what the database knows of every chat model that was evaluated.
 */
#ifndef HT_EVALUATE_VERSIONS_H
#define HT_EVALUATE_VERSIONS_H

#include <stdio.h>

#include "evaluate/evaluate.h"

/*
 * Columns: enum, key in JSON, heading (NULL: in JSON only).
 *   true_*         means of the scores that the models named "oracle-helpfulness" and "oracle-violation" have given to the
 *                  responses of the version's latest evaluation: helpfulness over prompts of kind helpfulness, violations
 *                  over prompts of kind safety
 *   *_reward, violations_judged, finished_share, response_tokens    the version's evaluation rows
 *   win_rate*      against the baseline, of the version's latest evaluation; the baseline's own is 0.5
 *   reward_accuracy_*   of the reward models of the version's round, on held-out comparisons of their kind
 */
#define HT_TABLE_MAP(X)                                                                  \
    X(TRUE_HELPFULNESS, "true_helpfulness", "true helpful")                               \
    X(TRUE_VIOLATIONS, "true_violations", "true violations")                              \
    X(HELPFULNESS_REWARD, "helpfulness_reward", "helpful reward")                         \
    X(SAFETY_REWARD, "safety_reward", "safety reward")                                    \
    X(WIN_RATE, "win_rate", "win rate")                                                   \
    X(REWARD_ACCURACY_HELPFULNESS, "reward_accuracy_helpfulness", "accuracy helpful")     \
    X(REWARD_ACCURACY_SAFETY, "reward_accuracy_safety", "accuracy safety")                \
    X(RESPONSE_TOKENS, "response_tokens", "tokens")                                       \
    X(WIN_RATE_HELPFULNESS, "win_rate_helpfulness", NULL)                                 \
    X(WIN_RATE_SAFETY, "win_rate_safety", NULL)                                           \
    X(VIOLATIONS_JUDGED, "violations_judged", NULL)                                       \
    X(COMBINED_REWARD, "combined_reward", NULL)                                           \
    X(FINISHED_SHARE, "finished_share", NULL)
#define HT_TABLE_ENUM(name, key, heading) HT_TABLE_##name,
typedef enum ht_table_column { HT_TABLE_MAP(HT_TABLE_ENUM) HT_TABLE_COUNT } ht_table_column;

typedef struct ht_cell {
    double value, error; /* NAN: not measured */
} ht_cell;

typedef struct ht_version {
    char *name, *path, *stage;
    int64_t model_id, round, run_id, prompts;
    json_t *basis; /* {"settings", "judges"}: how it was evaluated */
    ht_cell cells[HT_TABLE_COUNT];
} ht_version;

/* {0} is empty. */
typedef struct ht_versions {
    ht_version *rows;
    size_t count, capacity;
    char *baseline; /* name: the evaluated model of stage sft of the lowest round; NULL: none */
    int64_t baseline_id;
} ht_versions;

/*
 * Versions: models of stage sft or ppo that have an evaluation, by round, then id; of several of one name the newest.
 * With `names`: those, in that order, of any stage. What cannot be compared (other prompts, sampling or reward models,
 * responses without a true score) is said in the log. HT_ERR_DATA when there is no version, or none of a name.
 */
ht_status ht_versions_read(ht_versions *versions, ht_store *store, const ht_strings *names, ht_error *err);
void ht_versions_release(ht_versions *versions);

/* {"baseline", "versions": [{"name", a number or null a column, "standard_errors": {...}, "round", ...}]} */
ht_status ht_versions_json(const ht_versions *versions, json_t **out, ht_error *err);
/* The aligned table. */
void ht_versions_print(const ht_versions *versions, FILE *out);

#endif
