/*
 * The transformer's packed forward and backward pass.
 *
 * A layer keeps: its input x, the rotated q|k|v, attention's output and log-sum-exp, the sum after attention, gate|up, and
 * two 1/rms vectors. The normalised inputs and the SwiGLU product are cheap and are computed again in the backward pass.
 */
#include "core/model/llama.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/model/activations.h"

/* --- life ------------------------------------------------------------------------------------------------- */

/* Angles as transformers computes them: frequency and product in f32, then cosine and sine. */
static ht_status rope_table(ht_llama *model, ht_arena *arena, ht_error *err) {
    ht_status status = HT_OK;
    int64_t width = model->config.head_dim, half = width / 2, positions = model->config.max_positions;
    float *host = NULL;
    size_t bytes = (size_t)(positions * width) * sizeof(float);
    void *data = NULL;
    HT_TRY(ht_arena_take(arena, HT_MEMORY_WEIGHTS, bytes, &data, err));
    model->rope = ht_tensor_of(data, HT_F32, positions, width);
    if (arena->planning) return HT_OK;
    HT_TRY(ht_calloc(&host, (size_t)(positions * width), sizeof(float), err));
    for (int64_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)width;
        float frequency = 1.0f / (float)pow(model->config.rope_theta, (double)exponent);
        for (int64_t p = 0; p < positions; p++) {
            float angle = (float)p * frequency;
            host[p * width + i] = (float)cos((double)angle);
            host[p * width + half + i] = (float)sin((double)angle);
        }
    }
    HT_TRY(ht_upload(model->be, data, host, bytes, err));
done:
    free(host);
    return status;
}

ht_status ht_llama_init(ht_llama *model, ht_backend *be, ht_arena *arena, const ht_llama_config *config,
                        ht_dtype dtype, ht_error *err) {
    *model = (ht_llama){.be = be, .config = *config};
    ht_status status = HT_OK;
    HT_TRY(ht_layout_init(&model->layout, config, err));
    HT_TRY(ht_params_init(&model->weights, &model->layout, dtype, HT_MEMORY_WEIGHTS, arena, err));
    HT_TRY(rope_table(model, arena, err));
done:
    if (status) ht_llama_free(model);
    return status;
}

void ht_llama_free(ht_llama *model) {
    ht_params_free(&model->weights);
    ht_layout_free(&model->layout);
    memset(model, 0, sizeof *model);
}

/* --- random weights --------------------------------------------------------------------------------------- */

static ht_status randomize_param(ht_llama *model, int64_t index, double deviation, uint64_t seed, ht_error *err) {
    enum { CHUNK = 65536 };
    ht_status status = HT_OK;
    ht_tensor tensor = ht_params_tensor(&model->weights, index);
    int64_t n = tensor.rows * tensor.cols;
    uint64_t stream = ht_rng_stream(HT_RNG_INIT, (uint64_t)index, 0);
    size_t width = ht_dtype_size(tensor.dtype);
    float *values = NULL;
    void *converted = NULL;
    HT_TRY(ht_calloc(&values, CHUNK, sizeof(float), err));
    HT_TRY(ht_calloc(&converted, CHUNK, width, err));
    for (int64_t first = 0; first < n; first += CHUNK) {
        int64_t count = n - first < CHUNK ? n - first : CHUNK;
        for (int64_t i = 0; i < count; i++)
            values[i] = deviation < 0 ? 1.0f : (float)(deviation * ht_rng_normal(seed, stream, (uint64_t)(first + i)));
        ht_convert(converted, tensor.dtype, values, HT_F32, (size_t)count);
        HT_TRY(ht_upload(model->be, (char *)tensor.data + (size_t)first * width, converted, (size_t)count * width, err));
    }
done:
    free(values);
    free(converted);
    return status;
}

ht_status ht_llama_randomize_head(ht_llama *model, uint64_t seed, ht_error *err) {
    if (model->config.head != HT_HEAD_SCALAR)
        return ht_fail(err, HT_ERR_USAGE, "the model has a language-model head, not a scalar one");
    double deviation = 1.0 / ((double)model->config.dim + 1.0);
    return randomize_param(model, ht_layout_output(&model->layout), sqrt(deviation), seed, err);
}

ht_status ht_llama_randomize(ht_llama *model, uint64_t seed, ht_error *err) {
    ht_status status = HT_OK;
    double residual = 0.02 / sqrt(2.0 * (double)model->config.n_layers);
    int64_t output = ht_layout_output(&model->layout);
    for (int64_t index = 0; index < model->layout.count; index++) {
        const ht_param *param = &model->layout.params[index];
        int64_t role = index == 0 || index >= ht_layout_final_norm(&model->layout) ? -1 : (index - 1) % HT_LAYER_PARAMS;
        double deviation = param->vector                                     ? -1 /* gains are 1 */
                           : role == HT_LAYER_O || role == HT_LAYER_DOWN ? residual
                                                                            : 0.02;
        HT_TRY(randomize_param(model, index, deviation, seed, err));
    }
    if (model->config.head == HT_HEAD_SCALAR && output >= 0) HT_TRY(ht_llama_randomize_head(model, seed, err));
done:
    return status;
}

/* --- one layer -------------------------------------------------------------------------------------------- */

static ht_tensor weight(const ht_llama *model, int64_t layer, ht_layer_param p) {
    return ht_params_tensor(&model->weights, ht_layout_layer(&model->layout, layer, p));
}

/* q, k, v as one matrix. */
static ht_tensor qkv_weight(const ht_llama *model, const ht_params *params, int64_t layer) {
    int64_t rows = (model->config.n_heads + 2 * model->config.n_kv_heads) * model->config.head_dim;
    return ht_params_span(params, ht_layout_layer(&model->layout, layer, HT_LAYER_Q), rows);
}

/* gate, up as one matrix. */
static ht_tensor gate_up_weight(const ht_llama *model, const ht_params *params, int64_t layer) {
    return ht_params_span(params, ht_layout_layer(&model->layout, layer, HT_LAYER_GATE), 2 * model->config.ffn_dim);
}

/* q, k and v columns of a [T, (H + 2G) D] matrix. */
static void split_qkv(const ht_llama_config *c, ht_tensor qkv, ht_tensor *q, ht_tensor *k, ht_tensor *v) {
    int64_t wide = c->n_heads * c->head_dim, narrow = c->n_kv_heads * c->head_dim;
    *q = ht_tensor_columns(qkv, 0, wide);
    *k = ht_tensor_columns(qkv, wide, narrow);
    *v = ht_tensor_columns(qkv, wide + narrow, narrow);
}

static ht_attention_shape attention_shape(const ht_llama *model, const ht_activations *a) {
    return (ht_attention_shape){.heads = model->config.n_heads,
                                .kv_heads = model->config.n_kv_heads,
                                .head_dim = model->config.head_dim,
                                .sequences = a->sequences,
                                .seq_start = a->seq_start,
                                .seq_start_host = a->seq_start_host};
}

/* Attention over the cache (decoding) or inside the packed sequences (cache NULL). */
static ht_status attention(const ht_llama *model, ht_activations *a, const ht_layer_activations *l, int64_t layer,
                           const ht_decode_context *decode, ht_error *err) {
    ht_tensor q, k, v;
    split_qkv(&model->config, l->qkv, &q, &k, &v);
    if (decode)
        return ht_attention_cached(model->be, (ht_tensor *)&l->attention, &q, &k, &v, &decode->cache->layers[layer],
                                   &decode->shape, err);
    ht_attention_shape shape = attention_shape(model, a);
    return ht_attention_forward(model->be, (ht_tensor *)&l->attention, l->lse, &q, &k, &v, &shape, err);
}

/* `next` = the layer's output, from its input l.x; fills l. */
static ht_status layer_forward(const ht_llama *model, ht_activations *a, ht_layer_activations *l, int64_t layer,
                               ht_tensor *next, const ht_decode_context *decode, ht_error *err) {
    ht_status status = HT_OK;
    ht_backend *be = model->be;
    const ht_llama_config *c = &model->config;
    float eps = (float)c->norm_eps;
    /* The rows of a decoding batch are strangers to each other: none may change another's bits. */
    ht_status (*product)(ht_backend *, ht_tensor *, const ht_tensor *, const ht_tensor *, const ht_tensor *, ht_error *) =
        decode ? ht_matmul_rows : ht_matmul_forward;
    ht_tensor gain = weight(model, layer, HT_LAYER_INPUT_NORM), w = qkv_weight(model, &model->weights, layer);
    HT_TRY(ht_rms_norm_forward(be, &a->normed, l->rstd_input, &l->x, &gain, eps, err));
    HT_TRY(product(be, &l->qkv, &a->normed, &w, NULL, err));
    ht_tensor q_and_k = ht_tensor_columns(l->qkv, 0, (c->n_heads + c->n_kv_heads) * c->head_dim);
    HT_TRY(ht_rope(be, &q_and_k, c->n_heads + c->n_kv_heads, c->head_dim, a->positions, &model->rope, +1, err));
    HT_TRY(attention(model, a, l, layer, decode, err));
    w = weight(model, layer, HT_LAYER_O);
    HT_TRY(product(be, &l->middle, &l->attention, &w, &l->x, err));
    gain = weight(model, layer, HT_LAYER_POST_NORM);
    w = gate_up_weight(model, &model->weights, layer);
    HT_TRY(ht_rms_norm_forward(be, &a->normed, l->rstd_post, &l->middle, &gain, eps, err));
    HT_TRY(product(be, &l->gate_up, &a->normed, &w, NULL, err));
    HT_TRY(ht_swiglu_forward(be, &a->ffn, &l->gate_up, err));
    w = weight(model, layer, HT_LAYER_DOWN);
    HT_TRY(product(be, next, &a->ffn, &w, &l->middle, err));
done:
    return status;
}

/* a->dhidden is the gradient of the layer's output on entry and of its input on return. */
static ht_status layer_backward(const ht_llama *model, ht_activations *a, ht_layer_activations *l, int64_t layer,
                                ht_params *grads, ht_error *err) {
    ht_status status = HT_OK;
    ht_backend *be = model->be;
    const ht_llama_config *c = &model->config;
    float eps = (float)c->norm_eps;
#define WEIGHT(p) weight(model, layer, p)
#define GRADIENT(p) ht_params_tensor(grads, ht_layout_layer(&model->layout, layer, p))
    /* feed-forward: out = middle + down(silu(gate) up) */
    ht_tensor gain = WEIGHT(HT_LAYER_POST_NORM), dgain = GRADIENT(HT_LAYER_POST_NORM);
    ht_tensor w = WEIGHT(HT_LAYER_DOWN), dw = GRADIENT(HT_LAYER_DOWN);
    HT_TRY(ht_swiglu_forward(be, &a->ffn, &l->gate_up, err));
    HT_TRY(ht_matmul_backward_weight(be, &dw, &a->dhidden, &a->ffn, err));
    HT_TRY(ht_matmul_backward_data(be, &a->ffn, &a->dhidden, &w, err));
    HT_TRY(ht_swiglu_backward(be, &l->gate_up, &a->ffn, &l->gate_up, err));
    HT_TRY(ht_rms_norm_forward(be, &a->normed, l->rstd_post, &l->middle, &gain, eps, err));
    w = gate_up_weight(model, &model->weights, layer);
    dw = gate_up_weight(model, grads, layer);
    HT_TRY(ht_matmul_backward_weight(be, &dw, &l->gate_up, &a->normed, err));
    HT_TRY(ht_matmul_backward_data(be, &a->normed, &l->gate_up, &w, err));
    HT_TRY(ht_rms_norm_backward(be, &a->dhidden, &dgain, &a->normed, &l->middle, l->rstd_post, &gain, err));
    /* attention: middle = x + o(attention(norm(x))) */
    gain = WEIGHT(HT_LAYER_INPUT_NORM), dgain = GRADIENT(HT_LAYER_INPUT_NORM);
    w = WEIGHT(HT_LAYER_O), dw = GRADIENT(HT_LAYER_O);
    HT_TRY(ht_matmul_backward_weight(be, &dw, &a->dhidden, &l->attention, err));
    HT_TRY(ht_matmul_backward_data(be, &a->dattention, &a->dhidden, &w, err));
    ht_tensor q, k, v, dq, dk, dv;
    split_qkv(c, l->qkv, &q, &k, &v);
    split_qkv(c, a->dqkv, &dq, &dk, &dv);
    ht_attention_shape shape = attention_shape(model, a);
    HT_TRY(ht_attention_backward(be,
                                 &(ht_attention_backward_args){.dq = &dq,
                                                               .dk = &dk,
                                                               .dv = &dv,
                                                               .dout = &a->dattention,
                                                               .q = &q,
                                                               .k = &k,
                                                               .v = &v,
                                                               .out = &l->attention,
                                                               .lse = l->lse},
                                 &shape, err));
    ht_tensor dq_and_dk = ht_tensor_columns(a->dqkv, 0, (c->n_heads + c->n_kv_heads) * c->head_dim);
    HT_TRY(ht_rope(be, &dq_and_dk, c->n_heads + c->n_kv_heads, c->head_dim, a->positions, &model->rope, -1, err));
    HT_TRY(ht_rms_norm_forward(be, &a->normed, l->rstd_input, &l->x, &gain, eps, err));
    w = qkv_weight(model, &model->weights, layer);
    dw = qkv_weight(model, grads, layer);
    HT_TRY(ht_matmul_backward_weight(be, &dw, &a->dqkv, &a->normed, err));
    HT_TRY(ht_matmul_backward_data(be, &a->normed, &a->dqkv, &w, err));
    HT_TRY(ht_rms_norm_backward(be, &a->dhidden, &dgain, &a->normed, &l->x, l->rstd_input, &gain, err));
#undef WEIGHT
#undef GRADIENT
done:
    return status;
}

/* --- the whole model -------------------------------------------------------------------------------------- */

ht_status ht_llama_run(const ht_llama *model, ht_activations *a, const ht_decode_context *decode, ht_error *err) {
    ht_status status = HT_OK;
    ht_tensor table = ht_params_tensor(&model->weights, ht_layout_embedding(&model->layout));
    ht_tensor gain = ht_params_tensor(&model->weights, ht_layout_final_norm(&model->layout));
    ht_layer_activations l = ht_activations_layer(a, 0);
    HT_TRY(ht_embedding_forward(model->be, &l.x, &table, a->tokens, err));
    for (int64_t layer = 0; layer < model->config.n_layers; layer++) {
        l = ht_activations_layer(a, layer);
        ht_tensor next = ht_activations_layer_input(a, layer + 1);
        HT_TRY(layer_forward(model, a, &l, layer, &next, decode, err));
    }
    ht_tensor last = ht_activations_layer_input(a, model->config.n_layers);
    HT_TRY(ht_rms_norm_forward(model->be, &a->hidden, a->rstd_final, &last, &gain, (float)model->config.norm_eps, err));
done:
    return status;
}

ht_status ht_llama_forward(const ht_llama *model, ht_activations *a, const ht_batch *batch, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t s = 0; s < batch->n_sequences; s++) {
        int64_t length = batch->seq_start[s + 1] - batch->seq_start[s];
        if (length > model->config.max_positions)
            return ht_fail(err, HT_ERR_DATA, "sequence %" PRId64 " has %" PRId64 " tokens, above the model's %" PRId64, s,
                           length, model->config.max_positions);
    }
    HT_TRY(ht_activations_load(a, model, batch->tokens, batch->seq_start, NULL, batch->n_sequences, err));
    HT_TRY(ht_llama_run(model, a, NULL, err));
done:
    return status;
}

ht_status ht_llama_backward(const ht_llama *model, ht_activations *a, ht_params *grads, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_activations_check_keep(a, err));
    if (!a->has_gradient) return ht_fail(err, HT_ERR_USAGE, "backward: no head has written a gradient");
    a->has_gradient = 0;
    ht_backend *be = model->be;
    int64_t final = ht_layout_final_norm(&model->layout);
    ht_tensor gain = ht_params_tensor(&model->weights, final), dgain = ht_params_tensor(grads, final);
    ht_tensor last = ht_activations_layer_input(a, model->config.n_layers);
    /* dhidden (of the normed states) -> gradient of the last layer's output */
    HT_TRY(ht_copy(be, &a->normed, &a->dhidden, err));
    HT_TRY(ht_zero(be, a->dhidden.data, (size_t)(a->dhidden.rows * a->dhidden.stride) * ht_dtype_size(a->dhidden.dtype),
                   err));
    HT_TRY(ht_rms_norm_backward(be, &a->dhidden, &dgain, &a->normed, &last, a->rstd_final, &gain, err));
    for (int64_t layer = model->config.n_layers - 1; layer >= 0; layer--) {
        ht_layer_activations l = ht_activations_layer(a, layer);
        if (a->keep == HT_KEEP_RECOMPUTE) HT_TRY(layer_forward(model, a, &l, layer, &a->discard, NULL, err));
        HT_TRY(layer_backward(model, a, &l, layer, grads, err));
    }
    ht_tensor dtable = ht_params_tensor(grads, ht_layout_embedding(&model->layout));
    HT_TRY(ht_embedding_backward(be, &dtable, &a->dhidden, a->tokens, err));
done:
    return status;
}
