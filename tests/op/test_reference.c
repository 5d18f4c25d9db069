/*
 * The reference is right: each backward formula equals central differences of its own f64 forward. With step
 * h = 1e-5 the error is h^2 = 1e-10 of the third derivative plus 2^-53 / h = 1e-11 of rounding; 1e-7 leaves
 * room for the sums.
 */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "tests/op/reference.h"

#define STEP      1e-5
#define TOLERANCE 1e-7
#define MAX       4096

/* cmocka's own comparison is of floats. */
static void assert_near(double actual, double expected, double tolerance) {
    if (!(fabs(actual - expected) <= tolerance)) fail_msg("%.17g is not %.17g", actual, expected);
}

static uint64_t stream;

static void fill(double *x, int64_t n) {
    stream++;
    for (int64_t i = 0; i < n; i++)
        x[i] = ht_rng_normal(11, stream, (uint64_t)i);
}

/* A scalar function of x: the weighted sum of an operation's outputs. */
typedef double (*objective)(const double *x, void *context);

/* The gradient `dx` [n] of f at x agrees with central differences. */
static void check_gradient(objective f, void *context, double *x, const double *dx, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double keep = x[i];
        x[i] = keep + STEP;
        double up = f(x, context);
        x[i] = keep - STEP;
        double down = f(x, context);
        x[i] = keep;
        double slope = (up - down) / (2 * STEP);
        if (fabs(slope - dx[i]) > TOLERANCE * (1 + fabs(slope))) {
            fail_msg("element %d: formula %.12g, difference %.12g", (int)i, dx[i], slope);
        }
    }
}

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

enum { ROWS = 5, DIM = 7 };

static double input[MAX], other[MAX], third[MAX], dout[MAX], gradient[MAX], second_gradient[MAX],
    third_gradient[MAX];

static double embedding_of(const double *table, void *ids) {
    double y[ROWS * DIM];
    ref_embedding_forward(y, table, ids, ROWS, DIM);
    return dot(y, dout, ROWS * DIM);
}

static void test_reference__embedding(void **state) {
    (void)state;
    int32_t ids[ROWS] = {2, 0, 2, 3, 2};
    fill(input, 4 * DIM);
    fill(dout, ROWS * DIM);
    memset(gradient, 0, sizeof gradient);
    ref_embedding_backward(gradient, dout, ids, ROWS, DIM);
    check_gradient(embedding_of, ids, input, gradient, (int64_t)4 * DIM);
}

static double norm_of_x(const double *x, void *gain) {
    double y[ROWS * DIM];
    ref_rms_norm_forward(y, NULL, x, gain, 1e-2, ROWS, DIM);
    return dot(y, dout, ROWS * DIM);
}

static double norm_of_gain(const double *gain, void *x) {
    return norm_of_x(x, (void *)(uintptr_t)gain);
}

static void test_reference__rms_norm(void **state) {
    (void)state;
    fill(input, ROWS * DIM);
    fill(other, DIM);
    fill(dout, ROWS * DIM);
    memset(gradient, 0, sizeof gradient);
    memset(second_gradient, 0, sizeof second_gradient);
    ref_rms_norm_backward(gradient, second_gradient, dout, input, other, 1e-2, ROWS, DIM);
    check_gradient(norm_of_x, other, input, gradient, (int64_t)ROWS * DIM);
    check_gradient(norm_of_gain, input, other, second_gradient, DIM);
}

static const ref_product PRODUCT = {.M = ROWS, .N = 6, .K = DIM};

static double product_of_x(const double *x, void *w) {
    double y[ROWS * 6] = {0};
    ref_matmul_forward(y, x, w, PRODUCT);
    return dot(y, dout, ROWS * 6);
}

static double product_of_w(const double *w, void *x) {
    return product_of_x(x, (void *)(uintptr_t)w);
}

static void test_reference__matmul(void **state) {
    (void)state;
    fill(input, ROWS * DIM);
    fill(other, 6 * DIM);
    fill(dout, ROWS * 6);
    memset(gradient, 0, sizeof gradient);
    memset(second_gradient, 0, sizeof second_gradient);
    ref_matmul_backward_data(gradient, dout, other, PRODUCT);
    ref_matmul_backward_weight(second_gradient, dout, input, PRODUCT);
    check_gradient(product_of_x, other, input, gradient, (int64_t)ROWS * DIM);
    check_gradient(product_of_w, input, other, second_gradient, (int64_t)6 * DIM);
}

/* The backward rotation is the transpose, and the inverse, of the forward one. */
static void test_reference__rope(void **state) {
    (void)state;
    enum { HEADS = 2, D = 6, T = 4 };
    const int32_t positions[T] = {0, 1, 2, 9};
    double table[10 * D], forward[T * HEADS * D], backward[T * HEADS * D];
    ref_rope_table(table, 10, D, 10000);
    fill(input, T * HEADS * D);
    fill(dout, T * HEADS * D);
    memcpy(forward, input, sizeof forward);
    ref_rope(forward, T, HEADS, D, positions, table, 1);
    memcpy(backward, dout, sizeof backward);
    ref_rope(backward, T, HEADS, D, positions, table, -1);
    assert_near(dot(forward, dout, T * HEADS * D), dot(input, backward, T * HEADS * D), 1e-12);
    assert_near(forward[0], input[0], 1e-15); /* position 0 */
    assert_true(fabs(forward[2 * HEADS * D] - input[2 * HEADS * D]) > 1e-3);
    ref_rope(forward, T, HEADS, D, positions, table, -1);
    for (int64_t i = 0; i < T * HEADS * D; i++)
        assert_near(forward[i], input[i], 1e-14);
}

enum { HEADS = 4, KV_HEADS = 2, WIDTH = 3, TOKENS = 6 };
static const int32_t starts[] = {0, 1, 4, TOKENS};
static const ref_attention ATTENTION = {HEADS, KV_HEADS, WIDTH, 3, starts};

static double attention_sum(const double *q, const double *k, const double *v) {
    double y[TOKENS * HEADS * WIDTH];
    ref_attention_forward(y, NULL, q, k, v, &ATTENTION);
    return dot(y, dout, TOKENS * HEADS * WIDTH);
}

static double attention_of_q(const double *q, void *c) {
    return (void)c, attention_sum(q, other, third);
}
static double attention_of_k(const double *k, void *c) {
    return (void)c, attention_sum(input, k, third);
}
static double attention_of_v(const double *v, void *c) {
    return (void)c, attention_sum(input, other, v);
}

static void test_reference__attention(void **state) {
    (void)state;
    fill(input, TOKENS * HEADS * WIDTH);
    fill(other, TOKENS * KV_HEADS * WIDTH);
    fill(third, TOKENS * KV_HEADS * WIDTH);
    fill(dout, TOKENS * HEADS * WIDTH);
    ref_attention_backward(gradient, second_gradient, third_gradient, dout, input, other, third, &ATTENTION);
    check_gradient(attention_of_q, NULL, input, gradient, (int64_t)TOKENS * HEADS * WIDTH);
    check_gradient(attention_of_k, NULL, other, second_gradient, (int64_t)TOKENS * KV_HEADS * WIDTH);
    check_gradient(attention_of_v, NULL, third, third_gradient, (int64_t)TOKENS * KV_HEADS * WIDTH);
}

static double swiglu_of(const double *gu, void *c) {
    (void)c;
    double y[ROWS * DIM];
    ref_swiglu_forward(y, gu, ROWS, DIM);
    return dot(y, dout, ROWS * DIM);
}

static void test_reference__swiglu(void **state) {
    (void)state;
    fill(input, 2 * ROWS * DIM);
    fill(dout, ROWS * DIM);
    ref_swiglu_backward(gradient, dout, input, ROWS, DIM);
    check_gradient(swiglu_of, NULL, input, gradient, (int64_t)2 * ROWS * DIM);
}

static double row_loss_of(const double *logits, void *loss) {
    double logp;
    const int32_t target = 2;
    ref_token_logp(&logp, NULL, logits, &target, 1, DIM);
    return ref_row_loss_value(loss, logp);
}

static void test_reference__token_loss(void **state) {
    (void)state;
    const double ratios[] = {0.5, 0.9, 1.0, 1.1, 1.6};
    const int32_t target = 2;
    double logp;
    fill(input, DIM);
    ref_token_logp(&logp, NULL, input, &target, 1, DIM);
    for (size_t i = 0; i < 10; i++) {
        ref_row_loss loss = {.kind = HT_TOKEN_LOSS_CLIP, .weight = 0.7, .clip = 0.2};
        loss.advantage = i % 2 ? 1.3 : -0.8;
        loss.old_logp = logp - log(ratios[i / 2]);
        ref_row_loss_backward(gradient, input, target, DIM, &loss);
        check_gradient(row_loss_of, &loss, input, gradient, DIM);
    }
    ref_row_loss nll = {.kind = HT_TOKEN_LOSS_NLL, .weight = 0.7};
    ref_row_loss_backward(gradient, input, target, DIM, &nll);
    check_gradient(row_loss_of, &nll, input, gradient, DIM);
}

/* log-probability and entropy against values worked by hand. */
static void test_reference__token_logp(void **state) {
    (void)state;
    const double logits[] = {0, log(3.0), 0, 0, 0, 0, 0, 0};
    const int32_t targets[] = {1, 0};
    double logp[2], entropy[2];
    ref_token_logp(logp, entropy, logits, targets, 2, 4);
    assert_near(logp[0], log(0.5), 1e-15);
    assert_near(entropy[0], 0.5 * log(2.0) + 0.5 * log(6.0), 1e-15);
    assert_near(logp[1], log(0.25), 1e-15);
    assert_near(entropy[1], log(4.0), 1e-15);
}

/* First update of AdamW: m / (1 - b1) = g, v / (1 - b2) = g^2. */
static void test_reference__adamw(void **state) {
    (void)state;
    const ht_adamw_args args = {
        .lr = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .decay = 0.5, .grad_scale = 0.5, .step = 1};
    double w[] = {2, -1}, m[] = {0, 0}, v[] = {0, 0};
    const double grad[] = {4, -6};
    ref_adamw(w, m, v, grad, 2, &args);
    assert_near(w[0], 2 * 0.95 - 0.1 * 2 / (2 + 1e-5), 1e-14);
    assert_near(w[1], -1 * 0.95 + 0.1 * 3 / (3 + 1e-5), 1e-14);
    assert_near(m[0], 0.2, 1e-15);
    assert_near(v[1], 0.45, 1e-15);
}

static void test_reference__sampling_distribution(void **state) {
    (void)state;
    const double logits[] = {log(0.1), log(0.4), log(0.2), log(0.3)};
    double p[4];
    ht_sampling setting = {.temperature = 1, .top_p = 0.7f, .top_k = 0};
    /* 0.4 + 0.3 = 0.7 reaches 0.7f or not by rounding; 0.69 is clear of it */
    setting.top_p = 0.69f;
    ref_sampling_distribution(p, NULL, logits, 4, &setting);
    assert_near(p[1], 4.0 / 7, 1e-15);
    assert_near(p[3], 3.0 / 7, 1e-15);
    assert_true(p[0] == 0 && p[2] == 0);
    setting = (ht_sampling){.temperature = 0.5f, .top_p = 1, .top_k = 3};
    ref_sampling_distribution(p, NULL, logits, 4, &setting);
    assert_near(p[2], 4.0 / 29, 1e-15);
    assert_true(p[0] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference__embedding),  cmocka_unit_test(test_reference__rms_norm),
        cmocka_unit_test(test_reference__matmul),     cmocka_unit_test(test_reference__rope),
        cmocka_unit_test(test_reference__attention),  cmocka_unit_test(test_reference__swiglu),
        cmocka_unit_test(test_reference__token_loss), cmocka_unit_test(test_reference__token_logp),
        cmocka_unit_test(test_reference__adamw),      cmocka_unit_test(test_reference__sampling_distribution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
