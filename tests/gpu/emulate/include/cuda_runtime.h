/*
 * cuda_runtime.h, emulated: the part of CUDA that core/backend/cuda uses, on the CPU. Its sources, compiled as C++ with
 * this folder first on the include path, run block by block; the threads of a block are fibers (fibers.cpp).
 *
 * Stricter than a GPU, so that a mistake becomes a failed test:
 *   - memory, global and shared, is separate heap blocks, filled with 0xff (NaN, -1) until written: AddressSanitizer
 *     sees what lies outside, and host code that touches the device's memory; a comparison sees what was not initialised;
 *   - a barrier that not all threads of the block reach, or reach in different lines, is an error of the launch, and so is
 *     a warp's operation that not all lanes of its mask reach; nothing hangs;
 *   - blocks and threads run in ascending order in one launch and in descending order in the next, each as far as it gets:
 *     where a barrier is missing, the second of two equal calls gives another result;
 *   - two accesses that nothing orders, one of them a write, are an error of the launch (races.cpp);
 *   - a launch outside of the limits of the hardware is refused;
 *   - a thread of a kernel that is launched early must not touch global memory or end before it has waited for the kernel
 *     before (ht_begin);
 *   - a stream does its work only when it is waited for: what was reused, freed or read too early is wrong every time.
 * What it does not see: two streams that touch the same memory, and timing.
 */
#ifndef HT_EMULATED_CUDA_RUNTIME_H
#define HT_EMULATED_CUDA_RUNTIME_H
#define HT_EMULATED

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define CUDART_VERSION 13000

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {
    }
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
static inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

/* --- the host's side --------------------------------------------------------------------------------------- */

#define HT_EMULATED_ERRORS(X)                                                                                          \
    X(cudaSuccess, 0, "no error")                                                                                      \
    X(cudaErrorInvalidValue, 1, "invalid argument")                                                                    \
    X(cudaErrorMemoryAllocation, 2, "out of memory")                                                                   \
    X(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")                                              \
    X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                                                    \
    X(cudaErrorNotReady, 600, "device not ready")                                                                      \
    X(cudaErrorLaunchFailure, 719, "unspecified launch failure")                                                       \
    X(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing")                      \
    X(cudaErrorStreamCaptureInvalidated, 901, "operation failed due to a previous error during capture")

enum cudaError_t {
#define HT_EMULATED_ENUM(name, code, text) name = code,
    HT_EMULATED_ERRORS(HT_EMULATED_ENUM)
#undef HT_EMULATED_ENUM
};

const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void); /* and forgets it */

typedef struct ht_emulated_stream *cudaStream_t;
typedef struct ht_emulated_event *cudaEvent_t;
typedef struct ht_emulated_graph *cudaGraph_t;
typedef struct ht_emulated_graph_exec *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

struct cudaFuncAttributes {
    size_t sharedSizeBytes;
    int ptxVersion;
};

static const size_t HT_EMULATED_MEMORY = (size_t)4 << 30; /* bytes of the GPU's */

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory); /* waits for nothing: a GPU's may wait, and need not */
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaFreeHost(void *memory);
/* `to` or `from` on the device must lie inside one allocation. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream); /* does a piece of its work each time */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
/* While a stream captures, its work goes into the graph; what waits, allocates or frees is an error and spoils it. */
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

template <typename T> cudaError_t cudaMalloc(T **memory, size_t bytes) {
    return cudaMalloc((void **)memory, bytes);
}
template <typename T> cudaError_t cudaMallocHost(T **memory, size_t bytes) {
    return cudaMallocHost((void **)memory, bytes);
}
template <typename... P> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*kernel)(P...)) {
    return cudaFuncGetAttributes(attributes, (const void *)kernel);
}

/* --- launches ---------------------------------------------------------------------------------------------- */

/* Work for a stream, in its order; NULL: at once. */
void ht_emulated_enqueue(cudaStream_t stream, std::function<void(void)> work);

struct ht_emulated_launch {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t shared;
    std::function<void(void)> thread; /* one thread of the kernel */
    bool early;                       /* its threads have to begin with ht_begin */
};
/* An error of the shape is left to cudaGetLastError, one of the kernel to what waits for the stream. */
void ht_emulated_run(const ht_emulated_launch &launch, cudaStream_t stream);

/* Arguments become the kernel's parameters now, as on a GPU. */
template <typename... P, typename... A>
void ht_emulated_call(const char *name, bool early, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                      cudaStream_t stream, A... arguments) {
    std::function<void(void)> thread = std::bind(kernel, static_cast<P>(arguments)...);
    ht_emulated_run({name, (const void *)kernel, grid, block, shared, thread, early}, stream);
}

#define HT_LAUNCH(kernel, grid, block, shared, stream, ...)                                                            \
    ht_emulated_call(#kernel, false, (kernel), (grid), (block), (size_t)(shared), (stream)__VA_OPT__(, ) __VA_ARGS__)
#define HT_LAUNCH_EARLY(kernel, grid, block, shared, cuda, ...)                                                        \
    ht_emulated_call(#kernel, true, (kernel), (grid), (block), (size_t)(shared), (cuda)->stream __VA_OPT__(, ) __VA_ARGS__)

/* --- the device's side: a thread's place, shared memory ---------------------------------------------------- */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* The running block's memory for the variable that `key` stands for. */
void *ht_emulated_shared(const void *key, size_t bytes);
void *ht_emulated_dynamic_shared(void);

#define HT_SHARED(type, name, dims)                                                                                    \
    typedef type name##_shared dims;                                                                                   \
    static char name##_key;                                                                                            \
    name##_shared &name = *(name##_shared *)ht_emulated_shared(&name##_key, sizeof(name##_shared))
#define HT_DYNAMIC_SHARED(type, name) type *name = (type *)ht_emulated_dynamic_shared()

/* --- barriers and warps ------------------------------------------------------------------------------------ */

#define HT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void ht_begin(void);
void ht_emulated_barrier(const char *file, int line);
static inline void __syncthreads(HT_HERE) {
    ht_emulated_barrier(file, line);
}
void ht_emulated_fence(void);
static inline void __threadfence(void) {
    ht_emulated_fence();
}

/*
 * Every lane of the mask gives `bytes` bytes (at most HT_EMULATED_LANE_BYTES) and waits for the others; the result is what
 * each gave, lane after lane, valid until the thread's next operation of its warp.
 */
enum { HT_EMULATED_LANE_BYTES = 32 };
typedef unsigned char ht_emulated_lane[HT_EMULATED_LANE_BYTES];
const ht_emulated_lane *ht_emulated_exchange(unsigned mask, const void *given, size_t bytes, const char *file,
                                             int line);
extern int ht_emulated_lane_id; /* of the running thread */
/* Reports an error of the running kernel, with its place in the source unless `file` is NULL; the thread goes no further. */
[[noreturn]] void ht_emulated_fail(const char *what, const char *file, int line);

static inline void __syncwarp(unsigned mask = ~0u, HT_HERE) {
    ht_emulated_exchange(mask, "", 0, file, line);
}

template <typename T> T ht_emulated_shuffle(unsigned mask, T value, int source, const char *file, int line) {
    static_assert(sizeof(T) <= HT_EMULATED_LANE_BYTES && __is_trivially_copyable(T), "a shuffle of plain values");
    const ht_emulated_lane *lanes = ht_emulated_exchange(mask, &value, sizeof value, file, line);
    if (!(mask >> source & 1)) ht_emulated_fail("shuffle from a lane outside of the mask", file, line);
    memcpy(&value, lanes[source], sizeof value);
    return value;
}
template <typename T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, HT_HERE) {
    int lane = ht_emulated_lane_id;
    return ht_emulated_shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)), file, line);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32, HT_HERE) {
    int lane = ht_emulated_lane_id, source = lane ^ distance;
    if (source / width > lane / width) source = lane;
    return ht_emulated_shuffle(mask, value, source, file, line);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, HT_HERE) {
    int lane = ht_emulated_lane_id, source = lane - (int)distance;
    return ht_emulated_shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, file, line);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, HT_HERE) {
    int lane = ht_emulated_lane_id, source = lane + (int)distance;
    return ht_emulated_shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, file, line);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, HT_HERE) {
    unsigned char flag = predicate != 0;
    const ht_emulated_lane *lanes = ht_emulated_exchange(mask, &flag, 1, file, line);
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) result |= (unsigned)lanes[lane][0] << lane;
    return result;
}
static inline int __any_sync(unsigned mask, int predicate, HT_HERE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, HT_HERE) {
    return __ballot_sync(mask, predicate, file, line) == mask;
}

static inline int __reduce_add_sync(unsigned mask, int value, HT_HERE) {
    const ht_emulated_lane *lanes = ht_emulated_exchange(mask, &value, sizeof value, file, line);
    unsigned sum = 0;
    for (int lane = 0; lane < 32; lane++) {
        unsigned given;
        memcpy(&given, lanes[lane], sizeof given);
        sum += mask >> lane & 1 ? given : 0;
    }
    return (int)sum;
}

/* --- atomics on integers: one thread runs at a time -------------------------------------------------------- */

void ht_emulated_atomic(const void *word, size_t bytes);

template <typename T> __attribute__((no_sanitize("thread"))) T ht_emulated_atomic_add(T *at, T value) {
    ht_emulated_atomic(at, sizeof *at);
    T before = *at;
    *at = (T)(before + value);
    return before;
}
static inline int atomicAdd(int *at, int value) {
    return ht_emulated_atomic_add(at, value);
}
static inline unsigned atomicAdd(unsigned *at, unsigned value) {
    return ht_emulated_atomic_add(at, value);
}
static inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
    return ht_emulated_atomic_add(at, value);
}

/* --- arithmetic -------------------------------------------------------------------------------------------- */

template <typename T> T __ldg(const T *at) {
    return *at;
}
template <typename T> T __ldcg(const T *at) {
    return *at;
}
template <typename T> void __stwb(T *at, T value) {
    *at = value;
}
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}
static inline int __ffs(int bits) {
    return __builtin_ffs(bits);
}
static inline int __clz(int bits) {
    return bits ? __builtin_clz((unsigned)bits) : 32;
}

#endif
