/*
 * ht_sample: greedy ties, frequencies against the exact distribution, filters, log-probabilities, and that a
 * sample is a function of its own row and coordinates alone.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/op/harness.h"
#include "tests/op/reference.h"

static ht_backend *backend;

/* Samples R rows of `logits`. */
static void sample(const double *logits, int64_t R, int64_t V, const ht_sampling *settings, int32_t *tokens,
                   float *logp) {
    op_result result;
    op_run run = {.dtype = HT_F32};
    op_run_begin(&run, backend, &result);
    ht_tensor t = op_tensor(&run, HT_F32, R, V, logits);
    op_check(&run, ht_sample(backend, &t, settings, tokens, logp, &run.err));
    op_run_end(&run);
}

static double *random_logits(int64_t n, double deviation, uint64_t seed) {
    op_run run = {.seed = seed};
    return op_normal(&run, HT_F32, n, deviation);
}

static void test_sampling__greedy_takes_the_lowest_of_equals(void **state) {
    (void)state;
    enum { V = 37 };
    double logits[3 * V] = {0};
    const ht_sampling settings[3] = {
        {.temperature = 0, .top_p = 1}, {.temperature = 0, .top_p = 1}, {.temperature = 0, .top_p = 1}};
    int32_t tokens[3];
    logits[V + 36] = logits[V + 17] = 2; /* the tie is across any vector's width */
    logits[2 * V + 36] = 1;
    sample(logits, 3, V, settings, tokens, NULL);
    assert_int_equal(tokens[0], 0);
    assert_int_equal(tokens[1], 17);
    assert_int_equal(tokens[2], 36);
}

/*
 * Frequencies of N draws against p: Pearson's statistic has mean = degrees of freedom f and variance 2 f, so
 * f + 6 sqrt(2 f) is passed by chance less than once in a million runs, and the seed is fixed. Tokens outside
 * of the filters must never come.
 */
static int frequencies_agree(int64_t V, ht_sampling setting, float true_temperature) {
    enum { N = 20000, BATCH = 500 };
    double *row = random_logits(V, 2, 5), *p = op_zeros(V), *margin = op_zeros(V),
           *logits = op_zeros(BATCH * V);
    int64_t *seen = calloc((size_t)V, sizeof *seen);
    ht_sampling exact = setting;
    exact.temperature = true_temperature;
    ref_sampling_distribution(p, margin, row, V, &exact);
    for (int64_t i = 0; i < BATCH * V; i++)
        logits[i] = row[i % V];
    ht_sampling *settings = calloc(BATCH, sizeof *settings);
    int32_t tokens[BATCH];
    for (int64_t done = 0; done < N; done += BATCH) {
        for (int64_t i = 0; i < BATCH; i++) {
            settings[i] = setting;
            settings[i].index = (uint64_t)(done + i);
        }
        sample(logits, BATCH, V, settings, tokens, NULL);
        for (int64_t i = 0; i < BATCH; i++) {
            assert_in_range(tokens[i], 0, V - 1);
            seen[tokens[i]]++;
        }
    }
    double statistic = 0, freedom = -1, rare = 0;
    int64_t rare_seen = 0;
    for (int64_t i = 0; i < V; i++) {
        if (p[i] == 0) {
            if (seen[i] > 0 && margin[i] > 1e-5) fail_msg("token %d is filtered out and came", (int)i);
        } else if (p[i] * N < 10) { /* too rare alone: counted together */
            rare += p[i];
            rare_seen += seen[i];
        } else {
            statistic += ((double)seen[i] - N * p[i]) * ((double)seen[i] - N * p[i]) / (N * p[i]);
            freedom++;
        }
    }
    if (rare * N >= 10) {
        statistic += ((double)rare_seen - N * rare) * ((double)rare_seen - N * rare) / (N * rare);
        freedom++;
    }
    free(settings);
    free(seen);
    free(logits);
    free(margin);
    free(p);
    free(row);
    return statistic <= freedom + 6 * sqrt(2 * freedom);
}

static void test_sampling__frequencies(void **state) {
    (void)state;
    const ht_sampling settings[] = {
        {.temperature = 1, .top_p = 1, .seed = 3, .stream = 9},
        {.temperature = 0.6f, .top_p = 0.9f, .seed = 3, .stream = 10},
        {.temperature = 1.3f, .top_p = 1, .top_k = 20, .seed = 3, .stream = 11},
        {.temperature = 1.2f, .top_p = 0.8f, .top_k = 50, .seed = 3, .stream = 12},
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        assert_true(frequencies_agree(5, settings[i], settings[i].temperature));
        assert_true(frequencies_agree(1000, settings[i], settings[i].temperature));
    }
    /* A temperature 5 % off is found. */
    assert_false(frequencies_agree(1000, settings[0], 1.05f));
}

static void test_sampling__filters_at_their_limits(void **state) {
    (void)state;
    enum { V = 11 };
    double *logits = random_logits(V, 1, 6);
    int32_t best = 0, token;
    for (int32_t i = 1; i < V; i++)
        best = logits[i] > logits[best] ? i : best;
    for (uint64_t i = 0; i < 50; i++) {
        ht_sampling narrow = {.temperature = 5, .top_p = 1e-6f, .index = i};
        sample(logits, 1, V, &narrow, &token, NULL);
        assert_int_equal(token, best); /* the most probable token always stays */
        ht_sampling one = {.temperature = 5, .top_p = 1, .top_k = 1, .index = i};
        sample(logits, 1, V, &one, &token, NULL);
        assert_int_equal(token, best);
        ht_sampling wide = {.temperature = 5, .top_p = 1, .top_k = 1000, .index = i}, off = wide;
        int32_t unfiltered;
        off.top_k = 0;
        sample(logits, 1, V, &wide, &token, NULL);
        sample(logits, 1, V, &off, &unfiltered, NULL);
        assert_int_equal(token, unfiltered);
    }
    free(logits);
}

/* Always under the unfiltered policy at temperature 1, whatever the filters. */
static void test_sampling__logp_is_unfiltered(void **state) {
    (void)state;
    enum { R = 4, V = 1000 };
    double *logits = random_logits(R * V, 3, 7), exact[R];
    const ht_sampling settings[R] = {{.temperature = 0, .top_p = 1},
                                     {.temperature = 1, .top_p = 1, .index = 4},
                                     {.temperature = 0.5f, .top_p = 0.5f, .index = 5},
                                     {.temperature = 2, .top_p = 1, .top_k = 3, .index = 6}};
    int32_t tokens[R];
    float logp[R];
    sample(logits, R, V, settings, tokens, logp);
    ref_token_logp(exact, NULL, logits, tokens, R, V);
    for (int64_t r = 0; r < R; r++) {
        /* SUM_ROUNDINGS for the sum; logits up to 20 in an exponential. */
        double allowed = (SUM_ROUNDINGS(V) + 16 * 20) * 0x1p-24 * fmax(1, fabs(exact[r]));
        if (!(fabs((double)logp[r] - exact[r]) <= allowed))
            fail_msg("row %d: %.9g, not %.9g", (int)r, (double)logp[r], exact[r]);
    }
    free(logits);
}

/* PITFALL: batch order. The same row with the same coordinates gives the same token in any company. */
static void test_sampling__depends_on_its_row_alone(void **state) {
    (void)state;
    enum { R = 9, V = 257 };
    double *logits = random_logits(R * V, 1, 8), *shuffled = op_zeros(R * V);
    ht_sampling settings[R], moved[R];
    int32_t tokens[R], again[R], alone;
    float logp[R], logp_again[R], logp_alone;
    for (int64_t r = 0; r < R; r++) {
        settings[r] = (ht_sampling){
            .temperature = 1, .top_p = r % 2 ? 0.9f : 1, .seed = 1, .stream = (uint64_t)r, .index = 40};
        int64_t to = (r * 4 + 2) % R;
        moved[to] = settings[r];
        memcpy(shuffled + to * V, logits + r * V, V * sizeof *logits);
    }
    sample(logits, R, V, settings, tokens, logp);
    sample(shuffled, R, V, moved, again, logp_again);
    for (int64_t r = 0; r < R; r++) {
        int64_t to = (r * 4 + 2) % R;
        assert_int_equal(tokens[r], again[to]);
        assert_memory_equal(&logp[r], &logp_again[to], sizeof *logp);
        sample(logits + r * V, 1, V, &settings[r], &alone, &logp_alone);
        assert_int_equal(tokens[r], alone);
        assert_memory_equal(&logp[r], &logp_alone, sizeof *logp);
    }
    free(shuffled);
    free(logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampling__greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(test_sampling__frequencies),
        cmocka_unit_test(test_sampling__filters_at_their_limits),
        cmocka_unit_test(test_sampling__logp_is_unfiltered),
        cmocka_unit_test(test_sampling__depends_on_its_row_alone),
    };
    backend = op_backend_open(2);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ht_backend_close(backend);
    return failed;
}
