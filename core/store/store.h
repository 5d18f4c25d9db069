/*
 * store.h: the project's SQLite database: dialogues, responses, preference comparisons, demonstrations,
 * scores, models, runs and metrics.
 *
 * One database a project (DESIGN section 2); its tables are described in docs/formats.md. STRICT tables,
 * foreign keys on, write-ahead log, every commit on the disk, `application_id` "HLTR", schema version in
 * `user_version`.
 *
 * Adding a row that is there already adds nothing and gives the id it has, so that an import, a sampling run
 * or a resumed stage can be repeated. Every read is ordered by id (responses: by dialogue, then id), never by
 * SQLite's whim, and runs in constant memory: a cursor holds one row.
 *
 * An ht_store is for one thread; several processes may have one database open. Reading waits for nobody;
 * writing waits for another process's transaction, 30 s unless told otherwise (ht_store_set_patience), says
 * so when it takes long, and counts how often it tried again (said in the log at the end). A request to stop
 * (signals.h) ends the waiting, and is the status then. Every message names the database path and SQLite's own
 * message. Errors of all functions: HT_ERR_IO for a busy, locked, full, read-only or unreadable database, HT_ERR_DATA for a damaged
 * one or for rows that break its rules, HT_ERR_NOMEM.
 *
 * Strings in rows given to ht_store_add_* are borrowed for the call; NULL where "may be NULL" is said.
 * Strings and arrays in rows that a cursor or ht_store_get_* gives are borrowed until the next call on the
 * same cursor, or of the same ht_store_get_* function; a NULL column is NULL.
 */
#ifndef HT_STORE_STORE_H
#define HT_STORE_STORE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "core/base/error.h"

#define HT_STORE_APPLICATION_ID 0x484c5452 /* "HLTR" */
#define HT_STORE_VERSION        1          /* user_version this build reads and writes */
#define HT_STORE_PATIENCE       30.0

typedef struct ht_store ht_store;
typedef struct ht_store_cursor ht_store_cursor;

/* ---- names of enumerated columns: one table each, enum value and database text ---- */

#define HT_KIND_MAP(X)                                                                                       \
    X(HELPFULNESS, "helpfulness")                                                                            \
    X(SAFETY, "safety")
#define HT_SPLIT_MAP(X)                                                                                      \
    X(TRAIN, "train")                                                                                        \
    X(TEST, "test")
#define HT_ORIGIN_MAP(X)                                                                                     \
    X(HUMAN, "human")         /* written by an annotator */                                                  \
    X(REJECTION, "rejection") /* chosen by rejection sampling */
/* Three bins of a safety comparison (METHOD section 3); NONE is NULL in the database: not labelled. */
#define HT_SAFETY_MAP(X)                                                                                     \
    X(NONE, NULL)                                                                                            \
    X(CHOSEN_SAFE, "chosen_safe") /* chosen safe, rejected unsafe */                                         \
    X(BOTH_SAFE, "both_safe")                                                                                \
    X(BOTH_UNSAFE, "both_unsafe")
#define HT_FINISH_MAP(X)                                                                                     \
    X(NONE, NULL)                                                                                            \
    X(EOS, "eos")       /* the model ended its answer; EOS is the last id of `tokens` */                     \
    X(LENGTH, "length") /* cut at the longest answer; no EOS in `tokens` */

#define HT_KIND_ENUM(name, text) HT_KIND_##name,
typedef enum ht_kind { HT_KIND_MAP(HT_KIND_ENUM) HT_KIND_COUNT } ht_kind;
#define HT_SPLIT_ENUM(name, text) HT_SPLIT_##name,
typedef enum ht_split { HT_SPLIT_MAP(HT_SPLIT_ENUM) HT_SPLIT_COUNT } ht_split;
#define HT_ORIGIN_ENUM(name, text) HT_ORIGIN_##name,
typedef enum ht_origin { HT_ORIGIN_MAP(HT_ORIGIN_ENUM) HT_ORIGIN_COUNT } ht_origin;
#define HT_SAFETY_ENUM(name, text) HT_SAFETY_##name,
typedef enum ht_safety { HT_SAFETY_MAP(HT_SAFETY_ENUM) HT_SAFETY_COUNT } ht_safety;
#define HT_FINISH_ENUM(name, text) HT_FINISH_##name,
typedef enum ht_finish { HT_FINISH_MAP(HT_FINISH_ENUM) HT_FINISH_COUNT } ht_finish;

const char *ht_kind_text(ht_kind kind);
const char *ht_split_text(ht_split split);
const char *ht_origin_text(ht_origin origin);
const char *ht_safety_text(ht_safety safety); /* NULL for NONE */
const char *ht_finish_text(ht_finish finish); /* NULL for NONE */

/* The value of a text, -1 when there is none such (NULL: NONE where there is one). */
int ht_kind_find(const char *text);
int ht_split_find(const char *text);
int ht_origin_find(const char *text);
int ht_safety_find(const char *text);
int ht_finish_find(const char *text);

/* What options choose rows by: "all", then the texts in their order (from 1 on without "all"); NULL at the end. */
extern const char *const ht_kind_choices[];
extern const char *const ht_split_choices[];
unsigned ht_choice_mask(int choice); /* a filter's, of an index into them */

/*
 * Preference rating, METHOD section 3: how much better the chosen response is.
 *   0 not rated (NULL in the database; margin 0)   1 negligibly better / unsure   2 slightly better
 *   3 better                                       4 significantly better
 */
enum { HT_RATING_NONE, HT_RATING_NEGLIGIBLY, HT_RATING_SLIGHTLY, HT_RATING_BETTER, HT_RATING_SIGNIFICANTLY };
const char *ht_rating_text(int rating); /* "negligibly", "slightly", "better", "significantly"; NULL for 0 */

/* ---- opening ---- */

typedef enum ht_store_mode {
    HT_STORE_CREATE,   /* a database that does not exist is created, an older schema migrated */
    HT_STORE_EXISTING, /* HT_ERR_IO when it does not exist; an older schema is migrated */
    HT_STORE_READ      /* the same, for who only reads: the file may be one that cannot be written */
} ht_store_mode;

/*
 * Opens a database. HT_ERR_IO when its folder cannot be written, as SQLite keeps its log there even for readers, or, unless
 * it is HT_STORE_READ, the file cannot. HT_ERR_DATA when the file is no SQLite database, belongs to another application, or has a
 * newer schema than HT_STORE_VERSION. *out is NULL on failure. The file may come from anywhere: triggers and views that
 * it has are not run, and what does not fit its version (a table missing, a row that the schema would refuse, a value
 * above 256 MiB) is HT_ERR_DATA when it is read.
 */
ht_status ht_store_open(ht_store **out, const char *path, ht_store_mode mode, ht_error *err);

/* Closes cursors' statements and the database; rolls back an open transaction. NULL is fine. */
void ht_store_close(ht_store *store);

const char *ht_store_path(const ht_store *store); /* borrowed */

/*
 * Memory for pages of the database, instead of 64 MiB: work that adds millions of rows touches hash indexes
 * at random, and is several times as fast when these fit. It is taken as it is needed.
 */
ht_status ht_store_set_cache(ht_store *store, int64_t bytes, ht_error *err);

/* How long a call waits for other processes before it gives up with HT_ERR_IO. */
void ht_store_set_patience(ht_store *store, double seconds);

/*
 * Write transactions (BEGIN IMMEDIATE). They do not nest: HT_ERR_RUN when one is open (begin) or none
 * (commit). Each ht_store_add_* outside a transaction is its own; put many rows into one transaction, as each
 * commit is an fsync.
 */
ht_status ht_store_begin(ht_store *store, ht_error *err);
ht_status ht_store_commit(ht_store *store, ht_error *err);
void ht_store_rollback(ht_store *store); /* nothing open: does nothing */

/* ---- dialogues ---- */

/*
 * A prompt: messages = JSON array of {"role": "system"|"user"|"assistant", "content": text}; an optional
 * system message comes first, then user and assistant alternate from user, and the last is a user turn. It is
 * kept in canonical form (compact, keys role and content only, UTF-8), so equal dialogues have equal text.
 */
typedef struct ht_dialog_row {
    int64_t id; /* out */
    const char *messages;
    int is_canonical; /* in: 1 when `messages` comes from ht_messages_canonical, so need not be looked at
                         again */
    ht_kind kind;
    ht_split split;
    const char *source; /* may be NULL */
    int64_t round;      /* the round that introduced it; 0: before the first */
} ht_dialog_row;

/*
 * *id = the dialogue with this kind and these messages, added when it is new; an existing one keeps its
 * split, source and round. *added (may be NULL) = 1 when new, else 0. HT_ERR_DATA with the reason when
 * messages are malformed.
 */
ht_status ht_store_add_dialog(ht_store *store, const ht_dialog_row *dialog, int64_t *id, int *added,
                              ht_error *err);

/* *out = canonical form of messages, to be released with free(); HT_ERR_DATA with the reason when malformed.
 */
ht_status ht_messages_canonical(char **out, const char *messages, ht_error *err);
ht_status ht_messages_canonical_json(char **out, const json_t *messages,
                                     ht_error *err); /* the same, parsed */

/*
 * The split of a dialogue: TEST when the 128-bit hash of its canonical messages, read as a fraction of [0,
 * 1), is below `holdout`. It depends on the messages alone, neither on order nor on kind: one prompt is never
 * in both splits.
 */
ht_split ht_messages_split(const char *canonical, double holdout);

/* ---- responses ---- */

typedef struct ht_response_row {
    int64_t id; /* out */
    int64_t dialog_id;
    const char *text; /* UTF-8 */
    const int32_t
        *tokens; /* [token_count] the response's own ids, without the prompt; NULL when imported as text */
    int64_t token_count;
    int64_t model_id; /* the model that sampled it; 0: written by a person or imported */
    int64_t run_id;   /* 0: none */
    int64_t round;
    int64_t step;       /* optimizer step of a PPO run; 0 elsewhere */
    double temperature; /* these five: sampled responses only, else 0 */
    double top_p;
    int64_t seed;
    int64_t k;      /* index among the samples of the prompt */
    double logprob; /* sum over tokens, nats, of the sampling policy at temperature 1; NAN: unknown */
    ht_finish finish;
    const char *tokenizer_hash; /* out: of the model that sampled it; NULL: none */
} ht_response_row;

/*
 * *id = the response, added when new. Sampled responses are the same when dialogue, model, run, round, step,
 * temperature, top_p, seed and k are; if such a one is there with another text: HT_ERR_DATA. Imported ones
 * (model_id 0) are the same when dialogue and text are.
 */
ht_status ht_store_add_response(ht_store *store, const ht_response_row *response, int64_t *id, int *added,
                                ht_error *err);

/* ---- comparisons, demonstrations, scores ---- */

typedef struct ht_comparison_row {
    int64_t id; /* out */
    int64_t chosen_id, rejected_id;
    int rating; /* 0..4, see above */
    ht_safety safety;
    const char *annotator; /* these three may be NULL */
    const char *batch;
    const char *source;
    int64_t round;
    ht_dialog_row dialog;             /* out; the split is the dialogue's */
    ht_response_row chosen, rejected; /* out */
} ht_comparison_row;

/*
 * Comparisons are the same when chosen, rejected, rating, safety, annotator and batch are. HT_ERR_DATA when
 * the responses are of two dialogues, or one and the same.
 */
ht_status ht_store_add_comparison(ht_store *store, const ht_comparison_row *comparison, int64_t *id,
                                  int *added, ht_error *err);

/* A gold answer for fine-tuning. */
typedef struct ht_demonstration_row {
    int64_t id; /* out */
    int64_t response_id;
    ht_origin origin;
    int64_t round;            /* the round it was written in or chosen for */
    const char *batch;        /* may be NULL */
    const char *source;       /* may be NULL */
    double weight;            /* > 0; of its tokens in the loss */
    ht_dialog_row dialog;     /* out */
    ht_response_row response; /* out */
} ht_demonstration_row;

/* Demonstrations are the same when response (and so dialogue), origin and round are. */
ht_status ht_store_add_demonstration(ht_store *store, const ht_demonstration_row *demonstration, int64_t *id,
                                     int *added, ht_error *err);

/* Score of a response by a reward model: the linear value, before the sigmoid. A second score replaces the
 * first. */
ht_status ht_store_add_score(ht_store *store, int64_t response_id, int64_t model_id, double value,
                             ht_error *err);

/* ---- models ---- */

typedef struct ht_model_row {
    int64_t id;        /* out */
    const char *name;  /* e.g. "sft", "rlhf-v2", "helpful-rm-2" */
    const char *path;  /* model folder */
    const char *hash;  /* of its weights, hex */
    const char *stage; /* "base", "sft", "reward-helpful", "reward-safe", "rejection", "ppo" */
    int64_t round;
    int64_t parent_id;          /* 0: none */
    const char *config;         /* resolved configuration, JSON; may be NULL */
    const char *tokenizer_hash; /* of tokenizer.model, hex; may be NULL */
    const char *created;        /* out: UTC, ISO 8601 */
} ht_model_row;

/* Models are the same when name and hash are; an existing one gets the new path. */
ht_status ht_store_add_model(ht_store *store, const ht_model_row *model, int64_t *id, ht_error *err);

/* *found = 0 and a zeroed row when there is none. By name: the newest of that name. */
ht_status ht_store_get_model(ht_store *store, int64_t id, ht_model_row *model, int *found, ht_error *err);
ht_status ht_store_find_model(ht_store *store, const char *name, ht_model_row *model, int *found,
                              ht_error *err);

/* ---- runs, metrics, evaluations ---- */

typedef struct ht_run_row {
    const char *stage;
    int64_t round;
    int64_t model_id;   /* the model it starts from; 0: none */
    const char *config; /* resolved configuration, JSON; may be NULL */
    const char *folder; /* output folder; may be NULL */
} ht_run_row;

/* A new run, always. A resumed stage keeps the id it saved and passes it to the functions below. */
ht_status ht_store_begin_run(ht_store *store, const ht_run_row *run, int64_t *id, ht_error *err);

/* Notes end time, outcome (ht_status_text) and the model it made (0: none). */
ht_status ht_store_end_run(ht_store *store, int64_t run_id, ht_status outcome, int64_t model_id,
                           ht_error *err);

typedef struct ht_metric {
    int64_t step;
    const char *name;
    double value; /* NaN is kept as NULL */
} ht_metric;

/* Adds metrics in one transaction (or the open one); a step's metric that is there is replaced (resumed
 * runs). */
ht_status ht_store_add_metrics(ht_store *store, int64_t run_id, const ht_metric *metrics, size_t count,
                               ht_error *err);

/* One number about a model, for the table of versions; `details` is JSON, may be NULL. (model, name) is
 * replaced. */
typedef struct ht_evaluation_row {
    int64_t id; /* out */
    int64_t model_id;
    const char *name;
    double value; /* NaN is kept as NULL */
    const char *details;
    const char *model_name; /* out */
    int64_t model_round;    /* out */
} ht_evaluation_row;
ht_status ht_store_record_evaluation(ht_store *store, const ht_evaluation_row *evaluation, ht_error *err);

/*
 * A file that was imported; `options` is JSON, may be NULL. Imports are the same when file hash, format and
 * options are: a second one adds what it took, and changes nothing when it took nothing.
 */
typedef struct ht_import_row {
    const char *file_hash, *path, *format, *options;
    int64_t taken, existing, refused, dropped; /* rows */
} ht_import_row;
ht_status ht_store_add_import(ht_store *store, const ht_import_row *import, ht_error *err);

/* ---- reading ---- */

/* What to read; a zeroed filter is everything. Masks are or-ed `1u << HT_KIND_SAFETY`; 0 is all. */
typedef struct ht_store_filter {
    unsigned kinds, splits; /* of the dialogue */
    unsigned origins;       /* demonstrations */
    int64_t first_round;    /* rounds [first_round, end_round) of the row itself */
    int64_t end_round;      /* 0: no end. Evaluations: of the model */
    const char *source;     /* exact; NULL: any. Of the dialogue for prompts and responses, else of the row */
    const char *batch;      /* exact; NULL: any. Comparisons and demonstrations */
    int64_t dialog_id;      /* all but evaluations and models; 0: any */
    int64_t model_id;       /* responses, evaluations; 0: any */
    int64_t run_id;         /* responses; 0: any */
    const char *name;       /* evaluations, models; NULL: any */
    int64_t after_id;       /* only rows with a greater id */
    int64_t limit;          /* at most so many rows; 0: no limit */
    int64_t helpful_model_id, safe_model_id; /* responses: whose scores a row carries; 0: none */
} ht_store_filter;

/* The sets of rows that can be read. */
typedef enum ht_store_set {
    HT_STORE_DIALOGS,        /* prompts: ht_dialog_row */
    HT_STORE_RESPONSES,      /* ht_scored_row, ordered by dialogue, then id */
    HT_STORE_COMPARISONS,    /* ht_comparison_row */
    HT_STORE_DEMONSTRATIONS, /* ht_demonstration_row */
    HT_STORE_EVALUATIONS,    /* ht_evaluation_row */
    HT_STORE_MODELS,         /* ht_model_row */
    HT_STORE_SET_COUNT
} ht_store_set;

/* A response with its prompt and its scores; NAN: not scored by that model, or no model asked for. */
typedef struct ht_scored_row {
    ht_dialog_row dialog;
    ht_response_row response;
    double helpful, safe;
} ht_scored_row;

/*
 * Opens a cursor on a set; ht_store_next_* steps it: *found = 0 at the end, and the row is zeroed. It is
 * freed before the store is closed. A cursor holds no lock and no snapshot between two calls, so that one may
 * write, and other processes too, while it is open; rows added after it was opened are not seen.
 */
ht_status ht_store_read(ht_store *store, ht_store_set set, const ht_store_filter *filter,
                        ht_store_cursor **out, ht_error *err);
ht_status ht_store_next_dialog(ht_store_cursor *cursor, ht_dialog_row *row, int *found, ht_error *err);
ht_status ht_store_next_response(ht_store_cursor *cursor, ht_scored_row *row, int *found, ht_error *err);
ht_status ht_store_next_comparison(ht_store_cursor *cursor, ht_comparison_row *row, int *found,
                                   ht_error *err);
ht_status ht_store_next_demonstration(ht_store_cursor *cursor, ht_demonstration_row *row, int *found,
                                      ht_error *err);
ht_status ht_store_next_evaluation(ht_store_cursor *cursor, ht_evaluation_row *row, int *found,
                                   ht_error *err);
ht_status ht_store_next_model(ht_store_cursor *cursor, ht_model_row *row, int *found, ht_error *err);
void ht_store_cursor_free(ht_store_cursor *cursor); /* NULL is fine */

/* Number of rows the cursor would give. */
ht_status ht_store_count(ht_store *store, ht_store_set set, const ht_store_filter *filter, int64_t *count,
                         ht_error *err);

/* *ids = the rows' ids in the set's order, [*count], to be released with free(): for shuffled reading by id.
 */
ht_status ht_store_ids(ht_store *store, ht_store_set set, const ht_store_filter *filter, int64_t **ids,
                       size_t *count, ht_error *err);

/* One row by id; HT_ERR_DATA when there is none. (ht_store_get_response gives no scores.) */
ht_status ht_store_get_dialog(ht_store *store, int64_t id, ht_dialog_row *row, ht_error *err);
ht_status ht_store_get_response(ht_store *store, int64_t id, ht_scored_row *row, ht_error *err);
ht_status ht_store_get_comparison(ht_store *store, int64_t id, ht_comparison_row *row, ht_error *err);
ht_status ht_store_get_demonstration(ht_store *store, int64_t id, ht_demonstration_row *row, ht_error *err);

/* ---- statistics and checking ---- */

/*
 * One line of the statistics: how many rows of `table` have this value of `column`, or in all (column NULL).
 * Lines come in a fixed order; a NULL value is the text "none".
 */
typedef struct ht_store_stat {
    const char *table, *column, *value;
    int64_t count;
} ht_store_stat;
ht_status ht_store_stats(ht_store *store,
                         ht_status (*visit)(void *context, const ht_store_stat *stat, ht_error *err),
                         void *context, ht_error *err);

/*
 * Looks for damage: PRAGMA integrity_check and foreign_key_check; content hashes of dialogues and responses
 * recomputed; messages canonical; token blobs of whole int32s; comparisons and demonstrations of one
 * dialogue; responses that nothing refers to and that no model made (orphans). Each finding is one line of
 * text to `visit`; *findings counts them. HT_OK also when there are findings.
 */
ht_status ht_store_check(ht_store *store,
                         ht_status (*visit)(void *context, const char *finding, ht_error *err), void *context,
                         int64_t *findings, ht_error *err);

#endif
