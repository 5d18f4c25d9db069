/*
 * attention.h: what the attention kernels share: how work is cut, where keys lie in the cache, and softmax over tiles.
 *
 * The query heads that share a key/value head are further rows of one matrix: row r of a sequence is token r / group,
 * head r % group of the group. So keys and values are read once for all of them, and a kernel knows single heads only.
 */
#ifndef HT_BACKEND_CUDA_ATTENTION_H
#define HT_BACKEND_CUDA_ATTENTION_H

#include "core/backend/cuda/tile.h"

#define HT_LOG2E 1.4426950408889634

/* --- work ------------------------------------------------------------------------------------------------- */

/* A packed batch as kernels see it. */
struct ht_packed_batch {
    const int32_t *seq_start; /* [sequences + 1] */
    int sequences;
};

/* A block of rows of one sequence. */
struct ht_work {
    int64_t start; /* the sequence's first token */
    int sequence, length;
    int first; /* row */
};

/*
 * Cuts every sequence into blocks of `block_rows` rows, where a token makes `rows_a_token`. Sequence s begins at the
 * launch's block  seq_start[s] * rows_a_token / block_rows + s : known from seq_start alone, never too few, and at most
 * one too many. false: block `block` is one of these. All lanes of a warp together.
 */
__device__ __forceinline__ bool ht_find_work(ht_work *w, ht_packed_batch batch, int rows_a_token, int block_rows,
                                             int64_t block) {
    int lane = (int)threadIdx.x % 32, low = 0, high = batch.sequences;
    int64_t before = 0; /* blocks before sequence `low` */
    while (high - low > 1) {
        int step = (high - low + 31) / 32, at = low + lane * step;
        int64_t base = at < high ? (int64_t)batch.seq_start[at] * rows_a_token / block_rows + at : INT64_MAX;
        int last = __popc(__ballot_sync(HT_ALL_LANES, base <= block)) - 1; /* lane 0 always is */
        before = __shfl_sync(HT_ALL_LANES, base, last);
        low += last * step;
        high = low + step < high ? low + step : high;
    }
    w->sequence = low;
    w->start = batch.seq_start[low];
    w->length = (int)(batch.seq_start[low + 1] - w->start);
    int64_t first = (block - before) * block_rows;
    w->first = (int)first;
    return first < (int64_t)w->length * rows_a_token;
}

/* So many blocks has that launch. */
static inline unsigned ht_work_blocks(int64_t tokens, int64_t sequences, int64_t rows_a_token, int64_t block_rows) {
    return (unsigned)(tokens * rows_a_token / block_rows + sequences);
}

/* The rows of a sequence and key/value head in a [T, heads * width] tensor. */
template <typename T> struct ht_head_rows {
    T *data; /* row 0 */
    int64_t stride;
    int group, width;
    unsigned inverse; /* 2^31 / group, rounded up: products replace divisions, exact below 2^31 / group */
    __device__ __forceinline__ int token(int row) const {
        return (int)__umulhi(2 * (unsigned)row, inverse);
    }
    __device__ __forceinline__ T *at(int row) const {
        return data + token(row) * stride + (row - token(row) * group) * width;
    }
};

/* Of the columns that belong to key/value head `kv_head`. */
template <typename T>
__device__ __forceinline__ ht_head_rows<T> ht_rows_of(T *tensor, int64_t stride, int64_t token, int kv_head, int group,
                                                      int width) {
    unsigned inverse = (0x7fffffffu + (unsigned)group) / (unsigned)group;
    return {tensor + token * stride + (int64_t)kv_head * group * width, stride, group, width, inverse};
}

/* Rows [row, row + 16 MT) of `rows`, a warp's part of a block; those behind the last one see what it sees. */
template <int MT> struct ht_warp_rows {
    int row;
    int keys, common;   /* seen by any of them, 0 when there are none; seen by all */
    int visible[MT][2]; /* by row 16 i + 8 h + lane / 4 */
};

template <int MT>
__device__ __forceinline__ ht_warp_rows<MT> ht_warp_rows_of(int row, int rows, int group, int past) {
    ht_warp_rows<MT> part;
    int last = rows - 1, lane = (int)threadIdx.x % 32;
    part.row = row;
    part.common = past + row / group + 1;
    part.keys = row < rows ? past + (row + 16 * MT < rows ? row + 16 * MT - 1 : last) / group + 1 : 0;
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        int own = row + i * 8 + lane / 4;
        part.visible[i / 2][i % 2] = past + (own < rows ? own : last) / group + 1;
    }
    return part;
}

/* --- the paged cache ---------------------------------------------------------------------------------------- */

/* Where the cache has things: block b holds [kv_heads, block_size, width], so that the positions of a head follow on each
 * other; `blocks` is one sequence's row of the block tables. */
template <typename T> struct ht_page_rows {
    T *data;
    int kv_heads, block_size, width;
    /* Its row of [blocks, kv_heads, block_size] rows; there are less than 2^32, 0.5 TB at width 64. */
    __device__ __forceinline__ uint32_t row(const int32_t *blocks, int kv_head, unsigned position) const {
        unsigned size = (unsigned)block_size;
        unsigned block = (unsigned)blocks[position / size];
        return (block * (unsigned)kv_heads + (unsigned)kv_head) * size + position % size;
    }
    __device__ __forceinline__ T *at(const int32_t *blocks, int kv_head, unsigned position) const {
        return data + (int64_t)row(blocks, kv_head, position) * width;
    }
};

/* New rows over their caches. */
struct ht_cached_batch {
    ht_packed_batch rows;
    const int32_t *past, *block_tables;
    int64_t max_blocks;
};

/* --- softmax over tiles of keys ----------------------------------------------------------------------------- */

/* Of a warp's rows 16 i + 8 h + lane / 4: the largest score so far, and this lane's part of the sum of the weights. */
template <int MT> struct ht_softmax { float largest[MT][2], mass[MT][2]; };

template <int MT> __device__ __forceinline__ void ht_softmax_begin(ht_softmax<MT> &state) {
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            state.largest[i][h] = -INFINITY, state.mass[i][h] = 0;
}

/* Scores of keys from `key` on that a row does not see become -infinity; visible[i][h]: how many it sees. */
template <int MT, int NT>
__device__ __forceinline__ void ht_mask(float (&s)[MT][NT][4], const int (&visible)[MT][2], int key) {
    int first = key + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (first + j * 8 + e % 2 >= visible[i][e / 2]) s[i][j][e] = -INFINITY;
}

/* What scores are taken relative to: the largest; 0 for a row that has seen no key yet, all of whose weights are 0. */
__device__ __forceinline__ float ht_relative_to(float largest) {
    return largest == -INFINITY ? 0 : largest;
}

/* Scores become weights 2^(scale (score - largest)); what the tiles before gave is brought to the new largest score. */
template <int MT, int NT, int DT>
__device__ __forceinline__ void ht_soften(float (&s)[MT][NT][4], float (&out)[MT][DT][4], ht_softmax<MT> &state,
                                          float scale) {
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float largest = state.largest[i][h], sum = 0;
#pragma unroll
            for (int j = 0; j < NT; j++)
                largest = fmaxf(largest, fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(HT_ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(HT_ALL_LANES, largest, 2));
            float base = ht_relative_to(largest), factor = ht_exp2((state.largest[i][h] - base) * scale);
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    s[i][j][e] = ht_exp2(fmaf(s[i][j][e], scale, -base * scale));
                    sum += s[i][j][e];
                }
            state.largest[i][h] = largest;
            state.mass[i][h] = fmaf(state.mass[i][h], factor, sum);
#pragma unroll
            for (int j = 0; j < DT; j++)
                out[i][j][2 * h] *= factor, out[i][j][2 * h + 1] *= factor;
        }
}

/* The whole row's mass, in every lane of it. */
template <int MT> __device__ __forceinline__ void ht_softmax_end(ht_softmax<MT> &state) {
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            state.mass[i][h] += __shfl_xor_sync(HT_ALL_LANES, state.mass[i][h], 1);
            state.mass[i][h] += __shfl_xor_sync(HT_ALL_LANES, state.mass[i][h], 2);
        }
}

/* --- the host's side ---------------------------------------------------------------------------------------- */

/* 1: heads of this width and dtype go to the tensor cores, if their tensors are aligned. */
static inline int ht_tensor_cores(ht_dtype dtype, int64_t head_dim) {
    return dtype == HT_BF16 && (head_dim == 64 || head_dim == 128);
}

/* What turns scores into exponents of 2. */
static inline float ht_exponent_scale(int64_t head_dim) {
    return (float)(HT_LOG2E / sqrt((double)head_dim));
}

/* HT_ERR_USAGE where a sequence has more rows than kernels count. */
ht_status ht_cuda_check_rows(const char *op, const int32_t *seq_start, int64_t sequences, int64_t group, ht_error *err);

/* What the kernels over packed sequences read, of both passes. */
template <typename T> struct ht_attention_inputs {
    const T *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    ht_packed_batch batch;
    int kv_heads, group;
};
template <typename T>
static inline void ht_set_inputs(ht_attention_inputs<T> *a, const ht_tensor *q, const ht_tensor *k, const ht_tensor *v,
                                 const ht_attention_shape *shape) {
    a->q = (const T *)q->data, a->q_stride = q->stride;
    a->k = (const T *)k->data, a->k_stride = k->stride;
    a->v = (const T *)v->data, a->v_stride = v->stride;
    a->batch = {shape->seq_start, (int)shape->sequences};
    a->kv_heads = (int)shape->kv_heads, a->group = (int)(shape->heads / shape->kv_heads);
}

/* What the backward pass needs of a row and head besides its inputs. */
struct alignas(8) ht_row_statistics {
    float exponent; /* log-sum-exp as an exponent of 2 */
    float delta;    /* sum of dout * out */
};

/* The same operations in plain arithmetic, for every dtype, width and alignment (attention_plain.cu, and its backward
 * pass in attention_plain_backward.cu). */
ht_status ht_cuda_plain_forward(ht_backend *, ht_tensor *, float *, const ht_tensor *, const ht_tensor *,
                                const ht_tensor *, const ht_attention_shape *, ht_error *);
ht_status ht_cuda_plain_backward(ht_backend *, const ht_attention_backward_args *, const ht_row_statistics *,
                                 const ht_attention_shape *, ht_error *);
/* The new keys and values are in the pages already. */
ht_status ht_cuda_plain_cached(ht_backend *, ht_tensor *, const ht_tensor *, const ht_kv_pages *,
                               const ht_cached_shape *, ht_error *);

#endif
