/*
 * schema.c: opening, the schema and its migrations, transactions, statements, error mapping.
 */
#include "core/store/internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"

#define SAY_SECONDS 5.0    /* between two words on waiting */
#define PAUSE_MAX   100000 /* microseconds between two tries */

/* Bytes of one value and of one row: an annotation has at most 16 MiB, and each byte of it may take six in JSON. */
#define VALUE_BYTES_MAX (256 << 20)

/*
 * One entry a version: what turns version i into i + 1. An entry is never changed once released, so that
 * every database ever written can be brought up to date.
 *
 * Hashes make repeated work add nothing; they are BLOBs of 16 bytes, the smallest index that serves. The
 * indexes are those that reads need: rows of a dialogue, of a model, of a run. Comparisons and demonstrations
 * are read by id.
 */
static const char *const migrations[HT_STORE_VERSION] = {
    "CREATE TABLE model("
    " id INTEGER PRIMARY KEY,"
    " name TEXT NOT NULL,"
    " path TEXT NOT NULL,"
    " hash TEXT NOT NULL,"
    " stage TEXT NOT NULL,"
    " round INTEGER NOT NULL CHECK(round >= 0),"
    " parent_id INTEGER REFERENCES model,"
    " config TEXT,"
    " tokenizer_hash TEXT,"
    " created TEXT NOT NULL,"
    " UNIQUE(name, hash)"
    ") STRICT;"
    "CREATE TABLE run("
    " id INTEGER PRIMARY KEY,"
    " stage TEXT NOT NULL,"
    " round INTEGER NOT NULL CHECK(round >= 0),"
    " model_id INTEGER REFERENCES model,"
    " result_id INTEGER REFERENCES model,"
    " config TEXT,"
    " folder TEXT,"
    " started TEXT NOT NULL,"
    " ended TEXT,"
    " outcome TEXT"
    ") STRICT;"
    "CREATE TABLE dialog("
    " id INTEGER PRIMARY KEY,"
    " kind TEXT NOT NULL CHECK(kind IN ('helpfulness', 'safety')),"
    " split TEXT NOT NULL CHECK(split IN ('train', 'test')),"
    " messages TEXT NOT NULL,"
    " source TEXT,"
    " round INTEGER NOT NULL CHECK(round >= 0),"
    " hash BLOB NOT NULL UNIQUE CHECK(length(hash) = 16)"
    ") STRICT;"
    "CREATE TABLE response("
    " id INTEGER PRIMARY KEY,"
    " dialog_id INTEGER NOT NULL REFERENCES dialog,"
    " text TEXT NOT NULL,"
    " tokens BLOB CHECK(length(tokens) % 4 = 0),"
    " token_count INTEGER GENERATED ALWAYS AS (length(tokens) / 4) VIRTUAL,"
    " model_id INTEGER REFERENCES model,"
    " run_id INTEGER REFERENCES run,"
    " round INTEGER NOT NULL CHECK(round >= 0),"
    " step INTEGER NOT NULL CHECK(step >= 0),"
    " temperature REAL,"
    " top_p REAL,"
    " seed INTEGER,"
    " k INTEGER,"
    " logprob REAL,"
    " finish TEXT CHECK(finish IN ('eos', 'length')),"
    " hash BLOB NOT NULL UNIQUE CHECK(length(hash) = 16)"
    ") STRICT;"
    "CREATE INDEX response_dialog ON response(dialog_id);"
    "CREATE INDEX response_model ON response(model_id, dialog_id) WHERE model_id IS NOT NULL;"
    "CREATE INDEX response_run ON response(run_id, dialog_id) WHERE run_id IS NOT NULL;"
    "CREATE TABLE comparison("
    " id INTEGER PRIMARY KEY,"
    " dialog_id INTEGER NOT NULL REFERENCES dialog,"
    " chosen_id INTEGER NOT NULL REFERENCES response,"
    " rejected_id INTEGER NOT NULL REFERENCES response,"
    " rating INTEGER CHECK(rating BETWEEN 1 AND 4),"
    " safety TEXT CHECK(safety IN ('chosen_safe', 'both_safe', 'both_unsafe')),"
    " annotator TEXT,"
    " batch TEXT,"
    " round INTEGER NOT NULL CHECK(round >= 0),"
    " source TEXT,"
    " CHECK(chosen_id <> rejected_id)"
    ") STRICT;"
    "CREATE UNIQUE INDEX comparison_same ON comparison(chosen_id, rejected_id, ifnull(rating, 0), "
    "ifnull(safety, ''),"
    " ifnull(annotator, ''), ifnull(batch, ''));"
    "CREATE TABLE demonstration("
    " id INTEGER PRIMARY KEY,"
    " dialog_id INTEGER NOT NULL REFERENCES dialog,"
    " response_id INTEGER NOT NULL REFERENCES response,"
    " origin TEXT NOT NULL CHECK(origin IN ('human', 'rejection')),"
    " round INTEGER NOT NULL CHECK(round >= 0),"
    " batch TEXT,"
    " source TEXT,"
    " weight REAL NOT NULL CHECK(weight > 0),"
    " UNIQUE(response_id, origin, round)"
    ") STRICT;"
    "CREATE TABLE score("
    " response_id INTEGER NOT NULL REFERENCES response,"
    " model_id INTEGER NOT NULL REFERENCES model,"
    " value REAL NOT NULL,"
    " PRIMARY KEY(response_id, model_id)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE metric("
    " run_id INTEGER NOT NULL REFERENCES run,"
    " name TEXT NOT NULL,"
    " step INTEGER NOT NULL,"
    " value REAL,"
    " PRIMARY KEY(run_id, name, step)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE evaluation("
    " id INTEGER PRIMARY KEY,"
    " model_id INTEGER NOT NULL REFERENCES model,"
    " name TEXT NOT NULL,"
    " value REAL,"
    " details TEXT,"
    " created TEXT NOT NULL,"
    " UNIQUE(model_id, name)"
    ") STRICT;"
    "CREATE TABLE annotation_import("
    " id INTEGER PRIMARY KEY,"
    " file_hash TEXT NOT NULL,"
    " path TEXT NOT NULL,"
    " format TEXT NOT NULL,"
    " options TEXT,"
    " taken INTEGER NOT NULL,"
    " existing INTEGER NOT NULL,"
    " refused INTEGER NOT NULL,"
    " dropped INTEGER NOT NULL,"
    " created TEXT NOT NULL"
    ") STRICT;"
    "CREATE UNIQUE INDEX annotation_import_same ON annotation_import(file_hash, format, ifnull(options, "
    "''));",
};

static ht_status status_of(int code) {
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return HT_ERR_NOMEM;
    case SQLITE_ERROR: /* all SQL is ours: a statement that does not fit is a schema that is not */
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_TOOBIG:
        return HT_ERR_DATA;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_FULL:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_PROTOCOL:
    case SQLITE_NOLFS:
        return HT_ERR_IO;
    default:
        return HT_ERR_RUN;
    }
}

ht_status ht_store_fail(ht_store *store, const char *what, ht_error *err) {
    int code = sqlite3_extended_errcode(store->db);
    ht_status stop = (code & 0xff) == SQLITE_BUSY ? ht_stop_requested() : HT_OK; /* which has ended the waiting */
    return ht_fail(err, stop != HT_OK ? stop : status_of(code), "%s: %s: %s", store->path, what,
                   sqlite3_errmsg(store->db));
}

ht_status ht_store_exec(ht_store *store, const char *sql, ht_error *err) {
    if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK) return HT_OK;
    char what[48] = "";
    strncat(what, sql, strcspn(sql, "(;") < sizeof what ? strcspn(sql, "(;") : sizeof what - 1);
    return ht_store_fail(store, what, err);
}

ht_status ht_store_prepare(ht_store *store, const char *sql, sqlite3_stmt **out, ht_error *err) {
    *out = NULL;
    if (sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) == SQLITE_OK)
        return HT_OK;
    return ht_store_fail(store, "cannot prepare a query", err);
}

ht_status ht_store_text(ht_store *store, sqlite3_stmt *stmt, int column, const char **text, ht_error *err) {
    int has_value = sqlite3_column_type(stmt, column) != SQLITE_NULL;
    *text = (const char *)sqlite3_column_text(stmt, column);
    return has_value && !*text ? ht_store_fail(store, "cannot read a text", err) : HT_OK;
}

ht_status ht_store_statement(ht_store *store, ht_store_slot slot, const char *sql, sqlite3_stmt **out,
                             ht_error *err) {
    *out = store->cached[slot];
    if (!*out) {
        ht_status status = ht_store_prepare(store, sql, out, err);
        if (status != HT_OK) return status;
        store->cached[slot] = *out;
    }
    sqlite3_clear_bindings(*out);
    return HT_OK;
}

void ht_bind_text(sqlite3_stmt *stmt, int index, const char *text) {
    /* static: every statement is stepped and reset before the caller's strings go away */
    if (text) sqlite3_bind_text(stmt, index, text, -1, SQLITE_STATIC);
}

void ht_bind_id(sqlite3_stmt *stmt, int index, int64_t id) {
    if (id) sqlite3_bind_int64(stmt, index, id);
}

void ht_bind_number(sqlite3_stmt *stmt, int index, double value) {
    if (!isnan(value)) sqlite3_bind_double(stmt, index, value);
}

ht_status ht_store_run_statement(ht_store *store, sqlite3_stmt *stmt, const char *what, int64_t *id,
                                 ht_error *err) {
    ht_status status = HT_OK;
    if (id) *id = 0;
    int code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        if (id) *id = sqlite3_column_int64(stmt, 0);
        /* a second step commits when no transaction is open, and so can fail */
        code = sqlite3_step(stmt);
    }
    if (code != SQLITE_DONE) status = ht_store_fail(store, what, err);
    sqlite3_reset(stmt);
    return status;
}

static ht_status read_pragma(ht_store *store, const char *sql, int64_t *value, ht_error *err) {
    sqlite3_stmt *stmt = NULL;
    ht_status status = ht_store_prepare(store, sql, &stmt, err);
    if (status == HT_OK) status = ht_store_run_statement(store, stmt, sql, value, err);
    sqlite3_finalize(stmt);
    return status;
}

/* Version and ownership of the file; *version = -1 when the file is empty. Its reads are one transaction: another process may be
 * creating the schema. */
static ht_status identify(ht_store *store, int64_t *version, ht_error *err) {
    ht_status status;
    int64_t application, objects;
    HT_TRY(ht_store_exec(store, "SAVEPOINT identify", err));
    HT_TRY(read_pragma(store, "PRAGMA application_id", &application, err));
    HT_TRY(read_pragma(store, "PRAGMA user_version", version, err));
    HT_TRY(read_pragma(store, "SELECT count(*) FROM sqlite_schema", &objects, err));
    HT_TRY(ht_store_exec(store, "RELEASE identify", err));
    if (application == 0 && *version == 0 && objects == 0) {
        *version = -1;
    } else if (application != HT_STORE_APPLICATION_ID) {
        status =
            ht_fail(err, HT_ERR_DATA, "%s: belongs to another application: application_id = 0x%llx, not 0x%x",
                    store->path, (unsigned long long)application, HT_STORE_APPLICATION_ID);
    } else if (*version < 1 || *version > HT_STORE_VERSION) {
        status = ht_fail(err, HT_ERR_DATA, "%s: schema version %lld, but this program knows 1 to %d",
                         store->path, (long long)*version, HT_STORE_VERSION);
    }
done:
    return status;
}

/* Brings the schema up to date in one transaction; looks again inside it, as another process may have been
 * first. */
static ht_status migrate(ht_store *store, ht_error *err) {
    ht_status status;
    int64_t version;
    char pragma[128];
    HT_TRY(identify(store, &version, err));
    if (version == HT_STORE_VERSION) return HT_OK;
    HT_TRY(ht_store_begin(store, err));
    HT_TRY(identify(store, &version, err));
    for (int64_t next = version < 0 ? 0 : version; next < HT_STORE_VERSION; next++)
        HT_TRY(ht_store_exec(store, migrations[next], err));
    sqlite3_snprintf(sizeof pragma, pragma, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                     HT_STORE_APPLICATION_ID, HT_STORE_VERSION);
    HT_TRY(ht_store_exec(store, pragma, err));
    HT_TRY(ht_store_commit(store, err));
done:
    if (status != HT_OK) ht_store_rollback(store);
    return status;
}

/* The file may come from anywhere: what its schema can do beyond holding tables is switched off (ours has no triggers,
 * views or functions with side effects), and a value ends the read before it fills the memory. */
static void distrust(sqlite3 *db) {
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    sqlite3_limit(db, SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX);
}

/* SQLite asks whether to try once more to get a lock that another process holds, for the `tries`-th time. */
static int on_busy(void *context, int tries) {
    ht_store *store = context;
    double now = ht_now();
    if (tries == 0) {
        store->wait_started = store->wait_said = now;
        ht_debug("%s: another process is changing it", store->path);
    }
    if (now - store->wait_started >= store->patience || ht_stop_requested() != HT_OK) return 0;
    if (now - store->wait_said >= SAY_SECONDS) {
        ht_info("%s: waiting for another process that is changing it (%.0f s)", store->path,
                now - store->wait_started);
        store->wait_said = now;
    }
    useconds_t pause = tries < 7 ? 1000u << tries : PAUSE_MAX;
    usleep(pause);
    store->retries++;
    store->waited += ht_now() - now;
    return 1;
}

/* SQLite does not wait by itself when two processes that have both read a new file turn to the log. */
static ht_status set_journal(ht_store *store, ht_error *err) {
    sqlite3_stmt *stmt = NULL;
    ht_status status;
    int code, tries = 0;
    HT_TRY(ht_store_prepare(store, "PRAGMA journal_mode = WAL", &stmt, err));
    while (((code = sqlite3_step(stmt)) & 0xff) == SQLITE_BUSY && on_busy(store, tries++)) /* extended codes are on */
        sqlite3_reset(stmt);
    if (code != SQLITE_ROW) {
        status = ht_store_fail(store, "cannot set the write-ahead log", err);
        goto done;
    }
    const char *mode;
    HT_TRY(ht_store_text(store, stmt, 0, &mode, err));
    if (!mode || strcmp(mode, "wal") != 0)
        status =
            ht_fail(err, HT_ERR_IO, "%s: the file system does not allow a write-ahead log (journal mode %s)",
                    store->path, mode ? mode : "unknown");
done:
    sqlite3_finalize(stmt);
    return status;
}

void ht_store_set_patience(ht_store *store, double seconds) {
    store->patience = seconds;
}

/* Before any work: the folder takes the log, which readers share too, and the file rows. */
static ht_status check_writable(const ht_store *store, ht_store_mode mode, ht_error *err) {
    char folder[HT_PATH_MAX];
    snprintf(folder, sizeof folder, "%s", store->path);
    ht_path_parent(folder, folder);
    if (access(folder, W_OK) != 0)
        return ht_fail(err, HT_ERR_IO, "%s: its folder cannot be written (%s), but SQLite keeps a log there, for reading too",
                       store->path, strerror(errno));
    if (mode != HT_STORE_READ && access(store->path, W_OK) != 0 && errno != ENOENT)
        return ht_fail(err, HT_ERR_IO, "%s: cannot be written: %s", store->path, strerror(errno));
    return HT_OK;
}

ht_status ht_store_open(ht_store **out, const char *path, ht_store_mode mode, ht_error *err) {
    ht_status status;
    ht_store *store = NULL;
    *out = NULL;
    HT_TRY(ht_calloc(&store, 1, sizeof *store, err));
    HT_TRY(ht_strdup(&store->path, path, err));
    HT_TRY(check_writable(store, mode, err));
    int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (mode == HT_STORE_CREATE ? SQLITE_OPEN_CREATE : 0);
    if (sqlite3_open_v2(path, &store->db, flags, NULL) != SQLITE_OK) {
        status = ht_store_fail(store, "cannot open the database", err);
        goto done;
    }
    sqlite3_extended_result_codes(store->db, 1);
    distrust(store->db);
    store->patience = HT_STORE_PATIENCE;
    sqlite3_busy_handler(store->db, on_busy, store);
    int64_t version;
    /* before anything is written: a foreign file is left as it was */
    HT_TRY(identify(store, &version, err));
    HT_TRY(set_journal(store, err));
    /* 64 MiB of pages: imports of millions of rows touch their hash indexes at random. FULL: what was
     * committed outlives a power cut too. */
    HT_TRY(ht_store_exec(
        store, "PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536", err));
    HT_TRY(migrate(store, err));
    *out = store;
    store = NULL;
done:
    ht_store_close(store);
    return status;
}

void ht_store_close(ht_store *store) {
    if (!store) return;
    ht_store_rollback(store);
    if (store->retries)
        ht_log(store->waited < 1 ? HT_LOG_DEBUG : HT_LOG_INFO,
               "%s: tried %lld times again while other processes were changing it, %.1f s in all",
               store->path, (long long)store->retries, store->waited);
    for (int i = 0; i < HT_STORE_SET_COUNT; i++)
        ht_store_cursor_free(store->got[i]);
    ht_store_cursor_free(store->model_named);
    for (int i = 0; i < HT_SLOT_COUNT; i++)
        sqlite3_finalize(store->cached[i]);
    sqlite3_close_v2(store->db);
    free(store->path);
    free(store);
}

const char *ht_store_path(const ht_store *store) {
    return store->path;
}

ht_status ht_store_set_cache(ht_store *store, int64_t bytes, ht_error *err) {
    char pragma[64];
    sqlite3_snprintf(sizeof pragma, pragma, "PRAGMA cache_size = -%lld", (long long)bytes / 1024);
    return ht_store_exec(store, pragma, err);
}

ht_status ht_store_begin(ht_store *store, ht_error *err) {
    if (!sqlite3_get_autocommit(store->db))
        return ht_fail(err, HT_ERR_RUN, "%s: a transaction is open already", store->path);
    return ht_store_exec(store, "BEGIN IMMEDIATE", err);
}

ht_status ht_store_commit(ht_store *store, ht_error *err) {
    if (sqlite3_get_autocommit(store->db))
        return ht_fail(err, HT_ERR_RUN, "%s: no transaction is open", store->path);
    return ht_store_exec(store, "COMMIT", err);
}

void ht_store_rollback(ht_store *store) {
    if (store->db && !sqlite3_get_autocommit(store->db))
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
}
