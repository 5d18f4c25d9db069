/*
 * support.h: the training loop on a tiny model and a task whose gradient is a formula of weights, step and its own state; what
 * a run leaves.
 */
#ifndef TESTS_UNIT_TRAIN_SUPPORT_H
#define TESTS_UNIT_TRAIN_SUPPORT_H

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
#include "tests/unit/do.h"
#include "tests/unit/folder.h"

enum { STEPS = 6, ARGUMENTS_MAX = 40 };

static char out[128];

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
    void (*before_step)(int64_t step);
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

static inline void put_gradient(worker *w, int m, int64_t step) {
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

static inline ht_status accumulate(void *self, int64_t step, int model, ht_metrics *metrics, ht_error *err) {
    worker *w = self;
    if (model == 0 && w->wanted->interrupt_at && step == w->wanted->interrupt_at)
        return ht_fail(err, HT_TERMINATED, "stop");
    if (model == 0 && w->wanted->before_step) w->wanted->before_step(step);
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

static inline int64_t row(void *self, int64_t step, int64_t index) {
    (void)self;
    return index < 3 ? 10 * (step + 1) + index : -1;
}

static inline ht_status evaluate(void *self, int64_t updates, ht_metrics *metrics, int *stop, ht_error *err) {
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

static inline ht_status save(void *self, json_t *values, ht_error *err) {
    worker *w = self;
    (void)err;
    json_object_set_new(values, "counter", json_integer(w->counter));
    return HT_OK;
}

static inline ht_status load(void *self, const json_t *values, ht_error *err) {
    worker *w = self;
    return ht_json_get_int(values, (ht_json_field){"state", "counter", 1}, 0, 1000000, &w->counter, err);
}

static const ht_option options[] = {HT_TRAIN_OPTIONS("0.01", "cosine", "0.1", "0.2", "0")};
static const ht_command command = {.summary = "test",
                                   .parts = {{options, sizeof options / sizeof *options, 0}},
                                   .config_size = sizeof(ht_train_config)};

/* The second model is a value model; its gradients lie in the first one's memory. */
static inline ht_status open_models(void *self, ht_train_setup *setup, ht_error *err) {
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

static inline void close_models(void *self) {
    worker *w = self;
    for (int m = 0; m < 2; m++) {
        ht_trainable_free(&w->trainables[m]);
        ht_llama_free(&w->models[m]);
    }
}

static inline ht_status run_loop(const plan *wanted, worker *w, const ht_train_config *config,
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
static inline ht_status run(const plan *wanted, worker *w, ht_error *err) {
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

static inline void run_ok(const plan *wanted) {
    worker w;
    ht_error err = HT_ERROR_INIT;
    ht_status status = run(wanted, &w, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, HT_OK);
}

static inline void run_fails(const plan *wanted, ht_status status, const char *text) {
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

static inline void use_out(const char *name) {
    snprintf(out, sizeof out, "%s/%s", root, name);
}

static inline const char *in_out(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[0], "%s/%s", out, name);
    return path[turn];
}

static inline char *contents(const char *name, size_t *size) {
    char *data = NULL;
    DO(ht_file_read(in_out(name), &data, size, &err_));
    return data;
}

/* The files of a finished run that must not depend on where it was stopped. */
typedef struct result {
    char *model, *metrics;
    size_t model_size, metrics_size;
} result;

static inline result take_result(void) {
    result r;
    r.model = contents("model.safetensors", &r.model_size);
    r.metrics = contents("metrics.jsonl", &r.metrics_size);
    return r;
}

static inline void free_result(result *r) {
    free(r->model);
    free(r->metrics);
}

static inline void assert_same_result(const result *a, const result *b) {
    assert_string_equal(a->metrics, b->metrics);
    assert_int_equal(a->model_size, b->model_size);
    assert_memory_equal(a->model, b->model, a->model_size);
}

static char warnings[4096]; /* of the test, a line each */

static inline void keep_warning(ht_log_level level, const char *line) {
    size_t used = strlen(warnings);
    if (level == HT_LOG_WARN) snprintf(warnings + used, sizeof warnings - used, "%s\n", line);
}

static inline int set_up(void **state) {
    warnings[0] = '\0';
    ht_log_set_sink(keep_warning);
    ht_log_set_level(HT_LOG_WARN);
    if (make_root(state) != 0) return -1;
    use_out("out");
    return 0;
}

static inline int64_t count_rows(const char *path, const char *query) {
    sqlite3 *db;
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, query, -1, &stmt, NULL), SQLITE_OK);
    int64_t count = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return count;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, remove_root)

#endif
