/*
 * write.c: adding dialogues, responses, comparisons, demonstrations and scores.
 *
 * Each add is one INSERT ... ON CONFLICT DO NOTHING RETURNING id; only when the row is there already does a
 * second statement look up its id. So new rows, the common case, cost one walk down the unique index.
 */
#include "core/store/internal.h"

#include <stdlib.h>
#include <string.h>

/* The two halves of an add: the insert has run if it gave an id, else the find gives it. */
static ht_status insert_or_find(ht_store *store, sqlite3_stmt *insert, const char *what, int64_t *id,
                                int *added, ht_error *err) {
    ht_status status = ht_store_run_statement(store, insert, what, id, err);
    if (added) *added = status == HT_OK && *id != 0;
    return status;
}

static ht_status add_canonical(ht_store *store, const ht_dialog_row *dialog, const char *canonical,
                               int64_t *id, int *added, ht_error *err) {
    ht_status status;
    uint8_t hash[HT_STORE_HASH];
    sqlite3_stmt *stmt;
    ht_dialog_hash(hash, ht_kind_text(dialog->kind), canonical);
    HT_TRY(ht_store_statement(
        store, HT_SLOT_DIALOG_ADD,
        "INSERT INTO dialog(kind, split, messages, source, round, hash) VALUES(?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(hash) DO NOTHING RETURNING id",
        &stmt, err));
    ht_bind_text(stmt, 1, ht_kind_text(dialog->kind));
    ht_bind_text(stmt, 2, ht_split_text(dialog->split));
    ht_bind_text(stmt, 3, canonical);
    ht_bind_text(stmt, 4, dialog->source);
    sqlite3_bind_int64(stmt, 5, dialog->round);
    sqlite3_bind_blob(stmt, 6, hash, HT_STORE_HASH, SQLITE_STATIC);
    HT_TRY(insert_or_find(store, stmt, "cannot add a dialogue", id, added, err));
    if (*id) return HT_OK;
    HT_TRY(
        ht_store_statement(store, HT_SLOT_DIALOG_FIND, "SELECT id FROM dialog WHERE hash = ?", &stmt, err));
    sqlite3_bind_blob(stmt, 1, hash, HT_STORE_HASH, SQLITE_STATIC);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot find a dialogue", id, err));
done:
    return status;
}

ht_status ht_store_add_dialog(ht_store *store, const ht_dialog_row *dialog, int64_t *id, int *added,
                              ht_error *err) {
    char *canonical = NULL;
    *id = 0;
    if (dialog->is_canonical) return add_canonical(store, dialog, dialog->messages, id, added, err);
    ht_status status = ht_messages_canonical(&canonical, dialog->messages, err);
    if (status == HT_OK) status = add_canonical(store, dialog, canonical, id, added, err);
    free(canonical);
    return status;
}

static void bind_response(sqlite3_stmt *stmt, const ht_response_row *r, const uint8_t *hash) {
    sqlite3_bind_int64(stmt, 1, r->dialog_id);
    ht_bind_text(stmt, 2, r->text);
    if (r->tokens)
        sqlite3_bind_blob64(stmt, 3, r->tokens, (sqlite3_uint64)r->token_count * sizeof *r->tokens,
                            SQLITE_STATIC);
    ht_bind_id(stmt, 4, r->model_id);
    ht_bind_id(stmt, 5, r->run_id);
    sqlite3_bind_int64(stmt, 6, r->round);
    sqlite3_bind_int64(stmt, 7, r->step);
    if (r->model_id) {
        sqlite3_bind_double(stmt, 8, r->temperature);
        sqlite3_bind_double(stmt, 9, r->top_p);
        sqlite3_bind_int64(stmt, 10, r->seed);
        sqlite3_bind_int64(stmt, 11, r->k);
        ht_bind_number(stmt, 12, r->logprob);
    }
    ht_bind_text(stmt, 13, ht_finish_text(r->finish));
    sqlite3_bind_blob(stmt, 14, hash, HT_STORE_HASH, SQLITE_STATIC);
}

/* *id = the response with this hash; HT_ERR_DATA when its text is another one: a sample that did not
 * reproduce. */
static ht_status find_response(ht_store *store, const ht_response_row *r, const uint8_t *hash, int64_t *id,
                               ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    HT_TRY(ht_store_statement(store, HT_SLOT_RESPONSE_FIND,
                              "SELECT id, text = ? FROM response WHERE hash = ?", &stmt, err));
    ht_bind_text(stmt, 1, r->text);
    sqlite3_bind_blob(stmt, 2, hash, HT_STORE_HASH, SQLITE_STATIC);
    if (sqlite3_step(stmt) != SQLITE_ROW) {
        status = ht_store_fail(store, "cannot find a response", err);
        goto done;
    }
    *id = sqlite3_column_int64(stmt, 0);
    if (!sqlite3_column_int(stmt, 1))
        status = ht_fail(
            err, HT_ERR_DATA,
            "%s: response %lld was sampled from the same dialogue, model, round, step and seed, but its "
            "text is another one",
            store->path, (long long)*id);
    sqlite3_reset(stmt);
done:
    return status;
}

ht_status ht_store_add_response(ht_store *store, const ht_response_row *response, int64_t *id, int *added,
                                ht_error *err) {
    ht_status status;
    uint8_t hash[HT_STORE_HASH];
    sqlite3_stmt *stmt;
    *id = 0;
    ht_response_hash(hash, response);
    HT_TRY(ht_store_statement(
        store, HT_SLOT_RESPONSE_ADD,
        "INSERT INTO response(dialog_id, text, tokens, model_id, run_id, round, step, temperature,"
        " top_p, seed, k, logprob, finish, hash) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(hash) DO NOTHING RETURNING id",
        &stmt, err));
    bind_response(stmt, response, hash);
    HT_TRY(insert_or_find(store, stmt, "cannot add a response", id, added, err));
    if (*id == 0) HT_TRY(find_response(store, response, hash, id, err));
done:
    return status;
}

/* Where two rows are the same; parameters 1, 2, 3, 4, 5 and 6 as in the insert below. */
#define SAME_COMPARISON                                                                                      \
    "chosen_id = ?1 AND rejected_id = ?2 AND ifnull(rating, 0) = ifnull(?3, 0) AND"                          \
    " ifnull(safety, '') = ifnull(?4, '') AND ifnull(annotator, '') = ifnull(?5, '') AND"                    \
    " ifnull(batch, '') = ifnull(?6, '')"

static void bind_comparison(sqlite3_stmt *stmt, const ht_comparison_row *c) {
    sqlite3_bind_int64(stmt, 1, c->chosen_id);
    sqlite3_bind_int64(stmt, 2, c->rejected_id);
    ht_bind_id(stmt, 3, c->rating);
    ht_bind_text(stmt, 4, ht_safety_text(c->safety));
    ht_bind_text(stmt, 5, c->annotator);
    ht_bind_text(stmt, 6, c->batch);
}

ht_status ht_store_add_comparison(ht_store *store, const ht_comparison_row *comparison, int64_t *id,
                                  int *added, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    *id = 0;
    HT_TRY(ht_store_statement(
        store, HT_SLOT_COMPARISON_ADD,
        "INSERT INTO comparison(dialog_id, chosen_id, rejected_id, rating, safety, annotator,"
        " batch, round, source)"
        " SELECT a.dialog_id, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 FROM response a JOIN response b"
        " ON b.dialog_id = a.dialog_id WHERE a.id = ?1 AND b.id = ?2"
        " ON CONFLICT DO NOTHING RETURNING id",
        &stmt, err));
    bind_comparison(stmt, comparison);
    sqlite3_bind_int64(stmt, 7, comparison->round);
    ht_bind_text(stmt, 8, comparison->source);
    HT_TRY(insert_or_find(store, stmt, "cannot add a comparison", id, added, err));
    if (*id) return HT_OK;
    HT_TRY(ht_store_statement(store, HT_SLOT_COMPARISON_FIND,
                              "SELECT id FROM comparison WHERE " SAME_COMPARISON, &stmt, err));
    bind_comparison(stmt, comparison);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot find a comparison", id, err));
    if (*id == 0)
        status =
            ht_fail(err, HT_ERR_DATA, "%s: responses %lld and %lld are not two responses to one dialogue",
                    store->path, (long long)comparison->chosen_id, (long long)comparison->rejected_id);
done:
    return status;
}

ht_status ht_store_add_demonstration(ht_store *store, const ht_demonstration_row *demonstration, int64_t *id,
                                     int *added, ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    *id = 0;
    HT_TRY(ht_store_statement(
        store, HT_SLOT_DEMONSTRATION_ADD,
        "INSERT INTO demonstration(dialog_id, response_id, origin, round, batch, source, weight)"
        " SELECT dialog_id, ?1, ?2, ?3, ?4, ?5, ?6 FROM response WHERE id = ?1"
        " ON CONFLICT(response_id, origin, round) DO NOTHING RETURNING id",
        &stmt, err));
    sqlite3_bind_int64(stmt, 1, demonstration->response_id);
    ht_bind_text(stmt, 2, ht_origin_text(demonstration->origin));
    sqlite3_bind_int64(stmt, 3, demonstration->round);
    ht_bind_text(stmt, 4, demonstration->batch);
    ht_bind_text(stmt, 5, demonstration->source);
    sqlite3_bind_double(stmt, 6, demonstration->weight);
    HT_TRY(insert_or_find(store, stmt, "cannot add a demonstration", id, added, err));
    if (*id) return HT_OK;
    HT_TRY(ht_store_statement(
        store, HT_SLOT_DEMONSTRATION_FIND,
        "SELECT id FROM demonstration WHERE response_id = ? AND origin = ? AND round = ?", &stmt, err));
    sqlite3_bind_int64(stmt, 1, demonstration->response_id);
    ht_bind_text(stmt, 2, ht_origin_text(demonstration->origin));
    sqlite3_bind_int64(stmt, 3, demonstration->round);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot find a demonstration", id, err));
    if (*id == 0)
        status = ht_fail(err, HT_ERR_DATA, "%s: there is no response %lld to demonstrate", store->path,
                         (long long)demonstration->response_id);
done:
    return status;
}

ht_status ht_store_add_score(ht_store *store, int64_t response_id, int64_t model_id, double value,
                             ht_error *err) {
    ht_status status;
    sqlite3_stmt *stmt;
    HT_TRY(ht_store_statement(store, HT_SLOT_SCORE_ADD,
                              "INSERT INTO score(response_id, model_id, value) VALUES(?, ?, ?)"
                              " ON CONFLICT DO UPDATE SET value = excluded.value",
                              &stmt, err));
    sqlite3_bind_int64(stmt, 1, response_id);
    sqlite3_bind_int64(stmt, 2, model_id);
    ht_bind_number(stmt, 3, value);
    HT_TRY(ht_store_run_statement(store, stmt, "cannot add a score", NULL, err));
done:
    return status;
}
