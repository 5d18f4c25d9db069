/* Which response is chosen, from which pool, and what is kept of it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/files.h"
#include "core/model/score.h"
#include "rejection/rejection.h"
#include "tests/unit/do.h"
#include "tests/unit/folder.h"

#define NEAR(value, expected, tolerance) assert_true(fabs((value) - (expected)) <= (tolerance))

/* --- pure -------------------------------------------------------------------------------------------------
 */

static const ht_choose_rules plain = {.truncated = 0, .min_reward = -1e30};

static ht_candidate candidate(int64_t k, double reward, int truncated) {
    return (ht_candidate){.response_id = 100 + k, .k = k, .reward = reward, .truncated = truncated, .own = 1};
}

static void test_choose__greatest_reward(void **state) {
    (void)state;
    int64_t index;
    ht_candidate c[] = {candidate(0, -1, 0), candidate(1, 2, 0), candidate(2, 1.5, 0)};
    assert_int_equal(ht_choose(c, 3, &plain, &index), HT_CHOICE_MADE);
    assert_int_equal(index, 1);
}

static void test_choose__ties_go_to_the_lowest_k(void **state) {
    (void)state;
    int64_t index;
    ht_candidate c[] = {candidate(3, 2, 0), candidate(1, 2, 0), candidate(2, 2, 0), candidate(0, 1, 0)};
    assert_int_equal(ht_choose(c, 4, &plain, &index), HT_CHOICE_MADE);
    assert_int_equal(index, 1);
    c[2].k = 1; /* of two rounds, the same k: the older row */
    c[2].response_id = 5;
    assert_int_equal(ht_choose(c, 4, &plain, &index), HT_CHOICE_MADE);
    assert_int_equal(index, 2);
}

static void test_choose__never_a_cut_response_unless_told(void **state) {
    (void)state;
    int64_t index;
    ht_choose_rules rules = {.truncated = 1, .min_reward = -1e30};
    ht_candidate c[] = {candidate(0, -1, 0), candidate(1, 2, 1)};
    assert_int_equal(ht_choose(c, 2, &plain, &index), HT_CHOICE_MADE);
    assert_int_equal(index, 0);
    assert_int_equal(ht_choose(c, 2, &rules, &index), HT_CHOICE_MADE);
    assert_int_equal(index, 1);
    assert_int_equal(ht_choose(c + 1, 1, &plain, &index), HT_CHOICE_ALL_TRUNCATED);
    assert_int_equal(index, -1);
}

static void test_choose__least_reward(void **state) {
    (void)state;
    int64_t index;
    ht_choose_rules rules = {.min_reward = 0.5};
    ht_candidate c[] = {candidate(0, 0.25, 0), candidate(1, 0.5, 0)};
    assert_int_equal(ht_choose(c, 2, &rules, &index), HT_CHOICE_MADE);
    assert_int_equal(ht_choose(c, 1, &rules, &index), HT_CHOICE_BELOW_MIN);
    assert_int_equal(index, -1);
}

static void test_choose__temperatures_take_turns(void **state) {
    (void)state;
    double values[] = {0.7, 1.0, 1.3};
    ht_floats list = {values, 3};
    int64_t counts[3] = {0};
    for (int64_t k = 0; k < 8; k++)
        for (int t = 0; t < 3; t++)
            counts[t] += ht_rejection_temperature(&list, k) == values[t];
    assert_int_equal(counts[0], 3);
    assert_int_equal(counts[1], 3);
    assert_int_equal(counts[2], 2);
    for (size_t t = 0; t < 3; t++)
        assert_int_equal(ht_rejection_share(&list, 8, t), counts[t]);
    assert_int_equal(ht_rejection_share(&list, 9, 2), 3);
}

/* --- with a database --------------------------------------------------------------------------------------
 */

static char path[96];
static ht_store *store;
static int64_t policy, older, helpful, safe;

static int64_t add_model(const char *name) {
    int64_t id = 0;
    DO(ht_store_add_model(store, &(ht_model_row){.name = name, .path = name, .hash = name, .stage = "sft"},
                          &id, &err_));
    return id;
}

static int set_up(void **state) {
    ht_error err = HT_ERROR_INIT;
    if (make_root(state) != 0) return -1;
    snprintf(path, sizeof path, "%s/p.db", root);
    if (ht_store_open(&store, path, HT_STORE_CREATE, &err) != HT_OK) return -1;
    policy = add_model("policy");
    older = add_model("older");
    helpful = add_model("helpful");
    safe = add_model("safe");
    return 0;
}

static int tear_down(void **state) {
    ht_store_close(store);
    return remove_root(state);
}

static int64_t add_dialog(const char *prompt, ht_kind kind) {
    char messages[128];
    int64_t id = 0;
    snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"%s\"}]", prompt);
    DO(ht_store_add_dialog(store, &(ht_dialog_row){.messages = messages, .kind = kind}, &id, NULL, &err_));
    return id;
}

typedef struct sample {
    int64_t dialog, model, round, k, run;
    ht_finish finish;
    double rh, rs;
} sample;

static int64_t add_sample(sample s) {
    char text[64];
    int32_t tokens[2] = {5, 2};
    int64_t id = 0;
    snprintf(text, sizeof text, "model %d round %d k %d", (int)s.model, (int)s.round, (int)s.k);
    ht_response_row row = {.dialog_id = s.dialog,
                           .text = text,
                           .tokens = tokens,
                           .token_count = 2,
                           .model_id = s.model,
                           .run_id = s.run,
                           .round = s.round,
                           .temperature = 1,
                           .top_p = 1,
                           .seed = 7,
                           .k = s.k,
                           .logprob = -1,
                           .finish = s.finish ? s.finish : HT_FINISH_EOS};
    DO(ht_store_add_response(store, &row, &id, NULL, &err_));
    if (!isnan(s.rh)) DO(ht_store_add_score(store, id, helpful, s.rh, &err_));
    if (!isnan(s.rs)) DO(ht_store_add_score(store, id, safe, s.rs, &err_));
    return id;
}

/* The command at work on these dialogues; K samples each, all in the database. */
typedef struct bench {
    ht_rejection_config config;
    double temperature;
    ht_prompt_set prompts;
    int64_t dialogs[4], start[5];
    int32_t ids[4];
    ht_draw_entry draws[32];
    ht_rejection work;
    ht_rejection_result result;
} bench;

static bench *make_bench(int64_t k, const int64_t *dialogs, size_t count) {
    bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->temperature = 1;
    b->config = (ht_rejection_config){.db = path,
                                      .model = path,
                                      .helpful = path,
                                      .safe = path,
                                      .round = 2,
                                      .seed = 7,
                                      .k = k,
                                      .top_p = 1,
                                      .temperatures = {&b->temperature, 1},
                                      .min_reward = -1e30};
    for (size_t i = 0; i < count; i++) {
        b->dialogs[i] = dialogs[i];
        b->start[i + 1] = (int64_t)i + 1;
        for (int64_t j = 0; j < k; j++)
            b->draws[(int64_t)i * k + j] = (ht_draw_entry){.prompt = (int64_t)i, .k = j, .temperature = 1};
    }
    b->prompts = (ht_prompt_set){.tokens = {.data = b->ids, .count = count},
                                 .start = b->start,
                                 .dialog_ids = b->dialogs,
                                 .count = count};
    b->work = (ht_rejection){
        .config = &b->config,
        .store = store,
        .policy_id = policy,
        .helpful_id = helpful,
        .safe_id = safe,
        .draws = {.draws = b->draws,
                  .count = (int64_t)count * k,
                  .prompts = &b->prompts,
                  .model_id = policy,
                  .round = 2,
                  .seed = 7,
                  .top_p = 1,
                  .max_new_tokens = 8,
                  .max_positions = 64,
                  .chunk = 4},
    };
    return b;
}

static void free_bench(bench *b) {
    ht_rejection_result_free(&b->result);
    free(b);
}

static void choose(bench *b) {
    int64_t missing = -1;
    DO(ht_draws_find(&b->work.draws, store, &missing, &err_));
    assert_int_equal(missing, 0);
    ht_rejection_result_free(&b->result);
    DO(ht_rejection_choose(&b->work, &b->result, &err_));
}

static int64_t begin_run(void) {
    int64_t id = 0;
    DO(ht_store_begin_run(store, &(ht_run_row){.stage = "rejection", .round = 2, .model_id = policy}, &id,
                          &err_));
    return id;
}

static int64_t count(ht_store_set set) {
    int64_t rows = -1;
    ht_store_filter filter = {0};
    DO(ht_store_count(store, set, &filter, &rows, &err_));
    return rows;
}

static void test_choose__unsafe_responses_compete_by_safety(void **state) {
    (void)state;
    const double threshold = log(0.15 / 0.85); /* logit(0.15) = -1.7346, METHOD section 6 */
    int64_t dialog = add_dialog("hello", HT_KIND_HELPFULNESS);
    add_sample((sample){dialog, policy, 2, 0, 0, 0, 9, threshold - 1e-6}); /* just unsafe: -1.73, not 9 */
    int64_t second = add_sample((sample){dialog, policy, 2, 1, 0, 0, 3, threshold + 1e-6}); /* just safe: 3 */
    bench *b = make_bench(2, &dialog, 1);
    choose(b);
    assert_int_equal(b->result.chosen_count, 1);
    assert_int_equal(b->result.chosen[0], second);
    const ht_rejection_sums *sums = &b->result.sums[HT_GROUP_HELPFULNESS];
    assert_int_equal(sums->unsafe, 1);
    assert_int_equal(sums->chosen_unsafe, 0);
    NEAR(sums->chosen_reward, 3, 0);
    NEAR(sums->reward, 3 + threshold - 1e-6, 1e-12);
    assert_int_equal(b->result.sums[HT_GROUP_SAFETY].prompts, 0);
    free_bench(b);
}

static void test_choose__safety_prompts_go_by_safety_alone(void **state) {
    (void)state;
    int64_t dialog = add_dialog("bomb", HT_KIND_SAFETY);
    add_sample((sample){dialog, policy, 2, 0, 0, 0, 9, 1});
    int64_t second = add_sample((sample){dialog, policy, 2, 1, 0, 0, -9, 2});
    bench *b = make_bench(2, &dialog, 1);
    choose(b);
    assert_int_equal(b->result.chosen[0], second);
    NEAR(b->result.sums[HT_GROUP_SAFETY].chosen_reward, 2, 0);
    NEAR(b->result.sums[HT_GROUP_ALL].chosen_reward, 2, 0);
    free_bench(b);
}

static void test_choose__pool_last_is_these_samples_only(void **state) {
    (void)state;
    int64_t dialogs[] = {add_dialog("one", HT_KIND_HELPFULNESS), add_dialog("two", HT_KIND_HELPFULNESS)};
    int64_t own = add_sample((sample){dialogs[0], policy, 2, 0, 0, 0, 1, 5});
    add_sample((sample){dialogs[0], older, 1, 0, 0, 0, 8, 5});
    add_sample((sample){dialogs[1], older, 1, 0, 0, 0, 8, 5});
    add_sample((sample){dialogs[0], policy, 2, 1, 0, 0, 8, 5}); /* k of another command */
    bench *b = make_bench(1, dialogs, 1);
    choose(b);
    assert_int_equal(b->result.chosen_count, 1);
    assert_int_equal(b->result.chosen[0], own);
    free_bench(b);
}

static void test_choose__pool_all_takes_earlier_rounds_too(void **state) {
    (void)state;
    int64_t dialogs[] = {add_dialog("one", HT_KIND_HELPFULNESS), add_dialog("two", HT_KIND_HELPFULNESS),
                         add_dialog("three", HT_KIND_HELPFULNESS)};
    int64_t run = begin_run();
    add_sample((sample){dialogs[0], policy, 2, 0, 0, 0, 1, 5});
    int64_t early = add_sample((sample){dialogs[0], older, 1, 0, 0, 0, 8, 5});
    int64_t only_early = add_sample((sample){dialogs[1], older, 1, 0, 0, 0, -3, 5});
    int64_t own = add_sample((sample){dialogs[2], policy, 2, 0, 0, 0, 4, 5});
    add_sample((sample){dialogs[2], older, 1, 0, 0, 0, 2, 5});
    /* none of these is a sample of rejection sampling up to this round */
    add_sample((sample){dialogs[2], older, 1, 0, run, 0, 20, 5});
    add_sample((sample){dialogs[2], older, 1, HT_DRAW_ANNOTATION_K, 0, 0, 20, 5});
    add_sample((sample){dialogs[2], older, 3, 0, 0, 0, 20, 5});
    add_sample((sample){dialogs[2], 0, 1, 0, 0, 0, 20, 5});
    int64_t sampled[] = {dialogs[0], dialogs[2]};
    bench *b = make_bench(1, sampled, 2);
    b->config.pool = HT_POOL_ALL;
    choose(b);
    assert_int_equal(b->result.chosen_count, 3);
    assert_int_equal(b->result.chosen[0], early);
    assert_int_equal(b->result.chosen[1], only_early);
    assert_int_equal(b->result.chosen[2], own);
    assert_int_equal(b->result.sums[HT_GROUP_ALL].chosen_earlier, 2);
    assert_int_equal(b->result.sums[HT_GROUP_ALL].prompts, 2);
    assert_int_equal(b->result.sums[HT_GROUP_ALL].samples, 2);
    assert_int_equal(b->result.curve.prompts, 2);
    free_bench(b);
}

static void test_choose__cut_responses_give_no_choice_and_are_counted(void **state) {
    (void)state;
    int64_t dialog = add_dialog("one", HT_KIND_HELPFULNESS), id = 0;
    int32_t tokens[8] = {5, 5, 5, 5, 5, 5, 5, 5};
    ht_response_row row = {.dialog_id = dialog,
                           .text = "on and on",
                           .tokens = tokens,
                           .token_count = 8,
                           .model_id = policy,
                           .round = 2,
                           .temperature = 1,
                           .top_p = 1,
                           .seed = 7,
                           .finish = HT_FINISH_LENGTH};
    DO(ht_store_add_response(store, &row, &id, NULL, &err_));
    DO(ht_store_add_score(store, id, helpful, 1, &err_));
    DO(ht_store_add_score(store, id, safe, 1, &err_));
    bench *b = make_bench(1, &dialog, 1);
    choose(b);
    assert_int_equal(b->result.chosen_count, 0);
    assert_int_equal(b->result.sums[HT_GROUP_ALL].truncated, 1);
    assert_int_equal(b->result.sums[HT_GROUP_ALL].choices[HT_CHOICE_ALL_TRUNCATED], 1);
    b->config.truncated = 1;
    choose(b);
    assert_int_equal(b->result.chosen_count, 1);
    /* a row cut at 8 tokens is none of a command that allows 9 */
    int64_t missing;
    b->work.draws.max_new_tokens = 9;
    FAILS(ht_draws_find(&b->work.draws, store, &missing, &err_), HT_ERR_DATA, "max_new_tokens");
    free_bench(b);
}

static void test_choose__a_missing_score_is_an_error(void **state) {
    (void)state;
    int64_t dialog = add_dialog("one", HT_KIND_HELPFULNESS);
    add_sample((sample){dialog, policy, 2, 0, 0, 0, 1, NAN});
    bench *b = make_bench(1, &dialog, 1);
    int64_t missing;
    DO(ht_draws_find(&b->work.draws, store, &missing, &err_));
    FAILS(ht_rejection_choose(&b->work, &b->result, &err_), HT_ERR_RUN, "has lost a score");
    free_bench(b);
}

static void test_choose__keeps_the_same_rows_when_repeated(void **state) {
    (void)state;
    int64_t dialogs[] = {add_dialog("one", HT_KIND_HELPFULNESS), add_dialog("two", HT_KIND_SAFETY)};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++)
            add_sample((sample){dialogs[i], policy, 2, k, 0, 0, k, 2 - k});
    bench *b = make_bench(3, dialogs, 2);
    choose(b);
    for (int turn = 0; turn < 2; turn++) {
        json_t *report = ht_rejection_report(&b->work, &b->result);
        assert_non_null(report);
        DO(ht_rejection_keep(&b->work, &b->result, report, begin_run(), &err_));
        json_decref(report);
        assert_int_equal(count(HT_STORE_DEMONSTRATIONS), 2);
        assert_int_equal(count(HT_STORE_EVALUATIONS), 6);
    }
    ht_demonstration_row row;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = {.origins = 1u << HT_ORIGIN_REJECTION};
    int found = 0;
    DO(ht_store_read(store, HT_STORE_DEMONSTRATIONS, &filter, &cursor, &err_));
    DO(ht_store_next_demonstration(cursor, &row, &found, &err_));
    assert_int_equal(row.response.k, 2); /* by helpfulness */
    assert_int_equal(row.round, 2);
    NEAR(row.weight, 1, 0);
    DO(ht_store_next_demonstration(cursor, &row, &found, &err_));
    assert_int_equal(row.response.k, 0); /* by safety */
    ht_store_cursor_free(cursor);
    free_bench(b);
}

static void test_choose__another_choice_in_the_same_round_is_refused(void **state) {
    (void)state;
    int64_t dialog = add_dialog("one", HT_KIND_HELPFULNESS);
    int64_t first = add_sample((sample){dialog, policy, 2, 0, 0, 0, 1, 2});
    bench *b = make_bench(1, &dialog, 1);
    choose(b);
    json_t *report = ht_rejection_report(&b->work, &b->result);
    DO(ht_rejection_keep(&b->work, &b->result, report, begin_run(), &err_));
    int64_t second = add_sample((sample){dialog, policy, 2, 1, 0, 0, 5, 2});
    bench *other = make_bench(2, &dialog, 1);
    choose(other);
    assert_int_equal(b->result.chosen[0], first);
    assert_int_equal(other->result.chosen[0], second);
    ht_error refused = HT_ERROR_INIT;
    assert_int_equal(ht_rejection_keep(&other->work, &other->result, report, begin_run(), &refused),
                     HT_ERR_DATA);
    assert_non_null(strstr(refused.message, "round 2"));
    assert_int_equal(count(HT_STORE_DEMONSTRATIONS), 1);
    other->config.report_only = 1;
    DO(ht_rejection_keep(&other->work, &other->result, report, begin_run(), &err_));
    assert_int_equal(count(HT_STORE_DEMONSTRATIONS), 1);
    json_decref(report);
    free_bench(b);
    free_bench(other);
}

static void test_choose__report_has_exact_numbers(void **state) {
    (void)state;
    int64_t dialog = add_dialog("one", HT_KIND_HELPFULNESS);
    const double rewards[] = {1, 4, 2};
    for (int k = 0; k < 3; k++)
        add_sample((sample){dialog, policy, 2, k, 0, 0, rewards[k], 3});
    bench *b = make_bench(3, &dialog, 1);
    choose(b);
    json_t *report = ht_rejection_report(&b->work, &b->result);
    json_t *best = json_object_get(json_object_get(report, "curve"), "max");
    json_t *median = json_object_get(json_object_get(report, "curve"), "median");
    assert_int_equal(json_array_size(best), 3);
    /* pairs of {1, 4, 2}: maxima 4, 2, 4; medians 2.5, 1.5, 3 */
    NEAR(json_real_value(json_array_get(best, 0)), 7.0 / 3, 1e-12);
    NEAR(json_real_value(json_array_get(best, 1)), 10.0 / 3, 1e-12);
    NEAR(json_real_value(json_array_get(best, 2)), 4, 1e-12);
    NEAR(json_real_value(json_array_get(median, 1)), 7.0 / 3, 1e-12);
    NEAR(json_real_value(json_array_get(median, 2)), 2, 1e-12);
    json_t *all = json_object_get(json_object_get(report, "groups"), "all");
    NEAR(json_real_value(json_object_get(json_object_get(all, "chosen"), "reward_mean")), 4, 0);
    NEAR(json_real_value(json_object_get(json_object_get(all, "samples"), "reward_median")), 2, 0);
    assert_true(json_is_null(json_object_get(
        json_object_get(json_object_get(json_object_get(report, "groups"), "safety"), "chosen"),
        "reward_mean")));
    json_decref(report);
    free_bench(b);
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose__greatest_reward),
        cmocka_unit_test(test_choose__ties_go_to_the_lowest_k),
        cmocka_unit_test(test_choose__never_a_cut_response_unless_told),
        cmocka_unit_test(test_choose__least_reward),
        cmocka_unit_test(test_choose__temperatures_take_turns),
        WITH_STORE(test_choose__unsafe_responses_compete_by_safety),
        WITH_STORE(test_choose__safety_prompts_go_by_safety_alone),
        WITH_STORE(test_choose__pool_last_is_these_samples_only),
        WITH_STORE(test_choose__pool_all_takes_earlier_rounds_too),
        WITH_STORE(test_choose__cut_responses_give_no_choice_and_are_counted),
        WITH_STORE(test_choose__a_missing_score_is_an_error),
        WITH_STORE(test_choose__keeps_the_same_rows_when_repeated),
        WITH_STORE(test_choose__another_choice_in_the_same_round_is_refused),
        WITH_STORE(test_choose__report_has_exact_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
