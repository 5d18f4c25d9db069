/*
 * json.h: JSON files, on jansson.
 */
#ifndef HT_BASE_JSON_H
#define HT_BASE_JSON_H

#include <stdint.h>

#include <jansson.h>

#include "core/base/error.h"

/* Bytes of a JSON file: the index of a model of many thousand tensors is a megabyte, and values take some thirty times
 * the memory of the shortest text for them. */
#define HT_JSON_BYTES_MAX ((size_t)16 << 20)

/* *out = parsed file, to be released with json_decref. HT_ERR_DATA names file, line and column, or the limit; nesting is
 * limited by jansson, to 2048. */
ht_status ht_json_read(const char *path, json_t **out, ht_error *err);

/* Writes `value` (borrowed), indented by 2, keys in insertion order, atomically. */
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
