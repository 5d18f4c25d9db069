/*
 * generate.h: the decoding engine. Continuous batching over a paged cache: a finished sequence's place is taken by the
 * next request at once; when blocks run out, requests wait. Used by rejection, ppo, evaluate, chat.
 *
 * A request's sample depends on its prompt, its settings and (seed, stream, position), through Philox: what else is decoded
 * beside it, and how prompts are cut into passes, changes no bit. Requests whose prompts begin alike, as the K samples of
 * one prompt do, compute and store the whole blocks they share once; put them next to each other.
 */
#ifndef HT_GENERATE_GENERATE_H
#define HT_GENERATE_GENERATE_H

#include "core/comm/comm.h"
#include "core/model/llama.h"

typedef enum ht_stop_reason { HT_STOP_EOS, HT_STOP_LENGTH } ht_stop_reason;

typedef struct ht_request {
    const int32_t *prompt; /* borrowed, [prompt_length >= 1] */
    int64_t prompt_length;
    int64_t max_new_tokens; /* also bounded by the model's max_positions: see ht_generate */
    float temperature;      /* 0: greedy */
    float top_p;            /* 1: off */
    int32_t top_k;          /* 0: off */
    uint64_t seed, stream;  /* Philox; index is the position in the response */
    int ignore_eos;         /* go on after EOS up to max_new_tokens */
    int32_t lookup_tokens;  /* prompt-lookup decoding: tokens proposed a pass; 0: off. The output is the same. */
} ht_request;

typedef struct ht_completion {
    int32_t *tokens; /* new memory, [length], EOS included when finish is EOS */
    float *logp;     /* [length] log-probabilities under the unfiltered policy at temperature 1 */
    int64_t length;
    ht_stop_reason finish;
} ht_completion;

/* Called for every new token, in order within a request; a status other than HT_OK stops the generation. */
typedef ht_status (*ht_token_callback)(void *context, int64_t request, int32_t token, ht_error *err);

typedef struct ht_engine ht_engine;

typedef struct ht_engine_limits {
    int64_t max_sequences;  /* decoded at once, at most HT_LOGIT_ROWS */
    int64_t cache_tokens;   /* positions in the paged cache; at least one request's prompt + max_new_tokens */
    int64_t prefill_tokens; /* new tokens a pass; at least max_sequences are always allowed */
    /* 1: what the cache holds is kept from one ht_generate to the next, so that a dialogue's next turn computes only what
     * is new. The weights must not change in between. 0: every call begins anew. */
    int keep_cache;
} ht_engine_limits;

/* Sums since ht_engine_init. */
typedef struct ht_engine_stats {
    int64_t passes;
    int64_t prompt_tokens; /* of requests that were started */
    int64_t shared_tokens; /* positions not computed because the cache held them */
    int64_t new_tokens;
    int64_t proposed, accepted; /* prompt-lookup decoding */
    int64_t put_back; /* times a sequence gave its blocks to an older one and waited */
} ht_engine_stats;

/*
 * Cache and activations from the arena, everything else too: passes allocate nothing. `model` is borrowed; its weights may
 * change between calls of ht_generate. In planning mode of the arena nothing can be generated.
 */
ht_status ht_engine_init(ht_engine **engine, const ht_llama *model, ht_arena *arena, const ht_engine_limits *limits,
                         ht_error *err);
void ht_engine_free(ht_engine *engine);

/*
 * Runs all requests; completions [count] are zeroed and then filled (also released on failure).
 * HT_ERR_DATA: a prompt that leaves no room for one new token (names index, length and limit), or holds an id that is not
 * in the vocabulary. HT_ERR_USAGE: a request that alone does not fit the cache, or has no meaning. A request that meets
 * max_positions or max_new_tokens finishes with LENGTH. HT_INTERRUPTED / HT_TERMINATED when asked to stop, looked at
 * between passes. Order of on_token: within a request in order; requests alternate.
 */
ht_status ht_generate(ht_engine *engine, const ht_request *requests, int64_t count, ht_completion *completions,
                      ht_token_callback on_token, void *context, ht_error *err);
/* The same for requests that all ranks have: each rank generates its part (ht_comm_part), and gets all completions. */
ht_status ht_generate_shared(ht_engine *engine, ht_comm *comm, const ht_request *requests, int64_t count,
                             ht_completion *completions, ht_error *err);
void ht_completions_free(ht_completion *completions, int64_t count);
ht_engine_stats ht_engine_statistics(const ht_engine *engine);

#endif
