/*
 * read.c: cursors, single rows, counts.
 *
 * A cursor asks for one row at a time, "the first one after the last I saw", and copies it before it lets go
 * of the statement. So it never holds a read snapshot: one that is open for hours of training would keep the
 * write-ahead log growing, and a write on the same connection would fail as soon as another process had
 * written.
 */
#include "core/store/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "token ids are kept as little-endian int32, which this machine does not read as they are"
#endif

enum { MAX_COLUMNS = 48, TOKEN_BUFFERS = 2, DIALOG_COLUMNS = 6, RESPONSE_COLUMNS = 15 };

struct ht_store_cursor {
    ht_store *store;
    ht_store_set set;
    sqlite3_stmt *stmt;
    int64_t last_dialog, last_id; /* of the row given last */
    int64_t left;                 /* rows of the limit still to give; -1: no limit */
    char *text;                   /* copies of the row's TEXT columns, NUL-terminated, end to end */
    size_t text_capacity;
    const char *columns[MAX_COLUMNS]; /* into text; NULL: column is NULL or no TEXT */
    int32_t *tokens[TOKEN_BUFFERS];
    size_t token_capacity[TOKEN_BUFFERS];
};

#define DIALOG_SELECT "d.id, d.messages, d.kind, d.split, d.source, d.round"
#define RESPONSE_SELECT(r, m)                                                                                \
    r ".id, " r ".dialog_id, " r ".text, " r ".tokens, " r ".model_id, " r ".run_id, " r ".round, " r        \
      ".step, " r ".temperature, " r ".top_p, " r ".seed, " r ".k, " r ".logprob, " r ".finish, " m          \
      ".tokenizer_hash"
#define MODEL_SELECT                                                                                         \
    "m.id, m.name, m.path, m.hash, m.stage, m.round, m.parent_id, m.config, m.tokenizer_hash, m.created"

/* A set's query. Aliases: d dialogue, m model; CROSS JOIN keeps SQLite from starting at another table than
 * the first. */
typedef struct set_query {
    const char *table, *alias, *columns, *from, *round, *source, *batch, *name;
} set_query;

static const set_query queries[HT_STORE_SET_COUNT] = {
    [HT_STORE_DIALOGS] = {"dialog", "d", DIALOG_SELECT, "dialog d", "d.round", "d.source", NULL, NULL},
    [HT_STORE_RESPONSES] = {"response", "r",
                            DIALOG_SELECT ", " RESPONSE_SELECT("r", "m") ", h.value, s.value",
                            "response r CROSS JOIN dialog d ON d.id = r.dialog_id"
                            " LEFT JOIN model m ON m.id = r.model_id"
                            " LEFT JOIN score h ON h.response_id = r.id AND h.model_id = :helpful"
                            " LEFT JOIN score s ON s.response_id = r.id AND s.model_id = :safe",
                            "r.round", "d.source", NULL, NULL},
    [HT_STORE_COMPARISONS] =
        {"comparison", "c",
         DIALOG_SELECT ", " RESPONSE_SELECT("a", "ma") ", " RESPONSE_SELECT(
             "b", "mb") ", c.id, c.rating, c.safety, c.annotator, c.batch, c.round, c.source",
         "comparison c CROSS JOIN dialog d ON d.id = c.dialog_id"
         " JOIN response a ON a.id = c.chosen_id JOIN response b ON b.id = c.rejected_id"
         " LEFT JOIN model ma ON ma.id = a.model_id LEFT JOIN model mb ON mb.id = b.model_id",
         "c.round", "c.source", "c.batch", NULL},
    [HT_STORE_DEMONSTRATIONS] =
        {"demonstration", "g",
         DIALOG_SELECT
         ", " RESPONSE_SELECT("r", "m") ", g.id, g.origin, g.round, g.batch, g.source, g.weight",
         "demonstration g CROSS JOIN dialog d ON d.id = g.dialog_id"
         " JOIN response r ON r.id = g.response_id LEFT JOIN model m ON m.id = r.model_id",
         "g.round", "g.source", "g.batch", NULL},
    [HT_STORE_EVALUATIONS] = {"evaluation", "e",
                              "e.id, e.model_id, e.name, e.value, e.details, m.name, m.round",
                              "evaluation e CROSS JOIN model m ON m.id = e.model_id", "m.round", NULL, NULL,
                              "e.name"},
    [HT_STORE_MODELS] = {"model", "m", MODEL_SELECT, "model m", "m.round", NULL, NULL, "m.name"},
};

/* ---- building the query ---- */

typedef const char *(*name_of)(int value);
static const char *kind_name(int value) {
    return ht_kind_text((ht_kind)value);
}
static const char *split_name(int value) {
    return ht_split_text((ht_split)value);
}
static const char *origin_name(int value) {
    return ht_origin_text((ht_origin)value);
}

/* " AND column IN (names of the mask's bits)"; nothing for mask 0. */
static void append_mask(sqlite3_str *sql, const char *column, unsigned mask, int count, name_of name) {
    if (!mask) return;
    const char *separator = "";
    sqlite3_str_appendf(sql, " AND %s IN (", column);
    for (int i = 0; i < count; i++) {
        if (!(mask & 1u << i)) continue;
        sqlite3_str_appendf(sql, "%s%Q", separator, name(i));
        separator = ", ";
    }
    sqlite3_str_appendall(sql, ")");
}

static void append_filter(sqlite3_str *sql, ht_store_set set, const ht_store_filter *f) {
    const set_query *q = &queries[set];
    int of_dialog = set != HT_STORE_EVALUATIONS && set != HT_STORE_MODELS;
    if (of_dialog) {
        append_mask(sql, "d.kind", f->kinds, HT_KIND_COUNT, kind_name);
        append_mask(sql, "d.split", f->splits, HT_SPLIT_COUNT, split_name);
        if (f->dialog_id)
            sqlite3_str_appendf(sql, " AND %s.%s = :dialog", q->alias,
                                set == HT_STORE_DIALOGS ? "id" : "dialog_id");
    }
    if (set == HT_STORE_DEMONSTRATIONS)
        append_mask(sql, "g.origin", f->origins, HT_ORIGIN_COUNT, origin_name);
    if (f->first_round) sqlite3_str_appendf(sql, " AND %s >= :first_round", q->round);
    if (f->end_round) sqlite3_str_appendf(sql, " AND %s < :end_round", q->round);
    if (f->source && q->source) sqlite3_str_appendf(sql, " AND %s = :source", q->source);
    if (f->batch && q->batch) sqlite3_str_appendf(sql, " AND %s = :batch", q->batch);
    if (f->name && q->name) sqlite3_str_appendf(sql, " AND %s = :name", q->name);
    if (f->model_id && (set == HT_STORE_RESPONSES || set == HT_STORE_EVALUATIONS))
        sqlite3_str_appendf(sql, " AND %s.model_id = :model", q->alias);
    if (f->run_id && set == HT_STORE_RESPONSES) sqlite3_str_appendall(sql, " AND r.run_id = :run");
    if (f->after_id) sqlite3_str_appendf(sql, " AND %s.id > :after_id", q->alias);
}

static void append_order(sqlite3_str *sql, ht_store_set set) {
    if (set == HT_STORE_RESPONSES)
        sqlite3_str_appendall(sql, " ORDER BY r.dialog_id, r.id");
    else
        sqlite3_str_appendf(sql, " ORDER BY %s.id", queries[set].alias);
}

static void bind_named_id(sqlite3_stmt *stmt, const char *name, int64_t value) {
    int index = sqlite3_bind_parameter_index(stmt, name);
    if (index) sqlite3_bind_int64(stmt, index, value);
}

static void bind_named_text(sqlite3_stmt *stmt, const char *name, const char *value) {
    int index = sqlite3_bind_parameter_index(stmt, name);
    /* transient: the filter's strings are the caller's, and the cursor outlives the call */
    if (index) sqlite3_bind_text(stmt, index, value, -1, SQLITE_TRANSIENT);
}

static void bind_filter(sqlite3_stmt *stmt, const ht_store_filter *f) {
    bind_named_id(stmt, ":dialog", f->dialog_id);
    bind_named_id(stmt, ":first_round", f->first_round);
    bind_named_id(stmt, ":end_round", f->end_round);
    bind_named_text(stmt, ":source", f->source);
    bind_named_text(stmt, ":batch", f->batch);
    bind_named_text(stmt, ":name", f->name);
    bind_named_id(stmt, ":model", f->model_id);
    bind_named_id(stmt, ":run", f->run_id);
    bind_named_id(stmt, ":after_id", f->after_id);
    bind_named_id(stmt, ":helpful", f->helpful_model_id);
    bind_named_id(stmt, ":safe", f->safe_model_id);
}

/* Prepares the SQL text and binds the filter; frees `sql`. */
static ht_status prepare_filtered(ht_store *store, sqlite3_str *sql, const ht_store_filter *filter,
                                  sqlite3_stmt **out, ht_error *err) {
    char *text = sqlite3_str_finish(sql);
    *out = NULL;
    if (!text) return ht_fail(err, HT_ERR_NOMEM, "%s: cannot allocate a query", store->path);
    ht_status status = ht_store_prepare(store, text, out, err);
    sqlite3_free(text);
    if (status == HT_OK) bind_filter(*out, filter);
    return status;
}

/* ---- cursors ---- */

/* *last = the greatest id of the set's table: the end of what a cursor gives. */
static ht_status greatest_id(ht_store *store, ht_store_set set, int64_t *last, ht_error *err) {
    char sql[96];
    sqlite3_stmt *stmt;
    snprintf(sql, sizeof sql, "SELECT max(id) FROM %s", queries[set].table);
    ht_status status = ht_store_prepare(store, sql, &stmt, err);
    if (status == HT_OK) status = ht_store_run_statement(store, stmt, "cannot read", last, err);
    sqlite3_finalize(stmt);
    return status;
}

static ht_status cursor_create(ht_store *store, ht_store_set set, ht_store_cursor **out, ht_error *err) {
    ht_status status = ht_calloc(out, 1, sizeof **out, err);
    if (status != HT_OK) return status;
    (*out)->store = store;
    (*out)->set = set;
    (*out)->left = -1;
    return HT_OK;
}

ht_status ht_store_read(ht_store *store, ht_store_set set, const ht_store_filter *filter,
                        ht_store_cursor **out, ht_error *err) {
    ht_status status;
    ht_store_cursor *cursor = NULL;
    int64_t last;
    *out = NULL;
    HT_TRY(cursor_create(store, set, &cursor, err));
    HT_TRY(greatest_id(store, set, &last, err));
    if (filter->limit) cursor->left = filter->limit;
    const set_query *q = &queries[set];
    sqlite3_str *sql = sqlite3_str_new(store->db);
    sqlite3_str_appendf(sql, "SELECT %s FROM %s WHERE %s.id <= :last", q->columns, q->from, q->alias);
    sqlite3_str_appendall(
        sql, set == HT_STORE_RESPONSES ? " AND (r.dialog_id, r.id) > (:last_dialog, :last_id)" : "");
    if (set != HT_STORE_RESPONSES) sqlite3_str_appendf(sql, " AND %s.id > :last_id", q->alias);
    append_filter(sql, set, filter);
    append_order(sql, set);
    sqlite3_str_appendall(sql, " LIMIT 1");
    HT_TRY(prepare_filtered(store, sql, filter, &cursor->stmt, err));
    bind_named_id(cursor->stmt, ":last", last);
    *out = cursor;
    cursor = NULL;
done:
    ht_store_cursor_free(cursor);
    return status;
}

void ht_store_cursor_free(ht_store_cursor *cursor) {
    if (!cursor) return;
    sqlite3_finalize(cursor->stmt);
    for (int i = 0; i < TOKEN_BUFFERS; i++)
        free(cursor->tokens[i]);
    free(cursor->text);
    free(cursor);
}

/* Copies the row's TEXT columns, so that they outlive the statement. */
static ht_status copy_text(ht_store_cursor *cursor, ht_error *err) {
    ht_status status = HT_OK;
    int count = sqlite3_column_count(cursor->stmt);
    size_t size = 0, used = 0;
    for (int i = 0; i < count; i++) {
        const char *text;
        if (sqlite3_column_type(cursor->stmt, i) != SQLITE_TEXT) continue;
        HT_TRY(ht_store_text(cursor->store, cursor->stmt, i, &text, err));
        size += (size_t)sqlite3_column_bytes(cursor->stmt, i) + 1;
    }
    HT_TRY(ht_grow(&cursor->text, &cursor->text_capacity, size, 1, err));
    for (int i = 0; i < count; i++) {
        cursor->columns[i] = NULL;
        if (sqlite3_column_type(cursor->stmt, i) != SQLITE_TEXT) continue;
        size_t bytes = (size_t)sqlite3_column_bytes(cursor->stmt, i);
        memcpy(cursor->text + used, sqlite3_column_text(cursor->stmt, i), bytes + 1);
        cursor->columns[i] = cursor->text + used;
        used += bytes + 1;
    }
done:
    return status;
}

/* Steps to the next row and copies its texts; *found = 0 at the end. The caller reads its numbers, then
 * resets. */
static ht_status step(ht_store_cursor *cursor, int *found, ht_error *err) {
    *found = 0;
    if (cursor->left == 0) return HT_OK;
    bind_named_id(cursor->stmt, ":last_dialog", cursor->last_dialog);
    bind_named_id(cursor->stmt, ":last_id", cursor->last_id);
    int code = sqlite3_step(cursor->stmt);
    if (code == SQLITE_DONE) return HT_OK;
    if (code != SQLITE_ROW) return ht_store_fail(cursor->store, "cannot read a row", err);
    ht_status status = copy_text(cursor, err);
    if (status != HT_OK) return status;
    if (cursor->left > 0) cursor->left--;
    *found = 1;
    return HT_OK;
}

static double number(sqlite3_stmt *stmt, int column) {
    return sqlite3_column_type(stmt, column) == SQLITE_NULL ? NAN : sqlite3_column_double(stmt, column);
}

/* What our schema never lets into a row, but the file may have all the same: rows that are given out need not
 * be looked at again. `column` NULL: the row is fit. */
static ht_status judge(const ht_store_cursor *cursor, const char *table, int64_t id, const char *column,
                       ht_error *err) {
    if (!column) return HT_OK;
    return ht_fail(err, HT_ERR_DATA, "%s: %s %lld: its %s is none that there can be: the database is damaged",
                   cursor->store->path, table, (long long)id, column);
}

/* Anything else would be rounded, and the cursor would stay where it is. */
static int is_id(sqlite3_stmt *stmt, int column) {
    return sqlite3_column_type(stmt, column) == SQLITE_INTEGER;
}

/* Columns of DIALOG_SELECT, from column 0. */
static ht_status take_dialog(const ht_store_cursor *cursor, ht_dialog_row *row, ht_error *err) {
    int kind = ht_kind_find(cursor->columns[2]), split = ht_split_find(cursor->columns[3]);
    *row = (ht_dialog_row){
        .id = sqlite3_column_int64(cursor->stmt, 0),
        .messages = cursor->columns[1],
        .kind = (ht_kind)kind,
        .split = (ht_split)split,
        .source = cursor->columns[4],
        .round = sqlite3_column_int64(cursor->stmt, 5),
    };
    return judge(cursor, "dialog", row->id,
                 !is_id(cursor->stmt, 0) ? "id"
                 : !row->messages        ? "messages"
                 : kind < 0              ? "kind"
                 : split < 0             ? "split"
                                         : NULL,
                 err);
}

/* Columns of RESPONSE_SELECT, from column `at`; its token ids go to the cursor's buffer `buffer`. */
static ht_status take_response(ht_store_cursor *cursor, int at, int buffer, ht_response_row *row,
                               ht_error *err) {
    sqlite3_stmt *stmt = cursor->stmt;
    int has_tokens = sqlite3_column_type(stmt, at + 3) == SQLITE_BLOB;
    size_t count = has_tokens ? (size_t)sqlite3_column_bytes(stmt, at + 3) / sizeof(int32_t) : 0;
    int finish = ht_finish_find(cursor->columns[at + 13]);
    ht_status status = ht_grow(&cursor->tokens[buffer], &cursor->token_capacity[buffer], count ? count : 1,
                               sizeof(int32_t), err);
    if (status != HT_OK) return status;
    if (count) memcpy(cursor->tokens[buffer], sqlite3_column_blob(stmt, at + 3), count * sizeof(int32_t));
    *row = (ht_response_row){
        .id = sqlite3_column_int64(stmt, at),
        .dialog_id = sqlite3_column_int64(stmt, at + 1),
        .text = cursor->columns[at + 2],
        .tokens = has_tokens ? cursor->tokens[buffer] : NULL,
        .token_count = (int64_t)count,
        .model_id = sqlite3_column_int64(stmt, at + 4),
        .run_id = sqlite3_column_int64(stmt, at + 5),
        .round = sqlite3_column_int64(stmt, at + 6),
        .step = sqlite3_column_int64(stmt, at + 7),
        .temperature = sqlite3_column_double(stmt, at + 8),
        .top_p = sqlite3_column_double(stmt, at + 9),
        .seed = sqlite3_column_int64(stmt, at + 10),
        .k = sqlite3_column_int64(stmt, at + 11),
        .logprob = number(stmt, at + 12),
        .finish = (ht_finish)finish,
        .tokenizer_hash = cursor->columns[at + 14],
    };
    return judge(cursor, "response", row->id,
                 !is_id(stmt, at) ? "id"
                 : !row->text     ? "text"
                 : finish < 0     ? "finish"
                                  : NULL,
                 err);
}

static ht_status take_comparison(ht_store_cursor *cursor, ht_comparison_row *row, ht_error *err) {
    enum { CHOSEN = DIALOG_COLUMNS, REJECTED = CHOSEN + RESPONSE_COLUMNS, OWN = REJECTED + RESPONSE_COLUMNS };
    ht_status status;
    HT_TRY(take_dialog(cursor, &row->dialog, err));
    HT_TRY(take_response(cursor, CHOSEN, 0, &row->chosen, err));
    HT_TRY(take_response(cursor, REJECTED, 1, &row->rejected, err));
    row->id = sqlite3_column_int64(cursor->stmt, OWN);
    row->chosen_id = row->chosen.id;
    row->rejected_id = row->rejected.id;
    int64_t rating = sqlite3_column_int64(cursor->stmt, OWN + 1);
    int safety = ht_safety_find(cursor->columns[OWN + 2]);
    row->rating = (int)rating;
    row->safety = (ht_safety)safety;
    row->annotator = cursor->columns[OWN + 3];
    row->batch = cursor->columns[OWN + 4];
    row->round = sqlite3_column_int64(cursor->stmt, OWN + 5);
    row->source = cursor->columns[OWN + 6];
    status = judge(cursor, "comparison", row->id,
                   !is_id(cursor->stmt, OWN)  ? "id"
                   : rating < 0 || rating > 4 ? "rating"
                   : safety < 0               ? "safety"
                                              : NULL,
                   err);
done:
    return status;
}

static ht_status take_demonstration(ht_store_cursor *cursor, ht_demonstration_row *row, ht_error *err) {
    enum { OWN = DIALOG_COLUMNS + RESPONSE_COLUMNS };
    ht_status status;
    HT_TRY(take_dialog(cursor, &row->dialog, err));
    HT_TRY(take_response(cursor, DIALOG_COLUMNS, 0, &row->response, err));
    row->id = sqlite3_column_int64(cursor->stmt, OWN);
    row->response_id = row->response.id;
    int origin = ht_origin_find(cursor->columns[OWN + 1]);
    row->origin = (ht_origin)origin;
    row->round = sqlite3_column_int64(cursor->stmt, OWN + 2);
    row->batch = cursor->columns[OWN + 3];
    row->source = cursor->columns[OWN + 4];
    row->weight = sqlite3_column_double(cursor->stmt, OWN + 5);
    status = judge(cursor, "demonstration", row->id,
                   !is_id(cursor->stmt, OWN)                      ? "id"
                   : origin < 0                                   ? "origin"
                   : !(row->weight > 0) || !isfinite(row->weight) ? "weight"
                                                                  : NULL,
                   err);
done:
    return status;
}

static ht_status take_scored(ht_store_cursor *cursor, ht_scored_row *row, ht_error *err) {
    enum { OWN = DIALOG_COLUMNS + RESPONSE_COLUMNS };
    ht_status status = take_dialog(cursor, &row->dialog, err);
    if (status != HT_OK) return status;
    row->helpful = number(cursor->stmt, OWN);
    row->safe = number(cursor->stmt, OWN + 1);
    return take_response(cursor, DIALOG_COLUMNS, 0, &row->response, err);
}

static ht_status take_evaluation(const ht_store_cursor *cursor, ht_evaluation_row *row, ht_error *err) {
    *row = (ht_evaluation_row){
        .id = sqlite3_column_int64(cursor->stmt, 0),
        .model_id = sqlite3_column_int64(cursor->stmt, 1),
        .name = cursor->columns[2],
        .value = number(cursor->stmt, 3),
        .details = cursor->columns[4],
        .model_name = cursor->columns[5],
        .model_round = sqlite3_column_int64(cursor->stmt, 6),
    };
    return judge(cursor, "evaluation", row->id,
                 !is_id(cursor->stmt, 0)          ? "id"
                 : !row->name || !row->model_name ? "name"
                                                  : NULL,
                 err);
}

static ht_status take_model(const ht_store_cursor *cursor, ht_model_row *row, ht_error *err) {
    *row = (ht_model_row){
        .id = sqlite3_column_int64(cursor->stmt, 0),
        .name = cursor->columns[1],
        .path = cursor->columns[2],
        .hash = cursor->columns[3],
        .stage = cursor->columns[4],
        .round = sqlite3_column_int64(cursor->stmt, 5),
        .parent_id = sqlite3_column_int64(cursor->stmt, 6),
        .config = cursor->columns[7],
        .tokenizer_hash = cursor->columns[8],
        .created = cursor->columns[9],
    };
    return judge(cursor, "model", row->id,
                 !is_id(cursor->stmt, 0) ? "id"
                 : !row->name            ? "name"
                 : !row->path            ? "path"
                 : !row->hash            ? "hash"
                 : !row->stage           ? "stage"
                                         : NULL,
                 err);
}

/* The shape of all ht_store_next_*: step, take, remember where, let go of the statement. */
#define DEFINE_NEXT(NAME, ROW, SET, TAKE, ID, DIALOG)                                                        \
    ht_status ht_store_next_##NAME(ht_store_cursor *cursor, ROW *row, int *found, ht_error *err) {           \
        ht_status status;                                                                                    \
        memset(row, 0, sizeof *row);                                                                         \
        *found = 0;                                                                                          \
        if (cursor->set != SET)                                                                              \
            return ht_fail(err, HT_ERR_USAGE, "%s: this cursor gives no %s", cursor->store->path,     \
                           #NAME);                                                                           \
        HT_TRY(step(cursor, found, err));                                                                    \
        if (!*found) goto done;                                                                              \
        HT_TRY(TAKE(cursor, row, err));                                                                      \
        cursor->last_id = ID;                                                                                \
        cursor->last_dialog = DIALOG;                                                                        \
    done:                                                                                                    \
        if (status != HT_OK) *found = 0;                                                                     \
        sqlite3_reset(cursor->stmt);                                                                         \
        return status;                                                                                       \
    }

DEFINE_NEXT(dialog, ht_dialog_row, HT_STORE_DIALOGS, take_dialog, row->id, 0)
DEFINE_NEXT(response, ht_scored_row, HT_STORE_RESPONSES, take_scored, row->response.id, row->dialog.id)
DEFINE_NEXT(comparison, ht_comparison_row, HT_STORE_COMPARISONS, take_comparison, row->id, 0)
DEFINE_NEXT(demonstration, ht_demonstration_row, HT_STORE_DEMONSTRATIONS, take_demonstration, row->id, 0)
DEFINE_NEXT(evaluation, ht_evaluation_row, HT_STORE_EVALUATIONS, take_evaluation, row->id, 0)
DEFINE_NEXT(model, ht_model_row, HT_STORE_MODELS, take_model, row->id, 0)

/* ---- single rows ---- */

/* The store's own cursor for one query, with parameter 1 bound; prepared at first use. */
static ht_status single(ht_store *store, ht_store_cursor **cursor, ht_store_set set, const char *where,
                        ht_error *err) {
    if (*cursor) return HT_OK;
    ht_status status;
    HT_TRY(cursor_create(store, set, cursor, err));
    sqlite3_str *sql = sqlite3_str_new(store->db);
    sqlite3_str_appendf(sql, "SELECT %s FROM %s WHERE %s", queries[set].columns, queries[set].from, where);
    HT_TRY(prepare_filtered(store, sql, &(ht_store_filter){0}, &(*cursor)->stmt, err));
done:
    if (status != HT_OK) {
        ht_store_cursor_free(*cursor);
        *cursor = NULL;
    }
    return status;
}

static ht_status single_by_id(ht_store *store, ht_store_set set, int64_t id, ht_store_cursor **out,
                              ht_error *err) {
    char where[16];
    snprintf(where, sizeof where, "%s.id = :id", queries[set].alias);
    ht_status status = single(store, &store->got[set], set, where, err);
    if (status != HT_OK) return status;
    *out = store->got[set];
    bind_named_id((*out)->stmt, ":id", id);
    return HT_OK;
}

#define DEFINE_GET(NAME, ROW, SET)                                                                           \
    ht_status ht_store_get_##NAME(ht_store *store, int64_t id, ROW *row, ht_error *err) {                    \
        ht_status status;                                                                                    \
        int found = 0;                                                                                       \
        ht_store_cursor *cursor;                                                                             \
        memset(row, 0, sizeof *row);                                                                         \
        HT_TRY(single_by_id(store, SET, id, &cursor, err));                                                  \
        HT_TRY(ht_store_next_##NAME(cursor, row, &found, err));                                              \
        if (!found)                                                                                          \
            status =                                                                                         \
                ht_fail(err, HT_ERR_DATA, "%s: there is no " #NAME " %lld", store->path, (long long)id);     \
    done:                                                                                                    \
        return status;                                                                                       \
    }

DEFINE_GET(dialog, ht_dialog_row, HT_STORE_DIALOGS)
DEFINE_GET(response, ht_scored_row, HT_STORE_RESPONSES)
DEFINE_GET(comparison, ht_comparison_row, HT_STORE_COMPARISONS)
DEFINE_GET(demonstration, ht_demonstration_row, HT_STORE_DEMONSTRATIONS)

ht_status ht_store_get_model(ht_store *store, int64_t id, ht_model_row *model, int *found, ht_error *err) {
    ht_store_cursor *cursor;
    memset(model, 0, sizeof *model);
    *found = 0;
    ht_status status = single_by_id(store, HT_STORE_MODELS, id, &cursor, err);
    if (status == HT_OK) status = ht_store_next_model(cursor, model, found, err);
    return status;
}

ht_status ht_store_find_model(ht_store *store, const char *name, ht_model_row *model, int *found,
                              ht_error *err) {
    memset(model, 0, sizeof *model);
    *found = 0;
    ht_status status =
        single(store, &store->model_named, HT_STORE_MODELS, "m.name = :name ORDER BY m.id DESC LIMIT 1", err);
    if (status != HT_OK) return status;
    bind_named_text(store->model_named->stmt, ":name", name);
    return ht_store_next_model(store->model_named, model, found, err);
}

/* ---- counts and ids ---- */

ht_status ht_store_count(ht_store *store, ht_store_set set, const ht_store_filter *filter, int64_t *count,
                         ht_error *err) {
    sqlite3_stmt *stmt;
    *count = 0;
    sqlite3_str *sql = sqlite3_str_new(store->db);
    sqlite3_str_appendf(sql, "SELECT count(*) FROM %s WHERE 1", queries[set].from);
    append_filter(sql, set, filter);
    ht_status status = prepare_filtered(store, sql, filter, &stmt, err);
    if (status == HT_OK) status = ht_store_run_statement(store, stmt, "cannot count rows", count, err);
    sqlite3_finalize(stmt);
    if (filter->limit && *count > filter->limit) *count = filter->limit;
    return status;
}

ht_status ht_store_ids(ht_store *store, ht_store_set set, const ht_store_filter *filter, int64_t **ids,
                       size_t *count, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt = NULL;
    size_t capacity = 0;
    int code;
    *ids = NULL;
    *count = 0;
    sqlite3_str *sql = sqlite3_str_new(store->db);
    sqlite3_str_appendf(sql, "SELECT %s.id FROM %s WHERE 1", queries[set].alias, queries[set].from);
    append_filter(sql, set, filter);
    append_order(sql, set);
    sqlite3_str_appendf(sql, " LIMIT %lld", filter->limit ? (long long)filter->limit : -1LL);
    HT_TRY(prepare_filtered(store, sql, filter, &stmt, err));
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        HT_TRY(ht_grow(ids, &capacity, *count + 1, sizeof **ids, err));
        (*ids)[(*count)++] = sqlite3_column_int64(stmt, 0);
    }
    if (code != SQLITE_DONE) status = ht_store_fail(store, "cannot read ids", err);
done:
    sqlite3_finalize(stmt);
    if (status != HT_OK) {
        free(*ids);
        *ids = NULL;
        *count = 0;
    }
    return status;
}
