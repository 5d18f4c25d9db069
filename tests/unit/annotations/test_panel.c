/*
 * The panel's noise has the rates that panel.h states. Bounds are five standard deviations of a binomial
 * count.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "annotations/panel.h"

enum { N = 20000 };

typedef struct tally {
    int a, bins[5], ratings[5];
} tally;

static tally ask(const ht_annotator *annotator, ht_kind kind, ht_candidate first, ht_candidate second) {
    tally count = {0};
    const ht_candidate pair[2] = {first, second};
    for (uint64_t i = 0; i < N; i++) {
        ht_draw draw = ht_draw_start(5, HT_RNG_ANNOTATE, i, 0);
        ht_opinion opinion = ht_panel_compare(annotator, kind, pair, &draw);
        count.a += opinion.choice == 'a';
        count.bins[opinion.bin]++;
        count.ratings[opinion.rating]++;
    }
    return count;
}

static void assert_rate(int count, double p) {
    double sd = sqrt(N * p * (1 - p));
    if (fabs(count - N * p) > 5 * sd + 0.5) fail_msg("%d of %d; expected %g", count, N, p);
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void test_panel__chooses_by_bradley_and_terry(void **state) {
    (void)state;
    for (int i = 0; i < HT_PANEL_COUNT; i++) {
        const ht_annotator *one = &ht_panel[i];
        tally count = ask(one, HT_KIND_HELPFULNESS, (ht_candidate){0.6, 0, 8}, (ht_candidate){0.5, 0, 5});
        double p = sigmoid((0.1 + one->position_bias + one->length_bias * 0.3) / one->taste);
        assert_rate(count.a, (1 - one->lapse) * p + one->lapse / 2);
        assert_int_equal(count.bins[HT_BIN_NONE], N);
    }
}

static void test_panel__safety_guideline_wants_the_safe_one(void **state) {
    (void)state;
    const ht_annotator *one = ht_panel_find("ann-5");
    tally count = ask(one, HT_KIND_SAFETY, (ht_candidate){0, 1, 5}, (ht_candidate){0.6, 0, 5});
    double e = one->label_error;
    double right = (1 - e) * (1 - e); /* both labels read rightly: worths 0 and 0.8 */
    double wrong = (1 - e) * e, swapped = e * e;
    double wins = right * sigmoid(0.8 / one->taste) + wrong * 0.5 + wrong * sigmoid(0.3 / one->taste) +
                  swapped * sigmoid(-0.5 / one->taste);
    /* wrong: either both seen unsafe (0, 0) or both safe (0.5, 0.8); swapped: 0.5 against 0 */
    assert_rate(N - count.a, (1 - one->lapse) * wins + one->lapse / 2);
    assert_rate(count.bins[HT_BIN_BOTH_SAFE], wrong);
    assert_rate(count.bins[HT_BIN_BOTH_UNSAFE], wrong);
    assert_rate(count.bins[HT_BIN_CHOSEN_SAFE] + count.bins[HT_BIN_REJECTED_SAFE], right + swapped);
    assert_true(count.bins[HT_BIN_CHOSEN_SAFE] > 10 * count.bins[HT_BIN_REJECTED_SAFE]);
}

static void test_panel__ratings_grow_with_the_difference(void **state) {
    (void)state;
    const ht_annotator *one = ht_panel_find("ann-1");
    tally far = ask(one, HT_KIND_HELPFULNESS, (ht_candidate){1, 0, 5}, (ht_candidate){0.1, 0, 5});
    tally near = ask(one, HT_KIND_HELPFULNESS, (ht_candidate){0.5, 0, 5}, (ht_candidate){0.5, 0, 5});
    double t = one->taste;
    /* the perceived difference is 0.9 plus logistic noise */
    assert_rate(far.ratings[4], sigmoid(0.4 / t) + sigmoid(-1.4 / t));
    assert_rate(near.ratings[1], sigmoid(0.1 / t) - sigmoid(-0.1 / t));
    assert_rate(near.a, 0.5);
}

static void test_panel__is_deterministic(void **state) {
    (void)state;
    const ht_candidate pair[2] = {{0.5, 0, 5}, {0.6, 1, 5}};
    ht_draw first = ht_draw_start(1, HT_RNG_ANNOTATE, 3, 4), second = first;
    ht_opinion x = ht_panel_compare(&ht_panel[5], HT_KIND_SAFETY, pair, &first);
    ht_opinion y = ht_panel_compare(&ht_panel[5], HT_KIND_SAFETY, pair, &second);
    assert_int_equal(x.choice, y.choice);
    assert_int_equal(x.rating, y.rating);
    assert_int_equal(x.bin, y.bin);
    assert_int_equal(first.next, second.next);
    assert_null(ht_panel_find("ann-99"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_panel__chooses_by_bradley_and_terry),
        cmocka_unit_test(test_panel__safety_guideline_wants_the_safe_one),
        cmocka_unit_test(test_panel__ratings_grow_with_the_difference),
        cmocka_unit_test(test_panel__is_deterministic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
