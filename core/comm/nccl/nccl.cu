/*
 * Sums of device memory over ranks.  Contract: comm.h, ht_comm_sum_f32.
 *
 * NCCL promises no order of its reductions, and chooses ring or tree by size and topology; so it carries bytes only
 * (ncclSend, ncclRecv), and a kernel of ours adds in the order of the ranks.
 *
 * A kernel of NCCL that waits for a rank that has failed waits for ever. So the ranks meet on the host first, where that
 * is seen and said (comm.h), and while the device works the host listens: on a failure ncclCommAbort ends the kernels.
 *
 * NCCL is opened when a run has several ranks, not linked: programs run on one GPU where it is missing.
 *
 * Kernel   add_parts: a thread an element at a time, whole grid strides; memory-bound, each part once, the slice twice.
 * Measured not yet.
 */
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <nccl.h>
#include <sched.h>
#include <stdlib.h>

extern "C" {
#include "core/base/memory.h"
#include "core/comm/internal.h"
}

/* The emulation of tests/gpu brings its own. */
#ifndef HT_EMULATED
#define HT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                      \
    (kernel)<<<(grid), (block), (size_t)(shared_bytes), (stream)>>>(__VA_ARGS__)
#define HT_NCCL_LIBRARY "libnccl.so.2"
#endif

enum { SLICE = 1 << 20, THREADS = 256 }; /* SLICE: f32 elements */
static const int64_t BLOCKS = 1024;

#define FUNCTIONS(X)                                                                                                   \
    X(ncclGetUniqueId)                                                                                                 \
    X(ncclCommInitRank)                                                                                                \
    X(ncclCommAbort)                                                                                                   \
    X(ncclCommGetAsyncError)                                                                                           \
    X(ncclGroupStart)                                                                                                  \
    X(ncclGroupEnd)                                                                                                    \
    X(ncclSend)                                                                                                        \
    X(ncclRecv)                                                                                                        \
    X(ncclGetErrorString)

struct functions {
#define MEMBER(name) decltype(&::name) name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

struct ht_comm_device {
    ht_comm *comm; /* borrowed */
    void *library;
    functions nccl;
    ncclComm_t ranks;
    cudaStream_t stream; /* borrowed */
    float *parts;        /* [size, SLICE] */
};

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        ht_status status_ = (call);                                                                                    \
        if (status_ != HT_OK) return status_;                                                                          \
    } while (0)
#define CUDA(call) CHECK(check_cuda((call), #call, err))
#define NCCL(call) CHECK(check_nccl(d, d->nccl.call, #call, err))

static ht_status check_cuda(cudaError_t result, const char *call, ht_error *err) {
    if (result == cudaSuccess) return HT_OK;
    return ht_fail(err, result == cudaErrorMemoryAllocation ? HT_ERR_NOMEM : HT_ERR_RUN, "%s: %s", call,
                   cudaGetErrorString(result));
}

static ht_status check_nccl(const ht_comm_device *d, ncclResult_t result, const char *call, ht_error *err) {
    if (result == ncclSuccess) return HT_OK;
    return ht_fail(err, HT_ERR_RUN, "%s: %s", call, d->nccl.ncclGetErrorString(result));
}

/* --- life -------------------------------------------------------------------------------------------------- */

static ht_status open_library(ht_comm_device *d, ht_error *err) {
    const char *name = HT_NCCL_LIBRARY;
    const int how = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE; /* it has threads that outlive a communicator */
    d->library = dlopen(name, how);
#ifdef HALTER_NCCL /* where the build found it */
    if (!d->library) d->library = dlopen(HALTER_NCCL, how);
#endif
    if (!d->library) return ht_fail(err, HT_ERR_RUN, "backend \"cuda\" on several ranks needs NCCL: %s", dlerror());
#define LOAD(function)                                                                                                 \
    d->nccl.function = (decltype(d->nccl.function))dlsym(d->library, #function);                                       \
    if (!d->nccl.function) return ht_fail(err, HT_ERR_RUN, "%s has no %s", name, #function);
    FUNCTIONS(LOAD)
#undef LOAD
    return HT_OK;
}

static ht_status set_up(ht_comm_device *d, ht_error *err) {
    ncclUniqueId id;
    CHECK(open_library(d, err));
    CUDA(cudaMalloc(&d->parts, (size_t)d->comm->size * SLICE * sizeof *d->parts));
    if (d->comm->rank == 0) NCCL(ncclGetUniqueId(&id));
    CHECK(ht_comm_broadcast(d->comm, &id, sizeof id, err));
    CHECK(ht_comm_barrier(d->comm, err)); /* ncclCommInitRank waits for all of them */
    NCCL(ncclCommInitRank(&d->ranks, d->comm->size, id, d->comm->rank));
    return HT_OK;
}

ht_status ht_comm_device_open(ht_comm_device **device, ht_comm *comm, void *stream, ht_error *err) {
    ht_comm_device *d = NULL;
    *device = NULL;
    CHECK(ht_calloc(&d, 1, sizeof *d, err));
    d->comm = comm;
    d->stream = (cudaStream_t)stream;
    ht_status status = set_up(d, err);
    if (status == HT_OK)
        *device = d;
    else
        ht_comm_device_close(d);
    return status;
}

void ht_comm_device_close(ht_comm_device *d) {
    if (!d) return;
    /* Every sum was waited for, so there is nothing to abort; ncclCommDestroy might wait for a rank that has failed. */
    if (d->ranks) d->nccl.ncclCommAbort(d->ranks);
    cudaFree(d->parts);
    if (d->library) dlclose(d->library);
    free(d);
}

/* --- the sum ----------------------------------------------------------------------------------------------- */

/* slice [n] = the sum over the ranks; part k is that of rank k, slice's own content that of `rank`. */
static __global__ void __launch_bounds__(THREADS)
    add_parts(float *__restrict__ slice, const float *__restrict__ parts, int rank, int size, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) {
        float own = slice[i], sum = rank == 0 ? own : parts[i];
        for (int k = 1; k < size; k++)
            sum += k == rank ? own : parts[(int64_t)k * SLICE + i];
        slice[i] = sum;
    }
}

/* Slices of the piece x [n] to the ranks that add them, whose parts they become; or the sums back. */
enum direction { OUT_TO_OWNERS, BACK_FROM_OWNERS };

static ht_status move(ht_comm_device *d, float *x, int64_t n, direction which, ht_error *err) {
    int rank = d->comm->rank, size = d->comm->size;
    int64_t own = ht_comm_part_start(n, rank, size), own_count = ht_comm_part_start(n, rank + 1, size) - own;
    NCCL(ncclGroupStart());
    for (int k = 0; k < size; k++) {
        int64_t first = ht_comm_part_start(n, k, size), count = ht_comm_part_start(n, k + 1, size) - first;
        if (k == rank) continue;
        if (which == OUT_TO_OWNERS) {
            NCCL(ncclSend(x + first, (size_t)count, ncclFloat, k, d->ranks, d->stream));
            NCCL(ncclRecv(d->parts + (int64_t)k * SLICE, (size_t)own_count, ncclFloat, k, d->ranks, d->stream));
        } else {
            NCCL(ncclSend(x + own, (size_t)own_count, ncclFloat, k, d->ranks, d->stream));
            NCCL(ncclRecv(x + first, (size_t)count, ncclFloat, k, d->ranks, d->stream));
        }
    }
    NCCL(ncclGroupEnd());
    return HT_OK;
}

/* A piece of at most size * SLICE elements. */
static ht_status sum_piece(ht_comm_device *d, float *x, int64_t n, ht_error *err) {
    int rank = d->comm->rank, size = d->comm->size;
    int64_t own = ht_comm_part_start(n, rank, size), count = ht_comm_part_start(n, rank + 1, size) - own;
    CHECK(move(d, x, n, OUT_TO_OWNERS, err));
    int64_t blocks = (count + THREADS - 1) / THREADS;
    if (blocks > BLOCKS) blocks = BLOCKS;
    if (blocks > 0)
        HT_LAUNCH(add_parts, dim3((unsigned)blocks), dim3(THREADS), 0, d->stream, x + own, d->parts, rank, size, count);
    CUDA(cudaGetLastError());
    return move(d, x, n, BACK_FROM_OWNERS, err);
}

/* Until the stream is done, or cannot be any more. */
static ht_status wait_for_stream(ht_comm_device *d, ht_error *err) {
    for (;;) {
        cudaError_t done = cudaStreamQuery(d->stream);
        if (done != cudaErrorNotReady) return check_cuda(done, "a sum over ranks", err);
        ncclResult_t result = ncclSuccess;
        NCCL(ncclCommGetAsyncError(d->ranks, &result));
        CHECK(check_nccl(d, result, "a sum over ranks", err));
        CHECK(ht_comm_listen(d->comm, err));
        sched_yield();
    }
}

static ht_status sum(ht_comm_device *d, float *x, int64_t n, ht_error *err) {
    int64_t piece = (int64_t)d->comm->size * SLICE;
    for (int64_t first = 0; first < n; first += piece)
        CHECK(sum_piece(d, x + first, n - first < piece ? n - first : piece, err));
    return wait_for_stream(d, err);
}

ht_status ht_comm_device_sum(ht_comm_device *d, float *x, int64_t n, ht_error *err) {
    CHECK(ht_comm_barrier(d->comm, err));
    ht_status status = sum(d, x, n, err);
    if (status == HT_OK) return HT_OK;
    d->nccl.ncclCommAbort(d->ranks);
    d->ranks = NULL;
    return status;
}
