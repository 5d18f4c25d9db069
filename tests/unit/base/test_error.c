#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/memory.h"

static void test_error__keeps_the_first_failure(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_fail(&err, HT_ERR_DATA, "\"%s\" has %d columns", "a.csv", 3), HT_ERR_DATA);
    assert_int_equal(ht_fail(&err, HT_ERR_IO, "later"), HT_ERR_DATA);
    assert_int_equal(err.status, HT_ERR_DATA);
    assert_string_equal(err.message, "\"a.csv\" has 3 columns");
}

static void test_error__context_goes_in_front(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_fail(&err, HT_ERR_DATA, "no rows");
    assert_int_equal(ht_fail_in(&err, "%s:%d", "a.csv", 7), HT_ERR_DATA);
    assert_string_equal(err.message, "a.csv:7: no rows");
}

static void test_error__long_messages_end_in_dots(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    ht_fail(&err, HT_ERR_RUN, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_string_equal(err.message + sizeof err.message - 5, "x...");
    ht_fail_in(&err, "%s", text);
    assert_true(strlen(err.message) < sizeof err.message);
}

static void test_error__every_status_has_its_text_and_code(void **state) {
    (void)state;
    assert_string_equal(ht_status_text(HT_OK), "success");
    assert_string_equal(ht_status_text(HT_ERR_NOMEM), "out of host or device memory");
    assert_string_equal(ht_status_text((ht_status)99), "unknown status");
    assert_int_equal(HT_ERR_USAGE, 2);
    assert_int_equal(HT_INTERRUPTED, 130);
    assert_int_equal(HT_TERMINATED, 143);
}

static ht_status try_two(int *reached, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_fail(err, HT_ERR_DATA, "first"));
    *reached = 1;
done:
    return status;
}

static void test_error__try_leaves_at_the_failure(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    int reached = 0;
    assert_int_equal(try_two(&reached, &err), HT_ERR_DATA);
    assert_int_equal(reached, 0);
}

static void test_memory__grow_zeroes_and_doubles(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    int *array = NULL;
    size_t capacity = 0;
    assert_int_equal(ht_grow(&array, &capacity, 1, sizeof *array, &err), HT_OK);
    assert_int_equal(capacity, 16);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(array[i], 0);
        array[i] = i + 1;
    }
    assert_int_equal(ht_grow(&array, &capacity, 17, sizeof *array, &err), HT_OK);
    assert_int_equal(capacity, 32);
    assert_int_equal(array[15], 16);
    for (int i = 16; i < 32; i++)
        assert_int_equal(array[i], 0);
    assert_int_equal(ht_grow(&array, &capacity, 1000, sizeof *array, &err), HT_OK);
    assert_int_equal(capacity, 1000);
    free(array);
}

static void test_memory__overflow_is_refused(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char *array = NULL;
    size_t capacity = 0;
    /* A variable, so that the compiler does not refuse the constant for us. */
    volatile size_t half = SIZE_MAX / 2;
    assert_int_equal(ht_grow(&array, &capacity, half + 1, 4, &err), HT_ERR_NOMEM);
    assert_null(array);
    assert_int_equal(capacity, 0);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_calloc(&array, half, 4, &err), HT_ERR_NOMEM);
    assert_null(array);
    assert_non_null(strstr(err.message, " x 4 bytes"));
}

static void test_memory__format_and_copy(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char *text;
    assert_int_equal(ht_format(&text, &err, "%d-%s", 3, "x"), HT_OK);
    assert_string_equal(text, "3-x");
    free(text);
    assert_int_equal(ht_strdup(&text, "abc", &err), HT_OK);
    assert_string_equal(text, "abc");
    free(text);
    assert_int_equal(ht_calloc(&text, 0, 8, &err), HT_OK);
    assert_non_null(text);
    free(text);
}

static char heard[4096];
static int heard_count;
static ht_log_level heard_level;

static void hear(ht_log_level level, const char *line) {
    heard_count++;
    heard_level = level;
    snprintf(heard, sizeof heard, "%s", line);
}

static void test_log__threshold_and_sink(void **state) {
    (void)state;
    ht_log_set_sink(hear);
    ht_debug("hidden");
    assert_int_equal(heard_count, 0);
    ht_info("step %d", 3);
    assert_int_equal(heard_count, 1);
    assert_string_equal(heard, "step 3");
    ht_warn("careful");
    assert_int_equal(heard_level, HT_LOG_WARN);
    ht_log_set_level(HT_LOG_DEBUG);
    ht_debug("shown");
    assert_string_equal(heard, "shown");
    ht_log_set_level(HT_LOG_SILENT);
    ht_log(HT_LOG_ERROR, "nothing");
    assert_string_equal(heard, "shown");
    ht_log_set_level(HT_LOG_INFO);
    ht_log_set_sink(NULL);
}

static void test_log__long_lines_are_whole(void **state) {
    (void)state;
    char text[3001];
    memset(text, 'y', 3000);
    text[3000] = '\0';
    ht_log_set_sink(hear);
    ht_info("%s", text);
    ht_log_set_sink(NULL);
    assert_string_equal(heard, text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error__keeps_the_first_failure),
        cmocka_unit_test(test_error__context_goes_in_front),
        cmocka_unit_test(test_error__long_messages_end_in_dots),
        cmocka_unit_test(test_error__every_status_has_its_text_and_code),
        cmocka_unit_test(test_error__try_leaves_at_the_failure),
        cmocka_unit_test(test_memory__grow_zeroes_and_doubles),
        cmocka_unit_test(test_memory__overflow_is_refused),
        cmocka_unit_test(test_memory__format_and_copy),
        cmocka_unit_test(test_log__threshold_and_sink),
        cmocka_unit_test(test_log__long_lines_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
