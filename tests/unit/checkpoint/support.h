/*
 * support.h: what the checkpoint tests share: warnings, files in a folder of their own, and checks of errors.
 */
#ifndef HT_TESTS_CHECKPOINT_SUPPORT_H
#define HT_TESTS_CHECKPOINT_SUPPORT_H

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
#include "core/base/log.h"
#include "tests/unit/folder.h"

/* Warnings since the test began, one a line. */
static char warnings[8192];

static inline void keep_warning(ht_log_level level, const char *line) {
    size_t used = strlen(warnings);
    if (level == HT_LOG_WARN) snprintf(warnings + used, sizeof warnings - used, "%s\n", line);
}

static inline int set_up(void **state) {
    warnings[0] = '\0';
    ht_log_set_sink(keep_warning);
    return make_root(state);
}

static inline int tear_down(void **state) {
    ht_log_set_sink(NULL);
    return remove_root(state);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

static inline void assert_ok(ht_status status, const ht_error *err) {
    if (status != HT_OK) print_error("%s\n", err->message);
    assert_int_equal(status, HT_OK);
    assert_int_equal(err->status, HT_OK);
}

/* The call failed with this status and said `text`. */
static inline void assert_failed(ht_status status, ht_status wanted, const ht_error *err, const char *text) {
    if (status != wanted || !strstr(err->message, text))
        print_error("message: %s\nwanted:  %s\n", err->message, text);
    assert_int_equal(status, wanted);
    assert_int_equal(err->status, wanted);
    assert_non_null(strstr(err->message, text));
}

static inline void write_bytes(const char *path, const void *data, size_t size) {
    ht_error err = HT_ERROR_INIT;
    assert_ok(ht_file_write(path, data, size, &err), &err);
}

static inline void write_text(const char *path, const char *text) {
    write_bytes(path, text, strlen(text));
}

static inline void make_folder(const char *path) {
    ht_error err = HT_ERROR_INIT;
    assert_ok(ht_folder_create(path, &err), &err);
}

/* Changes the byte at `offset` (from the end when negative). */
static inline void flip_byte(const char *path, long offset) {
    FILE *stream = fopen(path, "r+b");
    assert_non_null(stream);
    assert_int_equal(fseek(stream, offset, offset < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = getc(stream);
    assert_int_not_equal(byte, EOF);
    assert_int_equal(fseek(stream, -1, SEEK_CUR), 0);
    putc(byte ^ 1, stream);
    assert_int_equal(fclose(stream), 0);
}

/* Writes a safetensors file with this header and `size` bytes of data that count up from 0. */
static inline void write_safetensors(const char *path, const char *header, size_t size) {
    uint64_t length = strlen(header);
    uint8_t *bytes = malloc(8 + length + size);
    assert_non_null(bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < size; i++)
        bytes[8 + length + i] = (uint8_t)i;
    write_bytes(path, bytes, 8 + length + size);
    free(bytes);
}

#endif
