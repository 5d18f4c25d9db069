/*
 * amx.h: C += A B of bf16 pairs on AMX's tile registers, where they are.
 *
 * A tile is 16 rows of 64 bytes. Units (tile.h) lie in memory as the instruction wants them: a row of A is a row of units, a
 * row of B is one unit of each of 16 columns. The eight tiles: 0 to 3 are sums, 4 and 5 parts of A, 6 and 7 of B.
 */
#ifndef HT_BACKEND_CPU_AMX_H
#define HT_BACKEND_CPU_AMX_H

#include <stdint.h>

#include "core/backend/cpu/simd.h"

#ifdef __AMX_BF16__

/* The compiler's own intrinsics do not tell it which memory a tile is loaded from (GCC 12). */
#define HT_AMX_LOAD(tile, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"(stride) : "memory")
#define HT_AMX_STORE(tile, to, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(stride) : "memory")
#define HT_AMX_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define HT_AMX_MULTIPLY_ADD(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::)

/* Sets this thread's tiles: A and the sums have `rows` rows, up to 16, and A `step` units a row, up to 16. */
static inline void ht_amx_begin(int rows, int step) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = (uint16_t)(i == 4 || i == 5 ? 4 * step : 64);
        config.rows[i] = (uint8_t)(i >= 6 ? step : rows);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

static inline void ht_amx_end(void) {
    __asm__ volatile("tilerelease" ::);
}

/* Rows of memory that a later call reads: each step asks for the next cache line of each. */
typedef struct ht_amx_ahead {
    const char *rows;
    int64_t count, bytes; /* how many, a multiple of 4, and from one to the next */
} ht_amx_ahead;

/* Where B is: step s of vector v at columns[v] + s * step rows of `stride` units; or, with groups, at groups[s] + 16 v. */
typedef struct ht_amx_right {
    const float *const *columns, *const *groups;
    int64_t stride;
    ht_amx_ahead ahead;
} ht_amx_right;

/* A quarter of what a step asks for: memory is asked a little at a time, between loads that the caches answer. */
HT_INLINE void ht_amx_ask(const ht_amx_ahead *ahead, int64_t step, int quarter) {
    const char *at = ahead->rows + step * 64 + quarter * ahead->bytes;
    for (int64_t row = quarter; row < ahead->count; row += 4, at += 4 * ahead->bytes)
        __builtin_prefetch(at, 0, 2);
}

/* One or two row blocks of A by one or two vectors of B: constants, so that no branch is left in the loop. Strides in units. */
HT_INLINE void ht_amx_block(const int tall, const int wide, const int grouped, int fresh, float *c, int64_t ldc,
                            const float *a, int64_t lda, ht_amx_right right, int64_t depth, int rows, int step) {
    float *below = c + rows * ldc;
    const float *a_below = a + rows * lda;
    size_t c_bytes = (size_t)ldc * 4, a_bytes = (size_t)lda * 4, b_bytes = (size_t)right.stride * 4;
    if (fresh) {
        HT_AMX_ZERO(0);
        if (wide) HT_AMX_ZERO(1);
        if (tall) HT_AMX_ZERO(2);
        if (tall && wide) HT_AMX_ZERO(3);
    } else {
        HT_AMX_LOAD(0, c, c_bytes);
        if (wide) HT_AMX_LOAD(1, c + HT_LANES, c_bytes);
        if (tall) HT_AMX_LOAD(2, below, c_bytes);
        if (tall && wide) HT_AMX_LOAD(3, below + HT_LANES, c_bytes);
    }
    for (int64_t k = 0, s = 0; k < depth; k += step, s++) {
        const float *b = grouped ? right.groups[s] : right.columns[0] + k * right.stride;
        HT_AMX_LOAD(6, b, b_bytes);
        ht_amx_ask(&right.ahead, s, 0);
        HT_AMX_LOAD(4, a + k, a_bytes);
        HT_AMX_MULTIPLY_ADD(0, 4, 6);
        ht_amx_ask(&right.ahead, s, 1);
        if (wide) {
            HT_AMX_LOAD(7, grouped ? b + HT_LANES : right.columns[1] + k * right.stride, b_bytes);
            HT_AMX_MULTIPLY_ADD(1, 4, 7);
        }
        ht_amx_ask(&right.ahead, s, 2);
        if (tall) {
            HT_AMX_LOAD(5, a_below + k, a_bytes);
            HT_AMX_MULTIPLY_ADD(2, 5, 6);
            if (wide) HT_AMX_MULTIPLY_ADD(3, 5, 7);
        }
        ht_amx_ask(&right.ahead, s, 3);
    }
    HT_AMX_STORE(0, c, c_bytes);
    if (wide) HT_AMX_STORE(1, c + HT_LANES, c_bytes);
    if (tall) HT_AMX_STORE(2, below, c_bytes);
    if (tall && wide) HT_AMX_STORE(3, below + HT_LANES, c_bytes);
}

#endif
#endif
