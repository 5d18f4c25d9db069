/*
 * llama.h: the transformer. Packed forward and backward by hand, the three heads, and cached decoding.
 *
 * Life: open a backend, init an arena, ht_llama_init (weights), ht_activations_init for the largest batch, seal.
 */
#ifndef HT_MODEL_LLAMA_H
#define HT_MODEL_LLAMA_H

#include <stdint.h>

#include "core/batch/batch.h"
#include "core/model/layout.h"

typedef struct ht_llama {
    ht_backend *be; /* borrowed */
    ht_llama_config config;
    ht_layout layout;
    ht_params weights;
    ht_tensor rope; /* [max_positions, head_dim] */
} ht_llama;

/* Allocates zeroed weights and the rotary table. */
ht_status ht_llama_init(ht_llama *model, ht_backend *be, ht_arena *arena, const ht_llama_config *config,
                        ht_dtype dtype, ht_error *err);
void ht_llama_free(ht_llama *model);

/*
 * Random weights: matrices N(0, 0.02), those that write to the residual stream N(0, 0.02 / sqrt(2 layers)), gains
 * 1, scalar head N(0, 1/(dim+1)). Pure function of (seed, parameter, element). Source: GPT-2 for the scaling; the scalar
 * head is Stiennon et al. 2020.
 */
ht_status ht_llama_randomize(ht_llama *model, uint64_t seed, ht_error *err);
/* The scalar head alone: a language model becomes a reward model. */
ht_status ht_llama_randomize_head(ht_llama *model, uint64_t seed, ht_error *err);

/* What is kept for the backward pass. */
typedef enum ht_keep {
    HT_KEEP_NOTHING,   /* forward only: one layer's buffers */
    HT_KEEP_ALL,       /* every layer's */
    HT_KEEP_RECOMPUTE  /* every layer's input; the rest is computed again in the backward pass */
} ht_keep;

typedef struct ht_activations ht_activations;

/* Buffers for batches of up to max_tokens tokens in max_sequences sequences. Heads run in chunks of HT_LOGIT_ROWS. */
ht_status ht_activations_init(ht_activations **acts, const ht_llama *model, ht_arena *arena, ht_keep keep,
                              int64_t max_tokens, int64_t max_sequences, ht_error *err);
void ht_activations_free(ht_activations *acts);

/*
 * Hidden states after the final norm, [T, dim], kept in `acts` (ht_activations_hidden).
 * HT_ERR_USAGE: batch larger than planned; HT_ERR_DATA: a token id outside the vocabulary, a sequence longer than
 * max_positions.
 */
ht_status ht_llama_forward(const ht_llama *model, ht_activations *acts, const ht_batch *batch, ht_error *err);
ht_tensor ht_activations_hidden(const ht_activations *acts);

/*
 * Gradients of everything below the heads: reads the gradient of the hidden states that the heads have written
 * (ht_lm_loss, ht_scalar_backward), adds to `grads` (f32, the model's layout). Call once after a forward.
 */
ht_status ht_llama_backward(const ht_llama *model, ht_activations *acts, ht_params *grads, ht_error *err);

/*
 * Log-probability and entropy of target tokens, and optionally the loss and its gradient. Runs in chunks of rows:
 * logits [T, vocab] never exist.
 *   rows    [count] host: batch row whose logits predict the target (distinct, ascending)
 *   targets [count] host
 *   logp, entropy [count] host, out; either may be NULL
 *   loss    kind and host arrays of `count`; NULL or kind NONE: no gradient
 *   total   out, f64: the sum of the rows' losses; may be NULL
 *   grads   in/out: the output head's gradient is added; the hidden states' gradient stays in `acts`
 */
typedef struct ht_lm_rows {
    int64_t count;
    const int32_t *rows, *targets;
    float *logp, *entropy;
    const ht_token_loss *loss;
    double *total;
} ht_lm_rows;
ht_status ht_lm_loss(const ht_llama *model, ht_activations *acts, const ht_lm_rows *rows, ht_params *grads,
                     ht_error *err);

/* values[r] (host) = hidden[rows[r]] . head, for a model with a scalar head. */
ht_status ht_scalar_forward(const ht_llama *model, ht_activations *acts, const int32_t *rows, int64_t count,
                            float *values, ht_error *err);
/* From d loss / d values (host): the head's gradient is added to grads, the hidden states' stays in `acts`. */
ht_status ht_scalar_backward(const ht_llama *model, ht_activations *acts, const int32_t *rows, int64_t count,
                             const float *dvalues, ht_params *grads, ht_error *err);

/* --- decoding --------------------------------------------------------------------------------------------- */

/* Paged cache: `blocks` blocks of `block_size` positions, every layer. */
typedef struct ht_kv_cache {
    ht_kv_pages *layers; /* [n_layers] */
    int64_t blocks, block_size;
    int64_t max_sequences, max_blocks; /* sequences a batch, blocks a sequence: the model's max_positions */
    int32_t *tables;                   /* [max_sequences, max_blocks], backend: the batch's block tables */
} ht_kv_cache;
ht_status ht_kv_cache_init(ht_kv_cache *cache, const ht_llama *model, ht_arena *arena, int64_t blocks,
                           int64_t block_size, int64_t max_sequences, ht_error *err);
void ht_kv_cache_free(ht_kv_cache *cache);

/* New tokens of several sequences, to be run over their caches. All arrays are host memory. */
typedef struct ht_decode_batch {
    const int32_t *tokens;       /* [T] */
    const int32_t *seq_start;    /* [S + 1] */
    const int32_t *past;         /* [S] positions already cached */
    const int32_t *block_tables; /* [S, cache->max_blocks] */
    int64_t sequences;
    const int32_t *logit_rows;   /* [R] ascending rows whose logits are wanted */
    int64_t logit_count;
} ht_decode_batch;

/* Fills the caches and *logits [R, vocab] (a view into acts, valid until the next call). `acts` may be HT_KEEP_NOTHING
 * ones; R at most HT_LOGIT_ROWS. */
#define HT_LOGIT_ROWS 256
ht_status ht_llama_decode(const ht_llama *model, ht_activations *acts, ht_kv_cache *cache,
                          const ht_decode_batch *batch, ht_tensor *logits, ht_error *err);

#endif
