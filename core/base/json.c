#include "core/base/json.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"

/*
 * jansson does not look at all results of its own allocations: without memory it loses bytes of a string, and may write
 * behind its end; nor do those who build values with it look at all. So the allocator takes note, and while a text is parsed
 * jansson gets what it asks for from a reserve, until it sees the end of the text, which comes early then.
 */
typedef struct reserve {
    char *memory;
    size_t size, used;
} reserve;

#define PIECE 64 /* bytes of text that jansson is given at once */
/* Enough for the longest token of a text, which grows by doubling, and for the values of a piece. */
#define RESERVE(text_size) (4 * (text_size) + (size_t)512 * PIECE)

static atomic_int no_memory;
static _Thread_local reserve *spare; /* NULL: nothing is being parsed */

static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (memory) return memory;
    atomic_store(&no_memory, 1);
    size_t needed = (size + 15) / 16 * 16;
    if (!spare || needed > spare->size - spare->used) return NULL;
    spare->used += needed;
    return spare->memory + spare->used - needed;
}

static void release(void *memory) {
    uintptr_t at = (uintptr_t)memory;
    if (spare && at >= (uintptr_t)spare->memory && at < (uintptr_t)spare->memory + spare->size) return;
    free(memory);
}

__attribute__((constructor)) static void watch_memory(void) {
    json_set_alloc_funcs(allocate, release);
}

typedef struct rest {
    const char *text;
    size_t size;
} rest;

static size_t next_piece(void *buffer, size_t size, void *context) {
    rest *r = context;
    if (atomic_load(&no_memory)) return 0;
    if (size > PIECE) size = PIECE;
    if (size > r->size) size = r->size;
    memcpy(buffer, r->text, size);
    *r = (rest){r->text + size, r->size - size};
    return size;
}

ht_status ht_json_parse(json_t **out, const char *text, size_t size, json_error_t *problem, ht_error *err) {
    reserve kept = {.memory = malloc(RESERVE(size)), .size = RESERVE(size)}; /* hardly ever touched: not zeroed */
    rest r = {text, size};
    *out = NULL;
    if (!kept.memory) return ht_fail(err, HT_ERR_NOMEM, "no memory to parse %zu bytes of JSON", size);
    spare = &kept;
    *out = json_load_callback(next_piece, &r, JSON_REJECT_DUPLICATES, problem);
    ht_status status = *out ? HT_OK : HT_ERR_DATA;
    if (atomic_load(&no_memory)) {
        json_decref(*out);
        *out = NULL;
        status = ht_fail(err, HT_ERR_NOMEM, "no memory to parse %zu bytes of JSON", size);
    }
    spare = NULL;
    free(kept.memory);
    return status;
}

ht_status ht_json_read(const char *path, json_t **out, ht_error *err) {
    char *text = NULL;
    size_t size = 0;
    *out = NULL;
    ht_status status = ht_file_read_limited(path, HT_JSON_BYTES_MAX, &text, &size, err);
    if (status != HT_OK) return status;
    json_error_t problem;
    status = ht_json_parse(out, text, size, &problem, err);
    free(text);
    if (status == HT_ERR_DATA)
        ht_fail(err, status, "%s:%d:%d: %s", path, problem.line, problem.column, problem.text);
    else if (status != HT_OK)
        ht_fail_in(err, "\"%s\"", path);
    return status;
}

static int write_chunk(const char *data, size_t size, void *stream) {
    return fwrite(data, 1, size, stream) == size ? 0 : -1;
}

ht_status ht_json_text(char **out, const json_t *value, size_t flags, ht_error *err) {
    *out = json_dumps(value, flags);
    if (*out && !atomic_load(&no_memory)) return HT_OK;
    free(*out);
    *out = NULL;
    return ht_fail(err, HT_ERR_NOMEM, "no memory to write JSON");
}

ht_status ht_json_print(const json_t *value, size_t flags, FILE *stream, ht_error *err) {
    char *text;
    ht_status status = ht_json_text(&text, value, flags, err);
    if (status != HT_OK) return status;
    fputs(text, stream);
    putc('\n', stream);
    free(text);
    return HT_OK;
}

ht_status ht_json_write(const char *path, const json_t *value, ht_error *err) {
    ht_file_writer writer;
    ht_status status = ht_file_create(&writer, path, err);
    if (status != HT_OK) return status;
    int failed = json_dump_callback(value, write_chunk, writer.stream, JSON_INDENT(2) | JSON_ENCODE_ANY);
    /* A failed write is reported by the commit with its reason; what is left is a value JSON cannot hold. */
    if (!value || atomic_load(&no_memory))
        status = ht_fail(err, HT_ERR_NOMEM, "\"%s\": no memory to write JSON", path);
    else if (failed && !ferror(writer.stream))
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
