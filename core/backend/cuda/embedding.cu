/*
 * Gradient of the embedding table on CUDA.  Contract: backend.h, ht_embedding_backward. (The forward pass is a gather:
 * rows.cu.)
 *
 * First the tokens are brought into the order of their ids, those of one id in the order of t: a warp owns 32 ids and
 * reads all T, twice, to count and to place. Then every id's rows are summed by the threads that own its columns.
 * Launch   V / 32 warps, 4 a block; then a block a token and 1024 or 2048 columns (256 threads, one pack each), of which the
 *          first of an id works.
 * Traffic  ids: T V / 16 words from the second cache, 0.8 GB at T = 100k and V = 32k; dy once, touched rows of dtable
 *          twice: memory-bound. A frequent id is a chain of rows: 4 are read ahead.
 * Fused    nothing.
 * Measured not yet.
 */
#include "core/backend/cuda/device.h"

enum { WARPS = 4, AHEAD = 4, COLUMN_THREADS = 256, LOADS = 8, WINDOW = 32 * LOADS };

/* Every 32nd id from `at` on: LOADS reads under way together. Behind the last token an id that no warp has. */
static __device__ __forceinline__ void read_window(int (&id)[LOADS], const int32_t *__restrict__ ids, int at,
                                                   int tokens) {
#pragma unroll
    for (int i = 0; i < LOADS; i++)
        id[i] = at + 32 * i < tokens ? ids[at + 32 * i] : INT32_MAX;
}

/*
 * The tokens of id v are order[start[v]] .. order[start[v + 1] - 1].
 * Of each 32 tokens every lane reads one; those of the warp's ids, which are few, are told to the lane of the id.
 */
static __global__ void order_tokens(int32_t *__restrict__ start, int32_t *__restrict__ order,
                                    const int32_t *__restrict__ ids, int tokens, int vocab) {
    int lane = (int)threadIdx.x % 32, base = ((int)blockIdx.x * WARPS + (int)threadIdx.x / 32) * 32;
    if (base >= vocab) return; /* a whole warp */
    int own = 0, below = 0, id[LOADS];
    for (int first = 0; first < tokens; first += WINDOW) {
        read_window(id, ids, first + lane, tokens);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            below += id[i] < base;
            unsigned here = __ballot_sync(HT_ALL_LANES, id[i] >= base && id[i] - base < 32);
            for (; here; here &= here - 1)
                own += __shfl_sync(HT_ALL_LANES, id[i], __ffs((int)here) - 1) == base + lane;
        }
    }
    int next = own; /* sum over the lanes up to this one */
    for (int distance = 1; distance < 32; distance *= 2) {
        int before = __shfl_up_sync(HT_ALL_LANES, next, distance);
        next += lane >= distance ? before : 0;
    }
    next += ht_warp_sum(below) - own;
    if (base + lane < vocab) start[base + lane] = next;
    if (base + lane == vocab - 1) start[vocab] = tokens;
    for (int first = 0; first < tokens; first += WINDOW) {
        read_window(id, ids, first + lane, tokens);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            unsigned here = __ballot_sync(HT_ALL_LANES, id[i] >= base && id[i] - base < 32);
            for (; here; here &= here - 1) {
                int source = __ffs((int)here) - 1;
                if (__shfl_sync(HT_ALL_LANES, id[i], source) == base + lane) order[next++] = first + 32 * i + source;
            }
        }
    }
}

/* A block a token, in their order: the first of an id adds them all. */
template <typename T, int W>
static __global__ void sum_rows(float *__restrict__ dtable, int64_t dtable_stride, const T *__restrict__ dy,
                                int64_t dy_stride, const int32_t *__restrict__ ids, const int32_t *__restrict__ start,
                                const int32_t *__restrict__ order, int64_t packs) {
    int id = ids[order[blockIdx.x]], from = start[id], end = start[id + 1];
    int64_t pack = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    if (from != (int)blockIdx.x || pack >= packs) return;
    float *to = dtable + id * dtable_stride + pack * W;
    float sum[W], v[W];
    ht_load(sum, to);
    for (; from < end; from += AHEAD) {
        ht_raw<T, W> raw[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (from + i < end) raw[i] = ht_fetch<W>(dy + order[from + i] * dy_stride + pack * W);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (from + i >= end) continue;
            ht_unpack(v, raw[i]);
#pragma unroll
            for (int k = 0; k < W; k++)
                sum[k] += v[k];
        }
    }
    ht_store(to, sum);
}

template <typename T, int W>
static ht_status launch_sum(const ht_cuda *cuda, ht_tensor *dtable, const ht_tensor *dy, const int32_t *ids,
                            const int32_t *start, const int32_t *order, ht_error *err) {
    int64_t packs = dy->cols / W;
    unsigned threads = ht_row_threads(packs, 1, COLUMN_THREADS);
    dim3 grid((unsigned)dy->rows, (unsigned)ht_ceil_div(packs, threads));
    HT_LAUNCH((sum_rows<T, W>), grid, dim3(threads), 0, cuda->stream, (float *)dtable->data, dtable->stride,
              (const T *)dy->data, dy->stride, ids, start, order, packs);
    return ht_cuda_launched("embedding_backward", err);
}

ht_status ht_cuda_embedding_backward(ht_backend *be, ht_tensor *dtable, const ht_tensor *dy, const int32_t *ids,
                                     ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    HT_CHECK(ht_cuda_need_float("embedding_backward", dy, err));
    if (dy->rows == 0 || dy->cols == 0) return HT_OK;
    if (dy->rows > INT32_MAX - WINDOW || dtable->rows > INT32_MAX - 64 || dy->cols > 65535 * COLUMN_THREADS)
        return ht_fail(err, HT_ERR_USAGE, "embedding_backward: more than 2^31 tokens or ids, or 16 million columns");
    void *scratch = NULL;
    HT_CHECK(ht_cuda_scratch(be, (size_t)(dtable->rows + 1 + dy->rows) * sizeof(int32_t), &scratch, err));
    int32_t *start = (int32_t *)scratch, *order = start + dtable->rows + 1;
    HT_LAUNCH(order_tokens, dim3((unsigned)ht_ceil_div(dtable->rows, WARPS * 32)), dim3(WARPS * 32), 0, cuda->stream,
              start, order, ids, (int)dy->rows, (int)dtable->rows);
    HT_CHECK(ht_cuda_launched("embedding_backward", err));
    return HT_DISPATCH(dy->dtype, ht_packed(dtable) && ht_packed(dy), launch_sum, cuda, dtable, dy, ids, start, order, err);
}
