/*
 * draws.h: many samples of many prompts, kept in the database as they are drawn: rejection, annotations,
 * evaluate.
 *
 * A draw is one sample: prompt, k, temperature. What is in the database already is not drawn again, and each
 * chunk of draws goes into it whole or not at all. Chunks are cut by position in the list, so a command that
 * was killed and is repeated runs each missing chunk as it would have run at first, in the same batches, and
 * ends with the same bits.
 */
#ifndef HT_GENERATE_DRAWS_H
#define HT_GENERATE_DRAWS_H

#include "core/comm/comm.h"
#include "core/generate/policy.h"
#include "core/generate/prompts.h"

/* k of samples that are drawn for annotators begins here: they are never those of rejection sampling, where k
 * begins at 0. */
#define HT_DRAW_ANNOTATION_K (1 << 20)

typedef struct ht_draw_entry {
    int64_t prompt; /* index in the prompt set */
    int64_t k;
    double temperature;
    int64_t response_id; /* out; 0: not in the database yet */
} ht_draw_entry;

/* Draws of one model with one setting. All pointers are borrowed. */
typedef struct ht_draw_list {
    ht_draw_entry *draws; /* [count] ordered by prompt, then k; no two alike */
    int64_t count;
    const ht_prompt_set *prompts;
    int64_t model_id, round, seed; /* of the response rows */
    double top_p;
    int64_t max_new_tokens;
    int64_t max_positions; /* of the model: also ends a response */
    int64_t chunk;         /* draws a transaction, >= 1 */
} ht_draw_list;

/*
 * Sets response_id of every draw that is in the database, and *missing to how many are not. HT_ERR_DATA when
 * one is there that was drawn with another max_new_tokens.
 */
ht_status ht_draws_find(ht_draw_list *list, ht_store *store, int64_t *missing, ht_error *err);

/*
 * Draws and stores what has no response_id. Of each chunk every rank draws its part (comm NULL: there is one rank); rank
 * 0 stores it, and all get the ids. The stream of a draw is (HT_RNG_SAMPLE, dialogue, k) of the
 * list's seed. HT_INTERRUPTED / HT_TERMINATED keep the chunks that were whole. Errors: those of ht_generate
 * and ht_store_sample.
 */
ht_status ht_draws_sample(ht_draw_list *list, ht_store *store, ht_policy *policy, ht_comm *comm, ht_error *err);

/*
 * Keeps `count` prompts of the set, drawn at random: those with the smallest Philox(seed, stream, dialogue)
 * number, so that a smaller choice is part of a larger one, and other prompts do not change who is drawn. No
 * fewer are there: nothing happens.
 */
ht_status ht_prompt_set_choose(ht_prompt_set *set, int64_t count, uint64_t seed, uint64_t stream,
                               ht_error *err);

#endif
