#include "annotations/rows.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

struct ht_row_reader {
    ht_csv *csv; /* one of the two */
    ht_json_rows *json;
};

ht_status ht_column_names_parse(ht_column_names *names, char *const *texts, size_t count, ht_error *err) {
    *names = (ht_column_names){0};
    for (size_t i = 0; i < count; i++) {
        const char *equals = strchr(texts[i], '=');
        int column = equals ? ht_column_find(texts[i], (size_t)(equals - texts[i])) : -1;
        if (!equals || !equals[1])
            return ht_fail(err, HT_ERR_USAGE, "--map \"%s\" is not of the form COLUMN=NAME", texts[i]);
        if (column < 0)
            return ht_fail(err, HT_ERR_USAGE,
                           "--map \"%s\": there is no column \"%.*s\"; see docs/annotations.md", texts[i],
                           (int)(equals - texts[i]), texts[i]);
        if (names->name[column])
            return ht_fail(err, HT_ERR_USAGE, "--map \"%s\": the column is mapped already, to \"%s\"",
                           texts[i], names->name[column]);
        names->name[column] = equals + 1;
    }
    return HT_OK;
}

ht_status ht_rows_open(ht_row_reader **out, ht_row_format format, ht_source *source,
                       const ht_column_names *names, const char *where, ht_error *err) {
    ht_status status;
    ht_row_reader *reader = NULL;
    *out = NULL;
    HT_TRY(ht_calloc(&reader, 1, sizeof *reader, err));
    if (format == HT_ROWS_CSV)
        HT_TRY(ht_csv_open(&reader->csv, source, names, where, err));
    else
        HT_TRY(ht_json_rows_open(&reader->json, format, source, names, where, err));
    *out = reader;
    reader = NULL;
done:
    ht_rows_free(reader);
    return status;
}

ht_status ht_rows_next(ht_row_reader *reader, ht_file_row *row, int *found, ht_error *err) {
    return reader->csv ? ht_csv_next(reader->csv, row, found, err)
                       : ht_json_rows_next(reader->json, row, found, err);
}

const char *ht_rows_header(const ht_row_reader *reader, size_t *size, size_t *columns) {
    *size = *columns = 0;
    return reader->csv ? ht_csv_header(reader->csv, size, columns) : NULL;
}

void ht_rows_free(ht_row_reader *reader) {
    if (!reader) return;
    ht_csv_free(reader->csv);
    ht_json_rows_free(reader->json);
    free(reader);
}
