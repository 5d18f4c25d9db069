/*
 * emulate.h: between the parts of the emulation: the host's side (host.cpp), the threads (fibers.cpp), and what watches their
 * accesses (races.cpp).
 */
#ifndef HT_TESTS_GPU_EMULATE_EMULATE_H
#define HT_TESTS_GPU_EMULATE_EMULATE_H

#include <cuda_runtime.h>

/* Shared memory of one block, as on sm_90: static, which is also the most of static and dynamic together where a kernel has not
 * been allowed more; and that of one which has. */
enum { HT_EMULATED_STATIC_SHARED_LIMIT = 48 << 10, HT_EMULATED_SHARED_LIMIT = 227 << 10 };

enum { HT_EMULATED_STACK_BYTES = 256 << 10 }; /* of a thread */

/* Runs a launch whose shape has been checked, of blocks that may have so much shared memory; false: an error, which has been
 * printed. */
bool ht_emulated_run_grid(const ht_emulated_launch *launch, size_t shared_limit);

/* The running thread has waited for the kernel before, or need not. */
bool ht_emulated_begun(void);

/* From here on accesses of kernels to this memory are watched for races, until it is forgotten; `shared`: a block's. */
void ht_emulated_watch(const void *start, size_t bytes, bool shared);
void ht_emulated_forget(const void *start);
/* What orders them: a launch begins, or has ended (NULL); its next block begins; a thread of it runs, on this stack, whose warp
 * has so many __syncwarp behind it; all threads of the block have reached a barrier. */
void ht_emulated_race_launch(const ht_emulated_launch *launch);
void ht_emulated_race_block(void);
void ht_emulated_race_thread(int thread, const void *stack, uint32_t syncs);
void ht_emulated_race_barrier(void);
/* Accesses that no compiled kernel makes itself. */
void ht_emulated_reads(const void *at, size_t bytes);
void ht_emulated_writes(const void *at, size_t bytes);

#endif
