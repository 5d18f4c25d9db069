/*
 * Tests of core/store: opening, adding twice, reading in order, statistics, damage.
 */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/signals.h"
#include "core/store/store.h"

static char folder[64], path[96];
static ht_store *store;
static ht_error err;

#define OK(call)                                                                                             \
    do {                                                                                                     \
        ht_status got_ = (call);                                                                             \
        if (got_ != HT_OK) fail_msg("%s: %s", #call, err.message);                                           \
    } while (0)
#define FAILS(call, expected, part)                                                                          \
    do {                                                                                                     \
        err = (ht_error)HT_ERROR_INIT;                                                                       \
        assert_int_equal(call, expected);                                                                    \
        if (!strstr(err.message, part)) fail_msg("\"%s\" does not say \"%s\"", err.message, part);           \
        err = (ht_error)HT_ERROR_INIT;                                                                       \
    } while (0)

static int setup(void **state) {
    (void)state;
    strcpy(folder, "/tmp/halter-store-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/p.db", folder);
    err = (ht_error)HT_ERROR_INIT;
    return ht_store_open(&store, path, HT_STORE_CREATE, &err) == HT_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    ht_store_close(store);
    store = NULL;
    err = (ht_error)HT_ERROR_INIT;
    return ht_folder_remove(folder, &err) == HT_OK ? 0 : -1;
}

/* Runs SQL behind the store's back. */
static void sql(const char *file, const char *text) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static int64_t add_dialog(const char *prompt, ht_kind kind, ht_split split, int64_t round) {
    char messages[256];
    int64_t id;
    snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"%s\"}]", prompt);
    ht_dialog_row row = {
        .messages = messages, .kind = kind, .split = split, .round = round, .source = "test"};
    OK(ht_store_add_dialog(store, &row, &id, NULL, &err));
    return id;
}

static int64_t add_text(int64_t dialog, const char *text) {
    int64_t id;
    OK(ht_store_add_response(store, &(ht_response_row){.dialog_id = dialog, .text = text}, &id, NULL, &err));
    return id;
}

static int64_t add_model(const char *name, const char *hash) {
    int64_t id;
    ht_model_row row = {
        .name = name, .path = "runs/a", .hash = hash, .stage = "sft", .tokenizer_hash = "tok"};
    OK(ht_store_add_model(store, &row, &id, &err));
    return id;
}

static int64_t add_pair(int64_t dialog, const char *chosen, const char *rejected, int rating, int64_t round) {
    int64_t id;
    ht_comparison_row row = {.chosen_id = add_text(dialog, chosen),
                             .rejected_id = add_text(dialog, rejected),
                             .rating = rating,
                             .round = round,
                             .source = "s",
                             .batch = "b"};
    OK(ht_store_add_comparison(store, &row, &id, NULL, &err));
    return id;
}

static void test_store__opens_what_is_its_own_only(void **state) {
    (void)state;
    ht_store *other;
    char file[128];
    snprintf(file, sizeof file, "%s/none.db", folder);
    FAILS(ht_store_open(&other, file, HT_STORE_EXISTING, &err), HT_ERR_IO, "none.db");
    assert_null(other);
    assert_false(ht_path_exists(file));

    snprintf(file, sizeof file, "%s/foreign.db", folder);
    sql(file, "CREATE TABLE x(y); PRAGMA application_id = 7");
    FAILS(ht_store_open(&other, file, HT_STORE_CREATE, &err), HT_ERR_DATA, "another application");

    snprintf(file, sizeof file, "%s/text.db", folder);
    OK(ht_file_write(
        file, "not a database, but long enough to be read as a header of one, or so it seems ............",
        90, &err));
    FAILS(ht_store_open(&other, file, HT_STORE_CREATE, &err), HT_ERR_DATA, "text.db");

    ht_store_close(store);
    sql(path, "PRAGMA user_version = 99");
    FAILS(ht_store_open(&store, path, HT_STORE_CREATE, &err), HT_ERR_DATA, "schema version 99");
    sql(path, "PRAGMA user_version = 1");
    OK(ht_store_open(&store, path, HT_STORE_EXISTING, &err));
}

/* A schema that is not ours cannot act, and cannot make the program fail otherwise than on bad data. */
static void test_store__a_hostile_schema_is_powerless(void **state) {
    (void)state;
    int64_t count, id;
    ht_dialog_row row = {.messages = "[{\"role\":\"user\",\"content\":\"b\"}]"};
    add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    ht_store_close(store);
    sql(path, "CREATE TRIGGER t AFTER INSERT ON dialog BEGIN DELETE FROM dialog; END");
    OK(ht_store_open(&store, path, HT_STORE_EXISTING, &err));
    OK(ht_store_add_dialog(store, &row, &id, NULL, &err));
    OK(ht_store_count(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &count, &err));
    assert_int_equal(count, 2);
    ht_store_close(store);
    sql(path, "DROP TABLE model; CREATE VIEW model AS SELECT 1 AS id, 'a' AS name, 0 AS round");
    OK(ht_store_open(&store, path, HT_STORE_EXISTING, &err));
    FAILS(ht_store_count(store, HT_STORE_MODELS, &(ht_store_filter){0}, &count, &err), HT_ERR_DATA, "view \"model\" prohibited");
    ht_store_close(store);
    sql(path, "DROP VIEW model");
    OK(ht_store_open(&store, path, HT_STORE_EXISTING, &err));
    FAILS(ht_store_count(store, HT_STORE_MODELS, &(ht_store_filter){0}, &count, &err), HT_ERR_DATA, "no such table: model");
}

/* Values that index tables and pass for text must not come from a row that the schema would never have taken. */
static void test_store__rows_that_cannot_be_are_not_read(void **state) {
    (void)state;
    int64_t dialog = add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0), pair = add_pair(dialog, "b", "c", 1, 0), answer, count;
    ht_comparison_row row;
    ht_demonstration_row demonstration = {.response_id = add_text(dialog, "d"), .weight = 1};
    OK(ht_store_add_demonstration(store, &demonstration, &answer, NULL, &err));
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
        FAILS(ht_store_get_comparison(store, pair, &row, &err), HT_ERR_DATA, cases[i].message);
        sql(path, cases[i].repair);
        OK(ht_store_get_comparison(store, pair, &row, &err));
    }
    sql(path, "PRAGMA ignore_check_constraints = ON; UPDATE demonstration SET weight = -1");
    FAILS(ht_store_get_demonstration(store, answer, &demonstration, &err), HT_ERR_DATA, "demonstration 1: its weight");
    sql(path, "PRAGMA ignore_check_constraints = ON; UPDATE demonstration SET weight = 1, origin = 'x'");
    FAILS(ht_store_get_demonstration(store, answer, &demonstration, &err), HT_ERR_DATA, "demonstration 1: its origin");

    /* a table made anew, without the constraints: an id that no cursor gets past, and no text */
    ht_store_cursor *cursor;
    ht_model_row model;
    int found;
    ht_store_close(store);
    sql(path, "DROP TABLE model; CREATE TABLE model(id REAL, name, path, hash, stage, round, parent_id, config, tokenizer_hash,"
              " created); INSERT INTO model(id, name, path, hash, stage) VALUES(0.5, 'a', 'b', 'c', 'd'), (2, 'a', 'b', 'c', 'd')");
    OK(ht_store_open(&store, path, HT_STORE_EXISTING, &err));
    OK(ht_store_count(store, HT_STORE_MODELS, &(ht_store_filter){0}, &count, &err));
    assert_int_equal(count, 2);
    OK(ht_store_read(store, HT_STORE_MODELS, &(ht_store_filter){0}, &cursor, &err));
    FAILS(ht_store_next_model(cursor, &model, &found, &err), HT_ERR_DATA, "model 0: its id");
    assert_false(found);
    ht_store_cursor_free(cursor);
}

static void test_store__a_value_of_a_gigabyte_is_refused(void **state) {
    (void)state;
    ht_dialog_row row;
    int64_t id = add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    sql(path, "UPDATE dialog SET messages = CAST(zeroblob(300000000) AS TEXT)");
    FAILS(ht_store_get_dialog(store, id, &row, &err), HT_ERR_DATA, "too big");
}

static void test_store__transactions_do_not_nest_and_roll_back(void **state) {
    (void)state;
    int64_t count;
    OK(ht_store_begin(store, &err));
    FAILS(ht_store_begin(store, &err), HT_ERR_RUN, path);
    add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    ht_store_rollback(store);
    FAILS(ht_store_commit(store, &err), HT_ERR_RUN, path);
    OK(ht_store_count(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &count, &err));
    assert_int_equal(count, 0);
    OK(ht_store_begin(store, &err));
    add_dialog("a", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    OK(ht_store_commit(store, &err));
    OK(ht_store_count(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &count, &err));
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
    FAILS(ht_store_begin(store, &err), HT_ERR_IO, "p.db: BEGIN IMMEDIATE: database is locked");
    ht_store_set_patience(store, 600);
    ht_signals_install();
    raise(SIGTERM);
    FAILS(ht_store_begin(store, &err), HT_TERMINATED, "p.db: BEGIN IMMEDIATE: database is locked");
    ht_stop_forget();
    ht_log_set_level(HT_LOG_DEBUG);
    ht_log_set_sink(end_other_process);
    OK(ht_store_begin(store, &err));
    assert_non_null(strstr(said, "p.db: another process is changing it"));
    OK(ht_store_commit(store, &err));
    ht_store_close(store);
    store = NULL;
    ht_log_set_sink(NULL);
    ht_log_set_level(HT_LOG_INFO);
    assert_non_null(strstr(said, "p.db: tried 1 times again while other processes were changing it"));
}

static void test_store__what_is_not_there_is_named(void **state) {
    (void)state;
    ht_store_cursor *cursor;
    ht_dialog_row dialog;
    ht_scored_row response;
    ht_comparison_row comparison;
    ht_demonstration_row demonstration;
    ht_evaluation_row evaluation;
    ht_model_row model;
    int found;
    FAILS(ht_store_get_dialog(store, 9, &dialog, &err), HT_ERR_DATA, "p.db: there is no dialog 9");
    FAILS(ht_store_get_response(store, 9, &response, &err), HT_ERR_DATA, "p.db: there is no response 9");
    FAILS(ht_store_get_comparison(store, 9, &comparison, &err), HT_ERR_DATA, "p.db: there is no comparison 9");
    FAILS(ht_store_get_demonstration(store, 9, &demonstration, &err), HT_ERR_DATA, "p.db: there is no demonstration 9");
    OK(ht_store_read(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &cursor, &err));
    FAILS(ht_store_next_response(cursor, &response, &found, &err), HT_ERR_USAGE, "this cursor gives no response");
    FAILS(ht_store_next_comparison(cursor, &comparison, &found, &err), HT_ERR_USAGE, "gives no comparison");
    FAILS(ht_store_next_demonstration(cursor, &demonstration, &found, &err), HT_ERR_USAGE, "gives no demonstration");
    FAILS(ht_store_next_evaluation(cursor, &evaluation, &found, &err), HT_ERR_USAGE, "gives no evaluation");
    FAILS(ht_store_next_model(cursor, &model, &found, &err), HT_ERR_USAGE, "gives no model");
    ht_store_cursor_free(cursor);
    OK(ht_store_read(store, HT_STORE_MODELS, &(ht_store_filter){0}, &cursor, &err));
    FAILS(ht_store_next_dialog(cursor, &dialog, &found, &err), HT_ERR_USAGE, "gives no dialog");
    ht_store_cursor_free(cursor);
}

static void test_store__dialogs_are_canonical_and_added_once(void **state) {
    (void)state;
    int64_t first, second;
    int added;
    ht_dialog_row row = {.messages = "[ {\"content\": \"h\\u00e9 \\/\", \"role\":\"user\"} ]",
                         .split = HT_SPLIT_TEST};
    OK(ht_store_add_dialog(store, &row, &first, &added, &err));
    assert_int_equal(added, 1);
    row.messages = "[{\"role\":\"user\",\"content\":\"h\xc3\xa9 /\"}]";
    row.split = HT_SPLIT_TRAIN;
    OK(ht_store_add_dialog(store, &row, &second, &added, &err));
    assert_int_equal(added, 0);
    assert_int_equal(first, second);
    ht_dialog_row got;
    OK(ht_store_get_dialog(store, first, &got, &err));
    assert_string_equal(got.messages, row.messages);
    assert_int_equal(got.split, HT_SPLIT_TEST);
    assert_null(got.source);
    row.kind = HT_KIND_SAFETY;
    OK(ht_store_add_dialog(store, &row, &second, &added, &err));
    assert_int_not_equal(first, second);
    FAILS(ht_store_get_dialog(store, 99, &got, &err), HT_ERR_DATA, "no dialog 99");
}

static void test_store__malformed_messages_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *messages, *reason;
    } cases[] = {
        {"[", "not JSON"},
        {"{}", "not a JSON array"},
        {"[]", "not a JSON array of messages"},
        {"[{\"role\":\"user\"}]", "message 1 is not an object"},
        {"[{\"role\":\"user\",\"content\":\"a\",\"name\":\"b\"}]", "message 1 is not an object"},
        {"[{\"role\":\"user\",\"content\":\"a\\u0000\"}]", "not JSON"},
        {"[{\"role\":\"user\",\"content\":\" \\n\"}]", "message 1 (user) is empty"},
        {"[{\"role\":\"assistant\",\"content\":\"a\"}]", "where \"user\" is due"},
        {"[{\"role\":\"system\",\"content\":\"a\"}]", "not a user turn"},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"a\"}]",
         "where \"assistant\" is due"},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"a\"}]",
         "not a user turn"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out;
        FAILS(ht_messages_canonical(&out, cases[i].messages, &err), HT_ERR_DATA, cases[i].reason);
        assert_null(out);
    }
}

static void test_store__split_is_a_share_of_prompts(void **state) {
    (void)state;
    int test = 0, narrower = 0;
    for (int i = 0; i < 10000; i++) {
        char text[32];
        snprintf(text, sizeof text, "prompt %d", i);
        int wide = ht_messages_split(text, 0.1) == HT_SPLIT_TEST;
        test += wide;
        if (ht_messages_split(text, 0.05) == HT_SPLIT_TEST) {
            narrower++;
            assert_true(wide); /* a smaller holdout is a subset of a larger one */
        }
        assert_int_equal(ht_messages_split(text, 0), HT_SPLIT_TRAIN);
        assert_int_equal(ht_messages_split(text, 1), HT_SPLIT_TEST);
    }
    /* binomial(10000, p): five standard deviations are 150 and 109 */
    assert_in_range(test, 850, 1150);
    assert_in_range(narrower, 391, 609);
}

static void test_store__samples_keep_their_tokens_and_are_added_once(void **state) {
    (void)state;
    int64_t dialog = add_dialog("q", HT_KIND_HELPFULNESS, HT_SPLIT_TRAIN, 0), model = add_model("m", "h1"),
            id, again;
    int added;
    const int32_t tokens[] = {5, -1, 31999, INT32_MAX};
    ht_response_row row = {.dialog_id = dialog,
                           .text = "answer",
                           .tokens = tokens,
                           .token_count = 4,
                           .model_id = model,
                           .round = 2,
                           .step = 7,
                           .temperature = 0.1,
                           .top_p = 0.9,
                           .seed = -3,
                           .k = 1,
                           .logprob = -1.5,
                           .finish = HT_FINISH_EOS};
    OK(ht_store_add_response(store, &row, &id, &added, &err));
    assert_int_equal(added, 1);
    OK(ht_store_add_response(store, &row, &again, &added, &err));
    assert_int_equal(added, 0);
    assert_int_equal(again, id);
    row.text = "other";
    FAILS(ht_store_add_response(store, &row, &again, &added, &err), HT_ERR_DATA, "its text is another one");
    row.k = 2;
    OK(ht_store_add_response(store, &row, &again, &added, &err));
    assert_int_equal(added, 1);

    ht_scored_row got;
    OK(ht_store_get_response(store, id, &got, &err));
    assert_string_equal(got.response.text, "answer");
    assert_int_equal(got.response.token_count, 4);
    assert_memory_equal(got.response.tokens, tokens, sizeof tokens);
    assert_int_equal(got.response.seed, -3);
    assert_true(got.response.temperature == 0.1 && got.response.top_p == 0.9 && got.response.logprob == -1.5);
    assert_int_equal(got.response.finish, HT_FINISH_EOS);
    assert_string_equal(got.response.tokenizer_hash, "tok");
    assert_int_equal(got.dialog.id, dialog);
    assert_true(isnan(got.helpful) && isnan(got.safe));

    int64_t text = add_text(dialog, "answer");
    assert_int_equal(add_text(dialog, "answer"), text);
    assert_int_not_equal(text, id);
    OK(ht_store_get_response(store, text, &got, &err));
    assert_null(got.response.tokens);
    assert_null(got.response.tokenizer_hash);
    assert_true(isnan(got.response.logprob));
    FAILS(ht_store_add_response(store, &(ht_response_row){.dialog_id = 99, .text = "x"}, &id, NULL, &err),
          HT_ERR_DATA, "FOREIGN KEY");
}

static void test_store__comparisons_are_of_one_dialog_and_added_once(void **state) {
    (void)state;
    int64_t one = add_dialog("1", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0), id, again;
    int64_t two = add_dialog("2", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    int added;
    ht_comparison_row row = {.chosen_id = add_text(one, "a"),
                             .rejected_id = add_text(one, "b"),
                             .rating = 4,
                             .safety = HT_SAFETY_CHOSEN_SAFE};
    OK(ht_store_add_comparison(store, &row, &id, &added, &err));
    OK(ht_store_add_comparison(store, &row, &again, &added, &err));
    assert_int_equal(added, 0);
    assert_int_equal(id, again);
    row.annotator = "ann";
    OK(ht_store_add_comparison(store, &row, &again, &added, &err));
    assert_int_equal(added, 1);
    ht_comparison_row got;
    OK(ht_store_get_comparison(store, id, &got, &err));
    assert_int_equal(got.safety, HT_SAFETY_CHOSEN_SAFE);
    assert_int_equal(got.rating, 4);
    assert_string_equal(got.chosen.text, "a");
    assert_string_equal(got.rejected.text, "b");
    assert_int_equal(got.dialog.id, one);
    row.rejected_id = add_text(two, "b");
    FAILS(ht_store_add_comparison(store, &row, &again, NULL, &err), HT_ERR_DATA, "one dialogue");
    row.rejected_id = row.chosen_id;
    FAILS(ht_store_add_comparison(store, &row, &again, NULL, &err), HT_ERR_DATA, "CHECK");
    row = (ht_comparison_row){.chosen_id = 1, .rejected_id = 2, .rating = 5};
    FAILS(ht_store_add_comparison(store, &row, &again, NULL, &err), HT_ERR_DATA, "CHECK");
}

static void test_store__reading_filters_and_orders_by_id(void **state) {
    (void)state;
    for (int64_t i = 0; i < 40; i++) {
        char prompt[16];
        snprintf(prompt, sizeof prompt, "p%d", (int)i);
        int64_t dialog = add_dialog(prompt, i % 2 ? HT_KIND_SAFETY : HT_KIND_HELPFULNESS,
                                    i % 4 == 3 ? HT_SPLIT_TEST : HT_SPLIT_TRAIN, i / 10);
        add_pair(dialog, "good", "bad", 1 + (int)i % 4, i / 10);
    }
    static const struct {
        ht_store_filter filter;
        int64_t count;
    } cases[] = {
        {{0}, 40},
        {{.kinds = 1u << HT_KIND_SAFETY}, 20},
        {{.kinds = 1u << HT_KIND_SAFETY | 1u << HT_KIND_HELPFULNESS}, 40},
        {{.splits = 1u << HT_SPLIT_TEST}, 10},
        {{.kinds = 1u << HT_KIND_HELPFULNESS, .splits = 1u << HT_SPLIT_TEST}, 0},
        {{.first_round = 1, .end_round = 3}, 20},
        {{.end_round = 1}, 10},
        {{.source = "s", .batch = "b"}, 40},
        {{.source = "t"}, 0},
        {{.after_id = 30}, 10},
        {{.limit = 7}, 7},
        {{.dialog_id = 3}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_store_cursor *cursor;
        ht_comparison_row row;
        int64_t count = 0, last = 0, counted, *ids;
        size_t id_count;
        int found;
        OK(ht_store_ids(store, HT_STORE_COMPARISONS, &cases[i].filter, &ids, &id_count, &err));
        OK(ht_store_read(store, HT_STORE_COMPARISONS, &cases[i].filter, &cursor, &err));
        for (;;) {
            OK(ht_store_next_comparison(cursor, &row, &found, &err));
            if (!found) break;
            assert_true(row.id > last && (size_t)count < id_count);
            assert_int_equal(ids[count++], row.id);
            last = row.id;
        }
        ht_store_cursor_free(cursor);
        free(ids);
        OK(ht_store_count(store, HT_STORE_COMPARISONS, &cases[i].filter, &counted, &err));
        assert_int_equal(count, cases[i].count);
        assert_int_equal(counted, cases[i].count);
        assert_int_equal(id_count, cases[i].count);
    }
}

static void test_store__cursor_allows_writes_and_sees_none_of_them(void **state) {
    (void)state;
    ht_store *other;
    ht_store_cursor *cursor;
    ht_dialog_row row;
    int found = 1, count = 0;
    for (int i = 0; i < 3; i++)
        add_dialog(i == 0 ? "a" : i == 1 ? "b" : "c", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    OK(ht_store_open(&other, path, HT_STORE_EXISTING, &err));
    OK(ht_store_read(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &cursor, &err));
    for (;; count++) {
        OK(ht_store_next_dialog(cursor, &row, &found, &err));
        if (!found) break;
        int64_t id;
        /* another connection writes, then this one: a held snapshot would make this one fail */
        ht_dialog_row more = {.messages = "[{\"role\":\"user\",\"content\":\"by another\"}]"};
        OK(ht_store_add_dialog(other, &more, &id, NULL, &err));
        char prompt[16];
        snprintf(prompt, sizeof prompt, "new %d", count);
        add_dialog(prompt, HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    }
    assert_int_equal(count, 3);
    FAILS(ht_store_next_comparison(cursor, &(ht_comparison_row){0}, &found, &err), HT_ERR_USAGE,
          "comparison");
    ht_store_cursor_free(cursor);
    ht_store_close(other);
}

static void test_store__responses_carry_scores_by_dialog(void **state) {
    (void)state;
    int64_t helpful = add_model("hrm", "h"), safe = add_model("srm", "s"), policy = add_model("policy", "p");
    int64_t dialogs[2] = {add_dialog("x", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0),
                          add_dialog("y", HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0)};
    for (int64_t k = 0; k < 3; k++) {
        for (int d = 1; d >= 0; d--) {
            int64_t id;
            ht_response_row row = {.dialog_id = dialogs[d], .text = "t", .model_id = policy, .k = k};
            OK(ht_store_add_response(store, &row, &id, NULL, &err));
            OK(ht_store_add_score(store, id, helpful, 9, &err));
            OK(ht_store_add_score(store, id, helpful, (double)(10 * d + (int)k), &err));
        }
    }
    add_text(dialogs[0], "by hand");
    ht_store_filter filter = {.model_id = policy, .helpful_model_id = helpful, .safe_model_id = safe};
    ht_store_cursor *cursor;
    ht_scored_row row;
    int found;
    OK(ht_store_read(store, HT_STORE_RESPONSES, &filter, &cursor, &err));
    for (int i = 0; i < 6; i++) {
        OK(ht_store_next_response(cursor, &row, &found, &err));
        assert_true(found);
        assert_int_equal(row.dialog.id, dialogs[i / 3]);
        assert_int_equal(row.response.k, i % 3);
        assert_true(row.helpful == 10 * (i / 3) + i % 3);
        assert_true(isnan(row.safe));
    }
    OK(ht_store_next_response(cursor, &row, &found, &err));
    assert_false(found);
    ht_store_cursor_free(cursor);
    FAILS(ht_store_add_score(store, 1, helpful, NAN, &err), HT_ERR_DATA, "NOT NULL");
    FAILS(ht_store_add_score(store, 1, 99, 0, &err), HT_ERR_DATA, "FOREIGN KEY");
}

static void test_store__demonstrations_by_origin(void **state) {
    (void)state;
    int64_t dialog = add_dialog("x", HT_KIND_HELPFULNESS, HT_SPLIT_TRAIN, 0), id, again, count;
    int added;
    ht_demonstration_row row = {
        .response_id = add_text(dialog, "gold"), .origin = HT_ORIGIN_HUMAN, .weight = 1};
    OK(ht_store_add_demonstration(store, &row, &id, &added, &err));
    OK(ht_store_add_demonstration(store, &row, &again, &added, &err));
    assert_int_equal(added, 0);
    assert_int_equal(id, again);
    row.origin = HT_ORIGIN_REJECTION;
    row.round = 3;
    row.weight = 0.5;
    OK(ht_store_add_demonstration(store, &row, &again, &added, &err));
    assert_int_equal(added, 1);
    OK(ht_store_count(store, HT_STORE_DEMONSTRATIONS,
                      &(ht_store_filter){.origins = 1u << HT_ORIGIN_REJECTION}, &count, &err));
    assert_int_equal(count, 1);
    ht_demonstration_row got;
    OK(ht_store_get_demonstration(store, again, &got, &err));
    assert_int_equal(got.origin, HT_ORIGIN_REJECTION);
    assert_int_equal(got.round, 3);
    assert_true(got.weight == 0.5);
    assert_string_equal(got.response.text, "gold");
    row.response_id = 99;
    FAILS(ht_store_add_demonstration(store, &row, &id, NULL, &err), HT_ERR_DATA, "no response 99");
    row.response_id = 1;
    row.round = 4;
    row.weight = 0;
    FAILS(ht_store_add_demonstration(store, &row, &id, NULL, &err), HT_ERR_DATA, "CHECK");
}

static void test_store__models_runs_metrics_evaluations(void **state) {
    (void)state;
    int64_t first = add_model("sft", "h1"), second = add_model("sft", "h2"), run;
    assert_int_equal(add_model("sft", "h1"), first);
    ht_model_row model;
    int found;
    OK(ht_store_find_model(store, "sft", &model, &found, &err));
    assert_int_equal(model.id, second);
    assert_int_equal(strlen(model.created), 20);
    OK(ht_store_find_model(store, "ppo", &model, &found, &err));
    assert_false(found);
    assert_null(model.name);
    OK(ht_store_get_model(store, first, &model, &found, &err));
    assert_string_equal(model.hash, "h1");

    OK(ht_store_begin_run(store, &(ht_run_row){.stage = "sft", .model_id = first}, &run, &err));
    ht_metric metrics[] = {{1, "loss", 2.5}, {2, "loss", NAN}, {1, "loss", 2.25}};
    OK(ht_store_add_metrics(store, run, metrics, 3, &err));
    metrics[0].name = NULL;
    FAILS(ht_store_add_metrics(store, run, metrics, 3, &err), HT_ERR_DATA, "metric");
    OK(ht_store_end_run(store, run, HT_OK, second, &err));
    FAILS(ht_store_end_run(store, 99, HT_OK, 0, &err), HT_ERR_DATA, "no run 99");

    ht_evaluation_row row = {.model_id = first, .name = "accuracy", .value = 0.5, .details = "{}"};
    OK(ht_store_record_evaluation(store, &row, &err));
    row.value = 0.75;
    OK(ht_store_record_evaluation(store, &row, &err));
    ht_store_cursor *cursor;
    OK(ht_store_read(store, HT_STORE_EVALUATIONS, &(ht_store_filter){.name = "accuracy"}, &cursor, &err));
    OK(ht_store_next_evaluation(cursor, &row, &found, &err));
    assert_true(found && row.value == 0.75);
    assert_string_equal(row.model_name, "sft");
    OK(ht_store_next_evaluation(cursor, &row, &found, &err));
    assert_false(found);
    ht_store_cursor_free(cursor);
    OK(ht_store_read(store, HT_STORE_MODELS, &(ht_store_filter){0}, &cursor, &err));
    OK(ht_store_next_model(cursor, &model, &found, &err));
    assert_int_equal(model.id, first);
    ht_store_cursor_free(cursor);
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
    OK(ht_store_check(store, collect, findings, &count, &err));
    assert_string_equal(findings, "");
    assert_int_equal(count, 0);
    add_text(dialog, "lonely");
    sql(path, "UPDATE dialog SET messages = replace(messages, 'x', 'z');"
              "UPDATE response SET text = 'A' WHERE text = 'a';"
              "DELETE FROM response WHERE text = 'b'");
    OK(ht_store_check(store, collect, findings, &count, &err));
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
    OK(ht_store_add_demonstration(store, &row, &id, NULL, &err));
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
        OK(ht_store_open(&store, path, HT_STORE_EXISTING, &err));
        OK(ht_store_check(store, collect, findings, &count, &err));
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
    OK(ht_store_open(&store, path, HT_STORE_EXISTING, &err));
    FAILS(ht_store_get_dialog(store, 1, &row, &err), HT_ERR_DATA, "p.db: cannot read a row: database disk image is malformed");
    FAILS(ht_store_read(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &cursor, &err), HT_ERR_DATA,
          "p.db: cannot read: database disk image is malformed");
    assert_null(cursor);
    FAILS(ht_store_ids(store, HT_STORE_DIALOGS, &(ht_store_filter){.kinds = 1}, &ids, &n, &err), HT_ERR_DATA,
          "p.db: cannot read ids: database disk image is malformed");
    assert_null(ids);
    FAILS(ht_store_stats(store, ignore_stat, NULL, &err), HT_ERR_DATA, "p.db: cannot count rows: database disk image is malformed");
    OK(ht_store_check(store, collect, findings, &count, &err));
    assert_true(count >= 2);
    assert_non_null(strstr(findings, "integrity: "));
    assert_non_null(strstr(findings, "unreadable: database disk image is malformed"));
}

static ht_status add_stat(void *context, const ht_store_stat *stat, ht_error *e) {
    (void)e;
    char line[128];
    if (strcmp(stat->table, "comparison") == 0) {
        snprintf(line, sizeof line, "%s=%s:%d ", stat->column ? stat->column : "",
                 stat->value ? stat->value : "", (int)stat->count);
        strcat(context, line);
    }
    return HT_OK;
}

static void test_store__stats_count_by_column(void **state) {
    (void)state;
    char text[1024] = "";
    add_pair(add_dialog("x", HT_KIND_SAFETY, HT_SPLIT_TEST, 0), "a", "b", 1, 1);
    add_pair(add_dialog("y", HT_KIND_HELPFULNESS, HT_SPLIT_TEST, 0), "a", "b", 0, 1);
    OK(ht_store_stats(store, add_stat, text, &err));
    assert_string_equal(
        text, "=:2 kind=helpfulness:1 kind=safety:1 split=test:2 round=1:2 rating=none:1 rating=1:1 "
              "safety=none:2 batch=b:2 source=s:2 ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_store__opens_what_is_its_own_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__a_hostile_schema_is_powerless, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__rows_that_cannot_be_are_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__a_value_of_a_gigabyte_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__transactions_do_not_nest_and_roll_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__another_process_that_writes_is_waited_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__what_is_not_there_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__dialogs_are_canonical_and_added_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__malformed_messages_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__split_is_a_share_of_prompts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__samples_keep_their_tokens_and_are_added_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store__comparisons_are_of_one_dialog_and_added_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store__reading_filters_and_orders_by_id, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__cursor_allows_writes_and_sees_none_of_them, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store__responses_carry_scores_by_dialog, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__demonstrations_by_origin, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__models_runs_metrics_evaluations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__check_finds_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__check_names_rows_that_cannot_be, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__damaged_pages_are_said, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store__stats_count_by_column, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
