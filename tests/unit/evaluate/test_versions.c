/* The table of versions from a small database. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "evaluate/versions.h"
#include "tests/unit/do.h"

#define assert_near(actual, expected, tolerance) assert_true(fabs((actual) - (expected)) <= (tolerance))
enum { DIALOGS = 6 }; /* the last two are safety prompts */

typedef struct fixture {
    char folder[64];
    ht_store *store;
    int64_t dialogs[DIALOGS], sft, v1, oracle_helpfulness, oracle_violation;
} fixture;

static char logged[4096];

static void keep_line(ht_log_level level, const char *line) {
    (void)level;
    strncat(logged, line, sizeof logged - strlen(logged) - 2);
    strcat(logged, "\n");
}

static int64_t add_model(ht_store *store, const char *name, const char *hash, const char *stage, int64_t round) {
    int64_t id = 0;
    DO(ht_store_add_model(store,
                          &(ht_model_row){.name = name, .path = name, .hash = hash, .stage = stage, .round = round}, &id,
                          &err_));
    return id;
}

static void record(ht_store *store, int64_t model, const char *name, double value, const char *details) {
    DO(ht_store_record_evaluation(
        store, &(ht_evaluation_row){.model_id = model, .name = name, .value = value, .details = details}, &err_));
}

/* A run with a response a dialogue; the oracles' scores of dialogue d are scores[d] (NAN: none). *run = its id. */
static void add_run(fixture *f, int64_t model, const double *scores, int64_t *run) {
    DO(ht_store_begin_run(f->store, &(ht_run_row){.stage = "evaluate", .model_id = model}, run, &err_));
    for (int d = 0; d < DIALOGS; d++) {
        int64_t id;
        const int32_t tokens[] = {5, 2};
        ht_response_row row = {.dialog_id = f->dialogs[d], .text = "x", .tokens = tokens, .token_count = 2, .model_id = model,
                               .run_id = *run, .temperature = 1, .top_p = 1, .finish = HT_FINISH_EOS};
        DO(ht_store_add_response(f->store, &row, &id, NULL, &err_));
        if (isnan(scores[d])) continue;
        DO(ht_store_add_score(f->store, id, f->oracle_helpfulness, scores[d], &err_));
        /* Of helpfulness prompts the violation is another number: it must not be taken. */
        DO(ht_store_add_score(f->store, id, f->oracle_violation, d < 4 ? 1 : scores[d], &err_));
    }
}

/* Rows as halter-evaluate model leaves them. */
static void add_evaluation(fixture *f, int64_t model, int64_t run, double reward, const char *settings) {
    char details[512];
    snprintf(details, sizeof details, "{\"run\": %d, \"settings\": {\"seed\": %s}, \"judges\": {}}", (int)run, settings);
    record(f->store, model, "prompts", DIALOGS, details);
    snprintf(details, sizeof details, "{\"run\": %d, \"standard_error\": 0.25, \"count\": 4}", (int)run);
    record(f->store, model, "helpfulness_reward", reward, details);
    record(f->store, model, "response_tokens", 2, details);
}

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    char path[128], messages[128];
    strcpy(f->folder, "/tmp/halter-test-versions-XXXXXX");
    if (!mkdtemp(f->folder)) return -1;
    snprintf(path, sizeof path, "%s/p.db", f->folder);
    DO(ht_store_open(&f->store, path, HT_STORE_CREATE, &err_));
    for (int d = 0; d < DIALOGS; d++) {
        snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"prompt %d\"}]", d);
        DO(ht_store_add_dialog(f->store,
                               &(ht_dialog_row){.messages = messages,
                                                .kind = d < 4 ? HT_KIND_HELPFULNESS : HT_KIND_SAFETY,
                                                .split = HT_SPLIT_TEST},
                               &f->dialogs[d], NULL, &err_));
    }
    /* the later version first: ids do not give the order */
    f->v1 = add_model(f->store, "rlhf-v1", "b", "ppo", 1);
    f->sft = add_model(f->store, "sft", "a", "sft", 0);
    f->oracle_helpfulness = add_model(f->store, "oracle-helpfulness", "1", "oracle", 0);
    f->oracle_violation = add_model(f->store, "oracle-violation", "1", "oracle", 0);
    logged[0] = '\0';
    ht_log_set_sink(keep_line);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_log_set_sink(NULL);
    ht_store_close(f->store);
    ht_status status = ht_folder_remove(f->folder, &err);
    free(f);
    return status == HT_OK ? 0 : -1;
}

static const ht_strings all_names = {NULL, 0};

static void evaluate_sft(fixture *f) {
    int64_t run, old;
    const double earlier[] = {1, 1, 1, 1, 1, 1}, scores[] = {0.1, 0.2, 0.3, 0.4, 1, 0};
    add_run(f, f->sft, earlier, &old); /* not its latest evaluation */
    add_run(f, f->sft, scores, &run);
    add_evaluation(f, f->sft, run, 0.4, "1");
}

static void test_versions__cells(void **state) {
    fixture *f = *state;
    ht_versions versions;
    int64_t run;
    char details[256];
    const double scores[] = {0.5, 0.5, 0.7, 0.7, 0, 0};
    evaluate_sft(f);
    add_run(f, f->v1, scores, &run);
    add_evaluation(f, f->v1, run, 0.6, "1");
    snprintf(details, sizeof details, "{\"run\": %d, \"standard_error\": 0.05}", (int)run);
    record(f->store, f->v1, "win_rate:sft", 0.75, details);
    record(f->store, f->v1, "win_rate_safety:sft", 0.5, "{\"run\": 999, \"standard_error\": 0.05}"); /* stale */
    int64_t old = add_model(f->store, "reward-safety", "old", "reward-safe", 1);
    int64_t rm = add_model(f->store, "reward-safety", "new", "reward-safe", 1);
    int64_t later = add_model(f->store, "reward-safety", "later", "reward-safe", 2);
    const char *report = "{\"groups\": {\"kind\": {\"safety\": {\"accuracy\": %g, \"accuracy_se\": 0.01},"
                         " \"helpfulness\": {\"accuracy\": 0.1, \"accuracy_se\": 0.01}}}}";
    const int64_t models[] = {old, rm, later};
    const double accuracies[] = {0.6, 0.7, 0.8};
    for (int i = 0; i < 3; i++) {
        snprintf(details, sizeof details, report, accuracies[i]);
        record(f->store, models[i], "reward_accuracy", 0.3, details);
    }
    DO(ht_versions_read(&versions, f->store, &all_names, &err_));
    assert_int_equal(versions.count, 2);
    assert_string_equal(versions.baseline, "sft");
    assert_string_equal(versions.rows[0].name, "sft");
    assert_string_equal(versions.rows[1].name, "rlhf-v1");
    const ht_cell *sft = versions.rows[0].cells, *v1 = versions.rows[1].cells;
    assert_near(sft[HT_TABLE_TRUE_HELPFULNESS].value, 0.25, 1e-12);
    assert_near(sft[HT_TABLE_TRUE_HELPFULNESS].error, sqrt(0.05 / 3 / 4), 1e-12);
    assert_near(sft[HT_TABLE_TRUE_VIOLATIONS].value, 0.5, 1e-12);
    assert_near(v1[HT_TABLE_TRUE_HELPFULNESS].value, 0.6, 1e-12);
    assert_near(v1[HT_TABLE_TRUE_VIOLATIONS].value, 0, 1e-12);
    assert_near(sft[HT_TABLE_HELPFULNESS_REWARD].value, 0.4, 1e-12);
    assert_near(sft[HT_TABLE_HELPFULNESS_REWARD].error, 0.25, 1e-12);
    assert_true(isnan(sft[HT_TABLE_SAFETY_REWARD].value));
    assert_near(sft[HT_TABLE_WIN_RATE].value, 0.5, 0);
    assert_true(isnan(sft[HT_TABLE_WIN_RATE].error));
    assert_near(v1[HT_TABLE_WIN_RATE].value, 0.75, 0);
    assert_near(v1[HT_TABLE_WIN_RATE].error, 0.05, 0);
    assert_true(isnan(v1[HT_TABLE_WIN_RATE_SAFETY].value));
    assert_true(isnan(sft[HT_TABLE_REWARD_ACCURACY_SAFETY].value));
    assert_near(v1[HT_TABLE_REWARD_ACCURACY_SAFETY].value, 0.7, 1e-12);
    assert_true(isnan(v1[HT_TABLE_REWARD_ACCURACY_HELPFULNESS].value));
    assert_string_equal(logged, "");
    ht_versions_release(&versions);
}

static void test_versions__json_and_text(void **state) {
    fixture *f = *state;
    ht_versions versions;
    json_t *json = NULL;
    evaluate_sft(f);
    DO(ht_versions_read(&versions, f->store, &all_names, &err_));
    DO(ht_versions_json(&versions, &json, &err_));
    const json_t *row = json_array_get(json_object_get(json, "versions"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "name")), "sft");
    assert_near(json_number_value(json_object_get(row, "true_helpfulness")), 0.25, 1e-12);
    assert_near(json_number_value(json_object_get(row, "win_rate")), 0.5, 0);
    assert_true(json_is_null(json_object_get(row, "reward_accuracy_safety")));
    assert_near(json_number_value(json_object_get(json_object_get(row, "standard_errors"), "helpfulness_reward")), 0.25, 0);
    assert_true(json_is_null(json_object_get(json_object_get(row, "standard_errors"), "win_rate")));
    json_decref(json);
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    ht_versions_print(&versions, stream);
    assert_int_equal(fclose(stream), 0);
    assert_non_null(strstr(text, "0.400 \xC2\xB1 0.250"));
    assert_non_null(strstr(text, "against sft"));
    /* heading and row end in the same column: ± is one character of two bytes */
    size_t heading = strcspn(text, "\n"), line = strcspn(text + heading + 1, "\n"), marks = 0;
    for (size_t i = 0; i < line; i++)
        marks += (unsigned char)text[heading + 1 + i] == 0xC2;
    assert_true(marks >= 3);
    assert_int_equal(line - marks, heading);
    free(text);
    ht_versions_release(&versions);
}

static void test_versions__missing_scores_and_other_settings_are_said(void **state) {
    fixture *f = *state;
    ht_versions versions;
    int64_t run;
    const double scores[] = {0.5, NAN, 0.7, NAN, 0, 0};
    evaluate_sft(f);
    add_run(f, f->v1, scores, &run);
    add_evaluation(f, f->v1, run, 0.6, "2");
    DO(ht_versions_read(&versions, f->store, &all_names, &err_));
    assert_near(versions.rows[1].cells[HT_TABLE_TRUE_HELPFULNESS].value, 0.6, 1e-12);
    assert_non_null(strstr(logged, "rlhf-v1: 2 of 6 responses have no true score"));
    assert_non_null(strstr(logged, "rlhf-v1 was evaluated with other prompts or sampling than sft"));
    ht_versions_release(&versions);
}

static void test_versions__the_newest_of_a_name(void **state) {
    fixture *f = *state;
    ht_versions versions;
    int64_t run, again = add_model(f->store, "sft", "other", "sft", 0);
    const double scores[] = {1, 1, 1, 1, 0, 0};
    evaluate_sft(f);
    add_run(f, again, scores, &run);
    add_evaluation(f, again, run, 0.9, "1");
    DO(ht_versions_read(&versions, f->store, &all_names, &err_));
    assert_int_equal(versions.count, 1);
    assert_int_equal(versions.rows[0].model_id, again);
    assert_int_equal(versions.baseline_id, again);
    assert_non_null(strstr(logged, "several"));
    ht_versions_release(&versions);
}

static void test_versions__names_choose_and_order(void **state) {
    fixture *f = *state;
    ht_versions versions;
    int64_t run, base = add_model(f->store, "base", "c", "pretrain", 0);
    const double scores[] = {0, 0, 0, 0, 0, 0};
    char *names[] = {"base", "sft"}, *twice[] = {"sft", "sft"}, *nobody[] = {"nobody"};
    evaluate_sft(f);
    add_run(f, base, scores, &run);
    add_evaluation(f, base, run, 0.1, "1");
    DO(ht_versions_read(&versions, f->store, &all_names, &err_)); /* a base model is no version of its own accord */
    assert_int_equal(versions.count, 1);
    ht_versions_release(&versions);
    DO(ht_versions_read(&versions, f->store, &(ht_strings){names, 2}, &err_));
    assert_int_equal(versions.count, 2);
    assert_string_equal(versions.rows[0].name, "base");
    assert_string_equal(versions.rows[1].name, "sft");
    assert_string_equal(versions.baseline, "sft");
    ht_versions_release(&versions);
    const ht_strings wrong[] = {{twice, 2}, {nobody, 1}};
    for (int i = 0; i < 2; i++) {
        ht_error err = HT_ERROR_INIT;
        assert_int_equal(ht_versions_read(&versions, f->store, &wrong[i], &err), HT_ERR_DATA);
        assert_null(versions.rows);
    }
}

static void test_versions__none(void **state) {
    fixture *f = *state;
    ht_versions versions;
    ht_error err = HT_ERROR_INIT;
    record(f->store, f->sft, "helpfulness_reward", 0.5, NULL); /* without a run: by hand */
    assert_int_equal(ht_versions_read(&versions, f->store, &all_names, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "no version was evaluated"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_versions__cells, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_versions__json_and_text, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_versions__missing_scores_and_other_settings_are_said, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_versions__the_newest_of_a_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_versions__names_choose_and_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_versions__none, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
