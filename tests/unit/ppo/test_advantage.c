/*
 * PPO's arithmetic: where the score lands, what whitening may not touch, the clipped value loss.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/model/score.h"
#include "ppo/advantage.h"

#define assert_near(actual, expected, tolerance) assert_true(fabs((actual) - (expected)) <= (tolerance))

/* Two responses, of 3 tokens and of 1. */
static const int64_t start[] = {0, 3, 4};

static void test_ppo__score_is_on_the_last_token(void **state) {
    (void)state;
    const float logp[] = {-1, -2, -3, -4}, reference[] = {-1.5f, -2, -1, -4};
    const double score[] = {10, 20};
    double reward[4];
    ht_ppo_rewards(reward, logp, reference, score, start, 2, 0.1);
    assert_near(reward[0], -0.05, 1e-7);
    assert_near(reward[1], 0, 1e-12);
    assert_near(reward[2], 10 + 0.2, 1e-7);
    assert_near(reward[3], 20, 1e-12);
}

/* With lambda = gamma = 1 the return is the sum of the rewards that follow, whatever the values are. */
static void test_ppo__returns_are_sums_of_rewards(void **state) {
    (void)state;
    const double reward[] = {1, -2, 4, 7};
    const float value[] = {0.5f, -3, 2, 9};
    double advantage[4], returns[4];
    ht_ppo_advantages(advantage, returns, reward, value, start, 2, (ht_gae){.gamma = 1, .lambda = 1});
    const double expected[] = {3, 2, 4, 7};
    for (int t = 0; t < 4; t++) {
        assert_near(returns[t], expected[t], 1e-12);
        assert_near(advantage[t], expected[t] - (double)value[t], 1e-6);
    }
}

/* With lambda = 0 an advantage is one step's error; a response's last value has no successor, not even the next
 * response's first token. */
static void test_ppo__responses_do_not_leak(void **state) {
    (void)state;
    const double reward[] = {0, 0, 1, 5};
    const float value[] = {1, 2, 3, 100};
    double advantage[4], returns[4];
    ht_ppo_advantages(advantage, returns, reward, value, start, 2, (ht_gae){.gamma = 1, .lambda = 0});
    assert_near(advantage[0], 1, 1e-12);
    assert_near(advantage[1], 1, 1e-12);
    assert_near(advantage[2], -2, 1e-12);
    assert_near(advantage[3], -95, 1e-12);
    /* whitening advantages afterwards leaves the returns: value + raw advantage */
    ht_whiten(advantage, 4);
    assert_near(returns[2], 1, 1e-12);
    double mean = 0, square = 0;
    for (int t = 0; t < 4; t++)
        mean += advantage[t] / 4, square += advantage[t] * advantage[t] / 4;
    assert_near(mean, 0, 1e-12);
    assert_near(square, 1, 1e-9);
}

/* The slope is the loss's derivative on both branches. */
static void test_ppo__value_slope_is_the_derivative(void **state) {
    (void)state;
    const double step = 1e-6;
    int seen[2] = {0, 0};
    for (double value = -2; value <= 2; value += 0.37)
        for (double target = -1.9; target <= 2; target += 0.571) {
            double slope, unused;
            int clipped, other;
            ht_ppo_value_loss(value, 0.1, target, 0.2, &slope, &clipped);
            double up = ht_ppo_value_loss(value + step, 0.1, target, 0.2, &unused, &other);
            double down = ht_ppo_value_loss(value - step, 0.1, target, 0.2, &unused, &other);
            assert_near(slope, (up - down) / (2 * step), 1e-5);
            seen[clipped] = 1;
        }
    assert_true(seen[0] && seen[1]);
}

static void test_ppo__explained_variance(void **state) {
    (void)state;
    const double target[] = {1, 2, 3, 4};
    const float right[] = {1, 2, 3, 4}, shifted[] = {3, 4, 5, 6}, flat[] = {7, 7, 7, 7};
    const double same[] = {2, 2};
    assert_near(ht_ppo_explained_variance(right, target, 4), 1, 1e-12);
    assert_near(ht_ppo_explained_variance(shifted, target, 4), 1, 1e-12);
    assert_near(ht_ppo_explained_variance(flat, target, 4), 0, 1e-12);
    assert_true(isnan(ht_ppo_explained_variance(right, same, 2)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ppo__score_is_on_the_last_token),
        cmocka_unit_test(test_ppo__returns_are_sums_of_rewards),
        cmocka_unit_test(test_ppo__responses_do_not_leak),
        cmocka_unit_test(test_ppo__value_slope_is_the_derivative),
        cmocka_unit_test(test_ppo__explained_variance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
