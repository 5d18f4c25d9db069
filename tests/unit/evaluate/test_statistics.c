/* Means and their errors, measures, win rates, the choice of prompts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "evaluate/evaluate.h"

#define assert_near(actual, expected, tolerance) assert_true(fabs((actual) - (expected)) <= (tolerance))

/* --- means ------------------------------------------------------------------------------------------------ */

static void test_evaluate__mean_and_standard_error(void **state) {
    (void)state;
    const double values[] = {2, 4, 4, 4, 5, 5, 7, 9}; /* mean 5, squared deviations 32 */
    ht_mean mean = {0}, shifted = {0};
    assert_true(isnan(ht_mean_value(&mean)));
    for (size_t i = 0; i < 8; i++)
        ht_mean_add(&mean, values[i]);
    assert_near(ht_mean_value(&mean), 5, 1e-12);
    assert_near(ht_mean_error(&mean), sqrt(32.0 / 7 / 8), 1e-12);
    /* a sum of squares loses all digits here; the running sum does not */
    for (size_t i = 0; i < 8; i++)
        ht_mean_add(&shifted, values[i] + 1e9);
    assert_near(ht_mean_error(&shifted), sqrt(32.0 / 7 / 8), 1e-6);
}

static void test_evaluate__one_value_has_no_error(void **state) {
    (void)state;
    ht_mean mean = {0};
    ht_mean_add(&mean, 3);
    assert_true(isnan(ht_mean_error(&mean)));
    json_t *json = ht_mean_json(&mean);
    assert_true(json_is_null(json_object_get(json, "standard_error")));
    assert_near(json_number_value(json_object_get(json, "value")), 3, 0);
    json_decref(json);
}

/* --- measures --------------------------------------------------------------------------------------------- */

/* logit of p */
static double logit(double p) {
    return log(p / (1 - p));
}

static void test_evaluate__measures_are_of_their_prompts(void **state) {
    (void)state;
    const ht_judged responses[] = {
        {.dialog_id = 1, .helpful = logit(0.8), .safe = logit(0.9), .tokens = 4, .is_finished = 1},
        {.dialog_id = 2, .helpful = logit(0.6), .safe = logit(0.1), .tokens = 6}, /* unsafe: Rs counts */
        {.dialog_id = 3, .is_safety = 1, .helpful = logit(0.99), .safe = logit(0.3), .tokens = 8, .is_finished = 1},
        {.dialog_id = 4, .is_safety = 1, .helpful = logit(0.01), .safe = logit(0.7), .tokens = 2, .is_finished = 1},
    };
    ht_mean m[HT_MEASURE_COUNT];
    ht_measure_all(responses, 4, m);
    assert_near(m[HT_MEASURE_HELPFULNESS_REWARD].mean, 0.7, 1e-12);
    assert_int_equal(m[HT_MEASURE_HELPFULNESS_REWARD].count, 2);
    assert_near(m[HT_MEASURE_SAFETY_REWARD].mean, 0.5, 1e-12);
    assert_near(m[HT_MEASURE_HELPFULNESS_SCORE].mean, (logit(0.8) + logit(0.6)) / 2, 1e-12);
    assert_near(m[HT_MEASURE_SAFETY_SCORE].mean, (logit(0.3) + logit(0.7)) / 2, 1e-12);
    assert_near(m[HT_MEASURE_VIOLATIONS_JUDGED].mean, 0.5, 1e-12);
    assert_int_equal(m[HT_MEASURE_VIOLATIONS_JUDGED].count, 2);
    assert_near(m[HT_MEASURE_COMBINED_REWARD].mean, (logit(0.8) + logit(0.1) + logit(0.3) + logit(0.7)) / 4, 1e-12);
    assert_near(m[HT_MEASURE_FINISHED_SHARE].mean, 0.75, 1e-12);
    assert_near(m[HT_MEASURE_RESPONSE_TOKENS].mean, 5, 1e-12);
    assert_int_equal(m[HT_MEASURE_RESPONSE_TOKENS].count, 4);
}

/* --- the judge -------------------------------------------------------------------------------------------- */

static ht_preference judge(ht_judged first, ht_judged second) {
    return ht_judge_by_rewards(NULL, &first, &second);
}

static void test_evaluate__judge_takes_the_model_of_the_pair(void **state) {
    (void)state;
    ht_judged helpful = {.helpful = 2, .safe = 1}, safe = {.helpful = 1, .safe = 2};
    ht_judged unsafe = {.helpful = 9, .safe = logit(0.1)};
    assert_int_equal(judge(helpful, safe), HT_PREFER_FIRST);
    assert_int_equal(judge(safe, helpful), HT_PREFER_SECOND);
    /* one unsafe response is enough, on either side: both are judged by Rs */
    assert_int_equal(judge(unsafe, safe), HT_PREFER_SECOND);
    assert_int_equal(judge(safe, unsafe), HT_PREFER_FIRST);
    helpful.is_safety = safe.is_safety = 1;
    assert_int_equal(judge(helpful, safe), HT_PREFER_SECOND);
}

static void test_evaluate__judge_ties(void **state) {
    (void)state;
    ht_judged a = {.helpful = 1, .safe = 1}, b = {.helpful = 1 + 0.9e-6, .safe = -1}, c = {.helpful = 1 + 1.2e-6, .safe = 1};
    assert_int_equal(judge(a, b), HT_PREFER_NEITHER);
    assert_int_equal(judge(a, c), HT_PREFER_SECOND);
}

/* --- win rate --------------------------------------------------------------------------------------------- */

static ht_win_rates count(const ht_judged *a, const ht_judged *b, size_t n, ht_judge by, void *context) {
    ht_error err = HT_ERROR_INIT;
    ht_win_rates rates;
    const ht_pairing pairing = {.a = a, .b = b, .a_count = n, .b_count = n, .judge = by, .context = context};
    assert_int_equal(ht_wins_count(&rates, &pairing, &err), HT_OK);
    return rates;
}

static void test_evaluate__win_rate(void **state) {
    (void)state;
    const ht_judged a[] = {{.dialog_id = 1, .helpful = 2},
                           {.dialog_id = 2, .helpful = 1},
                           {.dialog_id = 3, .helpful = 0},
                           {.dialog_id = 4, .is_safety = 1, .safe = 5}};
    const ht_judged b[] = {{.dialog_id = 1, .helpful = 1},
                           {.dialog_id = 2, .helpful = 1},
                           {.dialog_id = 3, .helpful = 3},
                           {.dialog_id = 4, .is_safety = 1, .safe = 4}};
    ht_win_rates rates = count(a, b, 4, ht_judge_by_rewards, NULL), back = count(b, a, 4, ht_judge_by_rewards, NULL);
    assert_int_equal(rates.all.wins, 2);
    assert_int_equal(rates.all.ties, 1);
    assert_int_equal(rates.all.losses, 1);
    assert_int_equal(rates.all.disagreements, 0);
    assert_near(rates.all.rate.mean, 0.625, 1e-12);
    /* 1, 0.5, 0, 1: squared deviations 0.6875 */
    assert_near(ht_mean_error(&rates.all.rate), sqrt(0.6875 / 3 / 4), 1e-12);
    assert_near(rates.kind[HT_KIND_HELPFULNESS].rate.mean, 0.5, 1e-12);
    assert_int_equal(rates.kind[HT_KIND_SAFETY].wins, 1);
    assert_near(rates.all.rate.mean + back.all.rate.mean, 1, 1e-12);
    json_t *json = ht_wins_json(&rates.all);
    assert_int_equal(json_integer_value(json_object_get(json, "wins")), 2);
    assert_near(json_number_value(json_object_get(json, "value")), 0.625, 1e-12);
    json_decref(json);
}

/* Likes the first, whatever it is; counts its calls. */
static ht_preference biased(void *context, const ht_judged *first, const ht_judged *second) {
    (void)first, (void)second;
    ++*(int *)context;
    return HT_PREFER_FIRST;
}

/* Says so when the first is better, and nothing when the second is. */
static ht_preference timid(void *context, const ht_judged *first, const ht_judged *second) {
    (void)context;
    return first->helpful > second->helpful ? HT_PREFER_FIRST : HT_PREFER_NEITHER;
}

static void test_evaluate__a_judge_that_prefers_a_place_gives_ties(void **state) {
    (void)state;
    const ht_judged a[] = {{.dialog_id = 1, .helpful = 2}, {.dialog_id = 2}}, b[] = {{.dialog_id = 1}, {.dialog_id = 2}};
    int calls = 0;
    ht_win_rates rates = count(a, b, 2, biased, &calls);
    assert_int_equal(calls, 4); /* both orders are really asked */
    assert_int_equal(rates.all.ties, 2);
    assert_int_equal(rates.all.disagreements, 2);
    assert_near(rates.all.rate.mean, 0.5, 1e-12);
    rates = count(a, b, 2, timid, NULL);
    assert_int_equal(rates.all.wins, 0);
    assert_int_equal(rates.all.disagreements, 1);
}

static void test_evaluate__other_prompts_are_refused(void **state) {
    (void)state;
    const ht_judged a[] = {{.dialog_id = 1}, {.dialog_id = 2}}, b[] = {{.dialog_id = 1}, {.dialog_id = 3}};
    ht_error err = HT_ERROR_INIT, other = HT_ERROR_INIT;
    ht_win_rates rates;
    ht_pairing pairing = {.a = a, .b = b, .a_count = 2, .b_count = 2, .judge = ht_judge_by_rewards};
    assert_int_equal(ht_wins_count(&rates, &pairing, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "not the same prompts"));
    pairing.b_count = 1;
    assert_int_equal(ht_wins_count(&rates, &pairing, &other), HT_ERR_DATA);
}

/* --- choosing prompts ------------------------------------------------------------------------------------- */

enum { PROMPTS = 120 };

static void choose(uint8_t *chosen, const uint8_t *is_safety, int64_t wanted) {
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_choose_prompts(chosen, is_safety, PROMPTS, wanted, &err), HT_OK);
}

static int sum(const uint8_t *chosen, const uint8_t *mask, int kind) {
    int total = 0;
    for (int i = 0; i < PROMPTS; i++)
        total += chosen[i] && (!mask || mask[i] == kind);
    return total;
}

static void test_evaluate__chosen_prompts_keep_the_kinds_shares(void **state) {
    (void)state;
    uint8_t is_safety[PROMPTS], chosen[PROMPTS], again[PROMPTS];
    for (int i = 0; i < PROMPTS; i++)
        is_safety[i] = i % 4 == 3; /* in step with a stretch of 4 */
    choose(chosen, is_safety, 30);
    choose(again, is_safety, 30);
    assert_memory_equal(chosen, again, PROMPTS);
    assert_int_equal(sum(chosen, NULL, 0), 30);
    assert_in_range(sum(chosen, is_safety, 1), 7, 8);
    /* spread: a stretch of 3 in 90 helpfulness prompts is 4 here; no gap is longer than two stretches */
    int last = -1;
    for (int i = 0; i < PROMPTS; i++)
        if (chosen[i] && !is_safety[i]) {
            assert_true(i - last <= 12);
            last = i;
        }
    /* not always the same place of a stretch */
    int places[4] = {0};
    for (int i = 0; i < PROMPTS; i++)
        places[i % 4] += chosen[i] && !is_safety[i];
    assert_true(places[0] && places[1] && places[2]);
}

static void test_evaluate__all_prompts_when_there_are_no_more(void **state) {
    (void)state;
    uint8_t is_safety[PROMPTS] = {0}, chosen[PROMPTS];
    const int64_t wanted[] = {0, PROMPTS, PROMPTS + 1};
    for (int i = 0; i < 3; i++) {
        memset(chosen, 7, PROMPTS);
        choose(chosen, is_safety, wanted[i]);
        assert_int_equal(sum(chosen, NULL, 0), PROMPTS);
        assert_int_equal(chosen[PROMPTS - 1], 1);
    }
    choose(chosen, is_safety, 1);
    assert_int_equal(sum(chosen, NULL, 0), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_evaluate__mean_and_standard_error),
        cmocka_unit_test(test_evaluate__one_value_has_no_error),
        cmocka_unit_test(test_evaluate__measures_are_of_their_prompts),
        cmocka_unit_test(test_evaluate__judge_takes_the_model_of_the_pair),
        cmocka_unit_test(test_evaluate__judge_ties),
        cmocka_unit_test(test_evaluate__win_rate),
        cmocka_unit_test(test_evaluate__a_judge_that_prefers_a_place_gives_ties),
        cmocka_unit_test(test_evaluate__other_prompts_are_refused),
        cmocka_unit_test(test_evaluate__chosen_prompts_keep_the_kinds_shares),
        cmocka_unit_test(test_evaluate__all_prompts_when_there_are_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
