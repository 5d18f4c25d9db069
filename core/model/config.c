#include "core/model/config.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>

/* One row an integer field: name in config.json, offset, smallest and largest allowed value. The limits keep every
 * product of two sizes far below 2^63. */
static const struct {
    const char *name;
    size_t offset;
    int64_t min, max;
} limits[] = {
    {"vocab_size", offsetof(ht_llama_config, vocab_size), 2, 1 << 24},
    {"hidden_size", offsetof(ht_llama_config, dim), 2, 1 << 20},
    {"num_hidden_layers", offsetof(ht_llama_config, n_layers), 1, 4096},
    {"num_attention_heads", offsetof(ht_llama_config, n_heads), 1, 4096},
    {"num_key_value_heads", offsetof(ht_llama_config, n_kv_heads), 1, 4096},
    {"head_dim", offsetof(ht_llama_config, head_dim), 2, 4096},
    {"intermediate_size", offsetof(ht_llama_config, ffn_dim), 1, 1 << 22},
    {"max_position_embeddings", offsetof(ht_llama_config, max_positions), 1, 1 << 24},
};

static int64_t field(const ht_llama_config *config, size_t offset) {
    return *(const int64_t *)(const void *)((const char *)config + offset);
}

ht_status ht_llama_config_check(const ht_llama_config *config, ht_error *err) {
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        int64_t value = field(config, limits[i].offset);
        if (value < limits[i].min || value > limits[i].max)
            return ht_fail(err, HT_ERR_DATA, "%s = %" PRId64 " is not in %" PRId64 " to %" PRId64, limits[i].name,
                           value, limits[i].min, limits[i].max);
    }
    if (config->n_heads % config->n_kv_heads)
        return ht_fail(err, HT_ERR_DATA,
                       "num_attention_heads = %" PRId64 " is not a multiple of num_key_value_heads = %" PRId64,
                       config->n_heads, config->n_kv_heads);
    if (config->head_dim % 2)
        return ht_fail(err, HT_ERR_DATA, "head_dim = %" PRId64 " is odd; rotary positions need pairs",
                       config->head_dim);
    if (!(config->norm_eps > 0) || !(config->norm_eps < 1))
        return ht_fail(err, HT_ERR_DATA, "rms_norm_eps = %g is not between 0 and 1", config->norm_eps);
    if (!(config->rope_theta >= 1) || !isfinite(config->rope_theta))
        return ht_fail(err, HT_ERR_DATA, "rope_theta = %g is not a finite number from 1 on", config->rope_theta);
    return HT_OK;
}

int64_t ht_llama_parameter_count(const ht_llama_config *config) {
    int64_t q = config->n_heads * config->head_dim, kv = config->n_kv_heads * config->head_dim;
    int64_t layer = 2 * config->dim + config->dim * (2 * q + 2 * kv) + 3 * config->dim * config->ffn_dim;
    int64_t head = config->head == HT_HEAD_SCALAR ? config->dim : config->tied ? 0 : config->vocab_size * config->dim;
    return config->vocab_size * config->dim + config->n_layers * layer + config->dim + head;
}
