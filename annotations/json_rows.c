/*
 * json_rows.c: rows of JSON-lines files: one object a line with our columns as keys, or the hh format.
 *
 * hh (Anthropic's HH-RLHF): {"chosen": DIALOGUE, "rejected": DIALOGUE}, each a whole dialogue as one text,
 * "\n\nHuman: ...\n\nAssistant: ...". Both must have the same turns up to the last answer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "annotations/rows.h"
#include "core/base/json.h"
#include "core/base/lines.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/tokenizer/text.h"

struct ht_json_rows {
    ht_row_format format;
    ht_line_reader lines;
    const ht_column_names *names;
    const char *where;
    json_t *object;                    /* of the row given last, which owns its strings */
    char *messages;                    /* built for it */
    char *answers[2];                  /* hh */
    char numbers[HT_COLUMN_COUNT][32]; /* number values as text */
    int64_t unknown_rows;              /* rows with keys that mean nothing */
    int no_memory;                     /* a copy failed while the row was taken */
};

ht_status ht_json_rows_open(ht_json_rows **out, ht_row_format format, ht_source *source,
                            const ht_column_names *names, const char *where, ht_error *err) {
    ht_status status = ht_calloc(out, 1, sizeof **out, err);
    if (status != HT_OK) return status;
    (*out)->format = format;
    (*out)->lines = (ht_line_reader){.read = ht_source_read, .source = source, .limit = HT_ANNOTATION_LIMIT};
    (*out)->names = names;
    (*out)->where = where;
    return HT_OK;
}

static void forget_row(ht_json_rows *rows) {
    json_decref(rows->object);
    rows->object = NULL;
    free(rows->messages);
    rows->messages = NULL;
    for (int i = 0; i < 2; i++) {
        free(rows->answers[i]);
        rows->answers[i] = NULL;
    }
}

void ht_json_rows_free(ht_json_rows *rows) {
    if (!rows) return;
    if (rows->unknown_rows)
        ht_warn("%s: %lld rows have keys that mean nothing; these are left out", rows->where,
                (long long)rows->unknown_rows);
    forget_row(rows);
    ht_line_release(&rows->lines);
    free(rows);
}

static void set_field(ht_file_row *row, ht_column column, const char *text) {
    row->annotation.field[column] = text;
    row->annotation.size[column] = strlen(text);
}

static ht_column column_named(const ht_json_rows *rows, const char *key) {
    int column = 0;
    for (; column < HT_COLUMN_COUNT; column++) {
        const char *name = rows->names->name[column];
        if (strcmp(name ? name : ht_column_text((ht_column)column), key) == 0) break;
    }
    return (ht_column)column;
}

/* One member; 0: the row is refused. */
static int take_member(ht_json_rows *rows, ht_file_row *row, ht_column column, const json_t *value) {
    char *number = rows->numbers[column];
    ht_error ignored = HT_ERROR_INIT;
    if (json_is_null(value)) return 1;
    if (json_is_string(value)) {
        set_field(row, column, json_string_value(value));
    } else if (json_is_integer(value)) {
        snprintf(number, sizeof rows->numbers[column], "%lld", (long long)json_integer_value(value));
        set_field(row, column, number);
    } else if (json_is_real(value)) {
        snprintf(number, sizeof rows->numbers[column], "%.17g", json_real_value(value));
        set_field(row, column, number);
    } else if (column == HT_COLUMN_MESSAGES && json_is_array(value)) {
        free(rows->messages);
        rows->no_memory = ht_json_text(&rows->messages, value, JSON_COMPACT, &ignored) != HT_OK; /* the caller words it */
        if (rows->messages) set_field(row, column, rows->messages);
    } else {
        ht_refuse(&row->refusal, HT_REASON_BAD_JSON, ht_column_text(column), "neither text nor number");
        return 0;
    }
    return 1;
}

static int take_members(ht_json_rows *rows, ht_file_row *row) {
    const char *key;
    json_t *value;
    int unknown = 0;
    json_object_foreach(rows->object, key, value) {
        ht_column column = column_named(rows, key);
        if (column == HT_COLUMN_COUNT)
            unknown = 1;
        else if (!take_member(rows, row, column, value))
            return 0;
    }
    rows->unknown_rows += unknown;
    return 1;
}

/* ---- hh ---- */

/* One turn of a dialogue's text, without the white space around it. */
typedef struct turn {
    int is_human;
    const char *text;
    size_t size;
} turn;

enum { MAX_TURNS = 1024 };

static const char human[] = "\n\nHuman:", assistant[] = "\n\nAssistant:";

/* Cuts a dialogue at its speakers' marks. *count = 0 when it does not begin with one. */
static void cut_turns(const char *text, turn *turns, size_t *count) {
    *count = 0;
    while (*text && *count < MAX_TURNS) {
        turn *t = &turns[*count];
        t->is_human = strncmp(text, human, sizeof human - 1) == 0;
        if (!t->is_human && strncmp(text, assistant, sizeof assistant - 1) != 0) return;
        text += t->is_human ? sizeof human - 1 : sizeof assistant - 1;
        const char *next_human = strstr(text, human), *next_assistant = strstr(text, assistant);
        const char *end = text + strlen(text);
        if (next_human && next_human < end) end = next_human;
        if (next_assistant && next_assistant < end) end = next_assistant;
        t->text = text;
        t->size = (size_t)(end - text);
        ht_text_strip(&t->text, &t->size, HT_STRIP_BOTH);
        ++*count;
        text = end;
    }
}

/* 1 when the turns go human, assistant, ... and end with the assistant. */
static int judge_turns(ht_file_row *row, const char *column, const turn *turns, size_t count) {
    if (count == 0 || !turns[0].is_human) {
        ht_refuse(&row->refusal, HT_REASON_NOT_HUMAN_FIRST, column, "does not begin with \"\\n\\nHuman:\"");
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (turns[i].is_human == (i % 2 == 0)) continue;
        ht_refuse(&row->refusal, HT_REASON_NOT_ALTERNATING, column,
                  "turn %zu is the same speaker's as turn %zu", i + 1, i);
        return 0;
    }
    if (count % 2 || count == MAX_TURNS) {
        ht_refuse(&row->refusal, HT_REASON_NOT_ALTERNATING, column,
                  "of %zu turns the last is not the Assistant's%s", count,
                  count == MAX_TURNS ? ", or there are too many" : "");
        return 0;
    }
    return 1;
}

static json_t *turns_to_messages(const turn *turns, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s%}", "role", turns[i].is_human ? "user" : "assistant",
                                              "content", turns[i].text, turns[i].size));
    return list;
}

static int take_hh(ht_json_rows *rows, ht_file_row *row) {
    static const ht_column columns[2] = {HT_COLUMN_CHOSEN, HT_COLUMN_REJECTED};
    turn turns[2][MAX_TURNS];
    ht_error ignored = HT_ERROR_INIT;
    size_t count[2];
    for (int i = 0; i < 2; i++) {
        const char *name = ht_column_text(columns[i]), *mapped = rows->names->name[columns[i]];
        const char *text = json_string_value(json_object_get(rows->object, mapped ? mapped : name));
        if (!text) {
            ht_refuse(&row->refusal, HT_REASON_MISSING_COLUMN, name, "no such text in the object");
            return 0;
        }
        cut_turns(text, turns[i], &count[i]);
        if (!judge_turns(row, name, turns[i], count[i])) return 0;
    }
    size_t shared = 0;
    while (shared < count[0] && shared < count[1] && turns[0][shared].size == turns[1][shared].size &&
           memcmp(turns[0][shared].text, turns[1][shared].text, turns[0][shared].size) == 0)
        shared++;
    if (count[0] != count[1] || shared + 1 < count[0]) {
        ht_refuse(&row->refusal, HT_REASON_PROMPTS_DIFFER, "rejected",
                  "%zu and %zu turns, of which the first %zu are the same: not two answers to one prompt",
                  count[0], count[1], shared);
        return 0;
    }
    json_t *list = turns_to_messages(turns[0], count[0] - 1);
    (void)ht_json_text(&rows->messages, list, JSON_COMPACT, &ignored); /* the caller words it */
    json_decref(list);
    for (int i = 0; i < 2; i++) {
        const turn *last = &turns[i][count[i] - 1];
        rows->answers[i] = strndup(last->text, last->size);
    }
    rows->no_memory = !rows->messages || !rows->answers[0] || !rows->answers[1];
    if (rows->no_memory) return 0;
    set_field(row, HT_COLUMN_MESSAGES, rows->messages);
    for (int i = 0; i < 2; i++)
        set_field(row, columns[i], rows->answers[i]);
    return 1;
}

/* The line as a JSON object, checked before as jansson gives no reason of its own for bytes. */
static int parse_line(ht_json_rows *rows, ht_file_row *row, const char *line, size_t size) {
    json_error_t error;
    size_t valid = ht_utf8_valid(line, size);
    if (memchr(line, '\0', size)) {
        ht_refuse(&row->refusal, HT_REASON_NUL_BYTE, "", "a NUL byte after %zu bytes", strlen(line));
        return 0;
    }
    if (valid != size) {
        ht_refuse(&row->refusal, HT_REASON_BAD_UTF8, "", "byte %zu (0x%02x) is not UTF-8", valid + 1,
                  (unsigned char)line[valid]);
        return 0;
    }
    ht_error ignored = HT_ERROR_INIT; /* the caller words it */
    ht_status status = ht_json_parse(&rows->object, line, size, &error, &ignored);
    rows->no_memory = status == HT_ERR_NOMEM;
    if (json_is_object(rows->object)) return 1;
    if (status == HT_OK)
        ht_refuse(&row->refusal, HT_REASON_BAD_JSON, "", "not a JSON object");
    else if (status == HT_ERR_DATA)
        ht_refuse(&row->refusal, HT_REASON_BAD_JSON, "", "column %d: %s", error.column, error.text);
    return 0;
}

ht_status ht_json_rows_next(ht_json_rows *rows, ht_file_row *row, int *found, ht_error *err) {
    const char *line;
    size_t size;
    forget_row(rows);
    memset(row, 0, sizeof *row);
    do { /* blank lines are none */
        ht_status status = ht_line_next(&rows->lines, &line, &size, found, err);
        if (status != HT_OK || !*found) return status;
    } while (line && strspn(line, " \t\r") == size);
    row->line = row->last_line = rows->lines.number;
    row->raw = line;
    row->raw_size = size;
    if (!line) {
        row->refused = 1;
        ht_refuse(&row->refusal, HT_REASON_TOO_LONG, "", "%zu bytes, more than %zu", size,
                  HT_ANNOTATION_LIMIT);
        return HT_OK;
    }
    row->refused = !parse_line(rows, row, line, size) ||
                   !(rows->format == HT_ROWS_HH ? take_hh(rows, row) : take_members(rows, row));
    if (!rows->no_memory) return HT_OK;
    return ht_fail(err, HT_ERR_NOMEM, "%s:%lld: cannot copy a row of %zu bytes", rows->where,
                   (long long)row->line, size);
}
