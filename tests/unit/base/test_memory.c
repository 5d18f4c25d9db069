#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/memory.h"

static void test_memory__available_is_part_of_the_limit(void **state) {
    (void)state;
    size_t limit = ht_memory_limit(), available = ht_memory_available();
    assert_true(available > 1 << 20);
    assert_true(available <= limit);
    assert_true(limit < (size_t)1 << 50); /* read, not given up on */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory__available_is_part_of_the_limit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
