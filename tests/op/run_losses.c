/* Runners of the token losses and the optimizer; see harness.h. */
#include <math.h>
#include <stdlib.h>

#include "tests/op/cases.h"
#include "tests/op/harness.h"
#include "tests/op/reference.h"

/*
 * The operation is fused; the reference goes softmax, log-probability, loss of it, chain rule, step by step.
 * Rows of the clipped loss take every branch: ratios below, inside and above the interval, both signs of the
 * advantage.
 */
static void clip_inputs(ref_row_loss *rows, const double *logp, int64_t R) {
    static const double ratios[] = {0.5, 0.95, 1.0, 1.15, 2.0};
    for (int64_t r = 0; r < R; r++) {
        rows[r].clip = (double)0.2f;
        rows[r].old_logp = (double)(float)(logp[r] - log(ratios[r % 5]));
        rows[r].advantage = (double)(float)((r / 5) % 2 ? -0.75 - 0.01 * (double)r : 1.25 + 0.01 * (double)r);
    }
}

typedef struct loss_arrays {
    double *weight, *old_logp, *advantage;
} loss_arrays;

static loss_arrays arrays_of(const ref_row_loss *rows, int64_t R) {
    loss_arrays a = {op_zeros(R), op_zeros(R), op_zeros(R)};
    for (int64_t r = 0; r < R; r++) {
        a.weight[r] = rows[r].weight;
        a.old_logp[r] = rows[r].old_logp;
        a.advantage[r] = rows[r].advantage;
    }
    return a;
}

void run_token_loss(op_run *run, int64_t index) {
    const op_loss_case *c = &op_loss_cases[index];
    int64_t R = c->rows, V = c->vocab;
    double *logits = op_normal(run, HT_F32, R * V, c->deviation);
    int32_t *targets = op_integers(run, R, V);
    targets[0] = (int32_t)V - 1;
    double *logp = op_zeros(R), *entropy = op_zeros(R);
    ref_token_logp(logp, entropy, logits, targets, R, V);
    ref_row_loss *rows = calloc((size_t)R, sizeof *rows);
    clip_inputs(rows, logp, R);
    for (int64_t r = 0; r < R; r++) {
        rows[r].kind = c->kind;
        rows[r].weight = r % 4 == 3 ? 0 : (double)(float)(0.3 + 0.1 * (double)r);
    }
    loss_arrays arrays = arrays_of(rows, R);

    int with_loss = c->kind != HT_TOKEN_LOSS_NONE;
    /* The gradient goes to its own place, or over the logits. */
    ht_tensor tlogits = op_tensor(run, HT_F32, R, V, logits), tdlogits = tlogits;
    if (run->dtype != HT_F32 || index % 2) tdlogits = op_tensor(run, run->dtype, R, V, NULL);
    float *tlogp = op_floats(run, R, NULL), *tentropy = op_floats(run, R, NULL);
    const ht_token_loss loss = {.kind = c->kind,
                                .weight = op_floats(run, R, arrays.weight),
                                .old_logp = op_floats(run, R, arrays.old_logp),
                                .advantage = op_floats(run, R, arrays.advantage),
                                .clip = 0.2f};
    op_check(run, ht_token_loss_forward(run->be, &tlogits, with_loss ? &tdlogits : NULL, op_ids(run, targets, R),
                                        tlogp, tentropy, &loss, &run->err));

    if (run->wrong) { /* the last token of the vocabulary is lost */
        for (int64_t r = 0; r < R; r++)
            logits[r * V + V - 1] = -1e4;
        ref_token_logp(logp, entropy, logits, targets, R, V);
    }
    /* A logit of size x carries x * 2^-24 into its exponential; 6 deviations bound x. The sum has V terms. */
    double n = SUM_ROUNDINGS(V) + 16 * (1 + 6 * c->deviation);
    op_output_floats(run, "logp", tlogp, R, 1, logp, (op_tolerance){n, 0, 1});
    op_output_floats(run, "entropy", tentropy, R, 1, entropy, (op_tolerance){n, 0, 1});
    if (with_loss) {
        double *dlogits = op_zeros(R * V);
        for (int64_t r = 0; r < R; r++)
            ref_row_loss_backward(dlogits + r * V, logits + r * V, targets[r], V, &rows[r]);
        op_output_tensor(run, "dlogits", &tdlogits, dlogits, (op_tolerance){n, op_bf16(run, 1), 0});
    }
    free(arrays.advantage);
    free(arrays.old_logp);
    free(arrays.weight);
    free(rows);
    free(targets);
    free(logits);
}

/* A parameter's moments as their state keeps them, drawn so that they are exact there, and their values. */
typedef struct moment {
    void *data;   /* backend */
    float *scale; /* backend; NULL without blocks */
    double *value;
    int64_t n;
    ht_adamw_state state;
    int is_v;
} moment;

static int64_t block_count(int64_t n) {
    return (n + HT_ADAMW_BLOCK - 1) / HT_ADAMW_BLOCK;
}

static double *numbers_of(const moment *x, int64_t *count) {
    return x->is_v ? ref_numbers_v(count) : ref_numbers_m(count);
}

static void read_codes(const moment *x, const uint8_t *codes, const float *scales, double *values) {
    int64_t count;
    double *numbers = numbers_of(x, &count);
    for (int64_t i = 0; i < x->n; i++) {
        double value = numbers[codes[i] % count] * (double)scales[i / HT_ADAMW_BLOCK];
        values[i] = codes[i] >= count ? -value : value;
    }
    free(numbers);
}

static void draw_codes(op_run *run, moment *x) {
    uint8_t *codes = calloc((size_t)x->n, 1);
    float *scales = calloc((size_t)block_count(x->n), sizeof *scales);
    double *wide = op_zeros(block_count(x->n));
    int32_t *drawn = op_integers(run, x->n, 256), *exponents = op_integers(run, block_count(x->n), 8);
    for (int64_t i = 0; i < x->n; i++)
        codes[i] = (uint8_t)drawn[i];
    for (int64_t b = 0; b < block_count(x->n); b++)
        wide[b] = scales[b] = (float)ldexp(1, -exponents[b] - (x->is_v ? 6 : 3));
    x->value = op_zeros(x->n);
    read_codes(x, codes, scales, x->value);
    x->scale = op_floats(run, block_count(x->n), wide);
    x->data = op_bytes(run, codes, x->n);
    free(exponents);
    free(drawn);
    free(wide);
    free(scales);
    free(codes);
}

static moment draw_moment(op_run *run, ht_adamw_state state, int64_t n, int is_v) {
    moment x = {.n = n, .state = state, .is_v = is_v};
    if (state == HT_ADAMW_8BIT) {
        draw_codes(run, &x);
        return x;
    }
    x.value = op_normal(run, HT_BF16, n, 0.1); /* bf16's numbers are f32's too */
    for (int64_t i = 0; i < n && is_v; i++)
        x.value[i] = fabs(x.value[i]) * 0.125;
    x.data = op_vector(run, state == HT_ADAMW_BF16 ? HT_BF16 : HT_F32, n, x.value);
    return x;
}

/* Records what the operation has left of a moment beside what it should be. */
static void output_moment(op_run *run, const char *name, const moment *x, op_tolerance tolerance) {
    if (x->state != HT_ADAMW_8BIT) {
        op_output_vector(run, name, x->data, x->state == HT_ADAMW_BF16 ? HT_BF16 : HT_F32, x->n, x->value, tolerance);
        return;
    }
    uint8_t *codes = calloc((size_t)x->n, 1);
    float *scales = calloc((size_t)block_count(x->n), sizeof *scales);
    double *actual = op_zeros(x->n);
    op_check(run, ht_download(run->be, codes, x->data, (size_t)x->n, &run->err));
    op_check(run, ht_download(run->be, scales, x->scale, (size_t)block_count(x->n) * sizeof *scales, &run->err));
    read_codes(x, codes, scales, actual);
    op_output_host(run, name, actual, x->n, x->value, tolerance);
    free(actual);
    free(scales);
    free(codes);
}

/* Roundings of a bf16 number: stochastic ones go a whole step, 2^-7. Of 8 bits: 2^-3, which is 32 times 2^-8. */
static op_tolerance kept(ht_adamw_state state, double f32_roundings) {
    static const double steps[] = {0, 2, 32};
    return (op_tolerance){f32_roundings, steps[state], 0};
}

void run_adamw(op_run *run, int64_t index) {
    const op_adamw_case *c = &op_adamw_cases[index];
    int halved = run->dtype == HT_BF16 && c->state == HT_ADAMW_F32;
    ht_dtype dtype = run->dtype;
    double *w = op_normal(run, dtype, c->n, 0.02), *grad = op_normal(run, HT_F32, c->n, 1);
    moment m = draw_moment(run, c->state, c->n, 0), v = draw_moment(run, c->state, c->n, 1);
    ht_adamw_args args = {
        .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .grad_scale = 0.37, .step = c->step};
    args.decay = index % 2 ? 0 : 0.1;
    double *none = op_zeros(c->n);
    void *tw = op_vector(run, dtype, c->n, w), *low = halved ? op_vector(run, HT_BF16, c->n, none) : NULL;
    float *tgrad = op_floats(run, c->n, grad);
    const ht_adamw_run update = {.state = c->state, .dtype = dtype, .w = tw, .low = low, .m = m.data, .v = v.data,
                                 .m_scale = m.scale, .v_scale = v.scale, .grad = tgrad, .n = c->n,
                                 .seed = run->seed, .stream = (uint64_t)index};
    op_check(run, ht_adamw(run->be, &update, &args, &run->err));
    if (run->wrong) args.step++; /* a bias correction one step off */
    ref_adamw(w, m.value, v.value, grad, c->n, &args);
    /* A handful of operations, and 1 - beta in f32 has lost up to four bits to cancellation. */
    op_output_vector(run, "w", tw, dtype, c->n, w, (op_tolerance){16, dtype == HT_F32 ? 0 : halved ? 1 : 2, 0});
    output_moment(run, "m", &m, kept(c->state, 32));
    output_moment(run, "v", &v, kept(c->state, 64));
    op_output_floats(run, "grad", tgrad, 1, c->n, op_zeros(c->n), (op_tolerance){0});
    free(none);
    free(grad);
}

void run_sum_squares(op_run *run, int64_t index) {
    int64_t n = op_vector_cases[index].n;
    double *x = op_normal(run, HT_F32, n, 1), sum = -1, *expected = op_zeros(1);
    op_check(run, ht_sum_squares(run->be, op_floats(run, n, x), n, &sum, &run->err));
    expected[0] = ref_sum_squares(x, n - run->wrong);
    /* f64 all the way: 2^-53 a term at worst is 2^-29 of an f32 rounding. */
    op_output_host(run, "sum", &sum, 1, expected, (op_tolerance){.f32_roundings = (double)n * 0x1p-29});
    free(x);
}
