/*
 * config.json as transformers 4 and 5 write it: absent fields have the defaults of its LlamaConfig; null
 * counts as absent where transformers takes None so. What would change the function that the weights compute
 * and is not implemented is refused; what would not (dropout, caching, initialisation) is not looked at.
 */
#include <inttypes.h>
#include <string.h>

#include "core/base/json.h"
#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/model_folder.h"

/* Both forms of transformers' own defaults: LlamaConfig(). n_kv_heads and head_dim follow from others. */
static const ht_llama_config defaults = {
    .vocab_size = 32000,
    .dim = 4096,
    .n_layers = 32,
    .n_heads = 32,
    .ffn_dim = 11008,
    .max_positions = 2048,
    .norm_eps = 1e-6,
    .rope_theta = 10000,
    .bos_id = 1,
    .eos_id = 2,
};

#define LABELS_DEFAULT 2 /* transformers' num_labels when nothing is said */

/* ---- reading ---- */

/* *value = the boolean member, unchanged when absent or null. */
static ht_status get_flag(const json_t *root, const char *where, const char *key, int *value, ht_error *err) {
    const json_t *member = json_object_get(root, key);
    if (!member || json_is_null(member)) return HT_OK;
    if (!json_is_boolean(member))
        return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" is not true or false", where, key);
    *value = json_is_true(member);
    return HT_OK;
}

static ht_status get_sizes(const json_t *root, const char *where, ht_llama_config *c, ht_error *err) {
    const struct {
        const char *key;
        int64_t *value;
    } sizes[] = {
        {"vocab_size", &c->vocab_size},       {"hidden_size", &c->dim},
        {"intermediate_size", &c->ffn_dim},   {"num_hidden_layers", &c->n_layers},
        {"num_attention_heads", &c->n_heads}, {"max_position_embeddings", &c->max_positions},
    };
    ht_status status = HT_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        HT_TRY(ht_json_get_int(root, (ht_json_field){where, sizes[i].key, 0}, 1, INT32_MAX, sizes[i].value,
                               err));
    c->n_kv_heads = c->n_heads;
    HT_TRY(ht_json_get_int(root, (ht_json_field){where, "num_key_value_heads", 0}, 1, INT32_MAX,
                           &c->n_kv_heads, err));
    c->head_dim = c->dim / c->n_heads;
    HT_TRY(ht_json_get_int(root, (ht_json_field){where, "head_dim", 0}, 1, INT32_MAX, &c->head_dim, err));
    HT_TRY(ht_json_get_number(root, (ht_json_field){where, "rms_norm_eps", 0}, 0, 1, &c->norm_eps, err));
done:
    return status;
}

/* An id, or a list of one. A list of several end ids (Llama 3) is refused: the toolkit trains towards one. */
static ht_status get_id(const json_t *root, const char *where, const char *key, int64_t vocab, int32_t *id,
                        ht_error *err) {
    const json_t *member = json_object_get(root, key);
    if (!member) return HT_OK;
    if (json_is_array(member)) {
        if (json_array_size(member) != 1)
            return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" lists %zu ids, exactly one is allowed", where, key,
                           json_array_size(member));
        member = json_array_get(member, 0);
    }
    if (!json_is_integer(member) || json_integer_value(member) < 0 || json_integer_value(member) >= vocab)
        return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" is not an id in [0, %" PRId64 "]", where, key,
                       vocab - 1);
    *id = (int32_t)json_integer_value(member);
    return HT_OK;
}

/* Refuses a description of rotary positions (`key` of the root) that says more than the plain kind. */
static ht_status check_rope(const json_t *root, const char *where, const char *key, ht_error *err) {
    const json_t *rope = json_object_get(root, key);
    if (!rope || json_is_null(rope)) return HT_OK;
    if (!json_is_object(rope)) return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" is not an object", where, key);
    const char *type = "default", *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)rope, name, value) {
        if (strcmp(name, "rope_type") == 0 || strcmp(name, "type") == 0) {
            type = json_is_string(value) ? json_string_value(value) : "(not a string)";
            if (strcmp(type, "default") != 0)
                return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" has type \"%.40s\", only \"default\" is allowed",
                               where, key, type);
        } else if (strcmp(name, "rope_theta") != 0 && !json_is_null(value)) {
            return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" has \"%.40s\"; rotary scaling is not supported",
                           where, key, name);
        }
    }
    return HT_OK;
}

/* transformers 4 has "rope_theta" and "rope_scaling", transformers 5 "rope_parameters" with both in it. */
static ht_status get_rope(const json_t *root, const char *where, ht_llama_config *c, ht_error *err) {
    ht_status status = HT_OK;
    const json_t *parameters = json_object_get(root, "rope_parameters");
    double top = -1, inner = -1;
    HT_TRY(check_rope(root, where, "rope_scaling", err));
    HT_TRY(check_rope(root, where, "rope_parameters", err));
    HT_TRY(ht_json_get_number(root, (ht_json_field){where, "rope_theta", 0}, 1, 1e12, &top, err));
    if (json_is_object(parameters))
        HT_TRY(ht_json_get_number(parameters, (ht_json_field){where, "rope_theta", 0}, 1, 1e12, &inner, err));
    if (top > 0 && inner > 0 && top != inner) {
        status = ht_fail(err, HT_ERR_DATA, "%s: \"rope_theta\" = %g, but %g in \"rope_parameters\"", where,
                         top, inner);
        goto done;
    }
    if (top > 0 || inner > 0) c->rope_theta = inner > 0 ? inner : top;
done:
    return status;
}

/* What else could change the function that the weights compute. */
static ht_status check_variant(const json_t *root, const char *where, ht_error *err) {
    static const char *const biases[] = {"attention_bias", "mlp_bias"};
    ht_status status = HT_OK;
    const char *type = ht_json_string(root, "model_type");
    if (!type || strcmp(type, "llama") != 0)
        return ht_fail(err, HT_ERR_DATA, "%s: \"model_type\" = \"%.40s\", only \"llama\" is supported", where,
                       type ? type : "(none)");
    const json_t *act = json_object_get(root, "hidden_act");
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0))
        return ht_fail(err, HT_ERR_DATA, "%s: \"hidden_act\" = \"%.40s\", only \"silu\" is supported", where,
                       json_is_string(act) ? json_string_value(act) : "(not a string)");
    for (size_t i = 0; i < sizeof biases / sizeof biases[0]; i++) {
        int flag = 0;
        HT_TRY(get_flag(root, where, biases[i], &flag, err));
        if (flag)
            return ht_fail(err, HT_ERR_DATA, "%s: \"%s\" = true, biases are not supported", where, biases[i]);
    }
    const json_t *quantization = json_object_get(root, "quantization_config");
    if (quantization && !json_is_null(quantization))
        return ht_fail(err, HT_ERR_DATA, "%s: \"quantization_config\": quantized weights are not supported",
                       where);
done:
    return status;
}

/* Labels of a classification model: id2label counts, then num_labels. */
static ht_status check_labels(const json_t *root, const char *where, ht_error *err) {
    int64_t labels = LABELS_DEFAULT;
    ht_status status =
        ht_json_get_int(root, (ht_json_field){where, "num_labels", 0}, 1, INT32_MAX, &labels, err);
    if (status != HT_OK) return status;
    const json_t *map = json_object_get(root, "id2label");
    if (json_is_object(map)) labels = (int64_t)json_object_size(map);
    if (labels == 1) return HT_OK;
    return ht_fail(err, HT_ERR_DATA, "%s: %" PRId64 " labels%s, a reward model has exactly one", where,
                   labels,
                   labels == LABELS_DEFAULT && !map ? " (transformers' default without \"id2label\")" : "");
}

static ht_status get_head(const json_t *root, const char *where, ht_head *head, ht_error *err) {
    const json_t *list = json_object_get(root, "architectures");
    const char *name = json_array_size(list) == 1 ? json_string_value(json_array_get(list, 0)) : NULL;
    if (name && strcmp(name, "LlamaForCausalLM") == 0) {
        *head = HT_HEAD_LM;
        return HT_OK;
    }
    if (name && strcmp(name, "LlamaForSequenceClassification") == 0) {
        *head = HT_HEAD_SCALAR;
        return check_labels(root, where, err);
    }
    return ht_fail(err, HT_ERR_DATA,
                   "%s: \"architectures\" is %s%.60s%s, allowed are [\"LlamaForCausalLM\"] and "
                   "[\"LlamaForSequenceClassification\"]",
                   where, name ? "[\"" : "not a list of one name", name ? name : "", name ? "\"]" : "");
}

ht_status ht_model_folder_config(const char *folder, ht_llama_config *config, ht_error *err) {
    char path[HT_PATH_MAX];
    json_t *root = NULL;
    ht_llama_config c = defaults;
    ht_status status = HT_OK;
    memset(config, 0, sizeof *config);
    HT_TRY(ht_path_join(path, folder, HT_FILE_CONFIG, err));
    HT_TRY(ht_json_read(path, &root, err));
    if (!json_is_object(root)) {
        status = ht_fail(err, HT_ERR_DATA, "%s: not a JSON object", path);
        goto done;
    }
    HT_TRY(check_variant(root, path, err));
    HT_TRY(get_head(root, path, &c.head, err));
    HT_TRY(get_sizes(root, path, &c, err));
    HT_TRY(get_rope(root, path, &c, err));
    HT_TRY(get_id(root, path, "bos_token_id", c.vocab_size, &c.bos_id, err));
    HT_TRY(get_id(root, path, "eos_token_id", c.vocab_size, &c.eos_id, err));
    HT_TRY(get_flag(root, path, "tie_word_embeddings", &c.tied, err));
    status = ht_llama_config_check(&c, err);
    if (status != HT_OK) {
        ht_fail_in(err, "%s", path);
        goto done;
    }
    *config = c;
done:
    json_decref(root);
    return status;
}

ht_status ht_model_folder_config_of(const char *folder, ht_head head, ht_llama_config *config, ht_error *err) {
    static const char *const names[] = {[HT_HEAD_LM] = "language model", [HT_HEAD_SCALAR] = "reward model"};
    ht_status status = ht_model_folder_config(folder, config, err);
    if (status == HT_OK && config->head != head)
        status = ht_fail(err, HT_ERR_DATA, "%s: a %s; wanted is a %s", folder, names[config->head], names[head]);
    return status;
}

/* ---- writing ---- */

/* Adds a member; a failure (no memory) is remembered in *failed. */
static void put(json_t *object, const char *key, json_t *value, int *failed) {
    if (json_object_set_new(object, key, value) != 0) *failed = 1;
}

ht_status ht_folder_config_json(json_t **out, const ht_llama_config *c, ht_dtype dtype, ht_error *err) {
    int failed = 0;
    json_t *root = json_object();
    const char *architecture =
        c->head == HT_HEAD_SCALAR ? "LlamaForSequenceClassification" : "LlamaForCausalLM";
    put(root, "architectures", json_pack("[s]", architecture), &failed);
    put(root, "attention_bias", json_false(), &failed);
    put(root, "attention_dropout", json_real(0), &failed);
    put(root, "bos_token_id", json_integer(c->bos_id), &failed);
    put(root, "eos_token_id", json_integer(c->eos_id), &failed);
    put(root, "head_dim", json_integer(c->head_dim), &failed);
    put(root, "hidden_act", json_string("silu"), &failed);
    put(root, "hidden_size", json_integer(c->dim), &failed);
    if (c->head == HT_HEAD_SCALAR) {
        put(root, "id2label", json_pack("{s:s}", "0", "LABEL_0"), &failed);
        put(root, "label2id", json_pack("{s:i}", "LABEL_0", 0), &failed);
    }
    put(root, "initializer_range", json_real(0.02), &failed);
    put(root, "intermediate_size", json_integer(c->ffn_dim), &failed);
    put(root, "max_position_embeddings", json_integer(c->max_positions), &failed);
    put(root, "mlp_bias", json_false(), &failed);
    put(root, "model_type", json_string("llama"), &failed);
    put(root, "num_attention_heads", json_integer(c->n_heads), &failed);
    put(root, "num_hidden_layers", json_integer(c->n_layers), &failed);
    put(root, "num_key_value_heads", json_integer(c->n_kv_heads), &failed);
    put(root, "pad_token_id", json_null(), &failed);
    put(root, "pretraining_tp", json_integer(1), &failed);
    put(root, "rms_norm_eps", json_real(c->norm_eps), &failed);
    /* transformers 5 turns the older form of these two into its "rope_parameters". */
    put(root, "rope_scaling", json_null(), &failed);
    put(root, "rope_theta", json_real(c->rope_theta), &failed);
    put(root, "tie_word_embeddings", json_boolean(c->tied), &failed);
    put(root, "torch_dtype", json_string(ht_dtype_torch_name(dtype)), &failed);
    put(root, "use_cache", json_true(), &failed);
    put(root, "vocab_size", json_integer(c->vocab_size), &failed);
    *out = failed ? NULL : root;
    if (!failed) return HT_OK;
    json_decref(root);
    return ht_fail(err, HT_ERR_NOMEM, "cannot allocate the content of \"%s\"", HT_FILE_CONFIG);
}

ht_status ht_folder_generation_json(json_t **out, const ht_llama_config *c, ht_error *err) {
    *out = json_pack("{s:i, s:i, s:b, s:f, s:f}", "bos_token_id", (int)c->bos_id, "eos_token_id",
                     (int)c->eos_id, "do_sample", 1, "temperature", 0.6, "top_p", 0.9);
    if (*out) return HT_OK;
    return ht_fail(err, HT_ERR_NOMEM, "cannot allocate the content of \"%s\"", HT_FILE_GENERATION);
}
