#include "tests/unit/checkpoint/support.h"

#include "core/base/json.h"
#include "core/checkpoint/model_folder.h"
#include "core/checkpoint/safetensors.h"
#include "core/tokenizer/tokenizer.h"

#define FIXTURES TEST_DATA_DIR "/golden/fixtures/"

/* ---- models ---- */

typedef struct fixture {
    ht_backend *be;
    ht_arena arena;
    ht_llama model;
} fixture;

static void open_model(fixture *f, const ht_llama_config *config, ht_dtype dtype) {
    ht_error err = HT_ERROR_INIT;
    assert_ok(ht_backend_open(&f->be, HT_BACKEND_CPU, 1, &err), &err);
    ht_arena_init(&f->arena, 0);
    ht_backend_arena(f->be, &f->arena);
    assert_ok(ht_llama_init(&f->model, f->be, &f->arena, config, dtype, &err), &err);
}

static void close_model(fixture *f) {
    ht_llama_free(&f->model);
    ht_arena_clear(&f->arena);
    ht_backend_close(f->be);
}

/* Value of a fixture's element: tests/golden/make_fixtures.py. */
static float fixture_value(const char *name, int64_t i) {
    int64_t start = 0;
    for (const char *c = name; *c; c++)
        start += (unsigned char)*c;
    return (float)((7 * i + start) % 61 - 30) / 32;
}

static float element(const ht_llama *model, ht_tensor tensor, int64_t i) {
    float value;
    uint8_t raw[4];
    ht_error err = HT_ERROR_INIT;
    size_t size = ht_dtype_size(tensor.dtype);
    assert_ok(ht_download(model->be, raw, (char *)tensor.data + (size_t)i * size, size, &err), &err);
    ht_convert(&value, HT_F32, raw, tensor.dtype, 1);
    return value;
}

static void assert_fixture_values(const ht_llama *model, int64_t but) {
    for (int64_t p = 0; p < model->layout.count; p++) {
        ht_tensor tensor = ht_params_tensor(&model->weights, p);
        for (int64_t i = 0; i < tensor.rows * tensor.cols; i++) {
            float wanted = p == but ? 0 : fixture_value(model->layout.params[p].name, i);
            if (element(model, tensor, i) != wanted) fail_msg("%s[%d]", model->layout.params[p].name, (int)i);
        }
    }
}

/* Fills a model with the fixtures' values. */
static void fill_model(ht_llama *model) {
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

static void assert_config(const ht_llama_config *got, const ht_llama_config *wanted) {
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

/* ---- folders that transformers wrote ---- */

static const struct {
    const char *folder;
    ht_llama_config changes; /* fields that differ from tiny, 0: none */
} folders[] = {
    {"transformers-4/lm-bf16", {.rope_theta = 500000}},
    {"transformers-4/lm-f16-tied", {.tied = 1}},
    {"transformers-4/lm-f32-sharded", {.head_dim = 4}},
    {"transformers-4/rm-f32", {.head = HT_HEAD_SCALAR, .n_kv_heads = 4}},
    {"transformers-5/lm-bf16", {.rope_theta = 500000}},
    {"transformers-5/lm-f16-tied", {.tied = 1}},
    {"transformers-5/lm-f32-sharded", {.head_dim = 4}},
    {"transformers-5/rm-f32", {.head = HT_HEAD_SCALAR, .n_kv_heads = 4}},
};

static ht_llama_config changed(const ht_llama_config *changes) {
    ht_llama_config config = tiny;
    if (changes->rope_theta > 0) config.rope_theta = changes->rope_theta;
    if (changes->head_dim) config.head_dim = changes->head_dim;
    if (changes->n_kv_heads) config.n_kv_heads = changes->n_kv_heads;
    config.tied = changes->tied;
    config.head = changes->head;
    return config;
}

static void test_model_folder__reads_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        ht_error err = HT_ERROR_INIT;
        char folder[512];
        ht_llama_config config, wanted = changed(&folders[i].changes);
        snprintf(folder, sizeof folder, FIXTURES "%s", folders[i].folder);
        assert_ok(ht_model_folder_config(folder, &config, &err), &err);
        assert_config(&config, &wanted);
        assert_true(ht_model_folder_complete(folder));
        for (ht_dtype dtype = HT_F32; dtype <= HT_BF16; dtype++) {
            fixture f;
            int head_loaded = 0;
            open_model(&f, &config, dtype);
            assert_ok(ht_model_folder_load(folder, &f.model, &head_loaded, &err), &err);
            assert_true(head_loaded);
            assert_fixture_values(&f.model, -1);
            close_model(&f);
        }
    }
}

/* A reward model begins as a language model: everything but the head comes from the folder. */
static void test_model_folder__scalar_head_from_language_model(void **state) {
    (void)state;
    static const char *const sources[] = {FIXTURES "transformers-5/lm-bf16",
                                          FIXTURES "transformers-4/lm-f16-tied"};
    for (size_t i = 0; i < 2; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_llama_config config;
        fixture f;
        int head_loaded = 1;
        assert_ok(ht_model_folder_config(sources[i], &config, &err), &err);
        config.head = HT_HEAD_SCALAR;
        open_model(&f, &config, HT_F32);
        assert_ok(ht_model_folder_load(sources[i], &f.model, &head_loaded, &err), &err);
        assert_false(head_loaded);
        assert_fixture_values(&f.model, ht_layout_output(&f.model.layout));
        close_model(&f);
    }
}

static void test_model_folder__refuses_another_model(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    fixture f;
    int head_loaded;
    ht_llama_config config = tiny;
    open_model(&f, &config, HT_F32);
    assert_failed(ht_model_folder_load(FIXTURES "transformers-4/rm-f32", &f.model, &head_loaded, &err),
                  HT_ERR_USAGE, &err, "num_key_value_heads = 4, the model to load it into 2");
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_model_folder_load(FIXTURES "transformers-4/lm-f16-tied", &f.model, &head_loaded, &err),
                  HT_ERR_USAGE, &err, "tie_word_embeddings = true, the model to load it into false");
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_model_folder_load(FIXTURES "transformers-5/lm-bf16", &f.model, &head_loaded, &err),
                  HT_ERR_USAGE, &err, "rope_theta = 500000, the model to load it into 10000");
    close_model(&f);
    config.n_kv_heads = 4;
    open_model(&f, &config, HT_F32);
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_model_folder_load(FIXTURES "transformers-4/rm-f32", &f.model, &head_loaded, &err),
                  HT_ERR_DATA, &err,
                  "is a reward model (LlamaForSequenceClassification); a language model is wanted");
    close_model(&f);
}

/* ---- config.json ---- */

#define LM "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\""
#define RM "\"architectures\":[\"LlamaForSequenceClassification\"],\"model_type\":\"llama\""

static void test_model_folder__config_defaults(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config;
    const ht_llama_config wanted = {.vocab_size = 32000,
                                    .dim = 4096,
                                    .n_layers = 32,
                                    .n_heads = 32,
                                    .n_kv_heads = 32,
                                    .head_dim = 128,
                                    .ffn_dim = 11008,
                                    .max_positions = 2048,
                                    .norm_eps = 1e-6,
                                    .rope_theta = 10000,
                                    .bos_id = 1,
                                    .eos_id = 2};
    write_text(in_root("config.json"), "{" LM "}");
    assert_ok(ht_model_folder_config(root, &config, &err), &err);
    assert_config(&config, &wanted);
}

static void test_model_folder__config_accepts(void **state) {
    (void)state;
    static const char *const bodies[] = {
        "\"num_key_value_heads\":null,\"head_dim\":null,\"rope_scaling\":null,\"quantization_config\":null",
        "\"rope_scaling\":{\"rope_type\":\"default\"}",
        "\"rope_scaling\":{\"type\":\"default\",\"rope_theta\":10000}",
        "\"rope_parameters\":{\"rope_theta\":10000.0,\"rope_type\":\"default\"},\"rope_theta\":10000",
        "\"rope_parameters\":{\"rope_theta\":10000.0},\"dtype\":\"bfloat16\"",
        "\"eos_token_id\":[2]",
        "\"attention_bias\":false,\"mlp_bias\":null,\"pretraining_tp\":2,\"unknown\":{}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_llama_config config;
        char text[512];
        snprintf(text, sizeof text, "{" LM ",%s}", bodies[i]);
        write_text(in_root("config.json"), text);
        assert_ok(ht_model_folder_config(root, &config, &err), &err);
        assert_int_equal(config.n_kv_heads, 32);
        assert_int_equal(config.eos_id, 2);
        assert_true(config.rope_theta == 10000);
    }
}

static void test_model_folder__config_refuses(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[]", "not a JSON object"},
        {"{\"model_type\":}", "config.json:1:"},
        {"{\"a\":NaN}", "config.json:1:"},
        {"{}", "\"model_type\" = \"(none)\", only \"llama\""},
        {"{\"model_type\":\"mistral\"}", "\"model_type\" = \"mistral\", only \"llama\""},
        {"{\"model_type\":\"llama\"}", "\"architectures\" is not a list of one name"},
        {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaModel\"]}",
         "\"architectures\" is [\"LlamaModel\"]"},
        {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\",\"x\"]}",
         "not a list of one name"},
        {"{" LM ",\"hidden_act\":\"gelu\"}", "\"hidden_act\" = \"gelu\", only \"silu\""},
        {"{" LM ",\"hidden_act\":7}", "\"hidden_act\" = \"(not a string)\""},
        {"{" LM ",\"attention_bias\":true}", "\"attention_bias\" = true, biases are not supported"},
        {"{" LM ",\"mlp_bias\":true}", "\"mlp_bias\" = true"},
        {"{" LM ",\"mlp_bias\":1}", "\"mlp_bias\" is not true or false"},
        {"{" LM ",\"tie_word_embeddings\":\"yes\"}", "\"tie_word_embeddings\" is not true or false"},
        {"{" LM ",\"quantization_config\":{\"bits\":4}}", "quantized weights are not supported"},
        {"{" LM ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}",
         "\"rope_scaling\" has type \"linear\", only \"default\""},
        {"{" LM ",\"rope_parameters\":{\"rope_type\":\"llama3\"}}",
         "\"rope_parameters\" has type \"llama3\""},
        {"{" LM ",\"rope_parameters\":{\"rope_type\":\"default\",\"factor\":8.0}}",
         "\"rope_parameters\" has \"factor\""},
        {"{" LM ",\"rope_scaling\":2}", "\"rope_scaling\" is not an object"},
        {"{" LM ",\"rope_theta\":1e4,\"rope_parameters\":{\"rope_theta\":5e5}}",
         "\"rope_theta\" = 10000, but 500000 in \"rope_parameters\""},
        {"{" LM ",\"rope_theta\":0}", "\"rope_theta\" = 0 is outside"},
        {"{" LM ",\"rms_norm_eps\":2}", "\"rms_norm_eps\" = 2 is outside [0, 1]"},
        {"{" LM ",\"rms_norm_eps\":0}", "rms_norm_eps = 0 is not between 0 and 1"},
        {"{" LM ",\"hidden_size\":\"8\"}", "\"hidden_size\" is not an integer"},
        {"{" LM ",\"hidden_size\":-8}", "\"hidden_size\" = -8 is outside"},
        {"{" LM ",\"hidden_size\":99999999}", "hidden_size = 99999999 is not in"},
        {"{" LM ",\"num_attention_heads\":0}", "\"num_attention_heads\" = 0 is outside"},
        {"{" LM ",\"num_key_value_heads\":5}", "is not a multiple of num_key_value_heads = 5"},
        {"{" LM ",\"head_dim\":3}", "head_dim = 3 is odd"},
        {"{" LM ",\"eos_token_id\":[2,32]}", "\"eos_token_id\" lists 2 ids, exactly one is allowed"},
        {"{" LM ",\"eos_token_id\":[]}", "\"eos_token_id\" lists 0 ids"},
        {"{" LM ",\"eos_token_id\":32000}", "\"eos_token_id\" is not an id in [0, 31999]"},
        {"{" LM ",\"bos_token_id\":null}", "\"bos_token_id\" is not an id in [0, 31999]"},
        {"{" LM ",\"bos_token_id\":-1}", "\"bos_token_id\" is not an id"},
        {"{" RM "}", "2 labels (transformers' default without \"id2label\"), a reward model has exactly one"},
        {"{" RM ",\"num_labels\":3}", "3 labels, a reward model has exactly one"},
        {"{" RM ",\"id2label\":{\"0\":\"a\",\"1\":\"b\"}}", "2 labels, a reward model"},
        {"{" RM ",\"num_labels\":1,\"id2label\":{\"0\":\"a\",\"1\":\"b\"}}", "2 labels, a reward model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_llama_config config;
        write_text(in_root("config.json"), cases[i].text);
        assert_failed(ht_model_folder_config(root, &config, &err), HT_ERR_DATA, &err, cases[i].message);
        assert_non_null(strstr(err.message, in_root("config.json")));
        assert_int_equal(config.dim, 0);
    }
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config;
    assert_failed(ht_model_folder_config(in_root("none"), &config, &err), HT_ERR_IO, &err, "No such file");
}

/* ---- weights that do not fit ---- */

/* Tensors to put into or leave out of a folder that is otherwise right. */
typedef struct tensor_change {
    const char *name;
    const char *dtype;  /* NULL: left out */
    int64_t rows, cols; /* cols 0: one-dimensional */
} tensor_change;

/* Writes a folder of zeros for `config` with one tensor changed or added. */
static void write_changed(const char *folder, const char *config_json, const ht_llama_config *config,
                          const tensor_change *change) {
    ht_error err = HT_ERROR_INIT;
    ht_layout layout;
    char path[600];
    json_t *header = json_object();
    size_t end = 0;
    assert_ok(ht_layout_init(&layout, config, &err), &err);
    for (int64_t i = 0; i <= layout.count; i++) {
        const ht_param *param = &layout.params[i];
        const char *name = i < layout.count ? param->name : change->name, *dtype = "F16";
        if (json_object_get(header, name)) continue;
        int64_t rows = 0, cols = 0;
        if (strcmp(name, change->name) == 0) {
            if (!change->dtype) continue;
            dtype = change->dtype, rows = change->rows, cols = change->cols;
        } else {
            rows = param->vector ? param->cols : param->rows, cols = param->vector ? 0 : param->cols;
        }
        size_t bytes = (size_t)(rows * (cols ? cols : 1)) * (strcmp(dtype, "F64") == 0 ? 8 : strcmp(dtype, "U8") == 0 ? 1 : 2);
        json_t *shape = cols ? json_pack("[I,I]", (json_int_t)rows, (json_int_t)cols)
                             : json_pack("[I]", (json_int_t)rows);
        json_object_set_new(header, name,
                            json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype, "shape", shape, "data_offsets",
                                      (json_int_t)end, (json_int_t)(end + bytes)));
        end += bytes;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    make_folder(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_safetensors(path, text, end);
    snprintf(path, sizeof path, "%s/config.json", folder);
    write_text(path, config_json);
    free(text);
    json_decref(header);
    ht_layout_free(&layout);
}

static void test_model_folder__refuses_misfit_tensors(void **state) {
    (void)state;
    static const char plain[] = "{" LM ",\"vocab_size\":33,\"hidden_size\":8,\"intermediate_size\":12,"
                                "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                                "\"rms_norm_eps\":1e-5}";
    static const struct {
        tensor_change change;
        const char *message; /* NULL: loads */
    } cases[] = {
        {{"model.norm.weight", NULL, 0, 0}, "tensor \"model.norm.weight\" is missing"},
        {{"lm_head.weight", NULL, 0, 0}, "tensor \"lm_head.weight\" is missing"},
        {{"model.norm.weight", "F16", 1, 8}, "\"model.norm.weight\" has shape [1,8], config.json says [8]"},
        {{"model.norm.weight", "F16", 9, 0}, "\"model.norm.weight\" has shape [9], config.json says [8]"},
        {{"model.layers.1.self_attn.k_proj.weight", "F16", 8, 8}, "has shape [8,8], config.json says [4,8]"},
        {{"lm_head.weight", "F64", 33, 8}, "\"lm_head.weight\" has dtype F64, allowed are F32, BF16 and F16"},
        {{"lm_head.weight", "U8", 33, 8}, "\"lm_head.weight\" has dtype U8, allowed are F32, BF16 and F16"},
        {{"lm_head.weight", "BF16", 33, 8}, NULL},
        {{"model.layers.2.mlp.up_proj.weight", "F16", 12, 8},
         "is not one of the model that config.json describes"},
        {{"lm_head.bias", "F16", 33, 0}, "tensor \"lm_head.bias\" is not one of the model"},
        {{"score.weight", "F16", 1, 8}, "tensor \"score.weight\" is not one of the model"},
        {{"model.layers.0.self_attn.q_proj.bias", "F16", 8, 0}, "q_proj.bias\" is not one of the model"},
        {{"model.layers.31.self_attn.rotary_emb.inv_freq", "F64", 1, 0}, NULL},
        {{"model.layers.x.self_attn.rotary_emb.inv_freq", "F16", 1, 0}, "is not one of the model"},
        {{"model.layers.0.self_attn.rotary_emb.inv_freq2", "F16", 1, 0}, "is not one of the model"},
        {{"model.rotary_emb.inv_freq", "F16", 1, 0}, "is not one of the model"},
    };
    fixture f;
    open_model(&f, &tiny, HT_F32);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ht_error err = HT_ERROR_INIT;
        int head_loaded;
        write_changed(in_root("m"), plain, &tiny, &cases[i].change);
        ht_status status = ht_model_folder_load(in_root("m"), &f.model, &head_loaded, &err);
        if (cases[i].message)
            assert_failed(status, HT_ERR_DATA, &err, cases[i].message);
        else
            assert_ok(status, &err);
    }
    close_model(&f);
}

/* A tied model's lm_head may be there when it equals the embedding, byte for byte. */
static void test_model_folder__tied_head(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config = tiny;
    fixture f;
    int head_loaded;
    open_model(&f, &config, HT_F32); /* untied: saves both matrices */
    fill_model(&f.model);
    const ht_lineage lineage = {.stage = "sft"};
    assert_ok(ht_model_folder_save(in_root("differ"), &f.model, HT_F32, NULL, &lineage, &err), &err);
    ht_tensor head = ht_params_tensor(&f.model.weights, ht_layout_output(&f.model.layout));
    ht_tensor embedding = ht_params_tensor(&f.model.weights, ht_layout_embedding(&f.model.layout));
    assert_ok(ht_copy(f.be, &head, &embedding, &err), &err);
    assert_ok(ht_model_folder_save(in_root("equal"), &f.model, HT_F32, NULL, &lineage, &err), &err);
    close_model(&f);
    config.tied = 1;
    open_model(&f, &config, HT_F32);
    static const char *const names[] = {"differ", "equal"};
    for (size_t i = 0; i < 2; i++) {
        char path[64];
        json_t *json;
        snprintf(path, sizeof path, "%s/config.json", names[i]);
        assert_ok(ht_json_read(in_root(path), &json, &err), &err);
        json_object_set_new(json, "tie_word_embeddings", json_true());
        assert_ok(ht_json_write(in_root(path), json, &err), &err);
        json_decref(json);
    }
    assert_ok(ht_model_folder_load(in_root("equal"), &f.model, &head_loaded, &err), &err);
    assert_failed(ht_model_folder_load(in_root("differ"), &f.model, &head_loaded, &err), HT_ERR_DATA, &err,
                  "tie_word_embeddings is true, but \"lm_head.weight\" differs from the embedding");
    close_model(&f);
}

static void test_model_folder__says_where_weights_are(void **state) {
    (void)state;
    static const struct {
        const char *file, *message;
    } cases[] = {
        {"pytorch_model.bin", "has its weights in \"pytorch_model.bin\": convert them to safetensors"},
        {"pytorch_model.bin.index.json", "convert them to safetensors"},
        {"consolidated.00.pth", "convert them to safetensors"},
        {"README.md", "has neither model.safetensors nor model.safetensors.index.json"},
    };
    fixture f;
    open_model(&f, &tiny, HT_F32);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ht_error err = HT_ERROR_INIT;
        int head_loaded;
        char path[64];
        make_folder(in_root("m"));
        write_text(in_root("m/config.json"),
                   "{" LM ",\"vocab_size\":33,\"hidden_size\":8,\"intermediate_size\":12,"
                   "\"num_hidden_layers\":2,\"num_attention_heads\":4,"
                   "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5}");
        snprintf(path, sizeof path, "m/%s", cases[i].file);
        write_text(in_root(path), "");
        assert_failed(ht_model_folder_load(in_root("m"), &f.model, &head_loaded, &err), HT_ERR_DATA, &err,
                      cases[i].message);
        assert_false(ht_model_folder_complete(in_root("m")));
        assert_ok(ht_folder_remove(in_root("m"), &(ht_error)HT_ERROR_INIT), &(ht_error)HT_ERROR_INIT);
    }
    close_model(&f);
}

/* ---- saving ---- */

static void test_model_folder__round_trip(void **state) {
    (void)state;
    static const ht_dtype dtypes[] = {HT_F32, HT_BF16, HT_F16};
    for (int variant = 0; variant < 3; variant++) {
        for (size_t m = 0; m < 2; m++) {
            for (size_t d = 0; d < 3; d++) {
                ht_error err = HT_ERROR_INIT;
                ht_llama_config config = tiny, read;
                fixture f;
                char name[64];
                int head_loaded;
                config.tied = variant == 1;
                config.head = variant == 2 ? HT_HEAD_SCALAR : HT_HEAD_LM;
                config.norm_eps = 1.0 / 3, config.rope_theta = 123456.789, config.eos_id = 7;
                open_model(&f, &config, dtypes[m]);
                fill_model(&f.model);
                snprintf(name, sizeof name, "v%d-%zu-%zu", variant, m, d);
                const ht_lineage lineage = {.stage = "sft"};
                assert_ok(ht_model_folder_save(in_root(name), &f.model, dtypes[d], NULL, &lineage, &err),
                          &err);
                close_model(&f);
                assert_true(ht_model_folder_complete(in_root(name)));
                assert_ok(ht_model_folder_config(in_root(name), &read, &err), &err);
                assert_config(&read, &config);
                open_model(&f, &read, HT_F32);
                assert_ok(ht_model_folder_load(in_root(name), &f.model, &head_loaded, &err), &err);
                assert_fixture_values(&f.model, -1);
                close_model(&f);
            }
        }
    }
}

/* Shards of any size read back as the single file does. */
static ht_status read_entry(void *context, void *host, size_t first, size_t bytes, ht_error *err) {
    (void)err;
    memcpy(host, ((const ht_safetensors_entry *)context)->data + first, bytes);
    return HT_OK;
}

static void test_model_folder__prefers_the_single_file(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    ht_safetensors_item items[64];
    fixture f;
    int head_loaded;
    assert_ok(ht_safetensors_open(&set, FIXTURES "transformers-5/lm-bf16/model.safetensors", &err), &err);
    int64_t count = ht_safetensors_count(set);
    for (int64_t i = 0; i < count; i++) {
        const ht_safetensors_entry *entry = ht_safetensors_at(set, i);
        items[i] = (ht_safetensors_item){.name = entry->name,
                                         .dtype = entry->dtype,
                                         .dims = entry->dims,
                                         .shape = {entry->shape[0], entry->shape[1]},
                                         .read = read_entry,
                                         .context = (void *)(uintptr_t)entry};
    }
    make_folder(in_root("m"));
    assert_ok(ht_file_copy(FIXTURES "transformers-5/lm-bf16/config.json", in_root("m/config.json"), &err),
              &err);
    assert_ok(ht_safetensors_write(in_root("m"), "model", items, count, 1000, &err), &err);
    ht_llama_config config = tiny;
    config.rope_theta = 500000;
    open_model(&f, &config, HT_F32);
    assert_ok(ht_model_folder_load(in_root("m"), &f.model, &head_loaded, &err), &err);
    assert_fixture_values(&f.model, -1);
    assert_true(ht_model_folder_complete(in_root("m")));
    /* One shard less is no model. */
    ht_safetensors *shards;
    assert_ok(ht_safetensors_open(&shards, in_root("m/model.safetensors.index.json"), &err), &err);
    assert_int_equal(unlink(ht_safetensors_find(shards, "model.norm.weight")->file), 0);
    ht_safetensors_close(shards);
    assert_false(ht_model_folder_complete(in_root("m")));
    assert_failed(ht_model_folder_load(in_root("m"), &f.model, &head_loaded, &err), HT_ERR_IO, &err,
                  ".safetensors\": No such file");
    /* The single file counts before the index, damaged as that is. */
    err = (ht_error)HT_ERROR_INIT;
    assert_ok(ht_safetensors_write(in_root("m"), "model", items, count, 0, &err), &err);
    assert_ok(ht_model_folder_load(in_root("m"), &f.model, &head_loaded, &err), &err);
    ht_safetensors_close(set);
    close_model(&f);
}

static void test_model_folder__float16_overflow(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    fixture f;
    float big = 70000;
    open_model(&f, &tiny, HT_F32);
    ht_tensor norm = ht_params_tensor(&f.model.weights, ht_layout_final_norm(&f.model.layout));
    assert_ok(ht_upload(f.be, (float *)norm.data + 3, &big, sizeof big, &err), &err);
    const ht_lineage lineage = {.stage = "sft"};
    assert_failed(ht_model_folder_save(in_root("m"), &f.model, HT_F16, NULL, &lineage, &err), HT_ERR_DATA,
                  &err, "\"model.norm.weight\": element 3 does not fit float16 (at most 65504)");
    assert_false(ht_path_exists(in_root("m")));
    close_model(&f);
}

static void test_model_folder__lineage(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    fixture f;
    json_t *halter;
    char parent[HT_HASH_LEN], hash[HT_HASH_LEN];
    json_t *config = json_pack("{s:f}", "lr", 2e-5);
    open_model(&f, &tiny, HT_F32);
    fill_model(&f.model);
    assert_ok(ht_model_folder_hash(FIXTURES "transformers-5/lm-bf16", parent, &err), &err);
    const ht_lineage lineage = {
        .stage = "sft", .round = 3, .parent = FIXTURES "transformers-5/lm-bf16", .config = config};
    assert_ok(ht_model_folder_save(in_root("m"), &f.model, HT_BF16, NULL, &lineage, &err), &err);
    assert_ok(ht_json_read(in_root("m/halter.json"), &halter, &err), &err);
    assert_string_equal(ht_json_string(halter, "stage"), "sft");
    assert_int_equal(json_integer_value(json_object_get(halter, "round")), 3);
    assert_string_equal(ht_json_string(json_object_get(halter, "parent"), "hash"), parent);
    assert_true(json_equal(json_object_get(halter, "config"), config));
    assert_true(json_is_null(json_object_get(halter, "data")));
    assert_int_equal(strlen(ht_json_string(halter, "created")), strlen("2000-01-01T00:00:00Z"));
    assert_ok(ht_model_folder_hash(in_root("m"), hash, &err), &err);
    assert_string_equal(ht_json_string(halter, "hash"), hash);
    json_decref(halter);
    /* A parent that has gone does not cost the run its model. */
    const ht_lineage orphan = {.stage = "sft", .parent = "/nonexistent/model"};
    assert_ok(ht_model_folder_save(in_root("o"), &f.model, HT_BF16, NULL, &orphan, &err), &err);
    assert_non_null(strstr(warnings, "the parent model's hash is not recorded"));
    assert_ok(ht_json_read(in_root("o/halter.json"), &halter, &err), &err);
    assert_true(json_is_null(json_object_get(json_object_get(halter, "parent"), "hash")));
    json_decref(halter);
    json_decref(config);
    close_model(&f);
}

/* The identity follows the content, whatever halter.json says. */
static void test_model_folder__identity(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    fixture f;
    char first[HT_HASH_LEN], again[HT_HASH_LEN];
    const ht_lineage lineage = {.stage = "sft"};
    open_model(&f, &tiny, HT_F32);
    assert_ok(ht_model_folder_save(in_root("a"), &f.model, HT_F32, NULL, &lineage, &err), &err);
    assert_ok(ht_model_folder_save(in_root("b"), &f.model, HT_F32, NULL, &lineage, &err), &err);
    assert_ok(ht_model_folder_hash(in_root("a"), first, &err), &err);
    assert_ok(ht_model_folder_hash(in_root("b"), again, &err), &err);
    assert_string_equal(first, again);
    /* Without the cache: the same. */
    assert_int_equal(unlink(in_root("b/halter.json")), 0);
    assert_ok(ht_model_folder_hash(in_root("b"), again, &err), &err);
    assert_string_equal(first, again);
    flip_byte(in_root("b/model.safetensors"), -1);
    assert_ok(ht_model_folder_hash(in_root("b"), again, &err), &err);
    assert_string_not_equal(first, again);
    /* A config.json that was edited later: the cache does not count. */
    write_text(in_root("a/config.json"), "{}");
    assert_ok(ht_model_folder_hash(in_root("a"), again, &err), &err);
    assert_string_not_equal(first, again);
    /* An index that leads out of the folder: nothing there is read. */
    assert_int_equal(rename(in_root("b/model.safetensors"), in_root("w")), 0);
    write_text(in_root("b/model.safetensors.index.json"), "{\"weight_map\": {\"model.norm.weight\": \"../w\"}}");
    assert_failed(ht_model_folder_hash(in_root("b"), again, &err), HT_ERR_DATA, &err,
                  "b/model.safetensors.index.json: shard of \"model.norm.weight\" is no plain file name");
    close_model(&f);
}

static void test_model_folder__replaces_nothing(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    fixture f;
    const ht_lineage lineage = {.stage = "sft"};
    open_model(&f, &tiny, HT_F32);
    assert_ok(ht_model_folder_save(in_root("m"), &f.model, HT_F32, NULL, &lineage, &err), &err);
    assert_failed(ht_model_folder_save(in_root("m"), &f.model, HT_F32, NULL, &lineage, &err), HT_ERR_USAGE,
                  &err, "holds a model already");
    /* Nor what someone else has put there. */
    make_folder(in_root("theirs"));
    write_text(in_root("theirs/model.safetensors"), "");
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_model_folder_save(in_root("theirs"), &f.model, HT_F32, NULL, &lineage, &err),
                  HT_ERR_USAGE, &err, "holds a model already");
    close_model(&f);
}

/* A folder with training state is filled; a save that was cut short there is not taken for a model, and done
 * again. */
static void test_model_folder__fills_a_run(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    fixture f;
    int head_loaded;
    const ht_lineage lineage = {.stage = "sft"};
    open_model(&f, &tiny, HT_F32);
    fill_model(&f.model);
    make_folder(in_root("run/state"));
    write_text(in_root("run/metrics.jsonl"), "{}\n");
    write_text(in_root("run/.halter-saving"), "");
    write_text(in_root("run/config.json"),
               "{" LM ",\"vocab_size\":33,\"hidden_size\":8,\"intermediate_size\":12,"
               "\"num_hidden_layers\":2,\"num_attention_heads\":4,"
               "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5}");
    write_text(in_root("run/model-00001-of-00009.safetensors"), "half");
    write_text(in_root("run/model.safetensors.tmp-123"), "half");
    assert_false(ht_model_folder_complete(in_root("run")));
    assert_failed(ht_model_folder_load(in_root("run"), &f.model, &head_loaded, &err), HT_ERR_DATA, &err,
                  "is incomplete: saving into it was cut short");
    err = (ht_error)HT_ERROR_INIT;
    assert_ok(ht_model_folder_save(in_root("run"), &f.model, HT_F32, NULL, &lineage, &err), &err);
    assert_true(ht_model_folder_complete(in_root("run")));
    assert_false(ht_path_exists(in_root("run/.halter-saving")));
    assert_false(ht_path_exists(in_root("run/model-00001-of-00009.safetensors")));
    assert_false(ht_path_exists(in_root("run/model.safetensors.tmp-123")));
    assert_true(ht_path_exists(in_root("run/metrics.jsonl")));
    assert_true(ht_path_is_folder(in_root("run/state")));
    assert_ok(ht_model_folder_load(in_root("run"), &f.model, &head_loaded, &err), &err);
    close_model(&f);
}

/* Trains a small tokenizer and returns its path. */
static const char *make_tokenizer(void) {
    ht_error err = HT_ERROR_INIT;
    write_text(in_root("text"), "the cat sat on the mat, the rat sat on the hat\n");
    const char *text = in_root("text"), *path = in_root("trained.model");
    assert_ok(ht_tokenizer_train(&text, 1, 280, path, 0, &err), &err);
    return path;
}

static void test_model_folder__saves_the_tokenizer(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config = tiny;
    fixture f;
    json_t *json;
    char found[HT_PATH_MAX], source[HT_HASH_LEN], copy[HT_HASH_LEN];
    const ht_lineage chat = {.stage = "sft"}, plain = {.stage = "pretrain"};
    const char *tokenizer = make_tokenizer();
    config.vocab_size = 280;
    open_model(&f, &config, HT_F32);
    assert_ok(ht_model_folder_save(in_root("chat"), &f.model, HT_F32, tokenizer, &chat, &err), &err);
    assert_ok(ht_model_folder_tokenizer(in_root("chat"), found, &err), &err);
    assert_ok(ht_file_hash(tokenizer, source, &err), &err);
    assert_ok(ht_file_hash(found, copy, &err), &err);
    assert_string_equal(source, copy);
    assert_ok(ht_json_read(in_root("chat/tokenizer_config.json"), &json, &err), &err);
    assert_string_equal(ht_json_string(json, "bos_token"), "<s>");
    assert_string_equal(ht_json_string(json, "eos_token"), "</s>");
    assert_string_equal(ht_json_string(json, "unk_token"), "<unk>");
    assert_true(json_is_true(json_object_get(json, "legacy")));
    assert_non_null(strstr(ht_json_string(json, "chat_template"), "[INST] "));
    json_decref(json);
    assert_string_equal(warnings, "");
    assert_ok(ht_model_folder_save(in_root("plain"), &f.model, HT_F32, tokenizer, &plain, &err), &err);
    assert_ok(ht_json_read(in_root("plain/tokenizer_config.json"), &json, &err), &err);
    assert_null(json_object_get(json, "chat_template"));
    json_decref(json);
    close_model(&f);
    /* One that does not fit the model is said to. */
    config.vocab_size = 100, config.eos_id = 7;
    open_model(&f, &config, HT_F32);
    assert_ok(ht_model_folder_save(in_root("misfit"), &f.model, HT_F32, tokenizer, &chat, &err), &err);
    assert_non_null(strstr(warnings, "has BOS 1 and EOS 2, the model 1 and 7"));
    assert_non_null(strstr(warnings, "has 280 pieces, the model's vocabulary only 100"));
    close_model(&f);
}

static void test_model_folder__tokenizer_path(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char path[HT_PATH_MAX];
    assert_failed(ht_model_folder_tokenizer(root, path, &err), HT_ERR_DATA, &err, "has no tokenizer.model");
    write_text(in_root("tokenizer.json"), "{}");
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_model_folder_tokenizer(root, path, &err), HT_ERR_DATA, &err, "has only tokenizer.json");
    write_text(in_root("tokenizer.model"), "");
    err = (ht_error)HT_ERROR_INIT;
    assert_ok(ht_model_folder_tokenizer(root, path, &err), &err);
    assert_string_equal(path, in_root("tokenizer.model"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_model_folder__reads_transformers),
        TEST(test_model_folder__scalar_head_from_language_model),
        TEST(test_model_folder__refuses_another_model),
        TEST(test_model_folder__config_defaults),
        TEST(test_model_folder__config_accepts),
        TEST(test_model_folder__config_refuses),
        TEST(test_model_folder__refuses_misfit_tensors),
        TEST(test_model_folder__tied_head),
        TEST(test_model_folder__says_where_weights_are),
        TEST(test_model_folder__round_trip),
        TEST(test_model_folder__prefers_the_single_file),
        TEST(test_model_folder__float16_overflow),
        TEST(test_model_folder__lineage),
        TEST(test_model_folder__identity),
        TEST(test_model_folder__replaces_nothing),
        TEST(test_model_folder__fills_a_run),
        TEST(test_model_folder__saves_the_tokenizer),
        TEST(test_model_folder__tokenizer_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
