/*
 * What the reward and PPO stages need of the core, against PyTorch: scores and their gradients, the combined
 * and whitened reward, values, and the clipped surrogate's gradient. The stages' own formulas are tested with
 * the stages.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/model/score.h"
#include "tests/golden/golden.h"

/* Chosen and rejected alternate: row i of "scores" is pair i / 2. */
static void test_golden__reward_scores_and_gradients(void **state) {
    (void)state;
    static const char *const kinds[] = {"ranking", "margin", "auxiliary", "margin+auxiliary"};
    golden_model m;
    ht_error err = HT_ERROR_INIT;
    golden_values values = golden_values_open("reward.golden");
    golden_model_open(&m, "reward");
    assert_int_equal(m.model.config.head, HT_HEAD_SCALAR);
    const json_t *pairs = json_object_get(values.json, "pairs");
    int32_t last[16];
    float scores[16];
    int64_t count = 0;
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        golden_add_sequence(&m.batch, json_object_get(json_array_get(pairs, i), "chosen"));
        last[count++] = (int32_t)m.batch.n_tokens - 1;
        golden_add_sequence(&m.batch, json_object_get(json_array_get(pairs, i), "rejected"));
        last[count++] = (int32_t)m.batch.n_tokens - 1;
    }
    float *expected = golden_tensor(&values, "scores", NULL);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        char name[64];
        snprintf(name, sizeof name, "dscores.%s", kinds[k]);
        float *dscores = golden_tensor(&values, name, NULL);
        golden_check(ht_params_zero(m.be, &m.grads, &err), &err);
        golden_check(ht_llama_forward(&m.model, m.acts, &m.batch, &err), &err);
        golden_check(ht_scalar_forward(&m.model, m.acts, last, count, scores, &err), &err);
        golden_compare("scores", scores, expected, count, GOLDEN_TOLERANCE, 1);
        golden_check(ht_scalar_backward(&m.model, m.acts, last, count, dscores, &m.grads, &err), &err);
        golden_check(ht_llama_backward(&m.model, m.acts, &m.grads, &err), &err);
        snprintf(name, sizeof name, "grad.%s", kinds[k]);
        golden_compare_params(&m, &m.grads, &values, name, GOLDEN_TOLERANCE);
        free(dscores);
    }
    free(expected);
    golden_model_close(&m);
    golden_values_close(&values);
}

static void test_golden__combined_reward(void **state) {
    (void)state;
    golden_values values = golden_values_open("ppo.golden");
    int64_t n;
    float *helpful = golden_tensor(&values, "helpful", &n), *safe = golden_tensor(&values, "safe", NULL);
    float *combined = golden_tensor(&values, "combined", NULL),
          *whitened = golden_tensor(&values, "whitened_scores", NULL);
    double scores[16];
    int by_threshold = 0;
    for (int64_t i = 0; i < n; i++) {
        const json_t *rollout = json_array_get(json_object_get(values.json, "rollouts"), (size_t)i);
        int is_safety = (int)golden_number(rollout, "is_safety");
        scores[i] = ht_combined_reward((double)helpful[i], (double)safe[i], is_safety);
        assert_true(scores[i] == (double)combined[i]);
        by_threshold += !is_safety && scores[i] == (double)safe[i];
    }
    assert_true(by_threshold > 0);
    ht_whiten(scores, n);
    for (int64_t i = 0; i < n; i++)
        golden_compare_number("whitened score", scores[i], (double)whitened[i], 4 * 0x1p-24);
    free(whitened);
    free(combined);
    free(safe);
    free(helpful);
    golden_values_close(&values);
}

/* All rollouts in one batch: rows that predict response tokens, and those tokens. */
static int64_t fill_rollouts(golden_model *m, const json_t *json, int32_t *rows, int32_t *tokens) {
    const json_t *rollouts = json_object_get(json, "rollouts");
    int64_t count = 0;
    for (size_t i = 0; i < json_array_size(rollouts); i++) {
        const json_t *rollout = json_array_get(rollouts, i), *own = json_object_get(rollout, "rows");
        int32_t first = (int32_t)m->batch.n_tokens;
        golden_add_sequence(&m->batch, json_object_get(rollout, "tokens"));
        for (size_t r = 0; r < json_array_size(own); r++) {
            rows[count] = first + (int32_t)json_integer_value(json_array_get(own, r));
            tokens[count] = m->batch.tokens[rows[count] + 1];
            count++;
        }
    }
    return count;
}

static void test_golden__clipped_surrogate(void **state) {
    (void)state;
    golden_model m;
    ht_error err = HT_ERROR_INIT;
    golden_values values = golden_values_open("ppo.golden");
    int32_t rows[GOLDEN_MAX_TOKENS], tokens[GOLDEN_MAX_TOKENS];
    float weights[GOLDEN_MAX_TOKENS], logp[GOLDEN_MAX_TOKENS];
    double total;
    golden_model_open(&m, "gqa");
    int64_t count = fill_rollouts(&m, values.json, rows, tokens);
    for (int64_t i = 0; i < count; i++)
        weights[i] = 1 / (float)count;
    float *old = golden_tensor(&values, "old_logp", NULL),
          *advantage = golden_tensor(&values, "whitened_advantages", NULL);
    float *expected = golden_tensor(&values, "logp", NULL);
    const ht_token_loss loss = {.kind = HT_TOKEN_LOSS_CLIP,
                                .weight = weights,
                                .old_logp = old,
                                .advantage = advantage,
                                .clip = (float)golden_number(values.json, "clip")};
    const ht_lm_rows all = {
        .count = count, .rows = rows, .targets = tokens, .logp = logp, .loss = &loss, .total = &total};
    golden_check(ht_llama_forward(&m.model, m.acts, &m.batch, &err), &err);
    golden_check(ht_lm_loss(&m.model, m.acts, &all, &m.grads, &err), &err);
    golden_check(ht_llama_backward(&m.model, m.acts, &m.grads, &err), &err);
    golden_compare("logp", logp, expected, count, GOLDEN_TOLERANCE, 1);
    golden_compare_number("policy loss", total, golden_number(values.json, "policy_loss"), GOLDEN_TOLERANCE);
    golden_compare_params(&m, &m.grads, &values, "grad.policy", GOLDEN_TOLERANCE);
    free(expected);
    free(advantage);
    free(old);
    golden_model_close(&m);
    golden_values_close(&values);
}

static void test_golden__values(void **state) {
    (void)state;
    golden_model m;
    ht_error err = HT_ERROR_INIT;
    golden_values values = golden_values_open("ppo.golden");
    int32_t rows[GOLDEN_MAX_TOKENS], tokens[GOLDEN_MAX_TOKENS];
    float ours[GOLDEN_MAX_TOKENS];
    golden_model_open(&m, "reward");
    int64_t count = fill_rollouts(&m, values.json, rows, tokens);
    float *expected = golden_tensor(&values, "values", NULL),
          *dvalues = golden_tensor(&values, "dvalues", NULL);
    golden_check(ht_llama_forward(&m.model, m.acts, &m.batch, &err), &err);
    golden_check(ht_scalar_forward(&m.model, m.acts, rows, count, ours, &err), &err);
    golden_compare("values", ours, expected, count, GOLDEN_TOLERANCE, 1);
    golden_check(ht_scalar_backward(&m.model, m.acts, rows, count, dvalues, &m.grads, &err), &err);
    golden_check(ht_llama_backward(&m.model, m.acts, &m.grads, &err), &err);
    golden_compare_params(&m, &m.grads, &values, "grad.value", GOLDEN_TOLERANCE);
    free(dvalues);
    free(expected);
    golden_model_close(&m);
    golden_values_close(&values);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden__reward_scores_and_gradients),
        cmocka_unit_test(test_golden__combined_reward),
        cmocka_unit_test(test_golden__clipped_surrogate),
        cmocka_unit_test(test_golden__values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
