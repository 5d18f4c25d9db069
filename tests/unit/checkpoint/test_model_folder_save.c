#include "tests/unit/checkpoint/models.h"

#include "core/base/json.h"
#include "core/tokenizer/tokenizer.h"

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
    write_text(in_root("run/config.json"), TINY_JSON);
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
        TEST(test_model_folder__round_trip),
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
