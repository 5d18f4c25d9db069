/*
 * import.c: halter-annotations import.
 *
 * All files of one command go into one transaction: whatever stops it, a signal, a full disk, the first bad
 * row under
 * --strict, leaves the database as it was.
 */
#include "annotations/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "annotations/rejects.h"
#include "annotations/rows.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"

typedef struct import_config {
    char *db, *source, *batch, *rejects;
    int format, kind, split, strict, json;
    ht_strings map;
    int64_t round;
    double holdout;
} import_config;

static const char *const formats[] = {"csv", "jsonl", "hh", NULL};            /* as ht_row_format */
static const char *const kinds[] = {"column", "helpfulness", "safety", NULL}; /* ht_kind + 1 */
static const char *const splits[] = {"auto", "train", "test", NULL};          /* ht_split + 1 */

static const ht_option options[] = {
    HT_OPT_PATH(import_config, db, "db", NULL, HT_OPTION_REQUIRED,
                "project database; made when it does not exist"),
    HT_OPT_CHOICE(import_config, format, "format", "csv", formats, 0, "format of the files"),
    HT_OPT_CHOICE(import_config, kind, "kind", "column", kinds, 0,
                  "kind of rows that do not say it themselves"),
    HT_OPT_STRINGS(import_config, map, "map", NULL, 0,
                   "names of columns in the files: chosen=better,rejected=worse"),
    HT_OPT_FLAG(import_config, strict, "strict", 0, "stop at the first refused row and import nothing"),
    HT_OPT_STRING(import_config, source, "source", NULL, 0, "source of rows that do not say it themselves"),
    HT_OPT_STRING(import_config, batch, "batch", NULL, 0,
                  "annotation batch of rows that do not say it themselves"),
    HT_OPT_INT(import_config, round, "round", "0", 0, 1e9, 0, "round of rows that do not say it themselves"),
    HT_OPT_CHOICE(import_config, split, "split", "auto", splits, 0,
                  "split of new prompts; auto: by hash of the prompt"),
    HT_OPT_FLOAT(import_config, holdout, "holdout", "0.1", 0, 1, 0,
                 "share of new prompts that auto puts into test"),
    HT_OPT_PATH(import_config, rejects, "rejects", NULL, 0,
                "file for refused rows (default: FILE.rejects.csv)"),
    HT_OPT_FLAG(import_config, json, "json", 0, "report as JSON"),
};

/* What became of a file's rows. */
typedef struct tally {
    int64_t rows, outcomes[HT_ROW_REFUSED + 1], reasons[HT_REASON_COUNT];
} tally;

typedef struct import_job {
    const import_config *config;
    ht_store *store;
    ht_annotation_defaults defaults;
    ht_column_names names;
    json_t *report; /* a file an entry */
    int64_t warned; /* refusals told on stderr */
} import_job;

#define PATIENCE 86400.0    /* seconds: other imports may be long ones */
enum { CACHE = 256 << 20 }; /* bytes; holds the hash indexes of a million comparisons */
enum { WARNINGS = 10 };     /* refusals told one by one; all are in the file of rejects */

static ht_status note_refusal(import_job *job, const char *where, const ht_file_row *row,
                              const ht_refusal *refusal, ht_error *err) {
    char text[HT_REFUSAL_TEXT];
    ht_refusal_text(text, refusal);
    if (job->config->strict)
        return ht_fail(err, HT_ERR_DATA, "%s:%lld: %s (--strict: nothing was imported)", where, (long long)row->line, text);
    if (job->warned++ < WARNINGS)
        ht_warn("%s:%lld: row refused: %s", where, (long long)row->line, text);
    else if (job->warned == WARNINGS + 1)
        ht_warn("more rows are refused; further ones are told in the file of rejects only");
    return HT_OK;
}

static ht_status import_row(import_job *job, const char *where, const ht_row_reader *reader, ht_file_row *row,
                            ht_rejects *rejects, tally *counts, ht_error *err) {
    ht_status status = HT_OK;
    ht_row_outcome outcome = HT_ROW_REFUSED;
    if (!row->refused) {
        ht_refusal refusal;
        HT_TRY(ht_annotation_take(job->store, &job->defaults, &row->annotation, &outcome, &refusal, err));
        if (outcome == HT_ROW_REFUSED) row->refusal = refusal;
    }
    counts->rows++;
    counts->outcomes[outcome]++;
    if (outcome != HT_ROW_REFUSED) return HT_OK;
    counts->reasons[row->refusal.reason]++;
    HT_TRY(note_refusal(job, where, row, &row->refusal, err));
    HT_TRY(ht_rejects_add(rejects, reader, row, &row->refusal, err));
done:
    return status;
}

static ht_status import_rows(import_job *job, const char *where, ht_row_reader *reader, ht_rejects *rejects,
                             tally *counts, ht_error *err) {
    ht_status status;
    ht_progress progress;
    ht_file_row row;
    int found;
    char note[96] = "";
    ht_progress_start(&progress, "import", 0);
    for (;;) {
        HT_TRY(ht_rows_next(reader, &row, &found, err));
        if (!found) break;
        HT_TRY(import_row(job, where, reader, &row, rejects, counts, err));
        status = ht_stop_requested();
        if (status != HT_OK) {
            status =
                ht_fail(err, status, "stopped at %s:%lld; nothing was imported", where, (long long)row.line);
            goto done;
        }
        if (counts->rows % 1024 == 0) {
            snprintf(note, sizeof note, "rows, %lld refused", (long long)counts->outcomes[HT_ROW_REFUSED]);
            ht_progress_update(&progress, counts->rows, note);
        }
    }
    if (counts->rows >= 1024) ht_progress_finish(&progress, counts->rows, "rows");
done:
    return status;
}

/* What the import was told to do with the file, for the table of imports. */
static ht_status describe_options(char **text, const import_job *job, ht_error *err) {
    const import_config *c = job->config;
    json_t *map = json_object();
    for (int i = 0; i < HT_COLUMN_COUNT; i++)
        if (job->names.name[i])
            json_object_set_new(map, ht_column_text((ht_column)i), json_string(job->names.name[i]));
    json_t *all = json_pack("{s:s, s:s, s:f, s:I, s:s, s:s, s:o}", "kind", kinds[c->kind], "split",
                            splits[c->split], "holdout", c->holdout, "round", (json_int_t)c->round, "source",
                            c->source, "batch", c->batch, "map", map);
    ht_status status = ht_json_text(text, all, JSON_COMPACT, err);
    json_decref(all);
    return status;
}

static ht_status record(import_job *job, ht_source *source, const char *where, const tally *counts,
                        ht_error *err) {
    char hash[HT_HASH_LEN];
    char *described;
    ht_status status = describe_options(&described, job, err);
    if (status != HT_OK) return status;
    ht_source_hash(source, hash);
    ht_import_row row = {
        .file_hash = hash,
        .path = where,
        .format = formats[job->config->format],
        .options = described,
        .taken = counts->outcomes[HT_ROW_TAKEN],
        .existing = counts->outcomes[HT_ROW_EXISTING],
        .refused = counts->outcomes[HT_ROW_REFUSED],
        .dropped = counts->outcomes[HT_ROW_DROPPED],
    };
    status = ht_store_add_import(job->store, &row, err);
    free(described);
    return status;
}

static void report(import_job *job, const char *where, const tally *counts, const char *rejects) {
    json_t *reasons = json_object();
    for (int i = 0; i < HT_REASON_COUNT; i++)
        if (counts->reasons[i])
            json_object_set_new(reasons, ht_reason_text((ht_reason)i), json_integer(counts->reasons[i]));
    json_array_append_new(job->report, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:s?}", "file", where,
                                                 "rows", (json_int_t)counts->rows, "taken",
                                                 (json_int_t)counts->outcomes[HT_ROW_TAKEN], "existing",
                                                 (json_int_t)counts->outcomes[HT_ROW_EXISTING], "dropped",
                                                 (json_int_t)counts->outcomes[HT_ROW_DROPPED], "refused",
                                                 (json_int_t)counts->outcomes[HT_ROW_REFUSED], "reasons",
                                                 reasons, "rejects", rejects));
}

static ht_status import_file(import_job *job, const char *path, ht_error *err) {
    ht_status status;
    ht_source *source = NULL;
    ht_row_reader *reader = NULL;
    tally counts = {0};
    char *beside = NULL;
    int standard = strcmp(path, "-") == 0;
    const char *where = standard ? "standard input" : path;
    ht_rejects rejects = {.path = job->config->rejects};
    if (!rejects.path[0]) {
        HT_TRY(ht_format(&beside, err, "%s.rejects.csv", standard ? "stdin" : path));
        rejects.path = beside;
    }
    HT_TRY(ht_source_open(&source, path, err));
    HT_TRY(ht_rows_open(&reader, (ht_row_format)job->config->format, source, &job->names, where, err));
    HT_TRY(import_rows(job, where, reader, &rejects, &counts, err));
    HT_TRY(record(job, source, where, &counts, err));
    HT_TRY(ht_rejects_commit(&rejects, err));
    report(job, where, &counts, counts.outcomes[HT_ROW_REFUSED] ? rejects.path : NULL);
done:
    ht_rejects_abandon(&rejects);
    ht_rows_free(reader);
    ht_source_free(source);
    free(beside);
    return status;
}

static long long entry_count(const json_t *entry, const char *key) {
    return (long long)json_integer_value(json_object_get(entry, key));
}

static void print_entry(json_t *entry) {
    const char *reason, *rejects = json_string_value(json_object_get(entry, "rejects"));
    json_t *count;
    printf("%s: %lld rows: %lld taken, %lld there already, %lld dropped (chosen unsafe, rejected safe), %lld "
           "refused\n",
           json_string_value(json_object_get(entry, "file")), entry_count(entry, "rows"),
           entry_count(entry, "taken"), entry_count(entry, "existing"), entry_count(entry, "dropped"),
           entry_count(entry, "refused"));
    json_object_foreach(json_object_get(entry, "reasons"), reason, count)
        printf("  refused %lld: %s\n", (long long)json_integer_value(count), reason);
    if (rejects) printf("  refused rows are in %s\n", rejects);
    if (!entry_count(entry, "taken")) printf("  nothing new: the database is as it was\n");
}

static ht_status print_report(const json_t *report_list, int as_json, ht_error *err) {
    size_t i;
    json_t *entry;
    if (as_json) {
        ht_status status = ht_json_print(report_list, JSON_INDENT(2), stdout, err);
        if (status != HT_OK) return status;
    } else {
        json_array_foreach(report_list, i, entry) print_entry(entry);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return ht_fail(err, HT_ERR_IO, "cannot write the report to stdout");
    return HT_OK;
}

static ht_status run(void *configuration, const ht_invocation *invocation, ht_error *err) {
    const import_config *config = configuration;
    import_job job = {
        .config = config,
        .defaults = {.kind = config->kind - 1,
                     .split = config->split - 1,
                     .holdout = config->holdout,
                     .source = config->source[0] ? config->source : NULL,
                     .batch = config->batch[0] ? config->batch : NULL,
                     .round = config->round},
        .report = json_array(),
    };
    ht_status status = HT_OK;
    if (invocation->argument_count == 0) {
        status = ht_fail(err, HT_ERR_USAGE, "no file to import; \"-\" is standard input");
    } else if (config->rejects[0] && invocation->argument_count > 1) {
        status = ht_fail(err, HT_ERR_USAGE, "--rejects \"%s\" is for one file, but there are %zu",
                         config->rejects, invocation->argument_count);
    } else if (config->format == HT_ROWS_HH && job.defaults.kind < 0) {
        status = ht_fail(err, HT_ERR_USAGE,
                         "--format hh has no column of kinds: --kind helpfulness or safety is needed");
    }
    if (status != HT_OK) goto done;
    HT_TRY(ht_column_names_parse(&job.names, config->map.values, config->map.count, err));
    HT_TRY(ht_store_open(&job.store, config->db, HT_STORE_CREATE, err));
    HT_TRY(ht_store_set_cache(job.store, CACHE, err));
    ht_store_set_patience(job.store, PATIENCE);
    HT_TRY(ht_store_begin(job.store, err));
    for (size_t i = 0; i < invocation->argument_count; i++)
        HT_TRY(import_file(&job, invocation->arguments[i], err));
    HT_TRY(ht_store_commit(job.store, err));
    HT_TRY(print_report(job.report, config->json, err));
done:
    ht_store_close(job.store);
    json_decref(job.report);
    return status;
}

const ht_command ht_annotations_import_command = {
    .name = "import",
    .summary = "Import CSV, JSON lines or HH-RLHF files; refused rows are counted and kept.",
    .arguments = "FILE...",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(import_config),
    .run = run,
};
