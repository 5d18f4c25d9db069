/*
 * import_harness.h: runs a command of halter-annotations in the test's own folder, as its main function
 * would.
 */
#ifndef HT_TESTS_IMPORT_HARNESS_H
#define HT_TESTS_IMPORT_HARNESS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <sqlite3.h>

#include "annotations/commands.h"
#include "core/base/files.h"
#include "core/base/log.h"
#include "core/store/store.h"
#include "tests/unit/folder.h"

static char database[96];
static ht_error err;
static char *output; /* what the last command wrote to stdout */

static void silent(ht_log_level level, const char *line) {
    (void)level;
    (void)line;
}

static int setup(void **state) {
    if (make_root(state) != 0) return -1;
    snprintf(database, sizeof database, "%s/p.db", root);
    err = (ht_error)HT_ERROR_INIT;
    ht_log_set_sink(silent);
    return 0;
}

static int teardown(void **state) {
    free(output);
    output = NULL;
    ht_log_set_sink(NULL);
    return remove_root(state);
}

static const char *write_bytes(const char *name, const char *bytes, size_t size) {
    const char *path = in_root(name);
    assert_int_equal(ht_file_write(path, bytes, size, &err), HT_OK);
    return path;
}

static const char *write_text(const char *name, const char *text) {
    return write_bytes(name, text, strlen(text));
}

/* Runs a command with the words of `line` (no spaces inside them), stdout kept in `output`. */
static ht_status run_command(const ht_command *command, const char *line) {
    char words[1100], *argv[32];
    int argc = 0;
    snprintf(words, sizeof words, "%s %s", command->name, line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    char **arguments = NULL;
    size_t count = 0, size;
    json_t *resolved = NULL;
    void *config = calloc(1, command->config_size);
    fflush(stdout);
    int saved = dup(1), file = open(in_root("stdout"), O_CREAT | O_TRUNC | O_RDWR, 0600);
    assert_true(saved >= 0 && file >= 0 && config);
    dup2(file, 1);
    err = (ht_error)HT_ERROR_INIT;
    ht_status status = ht_config_parse(command, argc, argv, config, &resolved, &arguments, &count, &err);
    if (status == HT_OK) {
        ht_invocation invocation = {"halter-annotations", command, arguments, count, resolved};
        status = command->run(config, &invocation, &err);
    }
    fflush(stdout);
    dup2(saved, 1);
    close(saved);
    close(file);
    ht_config_release(command, config);
    json_decref(resolved);
    free(arguments);
    free(config);
    ht_error ignored = HT_ERROR_INIT;
    free(output);
    output = NULL;
    assert_int_equal(ht_file_read(in_root("stdout"), &output, &size, &ignored), HT_OK);
    return status;
}

static ht_status import_with(const char *options) {
    char line[1024];
    snprintf(line, sizeof line, "--json --db %s %s", database, options);
    return run_command(&ht_annotations_import_command, line);
}

/* Imports a file's text and fails the test when the command fails. */
static void import_text(const char *name, const char *text, const char *options) {
    char line[512];
    snprintf(line, sizeof line, "%s %s", options, write_text(name, text));
    if (import_with(line) != HT_OK) fail_msg("%s: %s", name, err.message);
}

/* A count of the first file's report: "taken", "refused", ... or of its reasons. */
static int64_t reported(const char *key) {
    json_error_t error;
    json_t *list = json_loads(output, 0, &error);
    assert_non_null(list);
    json_t *file = json_array_get(list, 0), *count = json_object_get(file, key);
    if (!count) count = json_object_get(json_object_get(file, "reasons"), key);
    int64_t value = json_integer_value(count);
    json_decref(list);
    return value;
}

/* One value by SQL, as text, to be released with free(). */
static char *query(const char *file, const char *sql) {
    sqlite3 *db;
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    const char *text = (const char *)sqlite3_column_text(stmt, 0);
    char *copy = strdup(text ? text : "NULL");
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return copy;
}

static void assert_query(const char *sql, const char *expected) {
    char *value = query(database, sql);
    if (strcmp(value, expected) != 0) fail_msg("%s = %s, not %s", sql, value, expected);
    free(value);
}

/* Everything in the tables that annotations fill, as one text; released with free(). */
__attribute__((unused)) static char *contents(const char *file) {
    return query(
        file,
        "SELECT (SELECT ifnull(group_concat(quote(id)||quote(kind)||quote(split)||quote(messages)||"
        "quote(source)||quote(round)), '') FROM dialog) || (SELECT ifnull(group_concat(quote(id)||"
        "quote(dialog_id)||quote(text)||quote(tokens)||quote(round)), '') FROM response) ||"
        "(SELECT ifnull(group_concat(quote(id)||quote(chosen_id)||quote(rejected_id)||quote(rating)||"
        "quote(safety)||quote(annotator)||quote(batch)||quote(round)||quote(source)), '') FROM comparison) ||"
        "(SELECT "
        "ifnull(group_concat(quote(id)||quote(response_id)||quote(origin)||quote(round)||quote(batch)||"
        "quote(source)||quote(weight)), '') FROM demonstration)");
}

__attribute__((unused)) static char *import_table(void) {
    return query(database, "SELECT group_concat(quote(id)||quote(file_hash)||quote(taken)||quote(existing)||"
                           "quote(refused)||quote(dropped)||quote(created)) FROM annotation_import");
}

#endif
