#include "tests/op/reference_llama.h"

#include <stdlib.h>
#include <string.h>

void ref_llama_init(ref_llama *m, const ht_llama_config *config, const ht_layout *layout) {
    m->config = *config;
    m->layout = layout;
    m->params = calloc((size_t)layout->count, sizeof *m->params);
    for (int64_t p = 0; p < layout->count; p++) {
        m->params[p] = calloc((size_t)(layout->params[p].rows * layout->params[p].cols), sizeof(double));
    }
}

void ref_llama_free(ref_llama *m) {
    for (int64_t p = 0; p < m->layout->count; p++)
        free(m->params[p]);
    free(m->params);
}

static const double *weight(const ref_llama *m, int64_t layer, ht_layer_param p) {
    return m->params[ht_layout_layer(m->layout, layer, p)];
}

static double *zeros(int64_t n) {
    return calloc((size_t)n, sizeof(double));
}

/* New [T, N] = x [T, K] w^T. */
static double *product(const double *x, const double *w, int64_t T, int64_t N, int64_t K) {
    double *y = zeros(T * N);
    ref_matmul_forward(y, x, w, (ref_product){T, N, K});
    return y;
}

static void add(double *x, double *y, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
    free(y);
}

static double *norm(const ref_llama *m, const double *x, const double *gain, int64_t T) {
    double *y = zeros(T * m->config.dim);
    ref_rms_norm_forward(y, NULL, x, gain, m->config.norm_eps, T, m->config.dim);
    return y;
}

/* x += attention(norm(x)). */
static void attention_block(const ref_llama *m, double *x, int64_t layer, const ref_batch *batch,
                            const int32_t *positions, const double *table) {
    const ht_llama_config *c = &m->config;
    int64_t T = batch->seq_start[batch->sequences], wide = c->n_heads * c->head_dim,
            narrow = c->n_kv_heads * c->head_dim;
    double *h = norm(m, x, weight(m, layer, HT_LAYER_INPUT_NORM), T);
    double *q = product(h, weight(m, layer, HT_LAYER_Q), T, wide, c->dim);
    double *k = product(h, weight(m, layer, HT_LAYER_K), T, narrow, c->dim);
    double *v = product(h, weight(m, layer, HT_LAYER_V), T, narrow, c->dim);
    double *out = zeros(T * wide);
    ref_rope(q, T, c->n_heads, c->head_dim, positions, table, 1);
    ref_rope(k, T, c->n_kv_heads, c->head_dim, positions, table, 1);
    const ref_attention shape = {c->n_heads, c->n_kv_heads, c->head_dim, batch->sequences, batch->seq_start};
    ref_attention_forward(out, NULL, q, k, v, &shape);
    add(x, product(out, weight(m, layer, HT_LAYER_O), T, c->dim, wide), T * c->dim);
    free(out);
    free(v);
    free(k);
    free(q);
    free(h);
}

/* x += down(silu(gate norm(x)) * up norm(x)). */
static void feed_forward_block(const ref_llama *m, double *x, int64_t layer, int64_t T) {
    const ht_llama_config *c = &m->config;
    int64_t F = c->ffn_dim;
    double *h = norm(m, x, weight(m, layer, HT_LAYER_POST_NORM), T);
    double *gate = product(h, weight(m, layer, HT_LAYER_GATE), T, F, c->dim);
    double *up = product(h, weight(m, layer, HT_LAYER_UP), T, F, c->dim);
    double *gate_up = zeros(2 * T * F), *y = zeros(T * F);
    for (int64_t t = 0; t < T; t++) {
        memcpy(gate_up + 2 * t * F, gate + t * F, (size_t)F * sizeof *gate);
        memcpy(gate_up + (2 * t + 1) * F, up + t * F, (size_t)F * sizeof *up);
    }
    ref_swiglu_forward(y, gate_up, T, F);
    add(x, product(y, weight(m, layer, HT_LAYER_DOWN), T, c->dim, F), T * c->dim);
    free(y);
    free(gate_up);
    free(up);
    free(gate);
    free(h);
}

double *ref_llama_hidden(const ref_llama *m, const ref_batch *batch) {
    const ht_llama_config *c = &m->config;
    int64_t T = batch->seq_start[batch->sequences];
    int32_t *positions = calloc((size_t)T, sizeof *positions);
    for (int64_t s = 0; s < batch->sequences; s++) {
        for (int32_t t = batch->seq_start[s]; t < batch->seq_start[s + 1]; t++)
            positions[t] = t - batch->seq_start[s];
    }
    double *table = zeros(c->max_positions * c->head_dim), *x = zeros(T * c->dim);
    ref_rope_table(table, c->max_positions, c->head_dim, c->rope_theta);
    ref_embedding_forward(x, m->params[ht_layout_embedding(m->layout)], batch->tokens, T, c->dim);
    for (int64_t layer = 0; layer < c->n_layers; layer++) {
        attention_block(m, x, layer, batch, positions, table);
        feed_forward_block(m, x, layer, T);
    }
    double *hidden = norm(m, x, m->params[ht_layout_final_norm(m->layout)], T);
    free(x);
    free(table);
    free(positions);
    return hidden;
}

double *ref_llama_logits(const ref_llama *m, const ref_batch *batch) {
    int64_t T = batch->seq_start[batch->sequences], output = ht_layout_output(m->layout);
    double *hidden = ref_llama_hidden(m, batch);
    const double *w = m->params[output >= 0 ? output : ht_layout_embedding(m->layout)];
    double *logits =
        product(hidden, w, T, m->config.head == HT_HEAD_SCALAR ? 1 : m->config.vocab_size, m->config.dim);
    free(hidden);
    return logits;
}
