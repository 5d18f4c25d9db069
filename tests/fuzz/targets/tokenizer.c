/* tokenizer.model: what is let through must encode a text, and decode every one of its ids. */
#include <stdlib.h>
#include <string.h>

#include "core/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void use(const ht_tokenizer *tokenizer) {
    static const char text[] = "The llama\xE2\x80\x99s wool,  \xC3\xA9t\xC3\xA9 42.\n\t[INST] Hello";
    ht_error err = HT_ERROR_INIT;
    ht_ids ids = {0};
    ht_text decoded = {0};
    fuzz_judge(ht_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &err), &err);
    fuzz_judge(ht_tokenizer_decode(tokenizer, ids.data, ids.count, &decoded, &err), &err);
    ids.count = 0;
    for (int32_t id = 0; id < ht_tokenizer_size(tokenizer); id++) {
        if (!ht_tokenizer_piece(tokenizer, id)) __builtin_trap();
        fuzz_must(ht_ids_append(&ids, &id, 1, &err), &err);
    }
    fuzz_judge(ht_tokenizer_decode(tokenizer, ids.data, ids.count, &decoded, &err), &err);
    if (ht_utf8_valid(decoded.data, decoded.size) != decoded.size) __builtin_trap();
    ht_ids_release(&ids);
    ht_text_release(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ht_error err = HT_ERROR_INIT;
    ht_tokenizer *tokenizer;
    fuzz_write("tokenizer.model", data, size);
    ht_status status = ht_tokenizer_open(&tokenizer, fuzz_path("tokenizer.model"), &err);
    if (status == HT_OK) use(tokenizer);
    ht_tokenizer_free(tokenizer);
    fuzz_judge(status, &err);
    return 0;
}
