/*
 * adamw.h: inside of the backends: AdamW on one element and the rounding of its state, in one text for all of them.
 * The contract is backend.h's, ht_adamw.
 */
#ifndef HT_BACKEND_ADAMW_H
#define HT_BACKEND_ADAMW_H

#include <math.h>
#include <stdint.h>

#include "core/backend/backend.h"
#include "core/base/philox.h"

/* The constants of one update, in f32. */
typedef struct ht_adamw_constants {
    float beta1, beta2, eps, scale, keep, rate, correction2;
} ht_adamw_constants;

static inline ht_adamw_constants ht_adamw_constants_of(const ht_adamw_args *args) {
    ht_adamw_constants c;
    c.beta1 = (float)args->beta1;
    c.beta2 = (float)args->beta2;
    c.eps = (float)args->eps;
    c.scale = (float)args->grad_scale;
    c.keep = (float)(1.0 - args->lr * args->decay);
    c.rate = (float)(args->lr / (1.0 - pow(args->beta1, (double)args->step)));
    c.correction2 = (float)(1.0 / sqrt(1.0 - pow(args->beta2, (double)args->step)));
    return c;
}

HT_INLINE void ht_adamw_element(float *w, float *m, float *v, float grad, const ht_adamw_constants *c) {
    float g = grad * c->scale;
    float average = c->beta1 * *m + (1.0f - c->beta1) * g;
    float square = c->beta2 * *v + (1.0f - c->beta2) * g * g;
    *m = average;
    *v = square;
    *w = *w * c->keep - c->rate * average / (sqrtf(square) * c->correction2 + c->eps);
}

/* --- random bits: 16 for each number that is rounded ------------------------------------------------------- */

/* Of one element; each in [0, 2^16). */
typedef struct ht_adamw_bits {
    uint32_t w, m, v;
} ht_adamw_bits;

/* Of elements 2 pair and 2 pair + 1: a block serves both. */
HT_INLINE void ht_adamw_draw(ht_adamw_bits bits[2], uint64_t seed, uint64_t stream, int64_t pair) {
    uint32_t block[4];
    ht_philox_block(seed, stream, (uint64_t)pair, block);
    for (int k = 0; k < 2; k++) {
        bits[k].w = block[2 * k] & 0xffff;
        bits[k].m = block[2 * k] >> 16;
        bits[k].v = block[2 * k + 1] & 0xffff;
    }
}

/* --- bf16 -------------------------------------------------------------------------------------------------- */

typedef union ht_float_bits {
    float f;
    uint32_t u;
} ht_float_bits;

/* An f32 number of bf16 and what it has beyond that: every one has exactly one such pair. */
HT_INLINE float ht_f32_join(uint16_t high, uint16_t low) {
    ht_float_bits x;
    x.u = ((uint32_t)high << 16) + (low ^ 0x8000u) - 0x8000u;
    return x.f;
}
HT_INLINE uint16_t ht_f32_low(float value) {
    ht_float_bits x;
    x.f = value;
    return (uint16_t)x.u;
}
HT_INLINE uint16_t ht_f32_high(float value) {
    ht_float_bits x;
    x.f = value;
    return (uint16_t)((x.u + 0x8000u) >> 16);
}

/* The neighbour below or above in magnitude; above with the probability that makes the mean exact. NaN stays NaN. */
HT_INLINE uint16_t ht_bf16_stochastic(float value, uint32_t random) {
    ht_float_bits x;
    x.f = value;
    uint32_t rounded = (x.u + random) >> 16, quiet = (x.u >> 16) | 0x40;
    return (uint16_t)((x.u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* --- 8 bits ------------------------------------------------------------------------------------------------ */

/*
 * A code is a small float: 3 bits of mantissa behind 4 (m, beside a sign) or 5 (v) bits of exponent, subnormal numbers at the
 * bottom and nothing but numbers at the top. The largest is 1.875, code TOP << 3 | 7; the block's scale, a power of two,
 * makes room for its largest element, and costs no rounding.
 */
enum { HT_ADAMW_TOP_M = 15, HT_ADAMW_TOP_V = 31 };

/* The least power of two that brings a block's largest magnitude to 1.875 or below; 0 for a block of zeros. */
HT_INLINE float ht_adamw_scale(float largest) {
    ht_float_bits x;
    x.f = largest;
    x.u = (x.u + 0xfffffu) & 0x7f800000u;
    return x.f;
}

/* 2^exponent, of normal numbers. */
HT_INLINE float ht_power_of_two(int exponent) {
    ht_float_bits x;
    x.u = (uint32_t)(exponent + 127) << 23;
    return x.f;
}

/* Code of a magnitude in [0, 1.875]; rounded as ht_bf16_stochastic does, up to 2^-17 of a step. */
HT_INLINE uint32_t ht_adamw_code(float magnitude, uint32_t random, int top) {
    ht_float_bits x;
    x.f = magnitude;
    uint32_t normal = ((x.u + (random << 4 | 8)) >> 20) - ((uint32_t)(127 - top) << 3);
    float steps = magnitude * ht_power_of_two(top + 2), low = steps < 8.0f ? steps : 0.0f;
    uint32_t small = (uint32_t)(int32_t)(low + ((float)(int32_t)random + 0.5f) * 0x1p-16f);
    return steps < 8.0f ? small : normal;
}

HT_INLINE float ht_adamw_magnitude(uint32_t code, int top) {
    ht_float_bits x;
    x.u = (code << 20) + ((uint32_t)(127 - top) << 23);
    float small = (float)(int32_t)code * ht_power_of_two(-top - 2);
    return code < 8 ? small : x.f;
}

HT_INLINE float ht_adamw_decode_m(uint8_t code, float scale) {
    float magnitude = ht_adamw_magnitude(code & 0x7fu, HT_ADAMW_TOP_M) * scale;
    return code & 0x80u ? -magnitude : magnitude;
}
HT_INLINE float ht_adamw_decode_v(uint8_t code, float scale) {
    return ht_adamw_magnitude(code, HT_ADAMW_TOP_V) * scale;
}

/* `inverse` = 1 / scale, or 0. */
HT_INLINE uint8_t ht_adamw_encode_m(float m, float inverse, uint32_t random) {
    uint32_t code = ht_adamw_code(fabsf(m) * inverse, random, HT_ADAMW_TOP_M);
    return (uint8_t)(m < 0 ? code | 0x80u : code);
}
/* A v above zero stays above it: the element's next update divides by its root. */
HT_INLINE uint8_t ht_adamw_encode_v(float v, float inverse, uint32_t random) {
    uint32_t code = ht_adamw_code(v * inverse, random, HT_ADAMW_TOP_V);
    return (uint8_t)(code == 0 && v > 0 ? 1u : code);
}

#endif
