/*
 * What races.cpp tells, and what it does not: each kernel with what orders its accesses, and without. In one
 * launch as in the next, whose order of threads is the other one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include "core/backend/cuda/mma.h"

/* What orders: nothing, or what should. */
enum order { NOTHING, BARRIER, WARP, SHUFFLE, FENCE, FENCE_AND_BARRIER };

static __device__ void wait(order by) {
    if (by == BARRIER) __syncthreads();
    if (by == WARP) __syncwarp();
    if (by == SHUFFLE) (void)__shfl_sync(HT_ALL_LANES, 1, 0);
}

/* Each thread writes a word and reads the one of the thread `distance` further on. */
static __global__ void write_then_read(unsigned *global, order by, int distance) {
    HT_SHARED(unsigned, words, [64]);
    unsigned i = threadIdx.x, other = (i + (unsigned)distance) % blockDim.x;
    words[i] = i;
    wait(by);
    global[blockIdx.x * 64 + i] = words[other];
}

static __global__ void read_then_write(unsigned *global, order by, int distance) {
    HT_SHARED(unsigned, words, [64]);
    unsigned i = threadIdx.x, other = (i + (unsigned)distance) % blockDim.x;
    words[i] = i;
    __syncthreads();
    unsigned sum = words[other];
    wait(by);
    words[i] = sum;
    global[blockIdx.x * 64 + i] = sum;
}

/* All read a word; one of them writes it. */
static __global__ void all_read_one_writes(unsigned *, order by, int writer) {
    HT_SHARED(unsigned, word, [1]);
    if (threadIdx.x == 0) word[0] = 1;
    __syncthreads();
    unsigned sum = word[0];
    wait(by);
    if (threadIdx.x == (unsigned)writer) word[0] = sum + 1;
}

/* Two threads fill a half of each word. */
static __global__ void halves(unsigned *global, order, int) {
    uint16_t *half = reinterpret_cast<uint16_t *>(global) + blockIdx.x * blockDim.x + threadIdx.x;
    *half = 1;
    *half = (uint16_t)(*half + 1);
}

/* A copy into what others may still read. */
static __global__ void copy_over(unsigned *global, order by, int distance) {
    HT_SHARED(unsigned, words, [64 * 4]);
    unsigned i = threadIdx.x, other = (i + (unsigned)distance) % blockDim.x;
    for (unsigned k = 0; k < 4; k++)
        words[i * 4 + k] = k;
    __syncthreads();
    uint32_t rows[4];
    ht_ldmatrix(rows, words + other * 4);
    wait(by);
    ht_copy_async(words + i * 4, global + i * 4, 16);
    ht_copy_commit();
    ht_copy_wait<0>();
}

/* The last block to arrive reads what the others have left. */
static __global__ void last_block(unsigned *global, order by, int) {
    HT_SHARED(unsigned, ticket, [1]);
    unsigned *counter = global, *left = global + 64;
    left[blockIdx.x * 64 + threadIdx.x] = blockIdx.x;
    if (by != FENCE) __syncthreads();
    if (threadIdx.x == 0) {
        if (by != BARRIER) __threadfence();
        ticket[0] = atomicAdd(counter, 1u);
        if (by != BARRIER) __threadfence();
    }
    __syncthreads();
    if (ticket[0] % gridDim.x != gridDim.x - 1) return;
    unsigned sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++)
        sum += __ldcg(left + b * 64 + threadIdx.x);
    global[64 * 8 + threadIdx.x] = sum;
}

/* Blocks that read and write each other's words. */
static __global__ void other_block_reads(unsigned *global, order, int distance) {
    unsigned sum = global[(blockIdx.x + (unsigned)distance) % gridDim.x * 64 + threadIdx.x];
    global[blockIdx.x * 64 + threadIdx.x] = sum + 1;
}
static __global__ void all_blocks_write(unsigned *global, order, int distance) {
    global[blockIdx.x * (unsigned)distance + threadIdx.x] = 1;
}

static const struct {
    const char *what;
    void (*kernel)(unsigned *, order, int);
    order by;
    int argument;
    bool race;
} cases[] = {
    {"another warp reads what was written", write_then_read, NOTHING, 32, true},
    {"__syncwarp is for one warp", write_then_read, WARP, 32, true},
    {"a barrier is for all", write_then_read, BARRIER, 32, false},
    {"another lane reads what was written", write_then_read, NOTHING, 1, true},
    {"a thread is ordered by itself", write_then_read, NOTHING, 0, false},
    {"another warp writes what was read", read_then_write, NOTHING, 32, true},
    {"the same behind a barrier", read_then_write, BARRIER, 32, false},
    {"another lane writes what was read", read_then_write, NOTHING, 32 + 1, true},
    {"a thread writes what it has read", read_then_write, NOTHING, 0, false},
    {"one of its readers writes a word", all_read_one_writes, NOTHING, 63, true},
    {"the first one, too", all_read_one_writes, NOTHING, 0, true},
    {"its readers are of two warps", all_read_one_writes, WARP, 40, true},
    {"the same behind a barrier", all_read_one_writes, BARRIER, 40, false},
    {"halves of a word", halves, NOTHING, 0, false},
    {"a copy over what others read", copy_over, NOTHING, 33, true},
    {"the same behind a barrier", copy_over, BARRIER, 33, false},
    {"the last block", last_block, FENCE_AND_BARRIER, 0, false},
    {"the last block without a fence", last_block, BARRIER, 0, true},
    {"the last block without a barrier", last_block, FENCE, 0, true},
    {"a block reads what another writes", other_block_reads, NOTHING, 1, true},
    {"a block reads what it writes", other_block_reads, NOTHING, 0, false},
    {"blocks write the same words", all_blocks_write, NOTHING, 0, true},
    {"blocks overlap by half", all_blocks_write, NOTHING, 32, true},
    {"blocks write words of their own", all_blocks_write, NOTHING, 64, false},
};

static void test_races__what_is_told(void **state) {
    (void)state;
    unsigned *memory = NULL;
    assert_int_equal(cudaMallocHost(&memory, 4096), cudaSuccess);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int round = 0; round < 2; round++) {
            memset(memory, 0, 4096);
            HT_LAUNCH(cases[i].kernel, dim3(4), dim3(64), 0, NULL, memory, cases[i].by, cases[i].argument);
            if ((cudaGetLastError() != cudaSuccess) != cases[i].race)
                fail_msg("%s: a race was %s", cases[i].what, cases[i].race ? "not told" : "told");
        }
    }
    cudaFreeHost(memory);
}

/* One warp, whose lanes __syncwarp orders. */
static void test_races__lanes_of_a_warp(void **state) {
    (void)state;
    static const struct {
        order by;
        bool race;
    } lanes[] = {{NOTHING, true}, {SHUFFLE, true}, {WARP, false}, {BARRIER, false}};
    unsigned *memory = NULL;
    assert_int_equal(cudaMallocHost(&memory, 4096), cudaSuccess);
    memset(memory, 0, 4096);
    for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++) {
        HT_LAUNCH(write_then_read, dim3(2), dim3(32), 0, NULL, memory, lanes[i].by, 1);
        assert_int_equal(cudaGetLastError() != cudaSuccess, lanes[i].race);
        HT_LAUNCH(all_read_one_writes, dim3(2), dim3(32), 0, NULL, memory, lanes[i].by, 3);
        assert_int_equal(cudaGetLastError() != cudaSuccess, lanes[i].race);
    }
    cudaFreeHost(memory);
}

/* What it reads before it has waited may be the work of the kernel before. */
static __global__ void touch(unsigned *global, int early) {
    HT_SHARED(unsigned, own, [64]);
    own[threadIdx.x] = early ? global[threadIdx.x] : 1;
    __syncthreads();
    ht_begin();
    global[threadIdx.x] = own[63 - threadIdx.x];
}

static void test_races__a_kernel_launched_early(void **state) {
    (void)state;
    const struct {
        cudaStream_t stream;
    } at_once = {NULL};
    unsigned *memory = NULL;
    assert_int_equal(cudaMallocHost(&memory, 4096), cudaSuccess);
    for (int early = 0; early < 2; early++) {
        HT_LAUNCH_EARLY(touch, dim3(1), dim3(64), 0, &at_once, memory, early);
        assert_int_equal(cudaGetLastError(), early ? cudaErrorLaunchFailure : cudaSuccess);
        HT_LAUNCH(touch, dim3(1), dim3(64), 0, NULL, memory, early);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
    }
    cudaFreeHost(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_races__what_is_told),
        cmocka_unit_test(test_races__lanes_of_a_warp),
        cmocka_unit_test(test_races__a_kernel_launched_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
