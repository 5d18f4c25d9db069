#include "core/base/json.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/base/files.h"

ht_status ht_json_read(const char *path, json_t **out, ht_error *err) {
    char *text = NULL;
    size_t size = 0;
    *out = NULL;
    ht_status status = ht_file_read_limited(path, HT_JSON_BYTES_MAX, &text, &size, err);
    if (status != HT_OK) return status;
    json_error_t problem;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem);
    free(text);
    if (*out) return HT_OK;
    if (json_error_code(&problem) == json_error_out_of_memory)
        return ht_fail(err, HT_ERR_NOMEM, "\"%s\": no memory to parse %zu bytes of JSON", path, size);
    return ht_fail(err, HT_ERR_DATA, "%s:%d:%d: %s", path, problem.line, problem.column, problem.text);
}

static int write_chunk(const char *data, size_t size, void *stream) {
    return fwrite(data, 1, size, stream) == size ? 0 : -1;
}

ht_status ht_json_write(const char *path, const json_t *value, ht_error *err) {
    ht_file_writer writer;
    ht_status status = ht_file_create(&writer, path, err);
    if (status != HT_OK) return status;
    int failed = json_dump_callback(value, write_chunk, writer.stream, JSON_INDENT(2) | JSON_ENCODE_ANY);
    /* A failed write is reported by the commit with its reason; what is left is a value JSON cannot hold. */
    if (failed && !ferror(writer.stream))
        status = ht_fail(err, HT_ERR_DATA, "\"%s\": cannot encode the value as JSON", path);
    if (status == HT_OK) {
        putc('\n', writer.stream);
        status = ht_file_commit(&writer, err);
    }
    ht_file_abandon(&writer);
    return status;
}

const char *ht_json_string(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* The member, or NULL when absent (an error when required) or null. */
static ht_status find(const json_t *object, ht_json_field field, json_t **member, ht_error *err) {
    *member = NULL;
    if (!json_is_object(object)) return ht_fail(err, HT_ERR_DATA, "%s: not a JSON object", field.where);
    json_t *found = json_object_get(object, field.key);
    if (found && !json_is_null(found))
        *member = found;
    else if (field.required)
        return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" is missing", field.where, field.key);
    return HT_OK;
}

ht_status ht_json_get_int(const json_t *object, ht_json_field field, int64_t min, int64_t max, int64_t *value,
                          ht_error *err) {
    json_t *member;
    ht_status status = find(object, field, &member, err);
    if (status != HT_OK || !member) return status;
    if (!json_is_integer(member))
        return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" is not an integer", field.where, field.key);
    int64_t number = json_integer_value(member);
    if (number < min || number > max)
        return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" = %" PRId64 " is outside [%" PRId64 ", %" PRId64 "]",
                       field.where, field.key, number, min, max);
    *value = number;
    return HT_OK;
}

ht_status ht_json_get_number(const json_t *object, ht_json_field field, double min, double max, double *value,
                             ht_error *err) {
    json_t *member;
    ht_status status = find(object, field, &member, err);
    if (status != HT_OK || !member) return status;
    if (!json_is_number(member))
        return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" is not a number", field.where, field.key);
    double number = json_number_value(member);
    if (!(number >= min && number <= max))
        return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" = %g is outside [%g, %g]", field.where, field.key,
                       number, min, max);
    *value = number;
    return HT_OK;
}
