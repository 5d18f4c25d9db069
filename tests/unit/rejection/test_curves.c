/* Curves against every subset, one by one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "rejection/curves.h"

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Mean over all subsets of `size` of their maximum and median. */
static void brute_force(const double *x, int n, int size, double *best, double *median) {
    double subset[16];
    int64_t subsets = 0;
    *best = *median = 0;
    for (unsigned mask = 0; mask < 1u << n; mask++) {
        int count = 0;
        for (int i = 0; i < n; i++)
            if (mask & 1u << i) subset[count++ % 16] = x[i];
        if (count != size) continue;
        qsort(subset, (size_t)count, sizeof *subset, ascending);
        *best += subset[count - 1];
        *median += count % 2 ? subset[count / 2] : 0.5 * (subset[count / 2 - 1] + subset[count / 2]);
        subsets++;
    }
    *best /= (double)subsets;
    *median /= (double)subsets;
}

static void check(const double *rewards, int n, int prompts) {
    ht_error err = HT_ERROR_INIT;
    ht_curve curve;
    double sum = 0;
    assert_int_equal(ht_curve_init(&curve, n, &err), HT_OK);
    for (int p = 0; p < prompts; p++)
        ht_curve_add(&curve, rewards + p * n);
    for (int N = 1; N <= n; N++) {
        double best = 0, median = 0;
        for (int p = 0; p < prompts; p++) {
            double one, other;
            brute_force(rewards + p * n, n, N, &one, &other);
            best += one / prompts;
            median += other / prompts;
        }
        /* log-gamma of numbers up to 16 costs a few ulps; rewards are below 10 */
        assert_true(fabs(ht_curve_best(&curve, N) - best) < 1e-12);
        assert_true(fabs(ht_curve_median(&curve, N) - median) < 1e-12);
    }
    for (int i = 0; i < n * prompts; i++)
        sum += rewards[i];
    assert_true(fabs(ht_curve_mean(&curve) - sum / (n * prompts)) < 1e-12);
    assert_true(fabs(ht_curve_mean(&curve) - ht_curve_best(&curve, 1)) < 1e-12);
    assert_true(fabs(ht_curve_mean(&curve) - ht_curve_median(&curve, 1)) < 1e-12);
    ht_curve_free(&curve);
}

static void test_curves__agree_with_all_subsets(void **state) {
    (void)state;
    double rewards[3 * 11];
    for (uint64_t i = 0; i < 33; i++)
        rewards[i] = 2 * ht_rng_normal(5, 1, i);
    for (int n = 1; n <= 11; n++)
        check(rewards, n, 3);
}

static void test_curves__ties(void **state) {
    (void)state;
    const double rewards[] = {1, 1, -2, 1, -2, 0, 0};
    check(rewards, 7, 1);
}

static void test_curves__rise_and_end_at_the_samples_themselves(void **state) {
    (void)state;
    enum { N_MAX = 100 };
    double rewards[N_MAX];
    ht_error err = HT_ERROR_INIT;
    ht_curve curve;
    for (uint64_t i = 0; i < N_MAX; i++)
        rewards[i] = ht_rng_normal(9, 2, i);
    assert_int_equal(ht_curve_init(&curve, N_MAX, &err), HT_OK);
    ht_curve_add(&curve, rewards);
    qsort(rewards, N_MAX, sizeof *rewards, ascending);
    assert_true(fabs(ht_curve_best(&curve, N_MAX) - rewards[N_MAX - 1]) < 1e-10);
    assert_true(fabs(ht_curve_median(&curve, N_MAX) - 0.5 * (rewards[49] + rewards[50])) < 1e-10);
    for (int N = 2; N <= N_MAX; N++)
        assert_true(ht_curve_best(&curve, N) >= ht_curve_best(&curve, N - 1) - 1e-12);
    /* 1 of 100: the mean, not the median of the whole */
    assert_true(fabs(ht_curve_median(&curve, 1) - ht_curve_mean(&curve)) < 1e-12);
    ht_curve_free(&curve);
}

static void test_curves__nothing_added(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_curve curve;
    assert_int_equal(ht_curve_init(&curve, 3, &err), HT_OK);
    assert_true(isnan(ht_curve_best(&curve, 3)));
    assert_true(isnan(ht_curve_median(&curve, 1)));
    assert_true(isnan(ht_curve_mean(&curve)));
    ht_curve_free(&curve);
    ht_curve_free(&curve);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_curves__agree_with_all_subsets),
        cmocka_unit_test(test_curves__ties),
        cmocka_unit_test(test_curves__rise_and_end_at_the_samples_themselves),
        cmocka_unit_test(test_curves__nothing_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
