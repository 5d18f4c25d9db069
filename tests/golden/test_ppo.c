/*
 * PPO's credit and value loss against PyTorch (ppo.golden).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/model/score.h"
#include "ppo/advantage.h"
#include "tests/golden/golden.h"

/* Offsets of the rollouts' response tokens; new memory. */
static int64_t *response_starts(const golden_values *values, int64_t *count) {
    const json_t *rollouts = json_object_get(values->json, "rollouts");
    *count = (int64_t)json_array_size(rollouts);
    int64_t *start = calloc((size_t)*count + 1, sizeof *start);
    assert_non_null(start);
    for (int64_t i = 0; i < *count; i++) {
        const json_t *rollout = json_array_get(rollouts, (size_t)i);
        int64_t tokens = (int64_t)json_array_size(json_object_get(rollout, "tokens"));
        start[i + 1] = start[i] + tokens - (int64_t)golden_number(rollout, "prompt_length");
    }
    return start;
}

static void compare_doubles(const char *what, const double *actual, const golden_values *values, const char *name) {
    int64_t n;
    float *expected = golden_tensor(values, name, &n), *single = calloc((size_t)n, sizeof *single);
    assert_non_null(single);
    for (int64_t i = 0; i < n; i++)
        single[i] = (float)actual[i];
    golden_compare(what, single, expected, n, GOLDEN_TOLERANCE, 1);
    free(single);
    free(expected);
}

static void test_ppo__credit_agrees_with_pytorch(void **state) {
    (void)state;
    golden_values values = golden_values_open("ppo.golden");
    int64_t responses, tokens;
    int64_t *start = response_starts(&values, &responses);
    float *old_logp = golden_tensor(&values, "old_logp", &tokens), *reference = golden_tensor(&values, "ref_logp", NULL);
    float *value = golden_tensor(&values, "old_values", NULL), *score = golden_tensor(&values, "whitened_scores", NULL);
    double *reward = calloc((size_t)tokens * 3, sizeof *reward), *advantage = reward + tokens, *returns = advantage + tokens;
    double *last = calloc((size_t)responses, sizeof *last);
    assert_int_equal(start[responses], tokens);
    for (int64_t i = 0; i < responses; i++)
        last[i] = (double)score[i];
    ht_ppo_rewards(reward, old_logp, reference, last, start, responses, golden_number(values.json, "beta"));
    compare_doubles("rewards", reward, &values, "rewards");
    ht_gae gae = {.gamma = golden_number(values.json, "gamma"), .lambda = golden_number(values.json, "lambda")};
    ht_ppo_advantages(advantage, returns, reward, value, start, responses, gae);
    compare_doubles("advantages", advantage, &values, "advantages");
    compare_doubles("returns", returns, &values, "returns");
    ht_whiten(advantage, tokens);
    compare_doubles("whitened advantages", advantage, &values, "whitened_advantages");
    free(last);
    free(reward);
    free(score);
    free(value);
    free(reference);
    free(old_logp);
    free(start);
    golden_values_close(&values);
}

static void test_ppo__value_loss_agrees_with_pytorch(void **state) {
    (void)state;
    golden_values values = golden_values_open("ppo.golden");
    int64_t n;
    int clipped_tokens = 0;
    float *value = golden_tensor(&values, "values", &n), *old = golden_tensor(&values, "old_values", NULL);
    float *target = golden_tensor(&values, "returns", NULL), *expected = golden_tensor(&values, "dvalues", NULL);
    float *slopes = calloc((size_t)n, sizeof *slopes);
    double loss = 0;
    for (int64_t t = 0; t < n; t++) {
        double slope;
        int clipped;
        loss += ht_ppo_value_loss((double)value[t], (double)old[t], (double)target[t],
                                  golden_number(values.json, "value_clip"), &slope, &clipped) /
                (double)n;
        slopes[t] = (float)(slope / (double)n);
        clipped_tokens += clipped;
    }
    golden_compare_number("value loss", loss, golden_number(values.json, "value_loss"), GOLDEN_TOLERANCE);
    golden_compare("dvalues", slopes, expected, n, GOLDEN_TOLERANCE, 1e-3);
    assert_true(clipped_tokens > 0 && clipped_tokens < n); /* both branches were looked at */
    free(slopes);
    free(expected);
    free(target);
    free(old);
    free(value);
    golden_values_close(&values);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ppo__credit_agrees_with_pytorch),
        cmocka_unit_test(test_ppo__value_loss_agrees_with_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
