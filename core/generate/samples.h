/*
 * samples.h: sampled responses as rows of the database.
 */
#ifndef HT_GENERATE_SAMPLES_H
#define HT_GENERATE_SAMPLES_H

#include "core/generate/generate.h"
#include "core/store/store.h"
#include "core/tokenizer/tokenizer.h"

/*
 * Adds a completion as a response: `settings` gives dialogue, model, run, round, step, temperature, top_p, seed and k; text
 * (decoded, stripped), ids, log-probability and finish come from the completion. *id = its row.
 */
ht_status ht_store_sample(ht_store *store, const ht_tokenizer *tokenizer, const ht_response_row *settings,
                          const ht_completion *completion, int64_t *id, ht_error *err);

#endif
