/*
 * Log-probability, entropy and the gradient of a token loss, row by row.  Contract: backend.h.
 */
#include <math.h>

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

/* Sums of e^(x - largest), and of e^(x - largest) (x - largest). */
static void row_sums(const float *x, int64_t n, float largest, float *mass, float *weighted) {
    float total = 0, product = 0;
#pragma omp simd reduction(+ : total, product)
    for (int64_t i = 0; i < n; i++) {
        float shifted = x[i] - largest, e = ht_expf(shifted);
        total += e;
        product += e > 0 ? e * shifted : 0;
    }
    *mass = total;
    *weighted = product;
}

/* dlogits of one row: scale softmax, and c at the target. */
static void row_gradient(ht_tensor *dlogits, const ht_tensor *logits, int64_t r, int32_t target, float largest,
                         float mass, float c) {
    float buffer[HT_PIECE], scale = -c / mass;
    for (int64_t col = 0, n; col < logits->cols; col += n) {
        n = ht_piece(logits->cols, col);
        const float *x = ht_row(logits, r) + col;
        float *dx = ht_target(dlogits, r, col, buffer);
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dx[i] = scale * ht_expf(x[i] - largest);
        if (target >= col && target < col + n) dx[target - col] += c;
        ht_written(dlogits, r, col, n, dx);
    }
}

ht_status HT_CPU(token_loss_forward)(ht_backend *be, const ht_tensor *logits, ht_tensor *dlogits,
                                     const int32_t *targets, float *logp, float *entropy, const ht_token_loss *loss,
                                     ht_error *err) {
    (void)err;
    int64_t vocab = logits->cols;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (logits->rows * vocab > 16384)
    for (int64_t r = 0; r < logits->rows; r++) {
        const float *x = ht_row(logits, r);
        float mass, weighted, largest = row_max(x, vocab);
        row_sums(x, vocab, largest, &mass, &weighted);
        float log_mass = logf(mass);
        logp[r] = x[targets[r]] - largest - log_mass;
        if (entropy) entropy[r] = log_mass - weighted / mass; /* -sum p log p */
        if (loss->kind == HT_TOKEN_LOSS_NONE) continue;
        row_gradient(dlogits, logits, r, targets[r], largest, mass, coefficient(loss, r, logp[r]));
    }
    return HT_OK;
}
