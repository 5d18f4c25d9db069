/*
 * Attention on CUDA.  Contract: backend.h.
 */
#include "core/backend/cuda/cuda.h"

static ht_status missing(const char *op, ht_error *err) {
    return ht_fail(err, HT_ERR_USAGE, "%s: not implemented on the cuda backend", op);
}

ht_status ht_cuda_attention_forward(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *,
                                    const ht_tensor *, const ht_attention_shape *, ht_error *err) {
    return missing("attention_forward", err);
}

ht_status ht_cuda_attention_backward(ht_backend *, const ht_attention_backward_args *, const ht_attention_shape *,
                                     ht_error *err) {
    return missing("attention_backward", err);
}

ht_status ht_cuda_attention_cached(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                   ht_kv_pages *, const ht_cached_shape *, ht_error *err) {
    return missing("attention_cached", err);
}
