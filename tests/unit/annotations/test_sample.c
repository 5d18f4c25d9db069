/* Pairs for annotators: temperatures, sides, what cannot be compared, and that the file comes back through
 * the import. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "annotations/annotation.h"
#include "annotations/rows.h"
#include "annotations/sample.h"
#include "core/base/files.h"
#include "tests/unit/do.h"
#include "tests/unit/folder.h"

static void test_sample__settings_depend_on_seed_round_and_dialog_alone(void **state) {
    (void)state;
    const double list[] = {0.7, 1.0, 1.2};
    int others[3] = {0};
    for (int64_t dialog = 1; dialog <= 200; dialog++) {
        ht_pair_settings a = ht_pair_draw(list, 3, 1, 2, dialog), b = ht_pair_draw(list, 3, 1, 2, dialog);
        assert_memory_equal(a.temperature, b.temperature, sizeof a.temperature);
        assert_int_equal(a.is_swapped, b.is_swapped);
        b = ht_pair_draw(list, 3, 1, 3, dialog);
        others[0] += a.is_swapped != b.is_swapped;
        b = ht_pair_draw(list, 3, 5, 2, dialog);
        others[1] += a.is_swapped != b.is_swapped;
        b = ht_pair_draw(list, 3, 1, 2, dialog + 1000);
        others[2] += a.is_swapped != b.is_swapped;
    }
    for (int i = 0; i < 3; i++) /* half of 200, give or take five standard deviations */
        assert_true(others[i] > 65 && others[i] < 135);
}

static void test_sample__temperatures_of_a_pair_differ(void **state) {
    (void)state;
    const double list[] = {0.7, 1.0, 1.2};
    int seen[3][3] = {{0}}, swapped = 0;
    for (int64_t dialog = 1; dialog <= 900; dialog++) {
        ht_pair_settings s = ht_pair_draw(list, 3, 1, 1, dialog);
        int first = -1, second = -1;
        for (int t = 0; t < 3; t++) {
            if (s.temperature[0] == list[t]) first = t;
            if (s.temperature[1] == list[t]) second = t;
        }
        assert_true(first >= 0 && second >= 0 && first != second);
        seen[first][second]++;
        swapped += s.is_swapped;
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            if (i != j) assert_true(seen[i][j] > 90 && seen[i][j] < 210); /* 150, deviation 11 */
    assert_true(swapped > 375 && swapped < 525);                          /* 450, deviation 15 */
    ht_pair_settings one = ht_pair_draw(list, 1, 1, 1, 7);
    assert_true(one.temperature[0] == 0.7 && one.temperature[1] == 0.7);
}

static void test_sample__what_cannot_be_compared(void **state) {
    (void)state;
    assert_int_equal(ht_pair_judge("yes", "no"), HT_PAIR_FINE);
    assert_int_equal(ht_pair_judge("yes", ""), HT_PAIR_FINE);
    assert_int_equal(ht_pair_judge("yes", " yes\n"), HT_PAIR_IDENTICAL);
    assert_int_equal(ht_pair_judge("", " "), HT_PAIR_IDENTICAL);
    assert_int_equal(ht_pair_judge("yes", "[INST] no"), HT_PAIR_TAGGED);
    assert_int_equal(ht_pair_judge("<<SYS>>", "no"), HT_PAIR_TAGGED);
    for (int i = 0; i < HT_PAIR_COUNT; i++)
        assert_true(strlen(ht_pair_text((ht_pair_state)i)) > 0);
}

/* --- the file ---------------------------------------------------------------------------------------------
 */

/* A sampled response; its tokens are made up. */
static int64_t add_response(ht_store *store, int64_t dialog, int64_t model, const char *text) {
    int64_t id = 0;
    int32_t tokens[] = {7, 2};
    ht_response_row row = {.dialog_id = dialog,
                           .text = text,
                           .tokens = tokens,
                           .token_count = 2,
                           .model_id = model,
                           .round = 1,
                           .temperature = 1,
                           .top_p = 1,
                           .seed = 1,
                           .finish = HT_FINISH_EOS};
    DO(ht_store_add_response(store, &row, &id, NULL, &err_));
    return id;
}

static int64_t add_model(ht_store *store, const char *name) {
    int64_t id = 0;
    DO(ht_store_add_model(store, &(ht_model_row){.name = name, .path = name, .hash = name, .stage = "sft"},
                          &id, &err_));
    return id;
}

static void test_sample__the_import_takes_the_file_once_a_choice_is_filled_in(void **state) {
    (void)state;
    char db[96], csv[96];
    ht_store *store = NULL;
    int64_t dialog = 0;
    const char *awkward = "one, \"two\"\nand a line";
    snprintf(db, sizeof db, "%s/p.db", root);
    snprintf(csv, sizeof csv, "%s/pairs.csv", root);
    DO(ht_store_open(&store, db, HT_STORE_CREATE, &err_));
    ht_dialog_row prompt = {.messages = "[{\"role\":\"user\",\"content\":\"say, \\\"it\\\"\"}]",
                            .kind = HT_KIND_SAFETY};
    DO(ht_store_add_dialog(store, &prompt, &dialog, NULL, &err_));
    ht_pair_row pair = {.number = 1, .round = 4, .text = {awkward, ""}};
    pair.id[0] = add_response(store, dialog, add_model(store, "a"), awkward);
    pair.id[1] = add_response(store, dialog, add_model(store, "b"), "");
    pair.dialog = &prompt;

    FILE *stream = fopen(csv, "w");
    assert_non_null(stream);
    ht_pair_write_header(stream);
    ht_pair_write(stream, &pair);
    assert_int_equal(fclose(stream), 0);

    ht_source *source = NULL;
    ht_row_reader *reader = NULL;
    ht_column_names names;
    ht_file_row row;
    int found = 0;
    DO(ht_column_names_parse(&names, NULL, 0, &err_));
    DO(ht_source_open(&source, csv, &err_));
    DO(ht_rows_open(&reader, HT_ROWS_CSV, source, &names, csv, &err_));
    DO(ht_rows_next(reader, &row, &found, &err_));
    assert_int_equal(found, 1);

    ht_annotation_defaults defaults = {.kind = -1, .split = -1, .holdout = 0.5};
    ht_row_outcome outcome;
    ht_refusal refusal;
    DO(ht_annotation_take(store, &defaults, &row.annotation, &outcome, &refusal, &err_));
    assert_int_equal(outcome, HT_ROW_REFUSED); /* nobody has looked at it */
    assert_int_equal(refusal.reason, HT_REASON_NOT_ANNOTATED);
    row.annotation.field[HT_COLUMN_CHOICE] = "b";
    row.annotation.size[HT_COLUMN_CHOICE] = 1;
    DO(ht_annotation_take(store, &defaults, &row.annotation, &outcome, &refusal, &err_));
    assert_int_equal(outcome, HT_ROW_TAKEN);

    ht_comparison_row taken;
    DO(ht_store_get_comparison(store, 1, &taken, &err_));
    assert_int_equal(taken.chosen_id, pair.id[1]);
    assert_int_equal(taken.rejected_id, pair.id[0]);
    assert_int_equal(taken.round, 4);
    assert_int_equal(taken.dialog.id, dialog);
    ht_rows_free(reader);
    ht_source_free(source);
    ht_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample__settings_depend_on_seed_round_and_dialog_alone),
        cmocka_unit_test(test_sample__temperatures_of_a_pair_differ),
        cmocka_unit_test(test_sample__what_cannot_be_compared),
        cmocka_unit_test_setup_teardown(test_sample__the_import_takes_the_file_once_a_choice_is_filled_in,
                                        make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
