/* Sampling on the CPU against a plain fp64 reference that sorts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend/backend.h"
#include "core/base/rng.h"
#include "tests/unit/do.h"

static ht_backend *backend;

static int open_backend(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    return ht_backend_open(&backend, HT_BACKEND_CPU, 2, &err) == HT_OK ? 0 : -1;
}

static int close_backend(void **state) {
    (void)state;
    ht_backend_close(backend);
    return 0;
}

static int32_t sample_one(const float *z, int64_t size, ht_sampling settings, float *logp) {
    ht_error err = HT_ERROR_INIT;
    ht_tensor logits = ht_tensor_of((void *)z, HT_F32, 1, size);
    int32_t token = -7;
    ht_status status = ht_sample(backend, &logits, &settings, &token, logp, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, HT_OK);
    return token;
}

/* --- the reference ----------------------------------------------------------------------------------------
 */

typedef struct entry {
    double p;
    float z;
    int64_t id;
} entry;

static int by_logit(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->z != y->z) return x->z > y->z ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* p[i] = exact probability of token i; 0 where filtered. */
static void reference(const float *z, int64_t size, ht_sampling s, double *p) {
    entry *order = calloc((size_t)size, sizeof *order);
    double largest = -INFINITY, whole = 0, kept = 0;
    for (int64_t i = 0; i < size; i++)
        largest = fmax(largest, (double)z[i]);
    for (int64_t i = 0; i < size; i++) {
        order[i] = (entry){exp(((double)z[i] - largest) / (double)s.temperature), z[i], i};
        p[i] = 0;
    }
    qsort(order, (size_t)size, sizeof *order, by_logit);
    int64_t n = s.top_k > 0 && s.top_k < size ? s.top_k : size, count = 0;
    for (int64_t i = 0; i < n; i++)
        whole += order[i].p;
    while (count < n && (count == 0 || s.top_p >= 1 || kept < (double)s.top_p * whole))
        kept += order[count++].p;
    for (int64_t i = 0; i < count; i++)
        p[order[i].id] = order[i].p / kept;
    free(order);
}

/* Normal logits of some width. */
static float *random_logits(int64_t size, double width, uint64_t seed) {
    float *z = malloc((size_t)size * sizeof *z);
    for (int64_t i = 0; i < size; i++)
        z[i] = (float)(width * ht_rng_normal(seed, 1, (uint64_t)i));
    return z;
}

/* Pearson's statistic of `draws` draws under `drawn` against the probabilities under `expected`; *freedom =
 * cells - 1. */
static double chi_square(const float *z, int64_t size, ht_sampling drawn, ht_sampling expected, int draws,
                         int *freedom) {
    double *p = calloc((size_t)size, sizeof *p), statistic = 0;
    int *count = calloc((size_t)size, sizeof *count);
    reference(z, size, expected, p);
    for (int i = 0; i < draws; i++) {
        drawn.index = (uint64_t)i;
        count[sample_one(z, size, drawn, NULL)]++;
    }
    *freedom = -1;
    double rare = 0, rare_count = 0; /* cells below 5 expected are one */
    for (int64_t i = 0; i < size; i++) {
        double wanted = p[i] * draws;
        if (p[i] == 0 && count[i]) statistic = INFINITY; /* outside the set */
        if (wanted < 5) {
            rare += wanted;
            rare_count += count[i];
            continue;
        }
        statistic += (count[i] - wanted) * (count[i] - wanted) / wanted;
        ++*freedom;
    }
    if (rare > 0) {
        statistic += (rare_count - rare) * (rare_count - rare) / fmax(rare, 1);
        ++*freedom;
    }
    free(p);
    free(count);
    return statistic;
}

/* 1 - 1e-4 quantile of chi square (Wilson and Hilferty's approximation). */
static double chi_limit(int freedom) {
    double a = 2.0 / (9.0 * freedom);
    return freedom * pow(1 - a + 3.719 * sqrt(a), 3);
}

/* --- cases ------------------------------------------------------------------------------------------------
 */

static const ht_sampling plain = {.temperature = 1, .top_p = 1, .seed = 11, .stream = 5};

static void test_sample__greedy_takes_the_lowest_id_among_equals(void **state) {
    (void)state;
    float z[300];
    for (int i = 0; i < 300; i++)
        z[i] = -1;
    z[70] = z[71] = z[299] = 2;
    ht_sampling greedy = {.temperature = 0, .top_p = 1};
    assert_int_equal(sample_one(z, 300, greedy, NULL), 70);
    z[69] = 2;
    assert_int_equal(sample_one(z, 300, greedy, NULL), 69);
    float zeros[] = {-0.0f, 0.0f, -1.0f};
    assert_int_equal(sample_one(zeros, 3, greedy, NULL), 0);
    float one[] = {-3.0f};
    assert_int_equal(sample_one(one, 1, greedy, NULL), 0);
    assert_int_equal(sample_one(one, 1, plain, NULL), 0);
}

static void test_sample__draws_follow_the_distribution(void **state) {
    (void)state;
    ht_sampling cases[6];
    for (int i = 0; i < 6; i++)
        cases[i] = plain;
    cases[1].temperature = 0.5f;
    cases[2].temperature = 1.7f;
    cases[3].top_k = 7;
    cases[4].top_p = 0.8f;
    cases[5].top_k = 20, cases[5].top_p = 0.9f, cases[5].temperature = 1.3f;
    float *z = random_logits(60, 1.5, 3);
    for (int i = 0; i < 6; i++) {
        int freedom;
        double statistic = chi_square(z, 60, cases[i], cases[i], 20000, &freedom);
        assert_true(statistic < chi_limit(freedom));
    }
    free(z);
}

/* The test above must be able to fail. */
static void test_sample__a_wrong_distribution_is_told(void **state) {
    (void)state;
    float *z = random_logits(60, 1.5, 3);
    ht_sampling wrong[3] = {plain, plain, plain};
    wrong[0].temperature = 1.1f;
    wrong[1].top_p = 0.97f;
    wrong[2].top_k = 50;
    for (int i = 0; i < 3; i++) {
        int freedom;
        assert_true(chi_square(z, 60, wrong[i], plain, 20000, &freedom) > chi_limit(freedom));
    }
    free(z);
}

/* Inverse of the cumulated distribution in the order of ids; -1 when u lies within rounding of a border. */
static int64_t invert(const double *p, int64_t size, double u) {
    double before = 0;
    for (int64_t i = 0; i < size; i++) {
        if (p[i] == 0) continue;
        /* f32 weights are right to 2^-22, and so are their sums */
        if (fabs(before - u) < 1e-6 || fabs(before + p[i] - u) < 1e-6) return -1;
        before += p[i];
        if (before > u) return i;
    }
    return -1;
}

static void test_sample__equals_the_reference_at_the_size_of_a_vocabulary(void **state) {
    (void)state;
    const int64_t size = 32000;
    double *p = calloc((size_t)size, sizeof *p);
    int compared = 0;
    for (int i = 0; i < 120; i++) {
        float *z = random_logits(size, i % 3 == 0 ? 0.5 : i % 3 == 1 ? 3 : 12, (uint64_t)(100 + i));
        ht_sampling s = plain;
        s.temperature = i % 5 == 0 ? 0.1f : i % 5 == 1 ? 1.4f : 1.0f;
        s.top_p = i % 4 == 0 ? 1.0f : i % 4 == 1 ? 0.9f : i % 4 == 2 ? 0.3f : 0.999f;
        s.top_k = i % 7 == 0 ? 50 : i % 7 == 1 ? 1 : i % 7 == 2 ? 31999 : 0;
        s.index = (uint64_t)i;
        reference(z, size, s, p);
        int64_t expected = invert(p, size, ht_rng_uniform(s.seed, s.stream, s.index));
        int32_t token = sample_one(z, size, s, NULL);
        assert_true(p[token] > 0);
        if (expected >= 0) {
            compared++;
            assert_int_equal(token, expected);
        }
        free(z);
    }
    assert_true(compared > 60);
    free(p);
}

static void test_sample__the_crossing_token_stays(void **state) {
    (void)state;
    /* 0.5, 0.25, 0.125, 0.125 */
    float z[] = {0, (float)log(2), (float)(2 * log(2)), 0};
    struct {
        float top_p;
        int in[4];
    } cases[] = {{0.4f, {0, 0, 1, 0}}, {0.6f, {0, 1, 1, 0}}, {0.8f, {1, 1, 1, 0}}, {0.9f, {1, 1, 1, 1}}};
    for (int c = 0; c < 4; c++) {
        int seen[4] = {0};
        ht_sampling s = plain;
        s.top_p = cases[c].top_p;
        for (int i = 0; i < 400; i++) {
            s.index = (uint64_t)i;
            seen[sample_one(z, 4, s, NULL)] = 1;
        }
        assert_memory_equal(seen, cases[c].in, sizeof seen);
    }
}

static void test_sample__ties_enter_the_set_by_id(void **state) {
    (void)state;
    enum { SIZE = 1000 };
    float z[SIZE] = {0};
    ht_sampling s = plain;
    for (int round = 0; round < 2; round++) {
        int last = -1;
        s.top_k = round ? 0 : 10;
        s.top_p = round ? 0.25f : 1.0f;
        for (int i = 0; i < 8000; i++) {
            s.index = (uint64_t)i;
            int32_t token = sample_one(z, SIZE, s, NULL);
            last = token > last ? token : last;
        }
        assert_int_equal(last, round ? 249 : 9);
    }
}

static void test_sample__a_filter_that_drops_nothing_changes_nothing(void **state) {
    (void)state;
    float *z = random_logits(500, 2, 9);
    ht_sampling wide = plain;
    wide.top_k = 500;
    for (int i = 0; i < 500; i++) {
        ht_sampling s = plain;
        s.index = wide.index = (uint64_t)i;
        assert_int_equal(sample_one(z, 500, s, NULL), sample_one(z, 500, wide, NULL));
    }
    free(z);
}

static void test_sample__logp_is_of_the_policy_itself(void **state) {
    (void)state;
    float *z = random_logits(32000, 4, 21);
    double whole = 0;
    for (int i = 0; i < 32000; i++)
        whole += exp((double)z[i]);
    for (int i = 0; i < 40; i++) {
        ht_sampling s = plain;
        s.temperature = i % 2 ? 0.7f : 0;
        s.top_k = i % 3 ? 5 : 0;
        s.top_p = i % 5 ? 0.5f : 1;
        s.index = (uint64_t)i;
        float logp;
        int32_t token = sample_one(z, 32000, s, &logp);
        assert_true(fabs((double)logp - ((double)z[token] - log(whole))) < 1e-5);
        assert_true(logp <= 0);
    }
    free(z);
}

static void test_sample__rows_do_not_depend_on_their_batch(void **state) {
    (void)state;
    enum { ROWS = 33, SIZE = 5000 };
    float *z = random_logits((int64_t)ROWS * SIZE, 2, 77);
    ht_sampling settings[ROWS];
    int32_t tokens[ROWS];
    float logp[ROWS];
    for (int r = 0; r < ROWS; r++) {
        settings[r] = plain;
        settings[r].stream = (uint64_t)r;
        settings[r].top_p = r % 2 ? 0.9f : 1;
        settings[r].temperature = r % 4 ? 1 : 0;
    }
    ht_tensor logits = ht_tensor_of(z, HT_F32, ROWS, SIZE);
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_sample(backend, &logits, settings, tokens, logp, &err), HT_OK);
    for (int r = 0; r < ROWS; r++) {
        float alone;
        assert_int_equal(sample_one(z + r * SIZE, SIZE, settings[r], &alone), tokens[r]);
        assert_memory_equal(&alone, &logp[r], sizeof alone);
    }
    free(z);
}

static void test_sample__a_logit_that_is_not_finite_is_refused(void **state) {
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float z[3 * 100] = {0};
        z[2 * 100 + 99] = bad[i];
        ht_sampling settings[3] = {plain, plain, plain};
        int32_t tokens[3];
        ht_tensor logits = ht_tensor_of(z, HT_F32, 3, 100);
        ht_error err = HT_ERROR_INIT;
        assert_int_equal(ht_sample(backend, &logits, settings, tokens, NULL, &err), HT_ERR_RUN);
        assert_string_equal(err.message, "sample: row 2 of 3: a logit is not finite");
    }
}

static void test_sample__settings_out_of_range_are_refused(void **state) {
    (void)state;
    static const struct {
        ht_sampling setting;
        const char *says;
    } cases[] = {
        {{.temperature = -1, .top_p = 1}, "sample: row 0: temperature = -1 is neither 0 nor in [1e-6, 1e6]"},
        {{.temperature = 1e-7f, .top_p = 1}, "temperature = 1e-07 is neither"},
        {{.temperature = NAN, .top_p = 1}, "temperature = nan is neither"},
        {{.temperature = INFINITY, .top_p = 1}, "temperature = inf is neither"},
        {{.temperature = 1, .top_p = 0}, "sample: row 0: top_p = 0 is outside (0, 1]"},
        {{.temperature = 1, .top_p = 1.5f}, "top_p = 1.5 is outside"},
        {{.temperature = 1, .top_p = 1, .top_k = -1}, "sample: row 0: top_k = -1 is below 0"},
    };
    float z[4] = {0};
    int32_t token;
    ht_tensor logits = ht_tensor_of(z, HT_F32, 1, 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(ht_sample(backend, &logits, &cases[i].setting, &token, NULL, &err_), HT_ERR_USAGE, cases[i].says);
    logits = ht_tensor_of(z, HT_F32, 1, 0);
    FAILS(ht_sample(backend, &logits, &plain, &token, NULL, &err_), HT_ERR_USAGE, "sample: 0 columns of logits");
    logits = ht_tensor_of(z, HT_F32, 1, (int64_t)INT32_MAX + 1); /* an id would not hold it */
    FAILS(ht_sample(backend, &logits, &plain, &token, NULL, &err_), HT_ERR_USAGE, "sample: 2147483648 columns of logits");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample__greedy_takes_the_lowest_id_among_equals),
        cmocka_unit_test(test_sample__draws_follow_the_distribution),
        cmocka_unit_test(test_sample__a_wrong_distribution_is_told),
        cmocka_unit_test(test_sample__equals_the_reference_at_the_size_of_a_vocabulary),
        cmocka_unit_test(test_sample__the_crossing_token_stays),
        cmocka_unit_test(test_sample__ties_enter_the_set_by_id),
        cmocka_unit_test(test_sample__a_filter_that_drops_nothing_changes_nothing),
        cmocka_unit_test(test_sample__logp_is_of_the_policy_itself),
        cmocka_unit_test(test_sample__rows_do_not_depend_on_their_batch),
        cmocka_unit_test(test_sample__a_logit_that_is_not_finite_is_refused),
        cmocka_unit_test(test_sample__settings_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
