/*
 * annotations.h: the three formats of annotation files go the same way: each row of the file is read, judged,
 * and put into a database.
 */
#ifndef HT_TESTS_FUZZ_ANNOTATIONS_H
#define HT_TESTS_FUZZ_ANNOTATIONS_H

#include <string.h>

#include "annotations/rows.h"
#include "tests/fuzz/fuzz.h"

static ht_status take_rows(ht_store *store, ht_row_reader *reader, ht_error *err) {
    static const ht_annotation_defaults defaults = {.kind = HT_KIND_HELPFULNESS, .split = -1, .holdout = 0.5};
    for (;;) {
        ht_file_row row;
        ht_row_outcome outcome;
        ht_refusal refusal;
        int found;
        ht_status status = ht_rows_next(reader, &row, &found, err);
        if (status != HT_OK || !found) return status;
        if (row.refused) continue;
        status = ht_annotation_take(store, &defaults, &row.annotation, &outcome, &refusal, err);
        if (status != HT_OK) return status;
    }
}

/* Imports the file and takes it back. */
static int fuzz_annotations(ht_row_format format, const uint8_t *data, size_t size) {
    static const ht_column_names names;
    static ht_store *store;
    ht_error err = HT_ERROR_INIT;
    ht_source *source = NULL;
    ht_row_reader *reader = NULL;
    if (!store) fuzz_must(ht_store_open(&store, fuzz_path("p.db"), HT_STORE_CREATE, &err), &err);
    fuzz_must(ht_store_begin(store, &err), &err);
    fuzz_write("rows", data, size);
    ht_status status = ht_source_open(&source, fuzz_path("rows"), &err);
    if (status == HT_OK) status = ht_rows_open(&reader, format, source, &names, "rows", &err);
    if (status == HT_OK) status = take_rows(store, reader, &err);
    ht_rows_free(reader);
    ht_source_free(source);
    ht_store_rollback(store);
    fuzz_judge(status, &err);
    return 0;
}

#endif
