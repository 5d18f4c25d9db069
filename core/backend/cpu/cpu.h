/*
 * cpu.h: inside of the CPU backend. One operation a file; products by oneDNN, threads by OpenMP.
 *
 * The files of operations are compiled once for every instruction set that CMakeLists.txt lists, and the best one that
 * the processor has is chosen when the backend opens (cpu.c): HT_CPU(name) gives each its own symbols. cpu.c and gemm.c are
 * compiled once.
 */
#ifndef HT_BACKEND_CPU_CPU_H
#define HT_BACKEND_CPU_CPU_H

#include "core/backend/ops.h"

/* Grows every thread's own scratch memory to `bytes`; it is kept between calls. Not inside a parallel region. */
ht_status ht_cpu_scratch_all(ht_backend *be, size_t bytes, ht_error *err);

/* A thread's scratch memory, 64-byte aligned. */
void *ht_cpu_scratch(ht_backend *be, int thread);

/* The backend's oneDNN (onednn.h). */
struct ht_onednn *ht_cpu_onednn(const ht_backend *be);

/* Products (gemm.c). */
ht_status ht_cpu_matmul_forward(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                ht_error *);
ht_status ht_cpu_matmul_backward_data(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status ht_cpu_matmul_backward_weight(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);

#ifdef HT_ISA
#define HT_CPU_PASTE(name, isa) ht_cpu_##isa##_##name
#define HT_CPU_NAME(name, isa)  HT_CPU_PASTE(name, isa)
#define HT_CPU(name)            HT_CPU_NAME(name, HT_ISA)

/* The operations of this instruction set; life and memory are cpu.c's to fill in. */
extern const ht_backend_ops HT_CPU(ops);

ht_status HT_CPU(copy)(ht_backend *, ht_tensor *, const ht_tensor *, ht_error *);
ht_status HT_CPU(embedding_forward)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status HT_CPU(embedding_backward)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status HT_CPU(rms_norm_forward)(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *, float,
                                   ht_error *);
ht_status HT_CPU(rms_norm_backward)(ht_backend *, ht_tensor *, ht_tensor *, const ht_tensor *, const ht_tensor *,
                                    const float *, const ht_tensor *, ht_error *);
ht_status HT_CPU(matmul_rows)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                              ht_error *);
#ifdef __AMX_BF16__
ht_status HT_CPU(matmul_forward)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                 ht_error *);
ht_status HT_CPU(matmul_backward_data)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status HT_CPU(matmul_backward_weight)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
#endif
ht_status HT_CPU(rope)(ht_backend *, ht_tensor *, int64_t, int64_t, const int32_t *, const ht_tensor *, int, ht_error *);
ht_status HT_CPU(attention_forward)(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *,
                                    const ht_tensor *, const ht_attention_shape *, ht_error *);
ht_status HT_CPU(attention_backward)(ht_backend *, const ht_attention_backward_args *, const ht_attention_shape *,
                                     ht_error *);
ht_status HT_CPU(attention_cached)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                   ht_kv_pages *, const ht_cached_shape *, ht_error *);
ht_status HT_CPU(swiglu_forward)(ht_backend *, ht_tensor *, const ht_tensor *, ht_error *);
ht_status HT_CPU(swiglu_backward)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
ht_status HT_CPU(gather_rows)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status HT_CPU(scatter_rows)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
ht_status HT_CPU(token_loss_forward)(ht_backend *, const ht_tensor *, ht_tensor *, const int32_t *, float *, float *,
                                     const ht_token_loss *, ht_error *);
ht_status HT_CPU(adamw)(ht_backend *, const ht_adamw_run *, const ht_adamw_args *, ht_error *);
ht_status HT_CPU(sum_squares)(ht_backend *, const float *, int64_t, double *, ht_error *);
ht_status HT_CPU(sample)(ht_backend *, const ht_tensor *, const ht_sampling *, int32_t *, float *, ht_error *);
#endif

#endif
