/*
 * internal.h: what the files of core/train share.
 */
#ifndef HT_TRAIN_INTERNAL_H
#define HT_TRAIN_INTERNAL_H

#include <stdio.h>

#include "core/train/train.h"

/* Files of a run. */
typedef struct ht_train_paths {
    char state[HT_PATH_MAX];   /* OUT/state */
    char run[HT_PATH_MAX];     /* OUT/state/run.json */
    char metrics[HT_PATH_MAX]; /* OUT/metrics.jsonl */
} ht_train_paths;
ht_status ht_train_paths_init(ht_train_paths *paths, const char *out, ht_error *err);

/* Removes from a folder whose model is complete, and known to the database, what only its training needed. What cannot be
 * removed is warned of; the next start tries again. */
void ht_train_tidy(const char *out, const ht_train_paths *paths);

/* Prints steps, bytes a category, their sum, and the bytes available, for --dry-run. */
void ht_train_print_plan(FILE *out, const ht_arena *arena, size_t available, int64_t steps);

/* As ht_train_register_model; parent_id 0: looked for. */
ht_status ht_train_register_child(ht_store *store, const char *folder, int64_t parent_id, int64_t *id,
                                  ht_error *err);

/* Says in the log which database rows step `step` (0-based) is made of; nothing when the task does not know.
 */
void ht_train_say_rows(const ht_train_task *task, int64_t step);

/* *name = the first weight tensor with an element that is not finite, NULL: none. */
ht_status ht_train_bad_weight(const ht_llama *model, const char **name, ht_error *err);

/*
 * Where rows go: a file, and the database (store NULL: none). Rows for the database are written a few
 * seconds' worth at a time, as each commit is an fsync; when it is locked they are kept, with a warning, and
 * tried again.
 */
typedef struct ht_recorder {
    FILE *file;
    const char *path; /* borrowed */
    ht_store *store;
    int64_t run_id;
    ht_metric *pending;
    size_t count, capacity;
    double flushed; /* ht_now */
    int complained;
} ht_recorder;

/* Opens the file for the rows behind its first `size` bytes; what follows them is cut, and the rows before
 * are put into the database where they are not there. A file shorter than that is an earlier run's loss: a
 * warning. */
ht_status ht_recorder_open(ht_recorder *recorder, const char *path, int64_t size, ht_store *store,
                           int64_t run_id, ht_error *err);
void ht_recorder_close(ht_recorder *recorder); /* of a zeroed one: does nothing */

/* Appends a row. `metrics` names are static strings. */
ht_status ht_recorder_add(ht_recorder *recorder, int64_t step, const ht_metrics *metrics, ht_error *err);

/* Brings everything to the disk and the database; *size = bytes of the file. */
ht_status ht_recorder_sync(ht_recorder *recorder, int64_t *size, ht_error *err);

#endif
