/*
 * What every training command does before its first step.
 */
#include "core/train/internal.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/signals.h"

ht_status ht_train_paths_init(ht_train_paths *paths, const char *out, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_path_join(paths->state, out, "state", err));
    HT_TRY(ht_path_join(paths->run, paths->state, "run.json", err));
    HT_TRY(ht_path_join(paths->metrics, out, "metrics.jsonl", err));
done:
    return status;
}

void ht_train_tidy(const char *out, const ht_train_paths *paths) {
    ht_error err = HT_ERROR_INIT;
    ht_model_folder_unmark(out);
    if (ht_folder_remove(paths->state, &err) != HT_OK) ht_warn("%s; the model is complete without that", err.message);
}

static ht_status look_at_out(const ht_train_config *config, ht_train_out *state, ht_lock *lock, ht_error *err) {
    ht_status status = HT_OK;
    ht_train_paths paths;
    *state = HT_TRAIN_OUT_FRESH;
    HT_TRY(ht_train_paths_init(&paths, config->out, err));
    if (!config->dry_run) {
        HT_TRY(ht_folder_check_writable(config->out, err));
        HT_TRY(ht_lock_acquire(lock, config->out, err));
    }
    int begun = ht_path_exists(paths.run), complete = ht_model_folder_complete(config->out);
    if (!config->resume && (begun || complete)) {
        status = ht_fail(err, HT_ERR_USAGE, "out = \"%s\" holds %s; give another folder%s", config->out,
                         complete ? "a model" : "a run that has not ended", complete ? "" : ", or --resume");
        goto done;
    }
    if (begun) {
        *state = HT_TRAIN_OUT_RESUME;
    } else if (complete) {
        *state = HT_TRAIN_OUT_FINISHED;
        ht_info("\"%s\" is finished: nothing to do", config->out);
        if (!config->dry_run) ht_train_tidy(config->out, &paths); /* after one that was killed while it did that */
    } else if (config->resume) {
        ht_info("\"%s\" holds no run to resume: starting from the beginning", config->out);
    }
done:
    return status;
}

ht_status ht_train_check_out(const ht_train_config *config, ht_comm *comm, ht_train_out *state, ht_lock *lock,
                             ht_error *err) {
    ht_status status = HT_OK;
    lock->path[0] = '\0';
    if (config->max_minutes > 0) ht_stop_at(ht_now() + 60 * config->max_minutes);
    if (ht_comm_rank(comm) == 0) HT_TRY(look_at_out(config, state, lock, err));
    HT_TRY(ht_comm_broadcast(comm, state, sizeof *state, err));
done:
    return status;
}

void ht_train_release_out(const ht_train_config *config, ht_lock *lock) {
    ht_train_paths paths;
    ht_error err = HT_ERROR_INIT;
    if (!lock->path[0]) return;
    if (ht_train_paths_init(&paths, config->out, &err) == HT_OK) (void)rmdir(paths.state);
    ht_lock_release(lock);
}

/* The backend on this rank's device, and sums of its memory. */
static ht_status open_backend(ht_train_setup *setup, const ht_train_config *config, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_backend_open_device(&setup->be, (ht_backend_kind)config->backend, ht_comm_local_rank(setup->comm),
                                  (int)config->threads, err));
    void *stream = ht_backend_stream(setup->be);
    if (stream) HT_TRY(ht_comm_use_device(setup->comm, stream, err));
    /* Launchers bind a process to cores of their choice, often to one. */
    if (setup->comm)
        ht_info("%d ranks, %d threads each", ht_comm_size(setup->comm), ht_backend_threads(setup->be));
done:
    return status;
}

ht_status ht_train_setup_open(ht_train_setup *setup, const ht_train_config *config, ht_comm *comm, ht_error *err) {
    *setup = (ht_train_setup){.comm = comm};
    ht_status status = open_backend(setup, config, err);
    if (status == HT_OK) status = ht_backend_choose_dtype(setup->be, (ht_dtype_choice)config->dtype, err);
    if (status == HT_OK && config->profile && !config->dry_run) status = ht_profile_start(setup->be, err);
    if (status != HT_OK) return status;
    setup->dry_run = config->dry_run;
    ht_arena_init(&setup->arena, 1);
    ht_backend_arena(setup->be, &setup->arena);
    return HT_OK;
}

ht_status ht_train_setup_take(ht_train_setup *setup, const ht_train_memory *memory, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(memory->open(memory->self, setup, err));
    if (setup->dry_run) goto done;
    HT_TRY(ht_backend_check_plan(setup->be, &setup->arena, err));
    memory->close(memory->self);
    ht_arena_clear(&setup->arena);
    setup->arena.planning = 0;
    status = memory->open(memory->self, setup, err);
done:
    return status;
}

void ht_train_setup_close(ht_train_setup *setup) {
    if (!setup->be) return;
    ht_arena_clear(&setup->arena);
    ht_backend_close(setup->be);
    memset(setup, 0, sizeof *setup);
}

ht_status ht_train_load_model(ht_train_setup *setup, const ht_model_request *request, ht_llama *model,
                              ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config config;
    int head_loaded = 1;
    memset(model, 0, sizeof *model);
    if (request->head == HT_HEAD_LM)
        HT_TRY(ht_model_folder_config_of(request->folder, HT_HEAD_LM, &config, err));
    else
        HT_TRY(ht_model_folder_config(request->folder, &config, err));
    config.head = request->head;
    HT_TRY(ht_llama_init(model, setup->be, &setup->arena, &config, request->dtype, err));
    if (setup->arena.planning) goto done;
    HT_TRY(ht_model_folder_load(request->folder, model, &head_loaded, err));
    if (!head_loaded) HT_TRY(ht_llama_randomize_head(model, (uint64_t)request->seed, err));
done:
    if (status != HT_OK) ht_llama_free(model);
    return status;
}

static void print_bytes(FILE *out, const char *what, size_t bytes) {
    fprintf(out, "%-16s %14zu bytes %10.3f GiB\n", what, bytes, (double)bytes / (1024.0 * 1024.0 * 1024.0));
}

void ht_train_print_plan(FILE *out, const ht_arena *arena, size_t available, int64_t steps) {
    fprintf(out, "steps %" PRId64 "\n", steps);
    for (int i = 0; i < HT_MEMORY_COUNT; i++)
        print_bytes(out, ht_memory_category_text((ht_memory_category)i), arena->booked[i]);
    print_bytes(out, "total", ht_arena_total(arena));
    print_bytes(out, "available", available);
}
