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

void run_adamw(op_run *run, int64_t index) {
    const op_vector_case *c = &op_vector_cases[index];
    double *w = op_normal(run, HT_F32, c->n, 0.02), *m = op_normal(run, HT_F32, c->n, 0.1);
    double *v = op_normal(run, HT_F32, c->n, 0.1), *grad = op_normal(run, HT_F32, c->n, 1);
    for (int64_t i = 0; i < c->n; i++)
        v[i] = (double)(float)(v[i] * v[i]);
    ht_adamw_args args = {
        .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .grad_scale = 0.37, .step = c->step};
    args.decay = index % 2 ? 0 : 0.1;
    float *tw = op_floats(run, c->n, w), *tm = op_floats(run, c->n, m), *tv = op_floats(run, c->n, v);
    float *tgrad = op_floats(run, c->n, grad);
    ht_tensor rounded = op_tensor(run, HT_BF16, 1, c->n, NULL);
    op_check(run,
             ht_adamw(run->be,
                      &(ht_adamw_run){
                          .w = tw, .bf16 = index % 2 ? rounded.data : NULL, .m = tm, .v = tv, .grad = tgrad, .n = c->n},
                      &args, &run->err));
    if (run->wrong) args.step++; /* a bias correction one step off */
    ref_adamw(w, m, v, grad, c->n, &args);
    /* A handful of operations, and 1 - beta in f32 has lost up to four bits to cancellation. */
    if (index % 2) op_output_tensor(run, "bf16", &rounded, op_duplicate(w, c->n), (op_tolerance){16, 1, 0});
    op_output_floats(run, "w", tw, 1, c->n, w, (op_tolerance){16, 0, 0});
    op_output_floats(run, "m", tm, 1, c->n, m, (op_tolerance){32, 0, 0});
    op_output_floats(run, "v", tv, 1, c->n, v, (op_tolerance){64, 0, 0});
    op_output_floats(run, "grad", tgrad, 1, c->n, op_zeros(c->n), (op_tolerance){0});
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
