/*
 * rows.h: the rows of an annotation file, whatever its format. Constant memory: one row at a time.
 */
#ifndef HT_ANNOTATIONS_ROWS_H
#define HT_ANNOTATIONS_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "annotations/annotation.h"
#include "annotations/source.h"

typedef enum ht_row_format { HT_ROWS_CSV, HT_ROWS_JSONL, HT_ROWS_HH } ht_row_format;

/* The names that columns have in a file: ht_column_text where an entry is NULL. */
typedef struct ht_column_names {
    const char *name[HT_COLUMN_COUNT]; /* borrowed */
} ht_column_names;

/* Fills `names` from "COLUMN=NAME" texts, borrowed. HT_ERR_USAGE: no "=", an unknown or doubled column. */
ht_status ht_column_names_parse(ht_column_names *names, char *const *texts, size_t count, ht_error *err);

/* A row as read; everything is borrowed until the next one. */
typedef struct ht_file_row {
    int64_t line, last_line; /* where it begins and ends, from 1 */
    int refused;             /* 1: it could not be read as a row, see refusal; annotation is empty */
    ht_refusal refusal;
    ht_annotation annotation;
    const char
        *raw; /* its bytes as they stand in the file, without the line end; NULL: longer than the limit */
    size_t raw_size;
} ht_file_row;

typedef struct ht_row_reader ht_row_reader;

/*
 * Starts to read the rows of a source (borrowed, also `names`); a CSV file's header is read at once. `where`
 * (borrowed) names the file in messages. HT_ERR_DATA when the header is malformed, names a column twice,
 * lacks a mapped column, or gives neither prompt nor messages. Columns that mean nothing are named in a
 * warning.
 */
ht_status ht_rows_open(ht_row_reader **out, ht_row_format format, ht_source *source,
                       const ht_column_names *names, const char *where, ht_error *err);
ht_status ht_rows_next(ht_row_reader *reader, ht_file_row *row, int *found, ht_error *err);

/* The CSV header as it stands in the file, borrowed, and its number of columns; NULL and 0 for other formats.
 */
const char *ht_rows_header(const ht_row_reader *reader, size_t *size, size_t *columns);
void ht_rows_free(ht_row_reader *reader); /* NULL is fine */

/* ---- the formats behind it: csv.c and json_rows.c ---- */

typedef struct ht_csv ht_csv;
ht_status ht_csv_open(ht_csv **out, ht_source *source, const ht_column_names *names, const char *where,
                      ht_error *err);
ht_status ht_csv_next(ht_csv *csv, ht_file_row *row, int *found, ht_error *err);
const char *ht_csv_header(const ht_csv *csv, size_t *size, size_t *columns);
void ht_csv_free(ht_csv *csv);

typedef struct ht_json_rows ht_json_rows;
ht_status ht_json_rows_open(ht_json_rows **out, ht_row_format format, ht_source *source,
                            const ht_column_names *names, const char *where, ht_error *err);
ht_status ht_json_rows_next(ht_json_rows *rows, ht_file_row *row, int *found, ht_error *err);
void ht_json_rows_free(ht_json_rows *rows);

#endif
