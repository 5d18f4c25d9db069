/*
 * runs.c: models, runs, metrics, evaluations, imports.
 */
#include "core/store/internal.h"

#define NOW "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"

ht_status ht_store_add_model(ht_store *store, const ht_model_row *model, int64_t *id, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    *id = 0;
    HT_TRY(ht_store_statement(
        store, HT_SLOT_MODEL_ADD,
        "INSERT INTO model(name, path, hash, stage, round, parent_id, config, tokenizer_hash,"
        " created) VALUES(?, ?, ?, ?, ?, ?, ?, ?, " NOW ")"
        " ON CONFLICT(name, hash) DO UPDATE SET path = excluded.path RETURNING id",
        &stmt, err));
    ht_bind_text(stmt, 1, model->name);
    ht_bind_text(stmt, 2, model->path);
    ht_bind_text(stmt, 3, model->hash);
    ht_bind_text(stmt, 4, model->stage);
    sqlite3_bind_int64(stmt, 5, model->round);
    ht_bind_id(stmt, 6, model->parent_id);
    ht_bind_text(stmt, 7, model->config);
    ht_bind_text(stmt, 8, model->tokenizer_hash);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot add a model", id, err));
done:
    return status;
}

ht_status ht_store_begin_run(ht_store *store, const ht_run_row *run, int64_t *id, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    *id = 0;
    HT_TRY(ht_store_statement(store, HT_SLOT_RUN_ADD,
                              "INSERT INTO run(stage, round, model_id, config, folder, started)"
                              " VALUES(?, ?, ?, ?, ?, " NOW ") RETURNING id",
                              &stmt, err));
    ht_bind_text(stmt, 1, run->stage);
    sqlite3_bind_int64(stmt, 2, run->round);
    ht_bind_id(stmt, 3, run->model_id);
    ht_bind_text(stmt, 4, run->config);
    ht_bind_text(stmt, 5, run->folder);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot add a run", id, err));
done:
    return status;
}

ht_status ht_store_end_run(ht_store *store, int64_t run_id, ht_status outcome, int64_t model_id,
                           ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    int64_t found;
    HT_TRY(ht_store_statement(
        store, HT_SLOT_RUN_END,
        "UPDATE run SET ended = " NOW ", outcome = ?, result_id = ? WHERE id = ? RETURNING id", &stmt, err));
    ht_bind_text(stmt, 1, ht_status_text(outcome));
    ht_bind_id(stmt, 2, model_id);
    sqlite3_bind_int64(stmt, 3, run_id);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot end a run", &found, err));
    if (!found)
        status = ht_fail(err, HT_ERR_DATA, "%s: there is no run %lld to end", store->path, (long long)run_id);
done:
    return status;
}

ht_status ht_store_add_metrics(ht_store *store, int64_t run_id, const ht_metric *metrics, size_t count,
                               ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    int own = sqlite3_get_autocommit(store->db);
    if (own) HT_TRY(ht_store_begin(store, err));
    for (size_t i = 0; i < count; i++) {
        HT_TRY(ht_store_statement(store, HT_SLOT_METRIC_ADD,
                                  "INSERT INTO metric(run_id, name, step, value) VALUES(?, ?, ?, ?)"
                                  " ON CONFLICT DO UPDATE SET value = excluded.value",
                                  &stmt, err));
        sqlite3_bind_int64(stmt, 1, run_id);
        ht_bind_text(stmt, 2, metrics[i].name);
        sqlite3_bind_int64(stmt, 3, metrics[i].step);
        ht_bind_number(stmt, 4, metrics[i].value);
        HT_TRY(ht_store_run_statement(store, stmt, "cannot add a metric", NULL, err));
    }
    if (own) HT_TRY(ht_store_commit(store, err));
    return HT_OK;
done:
    if (own) ht_store_rollback(store);
    return status;
}

ht_status ht_store_record_evaluation(ht_store *store, const ht_evaluation_row *evaluation, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    HT_TRY(
        ht_store_statement(store, HT_SLOT_EVALUATION_ADD,
                           "INSERT INTO evaluation(model_id, name, value, details, created)"
                           " VALUES(?, ?, ?, ?, " NOW ") ON CONFLICT(model_id, name) DO UPDATE SET"
                           " value = excluded.value, details = excluded.details, created = excluded.created",
                           &stmt, err));
    sqlite3_bind_int64(stmt, 1, evaluation->model_id);
    ht_bind_text(stmt, 2, evaluation->name);
    ht_bind_number(stmt, 3, evaluation->value);
    ht_bind_text(stmt, 4, evaluation->details);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot record an evaluation", NULL, err));
done:
    return status;
}

ht_status ht_store_add_import(ht_store *store, const ht_import_row *import, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    HT_TRY(ht_store_statement(
        store, HT_SLOT_IMPORT_ADD,
        "INSERT INTO annotation_import(file_hash, path, format, options, taken, existing, refused,"
        " dropped, created) VALUES(?, ?, ?, ?, ?, ?, ?, ?, " NOW ")"
        " ON CONFLICT DO UPDATE SET taken = taken + excluded.taken, existing = excluded.existing,"
        " refused = excluded.refused, dropped = excluded.dropped, created = excluded.created"
        " WHERE excluded.taken > 0",
        &stmt, err));
    ht_bind_text(stmt, 1, import->file_hash);
    ht_bind_text(stmt, 2, import->path);
    ht_bind_text(stmt, 3, import->format);
    ht_bind_text(stmt, 4, import->options);
    sqlite3_bind_int64(stmt, 5, import->taken);
    sqlite3_bind_int64(stmt, 6, import->existing);
    sqlite3_bind_int64(stmt, 7, import->refused);
    sqlite3_bind_int64(stmt, 8, import->dropped);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot note an import", NULL, err));
done:
    return status;
}
