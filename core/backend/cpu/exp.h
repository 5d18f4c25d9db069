/*
 * exp.h: e^x without branches: of one float, so that loops over it vectorise, and of 16.
 */
#ifndef HT_BACKEND_CPU_EXP_H
#define HT_BACKEND_CPU_EXP_H

#include <math.h>
#include <stdint.h>

#include "core/backend/cpu/simd.h"

/*
 * e^x to 2 units in the last place; 0 below -87.33 (the smallest normal result), infinity above 88.72.
 * x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7 (remainder below 2^-26), 2^n by exponent bits in
 * two halves so that n = 128 does not overflow early.
 */
static inline float ht_expf(float x) {
    float clamped = x < -87.33654f ? -87.33654f : x > 89.0f ? 89.0f : x;
    float n = rintf(clamped * 1.44269504f);
    float r = clamped - n * 0.693359375f;
    r -= n * -2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 5.0e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t whole = (int32_t)n, half = whole / 2;
    union {
        int32_t i;
        float f;
    } low = {(half + 127) << 23}, high = {(whole - half + 127) << 23};
    float result = p * low.f * high.f;
    return x < -87.33654f ? 0.0f : x != x ? x : result;
}

/* The compiler's own header, where nothing is optimised, converts a mask in a way that our warnings do not allow. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"

/* The same of 16 floats: within its tolerance, not its bits. */
HT_INLINE ht_lanes ht_exp_lanes(ht_lanes x) {
#ifdef __AVX512F__
    /* The instruction that scales by 2^n needs no exponent bits put together. Where the result would not be a normal number it
     * would take a hundred times as long: those lanes are left out, and zero. A NaN stays one. */
    __m512 z = (__m512)x;
    __mmask16 normal = _mm512_cmp_ps_mask(z, _mm512_set1_ps(-87.33654f), _CMP_NLT_UQ);
    __m512 n = _mm512_roundscale_ps(z * 1.44269504f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    ht_lanes r = (ht_lanes)z - (ht_lanes)n * 0.693359375f;
    r -= (ht_lanes)n * -2.12194440e-4f;
    ht_lanes p = r * 1.98412698e-4f + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 5.0e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (ht_lanes)_mm512_maskz_scalef_ps(normal, (__m512)p, n);
#else
    ht_lanes y;
    float in[HT_LANES], out[HT_LANES];
    memcpy(in, &x, sizeof in);
    for (int i = 0; i < HT_LANES; i++)
        out[i] = ht_expf(in[i]);
    memcpy(&y, out, sizeof y);
    return y;
#endif
}

#pragma GCC diagnostic pop

HT_INLINE ht_lanes ht_lanes_larger(ht_lanes a, ht_lanes b) {
#ifdef __AVX512F__
    return (ht_lanes)_mm512_max_ps((__m512)a, (__m512)b);
#else
    ht_lanes_index first = a > b;
    return (ht_lanes)((first & (ht_lanes_index)a) | (~first & (ht_lanes_index)b));
#endif
}

/* Lanes moved down by 8, 4, 2 or 1, round the end. */
HT_INLINE ht_lanes ht_lanes_down(const int by, ht_lanes x) {
    return by == 8   ? HT_SHUFFLE(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
           : by == 4 ? HT_SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
           : by == 2 ? HT_SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
                     : HT_SHUFFLE(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}

/* Sum and largest of the 16 lanes, by a fixed tree. */
HT_INLINE float ht_lanes_sum(ht_lanes x) {
    x += ht_lanes_down(8, x);
    x += ht_lanes_down(4, x);
    x += ht_lanes_down(2, x);
    x += ht_lanes_down(1, x);
    return x[0];
}
HT_INLINE float ht_lanes_max(ht_lanes x) {
    x = ht_lanes_larger(x, ht_lanes_down(8, x));
    x = ht_lanes_larger(x, ht_lanes_down(4, x));
    x = ht_lanes_larger(x, ht_lanes_down(2, x));
    x = ht_lanes_larger(x, ht_lanes_down(1, x));
    return x[0];
}

#endif
