/* The prompts of halter-chat --input: the model's folder has no weights, so that a file without fault ends
 * there. */
#include <stdio.h>

#include "chat/session.h"
#include "core/checkpoint/folder_files.h"
#include "tests/fuzz/fuzz.h"

static void prepare(ht_session *session) {
    static ht_chat_config config = {
        .system = (char *)"Be brief.", .json = 1, .max_new_tokens = 16, .batch = 4, .threads = 1};
    static ht_chat_streams streams;
    ht_error err = HT_ERROR_INIT;
    static char input[512], model[512];
    fuzz_train_tokenizer(HT_FILE_TOKENIZER);
    fuzz_write_text(
        HT_FILE_CONFIG,
        "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 310, "
        "\"hidden_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 1, "
        "\"intermediate_size\": 8, \"max_position_embeddings\": 256}");
    snprintf(input, sizeof input, "%s", fuzz_path("prompts.jsonl"));
    snprintf(model, sizeof model, "%s", fuzz_path(""));
    config.input = input;
    config.model = model;
    fuzz_must(ht_session_open(session, &config, &streams, &err), &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ht_session session;
    ht_error err = HT_ERROR_INIT;
    if (!session.tokenizer) prepare(&session);
    fuzz_write("prompts.jsonl", data, size);
    ht_status status = ht_chat_batch(&session, &err);
    if (status == HT_OK) __builtin_trap(); /* without weights? */
    fuzz_judge(status, &err);
    ht_backend_close(session.be);
    session.be = NULL;
    return 0;
}
