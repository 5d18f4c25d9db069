/*
 * AdamW on the CPU: pieces that fit the first cache, in f32, whatever they are kept in. The arithmetic is adamw.h's.
 */
#include <math.h>

#include "core/backend/adamw.h"
#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"

_Static_assert(HT_PIECE % HT_ADAMW_BLOCK == 0, "a piece is whole blocks");

/* Elements [first, first + n) of the parameter in f32: in place, or in a buffer. */
typedef struct piece {
    float *w, *m, *v;
    int64_t first, n;
} piece;

/* What rounds a piece. */
typedef struct random_bits {
    uint32_t w[HT_PIECE], m[HT_PIECE], v[HT_PIECE];
} random_bits;

static void draw(random_bits *bits, const ht_adamw_run *run, int64_t first, int64_t n) {
    uint64_t seed = run->seed, stream = run->stream;
    uint32_t *restrict w = bits->w, *restrict m = bits->m, *restrict v = bits->v; /* so that the loop vectorises */
    for (int64_t pair = 0; pair < (n + 1) / 2; pair++) {
        ht_adamw_bits two[2];
        ht_adamw_draw(two, seed, stream, first / 2 + pair);
        w[2 * pair] = two[0].w, w[2 * pair + 1] = two[1].w;
        m[2 * pair] = two[0].m, m[2 * pair + 1] = two[1].m;
        v[2 * pair] = two[0].v, v[2 * pair + 1] = two[1].v;
    }
}

static void update_piece(const piece *p, float *restrict grad, const ht_adamw_constants *c) {
    float *restrict w = p->w, *restrict m = p->m, *restrict v = p->v;
    for (int64_t i = 0; i < p->n; i++) {
        ht_adamw_element(&w[i], &m[i], &v[i], grad[i], c);
        grad[i] = 0;
    }
}

static void round_to_bf16(uint16_t *restrict to, const float *restrict from, const uint32_t *restrict random, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        to[i] = ht_bf16_stochastic(from[i], random[i]);
}

/* --- 8 bits ------------------------------------------------------------------------------------------------ */

static int64_t block_length(const piece *p, int64_t at) {
    return p->n - at < HT_ADAMW_BLOCK ? p->n - at : HT_ADAMW_BLOCK;
}

static void decode(const ht_adamw_run *run, const piece *p) {
    for (int64_t at = 0; at < p->n; at += HT_ADAMW_BLOCK) {
        const uint8_t *m = (const uint8_t *)run->m + p->first + at, *v = (const uint8_t *)run->v + p->first + at;
        int64_t block = (p->first + at) / HT_ADAMW_BLOCK, n = block_length(p, at);
        float m_scale = run->m_scale[block], v_scale = run->v_scale[block];
        for (int64_t i = 0; i < n; i++) {
            p->m[at + i] = ht_adamw_decode_m(m[i], m_scale);
            p->v[at + i] = ht_adamw_decode_v(v[i], v_scale);
        }
    }
}

static float largest(const float *x, int64_t n) {
    float most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static void encode(const ht_adamw_run *run, const piece *p, const random_bits *bits) {
    for (int64_t at = 0; at < p->n; at += HT_ADAMW_BLOCK) {
        uint8_t *restrict m = (uint8_t *)run->m + p->first + at, *restrict v = (uint8_t *)run->v + p->first + at;
        int64_t block = (p->first + at) / HT_ADAMW_BLOCK, n = block_length(p, at);
        float m_scale = ht_adamw_scale(largest(p->m + at, n)), v_scale = ht_adamw_scale(largest(p->v + at, n));
        float m_inverse = m_scale > 0 ? 1 / m_scale : 0, v_inverse = v_scale > 0 ? 1 / v_scale : 0;
        for (int64_t i = 0; i < n; i++) {
            m[i] = ht_adamw_encode_m(p->m[at + i], m_inverse, bits->m[at + i]);
            v[i] = ht_adamw_encode_v(p->v[at + i], v_inverse, bits->v[at + i]);
        }
        run->m_scale[block] = m_scale;
        run->v_scale[block] = v_scale;
    }
}

/* --- the three states -------------------------------------------------------------------------------------- */

static void join(float *restrict w, const uint16_t *restrict high, const uint16_t *restrict low, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        w[i] = ht_f32_join(high[i], low[i]);
}

static void split(uint16_t *restrict high, uint16_t *restrict low, const float *restrict w, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        high[i] = ht_f32_high(w[i]);
        low[i] = ht_f32_low(w[i]);
    }
}

static void update_f32(const ht_adamw_run *run, int64_t first, int64_t n, const ht_adamw_constants *c) {
    float joined[HT_PIECE];
    piece p = {run->low ? joined : (float *)run->w + first, (float *)run->m + first, (float *)run->v + first, first, n};
    if (run->low) join(joined, (uint16_t *)run->w + first, run->low + first, n);
    update_piece(&p, run->grad + first, c);
    if (run->low) split((uint16_t *)run->w + first, run->low + first, joined, n);
}

static void update_rounded(const ht_adamw_run *run, int64_t first, int64_t n, const ht_adamw_constants *c) {
    float w[HT_PIECE], m[HT_PIECE], v[HT_PIECE];
    random_bits bits;
    uint16_t *w16 = run->dtype == HT_BF16 ? (uint16_t *)run->w + first : NULL;
    piece p = {w16 ? w : (float *)run->w + first, m, v, first, n};
    draw(&bits, run, first, n);
    if (w16) ht_from_bf16(w, w16, n);
    if (run->state == HT_ADAMW_8BIT) {
        decode(run, &p);
    } else {
        ht_from_bf16(m, (uint16_t *)run->m + first, n);
        ht_from_bf16(v, (uint16_t *)run->v + first, n);
    }
    update_piece(&p, run->grad + first, c);
    if (w16) round_to_bf16(w16, w, bits.w, n);
    if (run->state == HT_ADAMW_8BIT) {
        encode(run, &p, &bits);
    } else {
        round_to_bf16((uint16_t *)run->m + first, m, bits.m, n);
        round_to_bf16((uint16_t *)run->v + first, v, bits.v, n);
    }
}

ht_status HT_CPU(adamw)(ht_backend *be, const ht_adamw_run *run, const ht_adamw_args *args, ht_error *err) {
    (void)err;
    const ht_adamw_constants c = ht_adamw_constants_of(args);
    int64_t pieces = (run->n + HT_PIECE - 1) / HT_PIECE;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (pieces > 64)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t first = i * HT_PIECE, n = ht_piece(run->n, first);
        if (run->state == HT_ADAMW_F32)
            update_f32(run, first, n, &c);
        else
            update_rounded(run, first, n, &c);
    }
    return HT_OK;
}

/* Fixed blocks, each summed by one thread, then added in order: the same bits for any number of threads. */
ht_status HT_CPU(sum_squares)(ht_backend *be, const float *x, int64_t n, double *sum, ht_error *err) {
    enum { BLOCK = 65536 };
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    ht_status status = ht_cpu_scratch_all(be, (size_t)blocks * sizeof(double), err);
    if (status) return status;
    double *partial = ht_cpu_scratch(be, 0);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (blocks > 1)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t end = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n;
        double total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = b * BLOCK; i < end; i++)
            total += (double)x[i] * (double)x[i];
        partial[b] = total;
    }
    *sum = 0;
    for (int64_t b = 0; b < blocks; b++)
        *sum += partial[b];
    return HT_OK;
}
