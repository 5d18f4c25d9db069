/*
 * The training loop.
 *
 * A state is taken between two steps only, so what a run is at that point is small: the weights and moments
 * of its models, the number of updates, the task's own values, and how long the metrics file is. Everything
 * else is a function of the configuration and the data, which a resumed run must share (run.json).
 */
#include "core/train/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/checkpoint/train_state.h"

#define MARGIN 1.25 /* what steps and saves are allowed to take longer than they did */

typedef struct loop {
    ht_train_run *run;
    ht_comm *comm;
    int leads; /* rank 0: writes folder, metrics and database */
    const ht_train_task *task;
    const ht_train_config *config;
    ht_train_paths paths;
    ht_recorder recorder;
    ht_progress progress;
    double step_started, rate; /* ht_now; tokens a second, smoothed */
    double saved_at;           /* ht_now of the last state, or of the start */
    double longest, saving;    /* seconds: from one place where the state can be saved to the next; the last
                                  save; 0: unknown */
    ht_schedule schedule;
    int64_t stride;
    int64_t updates;    /* done */
    int64_t last_saved; /* updates in the newest state; -1: there is none */
    int64_t run_id, parent_id;
    int complete;    /* the model folder is: the database has not heard of it yet */
    int64_t skipped; /* steps with an update that was left out */
    int skips;       /* this step has one */
    int stop;        /* early stop asked for by the task */
    int mixed;       /* some models have had the update of this step, others not: nothing to save */
    char norm_names[HT_TRAIN_MODELS_MAX][80];
    int part_count;
    char part_names[HT_TRAIN_MODELS_MAX * HT_TRAINABLE_PARTS][80];
    ht_state_part parts[HT_TRAIN_MODELS_MAX * HT_TRAINABLE_PARTS];
} loop;

static ht_status loop_init(loop *l, ht_train_run *run, const ht_train_task *task, ht_error *err) {
    *l = (loop){.run = run,
                .comm = run->setup->comm,
                .leads = ht_comm_rank(run->setup->comm) == 0,
                .task = task,
                .config = run->config,
                .last_saved = -1};
    if (run->model_count < 1 || run->model_count > HT_TRAIN_MODELS_MAX)
        return ht_fail(err, HT_ERR_USAGE, "%d models to train; 1 to %d are allowed", run->model_count,
                       HT_TRAIN_MODELS_MAX);
    if (task->steps < 1)
        return ht_fail(err, HT_ERR_USAGE, "there are %" PRId64 " optimizer steps to do; at least 1 is needed",
                       task->steps);
    l->stride = task->checkpoint_stride > 0 ? task->checkpoint_stride : 1;
    const ht_train_config *c = l->config;
    int64_t warmup = (int64_t)ceil(c->warmup_share * (double)task->steps);
    if (warmup < c->warmup_min) warmup = c->warmup_min;
    l->schedule = (ht_schedule){.kind = (ht_schedule_kind)c->schedule,
                                .lr = c->lr,
                                .final = c->final_lr,
                                .warmup = warmup < task->steps ? warmup : task->steps,
                                .steps = task->steps};
    for (int i = 0; i < run->model_count; i++) {
        ht_train_model *m = &run->models[i];
        ht_trainable_part parts[HT_TRAINABLE_PARTS];
        int count = ht_trainable_parts(m->trainable, parts);
        snprintf(l->norm_names[i], sizeof l->norm_names[i], "%s%sgrad_norm", i ? m->name : "", i ? "_" : "");
        for (int k = 0; k < count; k++) {
            int p = l->part_count++;
            snprintf(l->part_names[p], sizeof l->part_names[p], "%s.%s", m->name, parts[k].name);
            l->parts[p] = (ht_state_part){.name = l->part_names[p], .params = parts[k].params};
        }
    }
    return ht_train_paths_init(&l->paths, c->out, err);
}

/* --- begin, resume ----------------------------------------------------------------------------------------
 */

/* What makes a run the one it is: its configuration, and what that was applied to. A new reference. */
static ht_status identify(const loop *l, json_t **identity, ht_error *err) {
    const ht_train_run *run = l->run;
    char parent[HT_HASH_LEN] = "";
    ht_status status = HT_OK;
    *identity = NULL;
    if (run->lineage.parent) HT_TRY(ht_model_folder_hash(run->lineage.parent, parent, err));
    *identity = json_copy(run->invocation->resolved);
    json_t *facts = json_pack("{s:s, s:s, s:s, s:I, s:s}", "stage", run->lineage.stage, "data_hash",
                              run->data_hash, "parent_hash", parent, "steps", (json_int_t)l->task->steps,
                              "dtype", ht_dtype_torch_name(ht_backend_dtype(run->setup->be)));
    if (!*identity || !facts || json_object_update(*identity, facts))
        status = ht_fail(err, HT_ERR_NOMEM, "out of memory for \"%s\"", l->paths.run);
    json_decref(facts);
done:
    return status;
}

/* Notes a new run in the database and in run.json, which makes the folder one that holds a run. */
static ht_status begin_run(loop *l, ht_error *err) {
    ht_train_run *run = l->run;
    ht_status status = HT_OK;
    json_t *note = NULL, *identity = NULL;
    char *config = NULL;
    HT_TRY(identify(l, &identity, err));
    HT_TRY(ht_folder_create(l->paths.state, err));
    if (run->store && run->lineage.parent)
        HT_TRY(ht_train_register_model(run->store, run->lineage.parent, &l->parent_id, err));
    if (run->store) {
        HT_TRY(ht_json_text(&config, run->invocation->resolved, JSON_COMPACT | JSON_PRESERVE_ORDER, err));
        HT_TRY(ht_store_begin_run(run->store,
                                  &(ht_run_row){.stage = run->lineage.stage,
                                                .round = l->config->round,
                                                .model_id = l->parent_id,
                                                .config = config,
                                                .folder = l->config->out},
                                  &l->run_id, err));
    }
    note = json_pack("{s:I, s:I, s:O}", "run_id", (json_int_t)l->run_id, "parent_id",
                     (json_int_t)l->parent_id, "identity", identity);
    if (!note) {
        status = ht_fail(err, HT_ERR_NOMEM, "out of memory for \"%s\"", l->paths.run);
        goto done;
    }
    status = ht_json_write(l->paths.run, note, err);
done:
    free(config);
    json_decref(identity);
    json_decref(note);
    return status;
}

/* Refuses a run that is not the one of run.json. */
static ht_status check_same_run(loop *l, ht_error *err) {
    ht_status status = HT_OK;
    json_t *note = NULL, *identity = NULL;
    HT_TRY(identify(l, &identity, err));
    HT_TRY(ht_json_read(l->paths.run, &note, err));
    HT_TRY(ht_json_get_int(note, (ht_json_field){l->paths.run, "run_id", 1}, 0, INT64_MAX, &l->run_id, err));
    HT_TRY(ht_json_get_int(note, (ht_json_field){l->paths.run, "parent_id", 1}, 0, INT64_MAX, &l->parent_id,
                           err));
    status =
        ht_config_check_same(l->run->invocation->command, json_object_get(note, "identity"), identity, err);
    if (status == HT_ERR_USAGE)
        ht_fail_in(err, "cannot resume \"%s\", begun with another configuration or other data",
                   l->config->out);
done:
    json_decref(identity);
    json_decref(note);
    return status;
}

/* Begins the run, or finds its newest state: *step, -1 when there is none, and what was saved with it (a new reference).
 */
static ht_status begin_or_find(loop *l, int64_t *step, json_t **values, ht_error *err) {
    ht_status status = HT_OK;
    if (!ht_path_exists(l->paths.run)) return begin_run(l, err);
    HT_TRY(check_same_run(l, err));
    l->complete = ht_model_folder_complete(l->config->out);
    if (l->complete) goto done;
    HT_TRY(ht_train_state_find(l->paths.state, step, values, err));
    if (*step < 0) ht_info("\"%s\" holds no saved state yet: starting from the beginning", l->config->out);
done:
    return status;
}

/* What rank 0 has found, to all others. */
static ht_status share_found(loop *l, int64_t *step, json_t **values, ht_error *err) {
    ht_status status = HT_OK;
    char *text = NULL;
    json_error_t problem;
    if (*values) HT_TRY(ht_json_text(&text, *values, JSON_COMPACT | JSON_REAL_PRECISION(17), err));
    int64_t head[3] = {*step, text ? (int64_t)strlen(text) : 0, l->complete};
    if (!l->comm) goto done;
    HT_TRY(ht_comm_broadcast(l->comm, head, sizeof head, err));
    *step = head[0];
    l->complete = head[2] != 0;
    if (!text) HT_TRY(ht_calloc(&text, (size_t)head[1] + 1, 1, err));
    HT_TRY(ht_comm_broadcast(l->comm, text, (size_t)head[1], err));
    if (!l->leads && head[1]) status = ht_json_parse(values, text, (size_t)head[1], &problem, err);
    if (status == HT_ERR_DATA) ht_fail(err, status, "the state that rank 0 has sent: %s", problem.text);
done:
    free(text);
    return status;
}

/* Goes on from a state. *metrics_bytes = length of the metrics file at that point. */
static ht_status restore(loop *l, int64_t step, const json_t *values, int64_t *metrics_bytes, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_json_get_int(values, (ht_json_field){l->paths.state, "metrics_bytes", 1}, 0, INT64_MAX,
                           metrics_bytes, err));
    if (step > l->task->steps) {
        status =
            ht_fail(err, HT_ERR_DATA, "\"%s\" holds a state of step %" PRId64 ", above the run's %" PRId64,
                    l->paths.state, step, l->task->steps);
        goto done;
    }
    HT_TRY(ht_train_state_load(l->paths.state, step, l->parts, l->part_count,
                               l->run->setup->be, err));
    if (l->task->load) HT_TRY(l->task->load(l->task->self, json_object_get(values, "task"), err));
    HT_TRY(ht_json_get_int(values, (ht_json_field){l->paths.state, "skipped", 1}, 0, step, &l->skipped, err));
    for (int i = 0; i < l->run->model_count; i++) {
        ht_train_model *m = &l->run->models[i];
        HT_TRY(ht_json_get_int(json_object_get(values, "updates"),
                               (ht_json_field){l->paths.state, m->name, 1}, 0, step, &m->trainable->updates,
                               err));
    }
    l->updates = l->last_saved = step;
    ht_info("going on from step %" PRId64 " of %" PRId64, step, l->task->steps);
done:
    return status;
}

/* Ranks that have read other data would do other work in a step, or wait for each other. */
static ht_status check_same_data(loop *l, ht_error *err) {
    char hash[HT_HASH_LEN] = "";
    snprintf(hash, sizeof hash, "%s", l->run->data_hash);
    ht_status status = ht_comm_broadcast(l->comm, hash, sizeof hash, err);
    if (status == HT_OK && strcmp(hash, l->run->data_hash) != 0)
        status = ht_fail(err, HT_ERR_DATA, "the data read by rank 0 is another (hash %s) than that of this rank (%s)", hash,
                         l->run->data_hash);
    return status;
}

/* Every rank is where the run begins or goes on. */
static ht_status enter_run(loop *l, ht_error *err) {
    ht_status status = HT_OK;
    json_t *values = NULL;
    int64_t step = -1, metrics_bytes = 0;
    struct stat rows;
    HT_TRY(check_same_data(l, err));
    HT_TRY(ht_comm_barrier(l->comm, err)); /* a rank that fails before leaves no run behind */
    if (l->leads) HT_TRY(begin_or_find(l, &step, &values, err));
    HT_TRY(share_found(l, &step, &values, err));
    if (step >= 0) HT_TRY(restore(l, step, values, &metrics_bytes, err));
    if (l->complete && stat(l->paths.metrics, &rows) == 0) metrics_bytes = (int64_t)rows.st_size;
    l->run->begun = 1;
    l->run->run_id = l->run_id;
    if (l->leads)
        HT_TRY(ht_recorder_open(&l->recorder, l->paths.metrics, metrics_bytes, l->run->store, l->run_id, err));
done:
    json_decref(values);
    return status;
}

/* --- save -------------------------------------------------------------------------------------------------
 */

static ht_status save_state(loop *l, ht_error *err) {
    ht_status status = HT_OK;
    json_t *values = NULL, *task = json_object(), *updates = json_object();
    int64_t metrics_bytes = 0;
    double started = ht_now();
    if (l->last_saved == l->updates) goto done;
    if (!l->leads) {
        l->last_saved = l->updates;
        goto done;
    }
    if (l->task->save) HT_TRY(l->task->save(l->task->self, task, err));
    for (int i = 0; i < l->run->model_count; i++)
        if (json_object_set_new(updates, l->run->models[i].name,
                                json_integer(l->run->models[i].trainable->updates)))
            HT_TRY(ht_fail(err, HT_ERR_NOMEM, "out of memory for the state of step %" PRId64, l->updates));
    /* Rows first: a state must never be newer than the rows behind which it goes on. */
    HT_TRY(ht_recorder_sync(&l->recorder, &metrics_bytes, err));
    values = json_pack("{s:I, s:I, s:O, s:O}", "metrics_bytes", (json_int_t)metrics_bytes, "skipped",
                       (json_int_t)l->skipped, "updates", updates, "task", task);
    if (!values) {
        status = ht_fail(err, HT_ERR_NOMEM, "out of memory for the state of step %" PRId64, l->updates);
        goto done;
    }
    HT_TRY(ht_train_state_save(l->paths.state, l->updates, values, l->parts,
                               l->part_count, l->run->setup->be, l->config->keep_last, err));
    l->last_saved = l->updates;
    l->saved_at = ht_now();
    l->saving = l->saved_at - started;
    ht_stop_reserve(MARGIN * l->saving);
done:
    json_decref(task);
    json_decref(updates);
    json_decref(values);
    return status;
}

static int at_stride(const loop *l) {
    return l->updates % l->stride == 0;
}

/* The clock has a say in when a state is saved, never in what is computed. */
static int save_is_due(const loop *l) {
    int64_t every = l->config->save_every, before = l->last_saved > 0 ? l->last_saved : 0;
    double seconds = 60 * l->config->save_every_minutes;
    if (l->updates == 0 || l->updates >= l->task->steps || !at_stride(l)) return 0;
    /* How long a save takes must be known before the time is up. */
    if (l->config->max_minutes > 0 && l->saving == 0) return 1;
    return (every > 0 && l->updates / every > before / every) ||
           (seconds > 0 && ht_now() - l->saved_at >= seconds);
}

/* Ends a run that was asked to stop: `asked` is the signal's status. The weights are those after l->updates.
 */
static ht_status stop_run(loop *l, ht_status asked, ht_error *err) {
    if (l->updates > 0 && at_stride(l)) {
        ht_status status = save_state(l, err);
        if (status != HT_OK) return status;
    }
    if (l->last_saved < 0)
        return ht_fail(err, asked, "stopped before the first state; --resume starts from the beginning");
    return ht_fail(err, asked,
                   "stopped; the state of step %" PRId64 " of %" PRId64 " is saved, --resume goes on from it",
                   l->last_saved, l->task->steps);
}

/* A step failed and the weights are still those before it: keeps them for whoever looks into it. */
static void save_before_failure(loop *l, ht_error *err) {
    ht_error second = HT_ERROR_INIT;
    ht_fail_in(err, "step %" PRId64, l->updates + 1);
    if (l->mixed || l->updates == 0 || !at_stride(l)) return;
    if (save_state(l, &second) != HT_OK)
        ht_warn("the state of step %" PRId64 " could not be saved: %s", l->updates, second.message);
    else
        ht_info("the state of step %" PRId64 ", before the failure, is in \"%s\"", l->updates,
                l->paths.state);
}

/* --- step -------------------------------------------------------------------------------------------------
 */

/* Of one model, over the ranks. */
static ht_status sum_gradients(loop *l, int i, ht_error *err) {
    ht_status status = HT_OK;
    const ht_params *grads = &l->run->models[i].trainable->grads;
    for (int64_t unit = 0; unit < grads->layout->units; unit++)
        HT_TRY(ht_comm_sum_f32(l->comm, grads->units[unit], grads->layout->unit_size[unit], err));
done:
    return status;
}

/* err says what is not finite; the weights that are not, if any, are named too. */
static void blame_weights(const ht_train_model *m, ht_error *err) {
    const char *name;
    ht_error second = HT_ERROR_INIT;
    if (ht_train_bad_weight(m->trainable->model, &name, &second) != HT_OK) return;
    if (name)
        ht_fail_in(err, "weight \"%s\" of model \"%s\" is not finite", name, m->name);
    else
        ht_fail_in(err, "model \"%s\", whose weights are all finite", m->name);
}

/* A loss or gradient of the model is not finite, as err says: the end of the run, or of this update. */
static ht_status meet_non_finite(loop *l, ht_train_model *m, ht_error *err) {
    ht_params *grads = &m->trainable->grads;
    ht_status status = HT_OK;
    blame_weights(m, err);
    ht_train_say_rows(l->task, l->updates);
    if (l->config->on_nonfinite == HT_ON_NONFINITE_STOP) return err->status;
    ht_warn("step %" PRId64 ": update skipped: %s", l->updates + 1, err->message);
    *err = (ht_error)HT_ERROR_INIT;
    for (int64_t unit = 0; unit < grads->layout->units; unit++)
        HT_TRY(ht_zero(l->run->setup->be, grads->units[unit],
                       (size_t)grads->layout->unit_size[unit] * ht_dtype_size(grads->dtype), err));
    l->skips = 1;
done:
    return status;
}

/* Loss and summed gradient are the same on every rank, and so is what becomes of the update. */
static ht_status update_model(loop *l, int i, ht_metrics *metrics, ht_error *err) {
    double rate = ht_schedule_rate(&l->schedule, l->updates), loss = ht_metrics_get(metrics, "loss"), norm = 0;
    ht_train_model *m = &l->run->models[i];
    ht_status status = HT_OK;
    if (isfinite(loss)) {
        HT_TRY(sum_gradients(l, i, err));
        status = ht_optimizer_step(m->trainable, &l->config->optimizer, rate * m->lr_scale, &norm, err);
    } else {
        norm = NAN;
        status = ht_fail(err, HT_ERR_RUN, "the loss is %g", isnan(loss) ? fabs(loss) : loss);
    }
    if (!isfinite(norm)) status = meet_non_finite(l, m, err);
    HT_TRY(status);
    l->mixed = i + 1 < l->run->model_count;
    ht_metrics_set(metrics, "lr", rate);
    ht_metrics_set(metrics, l->norm_names[i], norm);
done:
    return status;
}

/* Gradient and update, one model after the other: their gradients may share memory. */
static ht_status train_models(loop *l, ht_metrics *metrics, ht_error *err) {
    ht_status status = HT_OK;
    for (int i = 0; i < l->run->model_count; i++) {
        HT_TRY(l->task->accumulate(l->task->self, l->updates, i, metrics, err));
        HT_TRY(update_model(l, i, metrics, err));
    }
    l->skipped += l->skips;
    l->skips = 0;
    if (l->skipped > 0) ht_metrics_set(metrics, "skipped_steps", (double)l->skipped);
done:
    return status;
}

static void show_progress(loop *l, const ht_metrics *metrics) {
    char note[160];
    double now = ht_now(), seconds = now - l->step_started, tokens = ht_metrics_get(metrics, "tokens");
    if (seconds > 0 && tokens > 0)
        l->rate = l->rate > 0 ? 0.8 * l->rate + 0.2 * (tokens / seconds) : tokens / seconds;
    snprintf(note, sizeof note, "loss %.4f  lr %.3g  %.0f tok/s", ht_metrics_get(metrics, "loss"),
             ht_metrics_get(metrics, "lr"), l->rate);
    ht_progress_update(&l->progress, l->updates, note);
}

static int evaluation_is_due(const loop *l) {
    int64_t every = l->config->eval_every;
    return l->task->evaluate && every > 0 && (l->updates % every == 0 || l->updates == l->task->steps);
}

/* "step 100: eval_loss 1.2345, eval_targets 100" */
static void show_evaluation(const loop *l, const ht_metrics *metrics) {
    char line[1024];
    size_t used = 0;
    for (int i = 0; i < metrics->count && used < sizeof line; i++)
        if (strncmp(metrics->names[i], "eval_", 5) == 0)
            used += (size_t)snprintf(line + used, sizeof line - used, "%s%s %.6g", used ? ", " : "",
                                     metrics->names[i], metrics->values[i]);
    if (used) ht_info("step %" PRId64 ": %s", l->updates, line);
}

/* Evaluation, the row of metrics, the state: what follows when l->updates are done. */
static ht_status after_update(loop *l, ht_metrics *metrics, ht_error *err) {
    ht_status status = HT_OK;
    int evaluated = evaluation_is_due(l), stop = 0;
    if (evaluated) {
        ht_stop_hold(); /* a state holds no evaluation that is half done */
        status = l->task->evaluate(l->task->self, l->updates, metrics, &stop, err);
        ht_stop_unhold();
        if (status != HT_OK) goto done;
        show_evaluation(l, metrics);
    }
    if (l->updates > 0) l->stop = stop;
    if (l->leads && metrics->count > 0 &&
        (evaluated || l->updates % l->config->log_every == 0 || l->updates == l->task->steps))
        HT_TRY(ht_recorder_add(&l->recorder, l->updates, metrics, err));
    if (!l->stop && save_is_due(l)) HT_TRY(save_state(l, err));
done:
    return status;
}

static ht_status do_step(loop *l, ht_error *err) {
    ht_status status = HT_OK;
    ht_metrics metrics = {.count = 0};
    l->step_started = ht_now();
    ht_profile_enter(l->run->setup->be);
    status = train_models(l, &metrics, err);
    if (ht_status_is_stop(status)) {
        ht_error said = HT_ERROR_INIT;
        *err = said; /* the task's words give way to where the run can be taken up again */
        return stop_run(l, status, err);
    }
    if (status != HT_OK) {
        save_before_failure(l, err);
        return status;
    }
    if (l->task->after_step) HT_TRY(l->task->after_step(l->task->self, l->updates, &metrics, err));
    ht_profile_leave(l->run->setup->be, HT_STRETCH_STEP);
    l->updates++;
    show_progress(l, &metrics);
    status = after_update(l, &metrics, err);
done:
    return status;
}

/* Where the state can be saved: what stops the run here, or before the next such place; on any rank, so that all end at
 * the same step. The codes of signals are above that of the end of the time. */
static ht_status stop_asked(loop *l, double *since, ht_status *asked, ht_error *err) {
    double now = ht_now();
    if (now - *since > l->longest) l->longest = now - *since;
    *since = now;
    double code = (double)ht_stop_within(MARGIN * l->longest);
    ht_status status = ht_comm_max(l->comm, &code, 1, err);
    *asked = (ht_status)code;
    return status;
}

static ht_status run_steps(loop *l, ht_error *err) {
    ht_status status = HT_OK;
    ht_metrics first = {.count = 0};
    int said = 0;
    double since = ht_now();
    l->saved_at = since;
    ht_progress_start(&l->progress, l->run->lineage.stage, l->task->steps);
    ht_progress_update(&l->progress, l->updates, NULL);
    if (l->updates == 0 && evaluation_is_due(l)) HT_TRY(after_update(l, &first, err));
    while (l->updates < l->task->steps && !l->stop) {
        ht_status asked = HT_OK;
        if (at_stride(l)) HT_TRY(stop_asked(l, &since, &asked, err));
        if (asked != HT_OK) {
            status = stop_run(l, asked, err);
            goto done;
        }
        if (!said && !at_stride(l) && ht_stop_requested() != HT_OK) {
            ht_info("asked to stop: going on to step %" PRId64 ", where the state can be saved",
                    (l->updates / l->stride + 1) * l->stride);
            said = 1;
        }
        HT_TRY(do_step(l, err));
    }
    if (l->stop) ht_info("stopped early after step %" PRId64 " of %" PRId64, l->updates, l->task->steps);
done:
    ht_progress_finish(&l->progress, l->updates, NULL);
    return status;
}

/* --- end --------------------------------------------------------------------------------------------------
 */

/* Writes the model folder, then the database's word on it; the training state goes last. */
static ht_status finish_run(loop *l, ht_error *err) {
    ht_train_run *run = l->run;
    const ht_llama *model = run->models[0].trainable->model;
    ht_status status = HT_OK;
    int64_t bytes = 0, model_id = 0;
    if (!l->leads) return HT_OK;
    HT_TRY(ht_recorder_sync(&l->recorder, &bytes, err));
    run->lineage.config = run->invocation->resolved;
    run->lineage.round = l->config->round;
    if (!ht_model_folder_complete(l->config->out))
        HT_TRY(ht_model_folder_save(l->config->out, model, model->weights.dtype, run->tokenizer,
                                    &run->lineage, err));
    if (run->store) {
        HT_TRY(ht_train_register_child(run->store, l->config->out, l->parent_id, &model_id, err));
        HT_TRY(ht_store_end_run(run->store, l->run_id, HT_OK, model_id, err));
    }
    if (l->recorder.count > 0) {
        status = ht_fail(err, HT_ERR_IO,
                         "the model is complete in \"%s\", but its last metrics could not be written to "
                         "the database",
                         l->config->out);
        goto done;
    }
    ht_train_tidy(l->config->out, &l->paths);
    ht_info("model in \"%s\"", l->config->out);
done:
    return status;
}

/* The database's note of a run that ended otherwise; its own failure only warns, the first one counts. */
static void note_outcome(loop *l, ht_status status) {
    ht_error second = HT_ERROR_INIT;
    if (!l->run->begun || !l->leads || !l->run->store || l->run_id == 0) return;
    if (ht_store_end_run(l->run->store, l->run_id, status, 0, &second) != HT_OK)
        ht_warn("the run's outcome is not in the database: %s", second.message);
}

ht_status ht_train_run_task(ht_train_run *run, const ht_train_task *task, ht_error *err) {
    loop l;
    ht_status status = loop_init(&l, run, task, err);
    if (status != HT_OK) return status;
    if (l.config->dry_run) {
        size_t available, all;
        HT_TRY(ht_backend_memory(run->setup->be, &available, &all, err));
        if (l.leads) ht_train_print_plan(stdout, &run->setup->arena, available, task->steps);
        goto done;
    }
    ht_arena_seal(&run->setup->arena);
    HT_TRY(enter_run(&l, err));
    if (!l.complete) HT_TRY(run_steps(&l, err));
    HT_TRY(finish_run(&l, err));
done:
    if (status != HT_OK) note_outcome(&l, status);
    ht_recorder_close(&l.recorder);
    return status;
}
