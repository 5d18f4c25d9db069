#include <math.h>

#include "core/backend/cpu/cpu.h"

ht_status ht_cpu_adamw(ht_backend *be, float *restrict w, float *restrict m, float *restrict v,
                       const float *restrict grad, int64_t n, const ht_adamw_args *args, ht_error *err) {
    (void)err;
    float beta1 = (float)args->beta1, beta2 = (float)args->beta2, eps = (float)args->eps;
    float scale = (float)args->grad_scale, keep = (float)(1.0 - args->lr * args->decay);
    float correction2 = (float)(1.0 / sqrt(1.0 - pow(args->beta2, (double)args->step)));
    float rate = (float)(args->lr / (1.0 - pow(args->beta1, (double)args->step)));
#pragma omp parallel for simd schedule(static) num_threads(be->threads) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * scale;
        float first = beta1 * m[i] + (1.0f - beta1) * g;
        float second = beta2 * v[i] + (1.0f - beta2) * g * g;
        m[i] = first;
        v[i] = second;
        w[i] = w[i] * keep - rate * first / (sqrtf(second) * correction2 + eps);
    }
    return HT_OK;
}

/* Fixed blocks, each summed by one thread, then added in order: the same bits for any number of threads. */
ht_status ht_cpu_sum_squares(ht_backend *be, const float *x, int64_t n, double *sum, ht_error *err) {
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
