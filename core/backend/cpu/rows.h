/*
 * rows.h: elements of a row as f32, whatever its dtype. Operations compute in f32 on pieces of a row that fit the first
 * cache: f32 rows in place, bf16 ones through a buffer.
 */
#ifndef HT_BACKEND_CPU_ROWS_H
#define HT_BACKEND_CPU_ROWS_H

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#include <string.h>

#include "core/tensor/tensor.h"

enum { HT_PIECE = 1024 }; /* elements */

static inline void *ht_element(const ht_tensor *t, int64_t row, int64_t col) {
    size_t width = t->dtype == HT_BF16 ? 2 : 4;
    return (char *)t->data + (size_t)(row * t->stride + col) * width;
}

/* An f32 row. */
static inline float *ht_row(const ht_tensor *t, int64_t row) {
    return (float *)t->data + row * t->stride;
}

static inline void ht_from_bf16(float *restrict to, const uint16_t *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        to[i] = ht_bf16_to_f32(from[i]);
}

/* Round to nearest even; NaN stays NaN. The processor's instruction takes subnormal numbers, below 1.2e-38, for zero. */
static inline void ht_to_bf16(uint16_t *restrict to, const float *restrict from, int64_t n) {
    int64_t whole = 0;
#ifdef __AVX512BF16__
    whole = n / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16) {
        __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + i));
        memcpy(to + i, &rounded, sizeof rounded);
    }
#endif
    for (int64_t i = whole; i < n; i++)
        to[i] = ht_bf16_of_f32(from[i]);
}

/* Elements [col, col + n) of a row, n <= HT_PIECE: in place, or converted into `buffer`. */
static inline const float *ht_read(const ht_tensor *t, int64_t row, int64_t col, int64_t n, float *buffer) {
    if (t->dtype == HT_F32) return ht_element(t, row, col);
    ht_from_bf16(buffer, ht_element(t, row, col), n);
    return buffer;
}

/* Where to compute elements of a row: in place, or in `buffer`, from where ht_written brings them to the row. */
static inline float *ht_target(const ht_tensor *t, int64_t row, int64_t col, float *buffer) {
    return t->dtype == HT_F32 ? ht_element(t, row, col) : buffer;
}

static inline void ht_written(const ht_tensor *t, int64_t row, int64_t col, int64_t n, const float *buffer) {
    if (t->dtype != HT_F32) ht_to_bf16(ht_element(t, row, col), buffer, n);
}

static inline int64_t ht_piece(int64_t cols, int64_t col) {
    return cols - col < HT_PIECE ? cols - col : HT_PIECE;
}

#endif
