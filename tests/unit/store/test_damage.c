/*
 * A database that someone else has changed, or that is damaged: what is read, and what a check finds.
 */
#include "tests/unit/store/support.h"

/* A schema that is not ours cannot act, and cannot make the program fail otherwise than on bad data. */
static void test_store__a_hostile_schema_is_powerless(void **state) {
    (void)state;
    int64_t count, id;
    ht_dialog_row row = {.messages = "[{\"role\":\"user\",\"content\":\"b\"}]"};
    add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    ht_store_close(store);
    sql(path, "CREATE TRIGGER t AFTER INSERT ON dialog BEGIN DELETE FROM dialog; END");
    DO(ht_store_open(&store, path, HT_STORE_EXISTING, &err_));
    DO(ht_store_add_dialog(store, &row, &id, NULL, &err_));
    DO(ht_store_count(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &count, &err_));
    assert_int_equal(count, 2);
    ht_store_close(store);
    sql(path, "DROP TABLE model; CREATE VIEW model AS SELECT 1 AS id, 'a' AS name, 0 AS round");
    DO(ht_store_open(&store, path, HT_STORE_EXISTING, &err_));
    FAILS(ht_store_count(store, HT_STORE_MODELS, &(ht_store_filter){0}, &count, &err_), HT_ERR_DATA, "view \"model\" prohibited");
    ht_store_close(store);
    sql(path, "DROP VIEW model");
    DO(ht_store_open(&store, path, HT_STORE_EXISTING, &err_));
    FAILS(ht_store_count(store, HT_STORE_MODELS, &(ht_store_filter){0}, &count, &err_), HT_ERR_DATA, "no such table: model");
}

/* Values that index tables and pass for text must not come from a row that the schema would never have taken. */
static void test_store__rows_that_cannot_be_are_not_read(void **state) {
    (void)state;
    int64_t dialog = add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0), pair = add_pair(dialog, "b", "c", 1, 0), answer, count;
    ht_comparison_row row;
    ht_demonstration_row demonstration = {.response_id = add_text(dialog, "d"), .weight = 1};
    DO(ht_store_add_demonstration(store, &demonstration, &answer, NULL, &err_));
    static const struct {
        const char *damage, *repair, *message;
    } cases[] = {
        {"UPDATE comparison SET rating = 100", "UPDATE comparison SET rating = 1", "comparison 1: its rating"},
        {"UPDATE comparison SET rating = -1", "UPDATE comparison SET rating = 1", "comparison 1: its rating"},
        {"UPDATE comparison SET safety = 'x'", "UPDATE comparison SET safety = NULL", "comparison 1: its safety"},
        {"UPDATE response SET finish = 'x' WHERE id = 2", "UPDATE response SET finish = NULL", "response 2: its finish"},
        {"UPDATE dialog SET kind = 'x'", "UPDATE dialog SET kind = 'safety'", "dialog 1: its kind"},
        {"UPDATE dialog SET split = 'x'", "UPDATE dialog SET split = 'train'", "dialog 1: its split"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "PRAGMA ignore_check_constraints = ON; %s", cases[i].damage);
        sql(path, text);
        FAILS(ht_store_get_comparison(store, pair, &row, &err_), HT_ERR_DATA, cases[i].message);
        sql(path, cases[i].repair);
        DO(ht_store_get_comparison(store, pair, &row, &err_));
    }
    sql(path, "PRAGMA ignore_check_constraints = ON; UPDATE demonstration SET weight = -1");
    FAILS(ht_store_get_demonstration(store, answer, &demonstration, &err_), HT_ERR_DATA, "demonstration 1: its weight");
    sql(path, "PRAGMA ignore_check_constraints = ON; UPDATE demonstration SET weight = 1, origin = 'x'");
    FAILS(ht_store_get_demonstration(store, answer, &demonstration, &err_), HT_ERR_DATA, "demonstration 1: its origin");

    /* a table made anew, without the constraints: an id that no cursor gets past, and no text */
    ht_store_cursor *cursor;
    ht_model_row model;
    int found;
    ht_store_close(store);
    sql(path, "DROP TABLE model; CREATE TABLE model(id REAL, name, path, hash, stage, round, parent_id, config, tokenizer_hash,"
              " created); INSERT INTO model(id, name, path, hash, stage) VALUES(0.5, 'a', 'b', 'c', 'd'), (2, 'a', 'b', 'c', 'd')");
    DO(ht_store_open(&store, path, HT_STORE_EXISTING, &err_));
    DO(ht_store_count(store, HT_STORE_MODELS, &(ht_store_filter){0}, &count, &err_));
    assert_int_equal(count, 2);
    DO(ht_store_read(store, HT_STORE_MODELS, &(ht_store_filter){0}, &cursor, &err_));
    FAILS(ht_store_next_model(cursor, &model, &found, &err_), HT_ERR_DATA, "model 0: its id");
    assert_false(found);
    ht_store_cursor_free(cursor);
}

static void test_store__a_value_of_a_gigabyte_is_refused(void **state) {
    (void)state;
    ht_dialog_row row;
    int64_t id = add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    sql(path, "UPDATE dialog SET messages = CAST(zeroblob(300000000) AS TEXT)");
    FAILS(ht_store_get_dialog(store, id, &row, &err_), HT_ERR_DATA, "too big");
}

static ht_status collect(void *context, const char *finding, ht_error *e) {
    (void)e;
    strcat(context, finding);
    strcat(context, "\n");
    return HT_OK;
}

static void test_store__check_finds_damage(void **state) {
    (void)state;
    char findings[4096] = "";
    int64_t count, dialog = add_dialog("x", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    add_pair(dialog, "a", "b", 1, 0);
    DO(ht_store_check(store, collect, findings, &count, &err_));
    assert_string_equal(findings, "");
    assert_int_equal(count, 0);
    add_text(dialog, "lonely");
    sql(path, "UPDATE dialog SET messages = replace(messages, 'x', 'z');"
              "UPDATE response SET text = 'A' WHERE text = 'a';"
              "DELETE FROM response WHERE text = 'b'");
    DO(ht_store_check(store, collect, findings, &count, &err_));
    assert_int_equal(count, 4);
    assert_non_null(strstr(findings, "dialog 1: its content does not have its hash"));
    assert_non_null(strstr(findings, "response 1: its content does not have its hash"));
    assert_non_null(strstr(findings, "comparison row 1 refers to a missing response"));
    assert_non_null(strstr(findings, "response 3: orphan"));
}

/* Rows as no schema of ours takes them: a table made anew has no constraints, and they are off. */
static void test_store__check_names_rows_that_cannot_be(void **state) {
    (void)state;
    static const struct {
        const char *damage, *finding;
    } cases[] = {
        {"UPDATE comparison SET dialog_id = 2", "comparison 1: its responses are not to its dialogue"},
        {"UPDATE demonstration SET dialog_id = 2", "demonstration 1: its response is not to its dialogue"},
        {"UPDATE response SET tokens = x'010203' WHERE id = 2", "response 2: its token ids are cut"},
        {"UPDATE dialog SET messages = '[1]' WHERE id = 1", "dialog 1: message 1 is not an object of two strings"},
        {"UPDATE dialog SET messages = ' ' || messages WHERE id = 1", "dialog 1: its messages are not in canonical form"},
        {"UPDATE dialog SET hash = NULL WHERE id = 1", "dialog 1: its content does not have its hash"},
        {"UPDATE dialog SET hash = x'00' WHERE id = 1", "dialog 1: its content does not have its hash"},
        {"UPDATE dialog SET messages = NULL WHERE id = 1", "dialog 1: it has no messages or no kind"},
        {"UPDATE dialog SET kind = NULL WHERE id = 1", "dialog 1: it has no messages or no kind"},
        {"UPDATE response SET text = NULL WHERE id = 1", "response 1: it has no text"},
        {"UPDATE dialog SET messages = CAST(zeroblob(300000000) AS TEXT) WHERE id = 1", "unreadable: string or blob too big"},
    };
    int64_t dialog = add_dialog("x", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0), id, count;
    ht_demonstration_row row = {.response_id = add_text(dialog, "c"), .weight = 1};
    add_dialog("y", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    add_pair(dialog, "a", "b", 1, 0);
    DO(ht_store_add_demonstration(store, &row, &id, NULL, &err_));
    ht_store_close(store);
    sql(path, "CREATE TABLE d AS SELECT * FROM dialog; DROP TABLE dialog; ALTER TABLE d RENAME TO dialog;"
              "CREATE TABLE r AS SELECT * FROM response; DROP TABLE response; ALTER TABLE r RENAME TO response;"
              "CREATE TABLE whole_dialog AS SELECT * FROM dialog; CREATE TABLE whole_response AS SELECT * FROM response");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char findings[4096] = "";
        sql(path, "DELETE FROM dialog; INSERT INTO dialog SELECT * FROM whole_dialog;"
                  "DELETE FROM response; INSERT INTO response SELECT * FROM whole_response;"
                  "UPDATE comparison SET dialog_id = 1; UPDATE demonstration SET dialog_id = 1");
        sql(path, cases[i].damage);
        DO(ht_store_open(&store, path, HT_STORE_EXISTING, &err_));
        DO(ht_store_check(store, collect, findings, &count, &err_));
        if (!strstr(findings, cases[i].finding)) fail_msg("\"%s\" is not in:\n%s", cases[i].finding, findings);
        ht_store_close(store);
    }
    store = NULL;
}

/* The first page of the table's tree. */
static void overwrite_table(const char *table) {
    char text[128];
    sqlite3 *db;
    sqlite3_stmt *stmt;
    snprintf(text, sizeof text, "SELECT (rootpage - 1) * page_size, page_size FROM sqlite_schema, pragma_page_size WHERE name = '%s'",
             table);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, text, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    long offset = (long)sqlite3_column_int64(stmt, 0), size = (long)sqlite3_column_int64(stmt, 1);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    for (long i = 0; i < size; i++)
        assert_int_equal(fputc(0xee, file), 0xee);
    assert_int_equal(fclose(file), 0);
}

static ht_status ignore_stat(void *context, const ht_store_stat *stat, ht_error *e) {
    (void)context, (void)stat, (void)e;
    return HT_OK;
}

static void test_store__damaged_pages_are_said(void **state) {
    (void)state;
    char findings[8192] = "";
    int64_t count, *ids;
    size_t n;
    ht_dialog_row row;
    ht_store_cursor *cursor;
    add_dialog("x", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    ht_store_close(store);
    overwrite_table("dialog");
    DO(ht_store_open(&store, path, HT_STORE_EXISTING, &err_));
    FAILS(ht_store_get_dialog(store, 1, &row, &err_), HT_ERR_DATA, "p.db: cannot read a row: database disk image is malformed");
    FAILS(ht_store_read(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &cursor, &err_), HT_ERR_DATA,
          "p.db: cannot read: database disk image is malformed");
    assert_null(cursor);
    FAILS(ht_store_ids(store, HT_STORE_DIALOGS, &(ht_store_filter){.kinds = 1}, &ids, &n, &err_), HT_ERR_DATA,
          "p.db: cannot read ids: database disk image is malformed");
    assert_null(ids);
    FAILS(ht_store_stats(store, ignore_stat, NULL, &err_), HT_ERR_DATA, "p.db: cannot count rows: database disk image is malformed");
    DO(ht_store_check(store, collect, findings, &count, &err_));
    assert_true(count >= 2);
    assert_non_null(strstr(findings, "integrity: "));
    assert_non_null(strstr(findings, "unreadable: database disk image is malformed"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_store__a_hostile_schema_is_powerless),
        TEST(test_store__rows_that_cannot_be_are_not_read),
        TEST(test_store__a_value_of_a_gigabyte_is_refused),
        TEST(test_store__check_finds_damage),
        TEST(test_store__check_names_rows_that_cannot_be),
        TEST(test_store__damaged_pages_are_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
