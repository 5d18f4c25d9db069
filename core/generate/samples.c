#include "core/generate/samples.h"

ht_status ht_store_sample(ht_store *store, const ht_tokenizer *tokenizer, const ht_response_row *settings,
                          const ht_completion *completion, int64_t *id, ht_error *err) {
    ht_status status = HT_OK;
    ht_text text = {0};
    ht_response_row row = *settings;
    HT_TRY(ht_tokenizer_decode(tokenizer, completion->tokens, (size_t)completion->length, &text, err));
    const char *stripped = text.data;
    size_t size = text.size;
    ht_text_strip(&stripped, &size, HT_STRIP_BOTH);
    if (size) text.data[(size_t)(stripped - text.data) + size] = '\0';
    row.text = size ? stripped : "";
    row.tokens = completion->tokens;
    row.token_count = completion->length;
    row.finish = completion->finish == HT_STOP_EOS ? HT_FINISH_EOS : HT_FINISH_LENGTH;
    row.logprob = 0;
    for (int64_t t = 0; t < completion->length; t++)
        row.logprob += (double)completion->logp[t];
    HT_TRY(ht_store_add_response(store, &row, id, NULL, err));
done:
    ht_text_release(&text);
    return status;
}
