/*
 * samples.h: sampled responses as rows of the database, and back as token ids.
 */
#ifndef HT_GENERATE_SAMPLES_H
#define HT_GENERATE_SAMPLES_H

#include "core/generate/generate.h"
#include "core/store/store.h"
#include "core/tokenizer/chat.h"

/*
 * Adds a completion as a response: `settings` gives dialogue, model, run, round, step, temperature, top_p, seed and k; text
 * (decoded, stripped), ids, log-probability and finish come from the completion. *id = its row.
 */
ht_status ht_store_sample(ht_store *store, const ht_tokenizer *tokenizer, const ht_response_row *settings,
                          const ht_completion *completion, int64_t *id, ht_error *err);

/*
 * *out = prompt and response as a model reads them. A response that was sampled with this tokenizer is taken as its stored ids: decoding
 * and encoding again could change them. Any other is encoded from its text, with EOS unless it was cut at a length; *from_text = 1 when
 * there were ids that could not be used, else 0. Errors: as ht_chat_encode_dialog.
 */
ht_status ht_response_encode(const ht_chat *chat, ht_prompt prompt, const ht_response_row *response, ht_chat_ids *out, int *from_text,
                             ht_error *err);

#endif
