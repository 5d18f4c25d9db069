#include <math.h>

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"

/* The constants of one update, in f32. */
typedef struct update {
    float beta1, beta2, eps, scale, keep, rate, correction2;
} update;

static void update_piece(const ht_adamw_run *run, int64_t first, int64_t n, const update *u) {
    float *restrict w = run->w + first, *restrict m = run->m + first, *restrict v = run->v + first;
    float *restrict grad = run->grad + first;
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * u->scale;
        float average = u->beta1 * m[i] + (1.0f - u->beta1) * g;
        float square = u->beta2 * v[i] + (1.0f - u->beta2) * g * g;
        m[i] = average;
        v[i] = square;
        w[i] = w[i] * u->keep - u->rate * average / (sqrtf(square) * u->correction2 + u->eps);
        grad[i] = 0;
    }
    if (run->bf16) ht_to_bf16((uint16_t *)run->bf16 + first, w, n);
}

ht_status HT_CPU(adamw)(ht_backend *be, const ht_adamw_run *run, const ht_adamw_args *args, ht_error *err) {
    (void)err;
    const update u = {
        .beta1 = (float)args->beta1,
        .beta2 = (float)args->beta2,
        .eps = (float)args->eps,
        .scale = (float)args->grad_scale,
        .keep = (float)(1.0 - args->lr * args->decay),
        .rate = (float)(args->lr / (1.0 - pow(args->beta1, (double)args->step))),
        .correction2 = (float)(1.0 / sqrt(1.0 - pow(args->beta2, (double)args->step))),
    };
    int64_t pieces = (run->n + HT_PIECE - 1) / HT_PIECE;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (pieces > 64)
    for (int64_t piece = 0; piece < pieces; piece++)
        update_piece(run, piece * HT_PIECE, ht_piece(run->n, piece * HT_PIECE), &u);
    return HT_OK;
}

/* Fixed blocks, each summed by one thread, then added in order: the same bits for any number of threads. */
ht_status HT_CPU(sum_squares)(ht_backend *be, const float *x, int64_t n, double *sum, ht_error *err) {
    enum { BLOCK = 65536 };
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
    ht_status status = ht_cpu_scratch_all(be, (size_t)blocks * sizeof(double), err);
    if (status) return status;
    double *partial = ht_cpu_scratch(be, 0);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (blocks > 1)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t end = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n;
        double total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = b * BLOCK; i < end; i++)
            total += (double)x[i] * (double)x[i];
        partial[b] = total;
    }
    *sum = 0;
    for (int64_t b = 0; b < blocks; b++)
        *sum += partial[b];
    return HT_OK;
}
