/*
 * ht_emulated_mma.h: what core/backend/cuda/mma.h is emulated by (mma.cpp, fibers.cpp). The meaning of each is its
 * namesake's there; where an element lies in a lane's registers follows the PTX manual's figures of the fragments.
 */
#ifndef HT_EMULATED_MMA_H
#define HT_EMULATED_MMA_H

#include <cuda_runtime.h>

void ht_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], HT_HERE);
void ht_ldmatrix(uint32_t (&r)[4], const void *row, HT_HERE);
void ht_ldmatrix_trans(uint32_t (&r)[4], const void *row, HT_HERE);

void ht_emulated_copy(void *to, const void *from, int bytes, int size, const char *file, int line);
void ht_emulated_copy_begin(void *to, const unsigned char *bytes, int size);
void ht_emulated_copy_commit(void);
void ht_emulated_copy_wait(int under_way);

template <int SIZE = 16> void ht_copy_async(void *to, const void *from, int bytes, HT_HERE) {
    ht_emulated_copy(to, from, bytes, SIZE, file, line);
}
static inline void ht_copy_commit(void) {
    ht_emulated_copy_commit();
}
template <int UNDER_WAY> void ht_copy_wait(void) {
    ht_emulated_copy_wait(UNDER_WAY);
}

void ht_prefetch(const void *from, unsigned bytes); /* reads them, so that AddressSanitizer sees what lies outside */

static inline float ht_exp2(float x) {
    return x < -126 ? 0 : exp2f(x);
}
static inline float ht_reciprocal(float x) {
    float y = 1 / x;
    return fabsf(y) < 0x1p-126f ? 0 : y;
}

#endif
