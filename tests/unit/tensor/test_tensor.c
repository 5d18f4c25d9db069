#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/tensor/tensor.h"

static void test_tensor__views_point_into_the_matrix(void **state) {
    (void)state;
    float values[4 * 6];
    for (int i = 0; i < 24; i++)
        values[i] = (float)i;
    ht_tensor t = ht_tensor_of(values, HT_F32, 4, 6);
    assert_int_equal(t.stride, 6);
    ht_tensor rows = ht_tensor_rows(t, 1, 2), view = ht_tensor_columns(rows, 2, 3);
    assert_int_equal(view.rows, 2);
    assert_int_equal(view.cols, 3);
    assert_int_equal(view.stride, 6);
    const float *first = view.data;
    assert_true(first[0] == 8);
    assert_true(first[view.stride + 2] == 16);
}

static void test_tensor__offsets_follow_the_element_size(void **state) {
    (void)state;
    uint16_t values[12] = {0};
    ht_tensor t = ht_tensor_of(values, HT_BF16, 3, 4);
    assert_ptr_equal(ht_tensor_columns(ht_tensor_rows(t, 2, 1), 3, 1).data, &values[11]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensor__views_point_into_the_matrix),
        cmocka_unit_test(test_tensor__offsets_follow_the_element_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
