/* The reward loss against its formula and finite differences, in f64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "reward/loss.h"
#include "reward/reward.h"

#define PAIRS 4

static const ht_safety bins[PAIRS] = {HT_SAFETY_CHOSEN_SAFE, HT_SAFETY_BOTH_SAFE, HT_SAFETY_NONE,
                                      HT_SAFETY_BOTH_UNSAFE};
static const int ratings[PAIRS] = {HT_RATING_SIGNIFICANTLY, HT_RATING_NONE, HT_RATING_SLIGHTLY,
                                   HT_RATING_BETTER};
static const ht_pair_scores scores[PAIRS] = {{0.7, -0.2}, {-1.1, 0.4}, {3.0, 2.5}, {-0.3, -0.3}};

static ht_reward_loss loss_of(ht_margin_kind kind, double aux_weight) {
    ht_reward_loss loss = {.aux_weight = aux_weight};
    ht_error err = HT_ERROR_INIT;
    const ht_floats none = {NULL, 0};
    assert_int_equal(ht_reward_margins(&loss, kind, &none, &err), HT_OK);
    return loss;
}

/* The step's loss of given scores, as the stage adds it up. */
static double step_loss(const ht_reward_loss *loss, const ht_pair_scores *values, ht_pair_scores *gradients) {
    ht_reward_sums sums = {0};
    const ht_reward_denominators step = {.pairs = PAIRS, .labelled = 6};
    for (int i = 0; i < PAIRS; i++) {
        ht_pair_scores gradient = ht_reward_pair_loss(loss, &step, ratings[i], bins[i], values[i], &sums);
        if (gradients) gradients[i] = gradient;
    }
    return sums.ranking / PAIRS + loss->aux_weight * sums.auxiliary / 6;
}

/* The formula of loss.h, written as it stands there. */
static double formula(const double margin[5], double aux_weight, const ht_pair_scores *values) {
    static const int labels[PAIRS][2] = {{1, 0}, {1, 1}, {-1, -1}, {0, 0}};
    double ranking = 0, auxiliary = 0;
    for (int i = 0; i < PAIRS; i++) {
        const double r[2] = {values[i].chosen, values[i].rejected};
        ranking -= log(1 / (1 + exp(-(r[0] - r[1] - margin[ratings[i]]))));
        for (int k = 0; k < 2; k++) {
            double p = 1 / (1 + exp(-r[k]));
            if (labels[i][k] >= 0) auxiliary -= labels[i][k] ? log(p) : log(1 - p);
        }
    }
    return ranking / PAIRS + aux_weight * auxiliary / 6;
}

static void test_loss__is_the_formula(void **state) {
    (void)state;
    /* Table 27 */
    static const double margins[][5] = {{0, 0, 0, 0, 0}, {0, 0, 1 / 3.0, 2 / 3.0, 1}, {0, 0, 1, 2, 3}};
    for (int kind = HT_MARGIN_NONE; kind <= HT_MARGIN_LARGE; kind++)
        for (double weight = 0; weight <= 2; weight++) {
            ht_reward_loss loss = loss_of((ht_margin_kind)kind, weight);
            double expected = formula(margins[kind], weight, scores);
            assert_true(fabs(step_loss(&loss, scores, NULL) - expected) < 1e-14);
        }
}

static void test_loss__gradient_is_that_of_finite_differences(void **state) {
    (void)state;
    const double h = 1e-5;
    for (int kind = HT_MARGIN_NONE; kind <= HT_MARGIN_LARGE; kind++) {
        ht_reward_loss loss = loss_of((ht_margin_kind)kind, 0.7);
        ht_pair_scores gradients[PAIRS];
        step_loss(&loss, scores, gradients);
        for (int i = 0; i < 2 * PAIRS; i++) {
            ht_pair_scores up[PAIRS], down[PAIRS];
            memcpy(up, scores, sizeof up);
            memcpy(down, scores, sizeof down);
            *(i % 2 ? &up[i / 2].rejected : &up[i / 2].chosen) += h;
            *(i % 2 ? &down[i / 2].rejected : &down[i / 2].chosen) -= h;
            double slope = (step_loss(&loss, up, NULL) - step_loss(&loss, down, NULL)) / (2 * h);
            double gradient = i % 2 ? gradients[i / 2].rejected : gradients[i / 2].chosen;
            /* h^2 times a third derivative below 1, and rounding of losses near 1 over 2 h */
            assert_true(fabs(slope - gradient) < h * h + 0x1p-50 / h);
            assert_true(fabs(gradient) > 1e-3);
        }
    }
}

static void test_loss__large_scores_do_not_overflow(void **state) {
    (void)state;
    ht_reward_loss loss = loss_of(HT_MARGIN_SMALL, 1);
    const ht_reward_denominators step = {.pairs = 1, .labelled = 2};
    ht_reward_sums sums = {0};
    ht_pair_scores gradient = ht_reward_pair_loss(&loss, &step, HT_RATING_NONE, HT_SAFETY_CHOSEN_SAFE,
                                                  (ht_pair_scores){-1e6, 1e6}, &sums);
    assert_true(sums.ranking == 2e6 && sums.auxiliary == 2e6);
    assert_true(gradient.chosen == -1.5 && gradient.rejected == 1.5);
    sums = (ht_reward_sums){0};
    gradient = ht_reward_pair_loss(&loss, &step, HT_RATING_NONE, HT_SAFETY_CHOSEN_SAFE,
                                   (ht_pair_scores){1e6, -1e6}, &sums);
    assert_true(sums.ranking == 0 && sums.auxiliary == 0 && gradient.chosen == 0 && gradient.rejected == 0);
}

static void test_loss__a_tie_is_half_right(void **state) {
    (void)state;
    ht_reward_loss loss = loss_of(HT_MARGIN_NONE, 0);
    ht_reward_sums sums = {0};
    const ht_reward_denominators step = {.pairs = 4};
    for (int i = 0; i < PAIRS; i++)
        ht_reward_pair_loss(&loss, &step, 0, HT_SAFETY_NONE, scores[i], &sums);
    assert_true(sums.correct == 2.5);
}

static void test_loss__labels_of_bins(void **state) {
    (void)state;
    ht_safety_labels labels;
    assert_int_equal(ht_reward_labels(HT_SAFETY_NONE, &labels), 0);
    assert_true(labels.chosen == -1 && labels.rejected == -1);
    assert_int_equal(ht_reward_labels(HT_SAFETY_CHOSEN_SAFE, &labels), 2);
    assert_true(labels.chosen == 1 && labels.rejected == 0);
    assert_int_equal(ht_reward_labels(HT_SAFETY_BOTH_SAFE, &labels), 2);
    assert_true(labels.chosen == 1 && labels.rejected == 1);
    assert_int_equal(ht_reward_labels(HT_SAFETY_BOTH_UNSAFE, &labels), 2);
    assert_true(labels.chosen == 0 && labels.rejected == 0);
}

static void test_loss__margin_table(void **state) {
    (void)state;
    double numbers[] = {0.1, 0.2, 0.4, 0.8};
    ht_reward_loss loss;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_reward_margins(&loss, HT_MARGIN_TABLE, &(ht_floats){numbers, 4}, &err), HT_OK);
    assert_true(loss.margin[HT_RATING_NONE] == 0);
    for (int rating = 1; rating <= 4; rating++)
        assert_true(loss.margin[rating] == numbers[rating - 1]);
    assert_int_equal(ht_reward_margins(&loss, HT_MARGIN_TABLE, &(ht_floats){numbers, 3}, &err), HT_ERR_USAGE);
    assert_non_null(strstr(err.message, "has 3 numbers, not 4"));
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_reward_margins(&loss, HT_MARGIN_SMALL, &(ht_floats){numbers, 4}, &err), HT_ERR_USAGE);
    assert_non_null(strstr(err.message, "not \"table\""));
}

static void test_loss__defaults_by_kind(void **state) {
    (void)state;
    double weight, share;
    ht_error err = HT_ERROR_INIT;
    ht_reward_config config = {.kind = HT_KIND_SAFETY, .aux_weight = -1, .own_share = -1};
    assert_int_equal(ht_reward_settle(&config, &weight, &share, &err), HT_OK);
    assert_true(weight == 1 && share == 0.9);
    config.kind = HT_KIND_HELPFULNESS;
    assert_int_equal(ht_reward_settle(&config, &weight, &share, &err), HT_OK);
    assert_true(weight == 0 && share == 0.5);
    config.aux_weight = 0.25;
    config.own_share = 1;
    assert_int_equal(ht_reward_settle(&config, &weight, &share, &err), HT_OK);
    assert_true(weight == 0.25 && share == 1);
    config.own_share = 0;
    assert_int_equal(ht_reward_settle(&config, &weight, &share, &err), HT_ERR_USAGE);
    err = (ht_error)HT_ERROR_INIT;
    config.own_share = 0.5;
    config.aux_weight = -0.5;
    assert_int_equal(ht_reward_settle(&config, &weight, &share, &err), HT_ERR_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss__is_the_formula),
        cmocka_unit_test(test_loss__gradient_is_that_of_finite_differences),
        cmocka_unit_test(test_loss__large_scores_do_not_overflow),
        cmocka_unit_test(test_loss__a_tie_is_half_right),
        cmocka_unit_test(test_loss__labels_of_bins),
        cmocka_unit_test(test_loss__margin_table),
        cmocka_unit_test(test_loss__defaults_by_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
