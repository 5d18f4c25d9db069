/*
 * layout.h: the one table of parameters, and sets of tensors laid out by it.
 *
 * A unit (0: embedding, 1 .. n_layers: a layer, n_layers + 1: head) is one contiguous block, the same in weights,
 * gradients and optimizer state: so AdamW is one kernel, clipping one norm, a checkpoint one walk, sharding a cut of
 * each block. In a layer the rows of q, k, v follow each other, and so do those of gate and up: each group is one product.
 */
#ifndef HT_MODEL_LAYOUT_H
#define HT_MODEL_LAYOUT_H

#include <stdint.h>

#include "core/backend/backend.h"
#include "core/base/arena.h"
#include "core/model/config.h"

/* Parameters of a layer, in the order in which they lie in its unit. */
typedef enum ht_layer_param {
    HT_LAYER_INPUT_NORM,
    HT_LAYER_Q,
    HT_LAYER_K,
    HT_LAYER_V,
    HT_LAYER_O,
    HT_LAYER_POST_NORM,
    HT_LAYER_GATE,
    HT_LAYER_UP,
    HT_LAYER_DOWN,
    HT_LAYER_PARAMS
} ht_layer_param;

typedef struct ht_param {
    char name[80];        /* Hugging Face name, e.g. "model.layers.0.self_attn.q_proj.weight" */
    int64_t rows, cols;   /* a norm's gain is [1, dim]; one-dimensional on disk */
    int64_t unit, offset; /* elements from the unit's start */
    int decay;            /* weight decay applies: matrices yes, norms no */
    int vector;           /* one-dimensional on disk */
} ht_param;

typedef struct ht_layout {
    ht_param *params;
    int64_t count;
    int64_t units;
    int64_t *unit_size; /* elements */
} ht_layout;

ht_status ht_layout_init(ht_layout *layout, const ht_llama_config *config, ht_error *err);
void ht_layout_free(ht_layout *layout);

/* Layout of one number for every `block` elements, or fewer at the end, of each parameter of `of`: [1, blocks], same names
 * and units. */
ht_status ht_layout_init_blocks(ht_layout *layout, const ht_layout *of, int64_t block, ht_error *err);

/* Index of a parameter: embedding; parameter p of a layer; final norm; output head (-1 when tied). */
int64_t ht_layout_embedding(const ht_layout *layout);
int64_t ht_layout_layer(const ht_layout *layout, int64_t layer, ht_layer_param p);
int64_t ht_layout_final_norm(const ht_layout *layout);
int64_t ht_layout_output(const ht_layout *layout);

/* One tensor a parameter, laid out by units. */
typedef struct ht_params {
    const ht_layout *layout; /* borrowed */
    ht_dtype dtype;
    void **units; /* [layout->units], memory of the backend, owned by the arena */
} ht_params;

ht_status ht_params_init(ht_params *params, const ht_layout *layout, ht_dtype dtype, ht_memory_category category,
                         ht_arena *arena, ht_error *err);
/* As ht_params_init, in the dtype of `under`; but a unit that fits into the one of its number there lies in that one's memory. */
ht_status ht_params_init_over(ht_params *params, const ht_layout *layout, const ht_params *under,
                              ht_memory_category category, ht_arena *arena, ht_error *err);
/* The same blocks under another table. */
ht_status ht_params_share(ht_params *params, const ht_params *of, ht_error *err);
void ht_params_free(ht_params *params); /* the table only; the arena owns the blocks */
ht_tensor ht_params_tensor(const ht_params *params, int64_t index);
/* `rows` rows from parameter `index` on, spanning parameters of the same width that follow it (q, k, v as one). */
ht_tensor ht_params_span(const ht_params *params, int64_t index, int64_t rows);
ht_status ht_params_zero(ht_backend *be, ht_params *params, ht_error *err);

#endif
