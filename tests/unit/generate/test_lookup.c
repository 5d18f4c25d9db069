#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/generate/lookup.h"

static void expect(const int32_t *context, int64_t length, int64_t wanted, const int32_t *expected,
                   int64_t count) {
    int32_t proposal[16];
    assert_int_equal(ht_lookup(context, length, wanted, 2, proposal), count);
    assert_memory_equal(proposal, expected, (size_t)count * sizeof *expected);
}

static void test_lookup__two_tokens_go_before_one(void **state) {
    (void)state;
    /* 6 alone first stands at 0, 5 6 at 3. */
    int32_t context[] = {6, 9, 4, 5, 6, 7, 8, 5, 6};
    expect(context, 9, 2, (int32_t[]){7, 8}, 2);
    context[7] = 3;
    expect(context, 9, 2, (int32_t[]){9, 4}, 2);
}

static void test_lookup__the_first_match_counts(void **state) {
    (void)state;
    int32_t context[] = {5, 6, 7, 5, 6, 8, 5, 6};
    expect(context, 8, 1, (int32_t[]){7}, 1);
}

static void test_lookup__a_proposal_ends_with_the_context(void **state) {
    (void)state;
    int32_t context[] = {4, 4, 4, 4};
    expect(context, 4, 10, (int32_t[]){4, 4}, 2);
    expect(context, 2, 10, (int32_t[]){4}, 1);
}

static void test_lookup__a_proposal_ends_before_eos(void **state) {
    (void)state;
    int32_t context[] = {5, 6, 7, 2, 8, 5, 6};
    expect(context, 7, 10, (int32_t[]){7}, 1);
}

static void test_lookup__without_a_match_there_is_none(void **state) {
    (void)state;
    int32_t context[] = {5, 6, 7, 8};
    expect(context, 4, 10, NULL, 0);
    expect(context, 1, 10, NULL, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup__two_tokens_go_before_one),
        cmocka_unit_test(test_lookup__the_first_match_counts),
        cmocka_unit_test(test_lookup__a_proposal_ends_with_the_context),
        cmocka_unit_test(test_lookup__a_proposal_ends_before_eos),
        cmocka_unit_test(test_lookup__without_a_match_there_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
