#include "core/backend/cpu/cpu.h"

#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

typedef struct cpu_state {
    void **scratch;
    size_t scratch_bytes; /* of each */
} cpu_state;

static void cpu_close(ht_backend *be) {
    cpu_state *state = be->state;
    if (!state) return;
    for (int thread = 0; state->scratch && thread < be->threads; thread++)
        free(state->scratch[thread]);
    free(state->scratch);
    free(state);
    be->state = NULL;
}

ht_status ht_cpu_scratch_all(ht_backend *be, size_t bytes, ht_error *err) {
    cpu_state *state = be->state;
    if (state->scratch_bytes >= bytes) return HT_OK;
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    state->scratch_bytes = 0;
    for (int thread = 0; thread < be->threads; thread++) {
        free(state->scratch[thread]);
        state->scratch[thread] = aligned_alloc(64, rounded);
        if (!state->scratch[thread])
            return ht_fail(err, HT_ERR_NOMEM, "no memory for %zu bytes of scratch a thread", rounded);
    }
    state->scratch_bytes = rounded;
    return HT_OK;
}

void *ht_cpu_scratch(ht_backend *be, int thread) {
    return ((cpu_state *)be->state)->scratch[thread];
}

ht_status ht_cpu_need_f32(const char *op, const ht_tensor *t, ht_error *err) {
    if (t->dtype == HT_F32) return HT_OK;
    return ht_fail(err, HT_ERR_USAGE, "%s: the cpu backend computes in float32, not %s", op,
                   ht_dtype_torch_name(t->dtype));
}

static ht_status cpu_copy_bytes(ht_backend *be, void *to, const void *from, size_t bytes, ht_error *err) {
    (void)be;
    (void)err;
    memcpy(to, from, bytes);
    return HT_OK;
}

static ht_status cpu_zero(ht_backend *be, void *memory, size_t bytes, ht_error *err) {
    (void)be;
    (void)err;
    memset(memory, 0, bytes);
    return HT_OK;
}

static ht_status cpu_copy(ht_backend *be, ht_tensor *y, const ht_tensor *x, ht_error *err) {
    (void)err;
    size_t width = ht_dtype_size(x->dtype);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (x->rows * x->cols > 65536)
    for (int64_t r = 0; r < x->rows; r++)
        memcpy((char *)y->data + (size_t)(r * y->stride) * width, (const char *)x->data + (size_t)(r * x->stride) * width,
               (size_t)x->cols * width);
    return HT_OK;
}

ht_status ht_cpu_gather_rows(ht_backend *be, ht_tensor *y, const ht_tensor *x, const int32_t *rows, ht_error *err) {
    (void)err;
    size_t width = ht_dtype_size(x->dtype);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (y->rows * y->cols > 65536)
    for (int64_t r = 0; r < y->rows; r++)
        memcpy((char *)y->data + (size_t)(r * y->stride) * width,
               (const char *)x->data + (size_t)(rows[r] * x->stride) * width, (size_t)x->cols * width);
    return HT_OK;
}

ht_status ht_cpu_scatter_rows(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const int32_t *rows, ht_error *err) {
    ht_status status = ht_cpu_need_f32("scatter_rows", dx, err);
    if (status) return status;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (dy->rows * dy->cols > 65536)
    for (int64_t r = 0; r < dy->rows; r++) {
        float *to = ht_row(dx, rows[r]);
        const float *from = ht_row(dy, r);
        for (int64_t i = 0; i < dy->cols; i++)
            to[i] += from[i];
    }
    return HT_OK;
}

static const ht_backend_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .upload = cpu_copy_bytes,
    .download = cpu_copy_bytes,
    .zero = cpu_zero,
    .copy = cpu_copy,
    .embedding_forward = ht_cpu_embedding_forward,
    .embedding_backward = ht_cpu_embedding_backward,
    .rms_norm_forward = ht_cpu_rms_norm_forward,
    .rms_norm_backward = ht_cpu_rms_norm_backward,
    .matmul_forward = ht_cpu_matmul_forward,
    .matmul_backward_data = ht_cpu_matmul_backward_data,
    .matmul_backward_weight = ht_cpu_matmul_backward_weight,
    .rope = ht_cpu_rope,
    .attention_forward = ht_cpu_attention_forward,
    .attention_backward = ht_cpu_attention_backward,
    .attention_cached = ht_cpu_attention_cached,
    .swiglu_forward = ht_cpu_swiglu_forward,
    .swiglu_backward = ht_cpu_swiglu_backward,
    .gather_rows = ht_cpu_gather_rows,
    .scatter_rows = ht_cpu_scatter_rows,
    .token_loss_forward = ht_cpu_token_loss_forward,
    .adamw = ht_cpu_adamw,
    .sum_squares = ht_cpu_sum_squares,
    .sample = ht_cpu_sample,
};

ht_status ht_cpu_open(ht_backend *be, int threads, ht_error *err) {
    ht_status status = HT_OK;
    cpu_state *state = NULL;
    be->ops = &cpu_ops;
    be->threads = threads > 0 ? threads : omp_get_num_procs();
    omp_set_num_threads(be->threads); /* oneDNN's products follow it too */
    HT_TRY(ht_calloc(&state, 1, sizeof *state, err));
    be->state = state;
    HT_TRY(ht_calloc(&state->scratch, (size_t)be->threads, sizeof(void *), err));
done:
    if (status) cpu_close(be);
    return status;
}
