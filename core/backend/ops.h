/*
 * ops.h: the table a backend fills in. Shapes and dtypes have been checked (backend.c) when an entry is called; the
 * meaning of each is its namesake's in backend.h.
 */
#ifndef HT_BACKEND_OPS_H
#define HT_BACKEND_OPS_H

#include "core/backend/backend.h"

/* How bf16 does beside f32. */
typedef enum ht_bf16_speed { HT_BF16_NONE, HT_BF16_SLOW, HT_BF16_FAST } ht_bf16_speed;

typedef struct ht_backend_ops {
    const char *name;
    void (*close)(ht_backend *be);
    void *(*stream)(const ht_backend *be); /* NULL: none */
    ht_bf16_speed (*bf16_speed)(const char **why);
    ht_status (*finish)(ht_backend *, ht_error *); /* waits for all that was asked for; NULL: calls are done on return */
    void *(*allocate)(void *owner, size_t bytes); /* NULL: host memory */
    void (*release)(void *owner, void *block, size_t bytes);
    size_t own_bytes; /* of the memory that plans fill: what operations take for themselves as they are first called */
    ht_status (*memory)(ht_backend *, size_t *, size_t *, ht_error *);
    ht_status (*upload)(ht_backend *, void *, const void *, size_t, ht_error *);
    ht_status (*upload_converted)(ht_backend *, ht_tensor *, const void *, ht_dtype, ht_error *);
    ht_status (*download)(ht_backend *, void *, const void *, size_t, ht_error *);
    ht_status (*zero)(ht_backend *, void *, size_t, ht_error *);
    ht_status (*copy)(ht_backend *, ht_tensor *, const ht_tensor *, ht_error *);
    ht_status (*embedding_forward)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
    ht_status (*embedding_backward)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
    ht_status (*rms_norm_forward)(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *, float,
                                  ht_error *);
    ht_status (*rms_norm_backward)(ht_backend *, ht_tensor *, ht_tensor *, const ht_tensor *, const ht_tensor *,
                                   const float *, const ht_tensor *, ht_error *);
    ht_status (*matmul_forward)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                ht_error *);
    ht_status (*matmul_rows)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                             ht_error *);
    ht_status (*matmul_backward_data)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
    ht_status (*matmul_backward_weight)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
    ht_status (*rope)(ht_backend *, ht_tensor *, int64_t, int64_t, const int32_t *, const ht_tensor *, int, ht_error *);
    ht_status (*attention_forward)(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *,
                                   const ht_tensor *, const ht_attention_shape *, ht_error *);
    ht_status (*attention_backward)(ht_backend *, const ht_attention_backward_args *, const ht_attention_shape *,
                                    ht_error *);
    ht_status (*attention_cached)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                  ht_kv_pages *, const ht_cached_shape *, ht_error *);
    ht_status (*swiglu_forward)(ht_backend *, ht_tensor *, const ht_tensor *, ht_error *);
    ht_status (*swiglu_backward)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *);
    ht_status (*gather_rows)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
    ht_status (*scatter_rows)(ht_backend *, ht_tensor *, const ht_tensor *, const int32_t *, ht_error *);
    ht_status (*token_loss_forward)(ht_backend *, const ht_tensor *, ht_tensor *, const int32_t *, float *, float *,
                                    const ht_token_loss *, ht_error *);
    ht_status (*adamw)(ht_backend *, const ht_adamw_run *, const ht_adamw_args *, ht_error *);
    ht_status (*sum_squares)(ht_backend *, const float *, int64_t, double *, ht_error *);
    /* tokens[r] = -1: a logit of row r is not finite */
    ht_status (*sample)(ht_backend *, const ht_tensor *, const ht_sampling *, int32_t *, float *, ht_error *);
    /* NULL: passes are not recorded */
    ht_status (*replay)(ht_backend *, ht_recording **, ht_status (*)(void *, ht_error *), void *, ht_error *);
    void (*forget)(ht_recording *);
} ht_backend_ops;

struct ht_backend {
    const ht_backend_ops *ops;
    int threads; /* of the host */
    ht_dtype dtype; /* of weights and activations */
    struct ht_profile *profile; /* profile.h; NULL: nothing is counted */
    void *state; /* the backend's own */
};

/* The backends. HT_ERR_USAGE from ht_cuda_open: it is not built in, or there is no such device. */
ht_status ht_cpu_open(ht_backend *be, int threads, ht_error *err);
ht_status ht_cuda_open(ht_backend *be, int device, int threads, ht_error *err);

/* For backends (host.c). The number asked for, or one a core. */
int ht_host_threads(int threads);
/* Copies, or converts as ht_convert does, on the backend's threads; `in` may begin at any byte. */
void ht_host_copy(const ht_backend *be, void *out, const void *in, size_t bytes);
void ht_host_convert(const ht_backend *be, void *out, ht_dtype out_dtype, const void *in, ht_dtype in_dtype, int64_t n);

#endif
