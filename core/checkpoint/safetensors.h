/*
 * safetensors.h: reading and writing safetensors files, single or sharded.
 *
 * Reading maps the file; nothing is copied until asked for. Every size and offset of the header is checked
 * before use: its length (at most 100 MB, inside the file), the JSON (no duplicate names), the dtype, the
 * shape (products that overflow), data_offsets (inside the file, as long as shape and dtype say, no overlap,
 * no hole, no byte left over). HT_ERR_DATA names file, tensor, value and what is allowed. A file cut short by
 * someone else while it is mapped ends the process (SIGBUS), as with any map. Source: the format description
 * of the safetensors library.
 */
#ifndef HT_CHECKPOINT_SAFETENSORS_H
#define HT_CHECKPOINT_SAFETENSORS_H

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/tensor/dtype.h"

#define HT_SAFETENSORS_DIMS 8 /* of one tensor; more is HT_ERR_DATA */

typedef struct ht_safetensors_entry {
    const char *name;
    const char *dtype_name; /* as in the file */
    ht_dtype dtype;
    int supported; /* 0: a dtype of the format that we do not read; dtype is meaningless */
    int dims;
    int64_t shape[HT_SAFETENSORS_DIMS];
    const uint8_t *data; /* into the map, may be unaligned */
    size_t bytes;
    const char *file; /* path, borrowed */
} ht_safetensors_entry;

/* One file, or the shards of a "*.index.json" as one set. Entries are sorted by name. */
typedef struct ht_safetensors ht_safetensors;

/*
 * *set = the file or set at `path`; a path that ends in ".index.json" is an index. Shards are plain names
 * beside the index (a folder in one is refused); index and shards must name the same tensors.
 */
ht_status ht_safetensors_open(ht_safetensors **set, const char *path, ht_error *err);
void ht_safetensors_close(ht_safetensors *set); /* NULL is fine */
int64_t ht_safetensors_count(const ht_safetensors *set);
const ht_safetensors_entry *ht_safetensors_at(const ht_safetensors *set, int64_t index);
const ht_safetensors_entry *ht_safetensors_find(const ht_safetensors *set,
                                                const char *name); /* NULL: absent */

/* Says that the entry's bytes will be read next: the disk may begin. */
void ht_safetensors_expect(const ht_safetensors_entry *entry);
/* Says that the entry's bytes are not needed for now, so that the pages of a file of many gigabytes do not
 * count as the process's memory. Reading them again is fine. */
void ht_safetensors_forget(const ht_safetensors_entry *entry);

/* Most bytes that a writer asks a `read` for at once; first_byte is a multiple of it. */
#define HT_SAFETENSORS_CHUNK ((size_t)4 << 20)

/*
 * A tensor to write: `read` fills `bytes` bytes of it, from first_byte on, into host memory, so that a
 * device's or a converted tensor is never whole on the host twice.
 */
typedef struct ht_safetensors_item {
    const char *name;
    ht_dtype dtype;
    int dims;
    int64_t shape[HT_SAFETENSORS_DIMS];
    ht_status (*read)(void *context, void *host, size_t first_byte, size_t bytes, ht_error *err);
    void *context;
} ht_safetensors_item;

/*
 * Writes items in order to folder/stem.safetensors, or, when they exceed max_shard bytes (0: no limit), to
 * stem-0000i-of-0000n.safetensors with stem.safetensors.index.json, as transformers does; a tensor above
 * max_shard gets a shard of its own. Data begins at a multiple of 8 bytes. Each file is fsynced. `metadata`
 * gets {"format": "pt"}. Atomic as a whole only inside ht_folder_begin/commit. HT_ERR_USAGE: two items of one
 * name.
 */
ht_status ht_safetensors_write(const char *folder, const char *stem, const ht_safetensors_item *items,
                               int64_t count, size_t max_shard, ht_error *err);

#endif
