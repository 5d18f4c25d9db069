/*
 * support.h: what the store's tests share: an open store in a folder of its own, SQL behind its back, and rows added in a line.
 */
#ifndef TESTS_UNIT_STORE_SUPPORT_H
#define TESTS_UNIT_STORE_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "core/base/files.h"
#include "core/store/store.h"
#include "tests/unit/do.h"
#include "tests/unit/folder.h"

static char path[96];
static ht_store *store;

static inline int set_up(void **state) {
    ht_error err = HT_ERROR_INIT;
    if (make_root(state) != 0) return -1;
    snprintf(path, sizeof path, "%s/p.db", root);
    return ht_store_open(&store, path, HT_STORE_CREATE, &err) == HT_OK ? 0 : -1;
}

static inline int tear_down(void **state) {
    ht_store_close(store);
    store = NULL;
    return remove_root(state);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

/* Runs SQL behind the store's back. */
static inline void sql(const char *file, const char *text) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static inline int64_t add_dialog(const char *prompt, ht_kind kind, ht_split split, int64_t round) {
    char messages[256];
    int64_t id;
    snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"%s\"}]", prompt);
    ht_dialog_row row = {
        .messages = messages, .kind = kind, .split = split, .round = round, .source = "test"};
    DO(ht_store_add_dialog(store, &row, &id, NULL, &err_));
    return id;
}

static inline int64_t add_text(int64_t dialog, const char *text) {
    int64_t id;
    DO(ht_store_add_response(store, &(ht_response_row){.dialog_id = dialog, .text = text}, &id, NULL, &err_));
    return id;
}

static inline int64_t add_model(const char *name, const char *hash) {
    int64_t id;
    ht_model_row row = {
        .name = name, .path = "runs/a", .hash = hash, .stage = "sft", .tokenizer_hash = "tok"};
    DO(ht_store_add_model(store, &row, &id, &err_));
    return id;
}

static inline int64_t add_pair(int64_t dialog, const char *chosen, const char *rejected, int rating, int64_t round) {
    int64_t id;
    ht_comparison_row row = {.chosen_id = add_text(dialog, chosen),
                             .rejected_id = add_text(dialog, rejected),
                             .rating = rating,
                             .round = round,
                             .source = "s",
                             .batch = "b"};
    DO(ht_store_add_comparison(store, &row, &id, NULL, &err_));
    return id;
}

#endif
