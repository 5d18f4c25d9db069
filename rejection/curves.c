#include "rejection/curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

static double log_choose(int64_t n, int64_t k) {
    int sign;
    return lgamma_r((double)n + 1, &sign) - lgamma_r((double)k + 1, &sign) -
           lgamma_r((double)(n - k) + 1, &sign);
}

/* Adds `share` times the probabilities that sorted reward i is the r-th smallest of N of n. */
static void add_order(double *weights, int64_t n, int64_t N, int64_t r, double share) {
    for (int64_t i = r; i <= n - N + r; i++)
        weights[i - 1] += share * exp(log_choose(i - 1, r - 1) + log_choose(n - i, N - r) - log_choose(n, N));
}

ht_status ht_curve_init(ht_curve *curve, int64_t n, ht_error *err) {
    ht_status status = HT_OK;
    size_t count = (size_t)n;
    memset(curve, 0, sizeof *curve);
    curve->n = n;
    HT_TRY(ht_calloc(&curve->best, count, sizeof(double), err));
    HT_TRY(ht_calloc(&curve->median, count, sizeof(double), err));
    HT_TRY(ht_calloc(&curve->sorted, count, sizeof(double), err));
    HT_TRY(ht_calloc(&curve->best_weight, count * count, sizeof(double), err));
    HT_TRY(ht_calloc(&curve->median_weight, count * count, sizeof(double), err));
    for (int64_t N = 1; N <= n; N++) {
        double *median = curve->median_weight + (N - 1) * n;
        add_order(curve->best_weight + (N - 1) * n, n, N, N, 1);
        add_order(median, n, N, (N + 1) / 2, 0.5);
        add_order(median, n, N, N / 2 + 1, 0.5);
    }
done:
    if (status != HT_OK) ht_curve_free(curve);
    return status;
}

void ht_curve_free(ht_curve *curve) {
    free(curve->best);
    free(curve->median);
    free(curve->sorted);
    free(curve->best_weight);
    free(curve->median_weight);
    memset(curve, 0, sizeof *curve);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double dot(const double *x, const double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

void ht_curve_add(ht_curve *curve, const double *rewards) {
    int64_t n = curve->n;
    memcpy(curve->sorted, rewards, (size_t)n * sizeof *rewards);
    qsort(curve->sorted, (size_t)n, sizeof(double), ascending);
    for (int64_t N = 1; N <= n; N++) {
        curve->best[N - 1] += dot(curve->best_weight + (N - 1) * n, curve->sorted, n);
        curve->median[N - 1] += dot(curve->median_weight + (N - 1) * n, curve->sorted, n);
    }
    for (int64_t i = 0; i < n; i++)
        curve->sum += curve->sorted[i];
    curve->prompts++;
}

double ht_curve_best(const ht_curve *curve, int64_t N) {
    return curve->prompts ? curve->best[N - 1] / (double)curve->prompts : NAN;
}

double ht_curve_median(const ht_curve *curve, int64_t N) {
    return curve->prompts ? curve->median[N - 1] / (double)curve->prompts : NAN;
}

double ht_curve_mean(const ht_curve *curve) {
    return curve->prompts ? curve->sum / (double)(curve->prompts * curve->n) : NAN;
}
