/*
 * Attention on CUDA in plain arithmetic, forward and over the paged cache: f32 (the reference mode), and what the tensor
 * cores do not take.  Contract: backend.h, ht_attention_forward, ht_attention_cached.
 *
 * A row goes through the keys of its sequence from the first on in tiles of 32, whatever rows share its block, so its
 * bits are its own. The cache is not split: a block goes through all keys.
 *
 * Launch   a block of 64 threads for every 32 rows of a sequence and key/value head, those that see most keys first;
 *          13 KiB of shared memory.
 * Traffic  q, k and v for every tile of 32 by 32 scores (caches): bound by shared memory, a load for every two
 *          multiplications.
 * Fused    scaling, mask, softmax with a running maximum.
 * Measured not yet.
 */
#include "core/backend/cuda/attention_plain.h"

template <typename T> struct plain_forward_arguments {
    T *out;
    float *lse; /* NULL: not wanted */
    const T *q, *k, *v;
    int64_t out_stride, q_stride, k_stride, v_stride;
    ht_page_rows<const T> keys, values; /* in place of k and v, of paged batches */
    ht_cached_batch batch;
    int kv_heads, group, width;
    float scale;
};

template <typename T, bool PAGED>
static __global__ void __launch_bounds__(HT_PLAIN_THREADS) attend(plain_forward_arguments<T> a) {
    HT_SHARED(float, left, [HT_PLAIN_SIZE]);
    HT_SHARED(float, right, [HT_PLAIN_SIZE]);
    HT_SHARED(float, weights, [HT_PLAIN_SIZE]);
    HT_SHARED(float, factors, [HT_PLAIN_TILE]);
    ht_work w;
    if (!ht_find_work(&w, a.batch.rows, a.group, HT_PLAIN_TILE, gridDim.x - 1 - blockIdx.x)) return;
    int kv_head = (int)blockIdx.y, rows = w.length * a.group, past = PAGED ? a.batch.past[w.sequence] : 0;
    int end = w.first + HT_PLAIN_TILE < rows ? w.first + HT_PLAIN_TILE : rows, keys = past + (end - 1) / a.group + 1;
    const int32_t *blocks = PAGED ? a.batch.block_tables + w.sequence * a.batch.max_blocks : NULL;
    const ht_head_rows<const T> q = ht_rows_of(a.q, a.q_stride, w.start, kv_head, a.group, a.width);
    auto key_row = [&](int key) -> const T * {
        if (key >= keys) return NULL;
        if (PAGED) return a.keys.at(blocks, kv_head, (unsigned)key);
        return a.k + (w.start + key) * a.k_stride + kv_head * a.width;
    };
    auto value_row = [&](int key) -> const T * {
        if (key >= keys) return NULL;
        if (PAGED) return a.values.at(blocks, kv_head, (unsigned)key);
        return a.v + (w.start + key) * a.v_stride + kv_head * a.width;
    };

    /* In the softmax two threads share a row. Rows behind the last one see what it sees. */
    int half = (int)threadIdx.x % 2, row = w.first + (int)threadIdx.x / 2;
    int visible = past + (row < rows ? row : rows - 1) / a.group + 1, y = (int)threadIdx.x / 8;
    float *own = weights + threadIdx.x / 2 * HT_PLAIN_STRIDE, largest = -INFINITY, mass = 0;
    float out[HT_PLAIN_SLICES][4][4] = {};
    for (int key = 0; key < keys; key += HT_PLAIN_TILE) {
        float s[4][4];
        ht_plain_rows_by_rows(
            s, left, right, [&](int i) { return w.first + i < rows ? q.at(w.first + i) : NULL; },
            [&](int i) { return key_row(key + i); }, a.width);
        ht_plain_keep(weights, s);
        __syncthreads();
        int seen = visible - key < HT_PLAIN_TILE ? visible - key : HT_PLAIN_TILE;
        float before = largest, sum = 0;
        for (int i = half; i < seen; i += 2)
            largest = fmaxf(largest, own[i]);
        largest = fmaxf(largest, __shfl_xor_sync(HT_ALL_LANES, largest, 1));
        for (int i = half; i < HT_PLAIN_TILE; i += 2) {
            own[i] = i < seen ? ht_exp2(fmaf(own[i], a.scale, -largest * a.scale)) : 0;
            sum += own[i];
        }
        float factor = ht_exp2((before - largest) * a.scale);
        mass = fmaf(mass, factor, sum + __shfl_xor_sync(HT_ALL_LANES, sum, 1));
        if (half == 0) factors[threadIdx.x / 2] = factor;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 16 * HT_PLAIN_SLICES; i++)
            out[i / 16][i / 4 % 4][i % 4] *= factors[y + i / 4 % 4 * 8];
        ht_plain_tile_by_rows<false>(
            out, weights, right, [&](int i) { return value_row(key + i); }, a.width,
            keys - key < HT_PLAIN_TILE ? keys - key : HT_PLAIN_TILE);
    }

    __syncthreads();
    if (half == 0) factors[threadIdx.x / 2] = 1.0f / mass;
    if (half == 0 && blockIdx.z == 0 && row < rows && a.lse) /* the row's scores are exponents of 2 when scaled */
        a.lse[((w.start + row / a.group) * a.kv_heads + kv_head) * a.group + row % a.group] =
            (largest * a.scale + log2f(mass)) * (float)(1 / HT_LOG2E);
    __syncthreads();
    const ht_head_rows<T> to = ht_rows_of(a.out, a.out_stride, w.start, kv_head, a.group, a.width);
    const float shares[4] = {factors[y], factors[y + 8], factors[y + 16], factors[y + 24]};
    ht_plain_write(
        out, shares, [&](int i) { return w.first + i < rows ? to.at(w.first + i) : NULL; }, a.width);
}

template <typename T>
static ht_status launch_forward(ht_backend *be, ht_tensor *out, float *lse, const ht_tensor *q, const ht_tensor *k,
                                const ht_tensor *v, const ht_attention_shape *shape, ht_error *err) {
    plain_forward_arguments<T> a = {};
    a.out = (T *)out->data, a.out_stride = out->stride;
    a.lse = lse;
    a.q = (const T *)q->data, a.q_stride = q->stride;
    a.k = (const T *)k->data, a.k_stride = k->stride;
    a.v = (const T *)v->data, a.v_stride = v->stride;
    a.batch.rows = {shape->seq_start, (int)shape->sequences};
    a.kv_heads = (int)shape->kv_heads, a.group = (int)(shape->heads / shape->kv_heads), a.width = (int)shape->head_dim;
    a.scale = ht_exponent_scale(shape->head_dim);
    HT_LAUNCH((attend<T, false>), ht_plain_grid(q->rows, shape->sequences, a.group, a.kv_heads, a.width),
              dim3(HT_PLAIN_THREADS), 0, ht_cuda_of(be)->stream, a);
    return ht_cuda_launched("attention_forward", err);
}

ht_status ht_cuda_plain_forward(ht_backend *be, ht_tensor *out, float *lse, const ht_tensor *q, const ht_tensor *k,
                                const ht_tensor *v, const ht_attention_shape *shape, ht_error *err) {
    return q->dtype == HT_F32 ? launch_forward<float>(be, out, lse, q, k, v, shape, err)
                              : launch_forward<ht_bf16>(be, out, lse, q, k, v, shape, err);
}

template <typename T>
static ht_status launch_cached(ht_backend *be, ht_tensor *out, const ht_tensor *q, const ht_kv_pages *pages,
                               const ht_cached_shape *shape, ht_error *err) {
    plain_forward_arguments<T> a = {};
    a.out = (T *)out->data, a.out_stride = out->stride;
    a.q = (const T *)q->data, a.q_stride = q->stride;
    a.kv_heads = (int)shape->kv_heads, a.group = (int)(shape->heads / shape->kv_heads), a.width = (int)shape->head_dim;
    a.keys = {(const T *)pages->keys.data, a.kv_heads, (int)pages->block_size, a.width};
    a.values = {(const T *)pages->values.data, a.kv_heads, (int)pages->block_size, a.width};
    a.batch = {{shape->seq_start, (int)shape->sequences}, shape->past, shape->block_tables, shape->max_blocks};
    a.scale = ht_exponent_scale(shape->head_dim);
    HT_LAUNCH((attend<T, true>), ht_plain_grid(q->rows, shape->sequences, a.group, a.kv_heads, a.width),
              dim3(HT_PLAIN_THREADS), 0, ht_cuda_of(be)->stream, a);
    return ht_cuda_launched("attention_cached", err);
}

ht_status ht_cuda_plain_cached(ht_backend *be, ht_tensor *out, const ht_tensor *q, const ht_kv_pages *pages,
                               const ht_cached_shape *shape, ht_error *err) {
    return q->dtype == HT_F32 ? launch_cached<float>(be, out, q, pages, shape, err)
                              : launch_cached<ht_bf16>(be, out, q, pages, shape, err);
}
