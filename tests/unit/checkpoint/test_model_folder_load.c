#include "tests/unit/checkpoint/models.h"

#include "core/base/json.h"
#include "core/checkpoint/safetensors.h"

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

/* ---- weights that do not fit ---- */

/* Tensors to put into or leave out of a folder that is otherwise right. */
typedef struct tensor_change {
    const char *name;
    const char *dtype;  /* NULL: left out */
    int64_t rows, cols; /* cols 0: one-dimensional */
} tensor_change;

/* Writes a folder of zeros for the tiny model with one tensor changed or added. */
static void write_changed(const char *folder, const tensor_change *change) {
    ht_error err = HT_ERROR_INIT;
    ht_layout layout;
    char path[600];
    json_t *header = json_object();
    size_t end = 0;
    assert_ok(ht_layout_init(&layout, &tiny, &err), &err);
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
    write_text(path, TINY_JSON);
    free(text);
    json_decref(header);
    ht_layout_free(&layout);
}

static void test_model_folder__refuses_misfit_tensors(void **state) {
    (void)state;
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
        write_changed(in_root("m"), &cases[i].change);
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
        write_text(in_root("m/config.json"), TINY_JSON);
        snprintf(path, sizeof path, "m/%s", cases[i].file);
        write_text(in_root(path), "");
        assert_failed(ht_model_folder_load(in_root("m"), &f.model, &head_loaded, &err), HT_ERR_DATA, &err,
                      cases[i].message);
        assert_false(ht_model_folder_complete(in_root("m")));
        assert_ok(ht_folder_remove(in_root("m"), &(ht_error)HT_ERROR_INIT), &(ht_error)HT_ERROR_INIT);
    }
    close_model(&f);
}

/* ---- shards and the single file ---- */

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

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_model_folder__reads_transformers),
        TEST(test_model_folder__scalar_head_from_language_model),
        TEST(test_model_folder__refuses_another_model),
        TEST(test_model_folder__refuses_misfit_tensors),
        TEST(test_model_folder__tied_head),
        TEST(test_model_folder__says_where_weights_are),
        TEST(test_model_folder__prefers_the_single_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
