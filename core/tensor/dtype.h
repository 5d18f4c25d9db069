/*
 * dtype.h: element types and their conversions.
 */
#ifndef HT_TENSOR_DTYPE_H
#define HT_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>

/* enum, bytes, name in safetensors, name in config.json */
#define HT_DTYPE_MAP(X)                                                                                       \
    X(F32, 4, "F32", "float32")                                                                               \
    X(BF16, 2, "BF16", "bfloat16")                                                                            \
    X(F16, 2, "F16", "float16")                                                                               \
    X(U16, 2, "U16", "uint16") /* bits: not converted */                                                      \
    X(U8, 1, "U8", "uint8")    /* codes: not converted */

typedef enum ht_dtype {
#define HT_DTYPE_ENUM(name, bytes, safetensors, torch) HT_##name,
    HT_DTYPE_MAP(HT_DTYPE_ENUM)
#undef HT_DTYPE_ENUM
} ht_dtype;

size_t ht_dtype_size(ht_dtype dtype);
const char *ht_dtype_safetensors_name(ht_dtype dtype);
const char *ht_dtype_torch_name(ht_dtype dtype);
/* Both name families; -1 when unknown. */
int ht_dtype_from_name(const char *name);

/* out[n] = in[n] converted between float types; round to nearest even; NaN stays NaN; f32 -> f16 overflow gives infinity. The buffers do
 * not overlap. */
void ht_convert(void *out, ht_dtype out_dtype, const void *in, ht_dtype in_dtype, size_t n);

static inline float ht_bf16_to_f32(uint16_t bits) {
    union {
        uint32_t u;
        float f;
    } pun = {(uint32_t)bits << 16};
    return pun.f;
}

/* Round to nearest even; NaN stays NaN. Without branches, so that loops over it vectorise. */
static inline uint16_t ht_bf16_of_f32(float value) {
    union {
        float f;
        uint32_t u;
    } pun = {value};
    uint32_t rounded = (pun.u + 0x7fffu + ((pun.u >> 16) & 1)) >> 16;
    uint32_t quiet = (pun.u >> 16) | 0x40; /* a NaN whose payload lies in the low half must not become infinity */
    return (uint16_t)((pun.u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#endif
