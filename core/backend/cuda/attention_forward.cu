/*
 * Attention on CUDA, forward, on tensor cores.  Contract: backend.h, ht_attention_forward.
 * Launch   a block of 128 threads for every 128 rows (tokens by the heads of a group) of a sequence and key/value head;
 *          those that see most keys first. A warp has 32 rows, so that each fragment of keys and values serves two
 *          products. Shared memory: 128 rows of q, 64 keys, 64 values, 64 KiB at width 128.
 * Traffic  q and out once, k and v once for every 128 rows (caches): bound by products, 4 T^2 H D / 2 FLOP a sequence.
 *          While scores are made the values come, and while values are summed the next keys.
 * Fused    scaling, mask, softmax over tiles of 64 keys with a running maximum; no [T, T] exists, and tiles that no row
 *          of a warp sees are left out.
 * Measured not yet.
 */
#include "core/backend/cuda/attention.h"

enum { WARPS = 4, THREADS = 32 * WARPS, MT = 2, WARP_ROWS = 16 * MT, ROWS = WARPS * WARP_ROWS, KEYS = 64 };

struct forward_arguments : ht_attention_inputs<ht_bf16> {
    ht_bf16 *out;
    float *lse;
    int64_t out_stride;
    float scale;
};

template <int D> static __global__ void __launch_bounds__(THREADS, 2) attend(forward_arguments a) {
    HT_DYNAMIC_SHARED(ht_bf16, q_tile);
    ht_bf16 *k_tile = q_tile + ROWS * D, *v_tile = k_tile + KEYS * D;
    ht_work w;
    if (!ht_find_work(&w, a.batch, a.group, ROWS, gridDim.x - 1 - blockIdx.x)) return;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, kv_head = (int)blockIdx.y;
    int rows = w.length * a.group, keys = ((w.first + ROWS < rows ? w.first + ROWS : rows) - 1) / a.group + 1;
    const ht_head_rows<const ht_bf16> q = ht_rows_of(a.q, a.q_stride, w.start, kv_head, a.group, D);
    const ht_bf16 *k = a.k + w.start * a.k_stride + kv_head * D, *v = a.v + w.start * a.v_stride + kv_head * D;

    const ht_warp_rows<MT> own = ht_warp_rows_of<MT>(w.first + warp * WARP_ROWS, rows, a.group, 0);

    float out[MT][D / 8][4] = {};
    ht_softmax<MT> state;
    ht_softmax_begin(state);
    ht_bring<ROWS, D, THREADS>(q_tile, a.q, [&](int row) { return w.first + row < rows ? q.at(w.first + row) : NULL; });
    ht_bring<KEYS, D, THREADS>(k_tile, a.k, [&](int row) { return row < keys ? k + row * a.k_stride : NULL; });
    ht_copy_commit();
    for (int key = 0; key < keys; key += KEYS) {
        ht_copy_wait<0>();
        __syncthreads(); /* the keys have come for all, and all are done with the values before */
        ht_bring<KEYS, D, THREADS>(v_tile, a.v,
                                   [&](int row) { return key + row < keys ? v + (key + row) * a.v_stride : NULL; });
        ht_copy_commit();
        ht_left<MT, KEYS / 8> weights;
        if (key < own.keys) {
            float s[MT][KEYS / 8][4] = {};
            ht_rows_by_rows<MT, KEYS / 8, D>(s, q_tile + warp * WARP_ROWS * D, k_tile);
            if (key + KEYS > own.common) ht_mask(s, own.visible, key);
            ht_soften(s, out, state, a.scale);
            weights = ht_as_left(s);
        }
        ht_copy_wait<0>();
        __syncthreads(); /* the values have come for all, and all are done with these keys */
        int next = key + KEYS;
        if (next < keys)
            ht_bring<KEYS, D, THREADS>(
                k_tile, a.k, [&](int row) { return next + row < keys ? k + (next + row) * a.k_stride : NULL; });
        ht_copy_commit();
        if (key < own.keys) ht_left_by_rows<MT, KEYS / 8, D>(out, weights, v_tile);
    }

    ht_softmax_end(state);
    float shares[MT][2];
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        int row = own.row + i * 8 + lane / 4;
        float mass = state.mass[i / 2][i % 2];
        shares[i / 2][i % 2] = 1.0f / mass;
        if (lane % 4 == 0 && row < rows) /* the row's scores are exponents of 2 when scaled */
            a.lse[(w.start + row / a.group) * a.kv_heads * a.group + kv_head * a.group + row % a.group] =
                (state.largest[i / 2][i % 2] * a.scale + log2f(mass)) * (float)(1 / HT_LOG2E);
    }
    const ht_head_rows<ht_bf16> to = ht_rows_of(a.out, a.out_stride, w.start, kv_head, a.group, D);
    ht_write_rows<MT, D>(q_tile + warp * WARP_ROWS * D, out, shares, true,
                         [&](int row) { return own.row + row < rows ? to.at(own.row + row) : NULL; });
}

template <int D>
static ht_status launch(const ht_cuda *cuda, const forward_arguments &a, int64_t tokens, ht_error *err) {
    int64_t shared = (ROWS + 2 * KEYS) * D * (int64_t)sizeof(ht_bf16);
    dim3 grid(ht_work_blocks(tokens, a.batch.sequences, a.group, ROWS), (unsigned)a.kv_heads);
    HT_CHECK(ht_cuda_allow_shared((const void *)attend<D>, shared, err));
    HT_LAUNCH(attend<D>, grid, dim3(THREADS), shared, cuda->stream, a);
    return ht_cuda_launched("attention_forward", err);
}

ht_status ht_cuda_check_rows(const char *op, const int32_t *seq_start, int64_t sequences, int64_t group,
                             ht_error *err) {
    enum { MARGIN = 1024 }; /* rows behind the last one that kernels may name */
    for (int64_t s = 0; s < sequences; s++)
        if ((seq_start[s + 1] - seq_start[s]) * group > INT32_MAX / group - MARGIN)
            return ht_fail(err, HT_ERR_USAGE, "%s: sequence %lld has 2^31 rows or more for each of %lld heads", op,
                           (long long)s, (long long)group);
    return HT_OK;
}

ht_status ht_cuda_attention_forward(ht_backend *be, ht_tensor *out, float *lse, const ht_tensor *q, const ht_tensor *k,
                                    const ht_tensor *v, const ht_attention_shape *shape, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    int64_t group = shape->heads / shape->kv_heads;
    HT_CHECK(ht_cuda_need_float("attention_forward", q, err));
    HT_CHECK(ht_cuda_check_rows("attention_forward", shape->seq_start_host, shape->sequences, group, err));
    if (q->rows == 0) return HT_OK;
    if (!ht_tensor_cores(q->dtype, shape->head_dim) || !ht_packed(out) || !ht_packed(q) || !ht_packed(k) ||
        !ht_packed(v))
        return ht_cuda_plain_forward(be, out, lse, q, k, v, shape, err);
    forward_arguments a = {};
    ht_set_inputs(&a, q, k, v, shape);
    a.out = (ht_bf16 *)out->data, a.out_stride = out->stride;
    a.lse = lse;
    a.scale = ht_exponent_scale(shape->head_dim);
    return shape->head_dim == 64 ? launch<64>(cuda, a, q->rows, err) : launch<128>(cuda, a, q->rows, err);
}
