/*
 * Rotary position on CUDA.  Contract: backend.h, ht_rope.
 * Launch   256 threads: across the pairs of a head, over heads, over tokens; a thread keeps its cosines and sines for all
 *          the heads of a token.
 * Traffic  x once in, once out; the table's rows, from the caches: memory-bound, floor = 2 bytes(x) over bandwidth.
 * Fused    nothing.
 * Measured not yet.
 */
#include "core/backend/cuda/device.h"

enum { THREADS = 256, BLOCKS_A_MULTIPROCESSOR = 16, HEADS_TOGETHER = 2 };

/* packs: of half a head. */
template <typename T, int W>
static __global__ void rotate(T *x, int64_t x_stride, const float *table, int64_t table_stride,
                              const int32_t *positions, int64_t tokens, int heads, int packs, float sign) {
    ht_begin();
    int64_t half = (int64_t)packs * W;
    for (int64_t t = (int64_t)blockIdx.x * blockDim.z + threadIdx.z; t < tokens; t += (int64_t)gridDim.x * blockDim.z) {
        const float *angles = table + positions[t] * table_stride;
        for (int pack = (int)threadIdx.x; pack < packs; pack += (int)blockDim.x) {
            float cosine[W], sine[W];
            ht_load(cosine, angles + (int64_t)pack * W);
            ht_load(sine, angles + half + (int64_t)pack * W);
            T *row = x + t * x_stride + (int64_t)pack * W;
            for (int head = (int)threadIdx.y; head < heads; head += (int)blockDim.y * HEADS_TOGETHER) {
                ht_raw<T, W> low[HEADS_TOGETHER], high[HEADS_TOGETHER];
#pragma unroll
                for (int i = 0; i < HEADS_TOGETHER; i++) {
                    int64_t at = (head + i * (int)blockDim.y) * 2 * half;
                    if (head + i * (int)blockDim.y >= heads) continue;
                    low[i] = ht_fetch<W>(row + at);
                    high[i] = ht_fetch<W>(row + at + half);
                }
#pragma unroll
                for (int i = 0; i < HEADS_TOGETHER; i++) {
                    int64_t at = (head + i * (int)blockDim.y) * 2 * half;
                    if (head + i * (int)blockDim.y >= heads) continue;
                    float a[W], b[W];
                    ht_unpack(a, low[i]);
                    ht_unpack(b, high[i]);
#pragma unroll
                    for (int k = 0; k < W; k++) {
                        float s = sign * sine[k], rotated = a[k] * cosine[k] - b[k] * s;
                        b[k] = b[k] * cosine[k] + a[k] * s;
                        a[k] = rotated;
                    }
                    ht_store(row + at, a);
                    ht_store(row + at + half, b);
                }
            }
        }
    }
}

template <typename T, int W>
static ht_status launch(const ht_cuda *cuda, ht_tensor *x, int64_t heads, int64_t head_dim, const int32_t *positions,
                        const ht_tensor *table, int direction, ht_error *err) {
    int64_t packs = head_dim / 2 / W;
    unsigned across = 1, over = 1;
    while (across < packs && across < THREADS)
        across *= 2;
    while (over * HEADS_TOGETHER < heads && over * across < THREADS)
        over *= 2;
    unsigned tokens = THREADS / across / over;
    tokens = tokens < 64 ? tokens : 64; /* the most that blockDim.z can be */
    int64_t blocks = ht_ceil_div(x->rows, tokens), most = (int64_t)cuda->multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    HT_LAUNCH_EARLY((rotate<T, W>), dim3((unsigned)ht_least(blocks, most)), dim3(across, over, tokens), 0, cuda,
                    (T *)x->data, x->stride, (const float *)table->data, table->stride, positions, x->rows, (int)heads,
                    (int)packs, direction < 0 ? -1.0f : 1.0f);
    return ht_cuda_launched("rope", err);
}

ht_status ht_cuda_rope(ht_backend *be, ht_tensor *x, int64_t heads, int64_t head_dim, const int32_t *positions,
                       const ht_tensor *table, int direction, ht_error *err) {
    HT_CHECK(ht_cuda_need_float("rope", x, err));
    if (x->rows == 0) return HT_OK;
    /* Halves of heads are whole packs. */
    int packed = ht_packed(x) && ht_packed(table) && head_dim / 2 % (x->dtype == HT_F32 ? 4 : 8) == 0;
    return HT_DISPATCH(x->dtype, packed, launch, ht_cuda_of(be), x, heads, head_dim, positions, table, direction, err);
}
