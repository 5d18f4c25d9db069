/*
 * The table of versions, put together from the database.
 */
#include "evaluate/versions.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "evaluate/evaluation.h"

#define ORACLE_HELPFULNESS "oracle-helpfulness"
#define ORACLE_VIOLATION   "oracle-violation"

/* --- rows of the evaluation table ------------------------------------------------------------------------- */

/* *details (may be NULL) is a new reference. found = 0 when there is no such row. */
static ht_status read_row(ht_store *store, int64_t model_id, const char *name, double *value, json_t **details,
                          int *found, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = {.model_id = model_id, .name = name};
    ht_evaluation_row row;
    json_error_t problem;
    *value = NAN;
    *details = NULL;
    HT_TRY(ht_store_read(store, HT_STORE_EVALUATIONS, &filter, &cursor, err));
    HT_TRY(ht_store_next_evaluation(cursor, &row, found, err));
    if (!*found) goto done;
    *value = row.value;
    if (row.details) status = ht_json_parse(details, row.details, strlen(row.details), &problem, err);
    if (status == HT_ERR_DATA) ht_fail(err, status, "evaluation \"%s\": details: %s", name, problem.text);
done:
    ht_store_cursor_free(cursor);
    return status;
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static int64_t integer(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

/* A row of the version's latest evaluation; one of an earlier run counts as not measured. */
static ht_status read_cell(ht_cell *cell, ht_store *store, const ht_version *version, const char *name, ht_error *err) {
    ht_status status = HT_OK;
    double value;
    json_t *details = NULL;
    int found;
    HT_TRY(read_row(store, version->model_id, name, &value, &details, &found, err));
    if (found && integer(details, "run") == version->run_id)
        *cell = (ht_cell){value, number(details, "standard_error")};
done:
    json_decref(details);
    return status;
}

/* --- versions --------------------------------------------------------------------------------------------- */

static void version_release(ht_version *version) {
    free(version->name);
    free(version->path);
    free(version->stage);
    json_decref(version->basis);
}

void ht_versions_release(ht_versions *versions) {
    for (size_t i = 0; i < versions->count; i++)
        version_release(&versions->rows[i]);
    free(versions->rows);
    free(versions->baseline);
    memset(versions, 0, sizeof *versions);
}

/* Adds a model when it has been evaluated; one of the same name that was there before gives way. */
static ht_status add_model(ht_versions *versions, ht_store *store, const ht_model_row *model, ht_error *err) {
    ht_status status = HT_OK;
    ht_version version = {.model_id = model->id, .round = model->round};
    double prompts;
    json_t *details = NULL;
    int found;
    size_t at = 0;
    HT_TRY(read_row(store, model->id, HT_ROW_PROMPTS, &prompts, &details, &found, err));
    if (!found || !integer(details, "run")) goto done;
    version.run_id = integer(details, "run");
    version.prompts = (int64_t)prompts;
    for (int c = 0; c < HT_TABLE_COUNT; c++)
        version.cells[c] = (ht_cell){NAN, NAN};
    HT_TRY(ht_strdup(&version.name, model->name, err));
    HT_TRY(ht_strdup(&version.path, model->path, err));
    HT_TRY(ht_strdup(&version.stage, model->stage, err));
    version.basis = json_pack("{s:O*, s:O*}", "settings", json_object_get(details, "settings"), "judges",
                              json_object_get(details, "judges"));
    while (at < versions->count && strcmp(versions->rows[at].name, model->name) != 0)
        at++;
    HT_TRY(ht_grow(&versions->rows, &versions->capacity, at + 1, sizeof *versions->rows, err));
    if (at < versions->count) {
        ht_warn("there are several evaluated models \"%s\": the newest is shown", model->name);
        version_release(&versions->rows[at]);
    } else {
        versions->count++;
    }
    versions->rows[at] = version;
    version = (ht_version){.name = NULL};
done:
    version_release(&version);
    json_decref(details);
    return status;
}

static int is_version(const ht_model_row *model, const ht_strings *names) {
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->values[i], model->name) == 0) return 1;
    return strcmp(model->stage, "sft") == 0 || strcmp(model->stage, "ppo") == 0;
}

static int by_round(const void *a, const void *b) {
    const ht_version *x = a, *y = b;
    if (x->round != y->round) return x->round < y->round ? -1 : 1;
    return (x->model_id > y->model_id) - (x->model_id < y->model_id);
}

static ht_status find_versions(ht_versions *versions, ht_store *store, const ht_strings *names, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter all = {.limit = 0};
    HT_TRY(ht_store_read(store, HT_STORE_MODELS, &all, &cursor, err));
    for (;;) {
        ht_model_row model;
        int found;
        HT_TRY(ht_store_next_model(cursor, &model, &found, err));
        if (!found) break;
        if (is_version(&model, names)) HT_TRY(add_model(versions, store, &model, err));
    }
    if (!versions->count)
        HT_TRY(ht_fail(err, HT_ERR_DATA,
                       "%s: no version was evaluated (models of stage sft or ppo, by halter-evaluate model)",
                       ht_store_path(store)));
    qsort(versions->rows, versions->count, sizeof *versions->rows, by_round);
    for (size_t i = 0; i < versions->count && !versions->baseline; i++) {
        if (strcmp(versions->rows[i].stage, "sft") != 0) continue;
        versions->baseline_id = versions->rows[i].model_id;
        HT_TRY(ht_strdup(&versions->baseline, versions->rows[i].name, err));
    }
done:
    ht_store_cursor_free(cursor);
    return status;
}

/* Keeps the named versions, in the order of the names. */
static ht_status pick(ht_versions *versions, const ht_strings *names, const ht_store *store, ht_error *err) {
    for (size_t n = 0; n < names->count; n++) {
        size_t at = n;
        while (at < versions->count && strcmp(versions->rows[at].name, names->values[n]) != 0)
            at++;
        if (at >= versions->count)
            return ht_fail(err, HT_ERR_DATA, "%s: no model \"%s\" was evaluated, or it is named twice",
                           ht_store_path(store), names->values[n]);
        ht_version picked = versions->rows[at];
        memmove(versions->rows + n + 1, versions->rows + n, (at - n) * sizeof picked);
        versions->rows[n] = picked;
    }
    while (names->count && versions->count > names->count)
        version_release(&versions->rows[--versions->count]);
    return HT_OK;
}

/* --- columns ---------------------------------------------------------------------------------------------- */

/* Columns that are evaluation rows of the same name. */
static ht_status fill_measures(ht_version *version, ht_store *store, ht_error *err) {
    static const struct {
        ht_table_column column;
        ht_measure measure;
    } measures[] = {{HT_TABLE_HELPFULNESS_REWARD, HT_MEASURE_HELPFULNESS_REWARD},
                    {HT_TABLE_SAFETY_REWARD, HT_MEASURE_SAFETY_REWARD},
                    {HT_TABLE_VIOLATIONS_JUDGED, HT_MEASURE_VIOLATIONS_JUDGED},
                    {HT_TABLE_COMBINED_REWARD, HT_MEASURE_COMBINED_REWARD},
                    {HT_TABLE_FINISHED_SHARE, HT_MEASURE_FINISHED_SHARE},
                    {HT_TABLE_RESPONSE_TOKENS, HT_MEASURE_RESPONSE_TOKENS}};
    ht_status status = HT_OK;
    for (size_t i = 0; i < sizeof measures / sizeof *measures; i++)
        HT_TRY(read_cell(&version->cells[measures[i].column], store, version, ht_measure_text(measures[i].measure), err));
done:
    return status;
}

static ht_status fill_win_rates(ht_version *version, const ht_versions *versions, ht_store *store, ht_error *err) {
    static const struct {
        ht_table_column column;
        const char *suffix;
    } rates[] = {{HT_TABLE_WIN_RATE, ""},
                 {HT_TABLE_WIN_RATE_HELPFULNESS, "_helpfulness"},
                 {HT_TABLE_WIN_RATE_SAFETY, "_safety"}};
    ht_status status = HT_OK;
    char *name = NULL;
    for (size_t i = 0; versions->baseline && i < sizeof rates / sizeof *rates; i++) {
        ht_cell *cell = &version->cells[rates[i].column];
        if (version->model_id == versions->baseline_id) {
            cell->value = 0.5;
            continue;
        }
        free(name);
        name = NULL;
        HT_TRY(ht_format(&name, err, HT_ROW_WIN_RATE "%s:%s", rates[i].suffix, versions->baseline));
        HT_TRY(read_cell(cell, store, version, name, err));
    }
done:
    free(name);
    return status;
}

/* Accuracy of the newest reward model of a stage and round on comparisons of its kind: halter-reward's report. */
static ht_status fill_accuracy(ht_cell *cell, ht_store *store, int64_t round, const char *stage, const char *kind,
                               ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = {.first_round = round, .end_round = round + 1};
    HT_TRY(ht_store_read(store, HT_STORE_MODELS, &filter, &cursor, err));
    for (;;) {
        ht_model_row model;
        json_t *report = NULL;
        double value;
        int found;
        HT_TRY(ht_store_next_model(cursor, &model, &found, err));
        if (!found) break;
        if (model.round != round || strcmp(model.stage, stage) != 0) continue;
        *cell = (ht_cell){NAN, NAN};
        status = read_row(store, model.id, "reward_accuracy", &value, &report, &found, err);
        const json_t *group = json_object_get(json_object_get(json_object_get(report, "groups"), "kind"), kind);
        if (status == HT_OK && group) *cell = (ht_cell){number(group, "accuracy"), number(group, "accuracy_se")};
        json_decref(report);
        if (status != HT_OK) goto done;
    }
done:
    ht_store_cursor_free(cursor);
    return status;
}

/* *id = the newest model of a name; 0: none. */
static ht_status find_id(ht_store *store, const char *name, int64_t *id, ht_error *err) {
    ht_model_row row;
    int found;
    ht_status status = ht_store_find_model(store, name, &row, &found, err);
    *id = row.id;
    return status;
}

/* Mean over the prompts that a column is about. */
static void add_score(ht_mean *mean, double score, int64_t *missing) {
    if (isnan(score))
        ++*missing;
    else
        ht_mean_add(mean, score);
}

static ht_status fill_truth(ht_version *version, ht_store *store, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_store_filter filter = {.run_id = version->run_id};
    ht_mean helpfulness = {0}, violations = {0};
    int64_t missing = 0;
    HT_TRY(find_id(store, ORACLE_HELPFULNESS, &filter.helpful_model_id, err));
    HT_TRY(find_id(store, ORACLE_VIOLATION, &filter.safe_model_id, err));
    if (!filter.helpful_model_id && !filter.safe_model_id) goto done;
    HT_TRY(ht_store_read(store, HT_STORE_RESPONSES, &filter, &cursor, err));
    for (;;) {
        ht_scored_row row;
        int found;
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        if (row.dialog.kind == HT_KIND_SAFETY)
            add_score(&violations, row.safe, &missing);
        else
            add_score(&helpfulness, row.helpful, &missing);
    }
    version->cells[HT_TABLE_TRUE_HELPFULNESS] = (ht_cell){ht_mean_value(&helpfulness), ht_mean_error(&helpfulness)};
    version->cells[HT_TABLE_TRUE_VIOLATIONS] = (ht_cell){ht_mean_value(&violations), ht_mean_error(&violations)};
    if (missing)
        ht_warn("%s: %" PRId64 " of %" PRId64 " responses have no true score and are left out of the true columns",
                version->name, missing, missing + helpfulness.count + violations.count);
done:
    ht_store_cursor_free(cursor);
    return status;
}

static ht_status fill(ht_version *version, const ht_versions *versions, ht_store *store, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(fill_truth(version, store, err));
    HT_TRY(fill_measures(version, store, err));
    HT_TRY(fill_win_rates(version, versions, store, err));
    HT_TRY(fill_accuracy(&version->cells[HT_TABLE_REWARD_ACCURACY_HELPFULNESS], store, version->round, "reward-helpful",
                         ht_kind_text(HT_KIND_HELPFULNESS), err));
    HT_TRY(fill_accuracy(&version->cells[HT_TABLE_REWARD_ACCURACY_SAFETY], store, version->round, "reward-safe",
                         ht_kind_text(HT_KIND_SAFETY), err));
done:
    return status;
}

static void warn_of_differences(const ht_versions *versions) {
    static const char *const parts[][2] = {{"settings", "other prompts or sampling"}, {"judges", "other reward models"}};
    const ht_version *first = &versions->rows[0];
    for (size_t i = 1; i < versions->count; i++)
        for (int p = 0; p < 2; p++)
            if (!json_equal(json_object_get(first->basis, parts[p][0]),
                            json_object_get(versions->rows[i].basis, parts[p][0])))
                ht_warn("%s was evaluated with %s than %s: their numbers cannot be compared", versions->rows[i].name,
                        parts[p][1], first->name);
}

ht_status ht_versions_read(ht_versions *versions, ht_store *store, const ht_strings *names, ht_error *err) {
    ht_status status = HT_OK;
    memset(versions, 0, sizeof *versions);
    HT_TRY(find_versions(versions, store, names, err));
    HT_TRY(pick(versions, names, store, err));
    for (size_t i = 0; i < versions->count; i++)
        HT_TRY(fill(&versions->rows[i], versions, store, err));
    warn_of_differences(versions);
done:
    if (status != HT_OK) ht_versions_release(versions);
    return status;
}
