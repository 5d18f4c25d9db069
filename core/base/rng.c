#include "core/base/rng.h"

#include <math.h>

#include "core/base/philox.h"

__extension__ typedef unsigned __int128 u128;

uint64_t ht_rng_stream(ht_rng_purpose purpose, uint64_t a, uint64_t b) {
    uint32_t out[4];
    ht_philox_block(a, b, (uint64_t)purpose, out);
    return (uint64_t)out[1] << 32 | out[0];
}

uint64_t ht_rng_u64(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t out[4];
    ht_philox_block(seed, stream, index, out);
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
    ht_philox_block(seed, stream, index, out);
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
