/* cuda_bf16.h, emulated: the type and the conversions that core/backend/cuda uses. */
#ifndef HT_EMULATED_CUDA_BF16_H
#define HT_EMULATED_CUDA_BF16_H

#include <cuda_runtime.h>

struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 value) {
    return __uint_as_float((unsigned)value.bits << 16);
}
/* To nearest, ties to even; every NaN becomes one NaN, as on the GPU. */
static inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    unsigned u = __float_as_uint(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

#endif
