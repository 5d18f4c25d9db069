/*
 * The table of operations of one instruction set.
 */
#include "core/backend/cpu/cpu.h"

/* Where there is AMX, products of bf16 are our own (matmul_amx.c), else oneDNN's (gemm.c). */
#ifdef __AMX_BF16__
#define PRODUCT(name) HT_CPU(name)
#else
#define PRODUCT(name) ht_cpu_##name
#endif

const ht_backend_ops HT_CPU(ops) = {
    .copy = HT_CPU(copy),
    .embedding_forward = HT_CPU(embedding_forward),
    .embedding_backward = HT_CPU(embedding_backward),
    .rms_norm_forward = HT_CPU(rms_norm_forward),
    .rms_norm_backward = HT_CPU(rms_norm_backward),
    .matmul_forward = PRODUCT(matmul_forward),
    .matmul_rows = HT_CPU(matmul_rows),
    .matmul_backward_data = PRODUCT(matmul_backward_data),
    .matmul_backward_weight = PRODUCT(matmul_backward_weight),
    .rope = HT_CPU(rope),
    .attention_forward = HT_CPU(attention_forward),
    .attention_backward = HT_CPU(attention_backward),
    .attention_cached = HT_CPU(attention_cached),
    .swiglu_forward = HT_CPU(swiglu_forward),
    .swiglu_backward = HT_CPU(swiglu_backward),
    .gather_rows = HT_CPU(gather_rows),
    .scatter_rows = HT_CPU(scatter_rows),
    .token_loss_forward = HT_CPU(token_loss_forward),
    .adamw = HT_CPU(adamw),
    .sum_squares = HT_CPU(sum_squares),
    .sample = HT_CPU(sample),
};
