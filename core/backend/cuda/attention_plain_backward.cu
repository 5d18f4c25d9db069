/*
 * Attention on CUDA in plain arithmetic, backward: f32 (the reference mode), and what the tensor cores do not take.
 * Contract: backend.h, ht_attention_backward; formulas: attention_backward.cu.
 * Launch   as attention_plain.cu; a block owns 32 keys, then another 32 rows. 17 KiB and 13 KiB of shared memory.
 * Traffic  q, k, v and dout for every tile of 32 by 32 scores (caches): bound by shared memory, a load for every two
 *          multiplications.
 * Fused    mask, softmax from the forward pass's log-sum-exp, scaling.
 * Measured not yet.
 */
#include "core/backend/cuda/attention_plain.h"

template <typename T> struct plain_backward_arguments : ht_attention_inputs<T> {
    T *dq, *dk, *dv;
    const T *dout;
    int64_t dq_stride, dk_stride, dv_stride, dout_stride;
    const ht_row_statistics *statistics; /* [T, heads] */
    int width;
    float scale, exponent_scale; /* 1/sqrt(D), and that as an exponent of 2 */
};

/* What a block looks at. */
template <typename T> struct plain_view {
    ht_work w;
    int rows;
    ht_head_rows<const T> q, dout, k, v; /* a key is a row of a group of one */
    const ht_row_statistics *statistics;
};

template <typename T>
static __device__ __forceinline__ void look(plain_view<T> *b, const plain_backward_arguments<T> &a) {
    int kv_head = (int)blockIdx.y;
    b->rows = b->w.length * a.group;
    b->q = ht_rows_of(a.q, a.q_stride, b->w.start, kv_head, a.group, a.width);
    b->dout = ht_rows_of(a.dout, a.dout_stride, b->w.start, kv_head, a.group, a.width);
    b->k = ht_rows_of(a.k, a.k_stride, b->w.start, kv_head, 1, a.width);
    b->v = ht_rows_of(a.v, a.v_stride, b->w.start, kv_head, 1, a.width);
    b->statistics = a.statistics + (b->w.start * a.kv_heads + kv_head) * a.group;
}

/* Row `row`, of `count`. */
template <typename T> static __device__ __forceinline__ T *row_of(const ht_head_rows<T> &from, int row, int count) {
    return row < count ? from.at(row) : NULL;
}

/* Of the thread's elements of rows [row0, row0 + 32) by keys [key0, key0 + 32): weights p, and ds. */
template <typename T>
static __device__ __forceinline__ void make_weights(float (&p)[4][4], float (&ds)[4][4], float *left, float *right,
                                                    const plain_backward_arguments<T> &a, const plain_view<T> &b,
                                                    int row0, int key0) {
    ht_plain_rows_by_rows(
        p, left, right, [&](int i) { return row_of(b.q, row0 + i, b.rows); },
        [&](int i) { return row_of(b.k, key0 + i, b.w.length); }, a.width);
    ht_plain_rows_by_rows(
        ds, left, right, [&](int i) { return row_of(b.dout, row0 + i, b.rows); },
        [&](int i) { return row_of(b.v, key0 + i, b.w.length); }, a.width);
    int x = key0 + (int)threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = row0 + (int)threadIdx.x / 8 + 8 * i, token = row / a.group;
        ht_row_statistics r = {0, 0};
        if (row < b.rows) r = b.statistics[(int64_t)token * a.kv_heads * a.group + row % a.group];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bool sees = row < b.rows && x + 8 * j <= token;
            p[i][j] = sees ? ht_exp2(fmaf(p[i][j], a.exponent_scale, -r.exponent)) : 0;
            ds[i][j] = p[i][j] * (ds[i][j] - r.delta);
        }
    }
}

static __device__ __forceinline__ int at_most_a_tile(int n) {
    return n < HT_PLAIN_TILE ? n : HT_PLAIN_TILE;
}

template <typename T>
static __global__ void __launch_bounds__(HT_PLAIN_THREADS) make_dk_dv(plain_backward_arguments<T> a) {
    HT_SHARED(float, left, [HT_PLAIN_SIZE]);
    HT_SHARED(float, right, [HT_PLAIN_SIZE]);
    HT_SHARED(float, p_tile, [HT_PLAIN_SIZE]);
    HT_SHARED(float, ds_tile, [HT_PLAIN_SIZE]);
    plain_view<T> b;
    if (!ht_find_work(&b.w, a.batch, 1, HT_PLAIN_TILE, blockIdx.x)) return;
    look(&b, a);
    int key0 = b.w.first;
    float dk[HT_PLAIN_SLICES][4][4] = {}, dv[HT_PLAIN_SLICES][4][4] = {};
    for (int row0 = key0 * a.group / HT_PLAIN_TILE * HT_PLAIN_TILE; row0 < b.rows; row0 += HT_PLAIN_TILE) {
        float p[4][4], ds[4][4];
        make_weights(p, ds, left, right, a, b, row0, key0);
        ht_plain_keep(p_tile, p);
        ht_plain_keep(ds_tile, ds);
        int depth = at_most_a_tile(b.rows - row0);
        ht_plain_tile_by_rows<true>(
            dv, p_tile, right, [&](int i) { return row_of(b.dout, row0 + i, b.rows); }, a.width, depth);
        ht_plain_tile_by_rows<true>(
            dk, ds_tile, right, [&](int i) { return row_of(b.q, row0 + i, b.rows); }, a.width, depth);
    }
    const float scale[4] = {a.scale, a.scale, a.scale, a.scale}, one[4] = {1, 1, 1, 1};
    const ht_head_rows<T> to_k = ht_rows_of(a.dk, a.dk_stride, b.w.start, (int)blockIdx.y, 1, a.width);
    const ht_head_rows<T> to_v = ht_rows_of(a.dv, a.dv_stride, b.w.start, (int)blockIdx.y, 1, a.width);
    ht_plain_write(
        dk, scale, [&](int i) { return row_of(to_k, key0 + i, b.w.length); }, a.width);
    ht_plain_write(
        dv, one, [&](int i) { return row_of(to_v, key0 + i, b.w.length); }, a.width);
}

template <typename T>
static __global__ void __launch_bounds__(HT_PLAIN_THREADS) make_dq(plain_backward_arguments<T> a) {
    HT_SHARED(float, left, [HT_PLAIN_SIZE]);
    HT_SHARED(float, right, [HT_PLAIN_SIZE]);
    HT_SHARED(float, ds_tile, [HT_PLAIN_SIZE]);
    plain_view<T> b;
    if (!ht_find_work(&b.w, a.batch, a.group, HT_PLAIN_TILE, gridDim.x - 1 - blockIdx.x)) return;
    look(&b, a);
    int row0 = b.w.first, keys = (row0 + at_most_a_tile(b.rows - row0) - 1) / a.group + 1;
    float dq[HT_PLAIN_SLICES][4][4] = {};
    for (int key0 = 0; key0 < keys; key0 += HT_PLAIN_TILE) {
        float p[4][4], ds[4][4];
        make_weights(p, ds, left, right, a, b, row0, key0);
        ht_plain_keep(ds_tile, ds);
        ht_plain_tile_by_rows<false>(
            dq, ds_tile, right, [&](int i) { return row_of(b.k, key0 + i, keys); }, a.width,
            at_most_a_tile(keys - key0));
    }
    const float scale[4] = {a.scale, a.scale, a.scale, a.scale};
    const ht_head_rows<T> to = ht_rows_of(a.dq, a.dq_stride, b.w.start, (int)blockIdx.y, a.group, a.width);
    ht_plain_write(
        dq, scale, [&](int i) { return row_of(to, row0 + i, b.rows); }, a.width);
}

template <typename T>
static ht_status launch(ht_backend *be, const ht_attention_backward_args *args, const ht_row_statistics *statistics,
                        const ht_attention_shape *shape, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    plain_backward_arguments<T> a = {};
    ht_set_inputs(&a, args->q, args->k, args->v, shape);
    a.dq = (T *)args->dq->data, a.dq_stride = args->dq->stride;
    a.dk = (T *)args->dk->data, a.dk_stride = args->dk->stride;
    a.dv = (T *)args->dv->data, a.dv_stride = args->dv->stride;
    a.dout = (const T *)args->dout->data, a.dout_stride = args->dout->stride;
    a.statistics = statistics;
    a.width = (int)shape->head_dim;
    a.scale = (float)(1 / sqrt((double)shape->head_dim)), a.exponent_scale = ht_exponent_scale(shape->head_dim);
    int64_t tokens = args->q->rows;
    HT_LAUNCH(make_dk_dv<T>, ht_plain_grid(tokens, shape->sequences, 1, a.kv_heads, a.width), dim3(HT_PLAIN_THREADS), 0,
              cuda->stream, a);
    HT_LAUNCH(make_dq<T>, ht_plain_grid(tokens, shape->sequences, a.group, a.kv_heads, a.width), dim3(HT_PLAIN_THREADS),
              0, cuda->stream, a);
    return ht_cuda_launched("attention_backward", err);
}

ht_status ht_cuda_plain_backward(ht_backend *be, const ht_attention_backward_args *args,
                                 const ht_row_statistics *statistics, const ht_attention_shape *shape, ht_error *err) {
    return args->q->dtype == HT_F32 ? launch<float>(be, args, statistics, shape, err)
                                    : launch<ht_bf16>(be, args, statistics, shape, err);
}
