#include "annotations/rejects.h"

#include <string.h>

#include <csv.h>

static const char added_columns[] = "reject_line,reject_column,reject_reason\n";

static ht_status begin(ht_rejects *rejects, const ht_row_reader *reader, ht_error *err) {
    size_t size, columns;
    const char *header = ht_rows_header(reader, &size, &columns);
    ht_status status = ht_file_create(&rejects->writer, rejects->path, err);
    if (status != HT_OK)
        return ht_fail_in(err, "cannot keep refused rows (--rejects FILE names another place)");
    rejects->begun = 1;
    if (header)
        fwrite(header, 1, size, rejects->writer.stream);
    else
        fputs("row", rejects->writer.stream);
    fprintf(rejects->writer.stream, ",%s", added_columns);
    return HT_OK;
}

ht_status ht_rejects_add(ht_rejects *rejects, const ht_row_reader *reader, const ht_file_row *row,
                         const ht_refusal *refusal, ht_error *err) {
    static const char left_out[] = "(left out: too long)";
    size_t size, columns;
    ht_status status = rejects->begun ? HT_OK : begin(rejects, reader, err);
    if (status != HT_OK) return status;
    FILE *out = rejects->writer.stream;
    int has_fields = ht_rows_header(reader, &size, &columns) != NULL && !row->refused;
    if (has_fields) {
        fwrite(row->raw, 1, row->raw_size, out); /* its own bytes: nothing about the row changes */
    } else {
        if (row->raw)
            csv_fwrite(out, row->raw, row->raw_size);
        else
            fputs(left_out, out);
        for (size_t i = 1; i < columns; i++)
            fputc(',', out);
    }
    fprintf(out, ",%lld,%s,", (long long)row->line, refusal->column);
    char reason[256];
    snprintf(reason, sizeof reason, "%s: %s", ht_reason_text(refusal->reason), refusal->detail);
    csv_fwrite(out, reason, strlen(reason));
    fputc('\n', out);
    return HT_OK; /* the writer sees write errors at commit */
}

ht_status ht_rejects_commit(ht_rejects *rejects, ht_error *err) {
    return rejects->begun ? ht_file_commit(&rejects->writer, err) : HT_OK;
}

void ht_rejects_abandon(ht_rejects *rejects) {
    if (rejects->begun) ht_file_abandon(&rejects->writer);
    rejects->begun = 0;
}
