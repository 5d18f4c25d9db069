/* Choosing prompts, and finding samples that are in the database. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/files.h"
#include "core/base/memory.h"
#include "core/generate/draws.h"
#include "tests/unit/do.h"
#include "tests/unit/folder.h"

enum { PROMPTS = 60 };

/* Prompt i is of dialogue first + 3 i and has 1 + i % 5 tokens, each 100 i + position. */
static ht_prompt_set make_set(int64_t first, size_t count) {
    ht_prompt_set set = {0};
    DO(ht_calloc(&set.start, count + 1, sizeof *set.start, &err_));
    DO(ht_calloc(&set.dialog_ids, count, sizeof *set.dialog_ids, &err_));
    DO(ht_calloc(&set.is_safety, count, 1, &err_));
    for (size_t i = 0; i < count; i++) {
        for (size_t t = 0; t < 1 + i % 5; t++) {
            int32_t id = (int32_t)(100 * i + t);
            DO(ht_ids_append(&set.tokens, &id, 1, &err_));
        }
        set.start[i + 1] = (int64_t)set.tokens.count;
        set.dialog_ids[i] = first + 3 * (int64_t)i;
        set.is_safety[i] = i % 3 == 0;
    }
    set.count = count;
    set.longest = 5;
    return set;
}

static void test_draws__chosen_prompts_are_whole_and_in_order(void **state) {
    (void)state;
    ht_prompt_set set = make_set(10, PROMPTS);
    DO(ht_prompt_set_choose(&set, 20, 1, 2, &err_));
    assert_int_equal(set.count, 20);
    int64_t longest = 0;
    for (size_t i = 0; i < set.count; i++) {
        int64_t length, was = (set.dialog_ids[i] - 10) / 3;
        const int32_t *tokens = ht_prompt_tokens(&set, (int64_t)i, &length);
        if (i) assert_true(set.dialog_ids[i] > set.dialog_ids[i - 1]);
        assert_int_equal(length, 1 + was % 5);
        for (int64_t t = 0; t < length; t++)
            assert_int_equal(tokens[t], 100 * was + t);
        assert_int_equal(set.is_safety[i], was % 3 == 0);
        if (length > longest) longest = length;
    }
    assert_int_equal(set.longest, longest);
    ht_prompt_set_free(&set);
}

static int holds(const ht_prompt_set *set, int64_t dialog) {
    for (size_t i = 0; i < set->count; i++)
        if (set->dialog_ids[i] == dialog) return 1;
    return 0;
}

static void test_draws__a_smaller_choice_is_part_of_a_larger_one(void **state) {
    (void)state;
    ht_prompt_set small = make_set(10, PROMPTS), large = make_set(10, PROMPTS), other = make_set(10, PROMPTS);
    int same = 0;
    DO(ht_prompt_set_choose(&small, 15, 1, 2, &err_));
    DO(ht_prompt_set_choose(&large, 40, 1, 2, &err_));
    DO(ht_prompt_set_choose(&other, 15, 2, 2, &err_));
    for (size_t i = 0; i < small.count; i++) {
        assert_true(holds(&large, small.dialog_ids[i]));
        same += holds(&other, small.dialog_ids[i]);
    }
    assert_true(same < 15); /* another seed, another choice */
    DO(ht_prompt_set_choose(&small, 15, 9, 9, &err_));
    assert_int_equal(small.count, 15); /* all that are there */
    ht_prompt_set_free(&small);
    ht_prompt_set_free(&large);
    ht_prompt_set_free(&other);
}

static ht_store *store;

static int set_up(void **state) {
    ht_error err = HT_ERROR_INIT;
    if (make_root(state) != 0) return -1;
    return ht_store_open(&store, in_root("p.db"), HT_STORE_CREATE, &err) == HT_OK ? 0 : -1;
}

static int tear_down(void **state) {
    ht_store_close(store);
    return remove_root(state);
}

static int64_t add_response(ht_response_row row) {
    int64_t id = 0;
    int32_t tokens[3] = {1, 2, 3};
    char text[96];
    snprintf(text, sizeof text, "%d %d %d %g %g %d", (int)row.model_id, (int)row.round, (int)row.k,
             row.temperature, row.top_p, (int)row.seed);
    row.text = text;
    row.tokens = tokens;
    row.token_count = 3;
    row.finish = HT_FINISH_EOS;
    DO(ht_store_add_response(store, &row, &id, NULL, &err_));
    return id;
}

static void test_draws__finds_what_has_the_same_settings_only(void **state) {
    (void)state;
    int64_t dialogs[3], model, other, missing;
    for (int i = 0; i < 3; i++) {
        char messages[96];
        snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"%d\"}]", i);
        DO(ht_store_add_dialog(store, &(ht_dialog_row){.messages = messages}, &dialogs[i], NULL, &err_));
    }
    DO(ht_store_add_model(store, &(ht_model_row){.name = "a", .path = "a", .hash = "a", .stage = "sft"},
                          &model, &err_));
    DO(ht_store_add_model(store, &(ht_model_row){.name = "b", .path = "b", .hash = "b", .stage = "sft"},
                          &other, &err_));
    ht_response_row row = {.dialog_id = dialogs[2],
                           .model_id = model,
                           .round = 1,
                           .temperature = 1,
                           .top_p = 1,
                           .seed = 7,
                           .k = 1};
    int64_t found = add_response(row);
    row.dialog_id = dialogs[0];
    row.k = 0;
    int64_t first = add_response(row);
    ht_response_row wrong[5] = {row, row, row, row, row};
    for (int i = 0; i < 5; i++)
        wrong[i].k = 1;
    wrong[0].model_id = other;
    wrong[1].round = 2;
    wrong[2].seed = 8;
    wrong[3].top_p = 0.9;
    wrong[4].temperature = 0.5;
    for (int i = 0; i < 5; i++)
        add_response(wrong[i]);

    ht_prompt_set set = make_set(1, 3);
    for (int i = 0; i < 3; i++)
        set.dialog_ids[i] = dialogs[i];
    ht_draw_entry draws[6];
    for (int i = 0; i < 6; i++)
        draws[i] = (ht_draw_entry){.prompt = i / 2, .k = i % 2, .temperature = 1};
    ht_draw_list list = {.draws = draws,
                         .count = 6,
                         .prompts = &set,
                         .model_id = model,
                         .round = 1,
                         .seed = 7,
                         .top_p = 1,
                         .max_new_tokens = 3,
                         .max_positions = 99,
                         .chunk = 2};
    DO(ht_draws_find(&list, store, &missing, &err_));
    assert_int_equal(missing, 4);
    const int64_t expected[6] = {first, 0, 0, 0, 0, found};
    for (int i = 0; i < 6; i++)
        assert_int_equal(draws[i].response_id, expected[i]);
    /* three tokens are more than this command could have drawn */
    list.max_new_tokens = 2;
    FAILS(ht_draws_find(&list, store, &missing, &err_), HT_ERR_DATA, "max_new_tokens");
    ht_prompt_set_free(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws__chosen_prompts_are_whole_and_in_order),
        cmocka_unit_test(test_draws__a_smaller_choice_is_part_of_a_larger_one),
        cmocka_unit_test_setup_teardown(test_draws__finds_what_has_the_same_settings_only, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
