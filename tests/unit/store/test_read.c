/*
 * Reading in order, by filters, beside writers; statistics.
 */
#include "tests/unit/store/support.h"

#include <math.h>

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
    FAILS(ht_store_get_dialog(store, 9, &dialog, &err_), HT_ERR_DATA, "p.db: there is no dialog 9");
    FAILS(ht_store_get_response(store, 9, &response, &err_), HT_ERR_DATA, "p.db: there is no response 9");
    FAILS(ht_store_get_comparison(store, 9, &comparison, &err_), HT_ERR_DATA, "p.db: there is no comparison 9");
    FAILS(ht_store_get_demonstration(store, 9, &demonstration, &err_), HT_ERR_DATA, "p.db: there is no demonstration 9");
    DO(ht_store_read(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &cursor, &err_));
    FAILS(ht_store_next_response(cursor, &response, &found, &err_), HT_ERR_USAGE, "this cursor gives no response");
    FAILS(ht_store_next_comparison(cursor, &comparison, &found, &err_), HT_ERR_USAGE, "gives no comparison");
    FAILS(ht_store_next_demonstration(cursor, &demonstration, &found, &err_), HT_ERR_USAGE, "gives no demonstration");
    FAILS(ht_store_next_evaluation(cursor, &evaluation, &found, &err_), HT_ERR_USAGE, "gives no evaluation");
    FAILS(ht_store_next_model(cursor, &model, &found, &err_), HT_ERR_USAGE, "gives no model");
    ht_store_cursor_free(cursor);
    DO(ht_store_read(store, HT_STORE_MODELS, &(ht_store_filter){0}, &cursor, &err_));
    FAILS(ht_store_next_dialog(cursor, &dialog, &found, &err_), HT_ERR_USAGE, "gives no dialog");
    ht_store_cursor_free(cursor);
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
        DO(ht_store_ids(store, HT_STORE_COMPARISONS, &cases[i].filter, &ids, &id_count, &err_));
        DO(ht_store_read(store, HT_STORE_COMPARISONS, &cases[i].filter, &cursor, &err_));
        for (;;) {
            DO(ht_store_next_comparison(cursor, &row, &found, &err_));
            if (!found) break;
            assert_true(row.id > last && (size_t)count < id_count);
            assert_int_equal(ids[count++], row.id);
            last = row.id;
        }
        ht_store_cursor_free(cursor);
        free(ids);
        DO(ht_store_count(store, HT_STORE_COMPARISONS, &cases[i].filter, &counted, &err_));
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
    DO(ht_store_open(&other, path, HT_STORE_EXISTING, &err_));
    DO(ht_store_read(store, HT_STORE_DIALOGS, &(ht_store_filter){0}, &cursor, &err_));
    for (;; count++) {
        DO(ht_store_next_dialog(cursor, &row, &found, &err_));
        if (!found) break;
        int64_t id;
        /* another connection writes, then this one: a held snapshot would make this one fail */
        ht_dialog_row more = {.messages = "[{\"role\":\"user\",\"content\":\"by another\"}]"};
        DO(ht_store_add_dialog(other, &more, &id, NULL, &err_));
        char prompt[16];
        snprintf(prompt, sizeof prompt, "new %d", count);
        add_dialog(prompt, HT_KIND_SAFETY, HT_SPLIT_TRAIN, 0);
    }
    assert_int_equal(count, 3);
    FAILS(ht_store_next_comparison(cursor, &(ht_comparison_row){0}, &found, &err_), HT_ERR_USAGE,
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
            DO(ht_store_add_response(store, &row, &id, NULL, &err_));
            DO(ht_store_add_score(store, id, helpful, 9, &err_));
            DO(ht_store_add_score(store, id, helpful, (double)(10 * d + (int)k), &err_));
        }
    }
    add_text(dialogs[0], "by hand");
    ht_store_filter filter = {.model_id = policy, .helpful_model_id = helpful, .safe_model_id = safe};
    ht_store_cursor *cursor;
    ht_scored_row row;
    int found;
    DO(ht_store_read(store, HT_STORE_RESPONSES, &filter, &cursor, &err_));
    for (int i = 0; i < 6; i++) {
        DO(ht_store_next_response(cursor, &row, &found, &err_));
        assert_true(found);
        assert_int_equal(row.dialog.id, dialogs[i / 3]);
        assert_int_equal(row.response.k, i % 3);
        assert_true(row.helpful == 10 * (i / 3) + i % 3);
        assert_true(isnan(row.safe));
    }
    DO(ht_store_next_response(cursor, &row, &found, &err_));
    assert_false(found);
    ht_store_cursor_free(cursor);
    FAILS(ht_store_add_score(store, 1, helpful, NAN, &err_), HT_ERR_DATA, "NOT NULL");
    FAILS(ht_store_add_score(store, 1, 99, 0, &err_), HT_ERR_DATA, "FOREIGN KEY");
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
    DO(ht_store_stats(store, add_stat, text, &err_));
    assert_string_equal(
        text, "=:2 kind=helpfulness:1 kind=safety:1 split=test:2 round=1:2 rating=none:1 rating=1:1 "
              "safety=none:2 batch=b:2 source=s:2 ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_store__what_is_not_there_is_named),
        TEST(test_store__reading_filters_and_orders_by_id),
        TEST(test_store__cursor_allows_writes_and_sees_none_of_them),
        TEST(test_store__responses_carry_scores_by_dialog),
        TEST(test_store__stats_count_by_column),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
