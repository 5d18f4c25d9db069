#include "ppo/advantage.h"

#include <math.h>

void ht_ppo_rewards(double *reward, const float *logp, const float *reference, const double *score,
                    const int64_t *start, int64_t responses, double kl_coef) {
    for (int64_t i = 0; i < responses; i++) {
        for (int64_t t = start[i]; t < start[i + 1]; t++)
            reward[t] = -kl_coef * ((double)logp[t] - (double)reference[t]);
        reward[start[i + 1] - 1] += score[i];
    }
}

void ht_ppo_advantages(double *advantage, double *returns, const double *reward, const float *value,
                       const int64_t *start, int64_t responses, ht_gae gae) {
    for (int64_t i = 0; i < responses; i++) {
        double next_value = 0, next_advantage = 0;
        for (int64_t t = start[i + 1] - 1; t >= start[i]; t--) {
            double delta = reward[t] + gae.gamma * next_value - (double)value[t];
            advantage[t] = delta + gae.gamma * gae.lambda * next_advantage;
            returns[t] = advantage[t] + (double)value[t];
            next_value = (double)value[t];
            next_advantage = advantage[t];
        }
    }
}

double ht_ppo_value_loss(double value, double old, double target, double clip, double *slope, int *clipped) {
    double error = value - target, plain = 0.5 * error * error;
    *slope = error;
    *clipped = 0;
    if (clip <= 0 || fabs(value - old) <= clip) return plain;
    double edge = old + copysign(clip, value - old), bounded = 0.5 * (edge - target) * (edge - target);
    if (bounded <= plain) return plain;
    *slope = 0;
    *clipped = 1;
    return bounded;
}

double ht_ppo_explained_variance(const float *value, const double *target, int64_t n) {
    double mean_target = 0, mean_error = 0, var_target = 0, var_error = 0;
    for (int64_t t = 0; t < n; t++) {
        mean_target += target[t] / (double)n;
        mean_error += (target[t] - (double)value[t]) / (double)n;
    }
    for (int64_t t = 0; t < n; t++) {
        double d = target[t] - mean_target, e = target[t] - (double)value[t] - mean_error;
        var_target += d * d;
        var_error += e * e;
    }
    return var_target > 0 ? 1 - var_error / var_target : NAN;
}
