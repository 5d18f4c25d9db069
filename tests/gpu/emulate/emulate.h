/*
 * emulate.h: between the two halves of the emulation, the host's side (host.cpp) and the threads (fibers.cpp).
 */
#ifndef HT_TESTS_GPU_EMULATE_EMULATE_H
#define HT_TESTS_GPU_EMULATE_EMULATE_H

#include <cuda_runtime.h>

/* Shared memory of one block, as on sm_90: static, which is also the most of static and dynamic together where a kernel has not
 * been allowed more; and that of one which has. */
enum { HT_EMULATED_STATIC_SHARED_LIMIT = 48 << 10, HT_EMULATED_SHARED_LIMIT = 227 << 10 };

/* Runs a launch whose shape has been checked, of blocks that may have so much shared memory; false: an error, which has been
 * printed. */
bool ht_emulated_run_grid(const ht_emulated_launch *launch, size_t shared_limit);

#endif
