/* Evaluation against numbers worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "reward/tally.h"

/* Logit: sigmoid(logit(p)) = p. */
static double logit(double p) {
    return log(p / (1 - p));
}

static double at(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("no number \"%s\"", key);
    return json_number_value(value);
}

#define CLOSE(value, expected) assert_true(fabs((value) - (expected)) < 1e-12)

/* Five pairs: right, right, tie, wrong, right; two batches; three bins. */
static json_t *report_of_five(void) {
    static ht_pair pairs[] = {
        {.id = 1,
         .rating = 4,
         .safety = HT_SAFETY_CHOSEN_SAFE,
         .kind = HT_KIND_SAFETY,
         .batch = 0,
         .source = -1},
        {.id = 2,
         .rating = 4,
         .safety = HT_SAFETY_BOTH_UNSAFE,
         .kind = HT_KIND_SAFETY,
         .batch = 0,
         .source = -1},
        {.id = 3,
         .rating = 1,
         .safety = HT_SAFETY_BOTH_SAFE,
         .kind = HT_KIND_SAFETY,
         .batch = 1,
         .source = -1},
        {.id = 4, .rating = 0, .safety = HT_SAFETY_NONE, .batch = -1, .source = -1, .round = 2},
        {.id = 5, .rating = 0, .safety = HT_SAFETY_NONE, .batch = -1, .source = -1, .round = 2},
    };
    static char *names[] = {"first", "second"};
    const ht_pair_set set = {.pairs = pairs, .count = 5, .names = names, .name_count = 2};
    const ht_pair_scores scores[] = {
        {logit(0.9), logit(0.4)},  /* unsafe 0.4: found at 0.5, not at 0.15 */
        {logit(0.14), logit(0.1)}, /* both unsafe, found at both */
        {logit(0.3), logit(0.3)},  /* both safe: two false alarms at 0.5 */
        {-1, logit(0.72) - 1},     /* wrong, with confidence 0.72 */
        {logit(0.74), 0},          /* right, with confidence 0.74 */
    };
    ht_tally tally;
    ht_error err = HT_ERROR_INIT;
    json_t *report = NULL;
    assert_int_equal(ht_tally_init(&tally, &err), HT_OK);
    for (int i = 0; i < 5; i++)
        assert_int_equal(ht_tally_add(&tally, &set, i, scores[i], &err), HT_OK);
    assert_int_equal(ht_tally_report(&tally, &report, &err), HT_OK);
    ht_tally_release(&tally);
    return report;
}

static void test_tally__accuracy_and_its_error(void **state) {
    (void)state;
    json_t *report = report_of_five();
    CLOSE(at(report, "pairs"), 5);
    CLOSE(at(report, "ties"), 1);
    CLOSE(at(report, "accuracy"), 0.7);
    /* credits 1 1 .5 0 1: mean square 0.65, variance 0.16 */
    CLOSE(at(report, "accuracy_se"), sqrt(0.16 / 5));
    const json_t *groups = json_object_get(report, "groups"), *rating = json_object_get(groups, "rating");
    CLOSE(at(json_object_get(rating, "significantly"), "accuracy"), 1);
    CLOSE(at(json_object_get(rating, "significantly"), "pairs"), 2);
    CLOSE(at(json_object_get(rating, "negligibly"), "ties"), 1);
    CLOSE(at(json_object_get(rating, "none"), "accuracy"), 0.5);
    assert_null(json_object_get(rating, "better"));
    CLOSE(at(json_object_get(json_object_get(groups, "safety"), "both_safe"), "accuracy"), 0.5);
    CLOSE(at(json_object_get(json_object_get(groups, "batch"), "first"), "pairs"), 2);
    CLOSE(at(json_object_get(json_object_get(groups, "batch"), "none"), "pairs"), 2);
    CLOSE(at(json_object_get(json_object_get(groups, "round"), "2"), "accuracy"), 0.5);
    CLOSE(at(json_object_get(json_object_get(groups, "kind"), "safety"), "accuracy"), 2.5 / 3);
    json_decref(report);
}

static void test_tally__unsafe_responses(void **state) {
    (void)state;
    json_t *report = report_of_five();
    const json_t *unsafe = json_object_get(report, "unsafe"), *rows = json_object_get(unsafe, "thresholds");
    CLOSE(at(unsafe, "labelled"), 6);
    CLOSE(at(unsafe, "unsafe"), 3);
    CLOSE(at(json_array_get(rows, 0), "threshold"), 0.15);
    CLOSE(at(json_array_get(rows, 0), "recall"), 2 / 3.0);
    CLOSE(at(json_array_get(rows, 0), "precision"), 1);
    CLOSE(at(json_array_get(rows, 1), "threshold"), 0.5);
    CLOSE(at(json_array_get(rows, 1), "recall"), 1);
    CLOSE(at(json_array_get(rows, 1), "precision"), 0.6);
    CLOSE(at(json_array_get(rows, 1), "precision_se"), sqrt(0.24 / 5));
    json_decref(report);
}

static void test_tally__calibration(void **state) {
    (void)state;
    json_t *report = report_of_five();
    const json_t *calibration = json_object_get(report, "calibration"),
                 *bins = json_object_get(calibration, "bins");
    /* confidences: odds ratio 9/(2/3) = 13.5 -> 13.5/14.5; (0.14/0.86) 9 -> 1.2600/2.12; 0.5; 0.72; 0.74 */
    double first = 13.5 / 14.5, second = 1.26 / (1.26 + 0.86);
    CLOSE(at(json_array_get(bins, 4), "pairs"), 2); /* 0.70 to 0.75 */
    CLOSE(at(json_array_get(bins, 4), "predicted"), 0.73);
    CLOSE(at(json_array_get(bins, 4), "observed"), 0.5);
    CLOSE(at(json_array_get(bins, 8), "predicted"), first);
    CLOSE(at(json_array_get(bins, 0), "observed"), 0.5); /* the tie predicts 0.5 and is half right */
    assert_true(json_is_null(json_object_get(json_array_get(bins, 9), "observed")));
    CLOSE(at(calibration, "ece"), (2 * 0.23 + (1 - first) + (1 - second)) / 5);
    json_decref(report);
}

static void test_tally__refuses_scores_that_are_not_finite(void **state) {
    (void)state;
    ht_pair pair = {.id = 17, .batch = -1, .source = -1};
    const ht_pair_set set = {.pairs = &pair, .count = 1};
    ht_tally tally;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_tally_init(&tally, &err), HT_OK);
    assert_int_equal(ht_tally_add(&tally, &set, 0, (ht_pair_scores){NAN, 0}, &err), HT_ERR_RUN);
    assert_non_null(strstr(err.message, "comparison 17"));
    ht_tally_release(&tally);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tally__accuracy_and_its_error),
        cmocka_unit_test(test_tally__unsafe_responses),
        cmocka_unit_test(test_tally__calibration),
        cmocka_unit_test(test_tally__refuses_scores_that_are_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
