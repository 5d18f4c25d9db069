/* Runners of the products; see harness.h. A wrong product loses the last term of its sums: the odd tail. */
#include <math.h>
#include <stdlib.h>

#include "tests/op/cases.h"
#include "tests/op/harness.h"
#include "tests/op/reference.h"

typedef struct product_run {
    double *x, *w, *dy;
    ht_tensor tx, tw, tdy;
    ref_product shape;
} product_run;

static product_run prepare(op_run *run, int64_t index) {
    const op_product_case *c = &op_product_cases[index];
    product_run p = {.shape = {c->M, c->N, c->K}};
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

typedef ht_status (*forward_product)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *,
                                     ht_error *);

/* Every third output is f32 whatever the dtype. */
static void run_forward(op_run *run, int64_t index, forward_product product) {
    product_run p = prepare(run, index);
    int64_t M = p.shape.M, N = p.shape.N;
    op_add add = op_product_cases[index].add;
    ht_dtype out = index % 3 == 2 ? HT_F32 : run->dtype;
    double *y = add == ADD_NOTHING ? op_zeros(M * N) : op_normal(run, out, M * N, 1);
    ht_tensor ty = op_tensor(run, out, M, N, add == ADD_SELF ? y : NULL), other = ty;
    if (add == ADD_OTHER) other = op_tensor(run, out, M, N, y);
    op_check(run, product(run->be, &ty, &p.tx, &p.tw, add == ADD_NOTHING ? NULL : &other, &run->err));
    if (run->wrong) lose_last_column(p.x, M, p.shape.K);
    ref_matmul_forward(y, p.x, p.w, p.shape);
    /* bf16: one rounding of the sum; some of oneDNN's kernels round the product before they add. */
    op_output_tensor(run, "y", &ty, y,
                     (op_tolerance){SUM_ROUNDINGS(p.shape.K), out == HT_BF16 ? add == ADD_NOTHING ? 1 : 2 : 0, 0});
    finish(&p);
}

void run_matmul_forward(op_run *run, int64_t index) {
    run_forward(run, index, ht_matmul_forward);
}

void run_matmul_rows(op_run *run, int64_t index) {
    run_forward(run, index, ht_matmul_rows);
}

void run_matmul_backward_data(op_run *run, int64_t index) {
    product_run p = prepare(run, index);
    double *dx = op_zeros(p.shape.M * p.shape.K);
    ht_tensor tdx = op_tensor(run, run->dtype, p.shape.M, p.shape.K, NULL);
    op_check(run, ht_matmul_backward_data(run->be, &tdx, &p.tdy, &p.tw, &run->err));
    if (run->wrong) lose_last_column(p.dy, p.shape.M, p.shape.N);
    ref_matmul_backward_data(dx, p.dy, p.w, p.shape);
    op_output_tensor(run, "dx", &tdx, dx, (op_tolerance){SUM_ROUNDINGS(p.shape.N), op_bf16(run, 1), 0});
    finish(&p);
}

void run_matmul_backward_weight(op_run *run, int64_t index) {
    product_run p = prepare(run, index);
    double *dw = op_normal(run, HT_F32, p.shape.N * p.shape.K, 1);
    ht_tensor tdw = op_tensor(run, HT_F32, p.shape.N, p.shape.K, dw);
    op_check(run, ht_matmul_backward_weight(run->be, &tdw, &p.tdy, &p.tx, &run->err));
    p.shape.M -= run->wrong;
    ref_matmul_backward_weight(dw, p.dy, p.x, p.shape);
    op_output_tensor(run, "dw", &tdw, dw, (op_tolerance){SUM_ROUNDINGS(p.shape.M), 0, 0});
    finish(&p);
}
