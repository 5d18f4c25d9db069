/*
 * attention.h: what the attention operations of the CPU share.
 */
#ifndef HT_BACKEND_CPU_ATTENTION_H
#define HT_BACKEND_CPU_ATTENTION_H

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/tile.h"

/* Rows of a score tile, and keys. 64 x 64 f32 is 16 KiB: scores, keys and values of a tile stay in the first caches. */
enum { HT_TILE_ROWS = 64, HT_TILE_KEYS = 64 };

/* Where a sequence's key or value rows lie: one run of rows, or pages. */
typedef struct ht_row_source {
    const float *base;
    int64_t stride;
    const int32_t *blocks; /* NULL: rows base + p * stride */
    int64_t block_size;
} ht_row_source;

static inline const float *ht_source_row(const ht_row_source *source, int64_t position) {
    if (!source->blocks) return source->base + position * source->stride;
    int64_t block = source->blocks[position / source->block_size];
    return source->base + (block * source->block_size + position % source->block_size) * source->stride;
}

/* How many of the `n` rows from a position on lie one stride apart. */
static inline int64_t ht_source_run(const ht_row_source *source, int64_t position, int64_t n) {
    if (!source->blocks) return n;
    int64_t left = source->block_size - position % source->block_size;
    return left < n ? left : n;
}

/* tile[d][j] = row (first + j)[d] for j < n, zero up to the padded n; one tile row is HT_TILE_KEYS floats. */
void ht_load_transposed(float *tile, const ht_row_source *source, int64_t first, int64_t n, int64_t width);

/* tile[j][d] = row (first + j)[d], padded with zeros to `padded_width` floats a row. */
void ht_load_rows(float *tile, const ht_row_source *source, int64_t first, int64_t n, int64_t width,
                  int64_t padded_width);

#endif
