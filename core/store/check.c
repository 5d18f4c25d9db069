/*
 * check.c: statistics and damage.
 */
#include "core/store/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef ht_status (*stat_visitor)(void *context, const ht_store_stat *stat, ht_error *err);
typedef ht_status (*finding_visitor)(void *context, const char *finding, ht_error *err);

/* What is counted: rows of a table, in all or by a column. `of` joins what the column belongs to. */
typedef struct stat_query {
    const char *table, *column, *expression, *of;
} stat_query;

#define OF_DIALOG " JOIN dialog d ON d.id = t.dialog_id"
static const stat_query stat_queries[] = {
    {"dialog", NULL, NULL, ""},
    {"dialog", "kind", "t.kind", ""},
    {"dialog", "split", "t.split", ""},
    {"dialog", "round", "t.round", ""},
    {"dialog", "source", "t.source", ""},
    {"response", NULL, NULL, ""},
    {"response", "model", "m.name", " LEFT JOIN model m ON m.id = t.model_id"},
    {"response", "round", "t.round", ""},
    {"response", "finish", "t.finish", ""},
    {"comparison", NULL, NULL, ""},
    {"comparison", "kind", "d.kind", OF_DIALOG},
    {"comparison", "split", "d.split", OF_DIALOG},
    {"comparison", "round", "t.round", ""},
    {"comparison", "rating", "t.rating", ""},
    {"comparison", "safety", "t.safety", ""},
    {"comparison", "batch", "t.batch", ""},
    {"comparison", "source", "t.source", ""},
    {"demonstration", NULL, NULL, ""},
    {"demonstration", "kind", "d.kind", OF_DIALOG},
    {"demonstration", "split", "d.split", OF_DIALOG},
    {"demonstration", "origin", "t.origin", ""},
    {"demonstration", "round", "t.round", ""},
    {"score", NULL, NULL, ""},
    {"score", "model", "m.name", " JOIN model m ON m.id = t.model_id"},
    {"model", NULL, NULL, ""},
    {"model", "stage", "t.stage", ""},
    {"run", NULL, NULL, ""},
    {"metric", NULL, NULL, ""},
    {"evaluation", NULL, NULL, ""},
    {"annotation_import", NULL, NULL, ""},
};

static ht_status stat_lines(ht_store *store, const stat_query *q, stat_visitor visit, void *context,
                            ht_error *err) {
    char sql[256];
    ht_status status;
    sqlite3_stmt *stmt;
    int code;
    if (q->column)
        snprintf(sql, sizeof sql, "SELECT count(*), %s AS value FROM %s t%s GROUP BY value ORDER BY value",
                 q->expression, q->table, q->of);
    else
        snprintf(sql, sizeof sql, "SELECT count(*), NULL FROM %s t", q->table);
    HT_TRY(ht_store_prepare(store, sql, &stmt, err));
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *value;
        HT_TRY(ht_store_text(store, stmt, 1, &value, err));
        ht_store_stat stat = {
            .table = q->table,
            .column = q->column,
            .value = q->column && !value ? "none" : value,
            .count = sqlite3_column_int64(stmt, 0),
        };
        HT_TRY(visit(context, &stat, err));
    }
    if (code != SQLITE_DONE) status = ht_store_fail(store, "cannot count rows", err);
done:
    sqlite3_finalize(stmt);
    return status;
}

ht_status ht_store_stats(ht_store *store, stat_visitor visit, void *context, ht_error *err) {
    ht_status status = HT_OK;
    for (size_t i = 0; i < sizeof stat_queries / sizeof *stat_queries; i++)
        HT_TRY(stat_lines(store, &stat_queries[i], visit, context, err));
done:
    return status;
}

/* ---- damage ---- */

typedef struct checker {
    ht_store *store;
    finding_visitor visit;
    void *context;
    int64_t *findings;
} checker;

static ht_status report(const checker *c, ht_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static ht_status report(const checker *c, ht_error *err, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ++*c->findings;
    return c->visit(c->context, line, err);
}

/* Rows that cannot be read are a finding, too; but of no memory the database is not to blame. */
static ht_status end_of_rows(const checker *c, int code, ht_error *err) {
    if (code == SQLITE_DONE) return HT_OK;
    if ((code & 0xff) == SQLITE_NOMEM) return ht_store_fail(c->store, "cannot check", err);
    return report(c, err, "unreadable: %s", sqlite3_errmsg(c->store->db));
}

/* Queries whose every row is a finding: the line is `text` with the first column. */
static const struct finding_query {
    const char *sql, *text;
} finding_queries[] = {
    {"SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'", "integrity: %s"},
    {"SELECT \"table\" || ' row ' || ifnull(rowid, '?') || ' refers to a missing ' || parent FROM"
     " pragma_foreign_key_check",
     "foreign key: %s"},
    {"SELECT c.id FROM comparison c JOIN response a ON a.id = c.chosen_id JOIN response b ON b.id = "
     "c.rejected_id"
     " WHERE a.dialog_id <> c.dialog_id OR b.dialog_id <> c.dialog_id",
     "comparison %s: its responses are not to its dialogue"},
    {"SELECT g.id FROM demonstration g JOIN response r ON r.id = g.response_id WHERE r.dialog_id <> "
     "g.dialog_id",
     "demonstration %s: its response is not to its dialogue"},
    {"SELECT id FROM response WHERE length(tokens) % 4 <> 0", "response %s: its token ids are cut"},
    {"SELECT id FROM response WHERE model_id IS NULL"
     " AND id NOT IN (SELECT chosen_id FROM comparison UNION ALL SELECT rejected_id FROM comparison"
     " UNION ALL SELECT response_id FROM demonstration) ORDER BY id",
     "response %s: orphan: imported, but in no comparison and no demonstration"},
};

static ht_status check_query(const checker *c, const struct finding_query *q, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    int code;
    char line[512];
    HT_TRY(ht_store_prepare(c->store, q->sql, &stmt, err));
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *value;
        HT_TRY(ht_store_text(c->store, stmt, 0, &value, err));
        sqlite3_snprintf(sizeof line, line, q->text, value ? value : "?");
        HT_TRY(report(c, err, "%s", line));
    }
    HT_TRY(end_of_rows(c, code, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

/* A damaged page can hold a hash of another length, or none. */
static int has_hash(sqlite3_stmt *stmt, int column, const uint8_t hash[HT_STORE_HASH]) {
    const void *kept = sqlite3_column_blob(stmt, column);
    return kept && sqlite3_column_bytes(stmt, column) == HT_STORE_HASH &&
           memcmp(kept, hash, HT_STORE_HASH) == 0;
}

static ht_status check_dialog(const checker *c, sqlite3_stmt *stmt, ht_error *err) {
    uint8_t hash[HT_STORE_HASH];
    ht_status status = HT_OK;
    ht_error malformed = HT_ERROR_INIT;
    char *canonical = NULL;
    long long id = sqlite3_column_int64(stmt, 0);
    const char *messages, *kind;
    HT_TRY(ht_store_text(c->store, stmt, 1, &messages, err));
    HT_TRY(ht_store_text(c->store, stmt, 2, &kind, err));
    if (!messages || !kind) return report(c, err, "dialog %lld: it has no messages or no kind", id);
    ht_dialog_hash(hash, kind, messages);
    if (!has_hash(stmt, 3, hash))
        HT_TRY(report(c, err, "dialog %lld: its content does not have its hash", id));
    ht_status form = ht_messages_canonical(&canonical, messages, &malformed);
    if (form == HT_ERR_NOMEM) {
        *err = malformed;
        status = form;
    } else if (form != HT_OK) {
        HT_TRY(report(c, err, "dialog %lld: %s", id, malformed.message));
    } else if (strcmp(canonical, messages) != 0) {
        HT_TRY(report(c, err, "dialog %lld: its messages are not in canonical form", id));
    }
done:
    free(canonical);
    return status;
}

static ht_status check_response(const checker *c, sqlite3_stmt *stmt, ht_error *err) {
    uint8_t hash[HT_STORE_HASH];
    ht_status status = HT_OK;
    ht_response_row row = {
        .id = sqlite3_column_int64(stmt, 0),
        .dialog_id = sqlite3_column_int64(stmt, 1),
        .model_id = sqlite3_column_int64(stmt, 4),
        .run_id = sqlite3_column_int64(stmt, 5),
        .round = sqlite3_column_int64(stmt, 6),
        .step = sqlite3_column_int64(stmt, 7),
        .temperature = sqlite3_column_double(stmt, 8),
        .top_p = sqlite3_column_double(stmt, 9),
        .seed = sqlite3_column_int64(stmt, 10),
        .k = sqlite3_column_int64(stmt, 11),
    };
    HT_TRY(ht_store_text(c->store, stmt, 2, &row.text, err));
    if (!row.text) return report(c, err, "response %lld: it has no text", (long long)row.id);
    ht_response_hash(hash, &row);
    if (!has_hash(stmt, 3, hash))
        status = report(c, err, "response %lld: its content does not have its hash", (long long)row.id);
done:
    return status;
}

/* Walks a table by id. A row that cannot be read is a finding, and ends the walk. */
static ht_status check_rows(const checker *c, const char *sql,
                            ht_status (*check)(const checker *, sqlite3_stmt *, ht_error *), ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    int code;
    HT_TRY(ht_store_prepare(c->store, sql, &stmt, err));
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW)
        HT_TRY(check(c, stmt, err));
    HT_TRY(end_of_rows(c, code, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

ht_status ht_store_check(ht_store *store, finding_visitor visit, void *context, int64_t *findings,
                         ht_error *err) {
    ht_status status;
    checker c = {store, visit, context, findings};
    *findings = 0;
    for (size_t i = 0; i < sizeof finding_queries / sizeof *finding_queries; i++)
        HT_TRY(check_query(&c, &finding_queries[i], err));
    HT_TRY(check_rows(&c, "SELECT id, messages, kind, hash FROM dialog ORDER BY id", check_dialog, err));
    HT_TRY(check_rows(
        &c,
        "SELECT id, dialog_id, text, hash, model_id, run_id, round, step, temperature, top_p, seed, k"
        " FROM response ORDER BY id",
        check_response, err));
done:
    return status;
}
