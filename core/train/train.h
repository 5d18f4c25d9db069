/*
 * train.h: the training loop that every stage runs: steps, evaluation, checkpoints, resume, metrics.
 *
 * A stage gives a task: how many optimizer steps there are, and how to accumulate the gradients of one. The loop does the
 * rest: rate, clipping, update, metrics (SQLite and OUT/metrics.jsonl), held-out evaluation, training state, signals, the
 * final model folder. A run killed anywhere and resumed ends with the same bits as one that never stopped.
 */
#ifndef HT_TRAIN_TRAIN_H
#define HT_TRAIN_TRAIN_H

#include <jansson.h>

#include "core/checkpoint/model_folder.h"
#include "core/config/config.h"
#include "core/optim/adamw.h"
#include "core/store/store.h"

/* Options every training stage has; a part of its command's table. */
typedef struct ht_train_config {
    char *out;
    int resume, dry_run;
    int64_t threads, seed;
    int backend;
    double lr, final_lr, warmup_share;
    int64_t warmup_min;
    int schedule;
    ht_optimizer_config optimizer;
    int64_t save_every, keep_last, eval_every, log_every;
    int64_t micro_tokens; /* tokens a forward and backward pass */
    int recompute;
} ht_train_config;

extern const ht_option ht_train_options[];
extern const size_t ht_train_option_count;

/* Named values of one step, for metrics; sums or means as the stage defines. */
#define HT_METRICS_MAX 40
typedef struct ht_metrics {
    const char *names[HT_METRICS_MAX]; /* static strings */
    double values[HT_METRICS_MAX];
    int count;
} ht_metrics;
void ht_metrics_set(ht_metrics *metrics, const char *name, double value);

/* One model under training with its schedule. */
typedef struct ht_train_model {
    const char *name; /* "policy" */
    ht_trainable *trainable;
    double lr_scale; /* times the schedule's rate; 1 */
} ht_train_model;

typedef struct ht_train_task {
    void *self;
    int64_t steps;              /* optimizer steps of the whole run */
    int64_t checkpoint_stride;  /* states are saved at multiples of it only (PPO: steps an iteration); 1 */
    /* Accumulates the gradients of step `step` (0-based) over the whole step; sets metrics ("loss", "tokens", ...). */
    ht_status (*accumulate)(void *self, int64_t step, ht_metrics *metrics, ht_error *err);
    /* After the update of `step`; may be NULL. */
    ht_status (*after_step)(void *self, int64_t step, ht_metrics *metrics, ht_error *err);
    /* Held-out evaluation; may be NULL. Sets *stop to end the run early. */
    ht_status (*evaluate)(void *self, int64_t step, ht_metrics *metrics, int *stop, ht_error *err);
    /* The task's own state (early stopping, running statistics), saved and restored exactly; may be NULL. */
    ht_status (*save)(void *self, json_t *values, ht_error *err);
    ht_status (*load)(void *self, const json_t *values, ht_error *err);
} ht_train_task;

typedef struct ht_train_run {
    const ht_train_config *config;
    const ht_invocation *invocation;
    const char *stage;          /* "sft" */
    ht_train_model models[4];
    int model_count;            /* models[0] is the one whose folder is written */
    ht_store *store;            /* metrics also go there; NULL: none */
    const char *tokenizer;      /* file, copied into the model folder */
    const char *data_hash;      /* hash of the data in training order; a resume with another one is refused */
    ht_lineage lineage;         /* config is filled in by the loop */
} ht_train_run;

/*
 * Runs the task to its end, or to an early stop, and writes the model folder. HT_INTERRUPTED / HT_TERMINATED after the
 * state was saved. With --resume on a finished folder: says so, HT_OK. Without --resume, an OUT that holds state or a
 * model is refused (HT_ERR_USAGE).
 */
ht_status ht_train_run_task(const ht_train_run *run, const ht_train_task *task, ht_error *err);

#endif
