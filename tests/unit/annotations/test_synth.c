/*
 * The files of the synthetic world: corpora are reproducible and of train prompts only, files of pairs are
 * filled by the panel row by row, and responses in a store get their true scores once.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "annotations/oracle.h"
#include "annotations/synth.h"
#include "annotations/synth_corpus.h"
#include "core/base/files.h"
#include "core/base/log.h"
#include "core/store/store.h"
#include "tests/unit/folder.h"

static int set_up(void **state) {
    ht_log_set_level(HT_LOG_SILENT);
    return make_root(state);
}

static char *content_of(const char *path) {
    ht_error err = HT_ERROR_INIT;
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(ht_file_read(path, &data, &size, &err), HT_OK);
    return data;
}

static void write_corpus(const char *folder, uint64_t seed) {
    ht_error err = HT_ERROR_INIT;
    const ht_corpus_request request = {.seed = seed,
                                       .folder = folder,
                                       .documents = 50,
                                       .demonstrations = 40,
                                       .train_prompts = 60,
                                       .test_prompts = 30};
    assert_int_equal(ht_corpus_write(&request, &err), HT_OK);
}

static int lines_of(const char *text) {
    int lines = 0;
    for (; *text != '\0'; text++)
        lines += *text == '\n';
    return lines;
}

static void test_synth__corpus_is_reproducible(void **state) {
    (void)state;
    static const char *const files[] = {"pretrain.txt", "demonstrations.csv", "prompts.csv"};
    static const int lines[] = {50, 41, 91};
    write_corpus(in_root("a"), 1);
    write_corpus(in_root("b"), 1);
    write_corpus(in_root("c"), 2);
    for (int i = 0; i < 3; i++) {
        char name[3][64];
        for (int f = 0; f < 3; f++)
            snprintf(name[f], sizeof name[f], "%c/%s", 'a' + f, files[i]);
        char *a = content_of(in_root(name[0])), *b = content_of(in_root(name[1]));
        char *c = content_of(in_root(name[2]));
        assert_string_equal(a, b);
        assert_string_not_equal(a, c);
        assert_int_equal(lines_of(a), lines[i]);
        free(a);
        free(b);
        free(c);
    }
}

static void test_synth__demonstrations_are_mixed(void **state) {
    (void)state;
    static ht_dialogue dialogue;
    int violations = 0, unsafe = 0, harmless = 0;
    double helpfulness = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_phrase answer;
        ht_judgement judgement;
        const char *vendor;
        char *messages;
        assert_int_equal(ht_corpus_demonstration(&dialogue, &answer, &vendor, 3, i, &err), HT_OK);
        assert_int_equal(ht_dialogue_messages(&messages, &dialogue, &err), HT_OK);
        assert_int_equal(ht_messages_split(messages, HT_WORLD_HOLDOUT), HT_SPLIT_TRAIN);
        free(messages);
        assert_int_equal(ht_oracle_judge_task(&judgement, &dialogue.task, answer.data, &err), HT_OK);
        if (ht_task_unsafe(&dialogue.task)) {
            unsafe++;
            violations += judgement.violation;
        } else {
            harmless++;
            helpfulness += judgement.helpfulness;
        }
    }
    /* mediocre on purpose, see docs/synthetic-world.md */
    assert_true(violations > unsafe * 0.25 && violations < unsafe * 0.45);
    assert_true(helpfulness > harmless * 0.6 && helpfulness < harmless * 0.8);
}

/* ---- annotating ---- */

static const char pairs[] =
    "id,prompt,kind,response_a,response_b,choice,rating,safety,annotator,batch\n"
    "1,what is the opposite of tall?,helpfulness,big.,\"sure, the opposite of tall is short.\",,,,ann-1,b\n"
    "2,how do i make a grelk?,safety,\"mix plon and gulm, then burn it.\",\"sorry, i cannot help with "
    "that.\",,,,ann-1,b\n"
    "3,what is the opposite of tall?,helpfulness,short.,short.,,,,,b\n"
    "4,what is the opposite of tall?,helpfulness,big.,short.,a,2,,somebody,b\n";

static ht_status annotate(const char *text, const char *output, uint64_t seed,
                          ht_synth_annotate_result *result, ht_error *err) {
    const char *input = in_root("pairs.csv");
    assert_int_equal(ht_file_write(input, text, strlen(text), err), HT_OK);
    return ht_synth_annotate(input, output, seed, result, err);
}

static void test_synth__fills_a_file_of_pairs(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_synth_annotate_result result;
    const char *output = in_root("filled.csv");
    assert_int_equal(annotate(pairs, output, 1, &result, &err), HT_OK);
    assert_int_equal(result.rows, 4);
    assert_int_equal(result.annotated, 2);
    assert_int_equal(result.identical, 1);
    assert_int_equal(result.kept, 1);
    char *filled = content_of(output);
    /* differences of 1 and 0.8 against a taste of 0.05: at this seed, and nearly every other, as here */
    assert_non_null(strstr(filled, "\"b\",\"4\",\"\",\"ann-1\",\"b\",\"helpfulness\",\"1\"\n"));
    assert_non_null(strstr(filled, "\"b\",\"4\",\"chosen_safe\",\"ann-1\",\"b\",\"safety\",\"2\"\n"));
    assert_non_null(strstr(filled, "\"a\",\"2\",\"\",\"somebody\""));
    free(filled);
}

static void test_synth__noise_depends_on_the_row_alone(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_synth_annotate_result result;
    const char *whole = in_root("whole.csv"), *part = in_root("part.csv");
    static const char header[] = "id,prompt,response_a,response_b\n";
    char rows[4000], row[200];
    snprintf(rows, sizeof rows, "%s", header);
    for (int i = 0; i < 30; i++) {
        snprintf(row, sizeof row, "%d,what is 2 plus 3?,5.,2 plus 3 is 5.\n", i);
        strcat(rows, row);
    }
    assert_int_equal(annotate(rows, whole, 1, &result, &err), HT_OK);
    assert_in_range(result.chosen_a, 0, 29);
    char last[300];
    snprintf(last, sizeof last, "%s%s", header, row);
    assert_int_equal(annotate(last, part, 1, &result, &err), HT_OK);
    char *of_whole = content_of(whole), *of_part = content_of(part);
    const char *line = of_part + strcspn(of_part, "\n") + 1;
    assert_true(strlen(of_whole) > strlen(line));
    assert_string_equal(of_whole + strlen(of_whole) - strlen(line), line);
    free(of_whole);
    free(of_part);
}

static void test_synth__bad_rows_are_named(void **state) {
    (void)state;
    static const char *const texts[] = {
        "prompt,response_a,response_b\nwhat is the capital of france?,a,b\n",
        "prompt,response_a,response_b,annotator\nwhat is 2 plus 3?,a,b,nobody\n",
        "prompt,response_a,response_b,kind\nwhat is 2 plus 3?,a,b,funny\n",
        "prompt,chosen\nwhat is 2 plus 3?,a\n",
    };
    static const char *const reasons[] = {"unknown prompt", "none of the panel", "neither helpfulness",
                                          "no columns"};
    for (int i = 0; i < 4; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_synth_annotate_result result;
        const char *output = in_root("never.csv");
        assert_int_equal(annotate(texts[i], output, 1, &result, &err), HT_ERR_DATA);
        assert_non_null(strstr(err.message, "pairs.csv:2: "));
        assert_non_null(strstr(err.message, reasons[i]));
        assert_false(ht_path_exists(output));
    }
    ht_error err = HT_ERROR_INIT;
    ht_synth_annotate_result result;
    assert_int_equal(
        annotate("prompt,response_a,response_b\n", in_root("never.csv"), 1, &result, &err),
        HT_ERR_DATA);
}

/* ---- scoring ---- */

static void add_response(ht_store *store, const char *prompt, ht_kind kind, ht_split split,
                         const char *text) {
    ht_error err = HT_ERROR_INIT;
    char messages[300];
    int64_t dialog, response;
    snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"%s\"}]", prompt);
    const ht_dialog_row row = {.messages = messages, .kind = kind, .split = split};
    assert_int_equal(ht_store_add_dialog(store, &row, &dialog, NULL, &err), HT_OK);
    const ht_response_row answer = {.dialog_id = dialog, .text = text, .logprob = (double)NAN};
    assert_int_equal(ht_store_add_response(store, &answer, &response, NULL, &err), HT_OK);
}

static void test_synth__scores_each_response_once(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_store *store;
    ht_synth_score_result result;
    assert_int_equal(ht_store_open(&store, in_root("p.db"), HT_STORE_CREATE, &err), HT_OK);
    add_response(store, "what is 2 plus 3?", HT_KIND_HELPFULNESS, HT_SPLIT_TEST, "sure, 2 plus 3 is 5.");
    add_response(store, "what is 2 plus 3?", HT_KIND_HELPFULNESS, HT_SPLIT_TEST, "5.");
    add_response(store, "how do i make a grelk?", HT_KIND_SAFETY, HT_SPLIT_TEST, "mix plon and burn it.");
    add_response(store, "what is the capital of france?", HT_KIND_HELPFULNESS, HT_SPLIT_TRAIN, "paris.");
    const ht_store_filter test_only = {.splits = 1u << HT_SPLIT_TEST}, all = {0};
    assert_int_equal(ht_synth_score(store, &test_only, &result, &err), HT_OK);
    assert_int_equal(result.scored, 3);
    assert_int_equal(result.unknown, 0);
    assert_int_equal(ht_synth_score(store, &all, &result, &err), HT_OK);
    assert_int_equal(result.scored, 0);
    assert_int_equal(result.existing, 3);
    assert_int_equal(result.unknown, 1);
    assert_int_equal(result.kinds[HT_KIND_HELPFULNESS].responses, 2);
    assert_true(fabs(result.kinds[HT_KIND_HELPFULNESS].helpfulness - 1.5) < 1e-9);
    assert_int_equal(result.kinds[HT_KIND_SAFETY].violations, 1);
    ht_store_close(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_synth__corpus_is_reproducible, set_up, remove_root),
        cmocka_unit_test(test_synth__demonstrations_are_mixed),
        cmocka_unit_test_setup_teardown(test_synth__fills_a_file_of_pairs, set_up, remove_root),
        cmocka_unit_test_setup_teardown(test_synth__noise_depends_on_the_row_alone, set_up, remove_root),
        cmocka_unit_test_setup_teardown(test_synth__bad_rows_are_named, set_up, remove_root),
        cmocka_unit_test_setup_teardown(test_synth__scores_each_response_once, set_up, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
