/*
 * source.h: the bytes of an annotation file: plain or gzip-compressed, a file or standard input.
 */
#ifndef HT_ANNOTATIONS_SOURCE_H
#define HT_ANNOTATIONS_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"
#include "core/base/files.h"

enum { HT_SOURCE_CHUNK = 1 << 16 }; /* bytes at most that one read gives */

typedef struct ht_source ht_source;

/*
 * Opens a file, "-" for standard input; compression is seen from the first bytes, not the name. HT_ERR_IO
 * when it cannot be read. *out is NULL on failure.
 */
ht_status ht_source_open(ht_source **out, const char *path, ht_error *err);

/*
 * *data = the next bytes, borrowed until the next call; *size = 0 at the end. A byte order mark of UTF-8 is
 * left out. HT_ERR_DATA for UTF-16 and for compressed data that is damaged or cut; HT_ERR_IO. `source` is an
 * ht_source: the form that a line reader (core/base/lines.h) wants.
 */
ht_status ht_source_read(void *source, const char **data, size_t *size, ht_error *err);

/* The 128-bit hash of the file's bytes as stored (compressed or not); all of it has been read. */
void ht_source_hash(const ht_source *source, char out[HT_HASH_LEN]);

void ht_source_free(ht_source *source); /* NULL is fine */

#endif
