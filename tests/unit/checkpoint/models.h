/*
 * models.h: what the tests of model folders share: a tiny model, the fixtures' values in it, its configuration.
 */
#ifndef HT_TESTS_CHECKPOINT_MODELS_H
#define HT_TESTS_CHECKPOINT_MODELS_H

#include "tests/unit/checkpoint/support.h"

#include "core/checkpoint/model_folder.h"

/* Folders that transformers wrote. */
#define FIXTURES TEST_DATA_DIR "/golden/fixtures/"

/* The beginning of a language model's config.json, and all of the tiny model's. */
#define LM "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\""
#define TINY_JSON                                                                                            \
    "{" LM ",\"vocab_size\":33,\"hidden_size\":8,\"intermediate_size\":12,\"num_hidden_layers\":2,"         \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5}"

static const ht_llama_config tiny = {.vocab_size = 33,
                                     .dim = 8,
                                     .n_layers = 2,
                                     .n_heads = 4,
                                     .n_kv_heads = 2,
                                     .head_dim = 2,
                                     .ffn_dim = 12,
                                     .max_positions = 64,
                                     .norm_eps = 1e-5,
                                     .rope_theta = 10000,
                                     .bos_id = 1,
                                     .eos_id = 2};

static inline void assert_config(const ht_llama_config *got, const ht_llama_config *wanted) {
    assert_int_equal(got->vocab_size, wanted->vocab_size);
    assert_int_equal(got->dim, wanted->dim);
    assert_int_equal(got->n_layers, wanted->n_layers);
    assert_int_equal(got->n_heads, wanted->n_heads);
    assert_int_equal(got->n_kv_heads, wanted->n_kv_heads);
    assert_int_equal(got->head_dim, wanted->head_dim);
    assert_int_equal(got->ffn_dim, wanted->ffn_dim);
    assert_int_equal(got->max_positions, wanted->max_positions);
    assert_true(got->norm_eps == wanted->norm_eps);
    assert_true(got->rope_theta == wanted->rope_theta);
    assert_int_equal(got->bos_id, wanted->bos_id);
    assert_int_equal(got->eos_id, wanted->eos_id);
    assert_int_equal(got->tied, wanted->tied);
    assert_int_equal(got->head, wanted->head);
}

typedef struct fixture {
    ht_backend *be;
    ht_arena arena;
    ht_llama model;
} fixture;

static inline void open_model(fixture *f, const ht_llama_config *config, ht_dtype dtype) {
    ht_error err = HT_ERROR_INIT;
    assert_ok(ht_backend_open(&f->be, HT_BACKEND_CPU, 1, &err), &err);
    ht_arena_init(&f->arena, 0);
    ht_backend_arena(f->be, &f->arena);
    assert_ok(ht_llama_init(&f->model, f->be, &f->arena, config, dtype, &err), &err);
}

static inline void close_model(fixture *f) {
    ht_llama_free(&f->model);
    ht_arena_clear(&f->arena);
    ht_backend_close(f->be);
}

/* Value of a fixture's element: tests/golden/make_fixtures.py. */
static inline float fixture_value(const char *name, int64_t i) {
    int64_t start = 0;
    for (const char *c = name; *c; c++)
        start += (unsigned char)*c;
    return (float)((7 * i + start) % 61 - 30) / 32;
}

static inline float element(const ht_llama *model, ht_tensor tensor, int64_t i) {
    float value;
    uint8_t raw[4];
    ht_error err = HT_ERROR_INIT;
    size_t size = ht_dtype_size(tensor.dtype);
    assert_ok(ht_download(model->be, raw, (char *)tensor.data + (size_t)i * size, size, &err), &err);
    ht_convert(&value, HT_F32, raw, tensor.dtype, 1);
    return value;
}

static inline void assert_fixture_values(const ht_llama *model, int64_t but) {
    for (int64_t p = 0; p < model->layout.count; p++) {
        ht_tensor tensor = ht_params_tensor(&model->weights, p);
        for (int64_t i = 0; i < tensor.rows * tensor.cols; i++) {
            float wanted = p == but ? 0 : fixture_value(model->layout.params[p].name, i);
            if (element(model, tensor, i) != wanted) fail_msg("%s[%d]", model->layout.params[p].name, (int)i);
        }
    }
}

/* Fills a model with the fixtures' values. */
static inline void fill_model(ht_llama *model) {
    ht_error err = HT_ERROR_INIT;
    for (int64_t p = 0; p < model->layout.count; p++) {
        ht_tensor tensor = ht_params_tensor(&model->weights, p);
        for (int64_t i = 0; i < tensor.rows * tensor.cols; i++) {
            uint8_t raw[4];
            float value = fixture_value(model->layout.params[p].name, i);
            size_t size = ht_dtype_size(tensor.dtype);
            ht_convert(raw, tensor.dtype, &value, HT_F32, 1);
            assert_ok(ht_upload(model->be, (char *)tensor.data + (size_t)i * size, raw, size, &err), &err);
        }
    }
}

#endif
