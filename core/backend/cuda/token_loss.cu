/*
 * Log-probability, entropy and the gradient of a token loss on CUDA.  Contract: backend.h, ht_token_loss_forward.
 * Launch   a block a row, up to 1024 threads; the row stays in shared memory, 4 V bytes, where it fits (V up to some
 *          57,000 on sm_90). Longer rows are read three times.
 * Traffic  logits once, dlogits once: memory-bound, floor = (4 + width of dlogits) R V bytes over bandwidth.
 * Fused    softmax, log-probability, entropy, the loss and its gradient: one exponential an element.
 * Measured not yet.
 */
#include "core/backend/cuda/device.h"

enum { MOST_THREADS = 1024 };

template <typename D> struct loss_arguments {
    const float *logits; /* dlogits may be the same: an element is read before its own thread writes it */
    D *dlogits;
    const int32_t *targets;
    float *logp, *entropy;
    int64_t logits_stride, dlogits_stride, rows;
    int packs;
    ht_token_loss loss;
};

/* d loss / d logp of one row. */
static __device__ __forceinline__ float coefficient(const ht_token_loss &loss, int64_t row, float logp) {
    float weight = loss.weight[row];
    if (loss.kind == HT_TOKEN_LOSS_NLL) return -weight;
    float ratio = expf(logp - loss.old_logp[row]), advantage = loss.advantage[row];
    /* min(r A, clip(r) A) is flat where the clipped term is the smaller one. */
    bool flat = advantage > 0 ? ratio > 1.0f + loss.clip : ratio < 1.0f - loss.clip;
    return flat ? 0.0f : -weight * ratio * advantage;
}

/* KEPT: the row, and then its exponentials, stay in shared memory; each thread has its own packs of it. */
template <typename D, int W, bool KEPT>
static __global__ void __launch_bounds__(MOST_THREADS, 1) token_loss(loss_arguments<D> a) {
    HT_SHARED(float, partials, [32]);
    HT_DYNAMIC_SHARED(float, kept);
    int threads = (int)blockDim.x, first = (int)threadIdx.x;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const float *x = a.logits + row * a.logits_stride;
        int target = a.targets[row];
        float at_target = x[target], largest = -INFINITY, mass = 0, weighted = 0, v[W];
#pragma unroll 4
        for (int pack = first; pack < a.packs; pack += threads) {
            ht_load(v, x + (int64_t)pack * W);
            if (KEPT) ht_keep(kept + (int64_t)pack * W, v);
#pragma unroll
            for (int k = 0; k < W; k++)
                largest = fmaxf(largest, v[k]);
        }
        largest = ht_block_max(largest, partials);
#pragma unroll 4
        for (int pack = first; pack < a.packs; pack += threads) {
            ht_load(v, (KEPT ? kept : x) + (int64_t)pack * W);
#pragma unroll
            for (int k = 0; k < W; k++) {
                float shifted = v[k] - largest;
                v[k] = expf(shifted);
                mass += v[k];
                weighted += v[k] > 0 ? v[k] * shifted : 0.0f;
            }
            if (KEPT) ht_keep(kept + (int64_t)pack * W, v);
        }
        mass = ht_block_sum(mass, partials);
        weighted = ht_block_sum(weighted, partials);
        float log_mass = logf(mass), logp = at_target - largest - log_mass;
        if (first == 0) {
            a.logp[row] = logp;
            if (a.entropy) a.entropy[row] = log_mass - weighted / mass; /* -sum p log p */
        }
        if (a.loss.kind == HT_TOKEN_LOSS_NONE) continue;
        float c = coefficient(a.loss, row, logp), scale = -c / mass;
#pragma unroll 4
        for (int pack = first; pack < a.packs; pack += threads) {
            ht_load(v, (KEPT ? kept : x) + (int64_t)pack * W);
#pragma unroll
            for (int k = 0; k < W; k++) {
                v[k] = scale * (KEPT ? v[k] : expf(v[k] - largest));
                if (pack * W + k == target) v[k] += c;
            }
            ht_store(a.dlogits + row * a.dlogits_stride + (int64_t)pack * W, v);
        }
    }
}

template <typename D, int W, bool KEPT>
static ht_status launch_kernel(const ht_cuda *cuda, const loss_arguments<D> &a, ht_error *err) {
    enum { BLOCKS_A_MULTIPROCESSOR = 16 };
    int64_t most = (int64_t)cuda->multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    int64_t shared = KEPT ? (int64_t)a.packs * W * (int64_t)sizeof(float) : 0;
    HT_CHECK(ht_cuda_allow_shared((const void *)token_loss<D, W, KEPT>, shared, err));
    HT_LAUNCH((token_loss<D, W, KEPT>), dim3((unsigned)ht_least(a.rows, most)),
              dim3(ht_row_threads(a.packs, 4, MOST_THREADS)), shared, cuda->stream, a);
    return ht_cuda_launched("token_loss_forward", err);
}

template <typename D, int W>
static ht_status launch(const ht_cuda *cuda, const ht_tensor *logits, ht_tensor *dlogits, const int32_t *targets,
                        float *logp, float *entropy, const ht_token_loss *loss, ht_error *err) {
    loss_arguments<D> a = {};
    a.logits = (const float *)logits->data, a.logits_stride = logits->stride;
    if (dlogits) a.dlogits = (D *)dlogits->data, a.dlogits_stride = dlogits->stride;
    a.targets = targets, a.logp = logp, a.entropy = entropy, a.loss = *loss;
    a.rows = logits->rows, a.packs = (int)(logits->cols / W);
    int64_t room = (cuda->shared_limit - 1024) / (int64_t)sizeof(float);
    return logits->cols <= room ? launch_kernel<D, W, true>(cuda, a, err) : launch_kernel<D, W, false>(cuda, a, err);
}

ht_status ht_cuda_token_loss_forward(ht_backend *be, const ht_tensor *logits, ht_tensor *dlogits,
                                     const int32_t *targets, float *logp, float *entropy, const ht_token_loss *loss,
                                     ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    if (dlogits) HT_CHECK(ht_cuda_need_float("token_loss_forward", dlogits, err));
    if (logits->rows == 0 || logits->cols == 0) return HT_OK;
    if (logits->cols > INT32_MAX - MOST_THREADS)
        return ht_fail(err, HT_ERR_USAGE, "token_loss_forward: more than 2^31 columns of logits");
    int packed = ht_packed(logits) && (!dlogits || ht_packed(dlogits));
    if (dlogits && dlogits->dtype == HT_BF16)
        return packed ? launch<ht_bf16, 4>(cuda, logits, dlogits, targets, logp, entropy, loss, err)
                      : launch<ht_bf16, 1>(cuda, logits, dlogits, targets, logp, entropy, loss, err);
    return packed ? launch<float, 4>(cuda, logits, dlogits, targets, logp, entropy, loss, err)
                  : launch<float, 1>(cuda, logits, dlogits, targets, logp, entropy, loss, err);
}
