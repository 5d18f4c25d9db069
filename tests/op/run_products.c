/* Runners of the products; see harness.h. A wrong product loses the last term of its sums: the odd tail. */
#include <math.h>
#include <stdlib.h>

#include "tests/op/cases.h"
#include "tests/op/harness.h"
#include "tests/op/reference.h"

/* Which operand is which: a product is out (+)= sum over `terms` of a, b. */
typedef struct product_run {
    double *x, *w, *dy;
    ht_tensor tx, tw, tdy;
    ref_product shape;
    ht_accumulate accumulate;
} product_run;

static product_run prepare(op_run *run, int64_t index) {
    const op_product_case *c = &op_product_cases[index];
    product_run p = {.shape = {c->M, c->N, c->K}, .accumulate = c->accumulate};
    p.x = op_normal(run, run->dtype, c->M * c->K, 1);
    p.w = op_normal(run, run->dtype, c->N * c->K, 1);
    p.dy = op_normal(run, run->dtype, c->M * c->N, 1);
    p.tx = op_tensor(run, run->dtype, c->M, c->K, p.x);
    p.tw = op_tensor(run, run->dtype, c->N, c->K, p.w);
    p.tdy = op_tensor(run, run->dtype, c->M, c->N, p.dy);
    return p;
}

static void finish(product_run *p) {
    free(p->x);
    free(p->w);
    free(p->dy);
}

static void lose_last_column(double *x, int64_t rows, int64_t cols) {
    for (int64_t r = 0; r < rows; r++)
        x[r * cols + cols - 1] = 0;
}

/* The output before the product: something to add to, or NaN to be overwritten. */
static ht_tensor output(op_run *run, const product_run *p, ht_dtype dtype, int64_t rows, int64_t cols,
                        double **expected) {
    *expected =
        p->accumulate == HT_ACCUMULATE ? op_normal(run, dtype, rows * cols, 1) : op_zeros(rows * cols);
    return op_tensor(run, dtype, rows, cols, p->accumulate == HT_ACCUMULATE ? *expected : NULL);
}

void run_matmul_forward(op_run *run, int64_t index) {
    product_run p = prepare(run, index);
    double *y;
    ht_tensor ty = output(run, &p, run->dtype, p.shape.M, p.shape.N, &y);
    op_check(run, ht_matmul_forward(run->be, &ty, &p.tx, &p.tw, p.accumulate, &run->err));
    if (run->wrong) lose_last_column(p.x, p.shape.M, p.shape.K);
    ref_matmul_forward(y, p.x, p.w, p.shape);
    /* bf16: one rounding of the product, one of the sum with what was there. */
    op_output_tensor(run, "y", &ty, y, (op_tolerance){SUM_ROUNDINGS(p.shape.K), op_bf16(run, 2), 0});
    finish(&p);
}

void run_matmul_backward_data(op_run *run, int64_t index) {
    product_run p = prepare(run, index);
    double *dx;
    ht_tensor tdx = output(run, &p, run->dtype, p.shape.M, p.shape.K, &dx);
    op_check(run, ht_matmul_backward_data(run->be, &tdx, &p.tdy, &p.tw, p.accumulate, &run->err));
    if (run->wrong) lose_last_column(p.dy, p.shape.M, p.shape.N);
    ref_matmul_backward_data(dx, p.dy, p.w, p.shape);
    op_output_tensor(run, "dx", &tdx, dx, (op_tolerance){SUM_ROUNDINGS(p.shape.N), op_bf16(run, 2), 0});
    finish(&p);
}

void run_matmul_backward_weight(op_run *run, int64_t index) {
    product_run p = prepare(run, index);
    double *dw;
    p.accumulate = HT_ACCUMULATE; /* always */
    ht_tensor tdw = output(run, &p, HT_F32, p.shape.N, p.shape.K, &dw);
    op_check(run, ht_matmul_backward_weight(run->be, &tdw, &p.tdy, &p.tx, &run->err));
    p.shape.M -= run->wrong;
    ref_matmul_backward_weight(dw, p.dy, p.x, p.shape);
    op_output_tensor(run, "dw", &tdw, dw, (op_tolerance){SUM_ROUNDINGS(p.shape.M), 0, 0});
    finish(&p);
}
