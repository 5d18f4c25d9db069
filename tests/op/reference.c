#include "tests/op/reference.h"

#include <math.h>
#include <stdlib.h>

void ref_embedding_forward(double *y, const double *table, const int32_t *ids, int64_t T, int64_t dim) {
    for (int64_t t = 0; t < T; t++) {
        for (int64_t i = 0; i < dim; i++)
            y[t * dim + i] = table[ids[t] * dim + i];
    }
}

void ref_embedding_backward(double *dtable, const double *dy, const int32_t *ids, int64_t T, int64_t dim) {
    for (int64_t t = 0; t < T; t++) {
        for (int64_t i = 0; i < dim; i++)
            dtable[ids[t] * dim + i] += dy[t * dim + i];
    }
}

static double row_rstd(const double *x, double eps, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++)
        sum += x[i] * x[i];
    return 1 / sqrt(sum / (double)dim + eps);
}

void ref_rms_norm_forward(double *y, double *rstd, const double *x, const double *gain, double eps, int64_t T,
                          int64_t dim) {
    for (int64_t t = 0; t < T; t++) {
        double r = row_rstd(x + t * dim, eps, dim);
        if (rstd) rstd[t] = r;
        for (int64_t i = 0; i < dim; i++)
            y[t * dim + i] = x[t * dim + i] * r * gain[i];
    }
}

void ref_rms_norm_backward(double *dx, double *dgain, const double *dy, const double *x, const double *gain,
                           double eps, int64_t T, int64_t dim) {
    for (int64_t t = 0; t < T; t++) {
        const double *xt = x + t * dim, *dyt = dy + t * dim;
        double r = row_rstd(xt, eps, dim);
        double mean = 0;
        for (int64_t i = 0; i < dim; i++)
            mean += gain[i] * dyt[i] * xt[i] * r;
        mean /= (double)dim;
        for (int64_t i = 0; i < dim; i++) {
            double xhat = xt[i] * r;
            dx[t * dim + i] += r * (gain[i] * dyt[i] - xhat * mean);
            if (dgain) dgain[i] += dyt[i] * xhat;
        }
    }
}

void ref_matmul_forward(double *y, const double *x, const double *w, ref_product s) {
    for (int64_t m = 0; m < s.M; m++) {
        for (int64_t n = 0; n < s.N; n++) {
            double sum = 0;
            for (int64_t k = 0; k < s.K; k++)
                sum += x[m * s.K + k] * w[n * s.K + k];
            y[m * s.N + n] += sum;
        }
    }
}

void ref_matmul_backward_data(double *dx, const double *dy, const double *w, ref_product s) {
    for (int64_t m = 0; m < s.M; m++) {
        for (int64_t n = 0; n < s.N; n++) {
            for (int64_t k = 0; k < s.K; k++)
                dx[m * s.K + k] += dy[m * s.N + n] * w[n * s.K + k];
        }
    }
}

void ref_matmul_backward_weight(double *dw, const double *dy, const double *x, ref_product s) {
    for (int64_t m = 0; m < s.M; m++) {
        for (int64_t n = 0; n < s.N; n++) {
            for (int64_t k = 0; k < s.K; k++)
                dw[n * s.K + k] += dy[m * s.N + n] * x[m * s.K + k];
        }
    }
}

void ref_rope_table(double *table, int64_t positions, int64_t head_dim, double theta) {
    int64_t half = head_dim / 2;
    for (int64_t p = 0; p < positions; p++) {
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)p * pow(theta, -2.0 * (double)i / (double)head_dim);
            table[p * head_dim + i] = cos(angle);
            table[p * head_dim + half + i] = sin(angle);
        }
    }
}

void ref_rope(double *x, int64_t T, int64_t heads, int64_t head_dim, const int32_t *positions,
              const double *table, int direction) {
    int64_t half = head_dim / 2;
    for (int64_t t = 0; t < T; t++) {
        const double *cosine = table + positions[t] * head_dim, *sine = cosine + half;
        for (int64_t h = 0; h < heads; h++) {
            double *a = x + (t * heads + h) * head_dim, *b = a + half;
            for (int64_t i = 0; i < half; i++) {
                double s = direction * sine[i], u = a[i], v = b[i];
                a[i] = u * cosine[i] - v * s;
                b[i] = v * cosine[i] + u * s;
            }
        }
    }
}

/* p[j] = softmax over keys first .. t of the scaled scores of row t, head h; returns the log-sum-exp. */
static double attention_row(double *p, const double *q, const double *k, const ref_attention *s,
                            int64_t first, int64_t t, int64_t h) {
    int64_t D = s->head_dim, g = h / (s->heads / s->kv_heads);
    double top = -INFINITY, sum = 0;
    for (int64_t j = first; j <= t; j++) {
        double score = 0;
        for (int64_t i = 0; i < D; i++)
            score += q[(t * s->heads + h) * D + i] * k[(j * s->kv_heads + g) * D + i];
        p[j - first] = score / sqrt((double)D);
        top = fmax(top, p[j - first]);
    }
    for (int64_t j = 0; j <= t - first; j++)
        sum += exp(p[j] - top);
    for (int64_t j = 0; j <= t - first; j++)
        p[j] = exp(p[j] - top) / sum;
    return top + log(sum);
}

void ref_attention_forward(double *out, double *lse, const double *q, const double *k, const double *v,
                           const ref_attention *s) {
    int64_t D = s->head_dim, T = s->seq_start[s->sequences];
    double *p = calloc((size_t)T, sizeof *p);
    for (int64_t n = 0; n < s->sequences; n++) {
        int64_t first = s->seq_start[n];
        for (int64_t t = first; t < s->seq_start[n + 1]; t++) {
            for (int64_t h = 0; h < s->heads; h++) {
                int64_t g = h / (s->heads / s->kv_heads);
                double l = attention_row(p, q, k, s, first, t, h);
                if (lse) lse[t * s->heads + h] = l;
                for (int64_t i = 0; i < D; i++) {
                    double sum = 0;
                    for (int64_t j = first; j <= t; j++)
                        sum += p[j - first] * v[(j * s->kv_heads + g) * D + i];
                    out[(t * s->heads + h) * D + i] = sum;
                }
            }
        }
    }
    free(p);
}

void ref_attention_backward(double *dq, double *dk, double *dv, const double *dout, const double *q,
                            const double *k, const double *v, const ref_attention *s) {
    int64_t D = s->head_dim, T = s->seq_start[s->sequences];
    double *p = calloc((size_t)T, sizeof *p), *dp = calloc((size_t)T, sizeof *dp);
    for (int64_t i = 0; i < T * s->heads * D; i++)
        dq[i] = 0;
    for (int64_t i = 0; i < T * s->kv_heads * D; i++)
        dk[i] = dv[i] = 0;
    for (int64_t n = 0; n < s->sequences; n++) {
        int64_t first = s->seq_start[n];
        for (int64_t t = first; t < s->seq_start[n + 1]; t++) {
            for (int64_t h = 0; h < s->heads; h++) {
                int64_t g = h / (s->heads / s->kv_heads), row = (t * s->heads + h) * D;
                double mean = 0; /* of dp under p: the softmax's own term */
                attention_row(p, q, k, s, first, t, h);
                for (int64_t j = first; j <= t; j++) {
                    dp[j - first] = 0;
                    for (int64_t i = 0; i < D; i++) {
                        dp[j - first] += dout[row + i] * v[(j * s->kv_heads + g) * D + i];
                        dv[(j * s->kv_heads + g) * D + i] += p[j - first] * dout[row + i];
                    }
                    mean += p[j - first] * dp[j - first];
                }
                for (int64_t j = first; j <= t; j++) {
                    double ds = p[j - first] * (dp[j - first] - mean) / sqrt((double)D);
                    for (int64_t i = 0; i < D; i++) {
                        dq[row + i] += ds * k[(j * s->kv_heads + g) * D + i];
                        dk[(j * s->kv_heads + g) * D + i] += ds * q[row + i];
                    }
                }
            }
        }
    }
    free(dp);
    free(p);
}

void ref_swiglu_forward(double *y, const double *gu, int64_t T, int64_t F) {
    for (int64_t t = 0; t < T; t++) {
        for (int64_t i = 0; i < F; i++) {
            double g = gu[t * 2 * F + i], u = gu[t * 2 * F + F + i];
            y[t * F + i] = g / (1 + exp(-g)) * u;
        }
    }
}

void ref_swiglu_backward(double *dgu, const double *dy, const double *gu, int64_t T, int64_t F) {
    for (int64_t t = 0; t < T; t++) {
        for (int64_t i = 0; i < F; i++) {
            double g = gu[t * 2 * F + i], u = gu[t * 2 * F + F + i], d = dy[t * F + i];
            double sigmoid = 1 / (1 + exp(-g));
            dgu[t * 2 * F + i] = d * u * sigmoid * (1 + g * (1 - sigmoid));
            dgu[t * 2 * F + F + i] = d * g * sigmoid;
        }
    }
}

static double log_sum_exp(const double *x, int64_t n) {
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    return top + log(sum);
}

void ref_token_logp(double *logp, double *entropy, const double *logits, const int32_t *targets, int64_t R,
                    int64_t V) {
    for (int64_t r = 0; r < R; r++) {
        const double *row = logits + r * V;
        double lse = log_sum_exp(row, V);
        logp[r] = row[targets[r]] - lse;
        if (!entropy) continue;
        entropy[r] = 0;
        for (int64_t i = 0; i < V; i++) {
            double l = row[i] - lse;
            if (exp(l) > 0) entropy[r] -= exp(l) * l;
        }
    }
}

double ref_row_loss_value(const ref_row_loss *loss, double logp) {
    if (loss->kind == HT_TOKEN_LOSS_NONE) return 0;
    if (loss->kind == HT_TOKEN_LOSS_NLL) return -loss->weight * logp;
    double ratio = exp(logp - loss->old_logp);
    double clipped = fmin(fmax(ratio, 1 - loss->clip), 1 + loss->clip);
    return -loss->weight * fmin(ratio * loss->advantage, clipped * loss->advantage);
}

double ref_row_loss_slope(const ref_row_loss *loss, double logp) {
    if (loss->kind == HT_TOKEN_LOSS_NONE) return 0;
    if (loss->kind == HT_TOKEN_LOSS_NLL) return -loss->weight;
    double ratio = exp(logp - loss->old_logp);
    /* The smaller of the two is the constant one only outside the interval, on the side the advantage pulls
     * to. */
    int cut = loss->advantage > 0 ? ratio > 1 + loss->clip : ratio < 1 - loss->clip;
    return cut ? 0 : -loss->weight * ratio * loss->advantage;
}

void ref_row_loss_backward(double *dlogits, const double *logits, int32_t target, int64_t V,
                           const ref_row_loss *loss) {
    double lse = log_sum_exp(logits, V);
    double slope = ref_row_loss_slope(loss, logits[target] - lse);
    for (int64_t i = 0; i < V; i++)
        dlogits[i] = slope * ((i == target ? 1 : 0) - exp(logits[i] - lse));
}

void ref_adamw(double *w, double *m, double *v, const double *grad, int64_t n, const ht_adamw_args *a) {
    for (int64_t i = 0; i < n; i++) {
        double g = grad[i] * a->grad_scale;
        m[i] = a->beta1 * m[i] + (1 - a->beta1) * g;
        v[i] = a->beta2 * v[i] + (1 - a->beta2) * g * g;
        double mhat = m[i] / (1 - pow(a->beta1, (double)a->step));
        double vhat = v[i] / (1 - pow(a->beta2, (double)a->step));
        w[i] = w[i] * (1 - a->lr * a->decay) - a->lr * mhat / (sqrt(vhat) + a->eps);
    }
}

double ref_round(double x, const double *numbers, int64_t count, double draw) {
    double magnitude = fabs(x);
    int64_t low = 0, high = count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (numbers[middle] <= magnitude)
            low = middle;
        else
            high = middle;
    }
    double place = low + 1 < count ? (magnitude - numbers[low]) / (numbers[low + 1] - numbers[low]) : 0;
    double rounded = numbers[low + (place + draw >= 1)];
    return x < 0 ? -rounded : rounded;
}

/* The first numbers of a small float: subnormal ones below exponent 1. */
static double *small_floats(int mantissa_bits, int bias, int64_t count) {
    double *numbers = calloc((size_t)count, sizeof *numbers);
    int steps = 1 << mantissa_bits;
    for (int64_t i = 0; i < count; i++) {
        int exponent = (int)(i / steps), mantissa = (int)(i % steps);
        numbers[i] = ldexp(exponent ? steps + mantissa : mantissa, (exponent ? exponent : 1) - bias - mantissa_bits);
    }
    return numbers;
}

double *ref_numbers_bf16(int64_t *count) {
    return small_floats(7, 127, *count = 0x7f80);
}

double *ref_numbers_m(int64_t *count) {
    return small_floats(3, 15, *count = 128);
}

double *ref_numbers_v(int64_t *count) {
    return small_floats(3, 31, *count = 256);
}

double ref_sum_squares(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

typedef struct ranked {
    double logit;
    int64_t id;
} ranked;

static int by_logit(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

void ref_sampling_distribution(double *p, double *margin, const double *logits, int64_t V,
                               const ht_sampling *setting) {
    ranked *order = calloc((size_t)V, sizeof *order);
    for (int64_t i = 0; i < V; i++)
        order[i] = (ranked){logits[i] / (double)setting->temperature, i};
    qsort(order, (size_t)V, sizeof *order, by_logit);
    int64_t k = setting->top_k > 0 && setting->top_k < V ? setting->top_k : V;
    double total = 0, before = 0, kept = 0;
    for (int64_t r = 0; r < k; r++)
        total += exp(order[r].logit - order[0].logit);
    for (int64_t r = 0; r < V; r++) {
        double mass = r < k ? exp(order[r].logit - order[0].logit) / total : 0;
        double edge = INFINITY;
        if (k < V) edge = r < k ? order[r].logit - order[k].logit : order[k - 1].logit - order[r].logit;
        /* A token stays when the mass before it is short of top_p: the one that crosses is the last. */
        if (setting->top_p < 1 && r < k) edge = fmin(edge, fabs(before - (double)setting->top_p));
        int keep = r < k && (setting->top_p >= 1 || before < (double)setting->top_p);
        p[order[r].id] = keep ? mass : 0;
        kept += keep ? mass : 0;
        if (margin) margin[order[r].id] = edge;
        before += mass;
    }
    for (int64_t i = 0; i < V; i++)
        p[i] /= kept;
    free(order);
}
