/*
 * memory.h: host memory for small, long-lived things (tables, strings, lists).
 *
 * Large tensors come from an arena (arena.h). Sizes are checked for overflow; failure is HT_ERR_NOMEM with the
 * size in the message.
 */
#ifndef HT_BASE_MEMORY_H
#define HT_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"

/* *out = count * size zeroed bytes, to be released with free(). count * size = 0 gives a valid pointer. */
ht_status ht_calloc(void *out, size_t count, size_t size, ht_error *err);

/* Grows *array (of `size` byte elements) to hold at least `needed`; doubles *capacity. New bytes are zero. */
ht_status ht_grow(void *array, size_t *capacity, size_t needed, size_t size, ht_error *err);

/* *out = a copy of text, to be released with free(). */
ht_status ht_strdup(char **out, const char *text, ht_error *err);

/* *out = printf-formatted text, to be released with free(). */
ht_status ht_format(char **out, ht_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Host memory: all that this process may use, and what of that is free or holds files that can be read again; memory and
 * swap of the machine, or of the control group where that is less. The kernel grants mappings beyond it and kills the
 * process when their pages are touched, so a plan that cannot fit is better refused.
 */
size_t ht_memory_limit(void);
size_t ht_memory_available(void);

#endif
