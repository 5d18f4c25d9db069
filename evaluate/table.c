/*
 * halter-evaluate table: the versions for people and for programs.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "evaluate/versions.h"

#define KEY(name, key, heading) key,
static const char *const keys[] = {HT_TABLE_MAP(KEY)};
#undef KEY
#define HEADING(name, key, heading) heading,
static const char *const headings[] = {HT_TABLE_MAP(HEADING)};
#undef HEADING

/* --- JSON ------------------------------------------------------------------------------------------------- */

static json_t *version_json(const ht_version *version) {
    json_t *errors = json_object();
    json_t *json = json_pack("{s:s, s:I, s:s, s:s, s:I, s:I}", "name", version->name, "round",
                             (json_int_t)version->round, "stage", version->stage, "path", version->path, "run",
                             (json_int_t)version->run_id, "prompts", (json_int_t)version->prompts);
    for (int c = 0; c < HT_TABLE_COUNT; c++) {
        json_object_set_new(json, keys[c], ht_number_json(version->cells[c].value));
        json_object_set_new(errors, keys[c], ht_number_json(version->cells[c].error));
    }
    json_object_set_new(json, "standard_errors", errors);
    return json;
}

ht_status ht_versions_json(const ht_versions *versions, json_t **out, ht_error *err) {
    json_t *list = json_array();
    for (size_t i = 0; i < versions->count; i++)
        json_array_append_new(list, version_json(&versions->rows[i]));
    *out = json_pack("{s:s?, s:o}", "baseline", versions->baseline, "versions", list);
    return *out ? HT_OK : ht_fail(err, HT_ERR_NOMEM, "no memory for the table");
}

/* --- text ------------------------------------------------------------------------------------------------- */

enum { CELL = 32 };

static void cell_text(char out[CELL], ht_cell cell, ht_table_column column) {
    int digits = column == HT_TABLE_RESPONSE_TOKENS ? 1 : 3;
    if (isnan(cell.value))
        snprintf(out, CELL, "-");
    else if (isnan(cell.error))
        snprintf(out, CELL, "%.*f", digits, cell.value);
    else
        snprintf(out, CELL, "%.*f ± %.*f", digits, cell.value, digits, cell.error);
}

/* Characters of UTF-8 text: as many columns, as all here are. */
static int width_of(const char *text) {
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

static void print_padded(FILE *out, const char *text, int width) {
    fprintf(out, "%*s%s", width - width_of(text), "", text);
}

static int longer(int width, const char *text) {
    return width_of(text) > width ? width_of(text) : width;
}

void ht_versions_print(const ht_versions *versions, FILE *out) {
    char text[CELL];
    int widths[HT_TABLE_COUNT], names = width_of("version");
    for (size_t i = 0; i < versions->count; i++)
        names = longer(names, versions->rows[i].name);
    fprintf(out, "version%*s", names - width_of("version"), "");
    for (int c = 0; c < HT_TABLE_COUNT; c++) {
        if (!headings[c]) continue;
        widths[c] = width_of(headings[c]);
        for (size_t i = 0; i < versions->count; i++) {
            cell_text(text, versions->rows[i].cells[c], (ht_table_column)c);
            widths[c] = longer(widths[c], text);
        }
        fputs("  ", out);
        print_padded(out, headings[c], widths[c]);
    }
    fputc('\n', out);
    for (size_t i = 0; i < versions->count; i++) {
        const ht_version *version = &versions->rows[i];
        fprintf(out, "%s%*s", version->name, names - width_of(version->name), "");
        for (int c = 0; c < HT_TABLE_COUNT; c++) {
            if (!headings[c]) continue;
            cell_text(text, version->cells[c], (ht_table_column)c);
            fputs("  ", out);
            print_padded(out, text, widths[c]);
        }
        fputc('\n', out);
    }
    if (versions->baseline) fprintf(out, "win rate: against %s; ±: standard error; -: not measured\n", versions->baseline);
}

/* --- the command ------------------------------------------------------------------------------------------ */

ht_status ht_evaluate_table(void *configuration, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    const ht_table_config *config = configuration;
    ht_store *store = NULL;
    ht_versions versions = {.rows = NULL};
    json_t *json = NULL;
    (void)invocation;
    HT_TRY(ht_store_open(&store, config->db, HT_STORE_READ, err));
    HT_TRY(ht_versions_read(&versions, store, &config->models, err));
    HT_TRY(ht_versions_json(&versions, &json, err));
    if (config->out && config->out[0]) HT_TRY(ht_json_write(config->out, json, err));
    if (config->json)
        status = ht_json_print(json, JSON_INDENT(2), stdout, err);
    else
        ht_versions_print(&versions, stdout);
done:
    json_decref(json);
    ht_versions_release(&versions);
    ht_store_close(store);
    return status;
}
