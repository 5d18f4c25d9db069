/*
 * attention.h: what the attention operations of the CPU share.
 *
 * Products run on 32-bit units (tile.h): numbers of f32 tensors, pairs of numbers of bf16 ones. A sum over head dimensions
 * takes units that pair neighbouring columns of a row; a sum over rows takes units that pair neighbouring rows.
 */
#ifndef HT_BACKEND_CPU_ATTENTION_H
#define HT_BACKEND_CPU_ATTENTION_H

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/exp.h"
#include "core/backend/cpu/rows.h"
#include "core/backend/cpu/tile.h"

/* Rows of a score tile, and keys. 64 x 64 f32 is 16 KiB: scores, keys and values of a tile stay in the first caches. */
enum { HT_TILE_ROWS = 64, HT_TILE_KEYS = 64, HT_TILE_VECTORS = HT_TILE_KEYS / HT_LANES };

/* Units that n numbers make. */
static inline int64_t ht_units(int pairs, int64_t n) {
    return pairs ? (n + 1) / 2 : n;
}

/* tile[j] = the columns [col, col + width) of row (row + j), as units, zero up to `stride`. */
static inline void ht_load_rows(int pairs, float *tile, int64_t stride, const ht_tensor *t, int64_t row, int64_t n,
                                int64_t col, int64_t width) {
    size_t bytes = (size_t)width * (pairs ? 2 : 4), padded = (size_t)stride * sizeof *tile;
    for (int64_t j = 0; j < n; j++) {
        char *to = (char *)(tile + j * stride);
        memcpy(to, ht_element(t, row + j, col), bytes);
        memset(to + bytes, 0, padded - bytes);
    }
}

/* turned[u][j] = tile[j][u]; j < n, zero from n up to whole vectors. A row of `turned` is HT_TILE_KEYS units. */
static inline void ht_turn_tile(float *turned, const float *tile, int64_t n, int64_t stride) {
    for (int64_t j = 0; j < n; j += HT_LANES)
        for (int64_t u = 0; u < stride; u += HT_LANES) {
            ht_lanes m[HT_LANES];
            for (int i = 0; i < HT_LANES; i++)
                m[i] = j + i < n ? *(const ht_lanes *)(tile + (j + i) * stride + u) : (ht_lanes){0};
            ht_transpose(m);
            for (int i = 0; i < HT_LANES; i++)
                *(ht_lanes *)(turned + (u + i) * HT_TILE_KEYS + j) = m[i];
        }
}

/* Units for sums over rows: tile[k][d] = row (row + k) or the pair of rows (row + 2k, row + 2k + 1) at column (col + d), zero
 * beyond n rows up to `depth` units, and up to `stride` columns. */
static inline void ht_load_across(int pairs, float *tile, int64_t stride, int64_t depth, const ht_tensor *t, int64_t row,
                                  int64_t n, int64_t col, int64_t width) {
    int64_t units = ht_units(pairs, n);
    memset(tile + units * stride, 0, (size_t)((depth - units) * stride) * sizeof *tile);
    if (!pairs) {
        ht_load_rows(0, tile, stride, t, row, n, col, width);
        return;
    }
    for (int64_t k = 0; k < units; k++) {
        const uint16_t *low = ht_element(t, row + 2 * k, col);
        const uint16_t *high = 2 * k + 1 < n ? ht_element(t, row + 2 * k + 1, col) : low;
        uint32_t keep = 2 * k + 1 < n ? 0xffff0000u : 0;
        uint32_t *to = (uint32_t *)(void *)(tile + k * stride);
        for (int64_t d = 0; d < width; d++)
            to[d] = (uint32_t)low[d] | ((uint32_t)high[d] << 16 & keep);
        memset(to + width, 0, (size_t)(stride - width) * sizeof *to);
    }
}

/* row[col + d] = scale * from[d]. */
static inline void ht_store_row(const ht_tensor *t, int64_t row, int64_t col, const float *from, int64_t width,
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

#endif
