/*
 * The CUDA backend's life, its memory, and the table of its operations.
 */
#include <stdlib.h>
#include <string.h>

#include "core/backend/cuda/device.h"

extern "C" {
#include "core/base/memory.h"
}

ht_status ht_cuda_check(cudaError_t result, const char *call, ht_error *err) {
    if (result == cudaSuccess) return HT_OK;
    (void)cudaGetLastError(); /* it is told here */
    return ht_fail(err, result == cudaErrorMemoryAllocation ? HT_ERR_NOMEM : HT_ERR_RUN, "%s: %s (%s)", call,
                   cudaGetErrorString(result), cudaGetErrorName(result));
}

ht_status ht_cuda_need_float(const char *op, const ht_tensor *t, ht_error *err) {
    if (t->dtype == HT_F32 || t->dtype == HT_BF16) return HT_OK;
    return ht_fail(err, HT_ERR_USAGE, "%s: the cuda backend computes in float32 and bfloat16, not %s", op,
                   ht_dtype_torch_name(t->dtype));
}

ht_status ht_cuda_allow_shared(const void *kernel, int64_t bytes, ht_error *err) {
    enum { WITHOUT_LEAVE = 48 << 10, STATIC = 2 << 10 }; /* of a kernel together; what ours have at most besides */
    if (bytes <= WITHOUT_LEAVE - STATIC) return HT_OK;
    HT_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return HT_OK;
}

/* A graph would read the host's memory when it is replayed, and staging's events would be its own from then on. */
static ht_status check_not_recording(const ht_cuda *cuda, ht_error *err) {
    if (!cuda->recording) return HT_OK;
    return ht_fail(err, HT_ERR_RUN, "a pass that is recorded uses host memory, or more scratch memory than before");
}

ht_status ht_cuda_scratch(ht_backend *be, size_t bytes, void **scratch, ht_error *err) {
    ht_cuda *cuda = ht_cuda_of(be);
    if (bytes > cuda->scratch_bytes) {
        HT_CHECK(check_not_recording(cuda, err));
        /* Operations that use the old block may still run. */
        HT_CUDA(cudaStreamSynchronize(cuda->stream));
        HT_CUDA(cudaFree(cuda->scratch));
        cuda->scratch = NULL;
        cuda->scratch_bytes = 0;
        cuda->scratch_changes++;
        cudaError_t result = cudaMalloc(&cuda->scratch, bytes);
        if (result == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError();
            return ht_fail(err, HT_ERR_NOMEM, "no device memory for %zu bytes of scratch", bytes);
        }
        HT_CHECK(ht_cuda_check(result, "cudaMalloc", err));
        cuda->scratch_bytes = bytes;
    }
    *scratch = cuda->scratch;
    return HT_OK;
}

/* --- memory ------------------------------------------------------------------------------------------------ */

static void *cuda_allocate(void *owner, size_t bytes) {
    ht_cuda *cuda = ht_cuda_of((ht_backend *)owner);
    void *block = NULL;
    size_t size = bytes ? bytes : 1;
    if (cudaMalloc(&block, size) == cudaSuccess && cudaMemsetAsync(block, 0, size, cuda->stream) == cudaSuccess)
        return block;
    (void)cudaGetLastError(); /* the arena tells what did not fit */
    cudaFree(block);
    return NULL;
}

static void cuda_release(void *owner, void *block, size_t bytes) {
    (void)bytes;
    cudaStreamSynchronize(ht_cuda_of((ht_backend *)owner)->stream); /* cudaFree may wait for the GPU, and may not */
    cudaFree(block);
}

/* Scratch memory: partial sums of products and of attention over the cache are at most 58 MiB (132 multiprocessors) and
 * 64 MiB; what the others take grows with the tokens of a pass or the vocabulary, to some 16 MiB for 65,536 tokens of 32
 * heads. Beside it what the driver needs for kernels, ours and cuBLASLt's, once they are loaded: some hundreds of MiB. */
enum { SCRATCH_BYTES = 64 << 20, CODE_BYTES = 448 << 20 };

static ht_status cuda_memory(ht_backend *be, size_t *available, size_t *total, ht_error *err) {
    HT_CUDA(cudaMemGetInfo(available, total));
    *available += ht_cuda_of(be)->scratch_bytes; /* plans book it */
    return HT_OK;
}

/* Goes on to the next piece of staging memory, once the GPU is done with what it held. */
static ht_status next_piece(ht_cuda *cuda, ht_error *err) {
    ht_cuda_staging *s = &cuda->staging;
    HT_CUDA(cudaEventRecord(s->done[s->piece], cuda->stream));
    s->piece = (s->piece + 1) % HT_CUDA_PIECES;
    s->used = 0;
    HT_CUDA(cudaEventSynchronize(s->done[s->piece]));
    return HT_OK;
}

static char *piece_memory(const ht_cuda_staging *s) {
    return s->memory + (size_t)s->piece * HT_CUDA_PIECE_BYTES;
}

/* *room = staging memory for *n of `bytes` bytes: as many as fit, whole elements of `size` bytes. */
static ht_status take_room(ht_cuda *cuda, size_t bytes, size_t size, char **room, size_t *n, ht_error *err) {
    ht_cuda_staging *s = &cuda->staging;
    HT_CHECK(check_not_recording(cuda, err));
    if (HT_CUDA_PIECE_BYTES - s->used < size) HT_CHECK(next_piece(cuda, err));
    size_t most = (HT_CUDA_PIECE_BYTES - s->used) / size * size;
    *n = bytes < most ? bytes : most;
    *room = piece_memory(s) + s->used;
    s->used += (*n + 63) / 64 * 64; /* a piece is a multiple of it */
    return HT_OK;
}

/* Uploads have been read from the host on return; they travel while it goes on, in the stream's order. */
ht_status ht_cuda_upload(ht_backend *be, void *to, const void *from_host, size_t bytes, ht_error *err) {
    ht_cuda *cuda = ht_cuda_of(be);
    char *room;
    for (size_t done = 0, n; done < bytes; done += n) {
        HT_CHECK(take_room(cuda, bytes - done, 1, &room, &n, err));
        ht_host_copy(be, room, (const char *)from_host + done, n);
        HT_CUDA(cudaMemcpyAsync((char *)to + done, room, n, cudaMemcpyHostToDevice, cuda->stream));
    }
    return HT_OK;
}

static ht_status cuda_upload_converted(ht_backend *be, ht_tensor *y, const void *from_host, ht_dtype from, ht_error *err) {
    ht_cuda *cuda = ht_cuda_of(be);
    size_t size = ht_dtype_size(y->dtype), from_size = ht_dtype_size(from), bytes = (size_t)(y->rows * y->cols) * size;
    char *room;
    for (size_t done = 0, n; done < bytes; done += n) {
        HT_CHECK(take_room(cuda, bytes - done, size, &room, &n, err));
        const char *source = (const char *)from_host + done / size * from_size;
        ht_host_convert(be, room, y->dtype, source, from, (int64_t)(n / size));
        HT_CUDA(cudaMemcpyAsync((char *)y->data + done, room, n, cudaMemcpyHostToDevice, cuda->stream));
    }
    return HT_OK;
}

/* Begins to bring n bytes, at most a piece, into the next piece. */
static ht_status begin_download(ht_cuda *cuda, const void *from, size_t n, ht_error *err) {
    HT_CHECK(check_not_recording(cuda, err));
    HT_CHECK(next_piece(cuda, err));
    cuda->staging.used = HT_CUDA_PIECE_BYTES;
    HT_CUDA(cudaMemcpyAsync(piece_memory(&cuda->staging), from, n, cudaMemcpyDeviceToHost, cuda->stream));
    return HT_OK;
}

ht_status ht_cuda_fetch(ht_backend *be, const void *from, size_t bytes, const void **host, ht_error *err) {
    ht_cuda *cuda = ht_cuda_of(be);
    HT_CHECK(begin_download(cuda, from, bytes, err));
    HT_CUDA(cudaStreamSynchronize(cuda->stream));
    *host = piece_memory(&cuda->staging);
    return HT_OK;
}

/* Piece by piece: while one travels, the host copies the one before it. */
ht_status ht_cuda_download(ht_backend *be, void *to_host, const void *from, size_t bytes, ht_error *err) {
    ht_cuda *cuda = ht_cuda_of(be);
    ht_cuda_staging *s = &cuda->staging;
    const char *source = (const char *)from;
    char *to = (char *)to_host;
    size_t done = 0;
    if (bytes > HT_CUDA_PIECE_BYTES) HT_CHECK(begin_download(cuda, source, HT_CUDA_PIECE_BYTES, err));
    for (; bytes - done > HT_CUDA_PIECE_BYTES; done += HT_CUDA_PIECE_BYTES) {
        int piece = s->piece;
        const char *arriving = piece_memory(s);
        size_t next = done + HT_CUDA_PIECE_BYTES;
        size_t n = (size_t)ht_least((int64_t)(bytes - next), HT_CUDA_PIECE_BYTES);
        HT_CHECK(begin_download(cuda, source + next, n, err)); /* marks the end of the piece before it */
        HT_CUDA(cudaEventSynchronize(s->done[piece]));
        memcpy(to + done, arriving, HT_CUDA_PIECE_BYTES);
    }
    if (bytes == 0) return HT_OK;
    if (done == 0) HT_CHECK(begin_download(cuda, source, bytes, err));
    HT_CUDA(cudaStreamSynchronize(cuda->stream));
    memcpy(to + done, piece_memory(s), bytes - done);
    return HT_OK;
}

static ht_status cuda_zero(ht_backend *be, void *memory, size_t bytes, ht_error *err) {
    if (bytes == 0) return HT_OK;
    HT_CUDA(cudaMemsetAsync(memory, 0, bytes, ht_cuda_of(be)->stream));
    return HT_OK;
}

/* --- life -------------------------------------------------------------------------------------------------- */

static void cuda_close(ht_backend *be) {
    ht_cuda *cuda = ht_cuda_of(be);
    if (!cuda) return;
    if (cuda->stream) cudaStreamSynchronize(cuda->stream);
    ht_cuda_products_close(cuda->products);
    cudaFree(cuda->tickets);
    cudaFree(cuda->scratch);
    for (int i = 0; i < HT_CUDA_PIECES; i++)
        if (cuda->staging.done[i]) cudaEventDestroy(cuda->staging.done[i]);
    if (cuda->staging.memory) cudaFreeHost(cuda->staging.memory);
    if (cuda->stream) cudaStreamDestroy(cuda->stream);
    (void)cudaGetLastError();
    free(cuda);
    be->state = NULL;
}

static __global__ void probe(void) {
}

/* No device is the user's affair (HT_ERR_USAGE; AUTO then takes the CPU); one that cannot be used is an error. */
static ht_status find_device(ht_cuda *cuda, int number, ht_error *err) {
    int count = 0, major = 0, minor = 0, shared = 0;
    cudaError_t found = cudaGetDeviceCount(&count);
    if (found != cudaSuccess || count < 1) {
        (void)cudaGetLastError();
        return ht_fail(err, HT_ERR_USAGE, "backend \"cuda\": this machine has no usable NVIDIA GPU (%s)",
                       cudaGetErrorString(found != cudaSuccess ? found : cudaErrorNoDevice));
    }
    int device = number % count;
    HT_CUDA(cudaSetDevice(device));
    HT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    HT_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    HT_CUDA(cudaDeviceGetAttribute(&cuda->multiprocessors, cudaDevAttrMultiProcessorCount, device));
    HT_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    cuda->shared_limit = shared;
    cudaFuncAttributes attributes;
    cudaError_t loaded = cudaFuncGetAttributes(&attributes, probe);
    if (loaded != cudaSuccess) {
        (void)cudaGetLastError();
        return ht_fail(err, HT_ERR_RUN,
                       "backend \"cuda\": this program has no kernels for a GPU of compute capability %d.%d (%s); "
                       "configure it with HALTER_CUDA_ARCHS=%d%d",
                       major, minor, cudaGetErrorString(loaded), major, minor);
    }
    cuda->early = attributes.ptxVersion >= 90; /* kernels made for an older GPU do not wait by themselves */
    return HT_OK;
}

/* HALTER_CUDA_GRAPHS=0: every launch by itself, for debuggers and profilers that look at one kernel. */
static int wants_graphs(void) {
    const char *wish = getenv("HALTER_CUDA_GRAPHS");
    return !wish || strcmp(wish, "0") != 0;
}

static ht_status set_up(ht_cuda *cuda, ht_error *err) {
    cuda->records = wants_graphs();
    cuda->early = cuda->early && cuda->records;
    HT_CUDA(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking));
    HT_CUDA(cudaMallocHost(&cuda->staging.memory, (size_t)HT_CUDA_PIECES * HT_CUDA_PIECE_BYTES));
    for (int i = 0; i < HT_CUDA_PIECES; i++)
        HT_CUDA(cudaEventCreateWithFlags(&cuda->staging.done[i], cudaEventDisableTiming));
    HT_CUDA(cudaMalloc(&cuda->tickets, HT_CUDA_TICKETS * sizeof *cuda->tickets));
    HT_CUDA(cudaMemsetAsync(cuda->tickets, 0, HT_CUDA_TICKETS * sizeof *cuda->tickets, cuda->stream));
    return ht_cuda_products_open(&cuda->products, err);
}

static ht_status cuda_finish(ht_backend *be, ht_error *err) {
    HT_CUDA(cudaStreamSynchronize(ht_cuda_of(be)->stream));
    return HT_OK;
}

static void *stream_of(const ht_backend *be) {
    return ((const ht_cuda *)be->state)->stream;
}

static ht_bf16_speed bf16_speed(const char **why) {
    *why = "the GPU's tensor cores multiply it";
    return HT_BF16_FAST;
}

static const ht_backend_ops cuda_ops = {
    .name = "cuda",
    .close = cuda_close,
    .stream = stream_of,
    .bf16_speed = bf16_speed,
    .finish = cuda_finish,
    .allocate = cuda_allocate,
    .release = cuda_release,
    .own_bytes = SCRATCH_BYTES + CODE_BYTES,
    .memory = cuda_memory,
    .upload = ht_cuda_upload,
    .upload_converted = cuda_upload_converted,
    .download = ht_cuda_download,
    .zero = cuda_zero,
    .copy = ht_cuda_copy,
    .embedding_forward = ht_cuda_gather_rows,
    .embedding_backward = ht_cuda_embedding_backward,
    .rms_norm_forward = ht_cuda_rms_norm_forward,
    .rms_norm_backward = ht_cuda_rms_norm_backward,
    .matmul_forward = ht_cuda_matmul_forward,
    .matmul_rows = ht_cuda_matmul_rows,
    .matmul_backward_data = ht_cuda_matmul_backward_data,
    .matmul_backward_weight = ht_cuda_matmul_backward_weight,
    .rope = ht_cuda_rope,
    .attention_forward = ht_cuda_attention_forward,
    .attention_backward = ht_cuda_attention_backward,
    .attention_cached = ht_cuda_attention_cached,
    .swiglu_forward = ht_cuda_swiglu_forward,
    .swiglu_backward = ht_cuda_swiglu_backward,
    .gather_rows = ht_cuda_gather_rows,
    .scatter_rows = ht_cuda_scatter_rows,
    .token_loss_forward = ht_cuda_token_loss_forward,
    .adamw = ht_cuda_adamw,
    .sum_squares = ht_cuda_sum_squares,
    .sample = ht_cuda_sample,
    .replay = ht_cuda_replay,
    .forget = ht_cuda_forget,
};

extern "C" ht_status ht_cuda_open(ht_backend *be, int device, int threads, ht_error *err) {
    ht_cuda *cuda = NULL;
    HT_CHECK(ht_calloc(&cuda, 1, sizeof *cuda, err));
    be->ops = &cuda_ops;
    be->state = cuda;
    be->threads = ht_host_threads(threads);
    ht_status status = find_device(cuda, device, err);
    if (status == HT_OK) status = set_up(cuda, err);
    if (status != HT_OK) cuda_close(be);
    return status;
}
