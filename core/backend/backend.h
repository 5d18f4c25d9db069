/*
 * backend.h: the one contract of every operation.
 *
 * The functions here check shapes and dtypes (HT_ERR_USAGE, naming the operation), then dispatch to the backend's table.
 * CPU and CUDA implement the same table; tests/op runs one list of cases on every backend against an fp64 scalar
 * reference.
 *
 * Conventions
 *   Pointers and tensors are memory of the backend, except where a comment says host.
 *   Activations and weights share one dtype, f32 (the reference mode) or bf16. Statistics, log-probabilities,
 *   gradients of weights and optimizer state are f32. Sums run in f32 or wider.
 *   T tokens of a packed batch, S sequences, H query heads, G key/value heads (H % G == 0), D head width, V vocabulary.
 *   Deterministic: same inputs and threads, same bits; no atomics in float sums.
 *   No operation allocates after its first call on a shape.
 * Tolerances of the tests: f32 1e-5 relative to the largest magnitude of a row's exact result times sqrt(terms)
 * roundings; bf16 2^-8 relative a rounding.
 */
#ifndef HT_BACKEND_BACKEND_H
#define HT_BACKEND_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"
#include "core/tensor/tensor.h"

typedef struct ht_backend ht_backend;

/* --- life and memory -------------------------------------------------------------------------------------- */

typedef enum ht_backend_kind { HT_BACKEND_AUTO, HT_BACKEND_CPU, HT_BACKEND_CUDA } ht_backend_kind;

/* NULL-terminated names in the order of ht_backend_kind, for option tables: "auto", "cpu", "cuda". */
extern const char *const ht_backend_names[];

/* threads 0: one a core. HT_ERR_USAGE when threads is below 0, or the kind is not built in or there is no such device. AUTO takes
 * CUDA where it is built in and there is a device, else the CPU, with a warning where a GPU is left alone. */
ht_status ht_backend_open(ht_backend **be, ht_backend_kind kind, int threads, ht_error *err);
/* The same, on the GPU of that number, counted round those that the process sees; `device` means nothing to the CPU. */
ht_status ht_backend_open_device(ht_backend **be, ht_backend_kind kind, int device, int threads, ht_error *err);
void ht_backend_close(ht_backend *be);
const char *ht_backend_name(const ht_backend *be);
int ht_backend_threads(const ht_backend *be); /* of the CPU */
void *ht_backend_stream(const ht_backend *be); /* the CUDA stream that all work is in order on; NULL: memory is the host's */

/* What a user may ask weights and activations to be. */
typedef enum ht_dtype_choice { HT_DTYPE_AUTO, HT_DTYPE_F32, HT_DTYPE_BF16 } ht_dtype_choice;

/* NULL-terminated, in the order of ht_dtype_choice: "auto", "f32", "bf16". */
extern const char *const ht_dtype_choice_names[];

/* The rows of a command's table; the configuration has an int `dtype`, an int `backend` and an int64_t `threads`. */
#define HT_DEVICE_OPTIONS(S)                                                                                                   \
    HT_OPT_CHOICE(S, dtype, "dtype", "f32", ht_dtype_choice_names, 0, "type of weights and activations"),                       \
        HT_OPT_CHOICE(S, backend, "backend", "auto", ht_backend_names, 0, "where to compute"),                                  \
        HT_OPT_INT(S, threads, "threads", "0", 0, 4096, 0, "CPU threads; 0: one a core; another number may change the last bits")

/* Makes the choice, once, after opening: AUTO takes the dtype in which this device computes faster and logs which and why.
 * HT_ERR_USAGE when the device cannot compute in the one asked for. */
ht_status ht_backend_choose_dtype(ht_backend *be, ht_dtype_choice choice, ht_error *err);
/* The one chosen: f32 or bf16; f32 before. */
ht_dtype ht_backend_dtype(const ht_backend *be);

/* Arenas (core/base/arena.h) take 64-byte aligned zeroed memory of the backend once this has pointed them at it. One that is
 * planning gets the memory that operations take besides booked, HT_MEMORY_BACKEND. */
struct ht_arena;
void ht_backend_arena(ht_backend *be, struct ht_arena *arena);

/* Bytes of the backend's memory that a plan may fill, and of all of it. */
ht_status ht_backend_memory(ht_backend *be, size_t *available, size_t *total, ht_error *err);
/* HT_ERR_NOMEM when what a planning arena has booked is more than is available: says the bytes of each category. */
ht_status ht_backend_check_plan(ht_backend *be, const struct ht_arena *plan, ht_error *err);

/* Host <-> backend. On return the host's memory has been read or written; the backend's is there for what is called next. */
ht_status ht_upload(ht_backend *be, void *to, const void *from_host, size_t bytes, ht_error *err);
ht_status ht_download(ht_backend *be, void *to_host, const void *from, size_t bytes, ht_error *err);
/* y (contiguous) = the elements at from_host, which may begin at any byte, converted to y's dtype as ht_convert does. Nothing
 * as large is allocated; long ones travel while the next are converted. */
ht_status ht_upload_converted(ht_backend *be, ht_tensor *y, const void *from_host, ht_dtype from, ht_error *err);
ht_status ht_zero(ht_backend *be, void *memory, size_t bytes, ht_error *err);
/* y = x rounded to y's dtype (f32 or bf16, nearest even); same shape; no overlap. */
ht_status ht_copy(ht_backend *be, ht_tensor *y, const ht_tensor *x, ht_error *err);

/* --- embedding -------------------------------------------------------------------------------------------- */

/* y[t] = table[ids[t]].  y [T, dim] out; table [V, dim]; ids [T], each in [0, V) (the caller checks). */
ht_status ht_embedding_forward(ht_backend *be, ht_tensor *y, const ht_tensor *table, const int32_t *ids, ht_error *err);

/* dtable[ids[t]] += dy[t], in order of t.  dtable [V, dim] f32 in/out; dy [T, dim]. */
ht_status ht_embedding_backward(ht_backend *be, ht_tensor *dtable, const ht_tensor *dy, const int32_t *ids,
                                ht_error *err);

/* --- normalisation ---------------------------------------------------------------------------------------- */

/*
 * y = x / rms(x) * gain, row by row; rms(x) = sqrt(mean(x^2) + eps).
 *   y [T, dim] out, may alias x; rstd [T] out, f32, 1/rms, kept for the backward pass; x [T, dim]; gain [1, dim]
 * A row's bits do not depend on T. Source: Zhang and Sennrich 2019; Llama 2 section 2.2.
 */
ht_status ht_rms_norm_forward(ht_backend *be, ht_tensor *y, float *rstd, const ht_tensor *x, const ht_tensor *gain,
                              float eps, ht_error *err);

/*
 * dx += rstd * (gain * dy - xhat * mean(gain * dy * xhat)), xhat = x * rstd;  dgain += sum over rows of dy * xhat.
 *   dx [T, dim] in/out, accumulated (the residual stream's gradient); dgain [1, dim] f32 in/out, NULL: not wanted
 */
ht_status ht_rms_norm_backward(ht_backend *be, ht_tensor *dx, ht_tensor *dgain, const ht_tensor *dy,
                               const ht_tensor *x, const float *rstd, const ht_tensor *gain, ht_error *err);

/* --- products --------------------------------------------------------------------------------------------- */

/*
 * y = x w^T (+ add).  y [M, N] out, of x's dtype or f32; x [M, K]; w [N, K] of x's dtype.
 *   add [M, N] of y's dtype, may be y itself; NULL: nothing. The sum is rounded once.
 */
ht_status ht_matmul_forward(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w, const ht_tensor *add,
                            ht_error *err);
/* The same, and a row's bits depend on nothing but that row of x and add, and w: neither on M nor on the number of
 * threads. For decoding, where the rows of a batch are strangers to each other; made for M up to a few hundred. */
ht_status ht_matmul_rows(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w, const ht_tensor *add,
                         ht_error *err);
/* dx = dy w.  dx [M, K]; dy [M, N]; w [N, K]; one dtype. */
ht_status ht_matmul_backward_data(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const ht_tensor *w,
                                  ht_error *err);
/* dw += dy^T x.  dw [N, K] f32; dy [M, N]; x [M, K] of dy's dtype. */
ht_status ht_matmul_backward_weight(ht_backend *be, ht_tensor *dw, const ht_tensor *dy, const ht_tensor *x,
                                    ht_error *err);

/* --- rotary position -------------------------------------------------------------------------------------- */

/*
 * Rotates, in place, the two halves of every head by the angle of the token's position (Hugging Face's layout:
 * element i pairs with i + D/2).  direction +1 forward, -1 backward.
 *   x [T, heads * D] in/out; positions [T]; table [positions, D]: cos of D/2 angles, then sin of them
 */
ht_status ht_rope(ht_backend *be, ht_tensor *x, int64_t heads, int64_t head_dim, const int32_t *positions,
                  const ht_tensor *table, int direction, ht_error *err);

/* --- attention -------------------------------------------------------------------------------------------- */

/* Shape of packed causal grouped-query attention. */
typedef struct ht_attention_shape {
    int64_t heads, kv_heads, head_dim;
    int64_t sequences;            /* S */
    const int32_t *seq_start;     /* [S + 1], backend memory; seq_start[S] = T */
    const int32_t *seq_start_host; /* the same on the host */
} ht_attention_shape;

/*
 * out = softmax(q k^T / sqrt(D)) v inside each sequence, causal; head h reads key/value head h / (H/G).
 *   out [T, H*D] out; lse [T, H] out, f32, log-sum-exp of the scaled scores, kept for the backward pass
 *   q [T, H*D]; k, v [T, G*D] (views into one buffer are fine)
 */
ht_status ht_attention_forward(ht_backend *be, ht_tensor *out, float *lse, const ht_tensor *q, const ht_tensor *k,
                               const ht_tensor *v, const ht_attention_shape *shape, ht_error *err);

/* dq, dk, dv (overwritten) from dout; arguments as in the forward pass. */
typedef struct ht_attention_backward_args {
    ht_tensor *dq, *dk, *dv;
    const ht_tensor *dout, *q, *k, *v, *out;
    const float *lse;
} ht_attention_backward_args;
ht_status ht_attention_backward(ht_backend *be, const ht_attention_backward_args *args,
                                const ht_attention_shape *shape, ht_error *err);

/*
 * Paged key/value cache of one layer: memory for keys and values, each [blocks * block_size, G*D]. Position p of a
 * sequence lies in block block_table[p / block_size]; what lies where inside a block is the backend's own affair.
 */
typedef struct ht_kv_pages {
    ht_tensor keys, values;
    int64_t block_size; /* a multiple of 16 */
} ht_kv_pages;

/* New rows of several sequences over their caches. */
typedef struct ht_cached_shape {
    int64_t heads, kv_heads, head_dim;
    int64_t sequences;                /* S */
    const int32_t *seq_start;         /* [S + 1] rows of each sequence among the T new ones */
    const int32_t *past;              /* [S] positions already in the cache */
    const int32_t *block_tables;      /* [S, max_blocks] */
    int64_t max_blocks;
    const int32_t *seq_start_host, *past_host, *block_tables_host;
} ht_cached_shape;

/* The least multiple of 128 that no sequence's keys (past and new rows) exceed: all that a backend may size a launch by
 * besides the number of sequences and rows, so that a recorded pass (ht_replay) serves the ones after it. */
int64_t ht_cached_most_keys(const ht_cached_shape *shape);

/*
 * Writes k, v of the new rows into the pages, then out = attention of each new row over positions 0 .. its own.
 * One operation for prefill (past 0, many rows), decoding (one row) and checking a proposal (a few rows). A row's bits
 * depend on its own sequence up to itself only: not on how its sequence was cut into calls, nor on the other sequences.
 *   out, q [T, H*D]; k, v [T, G*D]
 */
ht_status ht_attention_cached(ht_backend *be, ht_tensor *out, const ht_tensor *q, const ht_tensor *k,
                              const ht_tensor *v, ht_kv_pages *pages, const ht_cached_shape *shape, ht_error *err);

/* --- feed-forward ----------------------------------------------------------------------------------------- */

/* y = silu(g) * u.  y [T, F] out; gu [T, 2F]: g in the first F columns, u in the rest. */
ht_status ht_swiglu_forward(ht_backend *be, ht_tensor *y, const ht_tensor *gu, ht_error *err);
/* dgu [T, 2F] out (may alias gu) from dy [T, F] and gu. */
ht_status ht_swiglu_backward(ht_backend *be, ht_tensor *dgu, const ht_tensor *dy, const ht_tensor *gu, ht_error *err);

/* --- rows ------------------------------------------------------------------------------------------------- */

/* y[r] = x[rows[r]].  y [R, dim]; rows [R] in [0, T), backend memory. */
ht_status ht_gather_rows(ht_backend *be, ht_tensor *y, const ht_tensor *x, const int32_t *rows, ht_error *err);
/* dx[rows[r]] += dy[r]; rows are distinct. */
ht_status ht_scatter_rows(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const int32_t *rows, ht_error *err);

/* --- token losses ----------------------------------------------------------------------------------------- */

typedef enum ht_token_loss_kind {
    HT_TOKEN_LOSS_NONE, /* log-probability (and entropy) only */
    HT_TOKEN_LOSS_NLL,  /* loss = -weight * logp */
    HT_TOKEN_LOSS_CLIP  /* PPO: loss = -weight * min(r A, clip(r, 1 - c, 1 + c) A), r = exp(logp - old_logp) */
} ht_token_loss_kind;

typedef struct ht_token_loss {
    ht_token_loss_kind kind;
    const float *weight;    /* [R]; carries 1 / (tokens of the whole step) */
    const float *old_logp;  /* [R], CLIP */
    const float *advantage; /* [R], CLIP */
    float clip;             /* CLIP */
} ht_token_loss;

/*
 * For each row: logp = log softmax(logits)[target], entropy of the softmax; then, unless kind is NONE,
 * dlogits = d loss / d logits = (d loss / d logp) * (onehot(target) - softmax).
 *   logits [R, V] f32; targets [R]; logp [R] out; entropy [R] out, NULL: not wanted
 *   dlogits [R, V] out, f32 or bf16; may be logits itself; NULL with kind NONE
 *   loss: arrays are backend memory
 * Softmax runs in f32. Source: PPO's surrogate is Schulman et al. 2017 eq. 7.
 */
ht_status ht_token_loss_forward(ht_backend *be, const ht_tensor *logits, ht_tensor *dlogits, const int32_t *targets,
                                float *logp, float *entropy, const ht_token_loss *loss, ht_error *err);

/* --- optimizer -------------------------------------------------------------------------------------------- */

typedef struct ht_adamw_args {
    double lr, beta1, beta2, eps, decay;
    double grad_scale; /* multiplies the gradient: clipping */
    int64_t step;      /* 1 for the first update */
} ht_adamw_args;

/* How moments are kept between updates. */
typedef enum ht_adamw_state { HT_ADAMW_F32, HT_ADAMW_BF16, HT_ADAMW_8BIT } ht_adamw_state;

/* NULL-terminated, in the order of ht_adamw_state: "f32", "bf16", "8bit". */
extern const char *const ht_adamw_state_names[];

enum { HT_ADAMW_BLOCK = 256 }; /* elements that share a scale */

/* The n elements of one parameter. */
typedef struct ht_adamw_run {
    ht_adamw_state state;
    ht_dtype dtype; /* of w: f32 or bf16 */
    void *w;        /* in/out */
    uint16_t *low;  /* in/out: what f32 weights have beyond w; with f32 state and bf16 w; else NULL */
    void *m, *v;    /* in/out: f32, bf16, or a byte each */
    float *m_scale, *v_scale; /* [ceil(n / HT_ADAMW_BLOCK)] in/out, only with 8-bit state */
    float *grad;    /* in/out: zero on return */
    int64_t n;
    uint64_t seed, stream; /* Philox coordinates of this parameter and update; f32 state draws nothing */
} ht_adamw_run;

/*
 * AdamW with decoupled decay: g = grad * grad_scale; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
 * w = w (1 - lr decay) - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps).  All f32.
 * Source: Loshchilov and Hutter 2019, in PyTorch's form.
 *
 * With f32 state and bf16 w the weights are f32 all the same, their bits (w << 16) + (low as a signed number): w is the
 * bf16 number nearest to the weight, of two the larger in magnitude, and with low = 0 the weight itself.
 *
 * What is kept in fewer bits is read to f32, updated in f32, used by this update as it is, and only then rounded, to one
 * of its two neighbours with the probabilities that make the mean exact (stochastic rounding; Gupta et al. 2015), since
 * what rounding to nearest would swallow is most of an update. It draws 16 bits for each number, a function of (seed,
 * stream, element).
 *   bf16 state: m and v, and w where it is bf16, are bf16.
 *   8-bit state: m and v are bytes, small floats relative to their block's scale, a power of two: m a sign, 4 bits of
 *     exponent, 3 of mantissa, v 5 and 3; the block's largest magnitude sets the scale anew at each update. Values are
 *     (1 + mantissa / 8) 2^(exponent - 15) for m, - 31 for v, below exponent 1 mantissa / 8 of the smallest normal one.
 *     A v above zero is never rounded to zero. w as with bf16 state. Zero bytes and scales are zeros.
 *     Source: blocks are Dettmers et al. 2022's; power-of-two scales and small floats the OCP Microscaling formats'
 *     (Rouhani et al. 2023).
 */
ht_status ht_adamw(ht_backend *be, const ht_adamw_run *run, const ht_adamw_args *args, ht_error *err);

/* *sum (host) = sum of x[i]^2 over n f32 elements, in f64, by a fixed tree. */
ht_status ht_sum_squares(ht_backend *be, const float *x, int64_t n, double *sum, ht_error *err);

/* --- sampling --------------------------------------------------------------------------------------------- */

/* How one row is sampled. temperature 0: the largest logit, the lowest id among equals. */
typedef struct ht_sampling {
    float temperature;
    float top_p;   /* 1: off; keeps the smallest set of most probable tokens whose mass reaches top_p */
    int32_t top_k; /* 0: off */
    uint64_t seed, stream, index; /* Philox coordinates of the uniform number */
} ht_sampling;

/*
 * Samples one token a row: temperature, then top-k, then top-p, renormalised.
 *   logits [R, V] f32; settings [R] host; tokens [R] host out
 *   logp [R] host out: log-probability of the token under softmax(logits), temperature 1 and unfiltered; what PPO
 *   and reports use (NULL: not wanted)
 */
ht_status ht_sample(ht_backend *be, const ht_tensor *logits, const ht_sampling *settings, int32_t *tokens,
                    float *logp, ht_error *err);

/* --- passes that repeat ----------------------------------------------------------------------------------- */

/* What a backend keeps of a pass. */
typedef struct ht_recording ht_recording;

/*
 * Does what run(context, err) does, whose calls are the same every time: operations, tensors and sizes; what lies in the
 * tensors may differ. Where starting operations one by one costs time, the backend records them (*recording NULL), and from
 * then on starts them as one without calling `run`. Elsewhere, and while a profile counts, it calls `run`.
 *   recording  in/out, NULL at first: one for each such pass
 *   run        has been called before with these sizes; uses no host memory (ht_upload, ht_download, ht_sum_squares, ht_sample)
 */
ht_status ht_replay(ht_backend *be, ht_recording **recording, ht_status (*run)(void *context, ht_error *err), void *context,
                    ht_error *err);
/* NULL is fine. */
void ht_recording_free(ht_backend *be, ht_recording *recording);

#endif
