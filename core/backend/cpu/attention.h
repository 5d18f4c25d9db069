/*
 * attention.h: what the attention operations of the CPU share.
 */
#ifndef HT_BACKEND_CPU_ATTENTION_H
#define HT_BACKEND_CPU_ATTENTION_H

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"
#include "core/backend/cpu/tile.h"

/* Rows of a score tile, and keys. 64 x 64 f32 is 16 KiB: scores, keys and values of a tile stay in the first caches. */
enum { HT_TILE_ROWS = 64, HT_TILE_KEYS = 64 };

/* to[d] = scale * row[col + d] for d < width, zero up to `padded`. */
HT_INLINE void ht_load_row(float *to, const ht_tensor *t, int64_t row, int64_t col, int64_t width, int64_t padded,
                           float scale) {
    float buffer[HT_PIECE];
    for (int64_t d = 0, n; d < width; d += n) {
        n = ht_piece(width, d);
        const float *from = ht_read(t, row, col + d, n, buffer);
        for (int64_t i = 0; i < n; i++)
            to[d + i] = scale * from[i];
    }
    for (int64_t d = width; d < padded; d++)
        to[d] = 0;
}

/* row[col + d] = scale * from[d]. */
HT_INLINE void ht_store_row(const ht_tensor *t, int64_t row, int64_t col, const float *from, int64_t width,
                            float scale) {
    float buffer[HT_PIECE];
    for (int64_t d = 0, n; d < width; d += n) {
        n = ht_piece(width, d);
        float *to = ht_target(t, row, col + d, buffer);
        for (int64_t i = 0; i < n; i++)
            to[i] = scale * from[d + i];
        ht_written(t, row, col + d, n, to);
    }
}

/* tile[j][d] = element (row + j, col + d), padded with zeros to `padded` floats a row. */
static inline void ht_load_tile(float *tile, const ht_tensor *t, int64_t row, int64_t n, int64_t col, int64_t width,
                                int64_t padded) {
    for (int64_t j = 0; j < n; j++)
        ht_load_row(tile + j * padded, t, row + j, col, width, padded, 1.0f);
}

/* turned[d][j] = tile[j][d], both padded: j < n is zero from n up to whole vectors; a row of `turned` is HT_TILE_KEYS floats. */
static inline void ht_turn_tile(float *turned, const float *tile, int64_t n, int64_t padded) {
    for (int64_t j = 0; j < n; j += HT_LANES)
        for (int64_t d = 0; d < padded; d += HT_LANES) {
            ht_lanes m[HT_LANES];
            for (int i = 0; i < HT_LANES; i++)
                m[i] = j + i < n ? *(const ht_lanes *)(tile + (j + i) * padded + d) : (ht_lanes){0};
            ht_transpose(m);
            for (int i = 0; i < HT_LANES; i++)
                *(ht_lanes *)(turned + (d + i) * HT_TILE_KEYS + j) = m[i];
        }
}

#endif
