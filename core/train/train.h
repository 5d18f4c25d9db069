/*
 * train.h: the training loop that every stage runs: steps, evaluation, checkpoints, resume, metrics.
 *
 * A stage gives a task: how many optimizer steps there are, and how to accumulate the gradients of one. The
 * loop does the rest: rate, clipping, update, metrics (SQLite and OUT/metrics.jsonl), held-out evaluation,
 * training state, signals, the final model folder. A run killed anywhere and resumed ends with the same bits
 * as one that never stopped.
 *
 * A run may have several ranks (core/comm): each accumulates its part of every step, gradients are summed, and all do
 * the same update. Rank 0 alone writes: folder, metrics, database, what people read.
 *
 * A stage's command runs in this order:
 *   ht_comm_open            alone, or one of several
 *   ht_train_check_out      before any work: the folder can be written, and holds no other run
 *   ht_train_setup_open     backend
 *   ht_train_setup_take     plans memory, then takes it: ht_train_load_model for each model, ht_trainable_init,
 *                           ht_activations_init, ...; with --dry-run it only plans
 *   ht_train_run_task       seals the arena and trains; with --dry-run prints the plan
 *   ht_train_setup_close
 *   ht_train_release_out
 *   ht_comm_close
 */
#ifndef HT_TRAIN_TRAIN_H
#define HT_TRAIN_TRAIN_H

#include <jansson.h>

#include "core/backend/profile.h"
#include "core/base/lock.h"
#include "core/checkpoint/model_folder.h"
#include "core/comm/comm.h"
#include "core/config/config.h"
#include "core/optim/adamw.h"
#include "core/store/store.h"

/* --- options ----------------------------------------------------------------------------------------------
 */

/* Options every training stage has; a part of its command's table. */
typedef struct ht_train_config {
    char *out;
    int resume, dry_run;
    int64_t threads, seed, round;
    int backend; /* ht_backend_kind */
    int dtype;   /* ht_dtype_choice, of weights and activations */
    double max_minutes; /* 0: no limit */
    double lr, final_lr, warmup_share;
    int64_t warmup_min;
    int schedule; /* ht_schedule_kind */
    ht_optimizer_config optimizer;
    int state; /* ht_adamw_state */
    int on_nonfinite; /* ht_on_nonfinite */
    int64_t save_every, keep_last, eval_every, log_every;
    double save_every_minutes;
    int64_t micro_tokens; /* tokens a forward and backward pass */
    int recompute, profile;
} ht_train_config;

/* in the order of ht_schedule_kind: "constant", "cosine" */
extern const char *const ht_train_schedule_names[];

typedef enum ht_on_nonfinite { HT_ON_NONFINITE_STOP, HT_ON_NONFINITE_SKIP } ht_on_nonfinite;
extern const char *const ht_on_nonfinite_names[]; /* "stop", "skip" */

/*
 * The rows of a stage's table for ht_train_config, with the stage's own defaults (texts) where stages differ:
 * peak rate, schedule, its last rate as a share of the peak, warm-up as a share of all steps, warm-up's least
 * number of steps. E.g.
 *   static const ht_option options[] = {HT_TRAIN_OPTIONS("2e-5", "cosine", "0.1", "0.03", "0")};
 */
#define HT_TRAIN_OPTIONS(LR, SCHEDULE, FINAL_LR, WARMUP, WARMUP_MIN)                                         \
    HT_OPT_PATH(ht_train_config, out, "out", NULL, HT_OPTION_REQUIRED | HT_OPTION_RESUME_SAFE,               \
                "folder to write: model, metrics.jsonl and, while training, state"),                         \
        HT_OPT_FLAG(ht_train_config, resume, "resume", HT_OPTION_RESUME_SAFE,                                \
                    "go on from the newest state in the output folder"),                                     \
        HT_OPT_FLAG(ht_train_config, dry_run, "dry_run", HT_OPTION_RESUME_SAFE,                              \
                    "print memory plan and number of steps, train nothing"),                                 \
        HT_OPT_CHOICE(ht_train_config, backend, "backend", "auto", ht_backend_names, 0, "where to compute"), \
        HT_OPT_INT(ht_train_config, threads, "threads", "0", 0, 4096, HT_OPTION_RESUME_SAFE,                 \
                   "CPU threads; 0: one a core; another number may change the last bits"),                   \
        HT_OPT_CHOICE(ht_train_config, on_nonfinite, "on_nonfinite", "stop", ht_on_nonfinite_names,          \
                      HT_OPTION_RESUME_SAFE,                                                                 \
                      "at a loss or gradient that is not finite, or skip the update"),                       \
        HT_PROFILE_OPTION(ht_train_config),                                                                  \
        HT_OPT_FLOAT(ht_train_config, max_minutes, "max_minutes", "0", 0, 1e7, HT_OPTION_RESUME_SAFE,        \
                     "save the state and stop, exit code 75, before so many minutes are over; 0: no limit"), \
        HT_OPT_INT(ht_train_config, seed, "seed", "1", 0, 9007199254740992.0, 0,                             \
                   "seed of every random number"),                                                           \
        HT_OPT_INT(ht_train_config, round, "round", "0", 0, 1000000, 0,                                      \
                   "round the model belongs to, noted in halter.json and the database"),                     \
        HT_OPT_FLOAT(ht_train_config, lr, "optim.lr", LR, 0, 1, 0, "peak learning rate"),                    \
        HT_OPT_CHOICE(ht_train_config, schedule, "optim.schedule", SCHEDULE, ht_train_schedule_names, 0,     \
                      "course of the rate after warm-up"),                                                   \
        HT_OPT_FLOAT(ht_train_config, final_lr, "optim.final_lr", FINAL_LR, 0, 1, 0,                         \
                     "rate of the last step as a share of the peak (cosine)"),                               \
        HT_OPT_FLOAT(ht_train_config, warmup_share, "optim.warmup", WARMUP, 0, 1, 0,                         \
                     "linear warm-up as a share of all steps"),                                              \
        HT_OPT_INT(ht_train_config, warmup_min, "optim.warmup_min", WARMUP_MIN, 0, 1000000000, 0,            \
                   "least number of warm-up steps"),                                                         \
        HT_OPT_FLOAT(ht_train_config, optimizer.beta1, "optim.beta1", "0.9", 0, 0.999999, 0,                 \
                     "AdamW beta 1"),                                                                        \
        HT_OPT_FLOAT(ht_train_config, optimizer.beta2, "optim.beta2", "0.95", 0, 0.999999, 0,                \
                     "AdamW beta 2"),                                                                        \
        HT_OPT_FLOAT(ht_train_config, optimizer.eps, "optim.eps", "1e-5", 1e-30, 1, 0, "AdamW epsilon"),     \
        HT_OPT_FLOAT(ht_train_config, optimizer.decay, "optim.decay", "0.1", 0, 10, 0,                       \
                     "weight decay of matrices; gains have none"),                                           \
        HT_OPT_FLOAT(ht_train_config, optimizer.clip, "optim.clip", "1.0", 0, 1e9, 0,                        \
                     "largest 2-norm of the gradient; 0: no clipping"),                                      \
        HT_OPT_CHOICE(ht_train_config, state, "optim.state", "f32", ht_adamw_state_names, 0,                 \
                      "what AdamW keeps: f32 moments, and all 32 bits of the weights; or bf16 or 8-bit moments alone"),   \
        HT_OPT_CHOICE(ht_train_config, dtype, "train.dtype", "f32", ht_dtype_choice_names, 0,                \
                      "type of weights and activations; with optim.state f32 bf16 weights are updated in f32"),  \
        HT_OPT_INT(ht_train_config, micro_tokens, "train.micro_tokens", "4096", 8, 1 << 24, 0,               \
                   "tokens a forward and backward pass; bounds memory"),                                     \
        HT_OPT_FLAG(ht_train_config, recompute, "train.recompute", 0,                                        \
                    "keep each layer's input only and compute the rest again in the backward pass"),         \
        HT_OPT_INT(ht_train_config, save_every, "train.save_every", "500", 0, 1000000000,                    \
                   HT_OPTION_RESUME_SAFE,                                                                    \
                   "steps between training states; 0: only by time and when stopped"),                       \
        HT_OPT_FLOAT(ht_train_config, save_every_minutes, "train.save_every_minutes", "30", 0, 1e7,          \
                     HT_OPTION_RESUME_SAFE, "longest time between training states; 0: none"),                \
        HT_OPT_INT(ht_train_config, keep_last, "train.keep_last", "2", 1, 1000, HT_OPTION_RESUME_SAFE,       \
                   "training states kept"),                                                                  \
        HT_OPT_INT(ht_train_config, eval_every, "train.eval_every", "100", 0, 1000000000, 0,                 \
                   "steps between held-out evaluations, also before the first and after the last; 0: none"), \
        HT_OPT_INT(ht_train_config, log_every, "train.log_every", "1", 1, 1000000000, 0,                     \
                   "steps between metric rows")

/* How these options have model `number` trained. */
ht_trainable_options ht_train_trainable_options(const ht_train_config *config, int number);

/* --- setting up -------------------------------------------------------------------------------------------
 */

typedef enum ht_train_out {
    HT_TRAIN_OUT_FRESH,   /* nothing there: start */
    HT_TRAIN_OUT_RESUME,  /* --resume, and a run was begun there that has not come to its end */
    HT_TRAIN_OUT_FINISHED /* --resume, and the model is complete: says so; the command is done, HT_OK */
} ht_train_out;

/*
 * Looks at the output folder before any work, and takes its lock, which the caller releases with
 * ht_train_release_out (also after a failure, and before ht_comm_close); a dry run takes none, nor do ranks other than 0.
 * HT_ERR_IO when it cannot be written; HT_ERR_USAGE when another process has it, naming that, or when it holds a run or a model and --resume is not given. --resume on an empty folder
 * starts from the beginning and says so. From here on the time of max_minutes runs.
 */
ht_status ht_train_check_out(const ht_train_config *config, ht_comm *comm, ht_train_out *state, ht_lock *lock,
                             ht_error *err);

/* Lets go of the folder, which goes, with an empty state folder in it, when nothing was put there. Of a lock that is not
 * held: does nothing. */
void ht_train_release_out(const ht_train_config *config, ht_lock *lock);

/* Backend and arena of a command, and the ranks it runs on. Zeroed on failure. A GPU backend takes the rank's own GPU. */
typedef struct ht_train_setup {
    ht_comm *comm; /* borrowed */
    ht_backend *be;
    ht_arena arena; /* planning until ht_train_setup_take has seen that the plan fits */
    int dry_run;
} ht_train_setup;
ht_status ht_train_setup_open(ht_train_setup *setup, const ht_train_config *config, ht_comm *comm, ht_error *err);
void ht_train_setup_close(ht_train_setup *setup); /* of a zeroed one: does nothing */

/*
 * Opens everything of a command that lies in the arena. `open` does it: first on the planning arena; then, when the plan
 * fits into the device's memory and it is no dry run, `close` undoes it and `open` does it again for good. `open` loads
 * nothing while the arena is planning. HT_ERR_NOMEM, before anything is taken or loaded, with the bytes of each category
 * when the plan does not fit. After a failure the caller closes.
 */
typedef struct ht_train_memory {
    void *self;
    ht_status (*open)(void *self, ht_train_setup *setup, ht_error *err);
    void (*close)(void *self); /* of what open has done, whole or in part; then of nothing */
} ht_train_memory;
ht_status ht_train_setup_take(ht_train_setup *setup, const ht_train_memory *memory, ht_error *err);

/*
 * Initialises `model` with the shape of `folder`, the given head and dtype, and loads the weights (not when
 * planning). A scalar head that the folder does not have is drawn from `seed`.
 */
typedef struct ht_model_request {
    const char *folder;
    ht_head head;
    ht_dtype dtype;
    int64_t seed;
} ht_model_request;
ht_status ht_train_load_model(ht_train_setup *setup, const ht_model_request *request, ht_llama *model,
                              ht_error *err);

/*
 * *id = the row of a model folder in the database, added when it is new: name = the folder's last path
 * component; stage and round from its halter.json ("base" and 0 without one), parent likewise when it is in
 * the database. For responses, scores and runs, which name their model.
 */
ht_status ht_train_register_model(ht_store *store, const char *folder, int64_t *id, ht_error *err);

/* --- metrics ----------------------------------------------------------------------------------------------
 */

/* Named values of one step; sums or means as the stage defines. Never a time: rows are the same every run. */
#define HT_METRICS_MAX 64
typedef struct ht_metrics {
    const char *names[HT_METRICS_MAX]; /* static strings */
    double values[HT_METRICS_MAX];
    int count;
} ht_metrics;

/* Sets a value, replacing one of the same name. More than HT_METRICS_MAX names is a fault of the program
 * (assert). */
void ht_metrics_set(ht_metrics *metrics, const char *name, double value);
/* NAN when there is none. */
double ht_metrics_get(const ht_metrics *metrics, const char *name);

/* --- the loop ---------------------------------------------------------------------------------------------
 */

/* One model under training with its schedule. */
typedef struct ht_train_model {
    const char *name; /* "policy": names its part of the state, and its metrics unless it is models[0] */
    ht_trainable *trainable;
    double lr_scale; /* times the schedule's rate; 1 */
} ht_train_model;

/*
 * What a stage trains. Step s (0-based) turns the weights after s updates into those after s + 1. Everything
 * a step does must be a function of (config, data, weights, s, what `save` saves), so that a resumed run
 * repeats it.
 */
typedef struct ht_train_task {
    void *self;
    int64_t steps; /* optimizer steps of the whole run, >= 1 */
    int64_t
        checkpoint_stride; /* states are saved at multiples of it only (PPO: steps an iteration); 0 is 1 */
    /*
     * Accumulates the gradients of this rank's part of step `step` for models[model], on zeroed gradients; called for
     * each model in turn, which is updated before the next one's call. Losses are means over the whole step, so that the
     * ranks' gradients add up. Sets metrics of the whole step, the same on every rank, among them "loss" (of the first
     * call; checked to be finite after each) and "tokens" (processed; the progress line's rate). The first call may
     * return a stop's status (ht_stop_requested; ht_status_is_stop) when it has changed nothing that `save` saves: the
     * state before the step is kept.
     */
    ht_status (*accumulate)(void *self, int64_t step, int model, ht_metrics *metrics, ht_error *err);
    /* What steps are made of, for messages: a table of the database, and the id of row `index` of step
     * `step`, on all ranks together, -1: there are no more. After accumulate of that step. row NULL: not known. */
    const char *rows;
    int64_t (*row)(void *self, int64_t step, int64_t index);
    /* After the update of `step`; may be NULL. */
    ht_status (*after_step)(void *self, int64_t step, ht_metrics *metrics, ht_error *err);
    /* Held-out evaluation after `updates` updates; may be NULL. Sets *stop to end the run early (ignored at
     * 0), on all ranks or on none. Metric names start with "eval_". */
    ht_status (*evaluate)(void *self, int64_t updates, ht_metrics *metrics, int *stop, ht_error *err);
    /* The task's own state (early stopping, running statistics), saved by rank 0 and restored exactly; may be NULL. */
    ht_status (*save)(void *self, json_t *values, ht_error *err);
    ht_status (*load)(void *self, const json_t *values, ht_error *err);
} ht_train_task;

#define HT_TRAIN_MODELS_MAX 4

typedef struct ht_train_run {
    const ht_train_config *config;
    const ht_invocation *invocation;
    ht_train_setup *setup;
    ht_train_model models[HT_TRAIN_MODELS_MAX];
    int model_count;       /* models[0] is the one whose folder is written */
    ht_store *store;       /* metrics, the run and the model also go there; NULL: none */
    const char *tokenizer; /* file, copied into the model folder */
    const char *data_hash; /* hash of the data in training order; a resume with another one is refused */
    int64_t run_id;        /* out: the run's row in the database, from before the first step; 0: no store */
    int begun;             /* out: the folder holds this run, and --resume goes on with it */
    ht_lineage lineage;    /* stage, parent, data; config and round are filled in by the loop */
} ht_train_run;

/*
 * Runs the task to its end, or to an early stop, and writes the model folder; the training state is then
 * removed.
 *
 * Files in OUT: state/run.json (configuration, data hash, database run), state/step-*, metrics.jsonl: one
 * JSON object a line, {"step": updates done, "loss": ..., "lr": ..., "grad_norm": ...}; a resumed run cuts
 * the rows after the state it goes on from.
 *
 * HT_INTERRUPTED / HT_TERMINATED after the state was saved (at the next multiple of checkpoint_stride).
 * HT_ERR_RUN naming the step and the tensor when loss or gradient is not finite; the rows of the step are
 * said in the log, and the state before it is saved when it is a multiple of checkpoint_stride and no model has
 * had its update of that step. With on_nonfinite = skip instead a warning says so, and rows of metrics have
 * "skipped_steps" from then on; a loss leaves all models as they are, weights and moments, a gradient its own
 * model, and the others are updated. HT_ERR_USAGE when a resumed run's configuration or data is not
 * the one it was begun with: every differing key is listed. Prints the plan on stdout when it is a dry run.
 */
ht_status ht_train_run_task(ht_train_run *run, const ht_train_task *task, ht_error *err);

#endif
