/*
 * internal.h: what the files of core/config share. Not for other modules.
 */
#ifndef HT_CONFIG_INTERNAL_H
#define HT_CONFIG_INTERNAL_H

#include "core/base/log.h"
#include "core/config/config.h"

#define HT_CONFIG_KEY_MAX 256

/* One option of a command, with its field in the configuration being filled. */
typedef struct ht_config_entry {
    const ht_option *option;
    void *field;
    int given;        /* by file or command line */
    size_t file_line; /* where the file gave it; 0: nowhere */
} ht_config_entry;

typedef struct ht_config_table {
    ht_config_entry *entries;
    size_t count;
} ht_config_table;

/* All parts of a command. `config` may be NULL (help, comparison): fields are not used then. HT_ERR_RUN when
 * two options have one key. Released by ht_config_table_release. */
ht_status ht_config_table_init(ht_config_table *table, const ht_command *command, void *config,
                               ht_error *err);
void ht_config_table_release(ht_config_table *table);

/* The entry of a key, or NULL. */
ht_config_entry *ht_config_find(const ht_config_table *table, const char *key);

/* The known key most like `key`, or NULL when none is near. */
const char *ht_config_nearest(const ht_config_table *table, const char *key);

/* How unlike two words are, 0: same, SIZE_MAX: not worth proposing. */
size_t ht_config_unlikeness(const char *word, const char *candidate);

/* Where a value comes from, for messages. */
typedef struct ht_config_source {
    const char *file; /* NULL: command line */
    size_t line;
    const char *name; /* the key, or the flag as typed */
} ht_config_source;

/* A value before it is checked: a scalar's text, or a list (text NULL). */
typedef struct ht_config_value {
    const char *text;
    char *const *items;
    size_t count;
} ht_config_value;

/* Checks a value and stores it in the entry's field, releasing the one before. */
ht_status ht_config_set(ht_config_entry *entry, const ht_config_value *value, const ht_config_source *source,
                        ht_error *err);

/* Sets every key of a YAML file. */
ht_status ht_config_read_yaml(const ht_config_table *table, const char *path, ht_error *err);

/* What a command line asks for besides values. */
typedef struct ht_config_request {
    int help, version; /* parsing stopped there; nothing else is filled */
    ht_log_level level;
} ht_config_request;

/* ht_config_parse, with the requests that only a program can serve. */
ht_status ht_config_parse_request(const ht_command *command, int argc, char *const *argv, void *config,
                                  json_t **resolved, char ***arguments, size_t *argument_count,
                                  ht_config_request *request, ht_error *err);

/* Fields as JSON, dotted keys in table order; new reference. */
ht_status ht_config_to_json(const ht_config_table *table, json_t **out, ht_error *err);

/* The shortest decimal text that reads back as `number`; a whole number below 1e15 in digits alone. */
void ht_config_format_number(char out[32], double number);

#endif
