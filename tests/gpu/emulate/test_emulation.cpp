/*
 * The emulation itself: that it computes what a GPU does (fragments, shuffles, shared memory), and that it sees what it is
 * there to see (barriers that are missed, memory that is not there, values that nobody wrote).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

#include "core/backend/cuda/mma.h"

/* Memory of n elements that kernels and host can use, filled from `values` where there are some. */
template <typename T> static T *pinned(int64_t n, const T *values) {
    T *memory = NULL;
    assert_int_equal(cudaMallocHost(&memory, (size_t)n * sizeof(T)), cudaSuccess);
    if (values) memcpy(memory, values, (size_t)n * sizeof(T));
    return memory;
}

/* --- threads ----------------------------------------------------------------------------------------------- */

static __global__ void who(int *out) {
    int block = (int)(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
    int thread = (int)(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
    int threads = (int)(blockDim.x * blockDim.y * blockDim.z);
    out[block * threads + thread] += block * 1000 + thread;
}

static void test_emulation__every_thread_of_every_block_runs_once(void **state) {
    (void)state;
    int zeros[2 * 3 * 4 * 5 * 2 * 7] = {0};
    int *out = pinned(840, zeros);
    HT_LAUNCH(who, dim3(2, 3, 4), dim3(5, 7, 1), 0, NULL, out);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    for (int i = 0; i < 840; i++)
        assert_int_equal(out[i], i / 35 * 1000 + i % 35);
    cudaFreeHost(out);
}

/* Each thread reads what another one, of another warp, has written before the barrier; twice. */
static __global__ void reverse(int *out) {
    HT_SHARED(int, values, [96]);
    HT_DYNAMIC_SHARED(int, more);
    int i = (int)threadIdx.x;
    values[i] = i;
    __syncthreads();
    more[i] = values[95 - i] + 1;
    __syncthreads();
    out[blockIdx.x * 96 + threadIdx.x] = more[(i + 50) % 96];
}

static void test_emulation__barriers_and_shared_memory(void **state) {
    (void)state;
    int *out = pinned<int>(2 * 96, NULL);
    for (int round = 0; round < 2; round++) { /* ascending and descending */
        HT_LAUNCH(reverse, dim3(2), dim3(96), 96 * sizeof(int), NULL, out);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        for (int i = 0; i < 192; i++)
            assert_int_equal(out[i], 95 - (i % 96 + 50) % 96 + 1);
    }
    cudaFreeHost(out);
}

static __global__ void talk(int *out, int lanes) {
    int lane = (int)threadIdx.x % 32, i = 0;
    unsigned all = lanes == 32 ? ~0u : (1u << lanes) - 1;
    int *to = out + threadIdx.x * 9;
    to[i++] = __shfl_down_sync(all, lane, 3);
    to[i++] = __shfl_up_sync(all, lane, 5);
    to[i++] = __shfl_xor_sync(all, lane, 1);
    to[i++] = __shfl_sync(all, lane, 7);
    to[i++] = __shfl_down_sync(all, lane, 3, 8);
    to[i++] = (int)__ballot_sync(all, lane % 3 == 0);
    to[i++] = __any_sync(all, lane == 4) + 2 * __any_sync(all, lane == 40);
    to[i++] = __all_sync(all, lane < 32) + 2 * __all_sync(all, lane < 5);
    __syncwarp(all);
    to[i++] = (int)__shfl_sync(all, (double)lane * 0.5, 2) + 10 * __reduce_add_sync(all, lane - 10);
}

static void test_emulation__shuffles_and_votes(void **state) {
    (void)state;
    enum { LANES = 32, THREADS = 64 };
    int *out = pinned<int>(THREADS * 9, NULL);
    HT_LAUNCH(talk, dim3(1), dim3(THREADS), 0, NULL, out, LANES);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    for (int t = 0; t < THREADS; t++) {
        int lane = t % 32;
        const int expected[9] = {lane + 3 < 32 ? lane + 3 : lane,
                                 lane >= 5 ? lane - 5 : lane,
                                 lane ^ 1,
                                 7,
                                 lane % 8 + 3 < 8 ? lane + 3 : lane,
                                 0x49249249,
                                 1,
                                 1,
                                 1 + 10 * 176};
        assert_memory_equal(out + t * 9, expected, sizeof expected);
    }
    cudaFreeHost(out);
}

static __global__ void count(int *out, unsigned long long *wide) {
    if (atomicAdd(out, 2) % 2 == 0) atomicAdd(wide, 1ull << 33);
}

static void test_emulation__integer_atomics(void **state) {
    (void)state;
    const int zero = 0;
    const unsigned long long none = 0;
    int *out = pinned(1, &zero);
    unsigned long long *wide = pinned(1, &none);
    HT_LAUNCH(count, dim3(3), dim3(40), 0, NULL, out, wide);
    assert_int_equal(*out, 240);
    assert_true(*wide == 120ull << 33);
    cudaFreeHost(out);
    cudaFreeHost(wide);
}

/* --- tensor cores and asynchronous copies ------------------------------------------------------------------ */

/* c [16, 8] = a [16, 16] b: b by columns, [8, 16]; or, transposed on the way, by rows, [16, 8]. */
static __global__ void multiply(float *c, const ht_bf16 *a, const ht_bf16 *b, int by_rows) {
    HT_SHARED(ht_bf16, tile_a, [16 * 16]);
    HT_SHARED(ht_bf16, tile_b, [16 * 16]);
    int lane = (int)threadIdx.x;
    for (int chunk = lane; chunk < 32; chunk += 32)
        ht_copy_async(tile_a + chunk * 8, a + chunk * 8, 16);
    for (int chunk = lane; chunk < 32; chunk += 32) /* the second half is zeros */
        ht_copy_async(tile_b + chunk * 8, chunk < 16 ? b + chunk * 8 : b, chunk < 16 ? 16 : 0);
    ht_copy_commit();
    ht_copy_wait<0>();
    __syncwarp();
    uint32_t ra[4], rb[4];
    ht_ldmatrix(ra, tile_a + lane % 16 * 16 + lane / 16 * 8);
    if (by_rows) /* rows 0..7, 8..15; then zeros */
        ht_ldmatrix_trans(rb, tile_b + lane * 8);
    else /* columns 0..7, 8..15 of 8 rows; then zeros */
        ht_ldmatrix(rb, tile_b + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
    const uint32_t pair[2] = {rb[0], rb[1]}, zeros[2] = {rb[2], rb[3]};
    float sum[4] = {100, 100, 100, 100};
    ht_mma(sum, ra, pair);
    ht_mma(sum, ra, zeros);
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

static void test_emulation__fragments_make_a_product(void **state) {
    (void)state;
    ht_bf16 a[16 * 16], b[8 * 16], b_rows[16 * 8];
    for (int i = 0; i < 256; i++)
        a[i] = __float2bfloat16_rn((float)(i * 7 % 31 - 15));
    for (int n = 0; n < 8; n++)
        for (int k = 0; k < 16; k++)
            b[n * 16 + k] = b_rows[k * 8 + n] = __float2bfloat16_rn((float)((n * 16 + k) * 11 % 29 - 14));
    ht_bf16 *da = pinned(256, a), *db = pinned(128, b), *db_rows = pinned(128, b_rows);
    for (int by_rows = 0; by_rows < 2; by_rows++) {
        float *c = pinned<float>(128, NULL);
        HT_LAUNCH(multiply, dim3(1), dim3(32), 0, NULL, c, da, by_rows ? db_rows : db, by_rows);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        for (int m = 0; m < 16; m++) {
            for (int n = 0; n < 8; n++) {
                float sum = 100;
                for (int k = 0; k < 16; k++)
                    sum += __bfloat162float(a[m * 16 + k]) * __bfloat162float(b[n * 16 + k]);
                assert_true(c[m * 8 + n] == sum);
            }
        }
        cudaFreeHost(c);
    }
    cudaFreeHost(da);
    cudaFreeHost(db);
    cudaFreeHost(db_rows);
}

/* Two groups; with one of them under way only the first has come. Then 8 bytes, 4 of them zeros. */
static __global__ void fetch(float *out, const float *from) {
    HT_SHARED(float, tile, [12]);
    ht_copy_async(tile, from, 16);
    ht_copy_commit();
    ht_copy_async(tile + 4, from + 4, 16);
    ht_copy_commit();
    ht_copy_wait<1>();
    out[0] = tile[0];
    out[1] = tile[4];
    ht_copy_wait<0>();
    out[2] = tile[4];
    tile[10] = 9;
    ht_copy_async<8>(tile + 8, from + 6, 4);
    ht_copy_commit();
    ht_copy_wait<0>();
    for (int i = 0; i < 3; i++)
        out[3 + i] = tile[8 + i];
}

static void test_emulation__a_copy_comes_when_it_is_waited_for(void **state) {
    (void)state;
    const float values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    float *from = pinned(8, values), *out = pinned<float>(6, NULL);
    HT_LAUNCH(fetch, dim3(1), dim3(1), 0, NULL, out, from);
    assert_true(out[0] == 1 && isnan(out[1]) && out[2] == 5);
    assert_true(out[3] == 7 && out[4] == 0 && out[5] == 9);
    cudaFreeHost(from);
    cudaFreeHost(out);
}

static __global__ void powers(float *out, const float *x) {
    out[threadIdx.x] = ht_exp2(x[threadIdx.x]);
}

static void test_emulation__powers_of_two(void **state) {
    (void)state;
    const float x[6] = {0, 3, -126, -127, -INFINITY, 0.5f}, expected[6] = {1, 8, 0x1p-126f, 0, 0, 1.41421356f};
    float *from = pinned(6, x), *out = pinned<float>(6, NULL);
    HT_LAUNCH(powers, dim3(1), dim3(6), 0, NULL, out, from);
    for (int i = 0; i < 6; i++)
        assert_true(fabsf(out[i] - expected[i]) <= 0x1p-22f * expected[i]);
    cudaFreeHost(from);
    cudaFreeHost(out);
}

/* --- what must be seen ------------------------------------------------------------------------------------- */

static __global__ void half_reach_the_barrier(void) {
    if (threadIdx.x < 40) __syncthreads();
}
static __global__ void one_returns_early(int *out) {
    if (threadIdx.x == 63) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
static __global__ void two_barriers(void) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
static __global__ void a_lane_is_missing(int *out) {
    if (threadIdx.x != 9) out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
}
static __global__ void lanes_disagree(void) {
    __syncwarp(threadIdx.x < 16 ? ~0u : 0xffff0000u);
}
static __global__ void not_in_the_mask(void) {
    __syncwarp(0xfffffffeu);
}
static __global__ void nothing(void) {
}
static __global__ void one_does_not_begin(int *out) {
    if (threadIdx.x == 63) return;
    ht_begin();
    out[threadIdx.x] = 1;
}

/* The launch fails, and the next one is as good as ever. */
#define FAILS(error, ...)                                                                                              \
    do {                                                                                                               \
        HT_LAUNCH(__VA_ARGS__);                                                                                        \
        assert_int_equal(cudaGetLastError(), error);                                                                   \
        HT_LAUNCH(nothing, dim3(2), dim3(64), 0, NULL);                                                                \
        assert_int_equal(cudaGetLastError(), cudaSuccess);                                                             \
    } while (0)

static void test_emulation__barriers_that_are_missed_fail_the_launch(void **state) {
    (void)state;
    int *out = pinned<int>(64, NULL);
    for (int round = 0; round < 2; round++) {
        FAILS(cudaErrorLaunchFailure, half_reach_the_barrier, dim3(3), dim3(64), 0, NULL);
        FAILS(cudaErrorLaunchFailure, one_returns_early, dim3(1), dim3(64), 0, NULL, out);
        FAILS(cudaErrorLaunchFailure, two_barriers, dim3(1), dim3(64), 0, NULL);
        FAILS(cudaErrorLaunchFailure, a_lane_is_missing, dim3(1), dim3(64), 0, NULL, out);
        FAILS(cudaErrorLaunchFailure, lanes_disagree, dim3(1), dim3(32), 0, NULL);
        FAILS(cudaErrorLaunchFailure, not_in_the_mask, dim3(1), dim3(32), 0, NULL);
        FAILS(cudaErrorLaunchFailure, a_lane_is_missing, dim3(1), dim3(40), 0, NULL,
              out); /* 8 lanes in the last warp */
    }
    cudaFreeHost(out);
}

static void test_emulation__kernels_launched_early_begin_by_waiting(void **state) {
    (void)state;
    const struct { cudaStream_t stream; } at_once = {NULL};
    int *out = pinned<int>(64, NULL);
    for (int round = 0; round < 2; round++) {
        HT_LAUNCH_EARLY(one_does_not_begin, dim3(1), dim3(63), 0, &at_once, out);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        HT_LAUNCH_EARLY(one_does_not_begin, dim3(1), dim3(64), 0, &at_once, out);
        assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    }
    cudaFreeHost(out);
}

static __global__ void too_much_static_memory(void) {
    HT_SHARED(char, much, [49 * 1024]);
    much[threadIdx.x] = 0;
}
static __global__ void too_much_together(void) {
    HT_SHARED(char, some, [40 * 1024]);
    some[threadIdx.x] = 0;
}

static void test_emulation__limits_of_a_launch(void **state) {
    (void)state;
    FAILS(cudaErrorInvalidConfiguration, nothing, dim3(1), dim3(1025), 0, NULL);
    FAILS(cudaErrorInvalidConfiguration, nothing, dim3(0), dim3(32), 0, NULL);
    FAILS(cudaErrorInvalidConfiguration, nothing, dim3(1, 65536), dim3(32), 0, NULL);
    FAILS(cudaErrorInvalidConfiguration, nothing, dim3(1, 1, 65536), dim3(32), 0, NULL);
    FAILS(cudaErrorInvalidConfiguration, nothing, dim3(1), dim3(1, 1, 65), 0, NULL);
    FAILS(cudaErrorInvalidValue, nothing, dim3(1), dim3(32), 49 * 1024, NULL);
    assert_int_equal(
        cudaFuncSetAttribute((const void *)nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 50 * 1024),
        cudaSuccess);
    HT_LAUNCH(nothing, dim3(1), dim3(32), 49 * 1024, NULL);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(
        cudaFuncSetAttribute((const void *)nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * 1024),
        cudaErrorInvalidValue);
    (void)cudaGetLastError();
    FAILS(cudaErrorLaunchFailure, too_much_static_memory, dim3(1), dim3(32), 0, NULL);
    FAILS(cudaErrorLaunchFailure, too_much_together, dim3(1), dim3(32), 9 * 1024, NULL);
    assert_int_equal(
        cudaFuncSetAttribute((const void *)too_much_together, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 * 1024),
        cudaSuccess);
    FAILS(cudaErrorLaunchFailure, too_much_together, dim3(1), dim3(32), 190 * 1024, NULL);
}

/* The barrier between writing and reading is missing. */
static __global__ void race(int *out) {
    HT_SHARED(int, value, [1]);
    if (threadIdx.x == 5) value[0] = 7;
    out[threadIdx.x] = value[0];
}

static void test_emulation__a_missing_barrier_changes_the_bits(void **state) {
    (void)state;
    int *first = pinned<int>(64, NULL), *second = pinned<int>(64, NULL);
    HT_LAUNCH(race, dim3(1), dim3(64), 0, NULL, first);
    HT_LAUNCH(race, dim3(1), dim3(64), 0, NULL, second);
    assert_memory_not_equal(first, second, 64 * sizeof(int));
    cudaFreeHost(first);
    cudaFreeHost(second);
}

/* Of shared memory too in the second block, though the first has written it. */
static __global__ void nobody_wrote(float *out) {
    HT_SHARED(float, fixed, [4]);
    HT_DYNAMIC_SHARED(float, dynamic);
    out[blockIdx.x * 2] = fixed[3];
    out[blockIdx.x * 2 + 1] = dynamic[3];
    fixed[3] = dynamic[3] = 1;
}

static void test_emulation__memory_nobody_wrote_is_nan(void **state) {
    (void)state;
    float *out = pinned<float>(5, NULL);
    HT_LAUNCH(nobody_wrote, dim3(2), dim3(1), 4 * sizeof(float), NULL, out);
    for (int i = 0; i < 5; i++)
        assert_true(isnan(out[i]));
    cudaFreeHost(out);
}

static void test_emulation__memory_comes_to_an_end(void **state) {
    (void)state;
    size_t before, after, total;
    void *memory = NULL, *more = NULL;
    assert_int_equal(cudaMemGetInfo(&before, &total), cudaSuccess);
    assert_int_equal(cudaMalloc(&memory, 1 << 20), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&after, &total), cudaSuccess);
    assert_int_equal(before - after, 1 << 20);
    assert_int_equal(cudaMalloc(&more, after + 1), cudaErrorMemoryAllocation);
    assert_int_equal(cudaFree(memory), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&after, &total), cudaSuccess);
    assert_int_equal(before, after);
    cudaGetLastError();
}

static void test_emulation__copies_check_their_side(void **state) {
    (void)state;
    char *memory = NULL, host[100] = {0};
    assert_int_equal(cudaMalloc(&memory, 100), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(memory, host, 100, cudaMemcpyHostToDevice, NULL), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(memory + 1, host, 100, cudaMemcpyHostToDevice, NULL), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(memory, host, 100, cudaMemcpyDeviceToHost, NULL), cudaErrorInvalidValue);
    assert_int_equal(cudaMemsetAsync(host, 0, 100, NULL), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaFree(memory), cudaSuccess);
    assert_int_equal(cudaFree(host), cudaErrorInvalidValue);
    (void)cudaGetLastError();
}

static __global__ void add_one(int *values) {
    values[threadIdx.x]++;
}

/* Nothing happens until somebody waits; pinned memory that changes meanwhile has changed, other memory has been read. */
static void test_emulation__a_stream_works_when_it_is_waited_for(void **state) {
    (void)state;
    cudaStream_t stream;
    cudaEvent_t event;
    int *memory = NULL, *staging = pinned<int>(4, NULL), pageable = 5;
    assert_int_equal(cudaMalloc(&memory, 2 * sizeof(int)), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    staging[0] = 10;
    assert_int_equal(cudaMemcpyAsync(memory, staging, sizeof(int), cudaMemcpyHostToDevice, stream), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(memory + 1, &pageable, sizeof(int), cudaMemcpyHostToDevice, stream), cudaSuccess);
    staging[0] = 20;
    pageable = 6;
    assert_int_equal(cudaEventRecord(event, stream), cudaSuccess);
    HT_LAUNCH(add_one, dim3(1), dim3(2), 0, stream, memory);
    assert_int_equal(cudaMemcpyAsync(staging + 2, memory, 2 * sizeof(int), cudaMemcpyDeviceToHost, stream),
                     cudaSuccess);
    assert_int_equal(cudaEventSynchronize(event), cudaSuccess);
    staging[0] = 30;
    assert_int_equal(staging[2], -1);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_true(staging[2] == 21 && staging[3] == 6);
    HT_LAUNCH(half_reach_the_barrier, dim3(1), dim3(64), 0, stream);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    cudaEventDestroy(event);
    cudaStreamDestroy(stream);
    cudaFreeHost(staging);
    cudaFree(memory);
}

/* A graph does nothing until it is launched, then everything each time, with the arguments of the capture. */
static void test_emulation__graphs_repeat_what_was_captured(void **state) {
    (void)state;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    int *memory = NULL, *other = NULL, *back = pinned<int>(2, NULL);
    assert_int_equal(cudaMalloc(&memory, 2 * sizeof(int)), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaMemsetAsync(memory, 0, 2 * sizeof(int), stream), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    HT_LAUNCH(add_one, dim3(1), dim3(2), 0, stream, memory);
    HT_LAUNCH(add_one, dim3(1), dim3(1), 0, stream, memory);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    assert_int_equal(cudaGraphInstantiateWithFlags(&exec, graph, 0), cudaSuccess);
    assert_int_equal(cudaGraphDestroy(graph), cudaSuccess);
    for (int times = 0; times < 3; times++) {
        assert_int_equal(cudaMemcpyAsync(back, memory, 2 * sizeof(int), cudaMemcpyDeviceToHost, stream), cudaSuccess);
        assert_int_equal(cudaGraphLaunch(exec, stream), cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
        assert_true(back[0] == 2 * times && back[1] == times);
    }
    assert_int_equal(cudaGraphExecDestroy(exec), cudaSuccess);
    /* what waits or allocates is refused, and spoils the capture */
    for (int what = 0; what < 2; what++) {
        assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
        assert_int_equal(what ? cudaStreamSynchronize(stream) : cudaMalloc(&other, 4), cudaErrorStreamCaptureUnsupported);
        assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
    }
    assert_int_equal(cudaGetLastError(), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    cudaStreamDestroy(stream);
    cudaFreeHost(back);
    cudaFree(memory);
}

#if defined(__SANITIZE_ADDRESS__)
enum { GLOBAL_WRITE, GLOBAL_READ, STATIC_SHARED, DYNAMIC_SHARED, ASYNC_COPY, MISALIGNED, FROM_THE_HOST, PLACES };

static __global__ void step_outside(float *memory, int place, int by) {
    HT_SHARED(float, fixed, [32]);
    HT_DYNAMIC_SHARED(float, dynamic);
    int i = (int)threadIdx.x;
    fixed[i] = dynamic[i] = 0;
    if (place == GLOBAL_WRITE) memory[i + by] = 0;
    if (place == GLOBAL_READ) fixed[i] = memory[i + by];
    if (place == STATIC_SHARED) fixed[i + by] = 0;
    if (place == DYNAMIC_SHARED) dynamic[i + by] = 0;
    if (place == ASYNC_COPY && i % 4 == 0) ht_copy_async(fixed + i, memory + i + by / 16 * 16, 16);
    if (place == MISALIGNED && i % 8 == 0) *(float4 *)(fixed + i + by) = make_float4(0, 0, 0, 0);
    ht_copy_wait<0>();
}

static int dies(int place, int by) {
    pid_t child = fork();
    if (child == 0) {
        if (by) fclose(stderr), close(2); /* the report */
        float *memory = NULL;
        cudaMalloc(&memory, 32 * sizeof *memory);
        if (place == FROM_THE_HOST && by) memory[7] = 1;
        HT_LAUNCH(step_outside, dim3(1), dim3(32), 32 * sizeof(float), NULL, memory, place, by);
        _exit(cudaGetLastError() != cudaSuccess);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status != 0;
}

static void test_emulation__the_sanitizer_sees_what_lies_outside(void **state) {
    (void)state;
    for (int place = 0; place < PLACES; place++) {
        assert_false(dies(place, 0));
        assert_true(dies(place, place == ASYNC_COPY ? 16 : 1));
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_emulation__every_thread_of_every_block_runs_once),
        cmocka_unit_test(test_emulation__barriers_and_shared_memory),
        cmocka_unit_test(test_emulation__shuffles_and_votes),
        cmocka_unit_test(test_emulation__integer_atomics),
        cmocka_unit_test(test_emulation__fragments_make_a_product),
        cmocka_unit_test(test_emulation__a_copy_comes_when_it_is_waited_for),
        cmocka_unit_test(test_emulation__powers_of_two),
        cmocka_unit_test(test_emulation__barriers_that_are_missed_fail_the_launch),
        cmocka_unit_test(test_emulation__kernels_launched_early_begin_by_waiting),
        cmocka_unit_test(test_emulation__limits_of_a_launch),
        cmocka_unit_test(test_emulation__a_missing_barrier_changes_the_bits),
        cmocka_unit_test(test_emulation__memory_nobody_wrote_is_nan),
        cmocka_unit_test(test_emulation__memory_comes_to_an_end),
        cmocka_unit_test(test_emulation__copies_check_their_side),
        cmocka_unit_test(test_emulation__a_stream_works_when_it_is_waited_for),
        cmocka_unit_test(test_emulation__graphs_repeat_what_was_captured),
#if defined(__SANITIZE_ADDRESS__)
        cmocka_unit_test(test_emulation__the_sanitizer_sees_what_lies_outside),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
