/*
 * synth_annotate.c: a file of pairs, filled in by the panel of noisy annotators.
 */
#include "annotations/synth.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "annotations/csv_write.h"
#include "annotations/oracle.h"
#include "annotations/panel.h"
#include "annotations/rows.h"
#include "annotations/words.h"
#include "core/base/files.h"
#include "core/base/json.h"

/* The fields a row comes out with; numbers stand in `rating`. */
typedef struct filled_row {
    const char *field[HT_COLUMN_COUNT];
    char choice[2], rating[2];
} filled_row;

static uint64_t hash_of(uint64_t seed, const char *const *texts, int count) {
    char hex[HT_HASH_LEN];
    uint64_t mixed = seed;
    for (int i = 0; i < count; i++) {
        const char *text = texts[i] == NULL ? "" : texts[i];
        ht_hash(text, strlen(text), hex);
        hex[16] = '\0';
        mixed = ht_rng_stream(HT_RNG_ANNOTATE, mixed, strtoull(hex, NULL, 16));
    }
    return mixed;
}

/* *out = the row's dialogue as JSON, a new reference: its messages, or its prompt as one user turn. */
static ht_status row_messages(json_t **out, const ht_annotation *row, ht_error *err) {
    const char *messages = row->field[HT_COLUMN_MESSAGES], *prompt = row->field[HT_COLUMN_PROMPT];
    json_error_t reason;
    *out = NULL;
    if (messages != NULL && messages[0] != '\0') {
        ht_status status = ht_json_parse(out, messages, strlen(messages), &reason, err);
        if (status == HT_ERR_DATA) ht_fail(err, status, "messages: %s", reason.text);
        return status;
    }
    if (prompt == NULL || prompt[0] == '\0') return ht_fail(err, HT_ERR_DATA, "neither prompt nor messages");
    *out = json_pack("[{s:s, s:s}]", "role", "user", "content", prompt);
    return *out != NULL ? HT_OK : ht_fail(err, HT_ERR_DATA, "prompt \"%.80s\" is not UTF-8", prompt);
}

static ht_status judge_candidate(ht_candidate *out, const json_t *messages, const char *response,
                                 ht_error *err) {
    ht_judgement judgement;
    ht_words words;
    ht_status status;
    HT_TRY(ht_oracle_judge(&judgement, messages, response, err));
    status = ht_words_init(&words, response, err);
    *out = (ht_candidate){judgement.helpfulness, judgement.violation, words.count};
    ht_words_release(&words);
done:
    return status;
}

static ht_status row_kind(ht_kind *kind, const ht_annotation *row, const json_t *messages, ht_error *err) {
    const char *text = row->field[HT_COLUMN_KIND];
    ht_task task;
    int found;
    if (text != NULL && text[0] != '\0') {
        *kind = strcmp(text, ht_kind_text(HT_KIND_SAFETY)) == 0 ? HT_KIND_SAFETY : HT_KIND_HELPFULNESS;
        if (strcmp(text, ht_kind_text(*kind)) == 0) return HT_OK;
        return ht_fail(err, HT_ERR_DATA, "kind \"%.40s\" is neither helpfulness nor safety", text);
    }
    ht_status status = ht_world_recognise(messages, &task, &found, err);
    *kind = status == HT_OK && ht_task_unsafe(&task) ? HT_KIND_SAFETY : HT_KIND_HELPFULNESS;
    return status;
}

/* Lets one of the panel compare the row's responses. */
static ht_status annotate(filled_row *out, const ht_annotation *row, uint64_t seed,
                          ht_synth_annotate_result *result, ht_error *err) {
    const char *responses[2] = {row->field[HT_COLUMN_RESPONSE_A], row->field[HT_COLUMN_RESPONSE_B]};
    const char *name = row->field[HT_COLUMN_ANNOTATOR];
    json_t *messages = NULL;
    ht_candidate candidates[2];
    ht_kind kind;
    ht_status status;
    if (responses[0] == NULL || responses[1] == NULL)
        return ht_fail(err, HT_ERR_DATA, "no columns response_a and response_b");
    HT_TRY(row_messages(&messages, row, err));
    HT_TRY(row_kind(&kind, row, messages, err));
    for (int i = 0; i < 2; i++)
        HT_TRY(judge_candidate(&candidates[i], messages, responses[i], err));
    const char *identity[] = {row->field[HT_COLUMN_ID], row->field[HT_COLUMN_MESSAGES],
                              row->field[HT_COLUMN_PROMPT], responses[0], responses[1]};
    ht_draw draw = ht_draw_start(seed, HT_RNG_ANNOTATE, hash_of(seed, identity, 5), 0);
    const ht_annotator *annotator = &ht_panel[ht_draw_below(&draw, HT_PANEL_COUNT)];
    if (name != NULL && name[0] != '\0') {
        annotator = ht_panel_find(name);
        if (annotator == NULL) {
            status = ht_fail(err, HT_ERR_DATA, "annotator \"%.40s\" is none of the panel (%s to %s)", name,
                             ht_panel[0].name, ht_panel[HT_PANEL_COUNT - 1].name);
            goto done;
        }
    }
    ht_opinion opinion = ht_panel_compare(annotator, kind, candidates, &draw);
    out->choice[0] = opinion.choice;
    out->rating[0] = (char)('0' + opinion.rating);
    out->field[HT_COLUMN_CHOICE] = out->choice;
    out->field[HT_COLUMN_RATING] = out->rating;
    out->field[HT_COLUMN_SAFETY] = ht_bin_text(opinion.bin);
    out->field[HT_COLUMN_ANNOTATOR] = annotator->name;
    result->annotated++;
    result->chosen_a += opinion.choice == 'a';
    result->bins[opinion.bin]++;
    result->ratings[opinion.rating]++;
done:
    json_decref(messages);
    return status;
}

static ht_status fill_row(filled_row *out, const ht_annotation *row, uint64_t seed,
                          ht_synth_annotate_result *result, ht_error *err) {
    const char *a = row->field[HT_COLUMN_RESPONSE_A], *b = row->field[HT_COLUMN_RESPONSE_B];
    const char *choice = row->field[HT_COLUMN_CHOICE];
    *out = (filled_row){.choice = "", .rating = ""};
    memcpy(out->field, row->field, sizeof out->field);
    result->rows++;
    if (choice != NULL && choice[0] != '\0') {
        result->kept++;
        return HT_OK;
    }
    if (a != NULL && b != NULL && strcmp(a, b) == 0) {
        result->identical++;
        return HT_OK;
    }
    return annotate(out, row, seed, result, err);
}

/* The columns of the output: those of the input, and those the panel fills. */
static int output_columns(int columns[HT_COLUMN_COUNT], const ht_annotation *row) {
    int count = 0;
    for (int i = 0; i < HT_COLUMN_COUNT; i++)
        if (row->field[i] != NULL || i == HT_COLUMN_CHOICE || i == HT_COLUMN_RATING ||
            i == HT_COLUMN_SAFETY || i == HT_COLUMN_ANNOTATOR)
            columns[count++] = i;
    return count;
}

static void write_row(FILE *stream, const char *const *field, const int *columns, int count) {
    const char *line[HT_COLUMN_COUNT];
    for (int i = 0; i < count; i++)
        line[i] = field == NULL ? ht_column_text((ht_column)columns[i]) : field[columns[i]];
    ht_csv_write(stream, line, (size_t)count);
}

static ht_status copy_rows(FILE *stream, ht_row_reader *reader, const char *input, uint64_t seed,
                           ht_synth_annotate_result *result, ht_error *err) {
    int columns[HT_COLUMN_COUNT], count = 0, found;
    for (;;) {
        ht_file_row row;
        filled_row filled;
        ht_status status = ht_rows_next(reader, &row, &found, err);
        if (status != HT_OK || !found) return status;
        if (row.refused) {
            char text[HT_REFUSAL_TEXT];
            ht_refusal_text(text, &row.refusal);
            return ht_fail(err, HT_ERR_DATA, "%s:%" PRId64 ": %s", input, row.line, text);
        }
        if (count == 0) {
            count = output_columns(columns, &row.annotation);
            write_row(stream, NULL, columns, count);
        }
        status = fill_row(&filled, &row.annotation, seed, result, err);
        if (status != HT_OK) {
            ht_fail_in(err, "%s:%" PRId64, input, row.line);
            return status;
        }
        write_row(stream, filled.field, columns, count);
    }
}

ht_status ht_synth_annotate(const char *input, const char *output, uint64_t seed,
                            ht_synth_annotate_result *result, ht_error *err) {
    static const ht_column_names names;
    ht_source *source = NULL;
    ht_row_reader *reader = NULL;
    ht_file_writer writer = {0};
    ht_status status;
    memset(result, 0, sizeof *result);
    HT_TRY(ht_source_open(&source, input, err));
    HT_TRY(ht_rows_open(&reader, HT_ROWS_CSV, source, &names, input, err));
    HT_TRY(ht_file_create(&writer, output, err));
    HT_TRY(copy_rows(writer.stream, reader, input, seed, result, err));
    if (result->rows == 0) {
        status = ht_fail(err, HT_ERR_DATA, "%s has no rows to annotate", input);
        goto done;
    }
    HT_TRY(ht_file_commit(&writer, err));
done:
    ht_file_abandon(&writer);
    ht_rows_free(reader);
    ht_source_free(source);
    return status;
}
