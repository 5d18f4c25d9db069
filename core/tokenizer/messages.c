/*
 * messages.c: lists of messages, their JSON, and whether they make a prompt.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/memory.h"
#include "core/tokenizer/chat.h"

static const char *const role_names[] = {
#define ROLE_NAME(name, text) text,
    HT_ROLE_MAP(ROLE_NAME)
#undef ROLE_NAME
};

static const char *const template_names[] = {
#define TEMPLATE_NAME(name, text) text,
    HT_TEMPLATE_MAP(TEMPLATE_NAME)
#undef TEMPLATE_NAME
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

const char *ht_role_text(ht_role role) {
    return role_names[role];
}

const char *ht_template_text(ht_template which) {
    return template_names[which];
}

ht_status ht_template_parse(ht_template *out, const char *name, ht_error *err) {
    for (size_t i = 0; i < COUNT(template_names); i++) {
        if (strcmp(name, template_names[i]) != 0) continue;
        *out = (ht_template)i;
        return HT_OK;
    }
    return ht_fail(err, HT_ERR_USAGE, "template \"%s\" is not known: llama2 or none", name);
}

void ht_messages_release(ht_messages *messages) {
    for (size_t i = 0; i < messages->count; i++)
        free((char *)messages->items[i].content);
    free(messages->items);
    *messages = (ht_messages){0};
}

ht_status ht_messages_append(ht_messages *messages, ht_role role, const char *content, ht_error *err) {
    char *copy = NULL;
    ht_status status =
        ht_grow(&messages->items, &messages->capacity, messages->count + 1, sizeof *messages->items, err);
    if (status == HT_OK) status = ht_strdup(&copy, content, err);
    if (status == HT_OK) messages->items[messages->count++] = (ht_message){role, copy};
    return status;
}

static ht_status append_object(ht_messages *out, const json_t *object, size_t index, ht_error *err) {
    const char *key;
    json_t *value;
    if (!json_is_object(object)) return ht_fail(err, HT_ERR_DATA, "messages[%zu] is not an object", index);
    json_object_foreach((json_t *)object, key, value) {
        if (strcmp(key, "role") != 0 && strcmp(key, "content") != 0)
            return ht_fail(err, HT_ERR_DATA,
                           "messages[%zu] has the key \"%.100s\": only role and content are allowed", index,
                           key);
        if (!json_is_string(value))
            return ht_fail(err, HT_ERR_DATA, "messages[%zu].%s is not a string", index, key);
    }
    const char *role = json_string_value(json_object_get(object, "role"));
    const char *content = json_string_value(json_object_get(object, "content"));
    if (!role || !content)
        return ht_fail(err, HT_ERR_DATA, "messages[%zu] has no %s", index, role ? "content" : "role");
    for (size_t i = 0; i < COUNT(role_names); i++)
        if (strcmp(role, role_names[i]) == 0) return ht_messages_append(out, (ht_role)i, content, err);
    return ht_fail(err, HT_ERR_DATA, "messages[%zu].role = \"%.100s\" is not system, user or assistant",
                   index, role);
}

ht_status ht_messages_from_json(ht_messages *out, const json_t *array, ht_error *err) {
    ht_status status = HT_OK;
    *out = (ht_messages){0};
    if (!json_is_array(array)) return ht_fail(err, HT_ERR_DATA, "messages is not an array");
    for (size_t i = 0; i < json_array_size(array); i++)
        HT_TRY(append_object(out, json_array_get(array, i), i, err));
done:
    if (status != HT_OK) ht_messages_release(out);
    return status;
}

ht_status ht_messages_parse(ht_messages *out, const char *json, ht_error *err) {
    json_error_t where;
    json_t *array;
    *out = (ht_messages){0};
    ht_status status = ht_json_parse(&array, json, strlen(json), &where, err);
    if (status == HT_ERR_DATA)
        return ht_fail(err, status, "messages: line %d, column %d: %s", where.line, where.column, where.text);
    if (status == HT_OK) status = ht_messages_from_json(out, array, err);
    json_decref(array);
    return status;
}

ht_status ht_messages_print(char **out, const ht_message *messages, size_t count, ht_error *err) {
    ht_status status = HT_OK;
    json_t *array = json_array();
    *out = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(messages[i].content), valid = ht_utf8_valid(messages[i].content, size);
        if (valid != size) {
            status = ht_fail(err, HT_ERR_DATA, "messages[%zu].content is not UTF-8 at byte %zu", i, valid);
            goto done;
        }
        json_array_append_new(array, json_pack("{s:s, s:s}", "role", ht_role_text(messages[i].role), "content",
                                               messages[i].content));
    }
    status = ht_json_text(out, array, JSON_COMPACT, err);
done:
    json_decref(array);
    return status;
}
