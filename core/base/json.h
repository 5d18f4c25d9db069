/*
 * json.h: JSON files, on jansson.
 */
#ifndef HT_BASE_JSON_H
#define HT_BASE_JSON_H

#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "core/base/error.h"

/* Bytes of a JSON file: the index of a model of many thousand tensors is a megabyte, and values take some thirty times
 * the memory of the shortest text for them. */
#define HT_JSON_BYTES_MAX ((size_t)16 << 20)

/*
 * *out = the value that the text holds, a new reference; names in an object are to differ. HT_ERR_NOMEM; HT_ERR_DATA without a
 * message, which the caller words, as *problem says where and why. jansson takes a lack of memory for malformed text, or loses bytes of a
 * string by it, or worse; this function does not.
 */
ht_status ht_json_parse(json_t **out, const char *text, size_t size, json_error_t *problem, ht_error *err);

/* *out = parsed file, to be released with json_decref. HT_ERR_DATA names file, line and column, or the limit; nesting is
 * limited by jansson, to 2048. */
ht_status ht_json_read(const char *path, json_t **out, ht_error *err);

/*
 * Writing. jansson builds on when a part of a value has found no memory; such a value is never written, so that those who
 * build one need not look at every call: HT_ERR_NOMEM when memory has lacked for any JSON before in this process, or `value`
 * (borrowed) is NULL.
 */
/* *out = the text, with jansson's flags; free(). */
ht_status ht_json_text(char **out, const json_t *value, size_t flags, ht_error *err);
/* The text and a newline. A failed write is kept by the stream, for who flushes it. */
ht_status ht_json_print(const json_t *value, size_t flags, FILE *stream, ht_error *err);
/* Indented by 2, keys in insertion order, atomically. */
ht_status ht_json_write(const char *path, const json_t *value, ht_error *err);

/* The string member, borrowed; NULL when absent or of another type. */
const char *ht_json_string(const json_t *object, const char *key);

/* Reads a required or optional member; `where` (a path) goes into the message. Optional: pass required = 0 and
 * *value keeps what it had. HT_ERR_DATA when absent though required, of another type or out of [min, max]. */
typedef struct ht_json_field {
    const char *where; /* file */
    const char *key;
    int required;
} ht_json_field;
ht_status ht_json_get_int(const json_t *object, ht_json_field field, int64_t min, int64_t max, int64_t *value,
                          ht_error *err);
ht_status ht_json_get_number(const json_t *object, ht_json_field field, double min, double max, double *value,
                             ht_error *err);

#endif
