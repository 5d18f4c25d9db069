/*
 * Texts to checked values, and values to JSON.
 */
#include "core/config/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

void ht_config_format_number(char out[32], double number) {
    if (fabs(number) < 1e15 && number == floor(number)) {
        snprintf(out, 32, "%.0f", number);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, number);
        if (strtod(out, NULL) == number) return;
    }
}

/* FILE:LINE: key = "value" REASON, or --key: "value" REASON. */
static ht_status refuse(const ht_config_source *source, const char *value, ht_error *err, const char *format,
                        ...) __attribute__((format(printf, 4, 5)));
static ht_status refuse(const ht_config_source *source, const char *value, ht_error *err, const char *format,
                        ...) {
    char reason[512];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    if (source->file)
        return ht_fail(err, HT_ERR_USAGE, "%s:%zu: %s = \"%s\" %s", source->file, source->line, source->name,
                       value, reason);
    return ht_fail(err, HT_ERR_USAGE, "%s: \"%s\" %s", source->name, value, reason);
}

static ht_status check_range(const ht_option *option, double number, const char *text,
                             const ht_config_source *source, ht_error *err) {
    char limit[32];
    if (number < option->min) {
        ht_config_format_number(limit, option->min);
        return refuse(source, text, err, "is below %s", limit);
    }
    if (number > option->max) {
        ht_config_format_number(limit, option->max);
        return refuse(source, text, err, "is above %s", limit);
    }
    return HT_OK;
}

static ht_status set_flag(int *field, const char *text, const ht_config_source *source, ht_error *err) {
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        return refuse(source, text, err, "is not true or false");
    *field = text[0] == 't';
    return HT_OK;
}

static ht_status set_int(const ht_option *option, int64_t *field, const char *text,
                         const ht_config_source *source, ht_error *err) {
    const char *digits = text + (text[0] == '-');
    if (!digits[0] || strspn(digits, "0123456789") != strlen(digits))
        return refuse(source, text, err, "is not an integer");
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (errno == ERANGE) return refuse(source, text, err, "does not fit in 64 bits");
    ht_status status = check_range(option, (double)number, text, source, err);
    if (status == HT_OK) *field = number;
    return status;
}

static ht_status set_float(const ht_option *option, double *field, const char *text,
                           const ht_config_source *source, ht_error *err) {
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    /* strtod also takes blanks, hexadecimal, nan and inf. */
    if (end == text || *end || strspn(text, "0123456789+-.eE") != strlen(text))
        return refuse(source, text, err, "is not a number");
    if (errno == ERANGE) return refuse(source, text, err, "does not fit in a 64-bit floating-point number");
    ht_status status = check_range(option, number, text, source, err);
    if (status == HT_OK) *field = number;
    return status;
}

static ht_status set_string(char **field, const char *text, ht_error *err) {
    char *copy;
    ht_status status = ht_strdup(&copy, text, err);
    if (status != HT_OK) return status;
    free(*field);
    *field = copy;
    return HT_OK;
}

static ht_status set_choice(const ht_option *option, int *field, const char *text,
                            const ht_config_source *source, ht_error *err) {
    char list[400] = "";
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *field = i;
            return HT_OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", option->choices[i]);
    }
    return refuse(source, text, err, "is none of %s", list);
}

static void release_strings(ht_strings *list) {
    for (size_t i = 0; i < list->count; i++)
        free(list->values[i]);
    free(list->values);
    *list = (ht_strings){NULL, 0};
}

static ht_status set_floats(const ht_option *option, ht_floats *field, const ht_strings *items,
                            const ht_config_source *source, ht_error *err) {
    ht_floats list = {NULL, items->count};
    ht_status status = HT_OK;
    if (items->count) HT_TRY(ht_calloc(&list.values, items->count, sizeof *list.values, err));
    for (size_t i = 0; i < items->count; i++)
        HT_TRY(set_float(option, &list.values[i], items->values[i], source, err));
    free(field->values);
    *field = list;
    list.values = NULL;
done:
    free(list.values);
    return status;
}

/* *items = owned copies of a list's items, or of a text's comma-separated ones. An empty text is an empty
 * list. */
static ht_status copy_items(ht_strings *items, const ht_config_value *value, const ht_config_source *source,
                            ht_error *err) {
    ht_status status = HT_OK;
    *items = (ht_strings){NULL, 0};
    size_t count = value->count;
    const char *text = value->text;
    if (text && text[0]) {
        count = 1;
        for (const char *c = text; *c; c++)
            count += *c == ',';
    }
    if (count == 0) return HT_OK;
    HT_TRY(ht_calloc(&items->values, count, sizeof *items->values, err));
    for (size_t i = 0; i < count; i++) {
        char *copy;
        if (text) {
            text += strspn(text, " ");
            size_t length = strcspn(text, ",");
            const char *next = text + length + (text[length] == ',');
            while (length > 0 && text[length - 1] == ' ')
                length--;
            if (length == 0) {
                status = refuse(source, value->text, err, "has an empty item");
                goto done;
            }
            copy = strndup(text, length);
            text = next;
        } else {
            copy = strdup(value->items[i]);
        }
        if (!copy) {
            status = ht_fail(err, HT_ERR_NOMEM, "cannot copy an item of %s", source->name);
            goto done;
        }
        items->values[items->count++] = copy;
    }
done:
    if (status != HT_OK) release_strings(items);
    return status;
}

ht_status ht_config_set(ht_config_entry *entry, const ht_config_value *value, const ht_config_source *source,
                        ht_error *err) {
    const ht_option *option = entry->option;
    const char *text = value->text;
    ht_strings items;
    ht_status status = HT_OK;
    if (option->type == HT_OPTION_FLOATS || option->type == HT_OPTION_STRINGS) {
        status = copy_items(&items, value, source, err);
        if (status != HT_OK) return status;
        if (option->type == HT_OPTION_FLOATS) {
            status = set_floats(option, entry->field, &items, source, err);
            release_strings(&items);
            return status;
        }
        release_strings(entry->field);
        *(ht_strings *)entry->field = items;
        return HT_OK;
    }
    if (!text && source->file)
        return ht_fail(err, HT_ERR_USAGE, "%s:%zu: %s is one value, not a list", source->file, source->line,
                       source->name);
    switch (option->type) {
    case HT_OPTION_FLAG:
        return set_flag(entry->field, text, source, err);
    case HT_OPTION_INT:
        return set_int(option, entry->field, text, source, err);
    case HT_OPTION_FLOAT:
        return set_float(option, entry->field, text, source, err);
    case HT_OPTION_CHOICE:
        return set_choice(option, entry->field, text, source, err);
    default:
        return set_string(entry->field, text, err);
    }
}

/* New reference, NULL without memory or when a string is not UTF-8. */
static json_t *field_to_json(const ht_config_entry *entry) {
    const ht_floats *floats = entry->field;
    const ht_strings *strings = entry->field;
    json_t *list;
    switch (entry->option->type) {
    case HT_OPTION_FLAG:
        return json_boolean(*(const int *)entry->field);
    case HT_OPTION_INT:
        return json_integer(*(const int64_t *)entry->field);
    case HT_OPTION_FLOAT:
        return json_real(*(const double *)entry->field);
    case HT_OPTION_CHOICE:
        return json_string(entry->option->choices[*(const int *)entry->field]);
    case HT_OPTION_FLOATS:
        list = json_array();
        for (size_t i = 0; i < floats->count; i++)
            if (json_array_append_new(list, json_real(floats->values[i])) != 0) goto failed;
        return list;
    case HT_OPTION_STRINGS:
        list = json_array();
        for (size_t i = 0; i < strings->count; i++)
            if (json_array_append_new(list, json_string(strings->values[i])) != 0) goto failed;
        return list;
    default:
        return json_string(*(char *const *)entry->field);
    }
failed:
    json_decref(list);
    return NULL;
}

ht_status ht_config_to_json(const ht_config_table *table, json_t **out, ht_error *err) {
    errno = 0; /* jansson tells a malformed text and a lack of memory alike */
    *out = json_object();
    for (size_t i = 0; i < table->count; i++) {
        const ht_config_entry *entry = &table->entries[i];
        if (json_object_set_new(*out, entry->option->key, field_to_json(entry)) == 0) continue;
        json_decref(*out);
        *out = NULL;
        if (errno == ENOMEM)
            return ht_fail(err, HT_ERR_NOMEM, "%s: no memory for the value", entry->option->key);
        return ht_fail(err, HT_ERR_USAGE, "%s: the value is not valid UTF-8", entry->option->key);
    }
    return HT_OK;
}
