/*
 * advantage.h: PPO's arithmetic, in f64 and without any model: rewards, returns, advantages, the value loss.
 *
 * Tokens of all responses of an iteration lie end to end: response i has tokens [start[i], start[i + 1]).
 */
#ifndef HT_PPO_ADVANTAGE_H
#define HT_PPO_ADVANTAGE_H

#include <stdint.h>

/*
 * reward[t] = -kl_coef * (logp[t] - reference[t]) at every token, plus score[i] at the last token of response i:
 * the estimator k1 of the KL divergence a token. Llama 2 section 3.2.3, eq. 4; InstructGPT's form.
 */
void ht_ppo_rewards(double *reward, const float *logp, const float *reference, const double *score,
                    const int64_t *start, int64_t responses, double kl_coef);

/*
 * Generalised advantage estimation inside each response, backwards from its last token (the value after it is 0):
 *   delta[t] = reward[t] + gamma value[t+1] - value[t];  advantage[t] = delta[t] + gamma lambda advantage[t+1]
 *   returns[t] = advantage[t] + value[t]
 * value[t] is the value of the state before token t. Schulman et al. 2016.
 */
typedef struct ht_gae {
    double gamma, lambda;
} ht_gae;
void ht_ppo_advantages(double *advantage, double *returns, const double *reward, const float *value,
                       const int64_t *start, int64_t responses, ht_gae gae);

/*
 * Clipped value loss of one token: 1/2 max((v - R)^2, (old + clamp(v - old, -clip, clip) - R)^2); clip 0: 1/2 (v - R)^2.
 * *slope = d loss / d v. *clipped = 1 when the clipped term is the larger one.
 */
double ht_ppo_value_loss(double value, double old, double target, double clip, double *slope, int *clipped);

/* 1 - var(target - value) / var(target) over n tokens; NAN when the targets do not vary. */
double ht_ppo_explained_variance(const float *value, const double *target, int64_t n);

#endif
