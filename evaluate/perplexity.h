/*
 * perplexity.h: log-probability of plain text under a model.
 */
#ifndef HT_EVALUATE_PERPLEXITY_H
#define HT_EVALUATE_PERPLEXITY_H

#include "core/batch/documents.h"
#include "core/model/llama.h"
#include "core/tokenizer/tokenizer.h"
#include "evaluate/evaluate.h"

/*
 * A text is BOS and the ids of its bytes; of several documents each is BOS, ids, EOS, as halter-sft trains them. One of more
 * than seq_len ids is cut into windows of seq_len (the last may be shorter), each beginning with the last id of the one
 * before. Every id of a window but its first is predicted from those before it in the window: so every id of the text but
 * BOS is predicted exactly once, the first ones of a later window from a short context.
 */
typedef struct ht_perplexity {
    double nll; /* sum over predicted tokens, nats */
    int64_t tokens, documents, windows;
} ht_perplexity;

typedef struct ht_perplexity_task {
    const ht_llama *model;         /* borrowed, as what follows */
    ht_activations *acts;          /* of pass_tokens tokens in pass_tokens / 2 sequences; keeps nothing */
    const ht_tokenizer *tokenizer;
    ht_documents documents;
    int64_t seq_len, pass_tokens; /* 2 <= seq_len <= pass_tokens */
} ht_perplexity_task;

/*
 * Adds up a text. HT_ERR_DATA: the text is not UTF-8 (with the document's byte), there is nothing to predict, an id is none
 * of the model's; HT_ERR_RUN: a log-probability is not finite.
 */
ht_status ht_perplexity_of(ht_perplexity *result, const ht_perplexity_task *task, ht_span text, ht_error *err);

#endif
