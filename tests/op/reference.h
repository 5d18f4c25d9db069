/*
 * reference.h: every operation of core/backend/backend.h in scalar f64, one loop nest a formula.
 *
 * It is slow and obvious on purpose: a backend is compared with it, and it is itself checked by finite
 * differences (test_reference.c). All matrices are contiguous and row-major; names and shapes are
 * backend.h's.
 */
#ifndef HT_TESTS_OP_REFERENCE_H
#define HT_TESTS_OP_REFERENCE_H

#include <stdint.h>

#include "core/backend/backend.h"

void ref_embedding_forward(double *y, const double *table, const int32_t *ids, int64_t T, int64_t dim);
void ref_embedding_backward(double *dtable, const double *dy, const int32_t *ids, int64_t T, int64_t dim);

void ref_rms_norm_forward(double *y, double *rstd, const double *x, const double *gain, double eps, int64_t T,
                          int64_t dim);
/* dx and dgain are added to. */
void ref_rms_norm_backward(double *dx, double *dgain, const double *dy, const double *x, const double *gain,
                           double eps, int64_t T, int64_t dim);

typedef struct ref_product {
    int64_t M, N, K;
} ref_product;
/* y += x w^T; dx += dy w; dw += dy^T x: zero the output for HT_OVERWRITE. */
void ref_matmul_forward(double *y, const double *x, const double *w, ref_product shape);
void ref_matmul_backward_data(double *dx, const double *dy, const double *w, ref_product shape);
void ref_matmul_backward_weight(double *dw, const double *dy, const double *x, ref_product shape);

/* table [positions, D] as in backend.h: cosines, then sines. */
void ref_rope_table(double *table, int64_t positions, int64_t head_dim, double theta);
void ref_rope(double *x, int64_t T, int64_t heads, int64_t head_dim, const int32_t *positions,
              const double *table, int direction);

typedef struct ref_attention {
    int64_t heads, kv_heads, head_dim, sequences;
    const int32_t *seq_start;
} ref_attention;
/* lse may be NULL. */
void ref_attention_forward(double *out, double *lse, const double *q, const double *k, const double *v,
                           const ref_attention *shape);
/* dq, dk, dv are overwritten. */
void ref_attention_backward(double *dq, double *dk, double *dv, const double *dout, const double *q,
                            const double *k, const double *v, const ref_attention *shape);

void ref_swiglu_forward(double *y, const double *gu, int64_t T, int64_t F);
void ref_swiglu_backward(double *dgu, const double *dy, const double *gu, int64_t T, int64_t F);

/* Softmax, then the log-probability of the target, then its entropy: three plain steps. entropy may be NULL.
 */
void ref_token_logp(double *logp, double *entropy, const double *logits, const int32_t *targets, int64_t R,
                    int64_t V);

/* One row's loss as a function of its log-probability, and its derivative. */
typedef struct ref_row_loss {
    ht_token_loss_kind kind;
    double weight, old_logp, advantage, clip;
} ref_row_loss;
double ref_row_loss_value(const ref_row_loss *loss, double logp);
double ref_row_loss_slope(const ref_row_loss *loss, double logp);
/* dlogits [V] of one row. */
void ref_row_loss_backward(double *dlogits, const double *logits, int32_t target, int64_t V,
                           const ref_row_loss *loss);

void ref_adamw(double *w, double *m, double *v, const double *grad, int64_t n, const ht_adamw_args *args);

/*
 * Stochastic rounding. `numbers` [count] are a format's numbers that are not negative, ascending: x goes to the neighbour
 * below or above in magnitude; above where its place between them, in [0, 1), and `draw`, too, add up to one.
 */
double ref_round(double x, const double *numbers, int64_t count, double draw);
/* The numbers of the formats: 0 to the largest; new memory, free(). m and v of 8-bit state: relative to their scale. */
double *ref_numbers_bf16(int64_t *count);
double *ref_numbers_m(int64_t *count);
double *ref_numbers_v(int64_t *count);

double ref_sum_squares(const double *x, int64_t n);

/*
 * The distribution that ht_sample draws from, for temperature > 0: p [V]. margin [V] out, may be NULL:
 * distance of each token from the boundaries of the filters, in logits (top-k) or mass (top-p), so that a
 * test can tell a rounding from a fault.
 */
void ref_sampling_distribution(double *p, double *margin, const double *logits, int64_t V,
                               const ht_sampling *setting);

#endif
