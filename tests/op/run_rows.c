/* Runners of the row-wise operations; see harness.h. */
#include <math.h>
#include <stdlib.h>

#include "tests/op/cases.h"
#include "tests/op/harness.h"
#include "tests/op/reference.h"

/* Every third case converts. */
void run_copy(op_run *run, int64_t index) {
    const op_matrix_case *c = &op_matrix_cases[index];
    ht_dtype to = index % 3 == 2 ? HT_F32 + HT_BF16 - run->dtype : run->dtype;
    double *x = op_normal(run, run->dtype, c->rows * c->cols, 1);
    ht_tensor tx = op_tensor(run, run->dtype, c->rows, c->cols, x);
    ht_tensor ty = op_tensor(run, to, c->rows, c->cols, NULL);
    op_check(run, ht_copy(run->be, &ty, &tx, &run->err));
    if (run->wrong) x[c->rows * c->cols - 1] = 0; /* the tail is lost */
    op_output_tensor(run, "y", &ty, x, (op_tolerance){.bf16_roundings = to == HT_BF16 && run->dtype == HT_F32 ? 1 : 0});
}

void run_embedding_forward(op_run *run, int64_t index) {
    const op_embedding_case *c = &op_embedding_cases[index];
    double *table = op_normal(run, run->dtype, c->vocab * c->dim, 1);
    int32_t *ids = op_integers(run, c->tokens, c->vocab);
    ht_tensor ttable = op_tensor(run, run->dtype, c->vocab, c->dim, table);
    ht_tensor ty = op_tensor(run, run->dtype, c->tokens, c->dim, NULL);
    op_check(run, ht_embedding_forward(run->be, &ty, &ttable, op_ids(run, ids, c->tokens), &run->err));
    if (run->wrong) ids[0] = (int32_t)((ids[0] + 1) % c->vocab);
    double *y = op_zeros(c->tokens * c->dim);
    ref_embedding_forward(y, table, ids, c->tokens, c->dim);
    op_output_tensor(run, "y", &ty, y, (op_tolerance){0});
    free(ids);
    free(table);
}

void run_embedding_backward(op_run *run, int64_t index) {
    const op_embedding_case *c = &op_embedding_cases[index];
    double *dtable = op_normal(run, HT_F32, c->vocab * c->dim, 1);
    double *dy = op_normal(run, run->dtype, c->tokens * c->dim, 1);
    int32_t *ids = op_integers(run, c->tokens, c->vocab);
    ht_tensor tdtable = op_tensor(run, HT_F32, c->vocab, c->dim, dtable);
    ht_tensor tdy = op_tensor(run, run->dtype, c->tokens, c->dim, dy);
    op_check(run, ht_embedding_backward(run->be, &tdtable, &tdy, op_ids(run, ids, c->tokens), &run->err));
    /* The last token is lost. */
    ref_embedding_backward(dtable, dy, ids, c->tokens - run->wrong, c->dim);
    op_output_tensor(run, "dtable", &tdtable, dtable,
                     (op_tolerance){.f32_roundings = SUM_ROUNDINGS(c->tokens)});
    free(ids);
    free(dy);
}

/* Two eps: Llama 2's, and one large beside the data, so that leaving it out shows. */
static double eps_of(int64_t index) {
    return index % 3 == 0 ? 0.25 : 1e-5;
}

void run_rms_norm_forward(op_run *run, int64_t index) {
    const op_matrix_case *c = &op_matrix_cases[index];
    int64_t n = c->rows * c->cols;
    double *x = op_normal(run, run->dtype, n, 1), *gain = op_normal(run, run->dtype, c->cols, 1);
    double *y = op_zeros(n), *rstd = op_zeros(c->rows);
    ht_tensor tx = op_tensor(run, run->dtype, c->rows, c->cols, x);
    ht_tensor tgain = op_tensor(run, run->dtype, 1, c->cols, gain);
    /* y may alias x. */
    ht_tensor ty = index % 2 ? tx : op_tensor(run, run->dtype, c->rows, c->cols, NULL);
    float *trstd = op_floats(run, c->rows, NULL);
    op_check(run, ht_rms_norm_forward(run->be, &ty, trstd, &tx, &tgain, (float)eps_of(index), &run->err));
    if (run->wrong) x[n - 1] = 0;
    ref_rms_norm_forward(y, rstd, x, gain, (double)(float)eps_of(index), c->rows, c->cols);
    double sum = SUM_ROUNDINGS(c->cols);
    /* bf16: the product with the gain, and Llama rounds x * rstd before it. */
    op_output_tensor(run, "y", &ty, y, (op_tolerance){sum, op_bf16(run, 2), 0});
    op_output_floats(run, "rstd", trstd, c->rows, 1, rstd, (op_tolerance){.f32_roundings = sum});
    free(gain);
    free(x);
}

void run_rms_norm_backward(op_run *run, int64_t index) {
    const op_matrix_case *c = &op_matrix_cases[index];
    int64_t n = c->rows * c->cols;
    double *x = op_normal(run, run->dtype, n, 1), *gain = op_normal(run, run->dtype, c->cols, 1);
    double *dy = op_normal(run, run->dtype, n, 1), *dx = op_normal(run, run->dtype, n, 1);
    double *dgain = op_normal(run, HT_F32, c->cols, 1);
    double *y = op_zeros(n), *rstd = op_zeros(c->rows);
    ref_rms_norm_forward(y, rstd, x, gain, eps_of(index), c->rows, c->cols);

    ht_tensor tx = op_tensor(run, run->dtype, c->rows, c->cols, x);
    ht_tensor tdy = op_tensor(run, run->dtype, c->rows, c->cols, dy);
    ht_tensor tdx = op_tensor(run, run->dtype, c->rows, c->cols, dx);
    ht_tensor tgain = op_tensor(run, run->dtype, 1, c->cols, gain);
    ht_tensor tdgain = op_tensor(run, HT_F32, 1, c->cols, dgain);
    ht_tensor *wanted = index % 4 == 3 ? NULL : &tdgain;
    float *trstd = op_floats(run, c->rows, rstd);
    op_check(run, ht_rms_norm_backward(run->be, &tdx, wanted, &tdy, &tx, trstd, &tgain, &run->err));

    if (run->wrong) dy[n - 1] = 0;
    ref_rms_norm_backward(dx, wanted ? dgain : NULL, dy, x, gain, eps_of(index), c->rows, c->cols);
    /* Terms of dx are of size |gain| |dy| rstd, up to a dozen: they cancel when rows are short. */
    op_output_tensor(run, "dx", &tdx, dx, (op_tolerance){SUM_ROUNDINGS(c->cols), op_bf16(run, 1), 1});
    op_output_tensor(run, "dgain", &tdgain, dgain, (op_tolerance){SUM_ROUNDINGS(c->rows), 0, 1});
    free(rstd);
    free(y);
    free(dy);
    free(gain);
    free(x);
}

void run_rope(op_run *run, int64_t index) {
    const op_rope_case *c = &op_rope_cases[index];
    enum { POSITIONS = 4096 };
    int direction = index % 2 ? -1 : 1;
    double *table = op_zeros(POSITIONS * c->head_dim);
    double *x = op_normal(run, run->dtype, c->tokens * c->heads * c->head_dim, 1);
    int32_t *positions = op_integers(run, c->tokens, POSITIONS);
    positions[0] = POSITIONS - 1;
    ref_rope_table(table, POSITIONS, c->head_dim, 10000);
    int strided = run->strided;
    run->strided = 0;
    ht_tensor ttable = op_tensor(run, HT_F32, POSITIONS, c->head_dim, table);
    run->strided = strided;
    ht_tensor tx = op_tensor(run, run->dtype, c->tokens, c->heads * c->head_dim, x);
    op_check(run, ht_rope(run->be, &tx, c->heads, c->head_dim, op_ids(run, positions, c->tokens), &ttable,
                          direction, &run->err));
    ref_rope(x, c->tokens, c->heads, c->head_dim, positions, table, run->wrong ? -direction : direction);
    op_output_tensor(run, "x", &tx, x, (op_tolerance){8, op_bf16(run, 1), 0});
    free(positions);
    free(table);
}

/* g and u trade places: silu(u) * g. */
static void swap_halves(double *gu, int64_t rows, int64_t F) {
    for (int64_t i = 0; i < rows * F; i++) {
        double *g = gu + i / F * 2 * F + i % F, keep = g[0];
        g[0] = g[F];
        g[F] = keep;
    }
}

void run_swiglu_forward(op_run *run, int64_t index) {
    const op_matrix_case *c = &op_matrix_cases[index];
    double *gu = op_normal(run, run->dtype, 2 * c->rows * c->cols, 3), *y = op_zeros(c->rows * c->cols);
    ht_tensor tgu = op_tensor(run, run->dtype, c->rows, 2 * c->cols, gu);
    ht_tensor ty = op_tensor(run, run->dtype, c->rows, c->cols, NULL);
    op_check(run, ht_swiglu_forward(run->be, &ty, &tgu, &run->err));
    if (run->wrong) swap_halves(gu, c->rows, c->cols);
    ref_swiglu_forward(y, gu, c->rows, c->cols);
    op_output_tensor(run, "y", &ty, y, (op_tolerance){32, op_bf16(run, 2), 0});
    free(gu);
}

void run_swiglu_backward(op_run *run, int64_t index) {
    const op_matrix_case *c = &op_matrix_cases[index];
    double *gu = op_normal(run, run->dtype, 2 * c->rows * c->cols, 3);
    double *dy = op_normal(run, run->dtype, c->rows * c->cols, 1), *dgu = op_zeros(2 * c->rows * c->cols);
    ht_tensor tgu = op_tensor(run, run->dtype, c->rows, 2 * c->cols, gu);
    ht_tensor tdy = op_tensor(run, run->dtype, c->rows, c->cols, dy);
    /* dgu may alias gu. */
    ht_tensor tdgu = index % 2 ? tgu : op_tensor(run, run->dtype, c->rows, 2 * c->cols, NULL);
    op_check(run, ht_swiglu_backward(run->be, &tdgu, &tdy, &tgu, &run->err));
    if (run->wrong) swap_halves(gu, c->rows, c->cols);
    ref_swiglu_backward(dgu, dy, gu, c->rows, c->cols);
    op_output_tensor(run, "dgu", &tdgu, dgu, (op_tolerance){32, op_bf16(run, 2), 0});
    free(dy);
    free(gu);
}

/* Every third row of `total`, backwards: distinct, and in no order an operation could count on. */
static int32_t *some_rows(int64_t total, int64_t *count) {
    int32_t *rows = calloc((size_t)total, sizeof *rows);
    *count = 0;
    for (int64_t r = total - 1; r >= 0; r -= 3)
        rows[(*count)++] = (int32_t)r;
    return rows;
}

void run_gather_rows(op_run *run, int64_t index) {
    const op_matrix_case *c = &op_matrix_cases[index];
    int64_t R;
    int32_t *rows = some_rows(c->rows, &R);
    double *x = op_normal(run, run->dtype, c->rows * c->cols, 1), *y = op_zeros(R * c->cols);
    ht_tensor tx = op_tensor(run, run->dtype, c->rows, c->cols, x);
    ht_tensor ty = op_tensor(run, run->dtype, R, c->cols, NULL);
    op_check(run, ht_gather_rows(run->be, &ty, &tx, op_ids(run, rows, R), &run->err));
    if (run->wrong) rows[0] = (int32_t)((rows[0] + 1) % c->rows);
    ref_embedding_forward(y, x, rows, R, c->cols);
    op_output_tensor(run, "y", &ty, y, (op_tolerance){0});
    free(x);
    free(rows);
}

void run_scatter_rows(op_run *run, int64_t index) {
    const op_matrix_case *c = &op_matrix_cases[index];
    int64_t R;
    int32_t *rows = some_rows(c->rows, &R);
    double *dx = op_normal(run, run->dtype, c->rows * c->cols, 1);
    double *dy = op_normal(run, run->dtype, R * c->cols, 1);
    ht_tensor tdx = op_tensor(run, run->dtype, c->rows, c->cols, dx);
    ht_tensor tdy = op_tensor(run, run->dtype, R, c->cols, dy);
    op_check(run, ht_scatter_rows(run->be, &tdx, &tdy, op_ids(run, rows, R), &run->err));
    /* The last row is lost. */
    ref_embedding_backward(dx, dy, rows, R - run->wrong, c->cols);
    op_output_tensor(run, "dx", &tdx, dx, (op_tolerance){2, op_bf16(run, 1), 0});
    free(dy);
    free(rows);
}
