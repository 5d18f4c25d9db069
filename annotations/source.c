#include "annotations/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* as in core/store/messages.c: one version of the code, whatever the shared library has */
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zlib.h>

#include "core/base/memory.h"

struct ht_source {
    char *name; /* for messages */
    FILE *file;
    XXH3_state_t *hash;
    int started, compressed, ended; /* ended: a gzip member is complete */
    z_stream inflater;
    unsigned char raw[HT_SOURCE_CHUNK];
    char plain[HT_SOURCE_CHUNK];
    size_t raw_size, raw_used;
};

ht_status ht_source_open(ht_source **out, const char *path, ht_error *err) {
    ht_status status;
    ht_source *source = NULL;
    int standard = strcmp(path, "-") == 0;
    *out = NULL;
    HT_TRY(ht_calloc(&source, 1, sizeof *source, err));
    HT_TRY(ht_strdup(&source->name, standard ? "standard input" : path, err));
    source->hash = XXH3_createState();
    if (!source->hash) {
        status = ht_fail(err, HT_ERR_NOMEM, "cannot allocate a hash state");
        goto done;
    }
    XXH3_128bits_reset(source->hash);
    source->file = standard ? stdin : fopen(path, "rb");
    if (!source->file) {
        status = ht_fail(err, HT_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
        goto done;
    }
    *out = source;
    source = NULL;
done:
    ht_source_free(source);
    return status;
}

void ht_source_free(ht_source *source) {
    if (!source) return;
    if (source->compressed) inflateEnd(&source->inflater);
    if (source->file && source->file != stdin) fclose(source->file);
    XXH3_freeState(source->hash);
    free(source->name);
    free(source);
}

void ht_source_hash(const ht_source *source, char out[HT_HASH_LEN]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(source->hash));
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        sprintf(out + 2 * i, "%02x", canonical.digest[i]);
}

/* The next stored bytes; raw_size 0 at the end of the file. */
static ht_status fill(ht_source *source, ht_error *err) {
    source->raw_used = 0;
    source->raw_size = fread(source->raw, 1, sizeof source->raw, source->file);
    if (ferror(source->file))
        return ht_fail(err, HT_ERR_IO, "%s: cannot read: %s", source->name, strerror(errno));
    XXH3_128bits_update(source->hash, source->raw, source->raw_size);
    return HT_OK;
}

/* Inflates until there is output or the end; files of several gzip members are read through. */
static ht_status read_compressed(ht_source *source, size_t *size, ht_error *err) {
    z_stream *z = &source->inflater;
    *size = 0;
    while (*size == 0) {
        if (source->raw_used == source->raw_size) {
            ht_status status = fill(source, err);
            if (status != HT_OK) return status;
            if (source->raw_size == 0) {
                if (source->ended) return HT_OK;
                return ht_fail(err, HT_ERR_DATA, "%s: compressed data ends before its end mark",
                               source->name);
            }
        }
        if (source->ended) {
            inflateReset(z);
            source->ended = 0;
        }
        z->next_in = source->raw + source->raw_used;
        z->avail_in = (uInt)(source->raw_size - source->raw_used);
        z->next_out = (unsigned char *)source->plain;
        z->avail_out = HT_SOURCE_CHUNK;
        int code = inflate(z, Z_NO_FLUSH);
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            return ht_fail(err, code == Z_MEM_ERROR ? HT_ERR_NOMEM : HT_ERR_DATA,
                           "%s: damaged compressed data: %s", source->name, z->msg ? z->msg : "unknown");
        source->raw_used = source->raw_size - z->avail_in;
        source->ended = code == Z_STREAM_END;
        *size = HT_SOURCE_CHUNK - z->avail_out;
    }
    return HT_OK;
}

static ht_status read_plain(ht_source *source, const char **data, size_t *size, ht_error *err) {
    ht_status status = HT_OK;
    if (source->raw_used == source->raw_size) status = fill(source, err);
    *data = (const char *)source->raw + source->raw_used;
    *size = source->raw_size - source->raw_used;
    source->raw_used = source->raw_size;
    return status;
}

/* The first bytes say whether the file is compressed. */
static ht_status start(ht_source *source, ht_error *err) {
    ht_status status = fill(source, err);
    source->started = 1;
    if (status != HT_OK || source->raw_size < 2 || source->raw[0] != 0x1f || source->raw[1] != 0x8b)
        return status;
    if (inflateInit2(&source->inflater, 15 + 16) != Z_OK) /* 15: largest window; +16: gzip */
        return ht_fail(err, HT_ERR_NOMEM, "%s: cannot start to decompress", source->name);
    source->compressed = 1;
    return HT_OK;
}

ht_status ht_source_read(void *self, const char **data, size_t *size, ht_error *err) {
    ht_source *source = self;
    ht_status status = HT_OK;
    int first = !source->started;
    *data = source->plain;
    *size = 0;
    if (first) HT_TRY(start(source, err));
    HT_TRY(source->compressed ? read_compressed(source, size, err) : read_plain(source, data, size, err));
    if (!first || *size < 2) goto done;
    const unsigned char *head = (const unsigned char *)*data;
    if ((head[0] == 0xff && head[1] == 0xfe) || (head[0] == 0xfe && head[1] == 0xff)) {
        status = ht_fail(err, HT_ERR_DATA, "%s: is UTF-16; save it as UTF-8", source->name);
    } else if (*size >= 3 && head[0] == 0xef && head[1] == 0xbb && head[2] == 0xbf) {
        *data += 3;
        *size -= 3;
        if (*size == 0) status = ht_source_read(source, data, size, err); /* 0 bytes would say the end */
    }
done:
    return status;
}
