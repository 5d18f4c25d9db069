/*
 * step.h: scores and gradients of the pairs of one optimizer step.
 *
 * The pairs are packed, in their order, into passes of at most the activations' tokens, the two responses of
 * a pair in one pass. A pair that alone is larger than a pass is run in pieces: its loss couples the two
 * scores, so the chosen response is scored first, the rejected one is run forward and backward, and the
 * chosen one again. Either way the gradient is that of the loss over the whole step (loss.h); how it is cut
 * changes nothing but rounding.
 */
#ifndef HT_REWARD_STEP_H
#define HT_REWARD_STEP_H

#include "core/comm/comm.h"
#include "core/model/llama.h"
#include "reward/loss.h"
#include "reward/pairs.h"

typedef struct ht_reward_pass {
    const ht_llama *model; /* borrowed, with a scalar head */
    ht_activations *acts;  /* borrowed, kept for a backward pass */
    ht_comm *comm;         /* borrowed; set after ht_reward_pass_init; NULL: alone */
    ht_batch batch;
    int64_t max_tokens, max_sequences;
    int32_t *rows;    /* [max_sequences] last rows */
    float *scores;    /* [max_sequences] */
    float *gradients; /* [max_sequences] */
    int64_t *members; /* [max_sequences / 2] pairs in the batch */
} ht_reward_pass;

/* max_tokens and max_sequences (>= 2) are the activations'. */
ht_status ht_reward_pass_init(ht_reward_pass *pass, const ht_llama *model, ht_activations *acts,
                              int64_t max_tokens, int64_t max_sequences, ht_error *err);
void ht_reward_pass_free(ht_reward_pass *pass);

/* What a step came to; means over its pairs, and over its labelled responses. */
typedef struct ht_reward_result {
    double loss, ranking_loss, aux_loss; /* aux_loss: not weighted; 0 without labels or weight */
    double accuracy, chosen_score, rejected_score;
    int64_t tokens, labelled;
} ht_reward_result;

/*
 * Adds to `grads` what this rank's part of the pairs order[0 .. count) gives to the gradient of the mean loss over all
 * of them; the result is that of all ranks. Every sequence must fit a pass alone (HT_ERR_USAGE names the comparison).
 */
ht_status ht_reward_step(ht_reward_pass *pass, const ht_reward_loss *loss, const ht_pair_set *set,
                         const int64_t *order, int64_t count, ht_params *grads, ht_reward_result *result,
                         ht_error *err);

#endif
