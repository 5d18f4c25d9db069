#include "core/tensor/dtype.h"

#include <string.h>

static const struct {
    size_t bytes;
    const char *safetensors, *torch;
} dtypes[] = {
#define HT_DTYPE_ROW(name, bytes, safetensors, torch) {bytes, safetensors, torch},
    HT_DTYPE_MAP(HT_DTYPE_ROW)
#undef HT_DTYPE_ROW
};

size_t ht_dtype_size(ht_dtype dtype) {
    return dtypes[dtype].bytes;
}

const char *ht_dtype_safetensors_name(ht_dtype dtype) {
    return dtypes[dtype].safetensors;
}

const char *ht_dtype_torch_name(ht_dtype dtype) {
    return dtypes[dtype].torch;
}

int ht_dtype_from_name(const char *name) {
    for (int i = 0; i < (int)(sizeof dtypes / sizeof *dtypes); i++)
        if (strcmp(name, dtypes[i].safetensors) == 0 || strcmp(name, dtypes[i].torch) == 0) return i;
    return -1;
}

/*
 * One element each way, without branches so that the loops below vectorise. The arithmetic is exact: only the
 * rounding additions and one float addition (f16 subnormals) round, to nearest even.
 */
typedef union pun {
    uint32_t u;
    float f;
} pun;

#define F32_INFINITY 0x7f800000u

static inline float f16_to_f32(uint16_t bits) {
    uint32_t magnitude = (uint32_t)(bits & 0x7fff) << 13; /* exponent and mantissa in f32's places */
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    const uint32_t rebias = (127u - 15u) << 23;
    /* Subnormal: m * 2^-24 = (1 + m * 2^-10) * 2^-14 - 2^-14, exact in f32. */
    const pun smallest = {.u = 113u << 23}; /* 2^-14 */
    pun subnormal = {.u = magnitude + smallest.u};
    subnormal.f -= smallest.f;
    uint32_t normal = magnitude + rebias;
    uint32_t special = magnitude | F32_INFINITY; /* infinity and NaN keep the mantissa */
    uint32_t u = magnitude < (1u << 23) ? subnormal.u : normal;
    u = magnitude >= (31u << 23) ? special : u;
    return (pun){.u = u | sign}.f;
}

static inline uint16_t f32_to_f16(float value) {
    uint32_t bits = (pun){.f = value}.u;
    uint32_t sign = (bits >> 16) & 0x8000, u = bits & 0x7fffffffu;
    /* Below 2^-14: adding 0.5 leaves units of 2^-24, f16's smallest, in the last place; the addition rounds.
     */
    const pun half = {.u = 126u << 23};
    pun subnormal = {.u = u};
    subnormal.f += half.f;
    uint32_t small = subnormal.u - half.u;
    /* Carries run into the exponent: from 65520 on this gives infinity. */
    uint32_t normal = (u - ((127u - 15u) << 23) + 0xfffu + ((u >> 13) & 1)) >> 13;
    uint32_t out = u < (113u << 23) ? small : normal;
    out = u >= (143u << 23) ? 0x7c00u : out; /* 65536 and beyond */
    out = u > F32_INFINITY ? 0x7e00u : out;
    return (uint16_t)(out | sign);
}

void ht_convert(void *out, ht_dtype out_dtype, const void *in, ht_dtype in_dtype, size_t n) {
    const float *restrict in32 = in;
    const uint16_t *restrict in16 = in;
    float *restrict out32 = out;
    uint16_t *restrict out16 = out;
    if (in_dtype == out_dtype) {
        memcpy(out, in, n * ht_dtype_size(in_dtype));
    } else if (in_dtype == HT_F32 && out_dtype == HT_BF16) {
        for (size_t i = 0; i < n; i++)
            out16[i] = ht_bf16_of_f32(in32[i]);
    } else if (in_dtype == HT_F32 && out_dtype == HT_F16) {
        for (size_t i = 0; i < n; i++)
            out16[i] = f32_to_f16(in32[i]);
    } else if (in_dtype == HT_BF16 && out_dtype == HT_F32) {
        for (size_t i = 0; i < n; i++)
            out32[i] = ht_bf16_to_f32(in16[i]);
    } else if (in_dtype == HT_F16 && out_dtype == HT_F32) {
        for (size_t i = 0; i < n; i++)
            out32[i] = f16_to_f32(in16[i]);
    } else if (in_dtype == HT_BF16 && out_dtype == HT_F16) {
        for (size_t i = 0; i < n; i++)
            out16[i] = f32_to_f16(ht_bf16_to_f32(in16[i]));
    } else {
        for (size_t i = 0; i < n; i++)
            out16[i] = ht_bf16_of_f32(f16_to_f32(in16[i]));
    }
}
