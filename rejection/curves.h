/*
 * curves.h: what sampling fewer would have given: the expected best and the expected median of N of n
 * samples.
 *
 * Exact expectations over all subsets of N drawn without replacement. With the n rewards of a prompt sorted
 * ascending, x_1 <= .. <= x_n, the r-th smallest of a subset of N is x_i with probability
 *   C(i-1, r-1) C(n-i, N-r) / C(n, N).
 * The best is r = N; the median is r = (N+1)/2, for even N the mean of r = N/2 and r = N/2 + 1. Both are
 * linear in the sorted rewards, so a table of weights serves every prompt. The curves are the means over
 * prompts. At N = n they are the best and the median themselves.
 *
 * Source: Llama 2 section 3.2.3, figures 7 and 8 (max and median reward against N, by temperature).
 */
#ifndef HT_REJECTION_CURVES_H
#define HT_REJECTION_CURVES_H

#include <stdint.h>

#include "core/base/error.h"

typedef struct ht_curve {
    int64_t n;                           /* samples a prompt */
    int64_t prompts;                     /* added so far */
    double *best, *median;               /* [n] sums over prompts; entry N - 1 */
    double *best_weight, *median_weight; /* [n, n]: row N - 1 holds the weights of the sorted rewards */
    double *sorted;                      /* [n] */
    double sum;                          /* of all rewards */
} ht_curve;

ht_status ht_curve_init(ht_curve *curve, int64_t n, ht_error *err);
void ht_curve_free(ht_curve *curve); /* of a zeroed one: does nothing */

/* Adds a prompt: rewards [n], finite, in any order. */
void ht_curve_add(ht_curve *curve, const double *rewards);

/* Means over prompts, 1 <= N <= n; NAN when there is no prompt. */
double ht_curve_best(const ht_curve *curve, int64_t N);
double ht_curve_median(const ht_curve *curve, int64_t N);
double ht_curve_mean(const ht_curve *curve); /* of all rewards */

#endif
