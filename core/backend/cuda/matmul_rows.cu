/*
 * y = x w^T (+ add) for decoding on CUDA, where a row's bits depend on that row alone.  Contract: backend.h,
 * ht_matmul_rows.
 *
 * bf16: tensor cores. A block makes TILE_N columns of y (rows of w) for up to BM rows of x; its inner dimension is cut
 * into slices, whose number depends on w alone, for several blocks to share. The partial sums go through memory, and
 * the last block of a tile to arrive adds them in the order of the slices. An element of y is the same chain of the
 * same instructions whatever the tile is made of, so neither M nor the other rows can change it.
 * f32 (the reference mode), and bf16 whose w is not aligned: a warp a column, eight rows at a time.
 *
 * Launch   bf16: 256 threads, from 65 rows of x on 128, so that each of their warps has 64 by 64 elements and reads each
 *          fragment once for eight products; 3 to 5 stages of 64 columns of w and x in shared memory, (128 + BM) * 128 B
 *          each, at most 96 KiB: two blocks a multiprocessor. As few slices as give nearly every multiprocessor a block.
 *          f32: 256 threads, a warp a column.
 * Traffic  w once for every 512 rows of x, x once for every 128 columns of y (caches); partial sums: 8 bytes an
 *          element of y and slice. Memory-bound up to some 100 rows: bytes(w) over bandwidth.
 * Fused    add.
 * Measured not yet.
 */
#include "core/backend/cuda/tile.h"

enum {
    TILE_N = 128, /* rows of w a block */
    TILE_K = 64,  /* columns of w and x a stage: 128 bytes, 8 chunks of 16 */
    CHUNKS = 8,
    MOST_SLICES = 16,
    LEAST_STEPS = 4,    /* stages a slice */
    STEPS_AHEAD = 8,    /* stages of w that come into the second cache while the kernel before still runs */
    ROWS_TOGETHER = 512 /* of x a launch: bounds the memory of the partial sums */
};

struct tile_arguments {
    const ht_bf16 *x, *w;
    void *y;
    const void *add; /* of y's dtype and shape; NULL: nothing */
    float4 *partial; /* [tiles, slices, accumulators of a thread / 4, threads] */
    unsigned *tickets;
    int64_t x_stride, w_stride, y_stride, add_stride;
    int M, N, K, row_blocks, slices, steps, steps_a_slice;
    bool x_aligned, bf16_out;
};

/* Stores one element of y, rounded once. */
static __device__ __forceinline__ void put(void *y, int64_t y_stride, const void *add, int64_t add_stride,
                                           bool bf16_out, int64_t m, int64_t n, float value) {
    if (bf16_out) {
        if (add) value += __bfloat162float(static_cast<const ht_bf16 *>(add)[m * add_stride + n]);
        static_cast<ht_bf16 *>(y)[m * y_stride + n] = __float2bfloat16_rn(value);
    } else {
        if (add) value += static_cast<const float *>(add)[m * add_stride + n];
        static_cast<float *>(y)[m * y_stride + n] = value;
    }
}

/* A thread's part of one matrix's stages: a chunk of some rows. */
struct stage_source {
    const ht_bf16 *at; /* in the next stage */
    int64_t stride;
    int row, chunk, rows, cols; /* the first row; how many rows the matrix has, and columns from `at` on */
};

static __device__ __forceinline__ stage_source source_of(const ht_bf16 *matrix, int64_t stride, int first, int rows, int k,
                                                         int cols) {
    int row = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS;
    return {matrix + (first + row) * stride + k + chunk * 8, stride, row, chunk, rows - first, cols - k - chunk * 8};
}

/* Begins to bring ROWS rows of the next stage, zeros outside of the matrix. */
template <int ROWS, int THREADS>
static __device__ __forceinline__ void bring(ht_bf16 *tile, stage_source &s, bool aligned) {
#pragma unroll
    for (int i = 0; i < ROWS; i += THREADS / CHUNKS) {
        int row = s.row + i;
        if (ROWS < THREADS / CHUNKS && row >= ROWS) continue;
        bool inside = row < s.rows && s.cols > 0; /* a matrix has a multiple of 8 columns */
        ht_bf16 *to = ht_spot<TILE_K>(tile, row, s.chunk);
        const ht_bf16 *from = s.at + i * s.stride;
        if (aligned) {
            ht_copy_async(to, from, inside ? 16 : 0);
        } else {
            uint32_t pairs[4] = {0, 0, 0, 0};
            for (int p = 0; p < 4 && inside; p++)
                pairs[p] = ht_pair(__bfloat162float(from[2 * p]), __bfloat162float(from[2 * p + 1]));
            *reinterpret_cast<uint4 *>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }
    s.at += TILE_K;
    s.cols -= TILE_K;
}

/* Leaves this slice's sums in memory. true: the tile's other slices had come, and `sums` is what all add up to. */
template <int NT, int MT, int THREADS>
static __device__ __forceinline__ bool add_slices(float (&sums)[NT][MT][4], const tile_arguments &a, int rows,
                                                  unsigned *ticket) {
    constexpr int slice_size = NT * MT * THREADS;
    float4 *partial = a.partial + (int64_t)blockIdx.x * a.slices * slice_size + threadIdx.x;
    float4 *own = partial + (int64_t)blockIdx.y * slice_size;
#pragma unroll
    for (int i = 0; i < NT * MT; i++)
        if (i % MT * 8 < rows) ht_store(reinterpret_cast<float *>(own + i * THREADS), sums[i / MT][i % MT]);
    __syncthreads();
    if (threadIdx.x == 0) { /* between two barriers, one thread's fences are for what the whole block writes and reads */
        __threadfence();
        *ticket = atomicAdd(a.tickets + blockIdx.x, 1u);
        __threadfence();
    }
    __syncthreads();
    if (*ticket != (unsigned)a.slices - 1) return false;
    if (threadIdx.x == 0) a.tickets[blockIdx.x] = 0;
#pragma unroll
    for (int i = 0; i < NT * MT * 4; i++)
        sums[i / 4 / MT][i / 4 % MT][i % 4] = 0;
#pragma unroll(NT *MT < 8 ? 8 / (NT * MT) : 1) /* eight reads under way */
    for (int s = 0; s < a.slices; s++, partial += slice_size) {
#pragma unroll
        for (int i = 0; i < NT * MT; i++) {
            if (i % MT * 8 >= rows) continue;
            float4 add = __ldcg(partial + i * THREADS);
            float(&sum)[4] = sums[i / MT][i % MT];
            sum[0] += add.x, sum[1] += add.y, sum[2] += add.z, sum[3] += add.w;
        }
    }
    return true;
}

/* BM rows of x, over WARPS_M warps, by TILE_N columns of y, over WARPS_N. */
template <int BM, int WARPS_M, int WARPS_N, int STAGES>
static __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, 2) rows_product(tile_arguments a) {
    constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    constexpr int NT = TILE_N / WARPS_N / 16; /* of a warp: tiles of 16 columns of y */
    constexpr int MT = BM / WARPS_M / 8;      /* by 8 rows */
    constexpr int STAGE = (TILE_N + BM) * TILE_K;
    HT_DYNAMIC_SHARED(ht_bf16, stages);
    HT_SHARED(unsigned, ticket, [1]);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int n0 = (int)blockIdx.x / a.row_blocks * TILE_N, m0 = (int)blockIdx.x % a.row_blocks * BM;
    int warp_n = warp % WARPS_N * NT * 16, warp_m = warp / WARPS_N * MT * 8;
    int step0 = (int)blockIdx.y * a.steps_a_slice;
    int steps = a.steps - step0 < a.steps_a_slice ? a.steps - step0 : a.steps_a_slice;
    if (threadIdx.x < TILE_N && n0 + (int)threadIdx.x < a.N) {
        int k = step0 * TILE_K, ahead = steps < STEPS_AHEAD ? steps : STEPS_AHEAD;
        int cols = a.K - k < ahead * TILE_K ? a.K - k : ahead * TILE_K;
        ht_prefetch(a.w + (n0 + (int)threadIdx.x) * a.w_stride + k, (unsigned)cols * (unsigned)sizeof(ht_bf16));
    }
    ht_begin();
    stage_source w = source_of(a.w, a.w_stride, n0, a.N, step0 * TILE_K, a.K);
    stage_source x = source_of(a.x, a.x_stride, m0, a.M, step0 * TILE_K, a.K);
    auto bring_stage = [&](int stage) {
        ht_bf16 *tile = stages + stage * STAGE;
        bring<TILE_N, THREADS>(tile, w, true);
        bring<BM, THREADS>(tile + TILE_N * TILE_K, x, a.x_aligned);
    };

    float sums[NT][MT][4] = {};
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) bring_stage(s);
        ht_copy_commit();
    }
    int now = 0, free = STAGES - 1; /* stages: worked on; nobody's */
    for (int step = 0; step < steps; step++) {
        ht_copy_wait<STAGES - 2>();
        __syncthreads(); /* this stage has come for all, and all are done with the one before it */
        if (step + STAGES - 1 < steps) bring_stage(free);
        ht_copy_commit();
        const ht_bf16 *w_tile = stages + now * STAGE, *x_tile = w_tile + TILE_N * TILE_K;
        ht_rows_by_rows<NT, MT, TILE_K>(sums, w_tile + warp_n * TILE_K, x_tile + warp_m * TILE_K);
        free = now;
        now = now + 1 == STAGES ? 0 : now + 1;
    }

    int rows = a.M - m0 - warp_m - lane % 4 * 2; /* those that x has, counted from this lane's first */
    if (a.slices > 1 && !add_slices<NT, MT, THREADS>(sums, a, rows, ticket)) return;

#pragma unroll
    for (int i = 0; i < NT; i++) {
#pragma unroll
        for (int j = 0; j < MT; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int n = n0 + warp_n + i * 16 + lane / 4 + e / 2 * 8, m = m0 + warp_m + j * 8 + lane % 4 * 2 + e % 2;
                if (n < a.N && m < a.M) put(a.y, a.y_stride, a.add, a.add_stride, a.bf16_out, m, n, sums[i][j][e]);
            }
        }
    }
}

/* Blocks that share a tile of w follow on each other, so that it comes from memory once. */
template <int BM, int WARPS_M, int WARPS_N, int STAGES>
static ht_status launch_tiles(ht_backend *be, tile_arguments a, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    int64_t shared = (int64_t)STAGES * (TILE_N + BM) * TILE_K * (int64_t)sizeof(ht_bf16);
    a.row_blocks = (int)ht_ceil_div(a.M, BM);
    dim3 grid((unsigned)(ht_ceil_div(a.N, TILE_N) * a.row_blocks), (unsigned)a.slices);
    if (a.slices > 1) {
        void *scratch = NULL;
        HT_CHECK(ht_cuda_scratch(be, (size_t)grid.x * grid.y * TILE_N * BM * sizeof(float), &scratch, err));
        a.partial = (float4 *)scratch;
        a.tickets = cuda->tickets;
    }
    HT_CHECK(ht_cuda_allow_shared((const void *)rows_product<BM, WARPS_M, WARPS_N, STAGES>, shared, err));
    HT_LAUNCH_EARLY((rows_product<BM, WARPS_M, WARPS_N, STAGES>), grid, dim3(32 * WARPS_M * WARPS_N), shared, cuda, a);
    return ht_cuda_launched("matmul_rows", err);
}

/* As few slices, a power of two, as give seven of eight multiprocessors a block: its stages keep enough of w under way, and
 * partial sums are traffic, too. From w's shape alone. */
static void cut(const ht_cuda *cuda, tile_arguments *a) {
    int64_t tiles = ht_ceil_div(a->N, TILE_N);
    a->steps = (int)ht_ceil_div(a->K, TILE_K);
    a->slices = 1;
    while (a->slices < MOST_SLICES && 8 * tiles * a->slices < 7 * cuda->multiprocessors &&
           a->steps >= 2 * a->slices * LEAST_STEPS)
        a->slices *= 2;
    a->steps_a_slice = (int)ht_ceil_div(a->steps, a->slices);
    a->slices = (int)ht_ceil_div(a->steps, a->steps_a_slice); /* none is empty */
}

static ht_status tiles(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w, const ht_tensor *add,
                       ht_error *err) {
    tile_arguments a = {};
    a.x = (const ht_bf16 *)x->data, a.x_stride = x->stride, a.x_aligned = ht_packed(x);
    a.w = (const ht_bf16 *)w->data, a.w_stride = w->stride;
    a.y = y->data, a.y_stride = y->stride, a.bf16_out = y->dtype == HT_BF16;
    if (add) a.add = add->data, a.add_stride = add->stride;
    a.M = (int)x->rows, a.N = (int)w->rows, a.K = (int)w->cols;
    cut(ht_cuda_of(be), &a);
    if (a.M <= 16) return launch_tiles<16, 1, 8, 5>(be, a, err);
    if (a.M <= 32) return launch_tiles<32, 1, 8, 4>(be, a, err);
    if (a.M <= 64) return launch_tiles<64, 2, 4, 4>(be, a, err);
    return launch_tiles<128, 2, 2, 3>(be, a, err);
}

/* --- f32, and what is not aligned -------------------------------------------------------------------------- */

enum { ROWS = 8, THREADS = 256, WARPS = THREADS / 32 };

template <typename T> struct plain_arguments {
    const T *x, *w;
    void *y;
    const void *add;
    int64_t x_stride, w_stride, y_stride, add_stride, M, N, packs;
    bool x_aligned, bf16_out;
};

/* The lanes of a warp share the columns; their sums, in an order that is the same for every row, are then added. */
template <typename T, int W> static __global__ void __launch_bounds__(THREADS) plain_product(plain_arguments<T> a) {
    int lane = (int)threadIdx.x % 32;
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (n >= a.N) return; /* a whole warp */
    for (int64_t m0 = (int64_t)blockIdx.y * ROWS; m0 < a.M; m0 += (int64_t)gridDim.y * ROWS) {
        float sums[ROWS] = {};
        for (int64_t pack = lane; pack < a.packs; pack += 32) {
            float w[W], x[W];
            ht_load(w, a.w + n * a.w_stride + pack * W);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                if (m0 + i >= a.M) continue;
                const T *from = a.x + (m0 + i) * a.x_stride + pack * W;
                if (a.x_aligned) {
                    ht_load(x, from);
                } else {
#pragma unroll
                    for (int k = 0; k < W; k++) {
                        float one[1];
                        ht_load(one, from + k);
                        x[k] = one[0];
                    }
                }
#pragma unroll
                for (int k = 0; k < W; k++)
                    sums[i] = fmaf(x[k], w[k], sums[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            float sum = ht_warp_sum(sums[i]);
            if (lane == i && m0 + i < a.M) put(a.y, a.y_stride, a.add, a.add_stride, a.bf16_out, m0 + i, n, sum);
        }
    }
}

template <typename T, int W>
static ht_status launch_plain(const ht_cuda *cuda, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                              const ht_tensor *add, ht_error *err) {
    enum { MOST_BLOCKS_OF_ROWS = 1024 };
    plain_arguments<T> a = {};
    a.x = (const T *)x->data, a.x_stride = x->stride, a.x_aligned = ht_packed(x);
    a.w = (const T *)w->data, a.w_stride = w->stride;
    a.y = y->data, a.y_stride = y->stride, a.bf16_out = y->dtype == HT_BF16;
    if (add) a.add = add->data, a.add_stride = add->stride;
    a.M = x->rows, a.N = w->rows, a.packs = w->cols / W;
    int64_t blocks = ht_ceil_div(a.M, ROWS);
    dim3 grid((unsigned)ht_ceil_div(a.N, WARPS), (unsigned)ht_least(blocks, MOST_BLOCKS_OF_ROWS));
    HT_LAUNCH((plain_product<T, W>), grid, dim3(THREADS), 0, cuda->stream, a);
    return ht_cuda_launched("matmul_rows", err);
}

ht_status ht_cuda_matmul_rows(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                              const ht_tensor *add, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    HT_CHECK(ht_cuda_need_float("matmul_rows", x, err));
    if (y->rows == 0 || y->cols == 0) return HT_OK;
    if (w->rows > INT32_MAX - TILE_N || w->cols > INT32_MAX - TILE_K)
        return ht_fail(err, HT_ERR_USAGE, "matmul_rows: a side of w is 2^31 or longer");
    /* Which way is taken depends on w alone. */
    if (x->dtype == HT_F32 || !ht_packed(w) || w->cols == 0)
        return HT_DISPATCH(x->dtype, ht_packed(w), launch_plain, cuda, y, x, w, add, err);
    for (int64_t first = 0; first < x->rows; first += ROWS_TOGETHER) {
        int64_t n = ht_least(x->rows - first, ROWS_TOGETHER);
        ht_tensor some_y = ht_tensor_rows(*y, first, n), some_x = ht_tensor_rows(*x, first, n), some_add = {};
        if (add) some_add = ht_tensor_rows(*add, first, n);
        HT_CHECK(tiles(be, &some_y, &some_x, w, add ? &some_add : NULL, err));
    }
    return HT_OK;
}
