/*
 * YAML files, by libyaml's events: every event knows its line, which a message needs and a loaded tree would
 * lose.
 */
#include "core/config/internal.h"

#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "core/base/files.h"
#include "core/base/memory.h"

/* No configuration comes near this; a wrong file (weights, an archive) does. */
#define FILE_BYTES_MAX ((size_t)1 << 20)

typedef struct section {
    char *path;
    size_t line;
} section;

typedef struct reader {
    yaml_parser_t parser;
    const ht_config_table *table;
    const char *file;
    section *sections; /* mappings seen, to refuse a second one of the same name */
    size_t section_count, section_capacity;
} reader;

static size_t event_line(const yaml_event_t *event) {
    return event->start_mark.line + 1;
}

static ht_status refuse(const reader *r, const yaml_event_t *event, ht_error *err, const char *reason) {
    return ht_fail(err, HT_ERR_USAGE, "%s:%zu: %s", r->file, event_line(event), reason);
}

/* The next event; to be deleted when this succeeds. Refuses what no configuration may hold. */
static ht_status next(reader *r, yaml_event_t *event, ht_error *err) {
    if (!yaml_parser_parse(&r->parser, event)) {
        const yaml_parser_t *p = &r->parser;
        if (p->error == YAML_MEMORY_ERROR)
            return ht_fail(err, HT_ERR_NOMEM, "%s: no memory to parse it", r->file);
        if (p->error == YAML_READER_ERROR)
            return ht_fail(err, HT_ERR_USAGE, "%s: byte %zu: %s", r->file, p->problem_offset, p->problem);
        return ht_fail(err, HT_ERR_USAGE, "%s:%zu: %s%s%s", r->file, p->problem_mark.line + 1, p->problem,
                       p->context ? " " : "", p->context ? p->context : "");
    }
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    ht_status status = HT_OK;
    if (anchor || event->type == YAML_ALIAS_EVENT)
        status = refuse(r, event, err, "anchors and aliases are not allowed");
    else if (tag)
        status = refuse(r, event, err, "tags are not allowed");
    else if (event->type == YAML_SCALAR_EVENT &&
             strlen((const char *)event->data.scalar.value) != event->data.scalar.length)
        status = refuse(r, event, err, "a value holds a NUL character");
    if (status != HT_OK) yaml_event_delete(event);
    return status;
}

static const char *scalar_text(const yaml_event_t *event) {
    return (const char *)event->data.scalar.value;
}

/* Plain nothing, `~` or `null`. A quoted one is a string. */
static int is_null(const yaml_event_t *event) {
    const char *text = scalar_text(event);
    return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!text[0] || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
}

/* Whether known keys start with "KEY."; *example is one of them. */
static int is_section(const ht_config_table *table, const char *key, const char **example) {
    size_t length = strlen(key);
    for (size_t i = 0; i < table->count; i++) {
        *example = table->entries[i].option->key;
        if (strncmp(*example, key, length) == 0 && (*example)[length] == '.') return 1;
    }
    return 0;
}

static ht_status unknown_key(const reader *r, const char *key, size_t line, ht_error *err) {
    const char *nearest = ht_config_nearest(r->table, key);
    if (nearest)
        return ht_fail(err, HT_ERR_USAGE, "%s:%zu: unknown key \"%s\"; did you mean \"%s\"?", r->file, line,
                       key, nearest);
    return ht_fail(err, HT_ERR_USAGE, "%s:%zu: unknown key \"%s\"; --help lists the keys", r->file, line,
                   key);
}

/* Finds the key's entry and marks it as given here. */
static ht_status take_entry(const reader *r, const char *key, size_t line, ht_config_entry **entry,
                            ht_error *err) {
    const char *example;
    *entry = ht_config_find(r->table, key);
    if (!*entry && is_section(r->table, key, &example))
        return ht_fail(err, HT_ERR_USAGE, "%s:%zu: \"%s\" holds keys such as \"%s\", not a value", r->file,
                       line, key, example);
    if (!*entry) return unknown_key(r, key, line, err);
    if ((*entry)->file_line)
        return ht_fail(err, HT_ERR_USAGE, "%s:%zu: key \"%s\" is given twice, first on line %zu", r->file,
                       line, key, (*entry)->file_line);
    (*entry)->file_line = line;
    (*entry)->given = 1;
    return HT_OK;
}

static ht_status read_scalar(reader *r, const char *key, const yaml_event_t *event, size_t key_line,
                             ht_error *err) {
    const char *example;
    ht_config_entry *entry;
    /* A section whose keys are all commented out. */
    if (is_null(event) && !ht_config_find(r->table, key) && is_section(r->table, key, &example)) return HT_OK;
    ht_status status = take_entry(r, key, key_line, &entry, err);
    if (status != HT_OK) return status;
    if (is_null(event))
        return ht_fail(err, HT_ERR_USAGE, "%s:%zu: %s has no value; leave the line out for the default",
                       r->file, key_line, key);
    return ht_config_set(entry, &(ht_config_value){.text = scalar_text(event)},
                         &(ht_config_source){r->file, event_line(event), key}, err);
}

/* After SEQUENCE-START, up to its end. */
static ht_status read_list(reader *r, const char *key, size_t key_line, ht_error *err) {
    ht_strings items = {NULL, 0};
    size_t capacity = 0;
    yaml_event_t event;
    int pending = 0, ended = 0;
    ht_config_entry *entry;
    ht_status status = take_entry(r, key, key_line, &entry, err);
    while (status == HT_OK && !ended) {
        HT_TRY(next(r, &event, err));
        pending = 1;
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            ended = 1;
        } else if (event.type != YAML_SCALAR_EVENT) {
            status = refuse(r, &event, err, "a list holds single values, no lists or mappings");
        } else if (is_null(&event)) {
            status = refuse(r, &event, err, "a list item has no value");
        } else {
            HT_TRY(ht_grow(&items.values, &capacity, items.count + 1, sizeof *items.values, err));
            HT_TRY(ht_strdup(&items.values[items.count], scalar_text(&event), err));
            items.count++;
        }
        yaml_event_delete(&event);
        pending = 0;
    }
    if (status == HT_OK)
        status = ht_config_set(entry, &(ht_config_value){.items = items.values, .count = items.count},
                               &(ht_config_source){r->file, key_line, key}, err);
done:
    if (pending) yaml_event_delete(&event);
    for (size_t i = 0; i < items.count; i++)
        free(items.values[i]);
    free(items.values);
    return status;
}

static ht_status note_section(reader *r, const char *path, size_t line, ht_error *err) {
    for (size_t i = 0; i < r->section_count; i++)
        if (strcmp(r->sections[i].path, path) == 0)
            return ht_fail(err, HT_ERR_USAGE, "%s:%zu: key \"%s\" is given twice, first on line %zu", r->file,
                           line, path, r->sections[i].line);
    ht_status status =
        ht_grow(&r->sections, &r->section_capacity, r->section_count + 1, sizeof *r->sections, err);
    if (status == HT_OK) status = ht_strdup(&r->sections[r->section_count].path, path, err);
    if (status == HT_OK) r->sections[r->section_count++].line = line;
    return status;
}

/* After MAPPING-START, up to its end. `prefix` is "" or "optim."; the known keys bound the depth. */
static ht_status read_mapping(reader *r, const char *prefix, ht_error *err) {
    char key[HT_CONFIG_KEY_MAX], inner[HT_CONFIG_KEY_MAX + 1];
    yaml_event_t event;
    for (;;) {
        const char *example;
        ht_status status = next(r, &event, err);
        if (status != HT_OK) return status;
        size_t line = event_line(&event);
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            return HT_OK;
        }
        if (event.type != YAML_SCALAR_EVENT)
            status = refuse(r, &event, err, "a key must be one word");
        else if (snprintf(key, sizeof key, "%s%s", prefix, scalar_text(&event)) >= (int)sizeof key)
            status = refuse(r, &event, err, "a key is longer than 255 bytes");
        yaml_event_delete(&event);
        if (status == HT_OK) status = next(r, &event, err);
        if (status != HT_OK) return status;
        yaml_event_type_t type = event.type;
        if (type == YAML_SCALAR_EVENT) status = read_scalar(r, key, &event, line, err);
        yaml_event_delete(&event);
        if (type == YAML_SEQUENCE_START_EVENT) {
            status = read_list(r, key, line, err);
        } else if (type == YAML_MAPPING_START_EVENT) {
            if (!is_section(r->table, key, &example)) {
                const ht_config_entry *entry = ht_config_find(r->table, key);
                if (!entry) return unknown_key(r, key, line, err);
                return ht_fail(err, HT_ERR_USAGE, "%s:%zu: %s is a value, not a mapping", r->file, line, key);
            }
            status = note_section(r, key, line, err);
            snprintf(inner, sizeof inner, "%s.", key);
            if (status == HT_OK) status = read_mapping(r, inner, err);
        }
        if (status != HT_OK) return status;
    }
}

static ht_status read_stream(reader *r, ht_error *err) {
    yaml_event_t event;
    int documents = 0;
    for (;;) {
        ht_status status = next(r, &event, err);
        if (status != HT_OK) return status;
        yaml_event_type_t type = event.type;
        if (type == YAML_DOCUMENT_START_EVENT && documents++ > 0)
            status = refuse(r, &event, err, "a second document; a configuration is one");
        /* An empty document is one null. */
        else if ((type == YAML_SCALAR_EVENT && !is_null(&event)) || type == YAML_SEQUENCE_START_EVENT)
            status = refuse(r, &event, err, "not a mapping of keys to values");
        yaml_event_delete(&event);
        if (type == YAML_MAPPING_START_EVENT) status = read_mapping(r, "", err);
        if (status != HT_OK || type == YAML_STREAM_END_EVENT) return status;
    }
}

ht_status ht_config_read_yaml(const ht_config_table *table, const char *path, ht_error *err) {
    reader r = {.table = table, .file = path};
    char *text = NULL;
    size_t size = 0;
    ht_status status = ht_file_read_limited(path, FILE_BYTES_MAX, &text, &size, err);
    if (status != HT_OK) return status;
    if (!yaml_parser_initialize(&r.parser)) {
        free(text);
        return ht_fail(err, HT_ERR_NOMEM, "%s: no memory to parse it", path);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
    status = read_stream(&r, err);
    yaml_parser_delete(&r.parser);
    for (size_t i = 0; i < r.section_count; i++)
        free(r.sections[i].path);
    free(r.sections);
    free(text);
    return status;
}
