#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "core/tensor/dtype.h"

/* Reference: the value of 16 bits, by its definition in exact double arithmetic. */
static double value_of(uint16_t bits, int exponent_bits, int mantissa_bits) {
    int bias = (1 << (exponent_bits - 1)) - 1, last = (1 << exponent_bits) - 1;
    int exponent = bits >> mantissa_bits & last, mantissa = bits & ((1 << mantissa_bits) - 1);
    double sign = bits >> 15 ? -1 : 1;
    if (exponent == last) return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

typedef struct format {
    ht_dtype dtype;
    int exponent_bits, mantissa_bits;
} format;

static const format formats[] = {{HT_BF16, 8, 7}, {HT_F16, 5, 10}};

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void test_dtype__names_and_sizes(void **state) {
    (void)state;
    assert_int_equal(ht_dtype_size(HT_F32), 4);
    assert_int_equal(ht_dtype_size(HT_BF16), 2);
    assert_string_equal(ht_dtype_safetensors_name(HT_BF16), "BF16");
    assert_string_equal(ht_dtype_torch_name(HT_F16), "float16");
    assert_int_equal(ht_dtype_from_name("float32"), HT_F32);
    assert_int_equal(ht_dtype_from_name("F16"), HT_F16);
    assert_int_equal(ht_dtype_from_name("bfloat16"), HT_BF16);
    assert_int_equal(ht_dtype_from_name("int8"), -1);
}

/* All 65,536 values of both formats. */
static void test_dtype__widening_is_exact(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        static uint16_t in[65536];
        static float out[65536];
        for (size_t i = 0; i < 65536; i++)
            in[i] = (uint16_t)i;
        ht_convert(out, HT_F32, in, formats[k].dtype, 65536);
        for (size_t i = 0; i < 65536; i++) {
            double expected = value_of(in[i], formats[k].exponent_bits, formats[k].mantissa_bits);
            if (isnan(expected) ? !isnan(out[i])
                                : (double)out[i] != expected || !signbit(out[i]) != !signbit(expected))
                fail_msg("%s %04zx gives %a, not %a", ht_dtype_torch_name(formats[k].dtype), i,
                         (double)out[i], expected);
        }
    }
}

/*
 * Around every finite value of a format: the value itself, the midpoint to the next, and the f32 numbers just
 * below and above the midpoint. The midpoint goes to the even neighbour.
 */
static void test_dtype__narrowing_rounds_to_nearest_even(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        const format *f = &formats[k];
        uint16_t infinity = (uint16_t)(((1u << f->exponent_bits) - 1) << f->mantissa_bits);
        for (uint32_t bits = 0; bits < infinity; bits++) {
            double low = value_of((uint16_t)bits, f->exponent_bits, f->mantissa_bits);
            double high = bits + 1 < infinity
                              ? value_of((uint16_t)(bits + 1), f->exponent_bits, f->mantissa_bits)
                              : ldexp(1, 1 << (f->exponent_bits - 1)); /* as if there were one more */
            double middle = low + (high - low) / 2;
            if ((double)(float)middle != middle) fail_msg("the midpoint above %04x is not an f32", bits);
            float in[8];
            in[0] = (float)low;
            in[1] = nextafterf((float)middle, 0);
            in[2] = (float)middle;
            in[3] = nextafterf((float)middle, INFINITY);
            uint16_t even = (uint16_t)(bits & 1 ? bits + 1 : bits), up = (uint16_t)(bits + 1);
            uint16_t expected[8] = {(uint16_t)bits, (uint16_t)bits, even, up}, out[8];
            for (int i = 0; i < 4; i++) {
                in[i + 4] = -in[i];
                expected[i + 4] = expected[i] | 0x8000;
            }
            ht_convert(out, f->dtype, in, HT_F32, 8);
            for (int i = 0; i < 8; i++)
                if (out[i] != expected[i])
                    fail_msg("%s of %a gives %04x, not %04x", ht_dtype_torch_name(f->dtype), (double)in[i],
                             out[i], expected[i]);
        }
    }
}

static void test_dtype__special_values(void **state) {
    (void)state;
    /* Quiet, signalling, and with a payload only in bits that narrowing drops. */
    static const uint32_t nans[] = {0x7fc00000, 0x7f800001, 0xff800001, 0x7fffffff, 0xffc00000, 0x7f80ffff};
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
            float in = from_bits(nans[i]);
            uint16_t out;
            ht_convert(&out, formats[k].dtype, &in, HT_F32, 1);
            assert_true(isnan(value_of(out, formats[k].exponent_bits, formats[k].mantissa_bits)));
            assert_int_equal(out >> 15, nans[i] >> 31);
        }
        float in[] = {INFINITY, -INFINITY, 3.4028234664e38f};
        uint16_t out[3];
        ht_convert(out, formats[k].dtype, in, HT_F32, 3);
        uint16_t infinity = formats[k].dtype == HT_BF16 ? 0x7f80 : 0x7c00;
        assert_int_equal(out[0], infinity);
        assert_int_equal(out[1], infinity | 0x8000);
        assert_int_equal(out[2], infinity);
    }
}

static void test_dtype__between_the_short_formats(void **state) {
    (void)state;
    /* 1, 65536 (too large for f16), 2^-25 (f16: tie to 0), 3 * 2^-25 (tie to 2^-23) */
    uint16_t bf16[] = {0x3f80, 0x4780, 0x3300, 0x33c0}, f16[4];
    static const uint16_t expected[] = {0x3c00, 0x7c00, 0x0000, 0x0002};
    ht_convert(f16, HT_F16, bf16, HT_BF16, 4);
    assert_memory_equal(f16, expected, sizeof expected);
    /* 1 + 2^-8 is between bf16's 1 and 1 + 2^-7: to even */
    uint16_t tie[] = {0x3c04, 0x3c0c}, back[2];
    static const uint16_t even[] = {0x3f80, 0x3f82};
    ht_convert(back, HT_BF16, tie, HT_F16, 2);
    assert_memory_equal(back, even, sizeof even);
}

static void test_dtype__same_type_copies_bits(void **state) {
    (void)state;
    uint32_t in[] = {0x7f800001, 0x80000000, 0x3f800000}, out[3];
    ht_convert(out, HT_F32, in, HT_F32, 3);
    assert_memory_equal(in, out, sizeof in);
}

/* Lengths that are no multiple of a vector: neither missing nor surplus elements. */
static void test_dtype__any_length(void **state) {
    (void)state;
    float in[40];
    for (int i = 0; i < 40; i++)
        in[i] = (float)(i + 1);
    for (size_t n = 0; n < 40; n++) {
        uint16_t out[41];
        memset(out, 0, sizeof out);
        ht_convert(out, HT_F16, in, HT_F32, n);
        for (size_t i = 0; i < 41; i++)
            assert_true(value_of(out[i], 5, 10) == (i < n ? (double)(i + 1) : 0));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtype__names_and_sizes),
        cmocka_unit_test(test_dtype__widening_is_exact),
        cmocka_unit_test(test_dtype__narrowing_rounds_to_nearest_even),
        cmocka_unit_test(test_dtype__special_values),
        cmocka_unit_test(test_dtype__between_the_short_formats),
        cmocka_unit_test(test_dtype__same_type_copies_bits),
        cmocka_unit_test(test_dtype__any_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
