/*
 * Every operation, on every case of cases.h, in every dtype, against the reference; then the same bits twice,
 * on one thread as on two where that is promised, and a proof for every family that a wrong result fails.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/op/harness.h"

static ht_backend *backend;
static int computes_bf16;

/* f32 comes first in every family's list. */
static int dtypes_of(const op_family *family) {
    return computes_bf16 ? family->dtype_count : 1;
}

static void run_case(const op_family *family, ht_dtype dtype, int64_t index, int wrong, op_result *result) {
    op_run run = {.dtype = dtype, .strided = index % 2 == 1, .wrong = wrong, .seed = (uint64_t)index + 1};
    op_run_begin(&run, backend, result);
    family->run(&run, index);
    op_run_end(&run);
}

/* For each case and dtype of a family. */
#define EACH_CASE(family, dtype, index)                                                                      \
    for (int dtype##_at = 0; dtype##_at < dtypes_of(family); dtype##_at++)                                   \
        for (int64_t index = 0, dtype = (family)->dtypes[dtype##_at]; index < (family)->count; index++)

static void test_operations__values(void **state) {
    const op_family *family = *state;
    int failures = 0;
    EACH_CASE(family, dtype, index) {
        op_result result;
        run_case(family, (ht_dtype)dtype, index, 0, &result);
        for (int i = 0; i < result.count; i++) {
            char name[96];
            if (op_error(&result.outputs[i]) <= 1) continue;
            snprintf(name, sizeof name, "%s %s case %d", family->name, ht_dtype_torch_name((ht_dtype)dtype), (int)index);
            op_report(name, &result.outputs[i]);
            failures++;
        }
        if (result.overrun) {
            print_error("%s case %d writes outside of its view\n", family->name, (int)index);
            failures++;
        }
        op_result_free(&result);
    }
    assert_int_equal(failures, 0);
}

/* The reference gets wrong inputs: at least half of the cases (the smallest may not feel it) must fail. */
static void test_operations__wrong_result_fails(void **state) {
    const op_family *family = *state;
    for (int d = 0; d < dtypes_of(family); d++) {
        int64_t caught = 0;
        for (int64_t index = 0; index < family->count; index++) {
            op_result result;
            run_case(family, family->dtypes[d], index, 1, &result);
            int failed = 0;
            for (int i = 0; i < result.count; i++)
                failed |= !(op_error(&result.outputs[i]) <= 1);
            caught += failed;
            op_result_free(&result);
        }
        if (2 * caught < family->count)
            fail_msg("only %d of %d wrong results fail", (int)caught, (int)family->count);
    }
}

static void test_operations__same_bits_twice(void **state) {
    const op_family *family = *state;
    EACH_CASE(family, dtype, index) {
        op_result first, second;
        run_case(family, (ht_dtype)dtype, index, 0, &first);
        run_case(family, (ht_dtype)dtype, index, 0, &second);
        if (!op_same_bits(&first, &second)) fail_msg("%s %s case %d differs", family->name, ht_dtype_torch_name((ht_dtype)dtype), (int)index);
        op_result_free(&first);
        op_result_free(&second);
    }
}

/* Only where the result cannot depend on the thread count (harness.h); backend.h promises no more. */
static void test_operations__same_bits_on_one_thread(void **state) {
    const op_family *family = *state;
    op_result *two = calloc((size_t)(2 * family->count), sizeof *two), *next = two;
    EACH_CASE(family, dtype, index) run_case(family, (ht_dtype)dtype, index, 0, next++);
    ht_backend_close(backend);
    backend = op_backend_open(1);
    next = two;
    int differ = 0;
    EACH_CASE(family, dtype, index) {
        op_result one;
        run_case(family, (ht_dtype)dtype, index, 0, &one);
        differ += !op_same_bits(&one, next);
        op_result_free(&one);
        op_result_free(next++);
    }
    free(two);
    ht_backend_close(backend);
    backend = op_backend_open(2);
    assert_int_equal(differ, 0);
}

int main(void) {
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } checks[] = {
        {"values", test_operations__values},
        {"wrong_result_fails", test_operations__wrong_result_fails},
        {"same_bits_twice", test_operations__same_bits_twice},
        {"same_bits_on_one_thread", test_operations__same_bits_on_one_thread},
    };
    enum { CHECKS = sizeof checks / sizeof checks[0] };
    size_t count = op_family_count * CHECKS;
    struct CMUnitTest *tests = calloc(count, sizeof *tests);
    char(*names)[96] = calloc(count, sizeof *names);
    backend = op_backend_open(2);
    computes_bf16 = op_backend_computes(backend, HT_BF16);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const op_family *family = &op_families[i / CHECKS];
        CMUnitTestFunction check = checks[i % CHECKS].run;
        if (check == test_operations__same_bits_on_one_thread && !family->any_threads) continue;
        snprintf(names[i], sizeof names[i], "test_operations__%s_%s", family->name, checks[i % CHECKS].name);
        tests[used++] = (struct CMUnitTest){
            .name = names[i], .test_func = check, .initial_state = (void *)(uintptr_t)family};
    }
    int failed = _cmocka_run_group_tests("operations", tests, used, NULL, NULL);
    ht_backend_close(backend);
    free(names);
    free(tests);
    return failed;
}
