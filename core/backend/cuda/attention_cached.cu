/*
 * Attention over the paged cache on CUDA, on tensor cores.  Contract: backend.h, ht_attention_cached.
 *
 * A row's bits must not depend on how its sequence was cut into calls. So keys come in chunks of 128 positions from the
 * first on, a chunk in two tiles; each chunk starts anew, and what chunks gave is joined in their order. One warp makes a
 * chunk for 16 rows, which do not feel each other. Whether a block goes through all chunks and joins as it goes, or
 * blocks take a chunk each and a second kernel joins (where there are too few sequences and heads to fill the GPU), is
 * the same to the bits: the same operations in the same order.
 *
 * Launch   few rows (decoding, proposals): a block a sequence, key/value head and, where they are split, chunk, of one
 *          warp where 16 rows are enough, else of four; then a warp a row that joins. Many rows: a block of four warps
 *          for 64 rows, those that see most first.
 *          Shared memory: q, 64 keys, 64 values: 36 KiB at width 128 for one warp, so that six blocks share a
 *          multiprocessor and keep its loads under way.
 * Traffic  decoding: keys and values once, memory-bound, floor = their bytes over bandwidth; partial sums: 8 D + 16 bytes
 *          a row, head and chunk where they are split, 1.6 % of that without groups at width 128.
 * Fused    scaling, mask, softmax. New keys and values are written by a kernel before.
 * Measured not yet.
 */
#include "core/backend/cuda/attention.h"

enum { KEYS = 64, CHUNK = 2 * KEYS, WARP_ROWS = 16, MANY_WARPS = 4, FEW_ROWS = MANY_WARPS * WARP_ROWS };
enum {
    ENOUGH_BLOCKS = 12,       /* a multiprocessor: two rounds of those of one warp */
    MOST_SUMS_BYTES = 64 << 20 /* of partial sums: more rows and chunks than that are work enough for the GPU unsplit */
};

/* --- new keys and values ----------------------------------------------------------------------------------- */

template <typename T> struct store_arguments {
    const T *k, *v;
    int64_t k_stride, v_stride;
    ht_page_rows<T> keys, values;
    ht_cached_batch batch;
};

/* A block a token. */
template <typename T, int W> static __global__ void store(store_arguments<T> a) {
    ht_begin();
    ht_work w;
    if (!ht_find_work(&w, a.batch.rows, 1, 1, blockIdx.x)) return;
    int64_t token = w.start + w.first;
    unsigned position = (unsigned)(a.batch.past[w.sequence] + w.first);
    int width = a.keys.width;
    const int32_t *blocks = a.batch.block_tables + w.sequence * a.batch.max_blocks;
    for (int at = (int)threadIdx.x * W; at < a.keys.kv_heads * width; at += (int)blockDim.x * W) {
        int kv_head = at / width, column = at % width;
        ht_put(a.keys.at(blocks, kv_head, position) + column, ht_fetch<W>(a.k + token * a.k_stride + at));
        ht_put(a.values.at(blocks, kv_head, position) + column, ht_fetch<W>(a.v + token * a.v_stride + at));
    }
}

template <typename T, int W>
static ht_status launch_store(const ht_cuda *cuda, const ht_tensor *k, const ht_tensor *v, const ht_kv_pages *pages,
                              const ht_cached_shape *shape, const ht_cached_batch &batch, ht_error *err) {
    int kv_heads = (int)shape->kv_heads, width = (int)shape->head_dim, size = (int)pages->block_size;
    store_arguments<T> a = {(const T *)k->data,
                            (const T *)v->data,
                            k->stride,
                            v->stride,
                            {(T *)pages->keys.data, kv_heads, size, width},
                            {(T *)pages->values.data, kv_heads, size, width},
                            batch};
    HT_LAUNCH_EARLY((store<T, W>), dim3(ht_work_blocks(k->rows, shape->sequences, 1, 1)),
                    dim3(ht_row_threads(k->cols / W, 1, 256)), 0, cuda, a);
    return ht_cuda_launched("attention_cached", err);
}

/* --- attention --------------------------------------------------------------------------------------------- */

struct cached_arguments {
    ht_bf16 *out;
    const ht_bf16 *q;
    int64_t out_stride, q_stride;
    ht_page_rows<const ht_bf16> keys, values;
    ht_cached_batch batch;
    int kv_heads, group;
    float scale;
    bool aligned; /* q and out */
    /* Sequences of at most FEW_ROWS rows, the block's x is the sequence; or those of more. */
    bool few;
    /* [sequences, kv_heads, most_rows, chunks] of D sums, and of largest score and mass; NULL: blocks join the chunks. */
    float *sums, *statistics;
    int most_rows, chunks;
};

/* What has come of the chunks so far, and how the next one joins: the same operations in every kernel. */
struct joined {
    float largest, mass;
};
struct factors {
    float before, now;
};
static __device__ __forceinline__ factors join(joined &state, float largest, float mass, float scale) {
    float most = fmaxf(state.largest, largest), base = ht_relative_to(most);
    factors f = {ht_exp2((state.largest - base) * scale), ht_exp2((largest - base) * scale)};
    state.mass = fmaf(state.mass, f.before, mass * f.now);
    state.largest = most;
    return f;
}
static __device__ __forceinline__ float join_sum(float sum, float next, factors f) {
    return fmaf(sum, f.before, next * f.now);
}

/* Begins to bring rows [first, first + ROWS) of q. */
template <int ROWS, int D, int THREADS>
static __device__ __forceinline__ void bring_q(ht_bf16 *tile, const cached_arguments &a,
                                               const ht_head_rows<const ht_bf16> &q, int first, int rows) {
    if (a.aligned) {
        ht_bring<ROWS, D, THREADS>(tile, a.q, [&](int row) { return first + row < rows ? q.at(first + row) : NULL; });
        return;
    }
    for (int at = (int)threadIdx.x; at < ROWS * D; at += THREADS) {
        int row = at / D, column = at % D;
        ht_spot<D>(tile, row, column / 8)[column % 8] =
            first + row < rows ? q.at(first + row)[column] : __float2bfloat16_rn(0);
    }
}

/* Leaves what a warp's rows have of chunk `chunk` for join_chunks. */
template <int D>
static __device__ __forceinline__ void leave(const cached_arguments &a, const float (&sums)[1][D / 8][4],
                                             const joined (&states)[2], const ht_work &w, int row0, int rows, int chunk) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = row0 + h * 8 + lane / 4;
        if (row >= rows) continue;
        int64_t at = (((int64_t)w.sequence * a.kv_heads + (int)blockIdx.y) * a.most_rows + row) * a.chunks + chunk;
        const float state[2] = {states[h].largest, states[h].mass};
        if (lane % 4 == 0) ht_store(a.statistics + at * 2, state);
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            const float pair[2] = {sums[0][j][2 * h], sums[0][j][2 * h + 1]};
            ht_store(a.sums + at * D + j * 8 + lane % 4 * 2, pair);
        }
    }
}

/*
 * Where a tile's keys lie in their pages, and its values in theirs. A place costs a division and a look into the block
 * table: a lane does it for all 16-byte chunks of a row. A warp's rows are those that it brings, a few at a time.
 */
template <int D, int WARPS> struct tile_places {
    static constexpr int CHUNKS = D / 8, TOGETHER = 32 / CHUNKS, ROWS = KEYS / WARPS;
    static constexpr int OF_LANE = (ROWS + 31) / 32, OF_LANES = ROWS < 32 ? ROWS : 32;
    /* of the warp, until chunks are permuted as before (ht_spot) */
    static constexpr int TURN = TOGETHER * WARPS < 8 ? 8 / WARPS : TOGETHER;
    uint32_t place[OF_LANE]; /* of the warp's row 32 i + lane */
    int there;               /* rows of the tile; zeros stand behind them */

    /* In the tile; the rows that all warps bring together follow on each other. */
    static __device__ __forceinline__ int tile_row(int row) {
        return (row / TOGETHER * WARPS + (int)threadIdx.x / 32) * TOGETHER + row % TOGETHER;
    }
    __device__ __forceinline__ void find(const cached_arguments &a, const int32_t *blocks, int first, int end) {
        there = end - first;
#pragma unroll
        for (int i = 0; i < OF_LANE; i++) {
            int row = i * 32 + (int)threadIdx.x % 32, at = tile_row(row);
            place[i] = row < ROWS && at < there ? a.keys.row(blocks, (int)blockIdx.y, (unsigned)(first + at)) : 0;
        }
    }
    __device__ __forceinline__ void bring(ht_bf16 *tile, const ht_bf16 *pages) const {
        int among = (int)threadIdx.x % 32 / CHUNKS, chunk = (int)threadIdx.x % CHUNKS, left = there;
#pragma unroll
        for (int i = 0; i < OF_LANE; i++) {
#pragma unroll 1 /* all at once, their addresses would take the registers that the sums need */
            for (int lane = 0; lane < OF_LANES; lane += TURN, tile += TURN * WARPS * D, left -= TURN * WARPS) {
#pragma unroll
                for (int row = 0; row < TURN; row += TOGETHER) {
                    int at = tile_row(row) + among;
                    uint32_t from = __shfl_sync(HT_ALL_LANES, place[i], lane + row + among);
                    ht_copy_async(ht_spot<D>(tile, at, chunk), pages + (int64_t)from * D + chunk * 8, at < left ? 16 : 0);
                }
            }
        }
    }
};

template <int D, int WARPS> static __global__ void __launch_bounds__(32 * WARPS) attend(cached_arguments a) {
    ht_begin();
    constexpr int THREADS = 32 * WARPS, ROWS = WARPS * WARP_ROWS;
    HT_DYNAMIC_SHARED(ht_bf16, q_tile);
    ht_bf16 *k_tile = q_tile + ROWS * D, *v_tile = k_tile + KEYS * D, *own_q = q_tile + threadIdx.x / 32 * WARP_ROWS * D;
    ht_work w;
    if (a.few) {
        w.sequence = (int)blockIdx.x, w.first = 0;
        w.start = a.batch.rows.seq_start[w.sequence];
        w.length = (int)(a.batch.rows.seq_start[w.sequence + 1] - w.start);
    } else if (!ht_find_work(&w, a.batch.rows, a.group, ROWS, gridDim.x - 1 - blockIdx.x)) {
        return;
    }
    int kv_head = (int)blockIdx.y, rows = w.length * a.group, past = a.batch.past[w.sequence];
    int keys = past + ((w.first + ROWS < rows ? w.first + ROWS : rows) - 1) / a.group + 1;
    int begin = a.sums ? (int)blockIdx.z * CHUNK : 0, end = a.sums && begin + CHUNK < keys ? begin + CHUNK : keys;
    if ((rows <= FEW_ROWS) != a.few || rows == 0 || begin >= end) return;
    const ht_head_rows<const ht_bf16> q = ht_rows_of(a.q, a.q_stride, w.start, kv_head, a.group, D);
    const int32_t *blocks = a.batch.block_tables + w.sequence * a.batch.max_blocks;
    const ht_warp_rows<1> own =
        ht_warp_rows_of<1>(w.first + (int)threadIdx.x / 32 * WARP_ROWS, rows, a.group, past);

    joined states[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
    float sums[1][D / 8][4] = {}, out[1][D / 8][4] = {}; /* of all chunks, of this one */
    ht_softmax<1> state;
    ht_softmax_begin(state);
    tile_places<D, WARPS> places;
    places.find(a, blocks, begin, end);
    bring_q<ROWS, D, THREADS>(q_tile, a, q, w.first, rows);
    places.bring(k_tile, a.keys.data);
    ht_copy_commit();
    for (int key = begin; key < end; key += KEYS) {
        ht_copy_wait<0>();
        __syncthreads(); /* the keys have come for all, and all are done with the values before */
        places.bring(v_tile, a.values.data);
        ht_copy_commit();
        ht_left<1, KEYS / 8> weights;
        if (key < own.keys) {
            float s[1][KEYS / 8][4] = {};
            ht_rows_by_rows<1, KEYS / 8, D>(s, own_q, k_tile);
            if (key + KEYS > own.common) ht_mask(s, own.visible, key);
            ht_soften(s, out, state, a.scale);
            weights = ht_as_left(s);
        }
        ht_copy_wait<0>();
        __syncthreads(); /* the values have come for all, and all are done with these keys */
        if (key + KEYS < end) {
            places.find(a, blocks, key + KEYS, end);
            places.bring(k_tile, a.keys.data);
        }
        ht_copy_commit();
        if (key >= own.keys) continue;
        ht_left_by_rows<1, KEYS / 8, D>(out, weights, v_tile);
        if (key % CHUNK + KEYS < CHUNK && key + KEYS < own.keys) continue;
        ht_softmax_end(state); /* of the chunk */
#pragma unroll
        for (int h = 0; h < 2; h++) {
            factors f = join(states[h], state.largest[0][h], state.mass[0][h], a.scale);
#pragma unroll
            for (int i = 0; i < D / 4; i++) {
                float &next = out[0][i / 2][2 * h + i % 2], &sum = sums[0][i / 2][2 * h + i % 2];
                sum = join_sum(sum, next, f);
                next = 0;
            }
        }
        ht_softmax_begin(state);
    }

    if (a.sums) {
        leave<D>(a, sums, states, w, own.row, rows, (int)blockIdx.z);
        return;
    }
    const ht_head_rows<ht_bf16> to = ht_rows_of(a.out, a.out_stride, w.start, kv_head, a.group, D);
    const float shares[1][2] = {{1.0f / states[0].mass, 1.0f / states[1].mass}};
    ht_write_rows<1, D>(own_q, sums, shares, a.aligned,
                        [&](int row) { return own.row + row < rows ? to.at(own.row + row) : NULL; });
}

/* A warp a row of a sequence of few: joins its chunks. */
template <int D> static __global__ void __launch_bounds__(32 * MANY_WARPS) join_chunks(cached_arguments a) {
    ht_begin();
    constexpr int W = D / 32;
    int lane = (int)threadIdx.x % 32;
    int64_t at = (int64_t)blockIdx.x * MANY_WARPS + threadIdx.x / 32;
    int row = (int)(at % a.most_rows), kv_head = (int)(at / a.most_rows % a.kv_heads);
    int64_t sequence = at / a.most_rows / a.kv_heads;
    if (sequence >= a.batch.rows.sequences) return;
    int64_t start = a.batch.rows.seq_start[sequence];
    int rows = (int)(a.batch.rows.seq_start[sequence + 1] - start) * a.group;
    if (rows > FEW_ROWS || row >= rows) return;
    int chunks = (a.batch.past[sequence] + row / a.group) / CHUNK + 1;
    const float *sums = a.sums + at * a.chunks * D + lane * W, *statistics = a.statistics + at * a.chunks * 2;
    joined state = {-INFINITY, 0};
    float sum[W] = {};
#pragma unroll 4
    for (int c = 0; c < chunks; c++) {
        float next[W];
        ht_load(next, sums + c * D);
        factors f = join(state, statistics[2 * c], statistics[2 * c + 1], a.scale);
#pragma unroll
        for (int i = 0; i < W; i++)
            sum[i] = join_sum(sum[i], next[i], f);
    }
    float share = 1.0f / state.mass;
    ht_bf16 *to = ht_rows_of(a.out, a.out_stride, start, kv_head, a.group, D).at(row) + lane * W;
#pragma unroll
    for (int i = 0; i < W; i++)
        to[i] = __float2bfloat16_rn(sum[i] * share);
}

template <int D, int WARPS>
static ht_status launch(const ht_cuda *cuda, const cached_arguments &a, dim3 grid, ht_error *err) {
    int64_t shared = (WARPS * WARP_ROWS + 2 * KEYS) * D * (int64_t)sizeof(ht_bf16);
    HT_CHECK(ht_cuda_allow_shared((const void *)attend<D, WARPS>, shared, err));
    HT_LAUNCH_EARLY((attend<D, WARPS>), grid, dim3(32 * WARPS), shared, cuda, a);
    return ht_cuda_launched("attention_cached", err);
}

/* Sequences of at most FEW_ROWS rows, which have up to `keys` positions. */
template <int D> static ht_status launch_few(ht_backend *be, cached_arguments a, int64_t keys, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    int64_t sequences = a.batch.rows.sequences, rows = sequences * a.kv_heads * a.most_rows;
    int64_t chunks = ht_ceil_div(keys, CHUNK), bytes = rows * chunks * (D + 2) * (int64_t)sizeof(float);
    a.few = true;
    a.chunks = 1;
    if (chunks > 1 && bytes <= MOST_SUMS_BYTES && sequences * a.kv_heads < ENOUGH_BLOCKS * cuda->multiprocessors) {
        void *scratch = NULL;
        HT_CHECK(ht_cuda_scratch(be, (size_t)bytes, &scratch, err));
        a.chunks = (int)chunks;
        a.sums = (float *)scratch;
        a.statistics = a.sums + rows * a.chunks * D;
    }
    dim3 grid((unsigned)sequences, (unsigned)a.kv_heads, (unsigned)a.chunks);
    if (a.most_rows <= WARP_ROWS)
        HT_CHECK((launch<D, 1>(cuda, a, grid, err)));
    else
        HT_CHECK((launch<D, MANY_WARPS>(cuda, a, grid, err)));
    if (a.chunks == 1) return HT_OK;
    HT_LAUNCH_EARLY(join_chunks<D>, dim3((unsigned)ht_ceil_div(rows, MANY_WARPS)), dim3(32 * MANY_WARPS), 0, cuda, a);
    return ht_cuda_launched("attention_cached", err);
}

template <int D>
static ht_status launch_all(ht_backend *be, cached_arguments a, int64_t tokens, const ht_cached_shape *shape,
                            ht_error *err) {
    /* A recorded launch serves as long as ht_cached_most_keys stays: that must be as long as the number of chunks does. */
    static_assert(128 % CHUNK == 0, "it counts in 128 keys");
    bool many = false;
    int64_t few_keys = 0;
    for (int64_t s = 0; s < shape->sequences; s++) {
        int64_t length = shape->seq_start_host[s + 1] - shape->seq_start_host[s], rows = length * a.group;
        if (rows > FEW_ROWS) {
            many = true;
        } else if (rows > 0) {
            few_keys = few_keys > shape->past_host[s] + length ? few_keys : shape->past_host[s] + length;
            a.most_rows = a.most_rows > rows ? a.most_rows : (int)rows;
        }
    }
    if (few_keys > 0) HT_CHECK(launch_few<D>(be, a, few_keys, err));
    if (!many) return HT_OK;
    dim3 grid(ht_work_blocks(tokens, shape->sequences, a.group, FEW_ROWS), (unsigned)a.kv_heads);
    return launch<D, MANY_WARPS>(ht_cuda_of(be), a, grid, err);
}

ht_status ht_cuda_attention_cached(ht_backend *be, ht_tensor *out, const ht_tensor *q, const ht_tensor *k,
                                   const ht_tensor *v, ht_kv_pages *pages, const ht_cached_shape *shape,
                                   ht_error *err) {
    const char *op = "attention_cached";
    int64_t group = shape->heads / shape->kv_heads, width = shape->head_dim;
    HT_CHECK(ht_cuda_need_float(op, q, err));
    HT_CHECK(ht_cuda_check_rows(op, shape->seq_start_host, shape->sequences, group, err));
    if (q->rows == 0) return HT_OK;
    int kv_heads = (int)shape->kv_heads, size = (int)pages->block_size;
    const ht_cached_batch batch = {
        {shape->seq_start, (int)shape->sequences}, shape->past, shape->block_tables, shape->max_blocks};
    /* Heads of whole packs lie on multiples of 16 bytes in the pages. */
    int paged = ht_packed(&pages->keys) && ht_packed(&pages->values) && width % (q->dtype == HT_F32 ? 4 : 8) == 0;
    HT_CHECK(HT_DISPATCH(q->dtype, paged && ht_packed(k) && ht_packed(v), launch_store, ht_cuda_of(be), k, v, pages,
                         shape, batch, err));
    /* Which way is taken depends on the cache alone, so that it is the same in every call. */
    if (!ht_tensor_cores(q->dtype, width) || !paged) return ht_cuda_plain_cached(be, out, q, pages, shape, err);
    cached_arguments a = {};
    a.out = (ht_bf16 *)out->data, a.out_stride = out->stride;
    a.q = (const ht_bf16 *)q->data, a.q_stride = q->stride;
    a.aligned = ht_packed(q) && ht_packed(out);
    a.keys = {(const ht_bf16 *)pages->keys.data, kv_heads, size, (int)width};
    a.values = {(const ht_bf16 *)pages->values.data, kv_heads, size, (int)width};
    a.batch = batch;
    a.kv_heads = kv_heads, a.group = (int)group;
    a.scale = ht_exponent_scale(width);
    return width == 64 ? launch_all<64>(be, a, q->rows, shape, err) : launch_all<128>(be, a, q->rows, shape, err);
}
