/*
 * The host's side of CUDA, emulated: memory, copies, streams and events that have nothing to wait for, the limits of a
 * launch.
 */
#include <cuda_runtime.h>

#include <stdio.h>

#include <map>

#include "tests/gpu/emulate/emulate.h"

/* Few multiprocessors, so that grids which are sized to them are smaller than the work and must stride over it. */
enum { MULTIPROCESSORS = 3 };

static cudaError_t last_error;

static cudaError_t failed(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define CASE(name, code, text)                                                                                         \
    case name:                                                                                                         \
        return #name;
        HT_EMULATED_ERRORS(CASE)
#undef CASE
    }
    return "?";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
#define CASE(name, code, text)                                                                                         \
    case name:                                                                                                         \
        return text;
        HT_EMULATED_ERRORS(CASE)
#undef CASE
    }
    return "?";
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

/* --- the device -------------------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    if (device != 0) return failed(cudaErrorInvalidValue);
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = MULTIPROCESSORS;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = HT_EMULATED_SHARED_LIMIT;
        return cudaSuccess;
    }
    return failed(cudaErrorInvalidValue);
}

/* Dynamic shared memory that a kernel has been allowed. */
static std::map<const void *, size_t> &allowed(void) {
    static std::map<const void *, size_t> bytes;
    return bytes;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > HT_EMULATED_SHARED_LIMIT)
        return failed(cudaErrorInvalidValue);
    allowed()[kernel] = (size_t)value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel) {
    (void)kernel;
    *attributes = {0};
    return cudaSuccess;
}

void ht_emulated_run(const ht_emulated_launch *launch) {
    dim3 g = launch->grid, b = launch->block;
    std::map<const void *, size_t>::const_iterator leave = allowed().find(launch->kernel);
    size_t shared_limit = HT_EMULATED_STATIC_SHARED_LIMIT;
    if (leave != allowed().end() && leave->second > shared_limit) shared_limit = leave->second;
    bool fits = g.x && g.y && g.z && b.x && b.y && b.z && g.x <= INT32_MAX && g.y <= 65535 && g.z <= 65535 &&
                b.z <= 64 && (uint64_t)b.x * b.y * b.z <= 1024;
    if (!fits || launch->shared > shared_limit) {
        fprintf(stderr,
                "emulated CUDA: %s: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of shared memory (%zu allowed)\n",
                launch->name, g.x, g.y, g.z, b.x, b.y, b.z, launch->shared, shared_limit);
        failed(fits ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration);
        return;
    }
    if (!ht_emulated_run_grid(launch)) failed(cudaErrorLaunchFailure);
}

/* --- memory ------------------------------------------------------------------------------------------------ */

/* Allocations of the device: address, bytes. */
static std::map<uintptr_t, size_t> &device_memory(void) {
    static std::map<uintptr_t, size_t> blocks;
    return blocks;
}

static bool on_device(const void *memory, size_t bytes) {
    uintptr_t at = (uintptr_t)memory;
    std::map<uintptr_t, size_t>::const_iterator next = device_memory().upper_bound(at);
    if (next == device_memory().begin()) return false;
    --next;
    return at - next->first <= next->second && bytes <= next->second - (at - next->first);
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    *memory = NULL;
    if (bytes == 0) return cudaSuccess;
    if (posix_memalign(memory, 256, bytes)) return failed(cudaErrorMemoryAllocation);
    memset(*memory, 0xff, bytes);
    device_memory()[(uintptr_t)*memory] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    if (memory && !device_memory().erase((uintptr_t)memory)) return failed(cudaErrorInvalidValue);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes) {
    if (posix_memalign(memory, 256, bytes)) return failed(cudaErrorMemoryAllocation);
    memset(*memory, 0xff, bytes);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory) {
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    (void)stream;
    if (width == 0 || height == 0) return cudaSuccess;
    size_t to_bytes = (height - 1) * to_pitch + width, from_bytes = (height - 1) * from_pitch + width;
    bool good = to_pitch >= width && from_pitch >= width;
    good = good && on_device(to, to_bytes) == (kind != cudaMemcpyDeviceToHost);
    good = good && on_device(from, from_bytes) == (kind != cudaMemcpyHostToDevice);
    if (!good) return failed(cudaErrorInvalidValue);
    for (size_t row = 0; row < height; row++)
        memcpy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    (void)stream;
    if (bytes == 0) return cudaSuccess;
    if (!on_device(memory, bytes)) return failed(cudaErrorInvalidValue);
    memset(memory, value, bytes);
    return cudaSuccess;
}

/* --- streams and events ------------------------------------------------------------------------------------ */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    *stream = (cudaStream_t)malloc(1);
    return *stream ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    *event = (cudaEvent_t)malloc(1);
    return *event ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)stream;
    return event ? cudaSuccess : failed(cudaErrorInvalidValue);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return event ? cudaSuccess : failed(cudaErrorInvalidValue);
}
