/*
 * The host's side of CUDA, emulated: memory, copies, streams that work when they are waited for, the limits of a launch.
 */
#include <cuda_runtime.h>

#include <stdio.h>

#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/gpu/emulate/emulate.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

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

cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : failed(cudaErrorInvalidValue);
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
    *attributes = {0, 0};
    return cudaSuccess;
}

void ht_emulated_run(const ht_emulated_launch &launch, cudaStream_t stream) {
    dim3 g = launch.grid, b = launch.block;
    std::map<const void *, size_t>::const_iterator leave = allowed().find(launch.kernel);
    size_t shared_limit = HT_EMULATED_STATIC_SHARED_LIMIT, together = shared_limit;
    if (leave != allowed().end()) shared_limit = leave->second, together = HT_EMULATED_SHARED_LIMIT;
    bool fits = g.x && g.y && g.z && b.x && b.y && b.z && g.x <= INT32_MAX && g.y <= 65535 && g.z <= 65535 &&
                b.z <= 64 && (uint64_t)b.x * b.y * b.z <= 1024;
    if (!fits || launch.shared > shared_limit) {
        fprintf(stderr,
                "emulated CUDA: %s: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of shared memory (%zu allowed)\n",
                launch.name, g.x, g.y, g.z, b.x, b.y, b.z, launch.shared, shared_limit);
        failed(fits ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration);
        return;
    }
    ht_emulated_enqueue(stream, [=] {
        if (!ht_emulated_run_grid(&launch, together)) failed(cudaErrorLaunchFailure);
    });
}

/* --- blocks of memory -------------------------------------------------------------------------------------- */

/* Of the device, and of the host's pinned memory: address, bytes. */
typedef std::map<uintptr_t, size_t> ht_emulated_blocks;
static ht_emulated_blocks &device_memory(void) {
    static ht_emulated_blocks blocks;
    return blocks;
}
static ht_emulated_blocks &pinned_memory(void) {
    static ht_emulated_blocks blocks;
    return blocks;
}

/* The host must not touch the device's memory: AddressSanitizer is told so, but while a stream works. */
static void open_device_memory(int open) {
#if defined(__SANITIZE_ADDRESS__)
    for (const std::pair<const uintptr_t, size_t> &block : device_memory()) {
        if (open)
            __asan_unpoison_memory_region((void *)block.first, block.second);
        else
            __asan_poison_memory_region((void *)block.first, block.second);
    }
#else
    (void)open;
#endif
}

/* --- streams and events ------------------------------------------------------------------------------------ */

struct ht_emulated_graph {
    std::vector<std::function<void(void)>> work;
    bool spoiled; /* something happened that cannot be captured */
};

struct ht_emulated_graph_exec {
    std::vector<std::function<void(void)>> work;
};

struct ht_emulated_stream {
    std::deque<std::function<void(void)>> work;
    uint64_t done;      /* pieces of work */
    cudaGraph_t graph;  /* being captured */
};

/* A place in a stream's order; in none: nothing to wait for. */
struct ht_emulated_event {
    cudaStream_t stream;
    uint64_t after; /* so many pieces of its work */
};

static std::set<cudaStream_t> &streams(void) {
    static std::set<cudaStream_t> all;
    return all;
}

/* Whether something that cannot be captured meets a capture: of this stream, or of any. */
static bool spoils_capture(cudaStream_t stream) {
    bool spoils = stream && stream->graph;
    if (spoils) stream->graph->spoiled = true;
    return spoils;
}
static bool spoils_captures(void) {
    bool spoils = false;
    for (cudaStream_t stream : streams())
        spoils |= spoils_capture(stream);
    return spoils;
}

void ht_emulated_enqueue(cudaStream_t stream, std::function<void(void)> work) {
    if (stream && stream->graph) {
        stream->graph->work.push_back(work);
        return;
    }
    if (stream) {
        stream->work.push_back(work);
        return;
    }
    open_device_memory(1);
    work();
    open_device_memory(0);
}

static void work_until(cudaStream_t stream, uint64_t done) {
    open_device_memory(1);
    for (; stream && stream->done < done && !stream->work.empty(); stream->done++) {
        stream->work.front()();
        stream->work.pop_front();
    }
    open_device_memory(0);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    *stream = new ht_emulated_stream();
    streams().insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    work_until(stream, UINT64_MAX);
    streams().erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (spoils_capture(stream)) return failed(cudaErrorStreamCaptureUnsupported);
    work_until(stream, UINT64_MAX);
    return last_error;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (!stream || stream->work.empty()) return last_error;
    work_until(stream, stream->done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    *event = new ht_emulated_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (!event || !stream) return failed(cudaErrorInvalidValue);
    if (spoils_capture(stream)) return failed(cudaErrorStreamCaptureUnsupported);
    event->stream = stream;
    event->after = stream->done + stream->work.size();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (!event) return failed(cudaErrorInvalidValue);
    if (spoils_capture(event->stream)) return failed(cudaErrorStreamCaptureUnsupported);
    work_until(event->stream, event->after);
    return last_error;
}

/* --- graphs ------------------------------------------------------------------------------------------------ */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    (void)mode;
    if (!stream || stream->graph) return failed(cudaErrorInvalidValue);
    stream->graph = new ht_emulated_graph();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = NULL;
    if (!stream || !stream->graph) return failed(cudaErrorInvalidValue);
    if (!stream->graph->spoiled) *graph = stream->graph;
    if (stream->graph->spoiled) delete stream->graph;
    stream->graph = NULL;
    return *graph ? cudaSuccess : failed(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) {
    *exec = NULL;
    if (!graph || flags) return failed(cudaErrorInvalidValue);
    *exec = new ht_emulated_graph_exec{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    if (!exec || !stream) return failed(cudaErrorInvalidValue);
    for (const std::function<void(void)> &work : exec->work)
        ht_emulated_enqueue(stream, work);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}

/* --- memory ------------------------------------------------------------------------------------------------ */

static bool inside(const ht_emulated_blocks &blocks, const void *memory, size_t bytes) {
    uintptr_t at = (uintptr_t)memory;
    ht_emulated_blocks::const_iterator next = blocks.upper_bound(at);
    if (next == blocks.begin()) return false;
    --next;
    return at - next->first <= next->second && bytes <= next->second - (at - next->first);
}

static cudaError_t take(ht_emulated_blocks &blocks, void **memory, size_t bytes) {
    *memory = NULL;
    if (spoils_captures()) return failed(cudaErrorStreamCaptureUnsupported);
    if (bytes == 0) return cudaSuccess;
    if (posix_memalign(memory, 256, bytes)) return failed(cudaErrorMemoryAllocation);
    memset(*memory, 0xff, bytes);
    ht_emulated_watch(*memory, bytes, false);
    blocks[(uintptr_t)*memory] = bytes;
    return cudaSuccess;
}

static cudaError_t give_back(ht_emulated_blocks &blocks, void *memory) {
    if (spoils_captures()) return failed(cudaErrorStreamCaptureUnsupported);
    if (memory && !blocks.erase((uintptr_t)memory)) return failed(cudaErrorInvalidValue);
    ht_emulated_forget(memory);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = HT_EMULATED_MEMORY;
    for (const std::pair<const uintptr_t, size_t> &block : device_memory())
        *available -= block.second;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    size_t available, total;
    cudaMemGetInfo(&available, &total);
    if (bytes > available) return failed(cudaErrorMemoryAllocation);
    cudaError_t result = take(device_memory(), memory, bytes);
    open_device_memory(0);
    return result;
}

cudaError_t cudaFree(void *memory) {
    return give_back(device_memory(), memory);
}

cudaError_t cudaMallocHost(void **memory, size_t bytes) {
    return take(pinned_memory(), memory, bytes);
}

cudaError_t cudaFreeHost(void *memory) {
    return give_back(pinned_memory(), memory);
}

static void copy_rows(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height) {
    for (size_t row = 0; row < height; row++)
        memcpy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
}

/* What is not pinned is read at once, and has been written on return. */
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (width == 0 || height == 0) return cudaSuccess;
    size_t to_bytes = (height - 1) * to_pitch + width, from_bytes = (height - 1) * from_pitch + width;
    bool good = to_pitch >= width && from_pitch >= width;
    good = good && inside(device_memory(), to, to_bytes) == (kind != cudaMemcpyDeviceToHost);
    good = good && inside(device_memory(), from, from_bytes) == (kind != cudaMemcpyHostToDevice);
    if (!good) return failed(cudaErrorInvalidValue);
    if (kind == cudaMemcpyHostToDevice && !inside(pinned_memory(), from, from_bytes)) {
        std::basic_string<char> snapshot((const char *)from, from_bytes);
        ht_emulated_enqueue(stream, [=] { copy_rows(to, to_pitch, snapshot.data(), from_pitch, width, height); });
        return cudaSuccess;
    }
    ht_emulated_enqueue(stream, [=] { copy_rows(to, to_pitch, from, from_pitch, width, height); });
    if (kind == cudaMemcpyDeviceToHost && !inside(pinned_memory(), to, to_bytes)) return cudaStreamSynchronize(stream);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    if (!inside(device_memory(), memory, bytes)) return failed(cudaErrorInvalidValue);
    ht_emulated_enqueue(stream, [=] { memset(memory, value, bytes); });
    return cudaSuccess;
}
