/*
 * stats.c: halter-annotations stats and check.
 */
#include "annotations/commands.h"

#include <stdio.h>

#include "core/base/json.h"
#include "core/store/store.h"

typedef struct database_config {
    char *db;
    int json;
} database_config;

static const ht_option options[] = {
    HT_OPT_PATH(database_config, db, "db", NULL, HT_OPTION_REQUIRED, "project database"),
    HT_OPT_FLAG(database_config, json, "json", 0, "print JSON"),
};

static ht_status finish_output(const json_t *json, ht_error *err) {
    if (json) {
        ht_status status = ht_json_print(json, JSON_INDENT(2), stdout, err);
        if (status != HT_OK) return status;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) return ht_fail(err, HT_ERR_IO, "cannot write to stdout");
    return HT_OK;
}

/* ---- stats ---- */

static ht_status print_stat(void *context, const ht_store_stat *stat, ht_error *err) {
    (void)context;
    (void)err;
    if (!stat->column)
        printf("%s: %lld\n", stat->table, (long long)stat->count);
    else
        printf("  %-8s %-24s %12lld\n", stat->column, stat->value, (long long)stat->count);
    return HT_OK;
}

/* {"comparison": {"rows": 3, "kind": {"safety": 3}}} */
static ht_status collect_stat(void *context, const ht_store_stat *stat, ht_error *err) {
    json_t *tables = context, *table = json_object_get(tables, stat->table);
    if (!table) {
        table = json_object();
        json_object_set_new(tables, stat->table, table);
    }
    if (!stat->column) {
        json_object_set_new(table, "rows", json_integer(stat->count));
        return HT_OK;
    }
    json_t *column = json_object_get(table, stat->column);
    if (!column) {
        column = json_object();
        json_object_set_new(table, stat->column, column);
    }
    if (json_object_set_new(column, stat->value, json_integer(stat->count)) != 0)
        return ht_fail(err, HT_ERR_DATA, "%s.%s \"%s\" cannot be written as JSON: not UTF-8", stat->table,
                       stat->column, stat->value);
    return HT_OK;
}

static ht_status run_stats(void *configuration, const ht_invocation *invocation, ht_error *err) {
    const database_config *config = configuration;
    (void)invocation;
    ht_store *store = NULL;
    json_t *tables = json_object();
    ht_status status;
    HT_TRY(ht_store_open(&store, config->db, HT_STORE_READ, err));
    HT_TRY(ht_store_stats(store, config->json ? collect_stat : print_stat, tables, err));
    HT_TRY(finish_output(config->json ? tables : NULL, err));
done:
    json_decref(tables);
    ht_store_close(store);
    return status;
}

const ht_command ht_annotations_stats_command = {
    .name = "stats",
    .summary = "Count the rows of a database by kind, split, round, rating and safety.",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(database_config),
    .run = run_stats,
};

/* ---- check ---- */

static ht_status print_finding(void *context, const char *finding, ht_error *err) {
    (void)context;
    (void)err;
    puts(finding);
    return HT_OK;
}

static ht_status collect_finding(void *context, const char *finding, ht_error *err) {
    (void)err;
    /* a finding can quote damaged text, which is no JSON text */
    json_t *text = json_string(finding);
    json_array_append_new(context, text ? text : json_string("a finding that is not UTF-8"));
    return HT_OK;
}

static ht_status run_check(void *configuration, const ht_invocation *invocation, ht_error *err) {
    const database_config *config = configuration;
    (void)invocation;
    ht_store *store = NULL;
    json_t *list = json_array();
    int64_t findings;
    ht_status status;
    HT_TRY(ht_store_open(&store, config->db, HT_STORE_READ, err));
    HT_TRY(ht_store_check(store, config->json ? collect_finding : print_finding, list, &findings, err));
    if (!findings && !config->json) printf("%s: no damage found\n", config->db);
    HT_TRY(finish_output(config->json ? list : NULL, err));
    if (findings) status = ht_fail(err, HT_ERR_DATA, "%s: %lld findings", config->db, (long long)findings);
done:
    json_decref(list);
    ht_store_close(store);
    return status;
}

const ht_command ht_annotations_check_command = {
    .name = "check",
    .summary =
        "Look for damage: integrity, foreign keys, content hashes, orphans; exit code 3 when there is any.",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(database_config),
    .run = run_check,
};
