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

/* --- the machine's ---------------------------------------------------------------------------------------- */

/* The number behind `key` in a file of "key number" lines; NULL: the file's only number. -1 where there is none. */
static long long number_in(const char *path, const char *key) {
    char line[256];
    long long number = -1;
    FILE *file = fopen(path, "re");
    if (!file) return -1;
    while (number < 0 && fgets(line, sizeof line, file)) {
        size_t length = key ? strlen(key) : 0;
        if (!key || (strncmp(line, key, length) == 0 && strchr(": ", line[length])))
            sscanf(line + length + (key && line[length] == ':'), "%lld", &number);
    }
    fclose(file);
    return number;
}

static long long number_or_zero(const char *path, const char *key) {
    long long number = number_in(path, key);
    return number > 0 ? number : 0;
}

/* "max" is no number: a group without a limit, or no group. */
#define GROUP "/sys/fs/cgroup/memory."

size_t ht_memory_limit(void) {
    static const char machine[] = "/proc/meminfo";
    long long kib = number_or_zero(machine, "MemTotal") + number_or_zero(machine, "SwapTotal");
    long long group = number_in(GROUP "max", NULL);
    size_t limit = kib > 0 ? (size_t)kib * 1024 : SIZE_MAX;
    return group >= 0 && (size_t)group < limit ? (size_t)group : limit;
}

size_t ht_memory_available(void) {
    static const char machine[] = "/proc/meminfo";
    long long kib = number_or_zero(machine, "MemAvailable") + number_or_zero(machine, "SwapFree");
    long long group = number_in(GROUP "max", NULL);
    size_t available = kib > 0 ? (size_t)kib * 1024 : SIZE_MAX;
    if (group < 0) return available;
    long long held = number_or_zero(GROUP "current", NULL) - number_or_zero(GROUP "stat", "file");
    size_t left = held < group ? (size_t)(group - (held > 0 ? held : 0)) : 0;
    return left < available ? left : available;
}
