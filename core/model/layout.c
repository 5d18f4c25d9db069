#include "core/model/layout.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

/* The parameters of one layer, in the order of ht_layer_param. */
static const char *const layer_names[HT_LAYER_PARAMS] = {
    "input_layernorm",         "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

/* Appends a parameter to the unit that is being laid out. */
static ht_param *append(ht_layout *layout, int64_t unit, int64_t rows, int64_t cols, int vector) {
    ht_param *param = &layout->params[layout->count++];
    param->rows = rows;
    param->cols = cols;
    param->unit = unit;
    param->offset = layout->unit_size[unit];
    param->vector = vector;
    param->decay = !vector;
    layout->unit_size[unit] += rows * cols;
    return param;
}

static void append_layer(ht_layout *layout, const ht_llama_config *c, int64_t layer) {
    int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const int64_t shapes[HT_LAYER_PARAMS][2] = {{1, c->dim},       {q, c->dim}, {kv, c->dim},
                                                {kv, c->dim},      {c->dim, q}, {1, c->dim},
                                                {c->ffn_dim, c->dim}, {c->ffn_dim, c->dim}, {c->dim, c->ffn_dim}};
    for (int p = 0; p < HT_LAYER_PARAMS; p++) {
        int vector = p == HT_LAYER_INPUT_NORM || p == HT_LAYER_POST_NORM;
        ht_param *param = append(layout, 1 + layer, shapes[p][0], shapes[p][1], vector);
        snprintf(param->name, sizeof param->name, "model.layers.%" PRId64 ".%s.weight", layer, layer_names[p]);
    }
}

ht_status ht_layout_init(ht_layout *layout, const ht_llama_config *config, ht_error *err) {
    memset(layout, 0, sizeof *layout);
    ht_status status = HT_OK;
    HT_TRY(ht_llama_config_check(config, err));
    layout->units = config->n_layers + 2;
    HT_TRY(ht_calloc(&layout->params, (size_t)(config->n_layers * HT_LAYER_PARAMS + 3), sizeof(ht_param), err));
    HT_TRY(ht_calloc(&layout->unit_size, (size_t)layout->units, sizeof(int64_t), err));
    snprintf(append(layout, 0, config->vocab_size, config->dim, 0)->name, sizeof(layout->params->name),
             "model.embed_tokens.weight");
    for (int64_t layer = 0; layer < config->n_layers; layer++)
        append_layer(layout, config, layer);
    int64_t head = layout->units - 1;
    snprintf(append(layout, head, 1, config->dim, 1)->name, sizeof(layout->params->name), "model.norm.weight");
    if (config->head == HT_HEAD_SCALAR)
        snprintf(append(layout, head, 1, config->dim, 0)->name, sizeof(layout->params->name), "score.weight");
    else if (!config->tied)
        snprintf(append(layout, head, config->vocab_size, config->dim, 0)->name, sizeof(layout->params->name),
                 "lm_head.weight");
done:
    if (status) ht_layout_free(layout);
    return status;
}

ht_status ht_layout_init_blocks(ht_layout *layout, const ht_layout *of, int64_t block, ht_error *err) {
    *layout = (ht_layout){.units = of->units};
    ht_status status = HT_OK;
    HT_TRY(ht_calloc(&layout->params, (size_t)of->count, sizeof(ht_param), err));
    HT_TRY(ht_calloc(&layout->unit_size, (size_t)of->units, sizeof(int64_t), err));
    for (int64_t i = 0; i < of->count; i++) {
        const ht_param *param = &of->params[i];
        int64_t blocks = (param->rows * param->cols + block - 1) / block;
        memcpy(append(layout, param->unit, 1, blocks, 1)->name, param->name, sizeof param->name);
    }
done:
    if (status) ht_layout_free(layout);
    return status;
}

void ht_layout_free(ht_layout *layout) {
    free(layout->params);
    free(layout->unit_size);
    memset(layout, 0, sizeof *layout);
}

int64_t ht_layout_embedding(const ht_layout *layout) {
    (void)layout;
    return 0;
}

int64_t ht_layout_layer(const ht_layout *layout, int64_t layer, ht_layer_param p) {
    (void)layout;
    return 1 + layer * HT_LAYER_PARAMS + (int64_t)p;
}

int64_t ht_layout_final_norm(const ht_layout *layout) {
    return 1 + (layout->units - 2) * HT_LAYER_PARAMS;
}

int64_t ht_layout_output(const ht_layout *layout) {
    int64_t index = ht_layout_final_norm(layout) + 1;
    return index < layout->count ? index : -1;
}

ht_status ht_params_init(ht_params *params, const ht_layout *layout, ht_dtype dtype, ht_memory_category category,
                         ht_arena *arena, ht_error *err) {
    *params = (ht_params){.layout = layout, .dtype = dtype};
    ht_status status = HT_OK;
    HT_TRY(ht_calloc(&params->units, (size_t)layout->units, sizeof(void *), err));
    for (int64_t unit = 0; unit < layout->units; unit++)
        HT_TRY(ht_arena_take(arena, category, (size_t)layout->unit_size[unit] * ht_dtype_size(dtype),
                             &params->units[unit], err));
done:
    if (status) ht_params_free(params);
    return status;
}

ht_status ht_params_init_over(ht_params *params, const ht_layout *layout, const ht_params *under,
                              ht_memory_category category, ht_arena *arena, ht_error *err) {
    *params = (ht_params){.layout = layout, .dtype = under->dtype};
    ht_status status = HT_OK;
    HT_TRY(ht_calloc(&params->units, (size_t)layout->units, sizeof(void *), err));
    for (int64_t unit = 0; unit < layout->units; unit++) {
        int64_t size = layout->unit_size[unit];
        if (unit < under->layout->units && size <= under->layout->unit_size[unit])
            params->units[unit] = under->units[unit];
        else
            HT_TRY(ht_arena_take(arena, category, (size_t)size * ht_dtype_size(params->dtype), &params->units[unit], err));
    }
done:
    if (status) ht_params_free(params);
    return status;
}

ht_status ht_params_share(ht_params *params, const ht_params *of, ht_error *err) {
    *params = *of;
    params->units = NULL;
    ht_status status = ht_calloc(&params->units, (size_t)of->layout->units, sizeof(void *), err);
    if (status == HT_OK) memcpy(params->units, of->units, (size_t)of->layout->units * sizeof(void *));
    return status;
}

void ht_params_free(ht_params *params) {
    free(params->units);
    memset(params, 0, sizeof *params);
}

ht_tensor ht_params_tensor(const ht_params *params, int64_t index) {
    return ht_params_span(params, index, params->layout->params[index].rows);
}

ht_tensor ht_params_span(const ht_params *params, int64_t index, int64_t rows) {
    const ht_param *param = &params->layout->params[index];
    char *data = params->units[param->unit];
    return ht_tensor_of(data + (size_t)param->offset * ht_dtype_size(params->dtype), params->dtype, rows, param->cols);
}

ht_status ht_params_zero(ht_backend *be, ht_params *params, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t unit = 0; unit < params->layout->units; unit++)
        HT_TRY(ht_zero(be, params->units[unit], (size_t)params->layout->unit_size[unit] * ht_dtype_size(params->dtype),
                       err));
done:
    return status;
}
