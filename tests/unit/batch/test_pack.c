#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/batch/batch.h"
#include "tests/unit/do.h"

/* Examples of these lengths, with ids from 100 on. */
static void fill(ht_example_set *set, const int64_t *lengths, int64_t count) {
    static const int32_t tokens[16];
    for (int64_t i = 0; i < count; i++)
        DO(ht_example_set_add(set, 100 + i, tokens, NULL, lengths[i], &err_));
}

static void test_pack__whole_examples_in_the_given_order(void **state) {
    (void)state;
    ht_example_set set = {0};
    int64_t *start, bins;
    static const int64_t expected[] = {0, 2, 3, 5};
    fill(&set, (int64_t[]){4, 8, 1, 3, 5}, 5);
    DO(ht_pack(&set, (int64_t[]){4, 3, 1, 2, 0}, 5, 8, &start, &bins, &err_)); /* 5 + 3, 8, 1 + 4 */
    assert_int_equal(bins, 3);
    assert_memory_equal(start, expected, sizeof expected);
    free(start);
    DO(ht_pack(&set, NULL, 0, 8, &start, &bins, &err_));
    assert_int_equal(bins, 0);
    assert_int_equal(start[0], 0);
    free(start);
    ht_example_set_free(&set);
}

static void test_pack__an_example_that_is_too_long_is_named(void **state) {
    (void)state;
    ht_example_set set = {0};
    int64_t *start, bins;
    fill(&set, (int64_t[]){4, 9}, 2);
    FAILS(ht_pack(&set, (int64_t[]){0, 1}, 2, 8, &start, &bins, &err_), HT_ERR_DATA, "example 101 has 9 tokens, above seq_len 8");
    assert_null(start);
    assert_int_equal(bins, 0);
    ht_example_set_free(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack__whole_examples_in_the_given_order),
        cmocka_unit_test(test_pack__an_example_that_is_too_long_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
