#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/files.h"
#include "core/base/json.h"
#include "tests/unit/folder.h"

static char path[128];

static int set_up(void **state) {
    if (make_root(state) != 0) return -1;
    snprintf(path, sizeof path, "%s/a.json", root);
    return 0;
}

static ht_status read_text(const char *text, json_t **out, ht_error *err) {
    *err = (ht_error)HT_ERROR_INIT;
    ht_file_write(path, text, strlen(text), err);
    return ht_json_read(path, out, err);
}

static void test_json__round_trip_keeps_order_and_bits(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    json_t *back,
        *value = json_pack("{s:i, s:f, s:s, s:[]}", "zeta", 3, "alpha", 0.1, "text", "caf\xc3\xa9", "list");
    assert_int_equal(ht_json_write(path, value, &err), HT_OK);
    assert_int_equal(ht_json_read(path, &back, &err), HT_OK);
    assert_true(json_equal(value, back));
    assert_string_equal(json_object_iter_key(json_object_iter(back)), "zeta");
    char *text;
    size_t size;
    assert_int_equal(ht_file_read(path, &text, &size, &err), HT_OK);
    assert_memory_equal(text, "{\n  \"zeta\": 3,\n", 15);
    assert_int_equal(text[size - 1], '\n');
    free(text);
    json_decref(value);
    json_decref(back);
}

static void test_json__errors_name_line_and_column(void **state) {
    (void)state;
    ht_error err;
    char expected[200];
    json_t *value;
    assert_int_equal(read_text("{\n  \"a\": 1,\n  b\n}", &value, &err), HT_ERR_DATA);
    assert_null(value);
    snprintf(expected, sizeof expected, "%s:3:3: ", path);
    assert_memory_equal(err.message, expected, strlen(expected));
    assert_int_equal(read_text("{\"a\": 1, \"a\": 2}", &value, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "duplicate"));
    assert_int_equal(read_text("{\"a\": 1} x", &value, &err), HT_ERR_DATA);
    assert_int_equal(read_text("", &value, &err), HT_ERR_DATA);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_json_read("/nowhere/a.json", &value, &err), HT_ERR_IO);
}

/* What would fill the memory or the stack, and bytes that are no text. */
static void test_json__hostile_files(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    json_t *value;
    char *deep = malloc(100001);
    assert_non_null(deep);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    assert_int_equal(read_text(deep, &value, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "maximum parsing depth reached"));
    free(deep);
    assert_int_equal(read_text("{\"a\": \"\xff\"}", &value, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "unable to decode byte 0xff"));
    assert_int_equal(read_text("{\"a\": \"\\u0000\"}", &value, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "\\u0000"));
    assert_int_equal(read_text("[9223372036854775808]", &value, &err), HT_ERR_DATA);
    assert_int_equal(read_text("[1e999]", &value, &err), HT_ERR_DATA);
    assert_int_equal(truncate(path, (off_t)HT_JSON_BYTES_MAX + 1), 0);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_json_read(path, &value, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "is above the limit of 16777216 bytes"));
}

/* A value JSON cannot hold must not leave a file. */
static void test_json__write_failures(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    json_t *value = json_object(), *inner = json_object();
    assert_int_equal(ht_json_write("/nowhere/a.json", value, &err), HT_ERR_IO);
    err = (ht_error)HT_ERROR_INIT;
    unlink(path);
    json_object_set_new(value, "inner", inner);
    json_object_set(inner, "outer", value); /* circular */
    assert_int_equal(ht_json_write(path, value, &err), HT_ERR_DATA);
    assert_false(ht_path_exists(path));
    json_object_clear(inner);
    json_decref(value);
}

static void test_json__members(void **state) {
    (void)state;
    ht_error err;
    json_t *o;
    int64_t number = 7;
    double real = 0.5;
    assert_int_equal(
        read_text("{\"dim\": 64, \"eps\": 1e-5, \"half\": 1.5, \"name\": \"x\", \"nothing\": null}", &o,
                  &err),
        HT_OK);
    assert_string_equal(ht_json_string(o, "name"), "x");
    assert_null(ht_json_string(o, "dim"));
    assert_null(ht_json_string(o, "absent"));

    assert_int_equal(ht_json_get_int(o, (ht_json_field){"f", "dim", 1}, 1, 64, &number, &err), HT_OK);
    assert_int_equal(number, 64);
    assert_int_equal(ht_json_get_int(o, (ht_json_field){"f", "absent", 0}, 1, 64, &number, &err), HT_OK);
    assert_int_equal(ht_json_get_int(o, (ht_json_field){"f", "nothing", 0}, 1, 64, &number, &err), HT_OK);
    assert_int_equal(number, 64);
    assert_int_equal(ht_json_get_number(o, (ht_json_field){"f", "eps", 1}, 0, 1, &real, &err), HT_OK);
    assert_true(real == 1e-5);
    assert_int_equal(ht_json_get_number(o, (ht_json_field){"f", "dim", 1}, 0, 100, &real, &err), HT_OK);
    assert_true(real == 64);

    static const struct {
        const char *key;
        int integer;
        const char *message;
    } refusals[] = {
        {"absent", 1, "f: \"absent\" is missing"},           {"absent", 0, "f: \"absent\" is missing"},
        {"nothing", 1, "f: \"nothing\" is missing"},         {"half", 1, "f: \"half\" is not an integer"},
        {"name", 1, "f: \"name\" is not an integer"},        {"name", 0, "f: \"name\" is not a number"},
        {"dim", 1, "f: \"dim\" = 64 is outside [1, 63]"},    {"dim", 0, "f: \"dim\" = 64 is outside [1, 63]"},
        {"eps", 0, "f: \"eps\" = 1e-05 is outside [1, 63]"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        ht_json_field field = {"f", refusals[i].key, 1};
        err = (ht_error)HT_ERROR_INIT;
        number = 7;
        real = 0.5;
        ht_status status = refusals[i].integer ? ht_json_get_int(o, field, 1, 63, &number, &err)
                                               : ht_json_get_number(o, field, 1, 63, &real, &err);
        assert_int_equal(status, HT_ERR_DATA);
        assert_string_equal(err.message, refusals[i].message);
        assert_int_equal(number, 7);
        assert_true(real == 0.5);
    }
    err = (ht_error)HT_ERROR_INIT;
    json_t *list = json_array();
    assert_int_equal(ht_json_get_int(list, (ht_json_field){"f", "x", 0}, 0, 1, &number, &err), HT_ERR_DATA);
    assert_string_equal(err.message, "f: not a JSON object");
    json_decref(list);
    json_decref(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json__round_trip_keeps_order_and_bits),
        cmocka_unit_test(test_json__errors_name_line_and_column),
        cmocka_unit_test(test_json__hostile_files),
        cmocka_unit_test(test_json__write_failures),
        cmocka_unit_test(test_json__members),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
