/*
 * philox.h: Philox4x32-10 as an inline function, for loops that draw many numbers at once (rng.h is for all others).
 *
 * HT_INLINE is what stands before such functions; a compiler that needs more than `static inline` defines it first.
 */
#ifndef HT_BASE_PHILOX_H
#define HT_BASE_PHILOX_H

#include <stdint.h>

#ifndef HT_INLINE
#define HT_INLINE static inline
#endif

/* Raw block: ten rounds of Philox4x32 on `counter` under `key`. */
HT_INLINE void ht_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The 128-bit block (index, stream) of a seed: what every number of rng.h is made of. */
HT_INLINE void ht_philox_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    ht_philox(key, counter, out);
}

#endif
