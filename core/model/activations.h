/*
 * activations.h: inside of the model: buffers of one pass.
 */
#ifndef HT_MODEL_ACTIVATIONS_H
#define HT_MODEL_ACTIVATIONS_H

#include "core/model/llama.h"

/* What one layer reads and leaves behind; views of the batch at hand. */
typedef struct ht_layer_activations {
    ht_tensor x;         /* [T, dim] input */
    ht_tensor qkv;       /* [T, (H + 2G) D], q and k rotated */
    ht_tensor attention; /* [T, H D] */
    ht_tensor middle;    /* [T, dim] after attention */
    ht_tensor gate_up;   /* [T, 2 ffn] */
    float *lse;          /* [T, H] */
    float *rstd_input, *rstd_post; /* [T] */
} ht_layer_activations;

/* Vectors of one value a row that the language-model loss exchanges with the backend. */
enum { HT_ROW_LOGP, HT_ROW_ENTROPY, HT_ROW_WEIGHT, HT_ROW_OLD_LOGP, HT_ROW_ADVANTAGE, HT_ROW_FLOATS };

/* What the calls of a decoding pass with one row a sequence depend on: the weights' and block tables' place, and sizes. */
typedef struct ht_decode_key {
    const void *weights, *tables;
    int64_t sequences, most_keys;
} ht_decode_key;

struct ht_activations {
    ht_backend *be; /* borrowed */
    ht_keep keep;
    int64_t max_tokens, max_sequences;
    int64_t n_layers;
    ht_dtype dtype;
    ht_layer_activations *layers; /* [n_layers] as planned; some share memory, by `keep` */
    ht_tensor *inputs;            /* [n_layers + 1] inputs of layers, and the last one's output */

    /* of the batch at hand */
    int64_t tokens_now, sequences;
    int32_t *tokens, *positions, *seq_start, *past; /* backend */
    int32_t *positions_host, *seq_start_host;
    int32_t *rows;                           /* [max_tokens] backend: rows of a head */
    int32_t *targets;                        /* [HT_LOGIT_ROWS] backend */

    ht_tensor normed, ffn, hidden, discard; /* [T, dim], [T, ffn], [T, dim], [T, dim] */
    ht_tensor dhidden, dattention, dqkv;    /* gradients; absent with HT_KEEP_NOTHING */
    float *rstd_final;
    int has_gradient;                       /* a head has written dhidden */

    ht_tensor head_rows, dhead_rows; /* [HT_LOGIT_ROWS, dim] */
    ht_tensor logits;                /* f32 [HT_LOGIT_ROWS, vocab], or [HT_LOGIT_ROWS, 1] */
    ht_tensor dlogits;               /* their gradient in the activations' dtype: of f32 ones, in the same place */
    float *row_floats;               /* backend [HT_ROW_FLOATS, HT_LOGIT_ROWS] */
    float *row_floats_host;

    /* the last such pass of decoding; its launches once it has come again */
    ht_decode_key steady;
    ht_recording *recording;
};

/* Views of layer `layer`, cut to the batch at hand. */
ht_layer_activations ht_activations_layer(const ht_activations *a, int64_t layer);
ht_tensor ht_activations_layer_input(const ht_activations *a, int64_t layer);

/* Copies a batch in and cuts the views. Positions of sequence s count from past[s]; past NULL: from 0.
 * HT_ERR_USAGE when it is larger than planned, HT_ERR_DATA for a bad token. */
ht_status ht_activations_load(ht_activations *a, const ht_llama *model, const int32_t *tokens,
                              const int32_t *seq_start, const int32_t *past, int64_t sequences, ht_error *err);

/* HT_ERR_USAGE with HT_KEEP_NOTHING: there is no place for a gradient. */
ht_status ht_activations_check_keep(const ht_activations *a, ht_error *err);

/* Zeroes dhidden when no head has written it yet in this pass. */
ht_status ht_activations_need_gradient(ht_activations *a, const ht_llama *model, ht_error *err);

/* The output matrix of weights or gradients: lm_head, the tied embedding, or the scalar head. */
ht_tensor ht_llama_output(const ht_llama *model, const ht_params *params);

/* Decoding: where attention reads its past. */
typedef struct ht_decode_context {
    ht_kv_cache *cache;
    ht_cached_shape shape;
} ht_decode_context;

/* Embedding to final norm over the loaded batch. decode NULL: packed sequences. */
ht_status ht_llama_run(const ht_llama *model, ht_activations *a, const ht_decode_context *decode, ht_error *err);

#endif
