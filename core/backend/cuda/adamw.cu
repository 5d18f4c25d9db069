/*
 * AdamW on CUDA.  Contract: backend.h, ht_adamw; arithmetic: adamw.h.
 * Launch   f32 and bf16 state: 256 threads a block, 4 or 8 elements a thread, on a grid that fills the GPU twice over.
 *          8-bit state: a warp a block of 256 elements that share a scale, 8 a lane.
 * Traffic  w, m, v, grad in and out: memory-bound, floor = 32 n bytes over bandwidth (f32 state), 20 n (bf16 state and
 *          weights), 16 n (8-bit state, bf16 weights). Philox takes some 30 integer instructions an element, which hides behind that.
 * Fused    clipping's scale, the rounding of weights and state, and the zeroing of the gradient.
 * Measured not yet.
 */
#include <math.h>

#include "core/backend/cuda/device.h"

#define HT_INLINE static __device__ __forceinline__
extern "C" {
#include "core/backend/adamw.h"
}

enum { THREADS = 256, BLOCKS_A_MULTIPROCESSOR = 16, WARPS = THREADS / 32, LANE_ELEMENTS = HT_ADAMW_BLOCK / 32 };

/* Bits of W elements from the even element `at` on; of one, whichever it is. */
template <int W>
static __device__ __forceinline__ void draw(ht_adamw_bits (&bits)[W], const ht_adamw_run &run, int64_t at) {
    ht_adamw_bits two[2];
    if constexpr (W == 1) {
        ht_adamw_draw(two, run.seed, run.stream, at / 2);
        bits[0] = at % 2 ? two[1] : two[0];
    } else {
#pragma unroll
        for (int k = 0; k < W; k += 2) {
            ht_adamw_draw(two, run.seed, run.stream, (at + k) / 2);
            bits[k] = two[0];
            bits[k + 1] = two[1];
        }
    }
}

/* --- stores: f32 as it is, bf16 rounded ------------------------------------------------------------------- */

template <int W>
static __device__ __forceinline__ void put(float *to, const float (&x)[W], const ht_adamw_bits (&)[W],
                                           uint32_t ht_adamw_bits::*) {
    ht_store(to, x);
}
static __device__ __forceinline__ void put(ht_bf16 *to, const float (&x)[1], const ht_adamw_bits (&bits)[1],
                                           uint32_t ht_adamw_bits::*which) {
    *reinterpret_cast<uint16_t *>(to) = ht_bf16_stochastic(x[0], bits[0].*which);
}
static __device__ __forceinline__ void put(ht_bf16 *to, const float (&x)[8], const ht_adamw_bits (&bits)[8],
                                           uint32_t ht_adamw_bits::*which) {
    uint32_t pairs[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
        pairs[k] = ht_bf16_stochastic(x[2 * k], bits[2 * k].*which) |
                   (uint32_t)ht_bf16_stochastic(x[2 * k + 1], bits[2 * k + 1].*which) << 16;
    __stwb(reinterpret_cast<uint4 *>(to), make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
}

/* --- f32 and bf16 state ----------------------------------------------------------------------------------- */

/* W halves of f32 weights in one access. */
template <int W> struct halves { alignas(2 * W) uint16_t bits[W]; };

template <int W>
static __device__ __forceinline__ void join(float (&w)[W], const ht_adamw_run &run, int64_t at) {
    halves<W> high = *reinterpret_cast<const halves<W> *>((const uint16_t *)run.w + at);
    halves<W> low = *reinterpret_cast<const halves<W> *>(run.low + at);
#pragma unroll
    for (int k = 0; k < W; k++)
        w[k] = ht_f32_join(high.bits[k], low.bits[k]);
}
template <int W>
static __device__ __forceinline__ void split(const ht_adamw_run &run, int64_t at, const float (&w)[W]) {
    halves<W> high, low;
#pragma unroll
    for (int k = 0; k < W; k++)
        high.bits[k] = ht_f32_high(w[k]), low.bits[k] = ht_f32_low(w[k]);
    *reinterpret_cast<halves<W> *>((uint16_t *)run.w + at) = high;
    *reinterpret_cast<halves<W> *>(run.low + at) = low;
}

/* Moments of type S, weights of type T; of f32 moments and bf16 weights the latter are halves. */
template <typename S, typename T, int W>
static __device__ __forceinline__ void update(const ht_adamw_run &run, const ht_adamw_constants &c, int64_t at) {
    S *m_at = (S *)run.m + at, *v_at = (S *)run.v + at;
    T *w_at = (T *)run.w + at;
    float w[W], m[W], v[W], grad[W];
    const float zero[W] = {0};
    ht_adamw_bits bits[W];
    constexpr bool halved = sizeof(T) < sizeof(S);
    if constexpr (halved)
        join(w, run, at);
    else
        ht_load(w, w_at);
    ht_load(m, m_at);
    ht_load(v, v_at);
    ht_load(grad, run.grad + at);
    if constexpr (sizeof(S) == sizeof(ht_bf16)) draw(bits, run, at);
#pragma unroll
    for (int k = 0; k < W; k++)
        ht_adamw_element(&w[k], &m[k], &v[k], grad[k], &c);
    if constexpr (halved)
        split(run, at, w);
    else
        put(w_at, w, bits, &ht_adamw_bits::w);
    put(m_at, m, bits, &ht_adamw_bits::m);
    put(v_at, v, bits, &ht_adamw_bits::v);
    ht_store(run.grad + at, zero);
}

template <typename S, typename T, int W>
static __global__ void __launch_bounds__(THREADS) adamw(ht_adamw_run run, ht_adamw_constants c) {
    int64_t packs = run.n / W, step = (int64_t)gridDim.x * THREADS;
    for (int64_t pack = (int64_t)blockIdx.x * THREADS + threadIdx.x; pack < packs; pack += step)
        update<S, T, W>(run, c, pack * W);
    if (blockIdx.x == 0 && threadIdx.x < run.n % W) update<S, T, 1>(run, c, packs * W + threadIdx.x);
}

/* --- 8-bit state ------------------------------------------------------------------------------------------- */

/* A lane's elements, as far as there are some; zeros behind them. `whole`: all, in packs. */
template <typename T>
static __device__ __forceinline__ void read(float (&x)[LANE_ELEMENTS], const T *from, int64_t left, bool whole) {
    if (whole) {
        ht_load(x, from);
        return;
    }
    for (int k = 0; k < LANE_ELEMENTS; k++) {
        float one[1] = {0};
        if (k < left) ht_load(one, from + k);
        x[k] = one[0];
    }
}
template <typename T>
static __device__ __forceinline__ void write(T *to, const float (&x)[LANE_ELEMENTS],
                                             const ht_adamw_bits (&bits)[LANE_ELEMENTS], int64_t left, bool whole) {
    if (whole) {
        put(to, x, bits, &ht_adamw_bits::w);
        return;
    }
    for (int k = 0; k < LANE_ELEMENTS && k < left; k++) {
        const float one[1] = {x[k]};
        const ht_adamw_bits its[1] = {bits[k]};
        put(to + k, one, its, &ht_adamw_bits::w);
    }
}

static __device__ __forceinline__ void read_codes(uint8_t (&codes)[LANE_ELEMENTS], const uint8_t *from, int64_t left,
                                                  bool whole) {
    if (whole)
        *reinterpret_cast<uint2 *>(codes) = *reinterpret_cast<const uint2 *>(from);
    else
        for (int k = 0; k < LANE_ELEMENTS; k++)
            codes[k] = k < left ? from[k] : 0;
}
static __device__ __forceinline__ void write_codes(uint8_t *to, const uint8_t (&codes)[LANE_ELEMENTS], int64_t left,
                                                   bool whole) {
    if (whole)
        __stwb(reinterpret_cast<uint2 *>(to), *reinterpret_cast<const uint2 *>(codes));
    else
        for (int k = 0; k < LANE_ELEMENTS && k < left; k++)
            to[k] = codes[k];
}

template <typename T>
static __device__ __forceinline__ void update_block(const ht_adamw_run &run, const ht_adamw_constants &c, int64_t block,
                                                    bool packed) {
    int lane = threadIdx.x % 32;
    int64_t at = block * HT_ADAMW_BLOCK + lane * LANE_ELEMENTS, left = run.n - at;
    bool whole = packed && left >= LANE_ELEMENTS;
    uint8_t *m_at = (uint8_t *)run.m + at, *v_at = (uint8_t *)run.v + at;
    float w[LANE_ELEMENTS], m[LANE_ELEMENTS], v[LANE_ELEMENTS], grad[LANE_ELEMENTS], most_m = 0, most_v = 0;
    alignas(8) uint8_t m_code[LANE_ELEMENTS], v_code[LANE_ELEMENTS];
    ht_adamw_bits bits[LANE_ELEMENTS];
    float m_scale = run.m_scale[block], v_scale = run.v_scale[block];
    read(w, (T *)run.w + at, left, whole);
    read(grad, run.grad + at, left, whole);
    read_codes(m_code, m_at, left, whole);
    read_codes(v_code, v_at, left, whole);
    draw(bits, run, at);
#pragma unroll
    for (int k = 0; k < LANE_ELEMENTS; k++) {
        m[k] = ht_adamw_decode_m(m_code[k], m_scale);
        v[k] = ht_adamw_decode_v(v_code[k], v_scale);
        ht_adamw_element(&w[k], &m[k], &v[k], grad[k], &c);
        most_m = fmaxf(most_m, fabsf(m[k]));
        most_v = fmaxf(most_v, v[k]);
        grad[k] = 0;
    }
    m_scale = ht_adamw_scale(ht_warp_reduce(most_m, ht_larger()));
    v_scale = ht_adamw_scale(ht_warp_reduce(most_v, ht_larger()));
    float m_inverse = m_scale > 0 ? 1 / m_scale : 0, v_inverse = v_scale > 0 ? 1 / v_scale : 0;
#pragma unroll
    for (int k = 0; k < LANE_ELEMENTS; k++) {
        m_code[k] = ht_adamw_encode_m(m[k], m_inverse, bits[k].m);
        v_code[k] = ht_adamw_encode_v(v[k], v_inverse, bits[k].v);
    }
    write((T *)run.w + at, w, bits, left, whole);
    write(run.grad + at, grad, bits, left, whole);
    write_codes(m_at, m_code, left, whole);
    write_codes(v_at, v_code, left, whole);
    __syncwarp(); /* all lanes have read the scales */
    if (lane == 0) run.m_scale[block] = m_scale, run.v_scale[block] = v_scale;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) adamw_8bit(ht_adamw_run run, ht_adamw_constants c, bool packed) {
    int64_t blocks = (run.n + HT_ADAMW_BLOCK - 1) / HT_ADAMW_BLOCK, step = (int64_t)gridDim.x * WARPS;
    for (int64_t block = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; block < blocks; block += step)
        update_block<T>(run, c, block, packed);
}

/* --- launches ---------------------------------------------------------------------------------------------- */

static dim3 grid_of(const ht_cuda *cuda, int64_t threads) {
    int64_t most = (int64_t)cuda->multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    return dim3((unsigned)ht_least(ht_ceil_div(threads, THREADS), most));
}

/* Packs of 16 bytes of the narrowest array. */
template <typename S, typename T>
static void launch(const ht_cuda *cuda, const ht_adamw_run &run, const ht_adamw_constants &c, bool packed) {
    constexpr int W = 16 / (int)sizeof(S);
    if (packed)
        HT_LAUNCH((adamw<S, T, W>), grid_of(cuda, ht_ceil_div(run.n, W)), dim3(THREADS), 0, cuda->stream, run, c);
    else
        HT_LAUNCH((adamw<S, T, 1>), grid_of(cuda, run.n), dim3(THREADS), 0, cuda->stream, run, c);
}

template <typename T>
static void launch_8bit(const ht_cuda *cuda, const ht_adamw_run &run, const ht_adamw_constants &c, bool packed) {
    HT_LAUNCH(adamw_8bit<T>, grid_of(cuda, ht_ceil_div(run.n, LANE_ELEMENTS)), dim3(THREADS), 0, cuda->stream, run, c,
              packed);
}

ht_status ht_cuda_adamw(ht_backend *be, const ht_adamw_run *run, const ht_adamw_args *args, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    if (run->n <= 0) return HT_OK;
    const ht_adamw_constants c = ht_adamw_constants_of(args);
    uintptr_t moments = (uintptr_t)run->m | (uintptr_t)run->v;
    bool packed = ((uintptr_t)run->w | (uintptr_t)run->grad) % 16 == 0 && (uintptr_t)run->low % 8 == 0 &&
                  moments % (run->state == HT_ADAMW_8BIT ? 8 : 16) == 0;
    if (run->state == HT_ADAMW_F32)
        run->dtype == HT_F32 ? launch<float, float>(cuda, *run, c, packed)
                             : launch<float, ht_bf16>(cuda, *run, c, packed);
    else if (run->state == HT_ADAMW_BF16)
        run->dtype == HT_F32 ? launch<ht_bf16, float>(cuda, *run, c, packed)
                             : launch<ht_bf16, ht_bf16>(cuda, *run, c, packed);
    else
        run->dtype == HT_F32 ? launch_8bit<float>(cuda, *run, c, packed) : launch_8bit<ht_bf16>(cuda, *run, c, packed);
    return ht_cuda_launched("adamw", err);
}
