#include "core/base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ht_status ht_calloc(void *out, size_t count, size_t size, ht_error *err) {
    int overflows = size && count > SIZE_MAX / size;
    void *memory = overflows ? NULL : calloc(count ? count : 1, size ? size : 1);
    *(void **)out = memory;
    if (!memory) return ht_fail(err, HT_ERR_NOMEM, "cannot allocate %zu x %zu bytes", count, size);
    return HT_OK;
}

ht_status ht_grow(void *array, size_t *capacity, size_t needed, size_t size, ht_error *err) {
    if (needed <= *capacity) return HT_OK;
    size_t grown = *capacity < 16 ? 16 : *capacity * 2;
    if (grown < needed) grown = needed;
    if (grown > SIZE_MAX / size) return ht_fail(err, HT_ERR_NOMEM, "cannot allocate %zu x %zu bytes", grown, size);
    char *memory = realloc(*(void **)array, grown * size);
    if (!memory) return ht_fail(err, HT_ERR_NOMEM, "cannot allocate %zu x %zu bytes", grown, size);
    memset(memory + *capacity * size, 0, (grown - *capacity) * size);
    *(void **)array = memory;
    *capacity = grown;
    return HT_OK;
}

ht_status ht_strdup(char **out, const char *text, ht_error *err) {
    *out = strdup(text);
    if (!*out) return ht_fail(err, HT_ERR_NOMEM, "cannot copy a string of %zu bytes", strlen(text));
    return HT_OK;
}

ht_status ht_format(char **out, ht_error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vasprintf(out, format, args);
    va_end(args);
    if (length >= 0) return HT_OK;
    *out = NULL;
    return ht_fail(err, HT_ERR_NOMEM, "cannot format a string");
}
