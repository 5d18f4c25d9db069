/*
 * scheduler.h: which tokens of which requests run in the next pass, and where in the cache they go. Knows no
 * model: the engine runs the pass and gives back the tokens that were drawn.
 *
 * Requests start in the order of their index, each in one of `places`. A started sequence gets the blocks of
 * its context at once and more as it grows; when there are none, the youngest sequence gives its blocks up
 * and waits with what it has generated. So the oldest always goes on, and no request fails that fits alone.
 */
#ifndef HT_GENERATE_SCHEDULER_H
#define HT_GENERATE_SCHEDULER_H

#include <stdint.h>

#include "core/generate/blocks.h"
#include "core/generate/generate.h"

/* A sequence in its place. Context: prompt and what was generated. */
typedef struct ht_sequence {
    int64_t request;
    int64_t length;      /* tokens of the context */
    int64_t limit;       /* the context's length at which it ends */
    int64_t cached;      /* positions whose keys and values are in the cache */
    int64_t shared;      /* positions at the front that come from other sequences' blocks */
    int64_t named;       /* blocks at the front whose content has a name */
    uint64_t name;       /* of the last of them; 0: none */
    int64_t blocks;      /* entries in its table */
    int32_t *table;      /* [max_blocks] */
    int32_t *context;    /* [max_context] */
    int64_t rows;        /* of the present pass; 0: not in it */
    int64_t proposals;   /* the last rows of them */
    int64_t first_logit; /* -1: none wanted, its prompt is not done */
} ht_sequence;

typedef struct ht_schedule_limits {
    int64_t places, blocks, pass_tokens, logit_rows;
    int64_t max_positions, vocab_size;
    int32_t eos_id;
    int keep_cache;
} ht_schedule_limits;

typedef struct ht_scheduler {
    ht_schedule_limits limits;
    ht_block_pool pool;
    ht_sequence *sequences; /* [places] */
    int32_t *order;         /* [places] places in use, oldest request first */
    int64_t running, max_context;
    int64_t max_blocks; /* entries a table: the model's max_positions */
    int64_t *waiting;   /* [places] requests that gave up their blocks */
    int64_t waiting_count, next;
    int32_t *memory; /* tables and contexts of all places */

    const ht_request *requests; /* borrowed, of the present run */
    int64_t request_count;
    ht_completion *completions;
    ht_engine_stats stats;

    /* The present pass; capacities pass_tokens, places, logit_rows. */
    ht_decode_batch batch;
    ht_sampling *settings; /* [logit_count] */
    int32_t *tokens, *seq_start, *past, *block_tables, *logit_rows;
    int64_t *planned; /* [sequences] places in the pass */
} ht_scheduler;

/* HT_ERR_USAGE names the limit that is out of range. */
ht_status ht_scheduler_init(ht_scheduler *s, const ht_schedule_limits *limits, ht_error *err);
void ht_scheduler_release(ht_scheduler *s);

/* Begins a run; checks every request (see ht_generate). completions [count] are zeroed; both stay borrowed.
 */
ht_status ht_scheduler_begin(ht_scheduler *s, const ht_request *requests, int64_t count,
                             ht_completion *completions, ht_error *err);

/* Sets s->batch and s->settings to the next pass; batch.sequences is 0 when every request is done. */
ht_status ht_scheduler_plan(ht_scheduler *s, ht_error *err);

/* The pass has run; tokens and logp [logit_count] were drawn from its logits. A callback's status is
 * returned. */
ht_status ht_scheduler_accept(ht_scheduler *s, const int32_t *tokens, const float *logp,
                              ht_token_callback on_token, void *context, ht_error *err);

/* Ends a run, done or not: every block is given back. */
void ht_scheduler_end(ht_scheduler *s);

#endif
