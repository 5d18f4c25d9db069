/*
 * scorer.h: a reward model's folder, loaded and ready to score: rejection, ppo, evaluate, reward.
 *
 * It scores token ids. Ids of a policy are a reward model's ids only when both tokenizers are the same file:
 * compare ht_tokenizer_hash, and where they differ encode the text again with the scorer's tokenizer.
 */
#ifndef HT_GENERATE_SCORER_H
#define HT_GENERATE_SCORER_H

#include "core/base/arena.h"
#include "core/model/score.h"
#include "core/tokenizer/tokenizer.h"

typedef struct ht_scorer {
    ht_backend *be; /* borrowed */
    ht_arena arena; /* its own: weights, activations */
    ht_llama model;
    ht_activations *acts;
    ht_tokenizer *tokenizer;
    int64_t max_tokens; /* of a sequence: the model's positions, and those of a pass */
} ht_scorer;

/* Sequences a pass of that many tokens may hold. */
static inline int64_t ht_scorer_sequences(int64_t pass_tokens) {
    return pass_tokens < 256 ? pass_tokens : 256;
}

/*
 * Reads the folder's config, weights and tokenizer. pass_tokens: tokens a forward pass, which also bounds a
 * sequence; 0: the model's max_positions. *scorer need not be initialised; zeroed on failure.
 *
 * Errors: HT_ERR_NOMEM, with the numbers, before anything is loaded when it does not fit; those of ht_model_folder_config, ht_model_folder_load and ht_tokenizer_open; HT_ERR_DATA for a
 * language model.
 */
ht_status ht_scorer_open(ht_scorer *scorer, ht_backend *be, const char *folder, ht_dtype dtype,
                         int64_t pass_tokens, ht_error *err);
void ht_scorer_free(ht_scorer *scorer); /* of a zeroed one: does nothing */

/* scores[i] (host, linear: before the sigmoid) of `count` sequences; see ht_score_sequences. */
ht_status ht_scorer_score(ht_scorer *scorer, const int32_t *const *tokens, const int64_t *lengths,
                          int64_t count, float *scores, ht_error *err);

#endif
