/*
 * Metrics: values of a step, and where they are written.
 *
 * The file is the record that a resumed run must reproduce byte for byte, so a row holds nothing that depends
 * on time, and a number is printed with the 17 digits that give it back exactly.
 */
#include "core/train/internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/files.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"

#define FLUSH_SECONDS 5.0 /* longest wait of a row for the database */

void ht_metrics_set(ht_metrics *metrics, const char *name, double value) {
    int i = 0;
    while (i < metrics->count && strcmp(metrics->names[i], name) != 0)
        i++;
    assert(i < HT_METRICS_MAX);
    metrics->names[i] = name;
    metrics->values[i] = value;
    if (i == metrics->count) metrics->count++;
}

double ht_metrics_get(const ht_metrics *metrics, const char *name) {
    for (int i = 0; i < metrics->count; i++)
        if (strcmp(metrics->names[i], name) == 0) return metrics->values[i];
    return NAN;
}

static ht_status file_error(const ht_recorder *recorder, ht_error *err) {
    return ht_fail(err, HT_ERR_IO, "cannot write \"%s\": %s", recorder->path, strerror(errno));
}

/* The row of one line of the file, into the database. */
static ht_status store_line(ht_recorder *recorder, const char *line, size_t length, ht_error *err) {
    ht_status status = HT_OK;
    ht_metric metrics[HT_METRICS_MAX + 1];
    size_t count = 0;
    const char *name;
    json_t *value, *row;
    json_error_t problem;
    int64_t step = 0;
    status = ht_json_parse(&row, line, length, &problem, err);
    if (status == HT_ERR_DATA) ht_fail(err, status, "%s: %s", recorder->path, problem.text);
    HT_TRY(status);
    HT_TRY(ht_json_get_int(row, (ht_json_field){recorder->path, "step", 1}, 0, INT64_MAX, &step, err));
    json_object_foreach(row, name, value) {
        if (strcmp(name, "step") == 0 || count > HT_METRICS_MAX) continue;
        metrics[count++] = (ht_metric){step, name, json_is_number(value) ? json_number_value(value) : NAN};
    }
    status = ht_store_add_metrics(recorder->store, recorder->run_id, metrics, count, err);
done:
    json_decref(row);
    return status;
}

/* The rows of the file are those of the database: one that waited for it when its process was killed comes in
 * now. */
static ht_status store_file(ht_recorder *recorder, ht_error *err) {
    ht_status status = HT_OK;
    char *text = NULL;
    size_t size = 0;
    HT_TRY(ht_file_read(recorder->path, &text, &size, err));
    HT_TRY(ht_store_begin(recorder->store, err));
    for (char *line = text, *end; (end = memchr(line, '\n', size - (size_t)(line - text))); line = end + 1)
        HT_TRY(store_line(recorder, line, (size_t)(end - line), err));
    HT_TRY(ht_store_commit(recorder->store, err));
done:
    if (status != HT_OK) ht_store_rollback(recorder->store);
    free(text);
    return status;
}

ht_status ht_recorder_open(ht_recorder *recorder, const char *path, int64_t size, ht_store *store,
                           int64_t run_id, ht_error *err) {
    *recorder = (ht_recorder){.path = path, .store = store, .run_id = run_id, .flushed = ht_now()};
    recorder->file = fopen(path, "ab");
    if (!recorder->file) return file_error(recorder, err);
    ht_status status = HT_OK;
    if (fseeko(recorder->file, 0, SEEK_END) != 0) {
        status = file_error(recorder, err);
        goto done;
    }
    int64_t present = ftello(recorder->file);
    if (present < size)
        ht_warn("\"%s\" has %" PRId64 " bytes, the state was saved with %" PRId64
                ": rows before it are missing",
                path, present, size);
    else if (ftruncate(fileno(recorder->file), size) != 0)
        status = file_error(recorder, err);
    if (status == HT_OK && store && size > 0) status = store_file(recorder, err);
done:
    if (status != HT_OK) ht_recorder_close(recorder);
    return status;
}

void ht_recorder_close(ht_recorder *recorder) {
    if (recorder->file) fclose(recorder->file);
    free(recorder->pending);
    *recorder = (ht_recorder){0};
}

static ht_status flush_to_store(ht_recorder *recorder, ht_error *err) {
    recorder->flushed = ht_now();
    if (!recorder->store || recorder->count == 0) return HT_OK;
    ht_error failure = HT_ERROR_INIT;
    ht_status status =
        ht_store_add_metrics(recorder->store, recorder->run_id, recorder->pending, recorder->count, &failure);
    if (status == HT_ERR_IO || ht_status_is_stop(status)) {
        /* Another program may hold the database for long; that is no reason to lose a run of days. */
        if (!recorder->complained) ht_warn("metrics wait for the database: %s", failure.message);
        recorder->complained = 1;
        return HT_OK;
    }
    if (status != HT_OK) return ht_fail(err, status, "%s", failure.message);
    if (recorder->complained) ht_info("metrics are in the database again");
    recorder->complained = 0;
    recorder->count = 0;
    return HT_OK;
}

static ht_status queue_for_store(ht_recorder *recorder, int64_t step, const ht_metrics *metrics,
                                 ht_error *err) {
    if (!recorder->store) return HT_OK;
    ht_status status = ht_grow(&recorder->pending, &recorder->capacity,
                               recorder->count + (size_t)metrics->count, sizeof *recorder->pending, err);
    if (status != HT_OK) return status;
    for (int i = 0; i < metrics->count; i++)
        recorder->pending[recorder->count++] = (ht_metric){
            .step = step,
            .name = metrics->names[i],
            .value = isfinite(metrics->values[i]) ? metrics->values[i] : NAN}; /* as in the file */
    return ht_now() - recorder->flushed > FLUSH_SECONDS ? flush_to_store(recorder, err) : HT_OK;
}

ht_status ht_recorder_add(ht_recorder *recorder, int64_t step, const ht_metrics *metrics, ht_error *err) {
    ht_status status = HT_OK;
    char *text = NULL;
    json_t *row = json_pack("{s:I}", "step", (json_int_t)step);
    for (int i = 0; i < metrics->count; i++) {
        double value = metrics->values[i];
        /* JSON has no NaN and no infinity */
        json_object_set_new(row, metrics->names[i], isfinite(value) ? json_real(value) : json_null());
    }
    HT_TRY(ht_json_text(&text, row, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17), err));
    if (fprintf(recorder->file, "%s\n", text) < 0 || fflush(recorder->file) != 0) {
        status = file_error(recorder, err);
        goto done;
    }
    status = queue_for_store(recorder, step, metrics, err);
done:
    free(text);
    json_decref(row);
    return status;
}

ht_status ht_recorder_sync(ht_recorder *recorder, int64_t *size, ht_error *err) {
    *size = 0;
    if (fflush(recorder->file) != 0 || fsync(fileno(recorder->file)) != 0) return file_error(recorder, err);
    *size = ftello(recorder->file);
    return flush_to_store(recorder, err);
}
