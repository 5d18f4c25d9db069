#include "core/base/rng.h"

#include <math.h>

void ht_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
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

__extension__ typedef unsigned __int128 u128;

/* One 128-bit block: key = seed, counter = (index, stream). */
static void block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    ht_philox(key, counter, out);
}

uint64_t ht_rng_stream(ht_rng_purpose purpose, uint64_t a, uint64_t b) {
    uint32_t out[4];
    block(a, b, (uint64_t)purpose, out);
    return (uint64_t)out[1] << 32 | out[0];
}

uint64_t ht_rng_u64(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t out[4];
    block(seed, stream, index, out);
    return (uint64_t)out[1] << 32 | out[0];
}

double ht_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(ht_rng_u64(seed, stream, index) >> 11) * 0x1p-53;
}

uint64_t ht_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    /* 128-bit multiply-shift; the bias is n / 2^64, below anything observable. */
    return (uint64_t)(((u128)ht_rng_u64(seed, stream, index) * n) >> 64);
}

double ht_rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t out[4];
    block(seed, stream, index, out);
    double u = ((double)(((uint64_t)out[1] << 32 | out[0]) >> 11) + 1.0) * 0x1p-53; /* (0, 1] */
    double v = (double)(((uint64_t)out[3] << 32 | out[2]) >> 11) * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

void ht_rng_permutation(uint64_t seed, uint64_t stream, int64_t n, int64_t *order) {
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)ht_rng_below(seed, stream, (uint64_t)i, (uint64_t)i + 1);
        int64_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}
