/*
 * small_llama.h: the small Llama of tests that are about something other than its shape; they change what they need otherwise.
 */
#ifndef HT_TESTS_UNIT_SMALL_LLAMA_H
#define HT_TESTS_UNIT_SMALL_LLAMA_H

#include "core/model/llama.h"

static inline ht_llama_config small_llama(int64_t vocab_size, int64_t max_positions) {
    return (ht_llama_config){.vocab_size = vocab_size,
                             .dim = 32,
                             .n_layers = 2,
                             .n_heads = 4,
                             .n_kv_heads = 2,
                             .head_dim = 8,
                             .ffn_dim = 64,
                             .max_positions = max_positions,
                             .norm_eps = 1e-5,
                             .rope_theta = 10000,
                             .bos_id = 1,
                             .eos_id = 2};
}

/* Makes logits wider than a fresh model's, which are all but equal: contexts make a difference, and draws. */
static inline void widen_logits(ht_llama *model) {
    ht_tensor output = ht_params_tensor(&model->weights, ht_layout_output(&model->layout));
    for (int64_t i = 0; i < output.rows * output.cols; i++)
        ((float *)output.data)[i] *= 20;
}

#endif
