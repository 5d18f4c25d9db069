/*
 * Command lines. Words are read once, left to right, into a list of assignments; the file that --config names
 * is applied before them, wherever --config stands.
 */
#include "core/config/internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

typedef struct assignment {
    ht_config_entry *entry;
    const char *value;                /* borrowed from argv, or static */
    char name[HT_CONFIG_KEY_MAX + 8]; /* for messages: "--lr", "--set optim.lr" */
} assignment;

typedef struct line {
    ht_config_table table;
    const char *config_file;
    assignment *assignments;
    size_t count, capacity;
    char **arguments;
    size_t argument_count, argument_capacity;
    ht_config_request *request;
} line;

/* "max_new_tokens" -> "--max-new-tokens" */
static void flag_name(char out[HT_CONFIG_KEY_MAX + 8], const char *key) {
    snprintf(out, HT_CONFIG_KEY_MAX + 8, "--%s", key);
    for (char *c = out; *c; c++)
        if (*c == '_') *c = '-';
}

static ht_status unknown_option(const line *l, const char *word, ht_error *err) {
    static const char *const everywhere[] = {"config", "set", "help", "version", "verbose", "quiet"};
    char key[HT_CONFIG_KEY_MAX], flag[HT_CONFIG_KEY_MAX + 8];
    snprintf(key, sizeof key, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    for (char *c = key; *c; c++)
        if (*c == '-') *c = '_';
    const char *nearest = ht_config_nearest(&l->table, key);
    size_t least = nearest ? ht_config_unlikeness(key, nearest) : SIZE_MAX;
    for (size_t i = 0; i < sizeof everywhere / sizeof *everywhere; i++) {
        size_t apart = ht_config_unlikeness(key, everywhere[i]);
        if (apart >= least) continue;
        least = apart;
        nearest = everywhere[i];
    }
    int length = (int)strcspn(word, "=");
    if (!nearest)
        return ht_fail(err, HT_ERR_USAGE, "unknown option \"%.*s\"; --help lists the options", length, word);
    if (strchr(nearest, '.'))
        return ht_fail(err, HT_ERR_USAGE, "unknown option \"%.*s\"; did you mean --set %s=VALUE?", length,
                       word, nearest);
    flag_name(flag, nearest);
    return ht_fail(err, HT_ERR_USAGE, "unknown option \"%.*s\"; did you mean \"%s\"?", length, word, flag);
}

static ht_status assign(line *l, ht_config_entry *entry, const char *name, const char *value, ht_error *err) {
    ht_status status = ht_grow(&l->assignments, &l->capacity, l->count + 1, sizeof *l->assignments, err);
    if (status != HT_OK) return status;
    assignment *a = &l->assignments[l->count++];
    a->entry = entry;
    a->value = value;
    snprintf(a->name, sizeof a->name, "%s", name);
    return HT_OK;
}

/* KEY=VALUE of --set */
static ht_status assign_set(line *l, const char *text, ht_error *err) {
    char key[HT_CONFIG_KEY_MAX], name[HT_CONFIG_KEY_MAX + 8];
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || equals - text >= (ptrdiff_t)sizeof key)
        return ht_fail(err, HT_ERR_USAGE, "--set: \"%s\" is not KEY=VALUE", text);
    snprintf(key, sizeof key, "%.*s", (int)(equals - text), text);
    ht_config_entry *entry = ht_config_find(&l->table, key);
    if (!entry) {
        const char *nearest = ht_config_nearest(&l->table, key);
        if (!nearest)
            return ht_fail(err, HT_ERR_USAGE, "--set: unknown key \"%s\"; --help lists the keys", key);
        return ht_fail(err, HT_ERR_USAGE, "--set: unknown key \"%s\"; did you mean \"%s\"?", key, nearest);
    }
    snprintf(name, sizeof name, "--set %s", key);
    return assign(l, entry, name, equals + 1, err);
}

/* The entry of a word such as "--max-new-tokens" (without "=VALUE"), or NULL. */
static ht_config_entry *find_flag(const line *l, const char *word, size_t length) {
    char flag[HT_CONFIG_KEY_MAX + 8];
    for (size_t i = 0; i < l->table.count; i++) {
        if (strchr(l->table.entries[i].option->key, '.')) continue;
        flag_name(flag, l->table.entries[i].option->key);
        if (strlen(flag) == length && strncmp(flag, word, length) == 0) return &l->table.entries[i];
    }
    return NULL;
}

/* A word that is "--NAME" or "--NAME=..." */
static int is_named(const char *word, size_t length, const char *name) {
    return strlen(name) == length && strncmp(word, name, length) == 0;
}

/* The option at argv[*i] that the command's table knows, with its value. */
static ht_status read_table_option(line *l, int argc, char *const *argv, int *i, ht_error *err) {
    const char *word = argv[*i], *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    char name[HT_CONFIG_KEY_MAX + 8], positive[HT_CONFIG_KEY_MAX + 8];
    snprintf(name, sizeof name, "%.*s", (int)length, word);
    ht_config_entry *entry = find_flag(l, word, length);
    if (entry && entry->option->type == HT_OPTION_FLAG)
        return assign(l, entry, name, equals ? equals + 1 : "true", err);
    if (!entry && length > 5 && strncmp(word, "--no-", 5) == 0) {
        snprintf(positive, sizeof positive, "--%.*s", (int)(length - 5), word + 5);
        entry = find_flag(l, positive, strlen(positive));
        if (entry && entry->option->type == HT_OPTION_FLAG) {
            if (equals) return ht_fail(err, HT_ERR_USAGE, "%s takes no value", name);
            return assign(l, entry, name, "false", err);
        }
        entry = NULL;
    }
    if (!entry) return unknown_option(l, word, err);
    if (equals) return assign(l, entry, name, equals + 1, err);
    if (*i + 1 >= argc) return ht_fail(err, HT_ERR_USAGE, "%s needs a value", name);
    return assign(l, entry, name, argv[++*i], err);
}

/* The option at argv[*i]; moves *i to its last word. */
static ht_status read_option(line *l, int argc, char *const *argv, int *i, ht_error *err) {
    const char *word = argv[*i], *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    int is_config = is_named(word, length, "--config");
    if (is_config || is_named(word, length, "--set")) {
        const char *value = equals ? equals + 1 : *i + 1 < argc ? argv[++*i] : NULL;
        if (!value) return ht_fail(err, HT_ERR_USAGE, "%.*s needs a value", (int)length, word);
        if (!is_config) return assign_set(l, value, err);
        if (l->config_file) return ht_fail(err, HT_ERR_USAGE, "--config is given twice");
        l->config_file = value;
        return HT_OK;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        l->request->help = 1;
    else if (strcmp(word, "--version") == 0)
        l->request->version = 1;
    else if (strcmp(word, "--verbose") == 0)
        l->request->level = HT_LOG_DEBUG;
    else if (strcmp(word, "--quiet") == 0)
        l->request->level = HT_LOG_WARN;
    else if (word[1] != '-')
        return ht_fail(err, HT_ERR_USAGE, "unknown option \"%s\"; --help lists the options", word);
    else
        return read_table_option(l, argc, argv, i, err);
    return HT_OK;
}

static ht_status read_words(line *l, const ht_command *command, int argc, char *const *argv, ht_error *err) {
    int options_ended = 0;
    ht_status status;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (options_ended || word[0] != '-' || !word[1]) {
            if (!command->arguments) return ht_fail(err, HT_ERR_USAGE, "unexpected argument \"%s\"", word);
            status =
                ht_grow(&l->arguments, &l->argument_capacity, l->argument_count + 1, sizeof(char *), err);
            if (status != HT_OK) return status;
            l->arguments[l->argument_count++] = argv[i];
        } else if (strcmp(word, "--") == 0) {
            options_ended = 1;
        } else {
            status = read_option(l, argc, argv, &i, err);
            if (status != HT_OK) return status;
            if (l->request->help || l->request->version) return HT_OK;
        }
    }
    return HT_OK;
}

static ht_status apply(line *l, ht_error *err) {
    char name[HT_CONFIG_KEY_MAX + 16];
    ht_status status = HT_OK;
    for (size_t i = 0; i < l->table.count; i++) {
        ht_config_entry *entry = &l->table.entries[i];
        const ht_option *option = entry->option;
        int textual = option->type == HT_OPTION_STRING || option->type == HT_OPTION_PATH;
        if (!option->fallback && !textual) continue;
        snprintf(name, sizeof name, "default of %s", option->key);
        HT_TRY(ht_config_set(entry, &(ht_config_value){.text = option->fallback ? option->fallback : ""},
                             &(ht_config_source){.name = name}, err));
    }
    if (l->config_file) HT_TRY(ht_config_read_yaml(&l->table, l->config_file, err));
    for (size_t i = 0; i < l->count; i++) {
        const assignment *a = &l->assignments[i];
        HT_TRY(ht_config_set(a->entry, &(ht_config_value){.text = a->value},
                             &(ht_config_source){.name = a->name}, err));
        a->entry->given = 1;
    }
done:
    return status;
}

/* Names every required option that nobody gave. */
static ht_status check_required(const line *l, ht_error *err) {
    char list[700] = "", flag[HT_CONFIG_KEY_MAX + 8];
    size_t missing = 0;
    for (size_t i = 0; i < l->table.count; i++) {
        const ht_config_entry *entry = &l->table.entries[i];
        if (entry->given || !(entry->option->properties & HT_OPTION_REQUIRED)) continue;
        if (strchr(entry->option->key, '.'))
            snprintf(flag, sizeof flag, "--set %s=", entry->option->key);
        else
            flag_name(flag, entry->option->key);
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", missing++ ? ", " : "", flag);
    }
    if (!missing) return HT_OK;
    return ht_fail(err, HT_ERR_USAGE, "missing required option%s: %s", missing > 1 ? "s" : "", list);
}

ht_status ht_config_parse_request(const ht_command *command, int argc, char *const *argv, void *config,
                                  json_t **resolved, char ***arguments, size_t *argument_count,
                                  ht_config_request *request, ht_error *err) {
    line l = {.request = request};
    ht_status status = HT_OK;
    *request = (ht_config_request){.level = HT_LOG_INFO};
    *resolved = NULL;
    *arguments = NULL;
    *argument_count = 0;
    HT_TRY(ht_config_table_init(&l.table, command, config, err));
    HT_TRY(read_words(&l, command, argc, argv, err));
    if (request->help || request->version) goto done;
    HT_TRY(apply(&l, err));
    HT_TRY(check_required(&l, err));
    HT_TRY(ht_config_to_json(&l.table, resolved, err));
    *arguments = l.arguments;
    *argument_count = l.argument_count;
    l.arguments = NULL;
done:
    if (status != HT_OK) ht_config_release(command, config);
    free(l.arguments);
    free(l.assignments);
    ht_config_table_release(&l.table);
    return status;
}

ht_status ht_config_parse(const ht_command *command, int argc, char *const *argv, void *config,
                          json_t **resolved, char ***arguments, size_t *argument_count, ht_error *err) {
    ht_config_request request;
    ht_status status = ht_config_parse_request(command, argc, argv, config, resolved, arguments,
                                               argument_count, &request, err);
    if (status == HT_OK && (request.help || request.version))
        status = ht_fail(err, HT_ERR_USAGE, "%s is for a program's command line",
                         request.help ? "--help" : "--version");
    return status;
}
