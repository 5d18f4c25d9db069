/*
 * lookup.h: prompt-lookup decoding: proposals from the context itself, without a draft model.
 */
#ifndef HT_GENERATE_LOOKUP_H
#define HT_GENERATE_LOOKUP_H

#include <stdint.h>

#define HT_LOOKUP_NGRAM 2 /* longest run of last tokens that is searched for; transformers' default */

/*
 * Proposes what followed the last n tokens of the context when they first stood there, for n from
 * HT_LOOKUP_NGRAM down to 1: up to `wanted` tokens into `proposal`, ending before the first `stop_id` (-1:
 * none). Returns how many; 0 when there is no earlier match. Source: the prompt_lookup_num_tokens option of
 * transformers' generate.
 */
int64_t ht_lookup(const int32_t *context, int64_t length, int64_t wanted, int32_t stop_id, int32_t *proposal);

#endif
