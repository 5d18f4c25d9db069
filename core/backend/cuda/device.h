/*
 * device.h: what the kernels are made of: launches, shared memory, rows in pieces of 16 bytes, reductions in a fixed
 * order.
 *
 * A row is read and written in packs of W elements: W * sizeof(T) = 16 where every row begins on a multiple of 16 bytes
 * and is a whole number of packs (ht_packed), else W = 1. Kernels are templates of (T, W); HT_DISPATCH chooses.
 */
#ifndef HT_BACKEND_CUDA_DEVICE_H
#define HT_BACKEND_CUDA_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

#include "core/backend/cuda/cuda.h"

typedef __nv_bfloat16 ht_bf16;

/* The emulation of tests/gpu brings its own. */
#ifndef HT_EMULATED
/* A kernel with template arguments goes in parentheses. */
#define HT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                      \
    (kernel)<<<(grid), (block), (size_t)(shared_bytes), (stream)>>>(__VA_ARGS__)

/*
 * The same on the backend's stream, for short kernels: its blocks may take their places while the kernel before it still
 * runs. All of its threads begin with ht_begin, which waits for that one to have ended and for what it has written to be
 * seen; so nothing but the start is early. What the kernel before reads or writes is not touched by way of
 * `const __restrict__` pointers: the compiler may read from these at any time.
 */
#define HT_LAUNCH_EARLY(kernel, grid, block, shared_bytes, cuda, ...)                                                  \
    ht_launch_early((kernel), (grid), (block), (size_t)(shared_bytes), (cuda), __VA_ARGS__)
template <typename... P, typename... A>
static inline void ht_launch_early(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, const ht_cuda *cuda,
                                   A... arguments) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared, config.stream = cuda->stream;
    config.attrs = &attribute, config.numAttrs = cuda->early ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kernel, arguments...); /* ht_cuda_launched tells */
}

/* From here on the next kernel may be launched: the one before this has ended, so no more than two are ever there. */
__device__ __forceinline__ void ht_begin(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* type name dims, in the block's shared memory: HT_SHARED(float, tile, [16][33]); */
#define HT_SHARED(type, name, dims) __shared__ __align__(16) type name dims
/* type *name = the shared memory that the launch has asked for */
#define HT_DYNAMIC_SHARED(type, name)                                                                                  \
    extern __shared__ __align__(16) unsigned char ht_dynamic_shared[];                                                 \
    type *name = reinterpret_cast<type *>(ht_dynamic_shared)
#endif

#define HT_ALL_LANES 0xffffffffu

/* --- packs: W elements of a row, as f32 ------------------------------------------------------------------- */

/* How W elements travel: in one access. */
template <typename T, int W> struct ht_raw;
template <> struct ht_raw<float, 1> { float bits; };
template <> struct ht_raw<float, 2> { float2 bits; };
template <> struct ht_raw<float, 4> { float4 bits; };
template <> struct ht_raw<ht_bf16, 1> { ht_bf16 bits; };
template <> struct ht_raw<ht_bf16, 4> { uint2 bits; };
template <> struct ht_raw<ht_bf16, 8> { uint4 bits; };

template <int W, typename T> __device__ __forceinline__ ht_raw<T, W> ht_fetch(const T *from) {
    return *reinterpret_cast<const ht_raw<T, W> *>(from);
}

__device__ __forceinline__ void ht_unpack(float (&v)[1], ht_raw<float, 1> raw) {
    v[0] = raw.bits;
}
__device__ __forceinline__ void ht_unpack(float (&v)[2], ht_raw<float, 2> raw) {
    v[0] = raw.bits.x, v[1] = raw.bits.y;
}
__device__ __forceinline__ void ht_unpack(float (&v)[4], ht_raw<float, 4> raw) {
    v[0] = raw.bits.x, v[1] = raw.bits.y, v[2] = raw.bits.z, v[3] = raw.bits.w;
}
__device__ __forceinline__ void ht_unpack(float (&v)[1], ht_raw<ht_bf16, 1> raw) {
    v[0] = __bfloat162float(raw.bits);
}
/* Two bf16 in a word: the first in the low half. */
__device__ __forceinline__ float ht_low(uint32_t pair) {
    return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float ht_high(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ void ht_unpack(float (&v)[4], ht_raw<ht_bf16, 4> raw) {
    v[0] = ht_low(raw.bits.x), v[1] = ht_high(raw.bits.x), v[2] = ht_low(raw.bits.y), v[3] = ht_high(raw.bits.y);
}
__device__ __forceinline__ void ht_unpack(float (&v)[8], ht_raw<ht_bf16, 8> raw) {
    v[0] = ht_low(raw.bits.x), v[1] = ht_high(raw.bits.x), v[2] = ht_low(raw.bits.y), v[3] = ht_high(raw.bits.y);
    v[4] = ht_low(raw.bits.z), v[5] = ht_high(raw.bits.z), v[6] = ht_low(raw.bits.w), v[7] = ht_high(raw.bits.w);
}

template <int W, typename T> __device__ __forceinline__ void ht_load(float (&v)[W], const T *from) {
    ht_unpack(v, ht_fetch<W>(from));
}
/* f32 in eights, for rows whose other operand is bf16. */
__device__ __forceinline__ void ht_load(float (&v)[8], const float *from) {
    float4 low = reinterpret_cast<const float4 *>(from)[0], high = reinterpret_cast<const float4 *>(from)[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

/* To nearest, ties to even. */
__device__ __forceinline__ uint32_t ht_pair(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* Stores to global memory name their width, which the compiler does not always find by itself. */
template <typename T, int W> __device__ __forceinline__ void ht_put(T *to, ht_raw<T, W> raw) {
    if constexpr (W == 1)
        *to = raw.bits;
    else
        __stwb(&reinterpret_cast<ht_raw<T, W> *>(to)->bits, raw.bits);
}
__device__ __forceinline__ void ht_store(float *to, const float (&v)[1]) {
    *to = v[0];
}
__device__ __forceinline__ void ht_store(float *to, const float (&v)[2]) {
    __stwb(reinterpret_cast<float2 *>(to), make_float2(v[0], v[1]));
}
__device__ __forceinline__ void ht_store(float *to, const float (&v)[4]) {
    __stwb(reinterpret_cast<float4 *>(to), make_float4(v[0], v[1], v[2], v[3]));
}
__device__ __forceinline__ void ht_store(float *to, const float (&v)[8]) {
    __stwb(reinterpret_cast<float4 *>(to), make_float4(v[0], v[1], v[2], v[3]));
    __stwb(reinterpret_cast<float4 *>(to) + 1, make_float4(v[4], v[5], v[6], v[7]));
}
__device__ __forceinline__ void ht_store(ht_bf16 *to, const float (&v)[1]) {
    *to = __float2bfloat16_rn(v[0]);
}
__device__ __forceinline__ void ht_store(ht_bf16 *to, const float (&v)[4]) {
    __stwb(reinterpret_cast<uint2 *>(to), make_uint2(ht_pair(v[0], v[1]), ht_pair(v[2], v[3])));
}
__device__ __forceinline__ void ht_store(ht_bf16 *to, const float (&v)[8]) {
    __stwb(reinterpret_cast<uint4 *>(to),
           make_uint4(ht_pair(v[0], v[1]), ht_pair(v[2], v[3]), ht_pair(v[4], v[5]), ht_pair(v[6], v[7])));
}

/* The same to shared memory. */
__device__ __forceinline__ void ht_keep(float *to, const float (&v)[1]) {
    *to = v[0];
}
__device__ __forceinline__ void ht_keep(float *to, const float (&v)[4]) {
    *reinterpret_cast<float4 *>(to) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void ht_keep(float *to, const float (&v)[8]) {
    reinterpret_cast<float4 *>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

/* --- tiles of a row-wise kernel ---------------------------------------------------------------------------- */

/*
 * An element-wise kernel over rows of packs is cut into tiles of blockDim.y rows by blockDim.x * U packs, which the grid
 * strides over. A thread's packs of a tile are first, first + blockDim.x, ... (U of them), as far as they are below
 * `packs`; it reads all before it writes any, so that U loads are under way together.
 */
template <int U> __device__ __forceinline__ int64_t ht_tiles(int64_t rows, int64_t packs) {
    int64_t width = (int64_t)blockDim.x * U;
    return (rows + blockDim.y - 1) / blockDim.y * ((packs + width - 1) / width);
}
template <int U> __device__ __forceinline__ void ht_tile(int64_t tile, int64_t packs, int64_t *row, int64_t *first) {
    int64_t width = (int64_t)blockDim.x * U, across = (packs + width - 1) / width;
    *row = tile / across * blockDim.y + threadIdx.y;
    *first = tile % across * width + threadIdx.x;
}

/* --- reductions: a fixed tree, the same bits whatever else runs --------------------------------------------- */

struct ht_add {
    template <typename T> __device__ __forceinline__ T operator()(T a, T b) const {
        return a + b;
    }
};
struct ht_larger {
    template <typename T> __device__ __forceinline__ T operator()(T a, T b) const {
        return a > b ? a : b;
    }
};

/* Every lane gets the result. */
template <typename T, typename OP> __device__ __forceinline__ T ht_warp_reduce(T v, OP op) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        v = op(v, __shfl_xor_sync(HT_ALL_LANES, v, distance));
    return v;
}

__device__ __forceinline__ int ht_warp_reduce(int v, ht_add) {
    return __reduce_add_sync(HT_ALL_LANES, v); /* one instruction */
}

/* Every thread of a one-dimensional block of whole warps gets the result; `partials`: 32 elements of shared memory. What
 * threads have read or written before, others may write or read afterwards. */
template <typename T, typename OP> __device__ __forceinline__ T ht_block_reduce(T v, T neutral, T *partials, OP op) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    v = ht_warp_reduce(v, op);
    if (warps == 1) {
        __syncwarp();
        return v;
    }
    if (lane == 0) partials[warp] = v;
    __syncthreads();
    v = ht_warp_reduce(lane < warps ? partials[lane] : neutral, op);
    __syncthreads(); /* partials can be used again */
    return v;
}

template <typename T> __device__ __forceinline__ T ht_warp_sum(T v) {
    return ht_warp_reduce(v, ht_add());
}
template <typename T> __device__ __forceinline__ T ht_block_sum(T v, T *partials) {
    return ht_block_reduce(v, (T)0, partials, ht_add());
}
__device__ __forceinline__ float ht_block_max(float v, float *partials) {
    return ht_block_reduce(v, -INFINITY, partials, ht_larger());
}

/* --- the host's side: shapes of launches ------------------------------------------------------------------- */

/* 1: the rows of `t` can be read in packs of 16 bytes. */
static inline int ht_packed(const ht_tensor *t) {
    int64_t width = t->dtype == HT_F32 ? 4 : 2;
    return (uintptr_t)t->data % 16 == 0 && t->stride * width % 16 == 0 && t->cols * width % 16 == 0;
}

/* launch<T, W>(...) for the dtype and the packs of a call's tensors; f32 or bf16 has been checked. */
#define HT_DISPATCH(dtype, packed, launch, ...)                                                                        \
    ((dtype) == HT_F32 ? (packed) ? launch<float, 4>(__VA_ARGS__) : launch<float, 1>(__VA_ARGS__)                      \
     : (packed) ? launch<ht_bf16, 8>(__VA_ARGS__)                                                                      \
                       : launch<ht_bf16, 1>(__VA_ARGS__))

typedef struct ht_launch_shape {
    dim3 grid, block;
} ht_launch_shape;

/* Tiles of blockDim.y rows by blockDim.x * packs_a_thread packs: 256 threads, on a grid that fills the GPU twice. */
static inline ht_launch_shape ht_tile_shape(const ht_cuda *cuda, int64_t rows, int64_t packs, int packs_a_thread) {
    enum { THREADS = 256, BLOCKS_A_MULTIPROCESSOR = 16 };
    unsigned x = 1;
    while (x < THREADS && (int64_t)x * packs_a_thread < packs)
        x *= 2;
    unsigned y = THREADS / x;
    int64_t tiles = ht_ceil_div(rows, y) * ht_ceil_div(packs, (int64_t)x * packs_a_thread);
    int64_t most = (int64_t)cuda->multiprocessors * BLOCKS_A_MULTIPROCESSOR;
    ht_launch_shape shape = {dim3((unsigned)ht_least(tiles, most)), dim3(x, y)};
    return shape;
}

/* Threads of a block that shares one row among them: whole warps, a thread for every `packs_a_thread` packs, at most
 * `most`. It depends on the row's length alone, and so do the bits of sums over the row. */
static inline unsigned ht_row_threads(int64_t packs, int packs_a_thread, int64_t most) {
    int64_t threads = ht_ceil_div(ht_ceil_div(packs, packs_a_thread), 32) * 32;
    return (unsigned)ht_least(threads, most);
}

#endif
