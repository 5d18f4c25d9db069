/*
 * works.h: the pieces of work that are measured, on random weights.
 *
 *   sft           one optimizer step on 8 sequences of 512 tokens: forward, loss on every token, backward,
 * clipping, AdamW forward       log-probabilities of every token of 8 sequences of 512 generate-N    N
 * sequences at once, greedy, 32 prompt tokens and 128 new ones each, end-of-sequence ignored
 *
 * bench/peers/torch_train.py does the same work with PyTorch and transformers.
 */
#ifndef HT_BENCH_WORKS_H
#define HT_BENCH_WORKS_H

#include "core/base/arena.h"
#include "core/generate/generate.h"
#include "core/optim/adamw.h"

typedef struct work {
    ht_backend *be; /* borrowed */
    ht_arena arena;
    ht_llama model;
    ht_trainable trainable;
    ht_activations *acts;
    ht_batch batch;
    ht_engine *engine;
    int64_t parallel; /* sequences generated at once; 0: not generation */
    int trains;
    ht_lm_rows rows;
    ht_token_loss loss;
    int32_t *prompts;
} work;

/* Sets up `name` on a model of a size ("tiny", "small", "medium"). HT_ERR_USAGE: no such work, size or dtype.
 */
ht_status work_open(work *w, ht_backend *be, const char *size, const char *name, const char *dtype,
                    ht_error *err);
void work_close(work *w);

/* Does it once; *tokens = tokens that count: trained, scored, or newly generated. */
ht_status work_run(work *w, int64_t *tokens, ht_error *err);

#endif
