/*
 * cuda.h: inside of the CUDA backend. One operation a .cu; products by cuBLASLt.
 *
 * Everything runs on one stream, in the order of the calls, while the host goes on. Only what returns something to the
 * host waits: download, sum_squares, sample. An error of a kernel therefore shows at the next of these.
 */
#ifndef HT_BACKEND_CUDA_CUDA_H
#define HT_BACKEND_CUDA_CUDA_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "core/backend/ops.h"
}

/* Pinned host memory through which uploads and downloads go, in pieces (cuda.cu). */
enum { HT_CUDA_PIECES = 8, HT_CUDA_PIECE_BYTES = 4 << 20 };

typedef struct ht_cuda_staging {
    char *memory;                     /* HT_CUDA_PIECES pieces */
    cudaEvent_t done[HT_CUDA_PIECES]; /* the GPU no longer needs the piece */
    int piece;                        /* being filled */
    size_t used;                      /* bytes of it */
} ht_cuda_staging;

/* Counters by which the last block of a product's tile knows itself (matmul_rows.cu); zero between operations. */
enum { HT_CUDA_TICKETS = 1 << 14 };

struct ht_cuda_products; /* products.cu */

typedef struct ht_cuda {
    int multiprocessors;
    int64_t shared_limit; /* bytes of shared memory that one block can have */
    cudaStream_t stream;
    ht_cuda_staging staging;
    void *scratch;
    size_t scratch_bytes;
    int scratch_changes; /* how often it has become another block, which may lie where the one before it did */
    unsigned *tickets;
    struct ht_cuda_products *products;
    int early;     /* kernels may be launched before the one before them has ended (device.h) */
    int records;   /* passes that repeat become graphs */
    int recording; /* one does now: nothing runs, nothing may wait */
} ht_cuda;

static inline int64_t ht_least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t ht_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static inline ht_cuda *ht_cuda_of(ht_backend *be) {
    return (ht_cuda *)be->state;
}

/* HT_OK, or the failed call's name and CUDA's text in *err: HT_ERR_NOMEM when memory ran out, else HT_ERR_RUN. */
ht_status ht_cuda_check(cudaError_t result, const char *call, ht_error *err);

/* Returns from the calling function unless the call, a CUDA function's or one that returns ht_status, succeeds. */
#define HT_CUDA(call)                                                                                                  \
    do {                                                                                                               \
        ht_status status_ = ht_cuda_check((call), #call, err);                                                         \
        if (status_ != HT_OK) return status_;                                                                          \
    } while (0)
#define HT_CHECK(call)                                                                                                 \
    do {                                                                                                               \
        ht_status status_ = (call);                                                                                    \
        if (status_ != HT_OK) return status_;                                                                          \
    } while (0)

/* To be asked after the launches of operation `op`. */
static inline ht_status ht_cuda_launched(const char *op, ht_error *err) {
    return ht_cuda_check(cudaGetLastError(), op, err);
}

/* Device memory of at least `bytes`, contents undefined, 256-byte aligned: the running operation's own until the next
 * operation of the stream. It grows on the first call on a shape; growing waits for the GPU and moves it. */
ht_status ht_cuda_scratch(ht_backend *be, size_t bytes, void **scratch, ht_error *err);

/* HT_OK for f32 and bf16, the dtypes of this backend's operations; else HT_ERR_USAGE naming the operation. */
ht_status ht_cuda_need_float(const char *op, const ht_tensor *t, ht_error *err);

/* Allows a kernel, whose static shared memory is 2 KiB or less, `bytes` of dynamic shared memory. */
ht_status ht_cuda_allow_shared(const void *kernel, int64_t bytes, ht_error *err);

/* *host = `bytes` (at most HT_CUDA_PIECE_BYTES) from the device, in staging memory: valid until the next upload or
 * download. Waits for the stream. */
ht_status ht_cuda_fetch(ht_backend *be, const void *from, size_t bytes, const void **host, ht_error *err);

ht_status ht_cuda_upload(ht_backend *, void *, const void *, size_t, ht_error *);
ht_status ht_cuda_download(ht_backend *, void *, const void *, size_t, ht_error *);

/* The operations; see backend.h. */
ht_status ht_cuda_copy(ht_backend *, ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cuda_embedding_backward(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status ht_cuda_rms_norm_forward(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *, float,
                                   ht_error *);
ht_status ht_cuda_rms_norm_backward(ht_backend *, ht_tensor *, ht_tensor *, const ht_tensor *, const ht_tensor *,
                                    const float *, const ht_tensor *, ht_error *);
ht_status ht_cuda_matmul_forward(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                 ht_error *);
ht_status ht_cuda_matmul_rows(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                              ht_error *);
ht_status ht_cuda_matmul_backward_data(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cuda_matmul_backward_weight(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cuda_rope(ht_backend *, ht_tensor *, int64_t, int64_t, const int32_t *, const ht_tensor *, int,
                       ht_error *);
ht_status ht_cuda_attention_forward(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *,
                                    const ht_tensor *, const ht_attention_shape *, ht_error *);
ht_status ht_cuda_attention_backward(ht_backend *, const ht_attention_backward_args *, const ht_attention_shape *,
                                     ht_error *);
ht_status ht_cuda_attention_cached(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                   ht_kv_pages *, const ht_cached_shape *, ht_error *);
ht_status ht_cuda_swiglu_forward(ht_backend *, ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cuda_swiglu_backward(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cuda_gather_rows(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status ht_cuda_scatter_rows(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status ht_cuda_token_loss_forward(ht_backend *, const ht_tensor *, ht_tensor *, const int32_t *, float *, float *,
                                     const ht_token_loss *, ht_error *);
ht_status ht_cuda_adamw(ht_backend *, const ht_adamw_run *, const ht_adamw_args *, ht_error *);
ht_status ht_cuda_sum_squares(ht_backend *, const float *, int64_t, double *, ht_error *);
ht_status ht_cuda_sample(ht_backend *, const ht_tensor *, const ht_sampling *, int32_t *, float *, ht_error *);

/* Passes that repeat (replay.cu). */
ht_status ht_cuda_replay(ht_backend *, ht_recording **, ht_status (*)(void *, ht_error *), void *, ht_error *);
void ht_cuda_forget(ht_recording *recording);

/* Products' own state (products.cu). */
ht_status ht_cuda_products_open(struct ht_cuda_products **products, ht_error *err);
void ht_cuda_products_close(struct ht_cuda_products *products);

#endif
