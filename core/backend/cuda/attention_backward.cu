/*
 * Attention on CUDA, backward, on tensor cores.  Contract: backend.h, ht_attention_backward.
 *
 * With p = softmax(scale q k^T) and delta = rowsum(dout * out):  dv = p^T dout,  ds = p * (dout v^T - delta),
 * dk = scale ds^T q,  dq = scale ds k. One kernel owns keys and goes over rows, another owns rows and goes over keys, so
 * nothing is added up across blocks: scores and dout v^T are made twice, seven products in place of five.
 *
 * Launch   statistics of rows (delta): a warp a row and head. dk, dv: a block of 256 threads for every 128 keys of a
 *          sequence and key/value head, 16 keys a warp, over tiles of 64 rows; 129 KiB of shared memory at width 128.
 *          Scores are made as keys by rows, so that the weights are the next product's left side as they are. dq: a
 *          block of 128 threads for every 128 rows, 32 rows a warp, over tiles of 32 keys; 96 KiB. Those with most work
 *          first.
 * Traffic  bound by products, 7 T^2 H D FLOP a sequence; the next tile comes while one is worked on.
 * Fused    mask, softmax from the forward pass's log-sum-exp, scaling.
 * Measured not yet.
 */
#include "core/backend/cuda/attention.h"

/* --- statistics of rows ------------------------------------------------------------------------------------ */

enum { STATISTICS_WARPS = 8 };

/* [T, heads]: a warp an element. */
template <typename T, int W>
static __global__ void __launch_bounds__(32 * STATISTICS_WARPS)
    make_statistics(ht_row_statistics *__restrict__ statistics, const float *__restrict__ lse,
                    const T *__restrict__ dout, int64_t dout_stride, const T *__restrict__ out, int64_t out_stride,
                    int64_t elements, int heads, int packs) {
    int64_t at = (int64_t)blockIdx.x * STATISTICS_WARPS + threadIdx.x / 32, token = at / heads, head = at % heads;
    if (at >= elements) return; /* a whole warp */
    const T *a = dout + token * dout_stride + head * packs * W, *b = out + token * out_stride + head * packs * W;
    float sum = 0;
    for (int pack = (int)threadIdx.x % 32; pack < packs; pack += 32) {
        float x[W], y[W];
        ht_load(x, a + pack * W);
        ht_load(y, b + pack * W);
#pragma unroll
        for (int i = 0; i < W; i++)
            sum = fmaf(x[i], y[i], sum);
    }
    sum = ht_warp_sum(sum);
    if (threadIdx.x % 32 == 0) statistics[at] = {lse[at] * (float)HT_LOG2E, sum};
}

template <typename T, int W>
static ht_status launch_statistics(const ht_cuda *cuda, ht_row_statistics *statistics,
                                   const ht_attention_backward_args *args, const ht_attention_shape *shape,
                                   ht_error *err) {
    int64_t elements = args->q->rows * shape->heads;
    HT_LAUNCH((make_statistics<T, W>), dim3((unsigned)ht_ceil_div(elements, STATISTICS_WARPS)),
              dim3(32 * STATISTICS_WARPS), 0, cuda->stream, statistics, args->lse, (const T *)args->dout->data,
              args->dout->stride, (const T *)args->out->data, args->out->stride, elements, (int)shape->heads,
              (int)(shape->head_dim / W));
    return ht_cuda_launched("attention_backward", err);
}

/* --- gradients --------------------------------------------------------------------------------------------- */

struct backward_arguments : ht_attention_inputs<ht_bf16> {
    ht_bf16 *dq, *dk, *dv;
    const ht_bf16 *dout;
    int64_t dq_stride, dk_stride, dv_stride, dout_stride;
    const ht_row_statistics *statistics; /* [T, heads] */
    float scale, exponent_scale; /* 1/sqrt(D), and that as an exponent of 2 */
};

/* Of row r of a sequence and key/value head. */
static __device__ __forceinline__ const ht_row_statistics *statistics_of(const backward_arguments &a, const ht_work &w,
                                                                         int row) {
    return a.statistics + ((w.start + row / a.group) * a.kv_heads + (int)blockIdx.y) * a.group + row % a.group;
}

namespace keys { /* a block owns keys */
enum { WARPS = 8, THREADS = 32 * WARPS, KEYS = 16 * WARPS, ROWS = 64, NT = ROWS / 8 };
}

/* Scores of keys from `key` on by rows from `row` on: those of rows that do not see the key, or are none, become
 * -infinity. */
template <int NT>
static __device__ __forceinline__ void mask_rows(float (&s)[1][NT][4], int row, int rows, int key, int group) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int own = row + lane % 4 * 2 + e % 2, first_seeing = (key + lane / 4 + e / 2 * 8) * group;
#pragma unroll
        for (int j = 0; j < NT; j++)
            if (own + j * 8 < first_seeing || own + j * 8 >= rows) s[0][j][e] = -INFINITY;
    }
}

template <int D> static __global__ void __launch_bounds__(keys::THREADS, 1) make_dk_dv(backward_arguments a) {
    using namespace keys;
    HT_DYNAMIC_SHARED(ht_bf16, k_tile);
    HT_SHARED(ht_row_statistics, statistics, [2][ROWS]);
    ht_bf16 *v_tile = k_tile + KEYS * D, *stages = v_tile + KEYS * D;
    ht_work w;
    if (!ht_find_work(&w, a.batch, 1, KEYS, blockIdx.x)) return;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, kv_head = (int)blockIdx.y;
    int rows = w.length * a.group, first_row = w.first * a.group / ROWS * ROWS;
    const ht_head_rows<const ht_bf16> q = ht_rows_of(a.q, a.q_stride, w.start, kv_head, a.group, D);
    const ht_head_rows<const ht_bf16> dout = ht_rows_of(a.dout, a.dout_stride, w.start, kv_head, a.group, D);
    const ht_bf16 *k = a.k + w.start * a.k_stride + kv_head * D, *v = a.v + w.start * a.v_stride + kv_head * D;
    auto bring_stage = [&](int stage, int row0) {
        ht_bf16 *tile = stages + stage * 2 * ROWS * D;
        ht_bring<ROWS, D, THREADS>(tile, a.q, [&](int row) { return row0 + row < rows ? q.at(row0 + row) : NULL; });
        ht_bring<ROWS, D, THREADS>(tile + ROWS * D, a.dout,
                                   [&](int row) { return row0 + row < rows ? dout.at(row0 + row) : NULL; });
        int row = row0 + (int)threadIdx.x;
        if (threadIdx.x < ROWS)
            ht_copy_async<8>(&statistics[stage][threadIdx.x], row < rows ? statistics_of(a, w, row) : a.statistics,
                             row < rows ? 8 : 0);
    };

    ht_bring<KEYS, D, THREADS>(
        k_tile, a.k, [&](int row) { return w.first + row < w.length ? k + (w.first + row) * a.k_stride : NULL; });
    ht_bring<KEYS, D, THREADS>(
        v_tile, a.v, [&](int row) { return w.first + row < w.length ? v + (w.first + row) * a.v_stride : NULL; });
    bring_stage(0, first_row);
    ht_copy_commit();

    int warp_key = w.first + warp * 16;
    float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
    int turn = 0;
    for (int row0 = first_row; row0 < rows; row0 += ROWS, turn ^= 1) {
        ht_copy_wait<0>();
        __syncthreads(); /* this stage has come for all, and all are done with the one before it */
        const ht_bf16 *q_tile = stages + turn * 2 * ROWS * D, *dout_tile = q_tile + ROWS * D;
        if (row0 + ROWS < rows) bring_stage(turn ^ 1, row0 + ROWS);
        ht_copy_commit();
        /* Rows see the warp's keys from the first on. */
        if (warp_key < w.length && (row0 + ROWS - 1) / a.group >= warp_key) {
            float p[1][NT][4] = {}, ds[1][NT][4] = {};
            ht_rows_by_rows<1, NT, D>(p, k_tile + warp * 16 * D, q_tile);
            if (row0 < (warp_key + 15) * a.group || row0 + ROWS > rows) mask_rows(p, row0, rows, warp_key, a.group);
            const ht_row_statistics *r = statistics[turn] + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    p[0][j][e] = ht_exp2(fmaf(p[0][j][e], a.exponent_scale, -r[j * 8 + e % 2].exponent));
            ht_left_by_rows<1, NT, D>(dv, ht_as_left(p), dout_tile);
            ht_rows_by_rows<1, NT, D>(ds, v_tile + warp * 16 * D, dout_tile);
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    ds[0][j][e] = p[0][j][e] * (ds[0][j][e] - r[j * 8 + e % 2].delta);
            ht_left_by_rows<1, NT, D>(dk, ht_as_left(ds), q_tile);
        }
    }

    ht_bf16 *to_k = a.dk + (w.start + warp_key) * a.dk_stride + kv_head * D;
    ht_bf16 *to_v = a.dv + (w.start + warp_key) * a.dv_stride + kv_head * D;
    const float scale[1][2] = {{a.scale, a.scale}}, one[1][2] = {{1, 1}};
    ht_write_rows<1, D>(k_tile + warp * 16 * D, dk, scale, true,
                        [&](int row) { return warp_key + row < w.length ? to_k + row * a.dk_stride : NULL; });
    ht_write_rows<1, D>(v_tile + warp * 16 * D, dv, one, true,
                        [&](int row) { return warp_key + row < w.length ? to_v + row * a.dv_stride : NULL; });
}

namespace rows { /* a block owns rows */
enum {
    WARPS = 4,
    THREADS = 32 * WARPS,
    MT = 2,
    WARP_ROWS = 16 * MT,
    ROWS = WARPS * WARP_ROWS,
    KEYS = 32,
    NT = KEYS / 8
};
}

template <int D> static __global__ void __launch_bounds__(rows::THREADS, 2) make_dq(backward_arguments a) {
    using namespace rows;
    HT_DYNAMIC_SHARED(ht_bf16, q_tile);
    ht_bf16 *dout_tile = q_tile + ROWS * D, *stages = dout_tile + ROWS * D;
    ht_work w;
    if (!ht_find_work(&w, a.batch, a.group, ROWS, gridDim.x - 1 - blockIdx.x)) return;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, kv_head = (int)blockIdx.y;
    int rows = w.length * a.group, keys = ((w.first + ROWS < rows ? w.first + ROWS : rows) - 1) / a.group + 1;
    const ht_head_rows<const ht_bf16> q = ht_rows_of(a.q, a.q_stride, w.start, kv_head, a.group, D);
    const ht_head_rows<const ht_bf16> dout = ht_rows_of(a.dout, a.dout_stride, w.start, kv_head, a.group, D);
    const ht_bf16 *k = a.k + w.start * a.k_stride + kv_head * D, *v = a.v + w.start * a.v_stride + kv_head * D;
    auto bring_stage = [&](int stage, int key) {
        ht_bf16 *tile = stages + stage * 2 * KEYS * D;
        ht_bring<KEYS, D, THREADS>(tile, a.k,
                                   [&](int row) { return key + row < keys ? k + (key + row) * a.k_stride : NULL; });
        ht_bring<KEYS, D, THREADS>(tile + KEYS * D, a.v,
                                   [&](int row) { return key + row < keys ? v + (key + row) * a.v_stride : NULL; });
    };

    const ht_warp_rows<MT> own = ht_warp_rows_of<MT>(w.first + warp * WARP_ROWS, rows, a.group, 0);
    ht_row_statistics statistics[MT][2];
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        int row = own.row + i * 8 + lane / 4;
        statistics[i / 2][i % 2] = *statistics_of(a, w, row < rows ? row : rows - 1);
    }
    ht_bring<ROWS, D, THREADS>(q_tile, a.q, [&](int row) { return w.first + row < rows ? q.at(w.first + row) : NULL; });
    ht_bring<ROWS, D, THREADS>(dout_tile, a.dout,
                               [&](int row) { return w.first + row < rows ? dout.at(w.first + row) : NULL; });
    bring_stage(0, 0);
    ht_copy_commit();
    float dq[MT][D / 8][4] = {};
    int turn = 0;
    for (int key = 0; key < keys; key += KEYS, turn ^= 1) {
        ht_copy_wait<0>();
        __syncthreads(); /* this stage has come for all, and all are done with the one before it */
        const ht_bf16 *k_tile = stages + turn * 2 * KEYS * D, *v_tile = k_tile + KEYS * D;
        if (key + KEYS < keys) bring_stage(turn ^ 1, key + KEYS);
        ht_copy_commit();
        if (key >= own.keys) continue;
        float p[MT][NT][4] = {}, ds[MT][NT][4] = {};
        ht_rows_by_rows<MT, NT, D>(p, q_tile + warp * WARP_ROWS * D, k_tile);
        if (key + KEYS > own.common) ht_mask(p, own.visible, key);
        ht_rows_by_rows<MT, NT, D>(ds, dout_tile + warp * WARP_ROWS * D, v_tile);
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float weight = ht_exp2(fmaf(p[i][j][e], a.exponent_scale, -statistics[i][e / 2].exponent));
                    ds[i][j][e] = weight * (ds[i][j][e] - statistics[i][e / 2].delta);
                }
        ht_left_by_rows<MT, NT, D>(dq, ht_as_left(ds), k_tile);
    }

    const ht_head_rows<ht_bf16> to = ht_rows_of(a.dq, a.dq_stride, w.start, kv_head, a.group, D);
    const float scale[MT][2] = {{a.scale, a.scale}, {a.scale, a.scale}};
    ht_write_rows<MT, D>(q_tile + warp * WARP_ROWS * D, dq, scale, true,
                         [&](int row) { return own.row + row < rows ? to.at(own.row + row) : NULL; });
}

template <int D>
static ht_status launch(const ht_cuda *cuda, const backward_arguments &a, int64_t tokens, ht_error *err) {
    int64_t row_bytes = D * (int64_t)sizeof(ht_bf16), sequences = a.batch.sequences;
    int64_t shared = (2 * keys::KEYS + 4 * keys::ROWS) * row_bytes;
    HT_CHECK(ht_cuda_allow_shared((const void *)make_dk_dv<D>, shared, err));
    HT_LAUNCH(make_dk_dv<D>, dim3(ht_work_blocks(tokens, sequences, 1, keys::KEYS), (unsigned)a.kv_heads),
              dim3(keys::THREADS), shared, cuda->stream, a);
    shared = (2 * rows::ROWS + 4 * rows::KEYS) * row_bytes;
    HT_CHECK(ht_cuda_allow_shared((const void *)make_dq<D>, shared, err));
    HT_LAUNCH(make_dq<D>, dim3(ht_work_blocks(tokens, sequences, a.group, rows::ROWS), (unsigned)a.kv_heads),
              dim3(rows::THREADS), shared, cuda->stream, a);
    return ht_cuda_launched("attention_backward", err);
}

/* 1: all rows can be read and written in packs of 16 bytes. */
static int all_packed(const ht_attention_backward_args *args) {
    return ht_packed(args->dq) && ht_packed(args->dk) && ht_packed(args->dv) && ht_packed(args->dout) &&
           ht_packed(args->q) && ht_packed(args->k) && ht_packed(args->v);
}

ht_status ht_cuda_attention_backward(ht_backend *be, const ht_attention_backward_args *args,
                                     const ht_attention_shape *shape, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    const ht_tensor *q = args->q;
    int64_t group = shape->heads / shape->kv_heads, width = shape->head_dim;
    HT_CHECK(ht_cuda_need_float("attention_backward", q, err));
    HT_CHECK(ht_cuda_check_rows("attention_backward", shape->seq_start_host, shape->sequences, group, err));
    if (q->rows == 0) return HT_OK;
    void *scratch = NULL;
    HT_CHECK(ht_cuda_scratch(be, (size_t)(q->rows * shape->heads) * sizeof(ht_row_statistics), &scratch, err));
    ht_row_statistics *statistics = (ht_row_statistics *)scratch;
    int packed = ht_packed(args->dout) && ht_packed(args->out) && width % (q->dtype == HT_F32 ? 4 : 8) == 0;
    HT_CHECK(HT_DISPATCH(q->dtype, packed, launch_statistics, cuda, statistics, args, shape, err));
    if (!ht_tensor_cores(q->dtype, width) || !all_packed(args))
        return ht_cuda_plain_backward(be, args, statistics, shape, err);
    backward_arguments a = {};
    ht_set_inputs(&a, q, args->k, args->v, shape);
    a.dq = (ht_bf16 *)args->dq->data, a.dq_stride = args->dq->stride;
    a.dk = (ht_bf16 *)args->dk->data, a.dk_stride = args->dk->stride;
    a.dv = (ht_bf16 *)args->dv->data, a.dv_stride = args->dv->stride;
    a.dout = (const ht_bf16 *)args->dout->data, a.dout_stride = args->dout->stride;
    a.statistics = statistics;
    a.scale = (float)(1 / sqrt((double)width)), a.exponent_scale = ht_exponent_scale(width);
    return width == 64 ? launch<64>(cuda, a, q->rows, err) : launch<128>(cuda, a, q->rows, err);
}
