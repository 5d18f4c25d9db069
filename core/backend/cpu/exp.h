/*
 * exp.h: expf without branches, so that loops over it vectorise.
 */
#ifndef HT_BACKEND_CPU_EXP_H
#define HT_BACKEND_CPU_EXP_H

#include <math.h>
#include <stdint.h>

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

#endif
