/*
 * Adding: what is canonical, what is added once, what is refused.
 */
#include "tests/unit/store/support.h"

#include <math.h>

static void test_store__dialogs_are_canonical_and_added_once(void **state) {
    (void)state;
    int64_t first, second;
    int added;
    ht_dialog_row row = {.messages = "[ {\"content\": \"h\\u00e9 \\/\", \"role\":\"user\"} ]",
                         .split = HT_SPLIT_TEST};
    DO(ht_store_add_dialog(store, &row, &first, &added, &err_));
    assert_int_equal(added, 1);
    row.messages = "[{\"role\":\"user\",\"content\":\"h\xc3\xa9 /\"}]";
    row.split = HT_SPLIT_TRAIN;
    DO(ht_store_add_dialog(store, &row, &second, &added, &err_));
    assert_int_equal(added, 0);
    assert_int_equal(first, second);
    ht_dialog_row got;
    DO(ht_store_get_dialog(store, first, &got, &err_));
    assert_string_equal(got.messages, row.messages);
    assert_int_equal(got.split, HT_SPLIT_TEST);
    assert_null(got.source);
    row.kind = HT_KIND_SAFETY;
    DO(ht_store_add_dialog(store, &row, &second, &added, &err_));
    assert_int_not_equal(first, second);
    FAILS(ht_store_get_dialog(store, 99, &got, &err_), HT_ERR_DATA, "no dialog 99");
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
        FAILS(ht_messages_canonical(&out, cases[i].messages, &err_), HT_ERR_DATA, cases[i].reason);
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
    DO(ht_store_add_response(store, &row, &id, &added, &err_));
    assert_int_equal(added, 1);
    DO(ht_store_add_response(store, &row, &again, &added, &err_));
    assert_int_equal(added, 0);
    assert_int_equal(again, id);
    row.text = "other";
    FAILS(ht_store_add_response(store, &row, &again, &added, &err_), HT_ERR_DATA, "its text is another one");
    row.k = 2;
    DO(ht_store_add_response(store, &row, &again, &added, &err_));
    assert_int_equal(added, 1);

    ht_scored_row got;
    DO(ht_store_get_response(store, id, &got, &err_));
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
    DO(ht_store_get_response(store, text, &got, &err_));
    assert_null(got.response.tokens);
    assert_null(got.response.tokenizer_hash);
    assert_true(isnan(got.response.logprob));
    FAILS(ht_store_add_response(store, &(ht_response_row){.dialog_id = 99, .text = "x"}, &id, NULL, &err_),
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
    DO(ht_store_add_comparison(store, &row, &id, &added, &err_));
    DO(ht_store_add_comparison(store, &row, &again, &added, &err_));
    assert_int_equal(added, 0);
    assert_int_equal(id, again);
    row.annotator = "ann";
    DO(ht_store_add_comparison(store, &row, &again, &added, &err_));
    assert_int_equal(added, 1);
    ht_comparison_row got;
    DO(ht_store_get_comparison(store, id, &got, &err_));
    assert_int_equal(got.safety, HT_SAFETY_CHOSEN_SAFE);
    assert_int_equal(got.rating, 4);
    assert_string_equal(got.chosen.text, "a");
    assert_string_equal(got.rejected.text, "b");
    assert_int_equal(got.dialog.id, one);
    row.rejected_id = add_text(two, "b");
    FAILS(ht_store_add_comparison(store, &row, &again, NULL, &err_), HT_ERR_DATA, "one dialogue");
    row.rejected_id = row.chosen_id;
    FAILS(ht_store_add_comparison(store, &row, &again, NULL, &err_), HT_ERR_DATA, "CHECK");
    row = (ht_comparison_row){.chosen_id = 1, .rejected_id = 2, .rating = 5};
    FAILS(ht_store_add_comparison(store, &row, &again, NULL, &err_), HT_ERR_DATA, "CHECK");
}

static void test_store__demonstrations_by_origin(void **state) {
    (void)state;
    int64_t dialog = add_dialog("x", HT_KIND_HELPFULNESS, HT_SPLIT_TRAIN, 0), id, again, count;
    int added;
    ht_demonstration_row row = {
        .response_id = add_text(dialog, "gold"), .origin = HT_ORIGIN_HUMAN, .weight = 1};
    DO(ht_store_add_demonstration(store, &row, &id, &added, &err_));
    DO(ht_store_add_demonstration(store, &row, &again, &added, &err_));
    assert_int_equal(added, 0);
    assert_int_equal(id, again);
    row.origin = HT_ORIGIN_REJECTION;
    row.round = 3;
    row.weight = 0.5;
    DO(ht_store_add_demonstration(store, &row, &again, &added, &err_));
    assert_int_equal(added, 1);
    DO(ht_store_count(store, HT_STORE_DEMONSTRATIONS,
                      &(ht_store_filter){.origins = 1u << HT_ORIGIN_REJECTION}, &count, &err_));
    assert_int_equal(count, 1);
    ht_demonstration_row got;
    DO(ht_store_get_demonstration(store, again, &got, &err_));
    assert_int_equal(got.origin, HT_ORIGIN_REJECTION);
    assert_int_equal(got.round, 3);
    assert_true(got.weight == 0.5);
    assert_string_equal(got.response.text, "gold");
    row.response_id = 99;
    FAILS(ht_store_add_demonstration(store, &row, &id, NULL, &err_), HT_ERR_DATA, "no response 99");
    row.response_id = 1;
    row.round = 4;
    row.weight = 0;
    FAILS(ht_store_add_demonstration(store, &row, &id, NULL, &err_), HT_ERR_DATA, "CHECK");
}

static void test_store__models_runs_metrics_evaluations(void **state) {
    (void)state;
    int64_t first = add_model("sft", "h1"), second = add_model("sft", "h2"), run;
    assert_int_equal(add_model("sft", "h1"), first);
    ht_model_row model;
    int found;
    DO(ht_store_find_model(store, "sft", &model, &found, &err_));
    assert_int_equal(model.id, second);
    assert_int_equal(strlen(model.created), 20);
    DO(ht_store_find_model(store, "ppo", &model, &found, &err_));
    assert_false(found);
    assert_null(model.name);
    DO(ht_store_get_model(store, first, &model, &found, &err_));
    assert_string_equal(model.hash, "h1");

    DO(ht_store_begin_run(store, &(ht_run_row){.stage = "sft", .model_id = first}, &run, &err_));
    ht_metric metrics[] = {{1, "loss", 2.5}, {2, "loss", NAN}, {1, "loss", 2.25}};
    DO(ht_store_add_metrics(store, run, metrics, 3, &err_));
    metrics[0].name = NULL;
    FAILS(ht_store_add_metrics(store, run, metrics, 3, &err_), HT_ERR_DATA, "metric");
    DO(ht_store_end_run(store, run, HT_OK, second, &err_));
    FAILS(ht_store_end_run(store, 99, HT_OK, 0, &err_), HT_ERR_DATA, "no run 99");

    ht_evaluation_row row = {.model_id = first, .name = "accuracy", .value = 0.5, .details = "{}"};
    DO(ht_store_record_evaluation(store, &row, &err_));
    row.value = 0.75;
    DO(ht_store_record_evaluation(store, &row, &err_));
    ht_store_cursor *cursor;
    DO(ht_store_read(store, HT_STORE_EVALUATIONS, &(ht_store_filter){.name = "accuracy"}, &cursor, &err_));
    DO(ht_store_next_evaluation(cursor, &row, &found, &err_));
    assert_true(found && row.value == 0.75);
    assert_string_equal(row.model_name, "sft");
    DO(ht_store_next_evaluation(cursor, &row, &found, &err_));
    assert_false(found);
    ht_store_cursor_free(cursor);
    DO(ht_store_read(store, HT_STORE_MODELS, &(ht_store_filter){0}, &cursor, &err_));
    DO(ht_store_next_model(cursor, &model, &found, &err_));
    assert_int_equal(model.id, first);
    ht_store_cursor_free(cursor);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_store__dialogs_are_canonical_and_added_once),
        TEST(test_store__malformed_messages_are_refused),
        TEST(test_store__split_is_a_share_of_prompts),
        TEST(test_store__samples_keep_their_tokens_and_are_added_once),
        TEST(test_store__comparisons_are_of_one_dialog_and_added_once),
        TEST(test_store__demonstrations_by_origin),
        TEST(test_store__models_runs_metrics_evaluations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
