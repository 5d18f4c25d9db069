/*
 * csv.c: rows of a CSV file (RFC 4180), by libcsv.
 *
 * The parser is fed line by line, so that every row has its line number. It runs strict; at a stray quote it
 * is set to lenient until the row ends and the row is refused: a quoted text with an unescaped quote in it
 * still ends at its closing quote, and no line of such a text is ever taken for a row.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <csv.h>

#include "annotations/rows.h"
#include "core/base/log.h"
#include "core/base/memory.h"

enum { STRICT = CSV_STRICT | CSV_STRICT_FINI, LENIENT = 0 };

typedef struct span {
    size_t start, size;
} span;

struct ht_csv {
    ht_source *source;
    const char *where;
    struct csv_parser parser;
    const char *rest; /* of the chunk */
    size_t rest_size;
    int64_t line; /* lines that have begun */
    int after_cr; /* the last line ended with CR: a LF belongs to it */
    /* the row being read */
    char *bytes; /* fields end to end, each NUL-terminated */
    size_t used, capacity;
    span *fields;
    size_t field_count, field_capacity;
    char *raw;
    size_t raw_size, raw_capacity; /* raw_size counts on beyond the limit, where bytes are no longer kept */
    int64_t row_line;
    int begun, done, stray_quote, unclosed, no_memory;
    /* the header */
    char *header;
    size_t header_size, column_count;
    int field_of[HT_COLUMN_COUNT]; /* index of the field; -1: not in the file */
};

/* RFC 4180: spaces are part of a field; libcsv would strip them. */
static int no_space(unsigned char c) {
    (void)c;
    return 0;
}

static void take_field(void *text, size_t size, void *context) {
    ht_csv *csv = context;
    ht_error ignored = HT_ERROR_INIT;
    if (csv->raw_size > HT_ANNOTATION_LIMIT) return;
    if (ht_grow(&csv->bytes, &csv->capacity, csv->used + size + 1, 1, &ignored) != HT_OK ||
        ht_grow(&csv->fields, &csv->field_capacity, csv->field_count + 1, sizeof *csv->fields, &ignored) !=
            HT_OK) {
        csv->no_memory = 1;
        return;
    }
    if (size) memcpy(csv->bytes + csv->used, text, size);
    csv->bytes[csv->used + size] = '\0';
    csv->fields[csv->field_count++] = (span){csv->used, size};
    csv->used += size + 1;
}

static void end_row(int terminator, void *context) {
    (void)terminator;
    ((ht_csv *)context)->done = 1;
}

/* Bytes up to and with the next line end; all that is left when there is none. */
static size_t next_piece(const char *bytes, size_t size) {
    const char *lf = memchr(bytes, '\n', size);
    size_t piece = lf ? (size_t)(lf - bytes) + 1 : size;
    const char *cr = memchr(bytes, '\r', piece);
    if (!cr) return piece;
    piece = (size_t)(cr - bytes) + 1;
    return piece < size && bytes[piece] == '\n' ? piece + 1 : piece;
}

static ht_status keep_raw(ht_csv *csv, const char *bytes, size_t size, ht_error *err) {
    csv->raw_size += size;
    if (csv->raw_size > HT_ANNOTATION_LIMIT) {
        /* Constant memory: what the parser has gathered of the field is dropped. 2 is its state "inside a
         * field"; just behind a quote it needs its last byte, and the next piece drops the field instead. */
        if (csv->parser.pstate == 2) csv->parser.entry_pos = 0;
        return HT_OK;
    }
    ht_status status = ht_grow(&csv->raw, &csv->raw_capacity, csv->raw_size, 1, err);
    if (status == HT_OK) memcpy(csv->raw + csv->raw_size - size, bytes, size);
    return status;
}

static ht_status feed(ht_csv *csv, const char *bytes, size_t size, ht_error *err) {
    size_t parsed = csv_parse(&csv->parser, bytes, size, take_field, end_row, csv);
    if (parsed < size && csv_error(&csv->parser) == CSV_EPARSE) {
        csv->stray_quote = 1;
        csv_set_opts(&csv->parser, LENIENT);
        parsed += csv_parse(&csv->parser, bytes + parsed, size - parsed, take_field, end_row, csv);
    }
    if (parsed < size || csv->no_memory)
        return ht_fail(err, HT_ERR_NOMEM, "%s:%lld: cannot hold a row of %zu bytes", csv->where,
                       (long long)csv->row_line, csv->raw_size);
    return HT_OK;
}

/* Reads on until a row ends; *found = 0 at the end of the file. */
static ht_status read_row(ht_csv *csv, int *found, ht_error *err) {
    ht_status status = HT_OK;
    csv->used = csv->field_count = csv->raw_size = 0;
    csv->begun = csv->done = csv->stray_quote = csv->unclosed = 0;
    csv_set_opts(&csv->parser, STRICT);
    while (!csv->done) {
        if (csv->rest_size == 0) {
            HT_TRY(ht_source_read(csv->source, &csv->rest, &csv->rest_size, err));
            if (csv->rest_size == 0) break;
        }
        size_t size = next_piece(csv->rest, csv->rest_size);
        const char *piece = csv->rest;
        csv->rest += size;
        csv->rest_size -= size;
        int split_line_end = csv->after_cr && piece[0] == '\n'; /* CR and LF came in two chunks */
        csv->after_cr = piece[size - 1] == '\r';
        if (!csv->begun && piece[0] != '\n' && piece[0] != '\r') {
            csv->begun = 1;
            csv->row_line = csv->line + 1;
        }
        if (csv->begun) HT_TRY(keep_raw(csv, piece, size, err));
        HT_TRY(feed(csv, piece, size, err));
        if ((piece[size - 1] == '\n' || piece[size - 1] == '\r') && !split_line_end) csv->line++;
    }
    if (!csv->done && csv->begun) {
        csv->unclosed = csv_fini(&csv->parser, take_field, end_row, csv) != 0;
        char last = csv->raw_size <= HT_ANNOTATION_LIMIT ? csv->raw[csv->raw_size - 1] : '\n';
        csv->line += last != '\n' && last != '\r';
    }
    *found = csv->begun;
    if (csv->raw_size <= HT_ANNOTATION_LIMIT)
        while (csv->raw_size && (csv->raw[csv->raw_size - 1] == '\n' || csv->raw[csv->raw_size - 1] == '\r'))
            csv->raw_size--;
done:
    return status;
}

/* Which field is which column; says which fields mean nothing. */
static ht_status map_columns(ht_csv *csv, const ht_column_names *names, ht_error *err) {
    char unknown[256] = "";
    for (int i = 0; i < HT_COLUMN_COUNT; i++)
        csv->field_of[i] = -1;
    for (size_t f = 0; f < csv->field_count; f++) {
        const char *name = csv->bytes + csv->fields[f].start;
        int column = 0;
        for (; column < HT_COLUMN_COUNT; column++)
            if (strcmp(names->name[column] ? names->name[column] : ht_column_text((ht_column)column), name) ==
                0)
                break;
        if (column == HT_COLUMN_COUNT) {
            size_t used = strlen(unknown);
            snprintf(unknown + used, sizeof unknown - used, "%s\"%.40s\"", used ? ", " : "", name);
        } else if (column < HT_COLUMN_REJECT_LINE && csv->field_of[column] >= 0) {
            /* the reject columns may: rows were refused, mended, and refused again */
            return ht_fail(err, HT_ERR_DATA, "%s:1: column \"%s\" stands twice in the header", csv->where,
                           name);
        } else {
            csv->field_of[column] = (int)f;
        }
    }
    for (int i = 0; i < HT_COLUMN_COUNT; i++)
        if (names->name[i] && csv->field_of[i] < 0)
            return ht_fail(err, HT_ERR_DATA, "%s:1: no column \"%s\" to map %s to; the header is: %.200s",
                           csv->where, names->name[i], ht_column_text((ht_column)i), csv->header);
    if (csv->field_of[HT_COLUMN_PROMPT] < 0 && csv->field_of[HT_COLUMN_MESSAGES] < 0)
        return ht_fail(err, HT_ERR_DATA,
                       "%s:1: neither a prompt nor a messages column; the header is: %.200s", csv->where,
                       csv->header);
    if (unknown[0]) ht_warn("%s: columns that mean nothing are left out: %s", csv->where, unknown);
    return HT_OK;
}

static ht_status read_header(ht_csv *csv, const ht_column_names *names, ht_error *err) {
    ht_status status;
    int found;
    HT_TRY(read_row(csv, &found, err));
    if (!found || csv->stray_quote || csv->unclosed || csv->raw_size > HT_ANNOTATION_LIMIT) {
        status = ht_fail(err, HT_ERR_DATA, "%s:1: no header: %s", csv->where,
                         found ? "the first row is malformed" : "the file is empty");
        goto done;
    }
    HT_TRY(ht_calloc(&csv->header, csv->raw_size + 1, 1, err));
    memcpy(csv->header, csv->raw, csv->raw_size);
    csv->header_size = csv->raw_size;
    csv->column_count = csv->field_count;
    HT_TRY(map_columns(csv, names, err));
done:
    return status;
}

ht_status ht_csv_open(ht_csv **out, ht_source *source, const ht_column_names *names, const char *where,
                      ht_error *err) {
    ht_status status;
    ht_csv *csv = NULL;
    *out = NULL;
    HT_TRY(ht_calloc(&csv, 1, sizeof *csv, err));
    csv->source = source;
    csv->where = where;
    csv_init(&csv->parser, STRICT);
    csv_set_space_func(&csv->parser, no_space);
    csv_set_blk_size(&csv->parser, HT_SOURCE_CHUNK); /* its own 128 bytes at a time make long fields slow */
    HT_TRY(read_header(csv, names, err));
    *out = csv;
    csv = NULL;
done:
    ht_csv_free(csv);
    return status;
}

ht_status ht_csv_next(ht_csv *csv, ht_file_row *row, int *found, ht_error *err) {
    ht_status status = read_row(csv, found, err);
    memset(row, 0, sizeof *row);
    if (status != HT_OK || !*found) return status;
    row->line = csv->row_line;
    row->last_line = csv->line;
    int too_long = csv->raw_size > HT_ANNOTATION_LIMIT;
    row->raw = too_long ? NULL : csv->raw;
    row->raw_size = csv->raw_size;
    row->refused = 1;
    if (too_long) {
        ht_refuse(&row->refusal, HT_REASON_TOO_LONG, "",
                  "%zu bytes to line %lld, more than %zu; a forgotten quote?", csv->raw_size,
                  (long long)csv->line, HT_ANNOTATION_LIMIT);
    } else if (csv->unclosed) {
        ht_refuse(&row->refusal, HT_REASON_UNCLOSED_QUOTE, "",
                  "a quote is not closed until the file ends in line %lld", (long long)csv->line);
    } else if (csv->stray_quote) {
        ht_refuse(&row->refusal, HT_REASON_BAD_QUOTE, "",
                  "a quote inside a field that is not doubled; the row ends in line %lld",
                  (long long)csv->line);
    } else if (csv->field_count != csv->column_count) {
        ht_refuse(&row->refusal, HT_REASON_FIELD_COUNT, "", "%zu fields where the header has %zu",
                  csv->field_count, csv->column_count);
    } else {
        row->refused = 0;
    }
    for (int i = 0; i < HT_COLUMN_COUNT && !row->refused; i++) {
        if (csv->field_of[i] < 0) continue;
        const span *field = &csv->fields[csv->field_of[i]];
        row->annotation.field[i] = csv->bytes + field->start;
        row->annotation.size[i] = field->size;
    }
    return HT_OK;
}

const char *ht_csv_header(const ht_csv *csv, size_t *size, size_t *columns) {
    *size = csv->header_size;
    *columns = csv->column_count;
    return csv->header;
}

void ht_csv_free(ht_csv *csv) {
    if (!csv) return;
    csv_free(&csv->parser);
    free(csv->bytes);
    free(csv->fields);
    free(csv->raw);
    free(csv->header);
    free(csv);
}
