/* The training loop: what it computes, records, saves and says; how it ends. */
#include "tests/unit/train/support.h"

/* The seed reaches the rounding: another one, other bits. (The gradients here do not depend on it.) */
static void test_train__rounding_depends_on_the_seed(void **state) {
    (void)state;
    use_out("one");
    run_ok(&(plan){.options = {"--set", "optim.state=8bit"}});
    result one = take_result();
    use_out("two");
    run_ok(&(plan){.options = {"--set", "optim.state=8bit", "--seed", "2"}});
    result two = take_result();
    assert_memory_not_equal(one.model, two.model, one.model_size);
    free_result(&one);
    free_result(&two);
}

/* Models are updated in turn, so that gradients in the same memory are the same gradients. */
static void test_train__gradients_may_share_memory(void **state) {
    (void)state;
    use_out("own");
    run_ok(&(plan){.models = 2, .own_gradients = 1});
    result own = take_result();
    use_out("shared");
    run_ok(&(plan){.models = 2});
    result shared = take_result();
    assert_same_result(&own, &shared);
    free_result(&own);
    free_result(&shared);
}

static void test_train__rows_are_as_documented(void **state) {
    (void)state;
    run_ok(&(plan){.models = 2});
    size_t size;
    char *rows = contents("metrics.jsonl", &size);
    assert_int_equal(strncmp(rows, "{\"step\":0,\"eval_counter\":0.0,\"eval_none\":null}\n", 47), 0);
    assert_non_null(strstr(
        rows, "{\"step\":1,\"loss\":1.0,\"tokens\":100.0,\"lr\":0.0050000000000000001,\"grad_norm\":"));
    assert_non_null(strstr(rows, "\"value_grad_norm\":"));
    int lines = 0;
    for (char *c = rows; *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, STEPS + 1);
    free(rows);
}

static void test_train__log_every_keeps_evaluations_and_the_end(void **state) {
    (void)state;
    run_ok(&(plan){.options = {"--set", "train.log_every=5", "--set", "train.eval_every=4"}});
    size_t size;
    char *rows = contents("metrics.jsonl", &size);
    const int wanted[STEPS + 1] = {1, 0, 0, 0, 1, 1, 1};
    for (int step = 0; step <= STEPS; step++) {
        char head[32];
        snprintf(head, sizeof head, "{\"step\":%d,", step);
        assert_int_equal(strstr(rows, head) != NULL, wanted[step]);
    }
    free(rows);
}

/* The end of the time stops a run as a signal does: here, or where the state can next be saved. */
static void test_train__time_is_up(void **state) {
    (void)state;
    use_out("whole");
    run_ok(&(plan){.stride = 2});
    result expected = take_result();
    use_out("cut");
    plan first = {.stride = 2, .time_up_at = 2, .options = {"--max-minutes", "1000"}};
    run_fails(&first, HT_TIME_UP, "step 4 of 6 is saved");
    run_ok(&(plan){.stride = 2, .options = {"--resume"}});
    result got = take_result();
    assert_same_result(&expected, &got);
    free_result(&got);
    /* Evaluations are part of the step: they are finished. */
    use_out("during");
    run_fails(&(plan){.time_up_during = 2}, HT_TIME_UP, "step 2 of 6 is saved");
    run_ok(&(plan){.options = {"--resume"}});
    got = take_result();
    assert_same_result(&expected, &got);
    free_result(&got);
    free_result(&expected);
    use_out("none");
    run_fails(&(plan){.options = {"--max-minutes", "1e-6"}}, HT_TIME_UP, "before the first state");
}

/* How long a save takes is measured as soon as can be, so that the last one is in time. */
static void test_train__time_limit_saves_at_once(void **state) {
    (void)state;
    run_fails(&(plan){.stride = 2,
                      .bad_loss_at = 3,
                      .options = {"--max-minutes", "1000", "--set", "train.save_every=0"}},
              HT_ERR_RUN, "step 4");
    assert_int_equal(ht_path_exists(in_out("state/step-00000002")), 1);
}

static void test_train__saves_by_the_clock(void **state) {
    (void)state;
    const plan never = {.stride = 2, .bad_loss_at = 5, .options = {"--set", "train.save_every=0"}};
    plan always = never;
    always.options[2] = "--set";
    always.options[3] = "train.save_every_minutes=1e-9";
    use_out("never");
    run_fails(&never, HT_ERR_RUN, "step 6");
    assert_int_equal(ht_path_exists(in_out("state/step-00000004")), 0);
    use_out("always");
    run_fails(&always, HT_ERR_RUN, "step 6");
    assert_int_equal(ht_path_exists(in_out("state/step-00000002")), 1);
    assert_int_equal(ht_path_exists(in_out("state/step-00000004")), 1);
}

static void test_train__bad_loss_names_the_step_and_keeps_the_state(void **state) {
    (void)state;
    run_fails(&(plan){.bad_loss_at = 4}, HT_ERR_RUN,
              "step 5: model \"policy\", whose weights are all finite: the loss is nan");
    assert_int_equal(ht_path_exists(in_out("state/step-00000004")), 1);
    assert_int_equal(ht_path_exists(in_out("config.json")), 0);
}

static void test_train__bad_gradient_names_the_parameter(void **state) {
    (void)state;
    run_fails(&(plan){.bad_gradient_at = 2}, HT_ERR_RUN, "step 3: ");
    assert_string_equal(warnings, "step 3 is made of 3 rows; demonstration: 30, 31, 32\n");
    assert_int_equal(ht_path_exists(in_out("state/step-00000002")), 1);
    use_out("two");
    /* The policy has had its update when the value model fails: there is no whole state to save. */
    run_fails(&(plan){.bad_gradient_at = 2, .models = 2, .bad_model = 1}, HT_ERR_RUN, "model \"value\"");
    assert_int_equal(ht_path_exists(in_out("state/step-00000002")), 0);
}

static void test_train__bad_weight_is_named(void **state) {
    (void)state;
    run_fails(
        &(plan){.bad_weight_at = 3}, HT_ERR_RUN,
        "step 4: weight \"model.layers.0.self_attn.q_proj.weight\" of model \"policy\" is not finite: ");
}

/* A skipped update is said, counted and changes nothing; cut and resumed, the count goes on. */
static void test_train__bad_steps_are_skipped(void **state) {
    (void)state;
    size_t size;
    const plan skipping = {.models = 2,
                           .bad_loss_at = 2,
                           .bad_gradient_at = 3,
                           .bad_model = 1,
                           .options = {"--on-nonfinite", "skip"}};
    use_out("whole");
    run_ok(&skipping);
    assert_non_null(strstr(warnings, "step 3: update skipped: "));
    assert_non_null(strstr(warnings, "step 3 is made of 3 rows; demonstration: 30, 31, 32\n"));
    assert_non_null(
        strstr(warnings, "step 4: update skipped: model \"value\", whose weights are all finite: "));
    result expected = take_result();
    assert_null(strstr(strstr(expected.metrics, "{\"step\":2,"), "\"skipped_steps\":0"));
    assert_non_null(strstr(strstr(expected.metrics, "{\"step\":3,"), "\"skipped_steps\":1.0"));
    assert_non_null(strstr(strstr(expected.metrics, "{\"step\":6,"), "\"skipped_steps\":2.0"));
    for (int64_t k = 1; k < STEPS; k++) {
        char name[32];
        plan first = skipping, second = skipping;
        first.interrupt_at = k;
        second.options[2] = "--resume";
        snprintf(name, sizeof name, "cut-%d", (int)k);
        use_out(name);
        run_fails(&first, HT_TERMINATED, "is saved");
        run_ok(&second);
        result got = take_result();
        assert_same_result(&expected, &got);
        free_result(&got);
    }
    /* A run that stopped there may go on skipping, and a skipped step leaves the weights alone. */
    use_out("stopped");
    run_fails(&(plan){.bad_loss_at = 5}, HT_ERR_RUN, "step 6");
    char *before = contents("state/step-00000005/policy.safetensors", &size);
    run_ok(&(plan){.bad_loss_at = 5, .options = {"--resume", "--on-nonfinite", "skip"}});
    result got = take_result();
    const uint64_t *header = (const uint64_t *)(const void *)got.model;
    size_t first = 8 + (size_t)*header, count = (got.model_size - first) / 4;
    assert_non_null(memmem(before, size, got.model + first + 4 * (count / 2), 64));
    free(before);
    free_result(&got);
    free_result(&expected);
}

static void test_train__evaluation_stops_early(void **state) {
    (void)state;
    worker w;
    ht_error err = HT_ERROR_INIT;
    plan wanted = {.stop_at = 4};
    assert_int_equal(run(&wanted, &w, &err), HT_OK);
    assert_int_equal(w.steps_done, 4);
    assert_int_equal(w.evaluations, 3);
    assert_int_equal(ht_path_exists(in_out("config.json")), 1);
}

static void test_train__dry_run_writes_nothing(void **state) {
    (void)state;
    char *text = NULL;
    size_t size = 0;
    ht_arena arena;
    void *block = NULL;
    ht_arena_init(&arena, 1);
    DO(ht_arena_take(&arena, HT_MEMORY_OPTIMIZER, 4096, &block, &err_));
    FILE *stream = open_memstream(&text, &size);
    ht_train_print_plan(stream, &arena, 8192, 123);
    fclose(stream);
    assert_non_null(strstr(text, "steps 123\n"));
    assert_non_null(strstr(text, "optimizer state            4096 bytes"));
    assert_non_null(strstr(text, "total                      4096 bytes"));
    assert_non_null(strstr(text, "available                  8192 bytes"));
    free(text);
    ht_arena_clear(&arena);
}

static void test_train__database_learns_of_run_and_model(void **state) {
    (void)state;
    char path[256];
    ht_store *store = NULL;
    ht_model_row row;
    int found = 0;
    snprintf(path, sizeof path, "%s/p.db", root);
    DO(ht_store_open(&store, path, HT_STORE_CREATE, &err_));
    use_out("sft-v1");
    run_fails(&(plan){.store = store, .interrupt_at = 3}, HT_TERMINATED, "is saved");
    run_ok(&(plan){.store = store, .options = {"--resume"}});
    DO(ht_store_find_model(store, "sft-v1", &row, &found, &err_));
    assert_int_equal(found, 1);
    assert_string_equal(row.stage, "sft");
    int64_t id = row.id, again = 0;
    DO(ht_train_register_model(store, out, &again, &err_));
    assert_int_equal(again, id);
    ht_store_close(store);
}

/* Another process's transaction. */
static sqlite3 *other_process;
static char database[256];

static void begin_other_process(void) {
    assert_int_equal(sqlite3_open(database, &other_process), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other_process, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
}

static void end_other_process(void) {
    assert_int_equal(sqlite3_close(other_process), SQLITE_OK);
    other_process = NULL;
}

static void hold_from_2_to_4(int64_t step) {
    if (step == 2) begin_other_process();
    if (step == 4) end_other_process();
}

static void test_train__metrics_wait_for_a_database_that_another_process_holds(void **state) {
    (void)state;
    ht_store *store = NULL;
    snprintf(database, sizeof database, "%s/p.db", root);
    DO(ht_store_open(&store, database, HT_STORE_CREATE, &err_));
    ht_store_set_patience(store, 0);
    run_ok(&(plan){.store = store, .before_step = hold_from_2_to_4, .options = {"--set", "train.save_every=1"}});
    const char *said = strstr(warnings, "metrics wait for the database: ");
    assert_non_null(said);
    assert_non_null(strstr(said, "database is locked"));
    assert_null(strstr(said + 1, "metrics wait")); /* once */
    assert_int_equal(count_rows(database, "SELECT count(DISTINCT step) FROM metric"), STEPS + 1);
    ht_store_close(store);
}

static void hold_from_the_last(int64_t step) {
    if (step == STEPS - 1) begin_other_process();
}

static void end_when_told(ht_log_level level, const char *line) {
    keep_warning(level, line);
    if (strstr(line, "metrics wait") && other_process) end_other_process();
}

static void test_train__metrics_that_the_database_lacks_at_the_end_are_said(void **state) {
    (void)state;
    ht_store *store = NULL;
    snprintf(database, sizeof database, "%s/p.db", root);
    DO(ht_store_open(&store, database, HT_STORE_CREATE, &err_));
    ht_store_set_patience(store, 0);
    ht_log_set_sink(end_when_told);
    run_fails(&(plan){.store = store, .before_step = hold_from_the_last}, HT_ERR_IO,
              "/out\", but its last metrics could not be written to the database");
    run_ok(&(plan){.store = store, .options = {"--resume"}});
    assert_int_equal(count_rows(database, "SELECT count(DISTINCT step) FROM metric"), STEPS + 1);
    ht_store_close(store);
}

static void test_train__metrics_are_set_once_a_name(void **state) {
    (void)state;
    ht_metrics metrics = {.count = 0};
    ht_metrics_set(&metrics, "loss", 1);
    ht_metrics_set(&metrics, "lr", 2);
    ht_metrics_set(&metrics, "loss", 3);
    assert_int_equal(metrics.count, 2);
    assert_true(ht_metrics_get(&metrics, "loss") == 3);
    assert_true(isnan(ht_metrics_get(&metrics, "other")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_train__rounding_depends_on_the_seed),
        TEST(test_train__gradients_may_share_memory),
        TEST(test_train__rows_are_as_documented),
        TEST(test_train__log_every_keeps_evaluations_and_the_end),
        TEST(test_train__time_is_up),
        TEST(test_train__time_limit_saves_at_once),
        TEST(test_train__saves_by_the_clock),
        TEST(test_train__bad_loss_names_the_step_and_keeps_the_state),
        TEST(test_train__bad_gradient_names_the_parameter),
        TEST(test_train__bad_weight_is_named),
        TEST(test_train__bad_steps_are_skipped),
        TEST(test_train__evaluation_stops_early),
        TEST(test_train__dry_run_writes_nothing),
        TEST(test_train__database_learns_of_run_and_model),
        TEST(test_train__metrics_wait_for_a_database_that_another_process_holds),
        TEST(test_train__metrics_that_the_database_lacks_at_the_end_are_said),
        TEST(test_train__metrics_are_set_once_a_name),
    };
    return cmocka_run_group_tests_name("train loop", tests, NULL, NULL);
}
