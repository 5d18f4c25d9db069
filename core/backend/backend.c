#include "core/backend/backend.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/backend/ops.h"
#include "core/backend/profile.h"
#include "core/base/arena.h"
#include "core/base/log.h"
#include "core/base/memory.h"

#define GIB (1.0 / (1 << 30)) /* of a byte */

const char *const ht_backend_names[] = {"auto", "cpu", "cuda", NULL};
const char *const ht_dtype_choice_names[] = {"auto", "f32", "bf16", NULL};
const char *const ht_adamw_state_names[] = {"f32", "bf16", "8bit", NULL};

/* AUTO: a GPU where there is one; one that does not work is an error. */
static ht_status open_kind(ht_backend *be, ht_backend_kind kind, int device, int threads, ht_error *err) {
    if (kind == HT_BACKEND_CPU) return ht_cpu_open(be, threads, err);
    ht_error gpu = HT_ERROR_INIT;
    ht_status status = ht_cuda_open(be, device, threads, &gpu);
    if (status == HT_ERR_USAGE && kind == HT_BACKEND_AUTO) {
        /* A driver has made this file: someone pays for that GPU. */
        if (access("/dev/nvidiactl", F_OK) == 0) ht_warn("computing on the CPU, though there is a GPU: %s", gpu.message);
        return ht_cpu_open(be, threads, err);
    }
    return status == HT_OK ? HT_OK : ht_fail(err, status, "%s", gpu.message);
}

ht_status ht_backend_open(ht_backend **be, ht_backend_kind kind, int threads, ht_error *err) {
    return ht_backend_open_device(be, kind, 0, threads, err);
}

ht_status ht_backend_open_device(ht_backend **be, ht_backend_kind kind, int device, int threads, ht_error *err) {
    *be = NULL;
    if (kind != HT_BACKEND_AUTO && kind != HT_BACKEND_CPU && kind != HT_BACKEND_CUDA)
        return ht_fail(err, HT_ERR_USAGE, "backend %d is none of auto, cpu, cuda", (int)kind);
    if (threads < 0) return ht_fail(err, HT_ERR_USAGE, "threads = %d is below 0", threads);
    ht_backend *opened = NULL;
    ht_status status = ht_calloc(&opened, 1, sizeof *opened, err);
    if (status == HT_OK) status = open_kind(opened, kind, device, threads, err);
    if (status != HT_OK) {
        free(opened);
        return status;
    }
    *be = opened;
    return HT_OK;
}

void ht_backend_close(ht_backend *be) {
    if (!be) return;
    if (be->profile) ht_profile_report(be);
    free(be->profile);
    be->ops->close(be);
    free(be);
}

const char *ht_backend_name(const ht_backend *be) {
    return be->ops->name;
}

int ht_backend_threads(const ht_backend *be) {
    return be->threads;
}

void *ht_backend_stream(const ht_backend *be) {
    return be->ops->stream ? be->ops->stream(be) : NULL;
}

ht_status ht_backend_choose_dtype(ht_backend *be, ht_dtype_choice choice, ht_error *err) {
    const char *why;
    ht_bf16_speed bf16 = be->ops->bf16_speed(&why);
    if (choice == HT_DTYPE_BF16 && bf16 == HT_BF16_NONE)
        return ht_fail(err, HT_ERR_USAGE, "dtype = bf16: %s; use f32", why);
    be->dtype = choice == HT_DTYPE_BF16 || (choice == HT_DTYPE_AUTO && bf16 == HT_BF16_FAST) ? HT_BF16 : HT_F32;
    if (choice == HT_DTYPE_AUTO) ht_info("computing in %s: %s", be->dtype == HT_BF16 ? "bf16" : "f32", why);
    return HT_OK;
}

ht_dtype ht_backend_dtype(const ht_backend *be) {
    return be->dtype;
}

void ht_backend_arena(ht_backend *be, ht_arena *arena) {
    arena->allocate = be->ops->allocate;
    arena->release = be->ops->release;
    arena->owner = be;
    if (arena->planning) arena->booked[HT_MEMORY_BACKEND] = be->ops->own_bytes;
}

ht_status ht_backend_memory(ht_backend *be, size_t *available, size_t *total, ht_error *err) {
    return be->ops->memory(be, available, total, err);
}

/* "weights 13.5 GiB, gradients 27.0 GiB": the categories of which something is booked. */
static void describe_plan(const ht_arena *plan, char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < HT_MEMORY_COUNT && used < size; i++)
        if (plan->booked[i] > 0)
            used += (size_t)snprintf(text + used, size - used, "%s%s %.3f GiB", used ? ", " : "",
                                     ht_memory_category_text((ht_memory_category)i), (double)plan->booked[i] * GIB);
}

ht_status ht_backend_check_plan(ht_backend *be, const ht_arena *plan, ht_error *err) {
    size_t available, total, needed = ht_arena_total(plan);
    char text[512];
    ht_status status = ht_backend_memory(be, &available, &total, err);
    if (status != HT_OK || needed <= available) return status;
    describe_plan(plan, text, sizeof text);
    return ht_fail(err, HT_ERR_NOMEM, "this needs %.3f GiB (%s), but %.3f of %.3f GiB of %s memory are available",
                   (double)needed * GIB, text, (double)available * GIB, (double)total * GIB,
                   be->ops->allocate ? "device" : "host");
}

/* --- calls ------------------------------------------------------------------------------------------------ */

/* Calls the backend's entry, and counts the call where there is a profile. */
#define CALL(operation, work, entry)                                              \
    do {                                                                          \
        if (!be->profile) {                                                       \
            status = be->ops->entry;                                              \
            break;                                                                \
        }                                                                         \
        ht_profile_begin(be->profile);                                            \
        status = be->ops->entry;                                                  \
        if (status == HT_OK && be->ops->finish && !be->profile->together)         \
            status = be->ops->finish(be, err);                                    \
        ht_profile_end(be->profile, HT_OPERATION_##operation, work);              \
    } while (0)

static double size_of(const ht_tensor *t) {
    return (double)t->rows * (double)t->cols * (double)ht_dtype_size(t->dtype);
}

/* `bytes` moved, nothing multiplied. */
static ht_work moves(double bytes) {
    return (ht_work){.bytes = bytes};
}

/* M x N x K, over operands of these bytes. */
static ht_work multiplies(int64_t m, int64_t n, int64_t k, double bytes) {
    return (ht_work){.flop = 2.0 * (double)m * (double)n * (double)k, .bytes = bytes};
}

ht_status ht_upload(ht_backend *be, void *to, const void *from_host, size_t bytes, ht_error *err) {
    ht_status status;
    CALL(UPLOAD, moves(2.0 * (double)bytes), upload(be, to, from_host, bytes, err));
    return status;
}

ht_status ht_download(ht_backend *be, void *to_host, const void *from, size_t bytes, ht_error *err) {
    ht_status status;
    CALL(DOWNLOAD, moves(2.0 * (double)bytes), download(be, to_host, from, bytes, err));
    return status;
}

ht_status ht_zero(ht_backend *be, void *memory, size_t bytes, ht_error *err) {
    ht_status status;
    CALL(ZERO, moves((double)bytes), zero(be, memory, bytes, err));
    return status;
}

/* --- checks ----------------------------------------------------------------------------------------------- */

static ht_status check_shape(const char *op, const char *name, const ht_tensor *t, int64_t rows, int64_t cols,
                             ht_error *err) {
    if (t->dtype != HT_F32 && t->dtype != HT_BF16)
        return ht_fail(err, HT_ERR_USAGE, "%s: %s is %s; operations compute in float32 or bfloat16", op, name,
                       ht_dtype_torch_name(t->dtype));
    if (t->rows != rows || t->cols != cols || t->stride < t->cols)
        return ht_fail(err, HT_ERR_USAGE,
                       "%s: %s is [%" PRId64 ", %" PRId64 "] (stride %" PRId64 "), not [%" PRId64 ", %" PRId64 "]", op,
                       name, t->rows, t->cols, t->stride, rows, cols);
    return HT_OK;
}

static ht_status check_dtype(const char *op, const char *name, const ht_tensor *t, ht_dtype dtype, ht_error *err) {
    if (t->dtype != dtype)
        return ht_fail(err, HT_ERR_USAGE, "%s: %s is %s, not %s", op, name, ht_dtype_torch_name(t->dtype),
                       ht_dtype_torch_name(dtype));
    return HT_OK;
}

/* Shape, and the dtype of another tensor. */
static ht_status check_like(const char *op, const char *name, const ht_tensor *t, int64_t rows, int64_t cols,
                            ht_dtype dtype, ht_error *err) {
    ht_status status = check_shape(op, name, t, rows, cols, err);
    return status ? status : check_dtype(op, name, t, dtype, err);
}

static ht_status check_heads(const char *op, int64_t heads, int64_t kv_heads, int64_t head_dim, ht_error *err) {
    if (heads < 1 || kv_heads < 1 || heads % kv_heads || head_dim < 2 || head_dim % 2)
        return ht_fail(err, HT_ERR_USAGE,
                       "%s: %" PRId64 " heads over %" PRId64 " key/value heads of width %" PRId64
                       " (heads must be a multiple, the width even)",
                       op, heads, kv_heads, head_dim);
    return HT_OK;
}

ht_status ht_upload_converted(ht_backend *be, ht_tensor *y, const void *from_host, ht_dtype from, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_shape("upload_converted", "y", y, y->rows, y->cols, err));
    if (y->stride != y->cols && y->rows > 1)
        return ht_fail(err, HT_ERR_USAGE, "upload_converted: the rows of y do not follow each other");
    CALL(UPLOAD, moves((double)y->rows * (double)y->cols * (double)(ht_dtype_size(from) + ht_dtype_size(y->dtype))),
         upload_converted(be, y, from_host, from, err));
done:
    return status;
}

ht_status ht_copy(ht_backend *be, ht_tensor *y, const ht_tensor *x, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_shape("copy", "y", y, x->rows, x->cols, err));
    HT_TRY(check_shape("copy", "x", x, x->rows, x->cols, err));
    CALL(COPY, moves(size_of(x) + size_of(y)), copy(be, y, x, err));
done:
    return status;
}

ht_status ht_embedding_forward(ht_backend *be, ht_tensor *y, const ht_tensor *table, const int32_t *ids,
                               ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_like("embedding_forward", "y", y, y->rows, table->cols, table->dtype, err));
    CALL(EMBEDDING_FORWARD, moves(2 * size_of(y)), embedding_forward(be, y, table, ids, err));
done:
    return status;
}

ht_status ht_embedding_backward(ht_backend *be, ht_tensor *dtable, const ht_tensor *dy, const int32_t *ids,
                                ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_dtype("embedding_backward", "dtable", dtable, HT_F32, err));
    HT_TRY(check_shape("embedding_backward", "dy", dy, dy->rows, dtable->cols, err));
    CALL(EMBEDDING_BACKWARD, moves(size_of(dy) + 8.0 * (double)dy->rows * (double)dy->cols),
         embedding_backward(be, dtable, dy, ids, err));
done:
    return status;
}

ht_status ht_rms_norm_forward(ht_backend *be, ht_tensor *y, float *rstd, const ht_tensor *x, const ht_tensor *gain,
                              float eps, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_like("rms_norm_forward", "y", y, x->rows, x->cols, x->dtype, err));
    HT_TRY(check_like("rms_norm_forward", "gain", gain, 1, x->cols, x->dtype, err));
    CALL(RMS_NORM_FORWARD, moves(2 * size_of(x)), rms_norm_forward(be, y, rstd, x, gain, eps, err));
done:
    return status;
}

ht_status ht_rms_norm_backward(ht_backend *be, ht_tensor *dx, ht_tensor *dgain, const ht_tensor *dy,
                               const ht_tensor *x, const float *rstd, const ht_tensor *gain, ht_error *err) {
    const char *op = "rms_norm_backward";
    ht_status status = HT_OK;
    HT_TRY(check_like(op, "dx", dx, x->rows, x->cols, x->dtype, err));
    HT_TRY(check_like(op, "dy", dy, x->rows, x->cols, x->dtype, err));
    HT_TRY(check_like(op, "gain", gain, 1, x->cols, x->dtype, err));
    if (dgain) HT_TRY(check_like(op, "dgain", dgain, 1, x->cols, HT_F32, err));
    CALL(RMS_NORM_BACKWARD, moves(4 * size_of(x)), rms_norm_backward(be, dx, dgain, dy, x, rstd, gain, err));
done:
    return status;
}

static ht_status check_forward(const char *op, const ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                               const ht_tensor *add, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_shape(op, "x", x, x->rows, x->cols, err));
    HT_TRY(check_shape(op, "y", y, x->rows, w->rows, err));
    HT_TRY(check_like(op, "w", w, w->rows, x->cols, x->dtype, err));
    if (y->dtype != HT_F32) HT_TRY(check_dtype(op, "y", y, x->dtype, err));
    if (add) HT_TRY(check_like(op, "add", add, y->rows, y->cols, y->dtype, err));
done:
    return status;
}

ht_status ht_matmul_forward(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w, const ht_tensor *add,
                            ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_forward("matmul_forward", y, x, w, add, err));
    CALL(MATMUL_FORWARD, multiplies(x->rows, w->rows, x->cols, 0), matmul_forward(be, y, x, w, add, err));
done:
    return status;
}

ht_status ht_matmul_rows(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w, const ht_tensor *add,
                         ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_forward("matmul_rows", y, x, w, add, err));
    CALL(MATMUL_ROWS, multiplies(x->rows, w->rows, x->cols, size_of(w) + size_of(x)),
         matmul_rows(be, y, x, w, add, err));
done:
    return status;
}

ht_status ht_matmul_backward_data(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const ht_tensor *w,
                                  ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_shape("matmul_backward_data", "dy", dy, dy->rows, dy->cols, err));
    HT_TRY(check_like("matmul_backward_data", "dx", dx, dy->rows, w->cols, dy->dtype, err));
    HT_TRY(check_like("matmul_backward_data", "w", w, dy->cols, w->cols, dy->dtype, err));
    CALL(MATMUL_BACKWARD_DATA, multiplies(dx->rows, dx->cols, dy->cols, 0), matmul_backward_data(be, dx, dy, w, err));
done:
    return status;
}

ht_status ht_matmul_backward_weight(ht_backend *be, ht_tensor *dw, const ht_tensor *dy, const ht_tensor *x,
                                    ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_shape("matmul_backward_weight", "dy", dy, dy->rows, dy->cols, err));
    HT_TRY(check_like("matmul_backward_weight", "dw", dw, dy->cols, x->cols, HT_F32, err));
    HT_TRY(check_like("matmul_backward_weight", "x", x, dy->rows, x->cols, dy->dtype, err));
    CALL(MATMUL_BACKWARD_WEIGHT, multiplies(dw->rows, dw->cols, dy->rows, 0),
         matmul_backward_weight(be, dw, dy, x, err));
done:
    return status;
}

ht_status ht_rope(ht_backend *be, ht_tensor *x, int64_t heads, int64_t head_dim, const int32_t *positions,
                  const ht_tensor *table, int direction, ht_error *err) {
    ht_status status = HT_OK;
    if (direction != 1 && direction != -1)
        return ht_fail(err, HT_ERR_USAGE, "rope: direction %d is neither 1 nor -1", direction);
    HT_TRY(check_heads("rope", heads, 1, head_dim, err));
    HT_TRY(check_shape("rope", "x", x, x->rows, heads * head_dim, err));
    HT_TRY(check_like("rope", "table", table, table->rows, head_dim, HT_F32, err));
    CALL(ROPE, moves(2 * size_of(x)), rope(be, x, heads, head_dim, positions, table, direction, err));
done:
    return status;
}

/* q, k, v of an attention: T rows of H, G, G heads, one dtype. */
static ht_status check_qkv(const char *op, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                           const ht_tensor *q, const ht_tensor *k, const ht_tensor *v, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_heads(op, heads, kv_heads, head_dim, err));
    HT_TRY(check_shape(op, "q", q, rows, heads * head_dim, err));
    HT_TRY(check_like(op, "k", k, rows, kv_heads * head_dim, q->dtype, err));
    HT_TRY(check_like(op, "v", v, rows, kv_heads * head_dim, q->dtype, err));
done:
    return status;
}

/* Pairs of a query and a key that it sees. */
static double causal_pairs(const ht_attention_shape *shape) {
    double pairs = 0;
    for (int64_t s = 0; s < shape->sequences; s++) {
        double length = (double)(shape->seq_start_host[s + 1] - shape->seq_start_host[s]);
        pairs += length * (length + 1) / 2;
    }
    return pairs;
}

/* `products` of head_dim multiplications a pair and head: 2 forward, scores and values; 5 backward, the scores again
 * and four gradients. */
static ht_work attends(int64_t heads, int64_t head_dim, double pairs, int products) {
    return (ht_work){.flop = 2.0 * products * pairs * (double)(heads * head_dim)};
}

/* Keys and values up to each sequence's last row are read once. */
static ht_work attends_cached(const ht_cached_shape *shape, const ht_tensor *k) {
    double pairs = 0, positions = 0;
    for (int64_t s = 0; s < shape->sequences; s++) {
        double rows = (double)(shape->seq_start_host[s + 1] - shape->seq_start_host[s]);
        double past = (double)shape->past_host[s];
        pairs += rows * past + rows * (rows + 1) / 2;
        positions += past + rows;
    }
    ht_work work = attends(shape->heads, shape->head_dim, pairs, 2);
    work.bytes = 2 * positions * (double)k->cols * (double)ht_dtype_size(k->dtype);
    return work;
}

int64_t ht_cached_most_keys(const ht_cached_shape *shape) {
    int64_t most = 0;
    for (int64_t s = 0; s < shape->sequences; s++) {
        int64_t keys = shape->past_host[s] + shape->seq_start_host[s + 1] - shape->seq_start_host[s];
        if (keys > most) most = keys;
    }
    return (most + 127) / 128 * 128;
}

ht_status ht_attention_forward(ht_backend *be, ht_tensor *out, float *lse, const ht_tensor *q, const ht_tensor *k,
                               const ht_tensor *v, const ht_attention_shape *shape, ht_error *err) {
    const char *op = "attention_forward";
    int64_t rows = shape->seq_start_host[shape->sequences];
    ht_status status = HT_OK;
    HT_TRY(check_qkv(op, rows, shape->heads, shape->kv_heads, shape->head_dim, q, k, v, err));
    HT_TRY(check_like(op, "out", out, rows, q->cols, q->dtype, err));
    CALL(ATTENTION_FORWARD, attends(shape->heads, shape->head_dim, causal_pairs(shape), 2),
         attention_forward(be, out, lse, q, k, v, shape, err));
done:
    return status;
}

ht_status ht_attention_backward(ht_backend *be, const ht_attention_backward_args *args,
                                const ht_attention_shape *shape, ht_error *err) {
    const char *op = "attention_backward";
    int64_t rows = shape->seq_start_host[shape->sequences];
    ht_status status = HT_OK;
    HT_TRY(check_qkv(op, rows, shape->heads, shape->kv_heads, shape->head_dim, args->q, args->k, args->v, err));
    HT_TRY(check_qkv(op, rows, shape->heads, shape->kv_heads, shape->head_dim, args->dq, args->dk, args->dv, err));
    HT_TRY(check_like(op, "out", args->out, rows, args->q->cols, args->q->dtype, err));
    HT_TRY(check_like(op, "dout", args->dout, rows, args->q->cols, args->q->dtype, err));
    CALL(ATTENTION_BACKWARD, attends(shape->heads, shape->head_dim, causal_pairs(shape), 5),
         attention_backward(be, args, shape, err));
done:
    return status;
}

ht_status ht_attention_cached(ht_backend *be, ht_tensor *out, const ht_tensor *q, const ht_tensor *k,
                              const ht_tensor *v, ht_kv_pages *pages, const ht_cached_shape *shape, ht_error *err) {
    const char *op = "attention_cached";
    int64_t rows = shape->seq_start_host[shape->sequences];
    ht_status status = HT_OK;
    HT_TRY(check_qkv(op, rows, shape->heads, shape->kv_heads, shape->head_dim, q, k, v, err));
    HT_TRY(check_like(op, "out", out, rows, q->cols, q->dtype, err));
    if (pages->block_size < 16 || pages->block_size % 16)
        return ht_fail(err, HT_ERR_USAGE, "%s: a block of %" PRId64 " positions is not a multiple of 16", op,
                       pages->block_size);
    HT_TRY(check_like(op, "keys", &pages->keys, pages->keys.rows, k->cols, q->dtype, err));
    HT_TRY(check_like(op, "values", &pages->values, pages->keys.rows, k->cols, q->dtype, err));
    CALL(ATTENTION_CACHED, attends_cached(shape, k), attention_cached(be, out, q, k, v, pages, shape, err));
done:
    return status;
}

ht_status ht_swiglu_forward(ht_backend *be, ht_tensor *y, const ht_tensor *gu, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_like("swiglu_forward", "gu", gu, y->rows, 2 * y->cols, y->dtype, err));
    CALL(SWIGLU_FORWARD, moves(size_of(y) + size_of(gu)), swiglu_forward(be, y, gu, err));
done:
    return status;
}

ht_status ht_swiglu_backward(ht_backend *be, ht_tensor *dgu, const ht_tensor *dy, const ht_tensor *gu, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_like("swiglu_backward", "dgu", dgu, gu->rows, gu->cols, gu->dtype, err));
    HT_TRY(check_like("swiglu_backward", "gu", gu, dy->rows, 2 * dy->cols, dy->dtype, err));
    CALL(SWIGLU_BACKWARD, moves(size_of(dgu) + size_of(dy) + size_of(gu)),
         swiglu_backward(be, dgu, dy, gu, err));
done:
    return status;
}

ht_status ht_gather_rows(ht_backend *be, ht_tensor *y, const ht_tensor *x, const int32_t *rows, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_like("gather_rows", "y", y, y->rows, x->cols, x->dtype, err));
    CALL(GATHER_ROWS, moves(2 * size_of(y)), gather_rows(be, y, x, rows, err));
done:
    return status;
}

ht_status ht_scatter_rows(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const int32_t *rows, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_like("scatter_rows", "dy", dy, dy->rows, dx->cols, dx->dtype, err));
    CALL(SCATTER_ROWS, moves(3 * size_of(dy)), scatter_rows(be, dx, dy, rows, err));
done:
    return status;
}

ht_status ht_token_loss_forward(ht_backend *be, const ht_tensor *logits, ht_tensor *dlogits, const int32_t *targets,
                                float *logp, float *entropy, const ht_token_loss *loss, ht_error *err) {
    const char *op = "token_loss_forward";
    if (loss->kind != HT_TOKEN_LOSS_NONE && (!loss->weight || !dlogits))
        return ht_fail(err, HT_ERR_USAGE, "%s: a loss needs weights and dlogits", op);
    if (loss->kind == HT_TOKEN_LOSS_CLIP && (!loss->old_logp || !loss->advantage || !(loss->clip > 0)))
        return ht_fail(err, HT_ERR_USAGE, "%s: the clipped loss needs old_logp, advantage and clip > 0", op);
    ht_status status = HT_OK;
    HT_TRY(check_like(op, "logits", logits, logits->rows, logits->cols, HT_F32, err));
    if (dlogits) HT_TRY(check_shape(op, "dlogits", dlogits, logits->rows, logits->cols, err));
    CALL(TOKEN_LOSS, moves(size_of(logits) + (dlogits ? size_of(dlogits) : 0)),
         token_loss_forward(be, logits, dlogits, targets, logp, entropy, loss, err));
done:
    return status;
}

/* Bytes that an update reads and writes. */
static double update_bytes(const ht_adamw_run *run) {
    static const double moment[] = {4, 2, 1};
    double weight = (double)ht_dtype_size(run->dtype) + (run->low ? 2 : 0);
    return (double)run->n * 2 * (weight + 4 + 2 * moment[run->state]);
}

ht_status ht_adamw(ht_backend *be, const ht_adamw_run *run, const ht_adamw_args *args, ht_error *err) {
    int scaled = run->m_scale && run->v_scale;
    if (args->step < 1) return ht_fail(err, HT_ERR_USAGE, "adamw: step %" PRId64 " is below 1", args->step);
    if (run->dtype != HT_F32 && run->dtype != HT_BF16)
        return ht_fail(err, HT_ERR_USAGE, "adamw: weights are %s, allowed are f32 and bf16", ht_dtype_torch_name(run->dtype));
    if (scaled != (run->state == HT_ADAMW_8BIT) ||
        (run->low != NULL) != (run->state == HT_ADAMW_F32 && run->dtype == HT_BF16))
        return ht_fail(err, HT_ERR_USAGE,
                       "adamw: scales belong to 8bit state, low bits to f32 state of bf16 weights; this is %s of %s",
                       ht_adamw_state_names[run->state], ht_dtype_torch_name(run->dtype));
    ht_status status;
    CALL(ADAMW, moves(update_bytes(run)), adamw(be, run, args, err));
    return status;
}

ht_status ht_sum_squares(ht_backend *be, const float *x, int64_t n, double *sum, ht_error *err) {
    ht_status status;
    CALL(SUM_SQUARES, moves(4.0 * (double)n), sum_squares(be, x, n, sum, err));
    return status;
}

static ht_status check_settings(const ht_sampling *s, int64_t index, ht_error *err) {
    /* Below the smallest normal number the inverse would be infinite. */
    if (!(s->temperature == 0 || s->temperature >= 1e-6f) || s->temperature > 1e6f)
        return ht_fail(err, HT_ERR_USAGE,
                       "sample: row %" PRId64 ": temperature = %g is neither 0 nor in [1e-6, 1e6]", index,
                       (double)s->temperature);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return ht_fail(err, HT_ERR_USAGE, "sample: row %" PRId64 ": top_p = %g is outside (0, 1]", index,
                       (double)s->top_p);
    if (s->top_k < 0)
        return ht_fail(err, HT_ERR_USAGE, "sample: row %" PRId64 ": top_k = %" PRId32 " is below 0", index,
                       s->top_k);
    return HT_OK;
}

ht_status ht_sample(ht_backend *be, const ht_tensor *logits, const ht_sampling *settings, int32_t *tokens, float *logp,
                    ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(check_like("sample", "logits", logits, logits->rows, logits->cols, HT_F32, err));
    if (logits->cols < 1 || logits->cols > INT32_MAX)
        return ht_fail(err, HT_ERR_USAGE, "sample: %" PRId64 " columns of logits", logits->cols);
    for (int64_t r = 0; r < logits->rows; r++)
        HT_TRY(check_settings(&settings[r], r, err));
    CALL(SAMPLE, moves(size_of(logits)), sample(be, logits, settings, tokens, logp, err));
    for (int64_t r = 0; r < logits->rows && status == HT_OK; r++)
        if (tokens[r] < 0)
            status = ht_fail(err, HT_ERR_RUN, "sample: row %" PRId64 " of %" PRId64 ": a logit is not finite", r,
                             logits->rows);
done:
    return status;
}

ht_status ht_replay(ht_backend *be, ht_recording **recording, ht_status (*run)(void *context, ht_error *err), void *context,
                    ht_error *err) {
    if (!be->ops->replay || be->profile) return run(context, err);
    return be->ops->replay(be, recording, run, context, err);
}

void ht_recording_free(ht_backend *be, ht_recording *recording) {
    if (recording) be->ops->forget(recording);
}
