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
 * Launch   bf16: 256 threads, 3 or 4 stages of 64 columns of w and x in shared memory, (128 + BM) * 128 B each: three
 *          blocks a multiprocessor up to 64 rows of x, then two.
 *          f32: 256 threads, a warp a column.
 * Traffic  w once for every 128 rows of x, x once for every 128 columns of y (caches); partial sums: 8 bytes an
 *          element of y and slice. Memory-bound up to some 100 rows: bytes(w) over bandwidth.
 * Fused    add.
 * Measured not yet.
 */
#include "core/backend/cuda/mma.h"

enum {
    TILE_N = 128, /* rows of w a block */
    TILE_K = 64,  /* columns of w and x a stage: 128 bytes, 8 chunks of 16 */
    CHUNKS = 8,
    THREADS = 256,
    MOST_SLICES = 16,
    LEAST_STEPS = 4,    /* stages a slice */
    ROWS_TOGETHER = 256 /* of x a launch: bounds the memory of the partial sums */
};

struct tile_arguments {
    const ht_bf16 *x, *w;
    void *y;
    const void *add; /* of y's dtype and shape; NULL: nothing */
    float *partial;  /* [tiles, slices, accumulators of a thread, THREADS] */
    unsigned *tickets;
    int64_t x_stride, w_stride, y_stride, add_stride;
    int M, N, K, slices, steps, steps_a_slice;
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

/* Chunk `chunk` of row `row` of a stage: the chunks of a row are permuted by its number, so that eight rows' chunks of
 * one column lie in different banks. */
static __device__ __forceinline__ ht_bf16 *place(ht_bf16 *tile, int row, int chunk) {
    return tile + row * TILE_K + (chunk ^ row % CHUNKS) * 8;
}

/* Begins to bring rows [first, first + rows) of a matrix, columns [k, k + TILE_K), zeros outside of it. */
static __device__ __forceinline__ void bring(ht_bf16 *tile, const ht_bf16 *from, int64_t stride, int first, int rows,
                                             int most, int k, int K, bool aligned) {
    for (int i = (int)threadIdx.x; i < rows * CHUNKS; i += THREADS) {
        int row = i / CHUNKS, chunk = i % CHUNKS, col = k + chunk * 8;
        bool inside = first + row < most && col < K; /* K is a multiple of 8 */
        ht_bf16 *to = place(tile, row, chunk);
        const ht_bf16 *source = inside ? from + (first + row) * stride + col : from;
        if (aligned) {
            ht_copy_async(to, source, inside ? 16 : 0);
        } else {
            uint32_t pairs[4] = {0, 0, 0, 0};
            for (int p = 0; p < 4 && inside; p++)
                pairs[p] = ht_pair(__bfloat162float(source[2 * p]), __bfloat162float(source[2 * p + 1]));
            *reinterpret_cast<uint4 *>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }
}

/* BM rows of x, over WARPS_M warps; the other 8 / WARPS_M share the columns of y. */
template <int BM, int WARPS_M, int STAGES>
static __global__ void __launch_bounds__(THREADS) rows_product(tile_arguments a) {
    constexpr int WARPS_N = 8 / WARPS_M;
    constexpr int NT = TILE_N / WARPS_N / 16; /* of a warp: tiles of 16 columns of y */
    constexpr int MT = BM / WARPS_M / 8;      /* by 8 rows */
    constexpr int STAGE = (TILE_N + BM) * TILE_K;
    HT_DYNAMIC_SHARED(ht_bf16, stages);
    HT_SHARED(unsigned, ticket, [1]);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int n0 = (int)blockIdx.x * TILE_N, m0 = (int)blockIdx.y * BM;
    int warp_n = warp % WARPS_N * NT * 16, warp_m = warp / WARPS_N * MT * 8;
    int step0 = (int)blockIdx.z * a.steps_a_slice;
    int steps = a.steps - step0 < a.steps_a_slice ? a.steps - step0 : a.steps_a_slice;

    float sums[NT][MT][4] = {};
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            ht_bf16 *tile = stages + s * STAGE;
            bring(tile, a.w, a.w_stride, n0, TILE_N, a.N, (step0 + s) * TILE_K, a.K, true);
            bring(tile + TILE_N * TILE_K, a.x, a.x_stride, m0, BM, a.M, (step0 + s) * TILE_K, a.K, a.x_aligned);
        }
        ht_copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        ht_copy_wait<STAGES - 2>();
        __syncthreads(); /* this stage has come for all, and all are done with the one before it */
        int next = step + STAGES - 1;
        if (next < steps) {
            ht_bf16 *tile = stages + next % STAGES * STAGE;
            bring(tile, a.w, a.w_stride, n0, TILE_N, a.N, (step0 + next) * TILE_K, a.K, true);
            bring(tile + TILE_N * TILE_K, a.x, a.x_stride, m0, BM, a.M, (step0 + next) * TILE_K, a.K, a.x_aligned);
        }
        ht_copy_commit();
        ht_bf16 *w_tile = stages + step % STAGES * STAGE, *x_tile = w_tile + TILE_N * TILE_K;
#pragma unroll
        for (int k = 0; k < TILE_K / 16; k++) {
            uint32_t w[NT][4], x[MT / 2][4];
#pragma unroll
            for (int i = 0; i < NT; i++) /* matrices: rows 0..7, 8..15, then the same of the next 8 columns */
                ht_ldmatrix(w[i], place(w_tile, warp_n + i * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (int i = 0; i < MT / 2; i++) /* matrices: columns 0..7, 8..15, then the same of the next 8 rows */
                ht_ldmatrix(x[i], place(x_tile, warp_m + i * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < NT; i++) {
#pragma unroll
                for (int j = 0; j < MT; j++) {
                    const uint32_t pair[2] = {x[j / 2][j % 2 * 2], x[j / 2][j % 2 * 2 + 1]};
                    ht_mma(sums[i][j], w[i], pair);
                }
            }
        }
    }

    if (a.slices > 1) {
        int64_t tile = blockIdx.y * (int64_t)gridDim.x + blockIdx.x;
        int64_t slice_size = (int64_t)NT * MT * 4 * THREADS;
        float *partial = a.partial + tile * a.slices * slice_size + threadIdx.x;
        float *own = partial + blockIdx.z * slice_size;
        int rows = a.M - m0 - warp_m - lane % 4 * 2; /* those that x has, counted from this lane's first */
#pragma unroll
        for (int i = 0; i < NT * MT * 4; i++)
            if (i / 4 % MT * 8 + i % 2 < rows) own[i * THREADS] = sums[i / 4 / MT][i / 4 % MT][i % 4];
        __syncthreads();
        if (threadIdx.x == 0) { /* between two barriers, one thread's fences are for what the whole block writes and reads */
            __threadfence();
            ticket[0] = atomicAdd(a.tickets + tile, 1u);
            __threadfence();
        }
        __syncthreads();
        if (ticket[0] != (unsigned)a.slices - 1) return; /* another block will add up */
        if (threadIdx.x == 0) a.tickets[tile] = 0;
#pragma unroll
        for (int i = 0; i < NT * MT * 4; i++)
            sums[i / 4 / MT][i / 4 % MT][i % 4] = 0;
        for (int s = 0; s < a.slices; s++) {
#pragma unroll
            for (int i = 0; i < NT * MT * 4; i++)
                if (i / 4 % MT * 8 + i % 2 < rows)
                    sums[i / 4 / MT][i / 4 % MT][i % 4] += __ldcg(partial + s * slice_size + i * THREADS);
        }
    }

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

template <int BM, int WARPS_M, int STAGES>
static ht_status launch_tiles(ht_backend *be, tile_arguments a, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    int64_t shared = (int64_t)STAGES * (TILE_N + BM) * TILE_K * (int64_t)sizeof(ht_bf16);
    dim3 grid((unsigned)ht_ceil_div(a.N, TILE_N), (unsigned)ht_ceil_div(a.M, BM), (unsigned)a.slices);
    if (a.slices > 1) {
        void *scratch = NULL;
        size_t tiles = (size_t)grid.x * grid.y;
        HT_CHECK(ht_cuda_scratch(be, tiles * (size_t)a.slices * TILE_N * BM * sizeof(float), &scratch, err));
        a.partial = (float *)scratch;
        a.tickets = cuda->tickets;
    }
    HT_CHECK(ht_cuda_allow_shared((const void *)rows_product<BM, WARPS_M, STAGES>, shared, err));
    HT_LAUNCH((rows_product<BM, WARPS_M, STAGES>), grid, dim3(THREADS), shared, cuda->stream, a);
    return ht_cuda_launched("matmul_rows", err);
}

/* As many slices, a power of two, as give two multiprocessors three blocks: all run at once. From w's shape alone. */
static void cut(const ht_cuda *cuda, tile_arguments *a) {
    int64_t tiles = ht_ceil_div(a->N, TILE_N);
    a->steps = (int)ht_ceil_div(a->K, TILE_K);
    a->slices = 1;
    while (a->slices < MOST_SLICES && 2 * tiles * a->slices < 3 * cuda->multiprocessors &&
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
    if (a.M <= 16) return launch_tiles<16, 1, 4>(be, a, err);
    if (a.M <= 32) return launch_tiles<32, 1, 4>(be, a, err);
    if (a.M <= 64) return launch_tiles<64, 2, 3>(be, a, err);
    return launch_tiles<128, 2, 3>(be, a, err);
}

/* --- f32, and what is not aligned -------------------------------------------------------------------------- */

enum { ROWS = 8, WARPS = THREADS / 32 };

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
