/*
 * internal.h: what the files of core/store share: the handle, cached statements, binding, error mapping.
 */
#ifndef HT_STORE_INTERNAL_H
#define HT_STORE_INTERNAL_H

#include <sqlite3.h>

#include "core/store/store.h"

/* Statements prepared once a store, at first use. Values are slots in ht_store.cached. */
typedef enum ht_store_slot {
    HT_SLOT_DIALOG_ADD,
    HT_SLOT_DIALOG_FIND,
    HT_SLOT_RESPONSE_ADD,
    HT_SLOT_RESPONSE_FIND,
    HT_SLOT_COMPARISON_ADD,
    HT_SLOT_COMPARISON_FIND,
    HT_SLOT_DEMONSTRATION_ADD,
    HT_SLOT_DEMONSTRATION_FIND,
    HT_SLOT_SCORE_ADD,
    HT_SLOT_MODEL_ADD,
    HT_SLOT_RUN_ADD,
    HT_SLOT_RUN_END,
    HT_SLOT_METRIC_ADD,
    HT_SLOT_EVALUATION_ADD,
    HT_SLOT_IMPORT_ADD,
    HT_SLOT_COUNT
} ht_store_slot;

struct ht_store {
    sqlite3 *db;
    char *path;
    sqlite3_stmt *cached[HT_SLOT_COUNT];
    ht_store_cursor *got[HT_STORE_SET_COUNT]; /* of ht_store_get_*, by set */
    ht_store_cursor *model_named;             /* of ht_store_find_model */
    double patience;                          /* seconds */
    double wait_started, wait_said;           /* ht_now, of the wait going on */
    double waited;                            /* seconds in all */
    int64_t retries;
};

/* Records SQLite's last error: "PATH: WHAT: MESSAGE"; the status follows from its code. */
ht_status ht_store_fail(ht_store *store, const char *what, ht_error *err);

/* Runs SQL text that gives no rows. */
ht_status ht_store_exec(ht_store *store, const char *sql, ht_error *err);

/* A new statement, to be released with sqlite3_finalize. */
ht_status ht_store_prepare(ht_store *store, const char *sql, sqlite3_stmt **out, ht_error *err);

/* The cached statement of a slot (borrowed), reset and with no bindings; prepared from `sql` at first use. */
ht_status ht_store_statement(ht_store *store, ht_store_slot slot, const char *sql, sqlite3_stmt **out,
                             ht_error *err);

/* *text = a column's text until the next step; NULL: none. HT_ERR_NOMEM when SQLite has no memory to hand it over in. */
ht_status ht_store_text(ht_store *store, sqlite3_stmt *stmt, int column, const char **text, ht_error *err);

/* Bind NULL for NULL, 0 or NaN. Failures are sticky in SQLite's handle only for memory, and show at the step.
 */
void ht_bind_text(sqlite3_stmt *stmt, int index, const char *text);
void ht_bind_id(sqlite3_stmt *stmt, int index, int64_t id);
void ht_bind_number(sqlite3_stmt *stmt, int index, double value);

/* Steps a statement to its end, then resets it. *id (may be NULL) = first column of its first row, or 0: no
 * row. */
ht_status ht_store_run_statement(ht_store *store, sqlite3_stmt *stmt, const char *what, int64_t *id,
                                 ht_error *err);

/* 128-bit content hashes. */
#define HT_STORE_HASH 16
void ht_dialog_hash(uint8_t hash[HT_STORE_HASH], const char *kind, const char *canonical);
void ht_response_hash(uint8_t hash[HT_STORE_HASH], const ht_response_row *response);

#endif
