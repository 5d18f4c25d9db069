/*
 * prompts.h: the prompts of a database as token ids, for sampling: rejection, ppo, evaluate, annotations.
 */
#ifndef HT_GENERATE_PROMPTS_H
#define HT_GENERATE_PROMPTS_H

#include <stddef.h>
#include <stdint.h>

#include "core/store/store.h"
#include "core/tokenizer/chat.h"

/* What is done with a prompt that is longer than the longest allowed. */
typedef enum ht_too_long { HT_TOO_LONG_ERROR, HT_TOO_LONG_SKIP } ht_too_long;
extern const char *const ht_too_long_names[]; /* "error", "skip" */

/* Prompts in the order of their ids; prompt i is tokens[start[i] .. start[i + 1]). */
typedef struct ht_prompt_set {
    ht_ids tokens;
    int64_t *start;      /* [count + 1] */
    int64_t *dialog_ids; /* [count] */
    uint8_t *is_safety;  /* [count] 1: of kind safety */
    size_t count, start_capacity, id_capacity, kind_capacity;
    int64_t longest;     /* tokens */
    int64_t skipped;     /* left out because too long */
} ht_prompt_set;

/*
 * Reads the dialogues that `filter` gives. A prompt above max_tokens: HT_ERR_DATA naming the dialogue, its length and
 * the limit, or skipped, counted and said in the log. HT_ERR_DATA when no prompt is left.
 */
typedef struct ht_prompt_limits {
    int64_t max_tokens;
    ht_too_long too_long;
} ht_prompt_limits;
ht_status ht_prompt_set_load(ht_prompt_set *set, ht_store *store, const ht_store_filter *filter, const ht_chat *chat,
                             const ht_prompt_limits *limits, ht_error *err);
void ht_prompt_set_free(ht_prompt_set *set);

static inline const int32_t *ht_prompt_tokens(const ht_prompt_set *set, int64_t i, int64_t *length) {
    *length = set->start[i + 1] - set->start[i];
    return set->tokens.data + set->start[i];
}

#endif
