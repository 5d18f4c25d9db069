/*
 * rejects.h: the file of refused rows, to be mended and imported again.
 *
 * A CSV file's rejects are a CSV file with its header and three more columns, reject_line, reject_column and
 * reject_reason; a row that could not be cut into fields stands whole in the first column. Those of JSON
 * lines have the columns row, reject_line, reject_column, reject_reason. The file is made at the first
 * refusal.
 */
#ifndef HT_ANNOTATIONS_REJECTS_H
#define HT_ANNOTATIONS_REJECTS_H

#include "annotations/rows.h"
#include "core/base/files.h"

typedef struct ht_rejects {
    const char *path; /* borrowed */
    int begun;
    ht_file_writer writer;
} ht_rejects;

/* Adds a row. HT_ERR_IO. */
ht_status ht_rejects_add(ht_rejects *rejects, const ht_row_reader *reader, const ht_file_row *row,
                         const ht_refusal *refusal, ht_error *err);

/* Puts the file in its place, or leaves nothing (also after a commit); without a row neither does anything.
 */
ht_status ht_rejects_commit(ht_rejects *rejects, ht_error *err);
void ht_rejects_abandon(ht_rejects *rejects);

#endif
