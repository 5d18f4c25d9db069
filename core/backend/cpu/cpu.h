/*
 * cpu.h: inside of the CPU backend. One operation a file; products by oneDNN, threads by OpenMP.
 */
#ifndef HT_BACKEND_CPU_CPU_H
#define HT_BACKEND_CPU_CPU_H

#include "core/backend/ops.h"

/* Grows every thread's own scratch memory to `bytes`; it is kept between calls. Not inside a parallel region. */
ht_status ht_cpu_scratch_all(ht_backend *be, size_t bytes, ht_error *err);

/* A thread's scratch memory, 64-byte aligned. */
void *ht_cpu_scratch(ht_backend *be, int thread);

/* HT_OK for f32, the dtype of this backend's operations; else HT_ERR_USAGE naming the operation. */
ht_status ht_cpu_need_f32(const char *op, const ht_tensor *t, ht_error *err);

/* Row `r` of an f32 matrix. */
static inline float *ht_row(const ht_tensor *t, int64_t r) {
    return (float *)t->data + r * t->stride;
}

ht_status ht_cpu_embedding_forward(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status ht_cpu_embedding_backward(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status ht_cpu_rms_norm_forward(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *, float,
                                  ht_error *);
ht_status ht_cpu_rms_norm_backward(ht_backend *, ht_tensor *, ht_tensor *, const ht_tensor *, const ht_tensor *,
                                   const float *, const ht_tensor *, ht_error *);
ht_status ht_cpu_matmul_forward(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_accumulate,
                                ht_error *);
ht_status ht_cpu_matmul_backward_data(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_accumulate,
                                      ht_error *);
ht_status ht_cpu_matmul_backward_weight(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cpu_rope(ht_backend *, ht_tensor *, int64_t, int64_t, const int32_t *, const ht_tensor *, int,
                      ht_error *);
ht_status ht_cpu_attention_forward(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *,
                                   const ht_tensor *, const ht_attention_shape *, ht_error *);
ht_status ht_cpu_attention_backward(ht_backend *, const ht_attention_backward_args *, const ht_attention_shape *,
                                    ht_error *);
ht_status ht_cpu_attention_cached(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                  ht_kv_pages *, const ht_cached_shape *, ht_error *);
ht_status ht_cpu_swiglu_forward(ht_backend *, ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cpu_swiglu_backward(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cpu_gather_rows(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status ht_cpu_scatter_rows(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status ht_cpu_token_loss_forward(ht_backend *, ht_tensor *, const int32_t *, float *, float *,
                                    const ht_token_loss *, ht_error *);
ht_status ht_cpu_adamw(ht_backend *, float *, float *, float *, const float *, int64_t, const ht_adamw_args *,
                       ht_error *);
ht_status ht_cpu_sum_squares(ht_backend *, const float *, int64_t, double *, ht_error *);
ht_status ht_cpu_sample(ht_backend *, const ht_tensor *, const ht_sampling *, int32_t *, float *, ht_error *);

#endif
