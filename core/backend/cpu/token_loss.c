/*
 * Log-probability, entropy and the gradient of a token loss, row by row.  Contract: backend.h.
 */
#include <math.h>
#include <omp.h>

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/exp.h"
#include "core/backend/cpu/rows.h"

/* d loss / d logp of one row. */
static float coefficient(const ht_token_loss *loss, int64_t row, float logp) {
    float weight = loss->weight[row];
    if (loss->kind == HT_TOKEN_LOSS_NLL) return -weight;
    float ratio = expf(logp - loss->old_logp[row]), advantage = loss->advantage[row];
    /* min(r A, clip(r) A) is flat where the clipped term is the smaller one. */
    int flat = advantage > 0 ? ratio > 1.0f + loss->clip : ratio < 1.0f - loss->clip;
    return flat ? 0.0f : -weight * ratio * advantage;
}

static float row_max(const float *x, int64_t n) {
    float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* What a row's softmax comes to: weights[i] = e^(x[i] - largest), their sum, and that of weights[i] (x[i] - largest). */
typedef struct softmax {
    float *weights; /* [n] scratch; NULL: not kept */
    float largest, mass, weighted;
} softmax;

static void row_softmax(softmax *s, const float *x, int64_t n) {
    float largest = row_max(x, n), total = 0, product = 0, *restrict weights = s->weights;
#define SUM(KEEP)                                                                                             \
    for (int64_t i = 0; i < n; i++) {                                                                         \
        float shifted = x[i] - largest, e = ht_expf(shifted);                                                 \
        total += e;                                                                                           \
        product += e > 0 ? e * shifted : 0;                                                                   \
        KEEP;                                                                                                 \
    }
    if (weights) {
#pragma omp simd reduction(+ : total, product)
        SUM(weights[i] = e)
    } else {
#pragma omp simd reduction(+ : total, product)
        SUM()
    }
#undef SUM
    s->largest = largest;
    s->mass = total;
    s->weighted = product;
}

/* dlogits of one row: scale softmax, and c at the target. */
static void row_gradient(ht_tensor *dlogits, int64_t r, int32_t target, const softmax *s, float c) {
    float buffer[HT_PIECE], scale = -c / s->mass;
    for (int64_t col = 0, n; col < dlogits->cols; col += n) {
        n = ht_piece(dlogits->cols, col);
        float *restrict dx = ht_target(dlogits, r, col, buffer);
        const float *restrict weights = s->weights + col;
        for (int64_t i = 0; i < n; i++)
            dx[i] = scale * weights[i];
        if (target >= col && target < col + n) dx[target - col] += c;
        ht_written(dlogits, r, col, n, dx);
    }
}

ht_status HT_CPU(token_loss_forward)(ht_backend *be, const ht_tensor *logits, ht_tensor *dlogits,
                                     const int32_t *targets, float *logp, float *entropy, const ht_token_loss *loss,
                                     ht_error *err) {
    int64_t vocab = logits->cols;
    int with_loss = loss->kind != HT_TOKEN_LOSS_NONE;
    ht_status status = with_loss ? ht_cpu_scratch_all(be, (size_t)vocab * sizeof(float), err) : HT_OK;
    if (status) return status;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (logits->rows * vocab > 16384)
    for (int64_t r = 0; r < logits->rows; r++) {
        const float *x = ht_row(logits, r);
        softmax s = {.weights = with_loss ? ht_cpu_scratch(be, omp_get_thread_num()) : NULL};
        row_softmax(&s, x, vocab);
        float log_mass = logf(s.mass);
        logp[r] = x[targets[r]] - s.largest - log_mass;
        if (entropy) entropy[r] = log_mass - s.weighted / s.mass; /* -sum p log p */
        if (with_loss) row_gradient(dlogits, r, targets[r], &s, coefficient(loss, r, logp[r]));
    }
    return HT_OK;
}
