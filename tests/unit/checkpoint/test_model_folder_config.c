#include "tests/unit/checkpoint/models.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_model_folder__config_defaults),
        TEST(test_model_folder__config_accepts),
        TEST(test_model_folder__config_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
