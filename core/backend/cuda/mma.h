/*
 * mma.h: instructions of the tensor cores, of asynchronous copies, of powers and reciprocals, sm_80 and newer. The one
 * place where they are written; tests/gpu emulates them.
 *
 * Fragments (PTX manual, "Matrix fragments for mma.m16n8k16"), of lane l with g = l / 4, t = l % 4; two bf16 a
 * register, the lower column (of A) or row (of B) in the low half:
 *   a[i]  row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next
 *   b[i]  rows 2 t + 8 i and the next, column g
 *   d[i]  row g + 8 (i / 2), column 2 t + i % 2
 */
#ifndef HT_BACKEND_CUDA_MMA_H
#define HT_BACKEND_CUDA_MMA_H

#include "core/backend/cuda/device.h"

#ifdef HT_EMULATED
#include <ht_emulated_mma.h>
#else

/* d += a b: a [16, 16], b [16, 8] in bf16, d [16, 8] in f32. All lanes of a warp together. */
__device__ __forceinline__ void ht_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/*
 * Four 8 x 8 matrices of bf16 from shared memory: lane 8 m + r gives the address (a multiple of 16 bytes) of row r of
 * matrix m; register m of lane (g, t) becomes row g, columns 2 t and 2 t + 1 of matrix m.
 */
__device__ __forceinline__ void ht_ldmatrix(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* The same of the transposes: register m becomes rows 2 t and 2 t + 1, column g of matrix m. */
__device__ __forceinline__ void ht_ldmatrix_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* Begins to copy SIZE bytes (8 or 16) from global to shared memory: the first `bytes` (0 to SIZE) of them, zeros for the
 * rest. Both addresses are multiples of SIZE; with bytes 0 nothing is read. */
template <int SIZE = 16> __device__ __forceinline__ void ht_copy_async(void *to, const void *from, int bytes) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    if constexpr (SIZE == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

/* Closes a group of copies; the thread's copies since the last one are in it. */
__device__ __forceinline__ void ht_copy_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits for this thread's groups but the last UNDER_WAY; other threads see their copies after a barrier. */
template <int UNDER_WAY> __device__ __forceinline__ void ht_copy_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(UNDER_WAY) : "memory");
}

/* Begins to bring `bytes` bytes, a multiple of 16 as the address is, into the second cache, for reads to come: nothing but
 * their time depends on it, whoever writes there. */
__device__ __forceinline__ void ht_prefetch(const void *from, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
#else
    (void)from, (void)bytes;
#endif
}

/* 2^x to 2^-22 of it; 0 where it is below 2^-126. */
__device__ __forceinline__ float ht_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / x to 2^-23 of it; 0 where it is below 2^-126. */
__device__ __forceinline__ float ht_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
#endif
