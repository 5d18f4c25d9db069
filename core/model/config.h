/*
 * config.h: the shape of a Llama.
 */
#ifndef HT_MODEL_CONFIG_H
#define HT_MODEL_CONFIG_H

#include <stdint.h>

#include "core/base/error.h"

typedef enum ht_head {
    HT_HEAD_LM,    /* LlamaForCausalLM: logits over the vocabulary */
    HT_HEAD_SCALAR /* LlamaForSequenceClassification, one label, no bias: rewards and values */
} ht_head;

/* Fields carry Hugging Face's meaning (config.json). */
typedef struct ht_llama_config {
    int64_t vocab_size, dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim;
    int64_t max_positions;
    double norm_eps, rope_theta;
    int32_t bos_id, eos_id;
    int tied; /* lm_head shares the embedding */
    ht_head head;
} ht_llama_config;

/* Limits every number of a config that comes from outside; HT_ERR_DATA with field, value and what is allowed. */
ht_status ht_llama_config_check(const ht_llama_config *config, ht_error *err);

/* Number of parameters, embeddings and head included. */
int64_t ht_llama_parameter_count(const ht_llama_config *config);

#endif
