#include "core/generate/samples.h"

#include <string.h>

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

ht_status ht_response_encode(const ht_chat *chat, ht_prompt prompt, const ht_response_row *response, ht_chat_ids *out, int *from_text,
                             ht_error *err) {
    int has_ids = response->tokens && response->token_count > 0;
    int usable = has_ids && response->tokenizer_hash && strcmp(response->tokenizer_hash, ht_tokenizer_hash(chat->tokenizer)) == 0;
    *from_text = has_ids && !usable;
    if (usable)
        return ht_chat_encode_response(chat, prompt, response->tokens, (size_t)response->token_count, out, err);
    return ht_chat_encode_dialog(chat, prompt, response->text,
                                 response->finish == HT_FINISH_LENGTH ? HT_ANSWER_CUT : HT_ANSWER_FINISHED, out, err);
}
