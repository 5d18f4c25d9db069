#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/files.h"
#include "core/base/lines.h"
#include "tests/unit/folder.h"

/* A source that gives `piece` bytes at a time. */
typedef struct pieces {
    const char *data;
    size_t size, piece;
} pieces;

static ht_status read_piece(void *source, const char **data, size_t *size, ht_error *err) {
    pieces *p = source;
    (void)err;
    *data = p->data;
    *size = p->size < p->piece ? p->size : p->piece;
    p->data += *size;
    p->size -= *size;
    return HT_OK;
}

/* Whatever the pieces, the same lines; the one above the limit has its size and no text. */
static void test_lines__do_not_depend_on_pieces(void **state) {
    (void)state;
    static const char text[] = "one\r\n\ntoo long a line\nno\0end\nlast";
    static const struct {
        const char *line;
        size_t size;
    } wanted[] = {{"one", 3}, {"", 0}, {NULL, 15}, {"no\0end", 6}, {"last", 4}};
    for (size_t piece = 1; piece <= sizeof text; piece++) {
        pieces source = {text, sizeof text - 1, piece};
        ht_line_reader reader = {.read = read_piece, .source = &source, .limit = 6};
        ht_error err = HT_ERROR_INIT;
        const char *line;
        size_t size;
        int found;
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            assert_int_equal(ht_line_next(&reader, &line, &size, &found, &err), HT_OK);
            assert_true(found);
            assert_int_equal(reader.number, i + 1);
            assert_int_equal(size, wanted[i].size);
            assert_int_equal(line == NULL, wanted[i].line == NULL);
            if (line) assert_memory_equal(line, wanted[i].line, size + 1);
        }
        assert_int_equal(ht_line_next(&reader, &line, &size, &found, &err), HT_OK);
        assert_false(found);
        ht_line_release(&reader);
    }
}

static void test_lines__json_passes_over_blank_ones_and_refuses_long_ones(void **state) {
    (void)state;
    static const char text[] = "\n \t\r\n{}\n   {\"a\": 1}\n \n";
    const char *path = in_root("a.jsonl");
    char wanted[128];
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_file_write(path, text, sizeof text - 1, &err), HT_OK);
    ht_json_lines file;
    const char *line;
    size_t size;
    assert_int_equal(ht_json_lines_open(&file, path, &err), HT_OK);
    assert_int_equal(ht_json_lines_next(&file, &line, &size, &err), HT_OK);
    assert_string_equal(line, "{}");
    assert_int_equal(size, 2);
    assert_int_equal(file.reader.number, 3);
    assert_int_equal(ht_json_lines_next(&file, &line, &size, &err), HT_OK);
    assert_string_equal(line, "   {\"a\": 1}");
    assert_int_equal(ht_json_lines_next(&file, &line, &size, &err), HT_OK);
    assert_null(line);
    ht_json_lines_close(&file);

    assert_int_equal(ht_json_lines_open(&file, path, &err), HT_OK);
    file.reader.limit = 9;
    assert_int_equal(ht_json_lines_next(&file, &line, &size, &err), HT_OK);
    assert_int_equal(ht_json_lines_next(&file, &line, &size, &err), HT_ERR_DATA);
    ht_json_lines_close(&file);
    snprintf(wanted, sizeof wanted, "%s:4: a line of 11 bytes is above the limit of 9", path);
    assert_string_equal(err.message, wanted);
}

/* A line of a gigabyte is refused in the memory of a short one. */
static void test_lines__a_line_of_a_gigabyte_takes_no_memory(void **state) {
    (void)state;
    const char *path = in_root("a.jsonl");
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_file_write(path, "", 0, &err), HT_OK);
    assert_int_equal(truncate(path, 1 << 30), 0); /* a hole: no bytes on the disk */
    ht_json_lines file;
    const char *line;
    size_t size;
    assert_int_equal(ht_json_lines_open(&file, path, &err), HT_OK);
    assert_int_equal(ht_json_lines_next(&file, &line, &size, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, ":1: a line of 1073741824 bytes is above the limit of 16777216"));
    assert_true(file.reader.capacity <= 2 * HT_LINE_BYTES_MAX);
    ht_json_lines_close(&file);
}

static void test_lines__files_that_cannot_be_read_are_named(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_json_lines file;
    const char *line;
    size_t size;
    assert_int_equal(ht_json_lines_open(&file, "/nowhere/x.jsonl", &err), HT_ERR_IO);
    assert_string_equal(err.message, "cannot open \"/nowhere/x.jsonl\": No such file or directory");
    ht_json_lines_close(&file);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_json_lines_open(&file, "/tmp", &err), HT_OK);
    assert_int_equal(ht_json_lines_next(&file, &line, &size, &err), HT_ERR_IO);
    assert_string_equal(err.message, "/tmp:0: cannot read \"/tmp\": Is a directory");
    ht_json_lines_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines__do_not_depend_on_pieces),
        cmocka_unit_test_setup_teardown(test_lines__json_passes_over_blank_ones_and_refuses_long_ones, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_lines__a_line_of_a_gigabyte_takes_no_memory, make_root, remove_root),
        cmocka_unit_test(test_lines__files_that_cannot_be_read_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
