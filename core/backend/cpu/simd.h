/*
 * simd.h: vectors of 16 floats, with the compiler's vector extension: one AVX-512 register, two AVX2 or four NEON ones.
 */
#ifndef HT_BACKEND_CPU_SIMD_H
#define HT_BACKEND_CPU_SIMD_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define HT_LANES 16
typedef float ht_lanes __attribute__((vector_size(HT_LANES * 4), aligned(4), may_alias));
typedef uint32_t ht_lanes_bits __attribute__((vector_size(HT_LANES * 4), aligned(4), may_alias));
typedef int32_t ht_lanes_index __attribute__((vector_size(HT_LANES * 4)));

#define HT_INLINE static inline __attribute__((always_inline))

/* n rounded up to whole vectors. */
static inline int64_t ht_padded(int64_t n) {
    return (n + HT_LANES - 1) / HT_LANES * HT_LANES;
}

/*
 * The two kinds of 32-bit units that products work on: an f32 number, or a pair of bf16 ones.
 * sum + a b of 16 f32 units; of 16 pairs, sum + a.low b.low + a.high b.high.
 */
HT_INLINE ht_lanes ht_multiply_add(const int pairs, ht_lanes sum, ht_lanes a, ht_lanes b) {
    if (!pairs) return sum + a * b;
#ifdef __AVX512BF16__
    return (ht_lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    ht_lanes_bits x = (ht_lanes_bits)a, y = (ht_lanes_bits)b;
    sum += (ht_lanes)(x << 16) * (ht_lanes)(y << 16);
    return sum + (ht_lanes)(x & 0xffff0000u) * (ht_lanes)(y & 0xffff0000u);
#endif
}

/* One unit in every lane, whatever its bits mean. */
HT_INLINE ht_lanes ht_broadcast(const float *unit) {
    uint32_t bits;
    memcpy(&bits, unit, sizeof bits);
    return (ht_lanes)((ht_lanes_bits){0} + bits);
}

/* bf16 pairs: low halves from one vector of f32, high halves from another; round to nearest even. The processor's instruction
 * takes subnormal numbers for zero. */
HT_INLINE ht_lanes ht_pair_up(ht_lanes low, ht_lanes high) {
#ifdef __AVX512BF16__
    const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                                 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (ht_lanes)_mm512_permutexvar_epi16(interleaved, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
#else
    ht_lanes_bits a = (ht_lanes_bits)low, b = (ht_lanes_bits)high;
    a += 0x7fffu + ((a >> 16) & 1);
    b += 0x7fffu + ((b >> 16) & 1);
    return (ht_lanes)((a >> 16) | (b & 0xffff0000u));
#endif
}

/* --- exchanges of lanes ----------------------------------------------------------------------------------- */

/* Lanes of two vectors end to end, by constant indices. GCC before 12 has only the one builtin, Clang only the other. */
#ifdef __clang__
#define HT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ht_lanes_index){__VA_ARGS__})
#endif

/* a0 b0 a1 b1 .. of the lower halves, and of the upper ones. */
HT_INLINE ht_lanes ht_interleave_low(ht_lanes a, ht_lanes b) {
    return HT_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
HT_INLINE ht_lanes ht_interleave_high(ht_lanes a, ht_lanes b) {
    return HT_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/* Four perfect shuffles transpose a 16 x 16 matrix. (Loops are unrolled: an index that is not constant would put the
 * vectors into memory.) */
HT_INLINE void ht_transpose(ht_lanes m[HT_LANES]) {
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
        ht_lanes next[HT_LANES];
#pragma GCC unroll 8
        for (int i = 0; i < HT_LANES / 2; i++) {
            next[2 * i] = ht_interleave_low(m[i], m[i + HT_LANES / 2]);
            next[2 * i + 1] = ht_interleave_high(m[i], m[i + HT_LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < HT_LANES; i++)
            m[i] = next[i];
    }
}

/* m[i] = pairs of lanes of m[i] and m[i + left] added up. */
HT_INLINE void ht_sum_pairs(ht_lanes m[HT_LANES], const int left) {
#pragma GCC unroll 8
    for (int i = 0; i < left; i++)
        m[i] = ht_interleave_low(m[i], m[i + left]) + ht_interleave_high(m[i], m[i + left]);
}

/* Lane i of the result = the sum of m[i]'s lanes, by the same tree for every i. */
HT_INLINE ht_lanes ht_sum_each(ht_lanes m[HT_LANES]) {
    ht_sum_pairs(m, 8);
    ht_sum_pairs(m, 4);
    ht_sum_pairs(m, 2);
    ht_sum_pairs(m, 1);
    return m[0];
}

#endif
