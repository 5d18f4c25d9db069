/*
 * Opening a store, its transactions, and other processes that use it.
 */
#include "tests/unit/store/support.h"

#include <signal.h>

#include "core/base/log.h"
#include "core/base/signals.h"

static void test_store__opens_what_is_its_own_only(void **state) {
    (void)state;
    ht_store *other;
    char file[128];
    snprintf(file, sizeof file, "%s/none.db", root);
    FAILS(ht_store_open(&other, file, HT_STORE_EXISTING, &err_), HT_ERR_IO, "none.db");
    assert_null(other);
    assert_false(ht_path_exists(file));

    snprintf(file, sizeof file, "%s/foreign.db", root);
    sql(file, "CREATE TABLE x(y); PRAGMA application_id = 7");
    FAILS(ht_store_open(&other, file, HT_STORE_CREATE, &err_), HT_ERR_DATA, "another application");

    snprintf(file, sizeof file, "%s/text.db", root);
    DO(ht_file_write(
        file, "not a database, but long enough to be read as a header of one, or so it seems ............",
        90, &err_));
    FAILS(ht_store_open(&other, file, HT_STORE_CREATE, &err_), HT_ERR_DATA, "text.db");

    ht_store_close(store);
    sql(path, "PRAGMA user_version = 99");
    FAILS(ht_store_open(&store, path, HT_STORE_CREATE, &err_), HT_ERR_DATA, "schema version 99");
    sql(path, "PRAGMA user_version = 1");
    DO(ht_store_open(&store, path, HT_STORE_EXISTING, &err_));
}

static void test_store__transactions_do_not_nest_and_roll_back(void **state) {
    (void)state;
    int64_t count;
    DO(ht_store_begin(store, &err_));
    FAILS(ht_store_begin(store, &err_), HT_ERR_RUN, path);
    add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    ht_store_rollback(store);
    FAILS(ht_store_commit(store, &err_), HT_ERR_RUN, path);
    DO(ht_store_count(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &count, &err_));
    assert_int_equal(count, 0);
    DO(ht_store_begin(store, &err_));
    add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    DO(ht_store_commit(store, &err_));
    DO(ht_store_count(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &count, &err_));
    assert_int_equal(count, 1);
}

/* Lets the other process's transaction go, once the store has said that it waits for it. */
static sqlite3 *other_process;
static char said[512];
static void end_other_process(ht_log_level level, const char *line) {
    (void)level;
    snprintf(said, sizeof said, "%s", line);
    if (!other_process) return;
    assert_int_equal(sqlite3_close(other_process), SQLITE_OK);
    other_process = NULL;
}

static void test_store__another_process_that_writes_is_waited_for(void **state) {
    (void)state;
    assert_int_equal(sqlite3_open(path, &other_process), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other_process, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    ht_store_set_patience(store, 0);
    FAILS(ht_store_begin(store, &err_), HT_ERR_IO, "p.db: BEGIN IMMEDIATE: database is locked");
    ht_store_set_patience(store, 600);
    ht_signals_install();
    raise(SIGTERM);
    FAILS(ht_store_begin(store, &err_), HT_TERMINATED, "p.db: BEGIN IMMEDIATE: database is locked");
    ht_stop_forget();
    ht_log_set_level(HT_LOG_DEBUG);
    ht_log_set_sink(end_other_process);
    DO(ht_store_begin(store, &err_));
    assert_non_null(strstr(said, "p.db: another process is changing it"));
    DO(ht_store_commit(store, &err_));
    ht_store_close(store);
    store = NULL;
    ht_log_set_sink(NULL);
    ht_log_set_level(HT_LOG_INFO);
    assert_non_null(strstr(said, "p.db: tried 1 times again while other processes were changing it"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_store__opens_what_is_its_own_only),
        TEST(test_store__transactions_do_not_nest_and_roll_back),
        TEST(test_store__another_process_that_writes_is_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
