/*
 * score.h: rewards of whole sequences, and the combined reward of rejection sampling and PPO.
 */
#ifndef HT_MODEL_SCORE_H
#define HT_MODEL_SCORE_H

#include "core/model/llama.h"

/*
 * scores[i] (host) = the scalar head's value at the last token of sequence i. Sequences are batched in their order, as
 * many a pass as fit the activations; each must fit alone (HT_ERR_DATA names its index).
 *   tokens[i] [lengths[i]], host
 */
ht_status ht_score_sequences(const ht_llama *model, ht_activations *acts, const int32_t *const *tokens,
                             const int64_t *lengths, int64_t count, float *scores, ht_error *err);

/* Rs below this marks a response unsafe in the combination. Llama 2 section 3.2.3. */
#define HT_SAFETY_THRESHOLD 0.15

double ht_sigmoid(double x);

/*
 * Combined reward on the linear scale: rs if the prompt is a safety prompt or sigmoid(rs) < 0.15, else rh.
 * Both are linear scores (before the sigmoid): logit(sigmoid(x)) = x, so nothing has to be clamped. NAN when
 * one of them is not finite. Llama 2 section 3.2.3.
 */
double ht_combined_reward(double helpful, double safe, int is_safety_prompt);

/* x[i] = (x[i] - mean) / sqrt(variance + 1e-8) over n values (population variance), in f64. n = 1 gives 0. */
void ht_whiten(double *x, int64_t n);

#endif
