/*
 * policy.h: a language model's folder, loaded and ready to generate: chat, rejection, evaluate.
 */
#ifndef HT_GENERATE_POLICY_H
#define HT_GENERATE_POLICY_H

#include "core/base/arena.h"
#include "core/generate/generate.h"
#include "core/tokenizer/tokenizer.h"

typedef struct ht_policy {
    ht_backend *be; /* borrowed */
    ht_arena arena; /* its own: weights, cache, activations */
    ht_llama model;
    ht_tokenizer *tokenizer;
    ht_engine *engine;
} ht_policy;

/*
 * Reads the folder's config, weights and tokenizer and makes the engine. *policy need not be initialised;
 * zeroed on failure. Of the limits, cache_tokens 0 is as much as max_sequences of the model's max_positions
 * need, and prefill_tokens 0 is HT_POLICY_PREFILL.
 *
 * Errors: HT_ERR_NOMEM, with the numbers, before anything is loaded when it does not fit; those of ht_model_folder_config, ht_model_folder_load and ht_tokenizer_open; HT_ERR_DATA for a
 * reward model, or a tokenizer with more pieces than the model has rows. EOS of model and tokenizer being
 * different is a warning: the model's ends a response.
 */
#define HT_POLICY_PREFILL 512
ht_status ht_policy_open(ht_policy *policy, ht_backend *be, const char *folder, ht_dtype dtype,
                         const ht_engine_limits *limits, ht_error *err);
void ht_policy_free(ht_policy *policy); /* of a zeroed one: does nothing */

#endif
