/*
 * How AdamW's state is rounded: bit for bit as backend.h says, on every backend; without bias; and to a neighbour.
 *
 * With beta 0 the moments after an update are the gradient and its square, and the step is the rate with the gradient's
 * sign: all exact in f32 when the gradient has eleven bits and the rate is a power of two. Only the rounding is left.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/philox.h"
#include "core/base/rng.h"
#include "tests/op/harness.h"
#include "tests/op/reference.h"

enum { SEED = 5, STREAM = 77 };
static const double rate = 0x1p-10;

static ht_backend *backend;

/* What an update leaves, and the codes' scales. */
typedef struct outcome {
    double *w, *m, *v;
    float *m_scale, *v_scale;
} outcome;

static int64_t blocks_of(int64_t n) {
    return (n + HT_ADAMW_BLOCK - 1) / HT_ADAMW_BLOCK;
}

static void outcome_free(outcome *o) {
    free(o->w);
    free(o->m);
    free(o->v);
    free(o->m_scale);
    free(o->v_scale);
}

/* --- running ---------------------------------------------------------------------------------------------- */

static double *widened(op_run *run, const void *memory, ht_dtype dtype, int64_t n) {
    double *x = op_zeros(n);
    float *wide = calloc((size_t)n, sizeof *wide);
    void *host = calloc((size_t)n, ht_dtype_size(dtype));
    op_check(run, ht_download(run->be, host, memory, (size_t)n * ht_dtype_size(dtype), &run->err));
    ht_convert(wide, HT_F32, host, dtype, (size_t)n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)wide[i];
    free(host);
    free(wide);
    return x;
}

static double *decoded(op_run *run, const void *memory, const float *scale, int64_t n, int is_v) {
    int64_t count;
    double *x = op_zeros(n), *numbers = is_v ? ref_numbers_v(&count) : ref_numbers_m(&count);
    uint8_t *codes = calloc((size_t)n, 1);
    op_check(run, ht_download(run->be, codes, memory, (size_t)n, &run->err));
    for (int64_t i = 0; i < n; i++) {
        double value = numbers[codes[i] % count] * (double)scale[i / HT_ADAMW_BLOCK];
        x[i] = codes[i] >= count ? -value : value;
    }
    free(codes);
    free(numbers);
    return x;
}

static float *downloaded(op_run *run, const float *memory, int64_t n) {
    float *host = calloc((size_t)n, sizeof *host);
    op_check(run, ht_download(run->be, host, memory, (size_t)n * sizeof *host, &run->err));
    return host;
}

/* One update of zero moments by `grad`, with betas of 0. */
static outcome update(ht_adamw_state state, ht_dtype dtype, int64_t n, const double *w, const double *grad,
                      uint64_t stream) {
    static const size_t width[] = {4, 2, 1};
    op_result result;
    op_run run = {.dtype = dtype, .seed = 1};
    outcome o = {0};
    op_run_begin(&run, backend, &result);
    uint8_t *zeros = calloc((size_t)n, width[state]);
    const ht_adamw_args args = {.lr = rate, .eps = 1e-30, .grad_scale = 1, .step = 1};
    ht_adamw_run r = {.state = state, .dtype = dtype, .w = op_vector(&run, dtype, n, w), .grad = op_floats(&run, n, grad),
                      .m = op_bytes(&run, zeros, n * (int64_t)width[state]),
                      .v = op_bytes(&run, zeros, n * (int64_t)width[state]), .n = n, .seed = SEED, .stream = stream};
    if (state == HT_ADAMW_8BIT) {
        double *none = op_zeros(blocks_of(n));
        r.m_scale = op_floats(&run, blocks_of(n), none);
        r.v_scale = op_floats(&run, blocks_of(n), none);
        free(none);
    }
    op_check(&run, ht_adamw(backend, &r, &args, &run.err));
    o.w = widened(&run, r.w, dtype, n);
    if (state == HT_ADAMW_8BIT) {
        o.m_scale = downloaded(&run, r.m_scale, blocks_of(n));
        o.v_scale = downloaded(&run, r.v_scale, blocks_of(n));
        o.m = decoded(&run, r.m, o.m_scale, n, 0);
        o.v = decoded(&run, r.v, o.v_scale, n, 1);
    } else {
        o.m = widened(&run, r.m, HT_BF16, n);
        o.v = widened(&run, r.v, HT_BF16, n);
    }
    free(zeros);
    op_run_end(&run);
    return o;
}

/* --- bit for bit ------------------------------------------------------------------------------------------ */

/* Gradients of eleven bits over twenty powers of two, with zeros and a block of nothing but zeros. */
static double *gradients(int64_t n) {
    double *grad = op_zeros(n);
    for (uint64_t i = 0; i < (uint64_t)n; i++) {
        double mantissa = (double)ht_rng_below(1, 0, i, 4095) - 2047;
        if (i / HT_ADAMW_BLOCK != 2 && i % 50 != 7) grad[i] = ldexp(mantissa, -11 - (int)ht_rng_below(1, 1, i, 20));
    }
    return grad;
}

/* The least power of two that brings the block's largest magnitude to 1.875 or below; 0 for zeros. */
static double scale_of(const double *x, int64_t n, int64_t block) {
    double most = 0, scale = 0x1p-60;
    for (int64_t i = block * HT_ADAMW_BLOCK; i < n && i < (block + 1) * HT_ADAMW_BLOCK; i++)
        most = fmax(most, fabs(x[i]));
    while (most / scale > 1.875)
        scale *= 2;
    return most > 0 ? scale : 0;
}

typedef struct words {
    uint32_t w, m, v;
} words;

static words words_of(uint64_t stream, int64_t i) {
    uint32_t block[4], *own = block + i % 2 * 2;
    ht_philox_block(SEED, stream, (uint64_t)(i / 2), block);
    return (words){own[0] & 0xffff, own[0] >> 16, own[1] & 0xffff};
}

static int64_t differing(const char *what, const double *actual, const double *expected, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (actual[i] == expected[i]) continue;
        if (count++ == 0) print_error("%s %d of %d: %a, not %a\n", what, (int)i, (int)n, actual[i], expected[i]);
    }
    return count;
}

static void round_codes(double *x, int64_t n, int is_v, uint64_t stream) {
    int64_t count;
    double *numbers = is_v ? ref_numbers_v(&count) : ref_numbers_m(&count), *exact = op_duplicate(x, n);
    for (int64_t i = 0; i < n; i++) {
        double scale = scale_of(exact, n, i / HT_ADAMW_BLOCK);
        words random = words_of(stream, i);
        if (x[i] == 0) continue;
        double rounded = ref_round(x[i] / scale, numbers, count, ((double)(is_v ? random.v : random.m) + 0.5) * 0x1p-16);
        x[i] = scale * (is_v && rounded == 0 ? numbers[1] : rounded);
    }
    free(exact);
    free(numbers);
}

static void check_bits(ht_adamw_state state, ht_dtype dtype, int64_t n) {
    int64_t count;
    double *bf16 = ref_numbers_bf16(&count), *w = op_zeros(n), *grad = gradients(n), *m = op_duplicate(grad, n),
           *v = op_zeros(n);
    for (int64_t i = 0; i < n; i++)
        w[i] = ldexp((double)ht_rng_below(2, 0, (uint64_t)i, 255) - 127, -7 - (int)(i % 5)); /* a bf16 number */
    outcome o = update(state, dtype, n, w, grad, STREAM);
    for (int64_t i = 0; i < n; i++) {
        words random = words_of(STREAM, i);
        double step = grad[i] > 0 ? rate : grad[i] < 0 ? -rate : 0;
        w[i] = (double)(float)(w[i] - step);
        v[i] = grad[i] * grad[i];
        if (dtype == HT_BF16) w[i] = ref_round(w[i], bf16, count, (double)random.w * 0x1p-16);
        if (state == HT_ADAMW_BF16) {
            m[i] = ref_round(m[i], bf16, count, (double)random.m * 0x1p-16);
            v[i] = ref_round(v[i], bf16, count, (double)random.v * 0x1p-16);
        }
    }
    if (state == HT_ADAMW_8BIT) {
        round_codes(m, n, 0, STREAM);
        round_codes(v, n, 1, STREAM);
    }
    assert_int_equal(differing("w", o.w, w, n), 0);
    assert_int_equal(differing("m", o.m, m, n), 0);
    assert_int_equal(differing("v", o.v, v, n), 0);
    outcome_free(&o);
    free(v);
    free(m);
    free(grad);
    free(w);
    free(bf16);
}

/* The bits of w after three updates by `grad`: of f32 weights, or of their halves. */
static uint32_t *updated(ht_dtype dtype, int64_t n, const double *w, const double *grad) {
    op_result result;
    op_run run = {.dtype = dtype, .seed = 1};
    op_run_begin(&run, backend, &result);
    double *none = op_zeros(n);
    ht_adamw_run r = {.dtype = dtype, .w = op_vector(&run, dtype, n, w), .grad = op_floats(&run, n, grad),
                      .low = dtype == HT_BF16 ? op_vector(&run, HT_BF16, n, none) : NULL,
                      .m = op_floats(&run, n, none), .v = op_floats(&run, n, none), .n = n};
    for (int64_t step = 1; step <= 3; step++) {
        const ht_adamw_args args = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .decay = 0.1, .grad_scale = 1, .step = step};
        op_check(&run, ht_adamw(backend, &r, &args, &run.err));
    }
    uint32_t *bits = calloc((size_t)n, sizeof *bits);
    uint16_t *high = calloc((size_t)n, sizeof *high), *low = calloc((size_t)n, sizeof *low);
    if (dtype == HT_F32) {
        op_check(&run, ht_download(backend, bits, r.w, (size_t)n * sizeof *bits, &run.err));
    } else {
        op_check(&run, ht_download(backend, high, r.w, (size_t)n * sizeof *high, &run.err));
        op_check(&run, ht_download(backend, low, r.low, (size_t)n * sizeof *low, &run.err));
        for (int64_t i = 0; i < n; i++) {
            bits[i] = ((uint32_t)high[i] << 16) + (uint32_t)(int16_t)low[i];
            assert_int_equal(high[i], (bits[i] + 0x8000) >> 16); /* the nearest */
        }
    }
    free(low);
    free(high);
    free(none);
    op_run_end(&run);
    return bits;
}

static const int64_t sizes[] = {1, 2, 255, 256, 1000, 4096, 4099};

/* bf16 weights with their low bits are f32 weights. */
static void test_adamw__halves_are_f32_bit_for_bit(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t n = sizes[i];
        double *w = op_zeros(n), *grad = gradients(n);
        for (int64_t k = 0; k < n; k++)
            w[k] = ldexp((double)ht_rng_below(2, 0, (uint64_t)k, 255) - 127, -7 - (int)(k % 25)); /* a bf16 number */
        uint32_t *whole = updated(HT_F32, n, w, grad), *halves = updated(HT_BF16, n, w, grad);
        assert_memory_equal(whole, halves, (size_t)n * sizeof *whole);
        free(halves);
        free(whole);
        free(grad);
        free(w);
    }
}

static void test_adamw__bf16_state_bit_for_bit(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_bits(HT_ADAMW_BF16, HT_F32, sizes[i]);
        check_bits(HT_ADAMW_BF16, HT_BF16, sizes[i]);
    }
}

static void test_adamw__8bit_state_bit_for_bit(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_bits(HT_ADAMW_8BIT, HT_F32, sizes[i]);
        check_bits(HT_ADAMW_8BIT, HT_BF16, sizes[i]);
    }
}

/* --- without bias ----------------------------------------------------------------------------------------- */

enum { DRAWS = 1 << 15 };

/* Mean of DRAWS roundings of `exact` to steps of `step`: the exact value to five standard deviations of such a mean. Each
 * rounding is to a neighbour: nearer than a step. */
static void check_mean(const char *what, const double *rounded, double exact, double step, double nearest) {
    double sum = 0, allowed = 5 * step * 0.5 / sqrt(DRAWS);
    int64_t count = 0;
    for (int64_t i = 0; i < DRAWS; i++) {
        if (i % HT_ADAMW_BLOCK == 0) continue; /* sets the scale */
        if (!(fabs(rounded[i] - exact) < step)) fail_msg("%s: %a is no neighbour of %a", what, rounded[i], exact);
        sum += rounded[i];
        count++;
    }
    double error = sum / (double)count - exact;
    if (!(fabs(error) < allowed)) fail_msg("%s: the mean is off by %g, %g are allowed", what, error, allowed);
    assert_true(fabs(nearest - exact) > 2 * allowed); /* rounding to nearest would fail */
}

/* Every element but the first of a block has gradient g and weight w. */
static outcome many(ht_adamw_state state, double g, double w, uint64_t stream) {
    double *grads = op_zeros(DRAWS), *weights = op_zeros(DRAWS);
    for (int64_t i = 0; i < DRAWS; i++) {
        grads[i] = i % HT_ADAMW_BLOCK ? g : 1.875;
        weights[i] = w;
    }
    outcome o = update(state, HT_BF16, DRAWS, weights, grads, stream);
    free(weights);
    free(grads);
    return o;
}

static void test_adamw__bf16_state_has_no_bias(void **state) {
    (void)state;
    /* 1.2 of a step of 2^-7 above 1; its square is 2.406 steps above; a weight of 1 less 2^-10 lies a quarter of 2^-8 below. */
    double g = 1 + 154.0 / 128 * 0x1p-7;
    outcome o = many(HT_ADAMW_BF16, g, 1, 1);
    check_mean("m", o.m, g, 0x1p-7, 1 + 0x1p-7);
    check_mean("v", o.v, g * g, 0x1p-7, 1 + 2 * 0x1p-7);
    check_mean("w", o.w, 1 - rate, 0x1p-8, 1);
    outcome_free(&o);
}

static void test_adamw__8bit_state_has_no_bias(void **state) {
    (void)state;
    /* Scales are 1 for m and 2 for v, whose largest is 3.516. The second gradient's m is subnormal, the third's v. */
    outcome o = many(HT_ADAMW_8BIT, 1.15625, 1, 2);
    check_mean("m", o.m, 1.15625, 0x1p-3, 1.125);
    check_mean("v", o.v, 1.15625 * 1.15625, 0x1p-3, 1.375);
    outcome_free(&o);
    o = many(HT_ADAMW_8BIT, 2.3 * 0x1p-17, 1, 3);
    check_mean("subnormal m", o.m, (double)(float)(2.3 * 0x1p-17), 0x1p-17, 0x1p-16);
    outcome_free(&o);
    o = many(HT_ADAMW_8BIT, 0x1.8p-16, 1, 4);
    check_mean("subnormal v", o.v, 0x1.2p-31, 0x1p-32, 0x1p-31);
    outcome_free(&o);
}

/* Another update of the same parameter rounds by other bits, the same one by the same. */
static void test_adamw__bits_depend_on_the_update_alone(void **state) {
    (void)state;
    outcome a = many(HT_ADAMW_BF16, 1 + 0x1p-9, 1, 1), b = many(HT_ADAMW_BF16, 1 + 0x1p-9, 1, 1),
            c = many(HT_ADAMW_BF16, 1 + 0x1p-9, 1, 2);
    int64_t agree = 0;
    for (int64_t i = 0; i < DRAWS; i++) {
        assert_true(a.m[i] == b.m[i] && a.v[i] == b.v[i] && a.w[i] == b.w[i]);
        agree += a.m[i] == c.m[i];
    }
    /* Up with probability 1/4: two agree in 5/8 of the cases. */
    assert_true(fabs((double)agree / DRAWS - 0.625) < 0.02);
    outcome_free(&a);
    outcome_free(&b);
    outcome_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw__halves_are_f32_bit_for_bit),
        cmocka_unit_test(test_adamw__bf16_state_bit_for_bit),
        cmocka_unit_test(test_adamw__8bit_state_bit_for_bit),
        cmocka_unit_test(test_adamw__bf16_state_has_no_bias),
        cmocka_unit_test(test_adamw__8bit_state_has_no_bias),
        cmocka_unit_test(test_adamw__bits_depend_on_the_update_alone),
    };
    backend = op_backend_open(2);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ht_backend_close(backend);
    return failed;
}
