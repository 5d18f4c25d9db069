/* The training loop, stopped and taken up again: the bytes of a run that was never stopped. */
#include "tests/unit/train/support.h"

/* Stopped before any step and taken up again: the same bytes as a run that was never stopped. */
static void check_resume_everywhere(plan wanted, int64_t stride) {
    plan whole = wanted;
    use_out("whole");
    run_ok(&whole);
    result expected = take_result();
    for (int64_t k = 1; k < STEPS; k++) {
        char name[32];
        plan first = wanted, second = wanted;
        snprintf(name, sizeof name, "cut-%d", (int)k);
        use_out(name);
        first.interrupt_at = k;
        run_fails(&first, HT_TERMINATED, k < stride ? "before the first state" : "is saved");
        assert_int_equal(ht_path_exists(in_out("config.json")), 0);
        int n = 0;
        while (second.options[n])
            n++;
        second.options[n] = "--resume";
        run_ok(&second);
        result got = take_result();
        assert_same_result(&expected, &got);
        assert_int_equal(ht_path_exists(in_out("state")), 0);
        free_result(&got);
    }
    free_result(&expected);
}

static void test_train__resume_at_any_step_gives_the_same_bytes(void **state) {
    (void)state;
    check_resume_everywhere((plan){.models = 0}, 1);
}

static void test_train__resume_of_two_models_gives_the_same_bytes(void **state) {
    (void)state;
    check_resume_everywhere((plan){.models = 2, .stride = 2, .options = {"--set", "train.save_every=2"}}, 2);
}

static int computes_bf16(void) {
    ht_backend *be = NULL;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_backend_open(&be, HT_BACKEND_CPU, 1, &err), HT_OK);
    ht_status possible = ht_backend_choose_dtype(be, HT_DTYPE_BF16, &err);
    ht_backend_close(be);
    return possible == HT_OK;
}

/* The state holds the bf16 weights and what they are short of f32. */
static void test_train__resume_in_bf16_gives_the_same_bytes(void **state) {
    (void)state;
    if (!computes_bf16()) skip();
    check_resume_everywhere((plan){.models = 2, .stride = 1, .options = {"--set", "train.dtype=bf16"}}, 1);
}

/* Moments of bf16 or 8 bits, beside f32 weights and bf16 ones that are all there is of them. */
static void test_train__resume_with_bf16_state_gives_the_same_bytes(void **state) {
    (void)state;
    check_resume_everywhere((plan){.models = 2, .stride = 1, .options = {"--set", "optim.state=bf16"}}, 1);
}

static void test_train__resume_with_8bit_state_gives_the_same_bytes(void **state) {
    (void)state;
    check_resume_everywhere((plan){.models = 2, .stride = 1, .options = {"--set", "optim.state=8bit"}}, 1);
}

static void test_train__resume_in_bf16_with_bf16_state_gives_the_same_bytes(void **state) {
    (void)state;
    if (!computes_bf16()) skip();
    check_resume_everywhere(
        (plan){.models = 2, .options = {"--set", "train.dtype=bf16", "--set", "optim.state=bf16"}}, 1);
}

static void test_train__resume_in_bf16_with_8bit_state_gives_the_same_bytes(void **state) {
    (void)state;
    if (!computes_bf16()) skip();
    check_resume_everywhere(
        (plan){.models = 2, .options = {"--set", "train.dtype=bf16", "--set", "optim.state=8bit"}}, 1);
}

/* The comparison above can fail: a task that does not save its state ends elsewhere. */
static void test_train__forgotten_task_state_is_noticed(void **state) {
    (void)state;
    use_out("whole");
    run_ok(&(plan){.keep_no_state = 1});
    result expected = take_result();
    use_out("cut");
    run_fails(&(plan){.keep_no_state = 1, .interrupt_at = 3}, HT_TERMINATED, "step 3 of 6");
    run_ok(&(plan){.keep_no_state = 1, .options = {"--resume"}});
    result got = take_result();
    assert_memory_not_equal(expected.model, got.model, expected.model_size);
    free_result(&expected);
    free_result(&got);
}

/* Rows behind the state were written by steps that are done again. */
static void test_train__rows_behind_the_state_are_cut(void **state) {
    (void)state;
    use_out("whole");
    run_ok(&(plan){.stride = 1});
    result expected = take_result();
    use_out("cut");
    /* States at 2 and 4; a stride of 2 keeps the failure at step 3 from saving one. */
    run_fails(&(plan){.stride = 2, .options = {"--set", "train.save_every=2"}, .bad_loss_at = 3}, HT_ERR_RUN,
              "step 4: ");
    assert_int_equal(ht_path_exists(in_out("state/step-00000002")), 1);
    size_t size;
    char *rows = contents("metrics.jsonl", &size);
    assert_non_null(strstr(rows, "{\"step\":3,"));
    free(rows);
    run_ok(&(plan){.stride = 2, .options = {"--resume"}});
    result got = take_result();
    assert_same_result(&expected, &got);
    free_result(&expected);
    free_result(&got);
}

static void test_train__changed_config_is_refused(void **state) {
    (void)state;
    run_fails(&(plan){.interrupt_at = 2}, HT_TERMINATED, "is saved");
    run_fails(&(plan){.options = {"--resume", "--set", "optim.lr=0.02", "--seed", "5"}}, HT_ERR_USAGE,
              "optim.lr");
    run_fails(&(plan){.options = {"--resume", "--set", "optim.lr=0.02", "--seed", "5"}}, HT_ERR_USAGE,
              "seed");
    run_fails(&(plan){.options = {"--resume", "--set", "optim.state=bf16"}}, HT_ERR_USAGE, "optim.state");
    run_fails(&(plan){.options = {"--resume"}, .data_hash = "other"}, HT_ERR_USAGE,
              "data_hash was \"data\", is \"other\"");
    run_fails(&(plan){.options = {"--resume"}, .stage = "ppo"}, HT_ERR_USAGE,
              "stage was \"sft\", is \"ppo\"");
    run_fails(&(plan){.stride = 0}, HT_ERR_USAGE, "--resume");
    /* What a person may change between runs is no reason. */
    run_ok(&(plan){.options = {"--resume", "--set", "train.save_every=7"}});
}

/* Killed when the model was complete and the database had not been told: it is told, and nothing is computed.
 */
static void test_train__end_is_made_up_for(void **state) {
    (void)state;
    char path[256], *note;
    size_t size;
    ht_store *store = NULL;
    worker w;
    ht_error err = HT_ERROR_INIT;
    snprintf(path, sizeof path, "%s/p.db", root);
    DO(ht_store_open(&store, path, HT_STORE_CREATE, &err_));
    run_fails(&(plan){.store = store, .interrupt_at = 3}, HT_TERMINATED, "is saved");
    note = contents("state/run.json", &size);
    run_ok(&(plan){.store = store, .options = {"--resume"}});
    result expected = take_result();
    DO(ht_folder_create(in_out("state"), &err_));
    DO(ht_file_write(in_out("state/run.json"), note, size, &err_));
    DO(ht_store_end_run(store, 1, HT_TERMINATED, 0, &err_));
    plan again = {.store = store, .options = {"--resume"}};
    assert_int_equal(run(&again, &w, &err), HT_OK);
    assert_int_equal(w.steps_done, 0);
    assert_int_equal(ht_path_exists(in_out("state")), 0);
    result got = take_result();
    assert_same_result(&expected, &got);
    free_result(&expected);
    free_result(&got);
    free(note);
    ht_store_close(store);
}

/* Rows that waited for a locked database when their process was killed come in with the next one. */
static void test_train__rows_that_waited_are_made_up_for(void **state) {
    (void)state;
    char path[256];
    ht_store *store = NULL;
    snprintf(path, sizeof path, "%s/p.db", root);
    DO(ht_store_open(&store, path, HT_STORE_CREATE, &err_));
    run_fails(&(plan){.store = store, .interrupt_at = 3}, HT_TERMINATED, "is saved");
    assert_int_equal(count_rows(path, "DELETE FROM metric WHERE step < 3 RETURNING step"), 0);
    run_ok(&(plan){.store = store, .options = {"--resume"}});
    assert_int_equal(count_rows(path, "SELECT count(DISTINCT step) FROM metric"), STEPS + 1);
    assert_int_equal(
        count_rows(path, "SELECT count(*) FROM metric WHERE name = 'loss' AND value = 0.5 AND step = 2"), 1);
    ht_store_close(store);
}

static void test_train__finished_is_left_alone(void **state) {
    (void)state;
    worker w;
    ht_error err = HT_ERROR_INIT;
    run_ok(&(plan){.stride = 0});
    result expected = take_result();
    plan again = {.options = {"--resume"}};
    assert_int_equal(run(&again, &w, &err), HT_OK);
    assert_int_equal(w.steps_done, 0);
    result got = take_result();
    assert_same_result(&expected, &got);
    run_fails(&(plan){.stride = 0}, HT_ERR_USAGE, "holds a model");
    free_result(&expected);
    free_result(&got);
}

static void test_train__missing_metrics_do_not_stop_a_resume(void **state) {
    (void)state;
    run_fails(&(plan){.interrupt_at = 3}, HT_TERMINATED, "is saved");
    assert_int_equal(remove(in_out("metrics.jsonl")), 0);
    run_ok(&(plan){.options = {"--resume"}});
    size_t size;
    char *rows = contents("metrics.jsonl", &size);
    assert_int_equal(strncmp(rows, "{\"step\":4,", 10), 0);
    free(rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_train__resume_at_any_step_gives_the_same_bytes),
        TEST(test_train__resume_of_two_models_gives_the_same_bytes),
        TEST(test_train__resume_in_bf16_gives_the_same_bytes),
        TEST(test_train__resume_with_bf16_state_gives_the_same_bytes),
        TEST(test_train__resume_with_8bit_state_gives_the_same_bytes),
        TEST(test_train__resume_in_bf16_with_bf16_state_gives_the_same_bytes),
        TEST(test_train__resume_in_bf16_with_8bit_state_gives_the_same_bytes),
        TEST(test_train__forgotten_task_state_is_noticed),
        TEST(test_train__rows_behind_the_state_are_cut),
        TEST(test_train__changed_config_is_refused),
        TEST(test_train__end_is_made_up_for),
        TEST(test_train__rows_that_waited_are_made_up_for),
        TEST(test_train__finished_is_left_alone),
        TEST(test_train__missing_metrics_do_not_stop_a_resume),
    };
    return cmocka_run_group_tests_name("train resume", tests, NULL, NULL);
}
