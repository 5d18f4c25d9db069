/* Known answers: kat_vectors of Random123 1.14, philox4x32 with 10 rounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/base/philox.h"
#include "core/base/rng.h"

typedef struct known_answer {
    uint32_t counter[4], key[2], out[4];
} known_answer;

static const known_answer known[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static void test_rng__philox_known_answers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        ht_philox(known[i].key, known[i].counter, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

/* One bit of the counter changed must change the block: a test that any block passes would prove nothing. */
static void test_rng__philox_depends_on_every_word(void **state) {
    (void)state;
    for (int word = 0; word < 6; word++) {
        uint32_t counter[4] = {0}, key[2] = {0}, out[4];
        if (word < 4)
            counter[word] = 1;
        else
            key[word - 4] = 1;
        ht_philox(key, counter, out);
        assert_memory_not_equal(out, known[0].out, sizeof out);
    }
}

static void test_rng__numbers_depend_on_seed_stream_index_only(void **state) {
    (void)state;
    uint64_t a = ht_rng_stream(HT_RNG_SAMPLE, 3, 4), b = ht_rng_stream(HT_RNG_SAMPLE, 4, 3);
    assert_true(a != b);
    assert_true(a != ht_rng_stream(HT_RNG_ORDER, 3, 4));
    uint64_t first = ht_rng_u64(7, a, 9);
    ht_rng_u64(7, a, 10);
    assert_true(first == ht_rng_u64(7, a, 9));
    assert_true(first != ht_rng_u64(8, a, 9));
    assert_true(first != ht_rng_u64(7, b, 9));
    assert_true(first != ht_rng_u64(7, a, 10));
    assert_true(ht_rng_u64(7, a, 1) != ht_rng_u64(7, a, UINT64_C(1) << 32 | 1));
}

/* Moments of 10^6 draws, against five standard errors. */
static void test_rng__uniform_moments(void **state) {
    (void)state;
    const int n = 1000000;
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        double u = ht_rng_uniform(1, 2, (uint64_t)i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    double mean = sum / n, variance = squares / n - mean * mean;
    assert_true(fabs(mean - 0.5) < 5 * sqrt(1.0 / 12 / n));
    assert_true(fabs(variance - 1.0 / 12) < 5 * sqrt(1.0 / 180 / n));
}

static void test_rng__normal_moments(void **state) {
    (void)state;
    const int n = 1000000;
    double sum = 0, squares = 0, fourths = 0;
    for (int i = 0; i < n; i++) {
        double z = ht_rng_normal(1, 2, (uint64_t)i);
        assert_true(isfinite(z));
        sum += z;
        squares += z * z;
        fourths += z * z * z * z;
    }
    assert_true(fabs(sum / n) < 5 * sqrt(1.0 / n));
    assert_true(fabs(squares / n - 1) < 5 * sqrt(2.0 / n));
    assert_true(fabs(fourths / n - 3) < 5 * sqrt(96.0 / n));
}

static void test_rng__below_is_in_range_and_even(void **state) {
    (void)state;
    const int n = 60000;
    int counts[6] = {0};
    for (int i = 0; i < n; i++) {
        uint64_t value = ht_rng_below(5, 6, (uint64_t)i, 6);
        assert_true(value < 6);
        counts[value]++;
    }
    for (int k = 0; k < 6; k++)
        assert_true(fabs(counts[k] - n / 6.0) < 5 * sqrt(n / 6.0 * 5 / 6));
    assert_true(ht_rng_below(5, 6, 0, 1) == 0);
}

static void test_rng__permutation_holds_each_once(void **state) {
    (void)state;
    int64_t order[1000], again[1000];
    char seen[1000] = {0};
    ht_rng_permutation(3, 4, 1000, order);
    ht_rng_permutation(3, 4, 1000, again);
    assert_memory_equal(order, again, sizeof order);
    int fixed = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(order[i] >= 0 && order[i] < 1000);
        assert_false(seen[order[i]]);
        seen[order[i]] = 1;
        fixed += order[i] == i;
    }
    assert_true(fixed < 10); /* expected 1 */
    ht_rng_permutation(4, 4, 1000, again);
    assert_memory_not_equal(order, again, sizeof order);
    ht_rng_permutation(3, 4, 0, order);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rng__philox_known_answers),
        cmocka_unit_test(test_rng__philox_depends_on_every_word),
        cmocka_unit_test(test_rng__numbers_depend_on_seed_stream_index_only),
        cmocka_unit_test(test_rng__uniform_moments),
        cmocka_unit_test(test_rng__normal_moments),
        cmocka_unit_test(test_rng__below_is_in_range_and_even),
        cmocka_unit_test(test_rng__permutation_holds_each_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
