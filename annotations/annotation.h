/*
 * annotation.h: one row of an annotation file: its columns, what is wrong with it, and its way into the
 * store.
 *
 * CSV, JSON lines and the hh format all become ht_annotation first; docs/annotations.md describes the
 * columns.
 */
#ifndef HT_ANNOTATIONS_ANNOTATION_H
#define HT_ANNOTATIONS_ANNOTATION_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"
#include "core/base/lines.h"
#include "core/store/store.h"

#define HT_ANNOTATION_LIMIT HT_LINE_BYTES_MAX /* of a row, of many lines or one; a longer one is a forgotten quote, most likely */

/* Columns by the name they have in files. */
#define HT_COLUMN_MAP(X)                                                                                     \
    X(PROMPT, "prompt")     /* one user turn */                                                              \
    X(MESSAGES, "messages") /* or a whole dialogue as JSON */                                                \
    X(SYSTEM, "system")     /* system message in front of either */                                          \
    X(CHOSEN, "chosen")     /* comparison */                                                                 \
    X(REJECTED, "rejected")                                                                                  \
    X(RESPONSE_A, "response_a") /* comparison as an annotator fills it */                                    \
    X(RESPONSE_B, "response_b")                                                                              \
    X(RESPONSE_A_ID, "response_a_id") /* of sampled responses in the database */                             \
    X(RESPONSE_B_ID, "response_b_id")                                                                        \
    X(CHOICE, "choice")     /* a | b */                                                                      \
    X(RESPONSE, "response") /* demonstration */                                                              \
    X(ORIGIN, "origin")     /* human | rejection */                                                          \
    X(WEIGHT, "weight")                                                                                      \
    X(RATING, "rating")                                                                                      \
    X(SAFETY, "safety")                                                                                      \
    X(ANNOTATOR, "annotator")                                                                                \
    X(BATCH, "batch")                                                                                        \
    X(KIND, "kind")                                                                                          \
    X(SOURCE, "source")                                                                                      \
    X(SPLIT, "split")                                                                                        \
    X(ROUND, "round")                                                                                        \
    X(PROMPT_SOURCE, "prompt_source") /* of the dialogue, where it is not the row's */                       \
    X(PROMPT_ROUND, "prompt_round")                                                                          \
    X(ID, "id")                   /* the annotators' own name of the row; not kept */                        \
    X(DIALOG_ID, "dialog_id")     /* not kept either: messages say which dialogue it is */                   \
    X(REJECT_LINE, "reject_line") /* of a file of rejects that was mended; not kept */                       \
    X(REJECT_COLUMN, "reject_column")                                                                        \
    X(REJECT_REASON, "reject_reason")

typedef enum ht_column {
#define HT_COLUMN_ENUM(name, text) HT_COLUMN_##name,
    HT_COLUMN_MAP(HT_COLUMN_ENUM)
#undef HT_COLUMN_ENUM
        HT_COLUMN_COUNT
} ht_column;

const char *ht_column_text(ht_column column);
int ht_column_find(const char *name, size_t size); /* -1: none */

/* Why a row is refused; the names are those of the report. */
#define HT_REASON_MAP(X)                                                                                     \
    X(NOT_ANNOTATED, "not_annotated") /* choice is empty */                                                  \
    X(MISSING_COLUMN, "missing_column")                                                                      \
    X(EMPTY, "empty")             /* a text that must be there is not, or is white space */                  \
    X(FIELD_COUNT, "field_count") /* more or fewer fields than the header */                                 \
    X(BAD_QUOTE, "bad_quote")                                                                                \
    X(UNCLOSED_QUOTE, "unclosed_quote")                                                                      \
    X(TOO_LONG, "too_long")                                                                                  \
    X(NUL_BYTE, "nul_byte")                                                                                  \
    X(BAD_UTF8, "bad_utf8")                                                                                  \
    X(BAD_JSON, "bad_json")                                                                                  \
    X(BAD_MESSAGES, "bad_messages") /* roles, shape or an empty message */                                   \
    X(SPECIAL_TAG, "special_tag")   /* [INST] and the like, which the chat format refuses */                 \
    X(IDENTICAL, "identical")       /* two responses that do not differ */                                   \
    X(BAD_CHOICE, "bad_choice")                                                                              \
    X(BAD_RATING, "bad_rating")                                                                              \
    X(BAD_SAFETY, "bad_safety")                                                                              \
    X(BAD_KIND, "bad_kind")                                                                                  \
    X(NO_KIND, "no_kind") /* neither the row nor --kind says */                                              \
    X(BAD_SPLIT, "bad_split")                                                                                \
    X(SPLIT_CONFLICT, "split_conflict") /* its dialogue is in the other split already */                     \
    X(BAD_ROUND, "bad_round")                                                                                \
    X(BAD_ORIGIN, "bad_origin")                                                                              \
    X(BAD_WEIGHT, "bad_weight")                                                                              \
    X(BAD_ID, "bad_id")                   /* no number, or no such response */                               \
    X(ID_MISMATCH, "id_mismatch")         /* the response of that id has another text or dialogue */         \
    X(NOT_HUMAN_FIRST, "not_human_first") /* hh: the rest */                                                 \
    X(NOT_ALTERNATING, "not_alternating")                                                                    \
    X(PROMPTS_DIFFER, "prompts_differ")

typedef enum ht_reason {
#define HT_REASON_ENUM(name, text) HT_REASON_##name,
    HT_REASON_MAP(HT_REASON_ENUM)
#undef HT_REASON_ENUM
        HT_REASON_COUNT
} ht_reason;

const char *ht_reason_text(ht_reason reason);

/* What is wrong with a row. */
typedef struct ht_refusal {
    ht_reason reason;
    const char *column; /* static; "" when it is the whole row */
    char detail[200];   /* the value, what is allowed */
} ht_refusal;

typedef enum ht_row_outcome { HT_ROW_TAKEN, HT_ROW_EXISTING, HT_ROW_DROPPED, HT_ROW_REFUSED } ht_row_outcome;

/* out = "COLUMN": REASON: DETAIL, for people; without a column where it is the whole row. */
#define HT_REFUSAL_TEXT 300
void ht_refusal_text(char out[HT_REFUSAL_TEXT], const ht_refusal *refusal);

/* Fills *refusal; returns HT_ROW_REFUSED. */
ht_row_outcome ht_refuse(ht_refusal *refusal, ht_reason reason, const char *column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A row: NUL-terminated fields, borrowed; NULL: the file has no such column. An empty field counts as no
 * value. */
typedef struct ht_annotation {
    const char *field[HT_COLUMN_COUNT];
    size_t size[HT_COLUMN_COUNT]; /* bytes */
} ht_annotation;

/* What rows say by default; a row's own non-empty column goes before. */
typedef struct ht_annotation_defaults {
    int kind;  /* ht_kind; -1: each row says */
    int split; /* ht_split; -1: by hash of the messages, at `holdout`; a dialogue that is there keeps its own
                */
    double holdout;
    const char *source; /* NULL: none */
    const char *batch;  /* NULL: none */
    int64_t round;
} ht_annotation_defaults;

/*
 * Puts a row into the store, inside the caller's transaction. A refused or dropped row leaves nothing in the
 * store. Dropped: safety comparisons whose chosen response is unsafe and the other safe (METHOD section 3).
 * *refusal is filled when *outcome is HT_ROW_REFUSED. HT_ERR_*: the store failed, not the row.
 */
ht_status ht_annotation_take(ht_store *store, const ht_annotation_defaults *defaults,
                             const ht_annotation *row, ht_row_outcome *outcome, ht_refusal *refusal,
                             ht_error *err);

#endif
