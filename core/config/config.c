/*
 * Option tables: lookup, defaults, release, comparison of resolved configurations.
 */
#include "core/config/internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

#define PARTS (sizeof((ht_command *)0)->parts / sizeof(ht_option_part))

ht_status ht_config_table_init(ht_config_table *table, const ht_command *command, void *config,
                               ht_error *err) {
    *table = (ht_config_table){NULL, 0};
    size_t count = 0;
    for (size_t p = 0; p < PARTS && command->parts[p].options; p++)
        count += command->parts[p].count;
    ht_status status = ht_calloc(&table->entries, count, sizeof *table->entries, err);
    if (status != HT_OK) return status;
    for (size_t p = 0; p < PARTS && command->parts[p].options; p++) {
        const ht_option_part *part = &command->parts[p];
        for (size_t i = 0; i < part->count; i++) {
            const ht_option *option = &part->options[i];
            if (ht_config_find(table, option->key)) {
                ht_config_table_release(table);
                return ht_fail(err, HT_ERR_RUN, "option \"%s\" is in the table twice", option->key);
            }
            ht_config_entry *entry = &table->entries[table->count++];
            entry->option = option;
            entry->field = config ? (char *)config + part->base + option->offset : NULL;
        }
    }
    return HT_OK;
}

void ht_config_table_release(ht_config_table *table) {
    free(table->entries);
    *table = (ht_config_table){NULL, 0};
}

ht_config_entry *ht_config_find(const ht_config_table *table, const char *key) {
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->entries[i].option->key, key) == 0) return &table->entries[i];
    return NULL;
}

/* Levenshtein distance of two words, at most HT_CONFIG_KEY_MAX - 1 bytes each. */
static size_t distance(const char *a, const char *b) {
    size_t row[HT_CONFIG_KEY_MAX], length = strlen(b);
    if (strlen(a) >= HT_CONFIG_KEY_MAX || length >= HT_CONFIG_KEY_MAX) return SIZE_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= length; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[length];
}

size_t ht_config_unlikeness(const char *word, const char *candidate) {
    size_t length = strlen(word), candidate_length = strlen(candidate);
    if (strcmp(word, candidate) == 0) return 0;
    /* "lr" for "optim.lr", "temp" for "temperature" */
    if (length > 0 && candidate_length > length && candidate[candidate_length - length - 1] == '.' &&
        strcmp(candidate + candidate_length - length, word) == 0)
        return 1;
    if (length >= 3 && strncmp(word, candidate, length) == 0) return 1;
    size_t apart = distance(word, candidate), allowed = length / 3 > 2 ? length / 3 : 2;
    return apart <= allowed && apart < length ? apart : SIZE_MAX;
}

const char *ht_config_nearest(const ht_config_table *table, const char *key) {
    const char *nearest = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < table->count; i++) {
        size_t apart = ht_config_unlikeness(key, table->entries[i].option->key);
        if (apart >= least) continue;
        least = apart;
        nearest = table->entries[i].option->key;
    }
    return nearest;
}

void ht_config_release(const ht_command *command, void *config) {
    for (size_t p = 0; p < PARTS && command->parts[p].options; p++) {
        const ht_option_part *part = &command->parts[p];
        for (size_t i = 0; i < part->count; i++) {
            void *field = (char *)config + part->base + part->options[i].offset;
            ht_floats *floats = field;
            ht_strings *strings = field;
            switch (part->options[i].type) {
            case HT_OPTION_STRING:
            case HT_OPTION_PATH:
                free(*(char **)field);
                *(char **)field = NULL;
                break;
            case HT_OPTION_FLOATS:
                free(floats->values);
                *floats = (ht_floats){NULL, 0};
                break;
            case HT_OPTION_STRINGS:
                for (size_t k = 0; k < strings->count; k++)
                    free(strings->values[k]);
                free(strings->values);
                *strings = (ht_strings){NULL, 0};
                break;
            default:
                break;
            }
        }
    }
}

/* A value for a message; released with free(). NULL without memory. */
static char *value_text(const json_t *value) {
    if (!value) return strdup("unset");
    if (json_is_real(value)) {
        char number[32];
        ht_config_format_number(number, json_real_value(value));
        return strdup(number);
    }
    return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
}

/* A list of differences for a message; what does not fit is counted. */
typedef struct difference_list {
    char text[sizeof((ht_error *)0)->message - 80];
    size_t used, unnamed;
} difference_list;

static void add_difference(difference_list *list, const char *key, const json_t *before, const json_t *now) {
    char *old_text = value_text(before), *new_text = value_text(now);
    int length = snprintf(list->text + list->used, sizeof list->text - list->used, "%s%s was %s, is %s",
                          list->used ? "; " : "", key, old_text ? old_text : "?", new_text ? new_text : "?");
    free(old_text);
    free(new_text);
    if (length >= 0 && (size_t)length < sizeof list->text - list->used) {
        list->used += (size_t)length;
    } else {
        list->text[list->used] = '\0';
        list->unnamed++;
    }
}

static int is_safe(const ht_config_table *table, const char *key) {
    const ht_config_entry *entry = ht_config_find(table, key);
    return entry && entry->option->properties & HT_OPTION_RESUME_SAFE;
}

ht_status ht_config_check_same(const ht_command *command, const json_t *before, const json_t *now,
                               ht_error *err) {
    ht_config_table table;
    difference_list list = {.used = 0};
    const char *key;
    json_t *value;
    ht_status status = ht_config_table_init(&table, command, NULL, err);
    if (status != HT_OK) return status;
    json_object_foreach((json_t *)(uintptr_t)now, key, value) {
        const json_t *old = json_object_get(before, key);
        if (!is_safe(&table, key) && !(old && json_equal(old, value))) add_difference(&list, key, old, value);
    }
    json_object_foreach((json_t *)(uintptr_t)before, key, value) {
        if (!is_safe(&table, key) && !json_object_get(now, key)) add_difference(&list, key, value, NULL);
    }
    ht_config_table_release(&table);
    if (list.unnamed)
        return ht_fail(err, HT_ERR_USAGE, "configuration differs: %s; and %zu more", list.text, list.unnamed);
    if (list.used) return ht_fail(err, HT_ERR_USAGE, "configuration differs: %s", list.text);
    return HT_OK;
}
