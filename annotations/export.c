/*
 * export.c: halter-annotations export. What it writes, import reads back to the same rows.
 */
#include "annotations/commands.h"

#include <stdio.h>
#include <string.h>

#include <csv.h>

#include "annotations/annotation.h"
#include "core/base/json.h"
#include "core/base/signals.h"

typedef struct export_config {
    char *db, *source, *batch;
    int what, format, kind, split;
    int64_t first_round, last_round;
} export_config;

static const char *const whats[] = {"comparisons", "demonstrations", "prompts", NULL};
static const char *const formats[] = {"csv", "jsonl", NULL};

static const ht_option options[] = {
    HT_OPT_PATH(export_config, db, "db", NULL, HT_OPTION_REQUIRED, "project database"),
    HT_OPT_CHOICE(export_config, what, "what", "comparisons", whats, 0, "what to export, to stdout"),
    HT_OPT_CHOICE(export_config, format, "format", "csv", formats, 0, "format"),
    HT_OPT_CHOICE(export_config, kind, "kind", "all", ht_kind_choices, 0, "rows of this kind"),
    HT_OPT_CHOICE(export_config, split, "split", "all", ht_split_choices, 0, "rows of this split"),
    HT_OPT_STRING(export_config, source, "source", NULL, 0, "rows of this source"),
    HT_OPT_STRING(export_config, batch, "batch", NULL, 0, "rows of this batch"),
    HT_OPT_INT(export_config, first_round, "first_round", "0", 0, 1e9, 0, "rows of this round and later"),
    HT_OPT_INT(export_config, last_round, "last_round", "-1", -1, 1e9, 0,
               "rows of this round and earlier; -1: no end"),
};

static const ht_column comparison_columns[] = {
    HT_COLUMN_MESSAGES,  HT_COLUMN_CHOSEN,        HT_COLUMN_REJECTED,     HT_COLUMN_RATING, HT_COLUMN_SAFETY,
    HT_COLUMN_KIND,      HT_COLUMN_SPLIT,         HT_COLUMN_SOURCE,       HT_COLUMN_ROUND,  HT_COLUMN_BATCH,
    HT_COLUMN_ANNOTATOR, HT_COLUMN_PROMPT_SOURCE, HT_COLUMN_PROMPT_ROUND,
};
static const ht_column demonstration_columns[] = {
    HT_COLUMN_MESSAGES, HT_COLUMN_RESPONSE,      HT_COLUMN_ORIGIN,       HT_COLUMN_WEIGHT,
    HT_COLUMN_KIND,     HT_COLUMN_SPLIT,         HT_COLUMN_SOURCE,       HT_COLUMN_ROUND,
    HT_COLUMN_BATCH,    HT_COLUMN_PROMPT_SOURCE, HT_COLUMN_PROMPT_ROUND,
};
static const ht_column prompt_columns[] = {HT_COLUMN_MESSAGES, HT_COLUMN_KIND, HT_COLUMN_SPLIT,
                                           HT_COLUMN_SOURCE, HT_COLUMN_ROUND};

/* The columns of each `what`, and the set they are read from. */
static const struct layout {
    const char *row; /* what one is called */
    ht_store_set set;
    const ht_column *columns;
    size_t count;
} layouts[] = {
    {"comparison", HT_STORE_COMPARISONS, comparison_columns, sizeof comparison_columns / sizeof *comparison_columns},
    {"demonstration", HT_STORE_DEMONSTRATIONS, demonstration_columns,
     sizeof demonstration_columns / sizeof *demonstration_columns},
    {"dialogue", HT_STORE_DIALOGS, prompt_columns, sizeof prompt_columns / sizeof *prompt_columns},
};

/* One row's values by column, NULL: none; numbers stand in `digits`. */
typedef struct export_row {
    int64_t id;
    const char *value[HT_COLUMN_COUNT];
    char digits[4][32];
} export_row;

static const char *digits_of(char *digits, int64_t number) {
    snprintf(digits, 32, "%lld", (long long)number);
    return digits;
}

static void set_dialog(export_row *row, const ht_dialog_row *dialog) {
    row->value[HT_COLUMN_MESSAGES] = dialog->messages;
    row->value[HT_COLUMN_KIND] = ht_kind_text(dialog->kind);
    row->value[HT_COLUMN_SPLIT] = ht_split_text(dialog->split);
    row->value[HT_COLUMN_PROMPT_SOURCE] = dialog->source;
    row->value[HT_COLUMN_PROMPT_ROUND] = digits_of(row->digits[0], dialog->round);
}

static ht_status next_comparison(ht_store_cursor *cursor, export_row *out, int *found, ht_error *err) {
    ht_comparison_row row;
    ht_status status = ht_store_next_comparison(cursor, &row, found, err);
    if (status != HT_OK || !*found) return status;
    out->id = row.id;
    set_dialog(out, &row.dialog);
    out->value[HT_COLUMN_CHOSEN] = row.chosen.text;
    out->value[HT_COLUMN_REJECTED] = row.rejected.text;
    out->value[HT_COLUMN_RATING] = row.rating ? digits_of(out->digits[1], row.rating) : NULL;
    out->value[HT_COLUMN_SAFETY] = ht_safety_text(row.safety);
    out->value[HT_COLUMN_SOURCE] = row.source;
    out->value[HT_COLUMN_ROUND] = digits_of(out->digits[2], row.round);
    out->value[HT_COLUMN_BATCH] = row.batch;
    out->value[HT_COLUMN_ANNOTATOR] = row.annotator;
    return HT_OK;
}

static ht_status next_demonstration(ht_store_cursor *cursor, export_row *out, int *found, ht_error *err) {
    ht_demonstration_row row;
    ht_status status = ht_store_next_demonstration(cursor, &row, found, err);
    if (status != HT_OK || !*found) return status;
    out->id = row.id;
    set_dialog(out, &row.dialog);
    out->value[HT_COLUMN_RESPONSE] = row.response.text;
    out->value[HT_COLUMN_ORIGIN] = ht_origin_text(row.origin);
    snprintf(out->digits[1], sizeof out->digits[1], "%.17g", row.weight);
    out->value[HT_COLUMN_WEIGHT] = out->digits[1];
    out->value[HT_COLUMN_SOURCE] = row.source;
    out->value[HT_COLUMN_ROUND] = digits_of(out->digits[2], row.round);
    out->value[HT_COLUMN_BATCH] = row.batch;
    return HT_OK;
}

static ht_status next_prompt(ht_store_cursor *cursor, export_row *out, int *found, ht_error *err) {
    ht_dialog_row row;
    ht_status status = ht_store_next_dialog(cursor, &row, found, err);
    if (status != HT_OK || !*found) return status;
    out->id = row.id;
    set_dialog(out, &row);
    out->value[HT_COLUMN_SOURCE] = row.source;
    out->value[HT_COLUMN_ROUND] = out->value[HT_COLUMN_PROMPT_ROUND];
    return HT_OK;
}

static ht_status next_row(ht_store_set set, ht_store_cursor *cursor, export_row *out, int *found,
                          ht_error *err) {
    memset(out->value, 0, sizeof out->value);
    if (set == HT_STORE_COMPARISONS) return next_comparison(cursor, out, found, err);
    if (set == HT_STORE_DEMONSTRATIONS) return next_demonstration(cursor, out, found, err);
    return next_prompt(cursor, out, found, err);
}

static void write_csv(const struct layout *layout, const export_row *row) {
    for (size_t i = 0; i < layout->count; i++) {
        const char *value = row->value[layout->columns[i]];
        if (i) putchar(',');
        if (value) csv_fwrite(stdout, value, strlen(value));
    }
    putchar('\n');
}

static ht_status write_json(const struct layout *layout, const export_row *row, ht_error *err) {
    ht_status status = HT_OK;
    json_t *object = json_object();
    json_error_t problem;
    for (size_t i = 0; i < layout->count; i++) {
        ht_column column = layout->columns[i];
        const char *value = row->value[column];
        json_t *member = NULL;
        if (value && column == HT_COLUMN_MESSAGES)
            status = ht_json_parse(&member, value, strlen(value), &problem, err);
        else
            member = value ? json_string(value) : json_null();
        if (status == HT_ERR_DATA) ht_fail(err, status, "messages \"%.80s\": %s", value, problem.text);
        HT_TRY(status);
        if (json_object_set_new(object, ht_column_text(column), member) != 0) {
            status = ht_fail(err, HT_ERR_DATA, "%s \"%.80s\" cannot be written as JSON: not UTF-8",
                             ht_column_text(column), value);
            goto done;
        }
    }
    status = ht_json_print(object, JSON_COMPACT, stdout, err);
done:
    json_decref(object);
    return status;
}

static void write_header(const struct layout *layout) {
    for (size_t i = 0; i < layout->count; i++)
        printf("%s%s", i ? "," : "", ht_column_text(layout->columns[i]));
    putchar('\n');
}

static ht_status run(void *configuration, const ht_invocation *invocation, ht_error *err) {
    const export_config *config = configuration;
    const struct layout *layout = &layouts[config->what];
    (void)invocation;
    ht_store *store = NULL;
    ht_store_cursor *cursor = NULL;
    ht_status status;
    export_row row;
    int found = 1;
    ht_store_filter filter = {
        .kinds = ht_choice_mask(config->kind),
        .splits = ht_choice_mask(config->split),
        .source = config->source[0] ? config->source : NULL,
        .batch = config->batch[0] ? config->batch : NULL,
        .first_round = config->first_round,
        .end_round = config->last_round + 1,
    };
    HT_TRY(ht_store_open(&store, config->db, HT_STORE_READ, err));
    HT_TRY(ht_store_read(store, layout->set, &filter, &cursor, err));
    if (config->format == 0) write_header(layout);
    while (found && !ferror(stdout)) {
        HT_TRY(next_row(layout->set, cursor, &row, &found, err));
        if (found && config->format == 0) write_csv(layout, &row);
        if (found && config->format == 1 && write_json(layout, &row, err) != HT_OK) {
            status = ht_fail_in(err, "%s: %s %lld", config->db, layout->row, (long long)row.id);
            goto done;
        }
        status = ht_stop_requested();
        if (status != HT_OK) {
            status = ht_fail(err, status, "the export is not whole");
            goto done;
        }
    }
    if (fflush(stdout) != 0 || ferror(stdout)) status = ht_fail(err, HT_ERR_IO, "cannot write to stdout");
done:
    ht_store_cursor_free(cursor);
    ht_store_close(store);
    return status;
}

const ht_command ht_annotations_export_command = {
    .name = "export",
    .summary = "Write comparisons, demonstrations or prompts to stdout, for import to read back.",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(export_config),
    .run = run,
};
