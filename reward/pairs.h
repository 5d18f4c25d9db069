/*
 * pairs.h: preference pairs of the database as token ids.
 */
#ifndef HT_REWARD_PAIRS_H
#define HT_REWARD_PAIRS_H

#include <jansson.h>

#include "core/batch/batch.h"
#include "core/config/config.h"
#include "core/generate/prompts.h"
#include "core/store/store.h"
#include "core/tokenizer/chat.h"

/* Which comparisons to read, and which of them are the reward model's own. */
typedef struct ht_pair_query {
    ht_store_filter filter; /* kinds, splits, rounds */
    ht_strings sources;     /* borrowed; empty: every source */
    ht_kind own_kind;
    ht_strings own_sources; /* borrowed; empty: every source of own_kind */
    int64_t max_tokens;     /* of a prompt with one response */
    ht_too_long too_long;
} ht_pair_query;

typedef struct ht_pair {
    int64_t id; /* of the comparison */
    int32_t rating, safety, kind, round;
    int32_t batch, source; /* indices of ht_pair_name; -1: NULL in the database */
    int32_t own;           /* 1: of the query's own kind and sources */
    int32_t identical;     /* 1: both sequences have the same ids */
} ht_pair;

/* Pairs in the order of their ids. */
typedef struct ht_pair_set {
    ht_example_set sequences; /* 2 i: chosen of pair i, 2 i + 1: rejected */
    ht_pair *pairs;           /* [count] */
    size_t count, capacity;
    json_t *name_index; /* name -> index */
    char **names;
    size_t name_count, name_capacity;
    int64_t longest, longest_id;           /* tokens of the longest sequence, and its comparison */
    int64_t skipped, identical, from_text; /* pairs left out as too long; see above; responses */
} ht_pair_set;

/*
 * Reads the comparisons. A pair with a sequence above max_tokens: HT_ERR_DATA naming the comparison, its
 * length and the limit, or skipped, counted and said in the log. Also said: pairs whose sequences are the
 * same, responses of another tokenizer. An empty set is no error. Zeroed on failure.
 */
ht_status ht_pair_set_load(ht_pair_set *set, ht_store *store, const ht_pair_query *query, const ht_chat *chat,
                           ht_error *err);
void ht_pair_set_free(ht_pair_set *set);

const char *ht_pair_name(const ht_pair_set *set, int32_t index); /* NULL for -1; borrowed */

static inline ht_example ht_pair_chosen(const ht_pair_set *set, int64_t i) {
    return ht_example_set_get(&set->sequences, 2 * i);
}
static inline ht_example ht_pair_rejected(const ht_pair_set *set, int64_t i) {
    return ht_example_set_get(&set->sequences, 2 * i + 1);
}

/* Hash of ids, ratings, bins and tokens, in order. */
void ht_pair_set_hash(const ht_pair_set *set, char out[33]);

#endif
