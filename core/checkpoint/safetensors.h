/*
 * safetensors.h: reading and writing safetensors files, single or sharded.
 *
 * Reading maps the file; nothing is copied until asked for. Every size and offset of the header is checked before use
 * (overlaps, gaps at the end, overflow, duplicate names): HT_ERR_DATA names file, tensor, value and what is allowed.
 * Source: the format description of the safetensors library.
 */
#ifndef HT_CHECKPOINT_SAFETENSORS_H
#define HT_CHECKPOINT_SAFETENSORS_H

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/tensor/dtype.h"

typedef struct ht_safetensors_entry {
    const char *name;
    ht_dtype dtype;
    int supported; /* 0: a dtype we do not read; dtype is meaningless */
    int dims;
    int64_t shape[8];
    const uint8_t *data; /* into the map, may be unaligned */
    size_t bytes;
    const char *file; /* path, borrowed */
} ht_safetensors_entry;

/* One file, or the shards of a "*.index.json" as one set. Entries are sorted by name. */
typedef struct ht_safetensors ht_safetensors;
ht_status ht_safetensors_open(ht_safetensors **set, const char *path, ht_error *err);
void ht_safetensors_close(ht_safetensors *set);
int64_t ht_safetensors_count(const ht_safetensors *set);
const ht_safetensors_entry *ht_safetensors_at(const ht_safetensors *set, int64_t index);
const ht_safetensors_entry *ht_safetensors_find(const ht_safetensors *set, const char *name); /* NULL: absent */

/*
 * A tensor to write: `read` fills `bytes` bytes of it into host memory, so that a device's or a converted tensor is
 * never whole on the host twice.
 */
typedef struct ht_safetensors_item {
    const char *name;
    ht_dtype dtype;
    int dims;
    int64_t shape[8];
    ht_status (*read)(void *context, void *host, size_t first_byte, size_t bytes, ht_error *err);
    void *context;
} ht_safetensors_item;

/*
 * Writes items in order to folder/stem.safetensors, or, when they exceed max_shard bytes (0: no limit), to
 * stem-0000i-of-0000n.safetensors with stem.safetensors.index.json, as transformers does. Each file is fsynced. `metadata`
 * gets {"format": "pt"}. Atomic as a whole only inside ht_folder_begin/commit.
 */
ht_status ht_safetensors_write(const char *folder, const char *stem, const ht_safetensors_item *items, int64_t count,
                               size_t max_shard, ht_error *err);

#endif
