/* The training loop, on a tiny model and a task whose gradient is a formula of weights, step and its own
 * state. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/base/signals.h"
#include "core/train/internal.h"

enum { STEPS = 6, ARGUMENTS_MAX = 40 };

static char root[64], out[128];

#define DO(call)                                                                                             \
    do {                                                                                                     \
        ht_error err_ = HT_ERROR_INIT;                                                                       \
        ht_status status_ = (call);                                                                          \
        assert_string_equal(err_.message, "");                                                               \
        assert_int_equal(status_, HT_OK);                                                                    \
    } while (0)

/* --- a run ------------------------------------------------------------------------------------------------
 */

/* What a test asks of one process's run; zeroed but for what differs. */
typedef struct plan {
    const char *options[12]; /* beyond --out */
    const char *data_hash;
    const char *stage;
    int models; /* 0: one */
    int64_t stride;
    int64_t interrupt_at; /* step whose accumulate returns HT_TERMINATED; 0: none */
    int64_t bad_loss_at;  /* step with a loss of NaN; 0: none */
    int64_t bad_gradient_at;
    int bad_model;     /* whose gradient */
    int64_t bad_weight_at;
    int64_t stop_at;   /* updates at which evaluate asks to stop; 0: none */
    int keep_no_state; /* the task has no save and load */
    int own_gradients; /* of the second model, not in the first one's memory */
    int64_t time_up_at;     /* step during which the time ends; 0: none */
    int64_t time_up_during; /* updates of the evaluation during which it ends; 0: none */
    ht_store *store;
} plan;

typedef struct worker {
    const plan *wanted;
    const ht_train_config *config;
    ht_llama models[2];
    ht_trainable trainables[2];
    int64_t counter; /* the task's own state: a sum over steps */
    int64_t steps_done, evaluations;
} worker;

static void put_gradient(worker *w, int m, int64_t step) {
    ht_params *grads = &w->trainables[m].grads, *weights = &w->models[m].weights;
    for (int64_t u = 0; u < grads->layout->units; u++)
        for (int64_t i = 0; i < grads->layout->unit_size[u]; i++) {
            float x = weights->dtype == HT_F32 ? ((float *)weights->units[u])[i]
                                               : ht_bf16_to_f32(((uint16_t *)weights->units[u])[i]);
            double noise = ht_rng_normal(7, (uint64_t)(u + 100 * step), (uint64_t)(i + m));
            ((float *)grads->units[u])[i] = x + (float)(0.1 * noise) + 0.01f * (float)w->counter;
        }
    if (w->wanted->bad_gradient_at && step == w->wanted->bad_gradient_at && m == w->wanted->bad_model)
        ((float *)grads->units[1])[3] = INFINITY;
}

static ht_status accumulate(void *self, int64_t step, int model, ht_metrics *metrics, ht_error *err) {
    worker *w = self;
    if (model == 0 && w->wanted->interrupt_at && step == w->wanted->interrupt_at)
        return ht_fail(err, HT_TERMINATED, "stop");
    if (model == 0 && w->wanted->time_up_at && step == w->wanted->time_up_at) ht_stop_at(ht_now());
    put_gradient(w, model, step);
    if (model > 0) return HT_OK;
    if (w->wanted->bad_weight_at && step == w->wanted->bad_weight_at)
        ((float *)w->models[0].weights.units[1])[10] = ((float *)w->trainables[0].grads.units[1])[10] = NAN;
    w->counter += step + 1;
    w->steps_done++;
    ht_metrics_set(metrics, "loss",
                   w->wanted->bad_loss_at && step == w->wanted->bad_loss_at ? NAN : 1.0 / (double)(step + 1));
    ht_metrics_set(metrics, "tokens", 100);
    return HT_OK;
}

static int64_t row(void *self, int64_t step, int64_t index) {
    (void)self;
    return index < 3 ? 10 * (step + 1) + index : -1;
}

static ht_status evaluate(void *self, int64_t updates, ht_metrics *metrics, int *stop, ht_error *err) {
    worker *w = self;
    w->evaluations++;
    if (w->wanted->time_up_during && updates == w->wanted->time_up_during) {
        ht_stop_at(ht_now());
        ht_status asked = ht_stop_requested(); /* as what it calls does */
        if (asked != HT_OK) return ht_fail(err, asked, "evaluation was cut");
    }
    ht_metrics_set(metrics, "eval_counter", (double)w->counter);
    ht_metrics_set(metrics, "eval_none", NAN);
    *stop = w->wanted->stop_at && updates >= w->wanted->stop_at;
    return HT_OK;
}

static ht_status save(void *self, json_t *values, ht_error *err) {
    worker *w = self;
    (void)err;
    json_object_set_new(values, "counter", json_integer(w->counter));
    return HT_OK;
}

static ht_status load(void *self, const json_t *values, ht_error *err) {
    worker *w = self;
    return ht_json_get_int(values, (ht_json_field){"state", "counter", 1}, 0, 1000000, &w->counter, err);
}

static const ht_option options[] = {HT_TRAIN_OPTIONS("0.01", "cosine", "0.1", "0.2", "0")};
static const ht_command command = {.summary = "test",
                                   .parts = {{options, sizeof options / sizeof *options, 0}},
                                   .config_size = sizeof(ht_train_config)};

/* The second model is a value model; its gradients lie in the first one's memory. */
static ht_status open_models(void *self, ht_train_setup *setup, ht_error *err) {
    worker *w = self;
    ht_llama_config shape = {.vocab_size = 11,
                             .dim = 8,
                             .n_layers = 1,
                             .n_heads = 2,
                             .n_kv_heads = 1,
                             .head_dim = 4,
                             .ffn_dim = 16,
                             .max_positions = 16,
                             .norm_eps = 1e-5,
                             .rope_theta = 10000,
                             .bos_id = 1,
                             .eos_id = 2};
    ht_status status = HT_OK;
    for (int m = 0; m < 2; m++) {
        shape.head = m ? HT_HEAD_SCALAR : HT_HEAD_LM;
        HT_TRY(ht_llama_init(&w->models[m], setup->be, &setup->arena, &shape, ht_backend_dtype(setup->be), err));
        if (!setup->arena.planning) HT_TRY(ht_llama_randomize(&w->models[m], (uint64_t)m + 1, err));
        ht_trainable_options training = ht_train_trainable_options(w->config, m);
        if (m > 0 && !w->wanted->own_gradients) training.lends = &w->trainables[0];
        HT_TRY(ht_trainable_init(&w->trainables[m], &w->models[m], &training, &setup->arena, err));
    }
done:
    return status;
}

static void close_models(void *self) {
    worker *w = self;
    for (int m = 0; m < 2; m++) {
        ht_trainable_free(&w->trainables[m]);
        ht_llama_free(&w->models[m]);
    }
}

static ht_status run_loop(const plan *wanted, worker *w, const ht_train_config *config,
                          const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    ht_train_setup setup = {.be = NULL};
    ht_train_out state;
    ht_lock lock;
    HT_TRY(ht_train_check_out(config, NULL, &state, &lock, err));
    if (state == HT_TRAIN_OUT_FINISHED) goto done;
    HT_TRY(ht_train_setup_open(&setup, config, NULL, err));
    w->config = config;
    HT_TRY(ht_train_setup_take(&setup, &(ht_train_memory){w, open_models, close_models}, err));
    ht_train_task task = {.self = w,
                          .steps = STEPS,
                          .checkpoint_stride = wanted->stride,
                          .accumulate = accumulate,
                          .rows = "demonstration",
                          .row = row,
                          .evaluate = evaluate,
                          .save = wanted->keep_no_state ? NULL : save,
                          .load = wanted->keep_no_state ? NULL : load};
    ht_train_run run = {.config = config,
                        .invocation = invocation,
                        .setup = &setup,
                        .models = {{"policy", &w->trainables[0], 1}, {"value", &w->trainables[1], 9}},
                        .model_count = wanted->models ? wanted->models : 1,
                        .store = wanted->store,
                        .data_hash = wanted->data_hash ? wanted->data_hash : "data",
                        .lineage = {.stage = wanted->stage ? wanted->stage : "sft"}};
    status = ht_train_run_task(&run, &task, err);
done:
    close_models(w);
    ht_train_setup_close(&setup);
    ht_lock_release(&lock);
    ht_stop_at(0);
    ht_stop_reserve(0);
    return status;
}

/* Parses the options and runs, as a program would. */
static ht_status run(const plan *wanted, worker *w, ht_error *err) {
    char *argv[ARGUMENTS_MAX] = {"test", "--out", out, "--threads", "1", "--set", "train.eval_every=2"};
    int argc = 7;
    for (int i = 0; i < 12 && wanted->options[i]; i++)
        argv[argc++] = (char *)(uintptr_t)wanted->options[i];
    ht_train_config config = {.out = NULL};
    ht_invocation invocation = {.program = "test", .command = &command};
    char **arguments = NULL;
    *w = (worker){.wanted = wanted};
    ht_status status = ht_config_parse(&command, argc, argv, &config, &invocation.resolved, &arguments,
                                       &invocation.argument_count, err);
    if (status == HT_OK) {
        status = run_loop(wanted, w, &config, &invocation, err);
        ht_config_release(&command, &config);
    }
    json_decref(invocation.resolved);
    free(arguments);
    return status;
}

static void run_ok(const plan *wanted) {
    worker w;
    ht_error err = HT_ERROR_INIT;
    ht_status status = run(wanted, &w, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, HT_OK);
}

static void run_fails(const plan *wanted, ht_status status, const char *text) {
    worker w;
    ht_error err = HT_ERROR_INIT;
    ht_status got = run(wanted, &w, &err);
    if (got != status || !strstr(err.message, text))
        print_error("got %d \"%s\"\nwanted %d \"%s\"\n", got, err.message, status, text);
    assert_int_equal(got, status);
    assert_non_null(strstr(err.message, text));
}

/* --- files ------------------------------------------------------------------------------------------------
 */

static void use_out(const char *name) {
    snprintf(out, sizeof out, "%s/%s", root, name);
}

static const char *in_out(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[0], "%s/%s", out, name);
    return path[turn];
}

static char *contents(const char *name, size_t *size) {
    char *data = NULL;
    DO(ht_file_read(in_out(name), &data, size, &err_));
    return data;
}

/* The files of a finished run that must not depend on where it was stopped. */
typedef struct result {
    char *model, *metrics;
    size_t model_size, metrics_size;
} result;

static result take_result(void) {
    result r;
    r.model = contents("model.safetensors", &r.model_size);
    r.metrics = contents("metrics.jsonl", &r.metrics_size);
    return r;
}

static void free_result(result *r) {
    free(r->model);
    free(r->metrics);
}

static void assert_same_result(const result *a, const result *b) {
    assert_string_equal(a->metrics, b->metrics);
    assert_int_equal(a->model_size, b->model_size);
    assert_memory_equal(a->model, b->model, a->model_size);
}

static char warnings[4096]; /* of the test, a line each */

static void keep_warning(ht_log_level level, const char *line) {
    size_t used = strlen(warnings);
    if (level == HT_LOG_WARN) snprintf(warnings + used, sizeof warnings - used, "%s\n", line);
}

static int set_up(void **state) {
    (void)state;
    warnings[0] = '\0';
    ht_log_set_sink(keep_warning);
    strcpy(root, "/tmp/halter-train-XXXXXX");
    ht_log_set_level(HT_LOG_WARN);
    if (!mkdtemp(root)) return -1;
    use_out("out");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    return ht_folder_remove(root, &err) == HT_OK ? 0 : -1;
}

/* --- tests ------------------------------------------------------------------------------------------------
 */

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

/* The state holds the f32 master copy; the bf16 weights are rounded from it again. */
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

static int64_t count_rows(const char *path, const char *query) {
    sqlite3 *db;
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, query, -1, &stmt, NULL), SQLITE_OK);
    int64_t count = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return count;
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

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_train__resume_at_any_step_gives_the_same_bytes),
        TEST(test_train__resume_of_two_models_gives_the_same_bytes),
        TEST(test_train__resume_in_bf16_gives_the_same_bytes),
        TEST(test_train__resume_with_bf16_state_gives_the_same_bytes),
        TEST(test_train__resume_with_8bit_state_gives_the_same_bytes),
        TEST(test_train__resume_in_bf16_with_bf16_state_gives_the_same_bytes),
        TEST(test_train__resume_in_bf16_with_8bit_state_gives_the_same_bytes),
        TEST(test_train__rounding_depends_on_the_seed),
        TEST(test_train__gradients_may_share_memory),
        TEST(test_train__forgotten_task_state_is_noticed),
        TEST(test_train__rows_behind_the_state_are_cut),
        TEST(test_train__rows_are_as_documented),
        TEST(test_train__log_every_keeps_evaluations_and_the_end),
        TEST(test_train__changed_config_is_refused),
        TEST(test_train__time_is_up),
        TEST(test_train__time_limit_saves_at_once),
        TEST(test_train__saves_by_the_clock),
        TEST(test_train__end_is_made_up_for),
        TEST(test_train__rows_that_waited_are_made_up_for),
        TEST(test_train__finished_is_left_alone),
        TEST(test_train__bad_loss_names_the_step_and_keeps_the_state),
        TEST(test_train__bad_gradient_names_the_parameter),
        TEST(test_train__bad_weight_is_named),
        TEST(test_train__bad_steps_are_skipped),
        TEST(test_train__evaluation_stops_early),
        TEST(test_train__dry_run_writes_nothing),
        TEST(test_train__database_learns_of_run_and_model),
        TEST(test_train__missing_metrics_do_not_stop_a_resume),
        TEST(test_train__metrics_are_set_once_a_name),
    };
    return cmocka_run_group_tests_name("train loop", tests, NULL, NULL);
}
