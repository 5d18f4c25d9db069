/* Shares, draws and order of an epoch. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/log.h"
#include "reward/mix.h"

static char warned[1024];

static void keep_warning(ht_log_level level, const char *line) {
    if (level == HT_LOG_WARN) snprintf(warned, sizeof warned, "%s", line);
}

/* A set of `own` own pairs and `rest` others, mixed. */
static ht_pair_set set_of(size_t own, size_t rest) {
    ht_pair_set set = {.count = own + rest};
    set.pairs = calloc(set.count, sizeof(ht_pair));
    for (size_t i = 0, left = own; i < set.count; i++) {
        set.pairs[i].own = left > 0 && (i % 3 != 1 || set.count - i <= left);
        left -= (size_t)set.pairs[i].own;
    }
    return set;
}

static ht_mix mix_of(const ht_pair_set *set, double share) {
    ht_mix mix;
    ht_error err = HT_ERROR_INIT;
    warned[0] = '\0';
    ht_log_set_sink(keep_warning);
    assert_int_equal(ht_mix_init(&mix, set, share, 5, &err), HT_OK);
    ht_log_set_sink(NULL);
    return mix;
}

static void test_mix__makes_the_declared_share(void **state) {
    (void)state;
    static const double shares[] = {0.5, 0.9, 0.7, 1.0};
    static const int64_t drawn[] = {90, 10, 39, 0};
    ht_pair_set set = set_of(90, 200);
    for (int i = 0; i < 4; i++) {
        ht_mix mix = mix_of(&set, shares[i]);
        assert_int_equal(mix.own_count, 90);
        assert_int_equal(mix.rest_count, 200);
        assert_int_equal(mix.drawn, drawn[i]);
        assert_true(fabs(mix.own_share - shares[i]) < 0.005);
        assert_string_equal(warned, "");
        ht_mix_free(&mix);
    }
    free(set.pairs);
}

static void test_mix__takes_all_own_once_and_others_at_most_once(void **state) {
    (void)state;
    ht_pair_set set = set_of(30, 100);
    ht_mix mix = mix_of(&set, 0.5);
    int64_t order[60];
    uint8_t ever[130] = {0};
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        int seen[130] = {0}, own = 0;
        ht_mix_order(&mix, epoch, order);
        for (int64_t i = 0; i < ht_mix_count(&mix); i++) {
            assert_in_range(order[i], 0, 129);
            assert_int_equal(seen[order[i]]++, 0);
            own += set.pairs[order[i]].own;
            ever[order[i]] = 1;
        }
        assert_int_equal(own, 30);
    }
    /* Each epoch draws anew: the chance that one of 100 is never among 30 of 100 in 20 epochs is 100 * 0.7^20
     * = 0.08 */
    for (int i = 0; i < 130; i++)
        assert_int_equal(ever[i], 1);
    ht_mix_free(&mix);
    free(set.pairs);
}

static void test_mix__order_depends_on_seed_and_epoch_alone(void **state) {
    (void)state;
    ht_pair_set set = set_of(30, 100);
    ht_mix mix = mix_of(&set, 0.5), again = mix_of(&set, 0.5);
    int64_t first[60], second[60];
    ht_mix_order(&mix, 3, first);
    ht_mix_order(&again, 7, second);
    assert_memory_not_equal(first, second, sizeof first);
    ht_mix_order(&again, 3, second);
    assert_memory_equal(first, second, sizeof first);
    again.seed = 6;
    ht_mix_order(&again, 3, second);
    assert_memory_not_equal(first, second, sizeof first);
    ht_mix_free(&mix);
    ht_mix_free(&again);
    free(set.pairs);
}

static void test_mix__says_the_reached_share(void **state) {
    (void)state;
    ht_pair_set set = set_of(90, 30);
    ht_mix mix = mix_of(&set, 0.5);
    assert_int_equal(mix.drawn, 30);
    assert_true(mix.own_share == 0.75);
    assert_non_null(strstr(warned, "asks for 90 other comparisons beside 90 own ones; there are 30"));
    assert_non_null(strstr(warned, "own share is 0.7500"));
    ht_mix_free(&mix);
    free(set.pairs);
}

static void test_mix__needs_own_pairs(void **state) {
    (void)state;
    ht_pair_set set = set_of(0, 30);
    ht_mix mix;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_mix_init(&mix, &set, 0.5, 5, &err), HT_ERR_DATA);
    assert_null(mix.own);
    free(set.pairs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mix__makes_the_declared_share),
        cmocka_unit_test(test_mix__takes_all_own_once_and_others_at_most_once),
        cmocka_unit_test(test_mix__order_depends_on_seed_and_epoch_alone),
        cmocka_unit_test(test_mix__says_the_reached_share),
        cmocka_unit_test(test_mix__needs_own_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
