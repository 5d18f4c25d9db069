#include "core/generate/scheduler.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/generate/lookup.h"

static int64_t blocks_for(int64_t positions) {
    return (positions + HT_CACHE_BLOCK - 1) / HT_CACHE_BLOCK;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* --- life -------------------------------------------------------------------------------------------------
 */

static ht_status check_limits(const ht_schedule_limits *l, ht_error *err) {
    if (l->places < 1 || l->places > l->logit_rows)
        return ht_fail(err, HT_ERR_USAGE, "%" PRId64 " sequences decoded at once: allowed are 1 to %" PRId64,
                       l->places, l->logit_rows);
    if (l->pass_tokens < l->places)
        return ht_fail(err, HT_ERR_USAGE,
                       "%" PRId64 " tokens a pass are fewer than the %" PRId64 " sequences decoded at once",
                       l->pass_tokens, l->places);
    return HT_OK;
}

ht_status ht_scheduler_init(ht_scheduler *s, const ht_schedule_limits *limits, ht_error *err) {
    ht_status status = HT_OK;
    memset(s, 0, sizeof *s);
    HT_TRY(check_limits(limits, err));
    HT_TRY(ht_block_pool_init(&s->pool, limits->blocks, err));
    s->limits = *limits;
    /* The last token of a context is never cached. */
    s->max_context = smaller(limits->max_positions, limits->blocks * HT_CACHE_BLOCK + 1);
    s->max_blocks = blocks_for(limits->max_positions);
    size_t places = (size_t)limits->places, width = (size_t)(s->max_blocks + s->max_context);
    size_t rows = (size_t)limits->pass_tokens, logits = (size_t)limits->logit_rows;
    HT_TRY(ht_calloc(&s->sequences, places, sizeof *s->sequences, err));
    HT_TRY(ht_calloc(&s->order, places, sizeof *s->order, err));
    HT_TRY(ht_calloc(&s->waiting, places, sizeof *s->waiting, err));
    HT_TRY(ht_calloc(&s->memory, places * width, sizeof *s->memory, err));
    HT_TRY(ht_calloc(&s->tokens, rows, sizeof *s->tokens, err));
    HT_TRY(ht_calloc(&s->seq_start, places + 1, sizeof *s->seq_start, err));
    HT_TRY(ht_calloc(&s->past, places, sizeof *s->past, err));
    HT_TRY(ht_calloc(&s->planned, places, sizeof *s->planned, err));
    HT_TRY(ht_calloc(&s->block_tables, places * (size_t)s->max_blocks, sizeof *s->block_tables, err));
    HT_TRY(ht_calloc(&s->logit_rows, logits, sizeof *s->logit_rows, err));
    HT_TRY(ht_calloc(&s->settings, logits, sizeof *s->settings, err));
    for (size_t i = 0; i < places; i++) {
        s->sequences[i].table = s->memory + i * width;
        s->sequences[i].context = s->sequences[i].table + s->max_blocks;
        s->sequences[i].request = -1;
    }
done:
    if (status != HT_OK) ht_scheduler_release(s);
    return status;
}

void ht_scheduler_release(ht_scheduler *s) {
    ht_block_pool_release(&s->pool);
    free(s->sequences);
    free(s->order);
    free(s->waiting);
    free(s->memory);
    free(s->tokens);
    free(s->seq_start);
    free(s->past);
    free(s->planned);
    free(s->block_tables);
    free(s->logit_rows);
    free(s->settings);
    memset(s, 0, sizeof *s);
}

/* --- requests ---------------------------------------------------------------------------------------------
 */

/* Length at which a request's context ends. */
static int64_t end_of(const ht_scheduler *s, const ht_request *request) {
    return request->prompt_length +
           smaller(request->max_new_tokens, s->limits.max_positions - request->prompt_length);
}

static ht_status check_request(const ht_scheduler *s, const ht_request *request, int64_t index,
                               ht_error *err) {
    int64_t capacity = s->limits.blocks * HT_CACHE_BLOCK;
    if (request->prompt_length < 1)
        return ht_fail(err, HT_ERR_DATA, "request %" PRId64 ": empty prompt", index);
    if (request->prompt_length >= s->limits.max_positions)
        return ht_fail(err, HT_ERR_DATA,
                       "request %" PRId64 ": a prompt of %" PRId64
                       " tokens leaves no room for a new one: the model takes %" PRId64 " positions",
                       index, request->prompt_length, s->limits.max_positions);
    if (request->max_new_tokens < 1)
        return ht_fail(err, HT_ERR_USAGE, "request %" PRId64 ": max_new_tokens = %" PRId64 " is below 1",
                       index, request->max_new_tokens);
    if (request->lookup_tokens < 0)
        return ht_fail(err, HT_ERR_USAGE, "request %" PRId64 ": lookup_tokens = %" PRId32 " is below 0",
                       index, request->lookup_tokens);
    if (end_of(s, request) - 1 > capacity)
        return ht_fail(err, HT_ERR_USAGE,
                       "request %" PRId64 ": %" PRId64 " prompt tokens and %" PRId64
                       " new ones do not fit the cache of %" PRId64 " positions",
                       index, request->prompt_length, end_of(s, request) - request->prompt_length, capacity);
    for (int64_t i = 0; i < request->prompt_length; i++)
        if (request->prompt[i] < 0 || request->prompt[i] >= s->limits.vocab_size)
            return ht_fail(err, HT_ERR_DATA,
                           "request %" PRId64 ": prompt token %" PRId64 " is %" PRId32
                           ", outside the vocabulary of %" PRId64,
                           index, i, request->prompt[i], s->limits.vocab_size);
    return HT_OK;
}

ht_status ht_scheduler_begin(ht_scheduler *s, const ht_request *requests, int64_t count,
                             ht_completion *completions, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t i = 0; i < count; i++)
        HT_TRY(check_request(s, &requests[i], i, err));
    if (!s->limits.keep_cache) ht_block_pool_clear(&s->pool);
    s->requests = requests;
    s->request_count = count;
    s->completions = completions;
    s->next = s->waiting_count = s->running = 0;
    s->batch = (ht_decode_batch){0};
done:
    return status;
}

/* Takes the sequence at `rank` of the order out of its place. Its last blocks are the first to go. */
static void leave(ht_scheduler *s, int64_t rank) {
    ht_sequence *sequence = &s->sequences[s->order[rank]];
    while (sequence->blocks > 0)
        ht_block_drop(&s->pool, sequence->table[--sequence->blocks]);
    sequence->request = -1;
    sequence->rows = 0;
    s->running--;
    memmove(&s->order[rank], &s->order[rank + 1], (size_t)(s->running - rank) * sizeof *s->order);
}

void ht_scheduler_end(ht_scheduler *s) {
    while (s->running > 0)
        leave(s, s->running - 1);
    s->next = s->request_count = s->waiting_count = 0;
    s->batch = (ht_decode_batch){0};
}

/* The youngest sequence gives up its blocks and waits. */
static void put_back_youngest(ht_scheduler *s) {
    s->waiting[s->waiting_count++] = s->sequences[s->order[s->running - 1]].request;
    leave(s, s->running - 1);
    s->stats.put_back++;
}

/* --- starting ---------------------------------------------------------------------------------------------
 */

/* Where in `waiting` the lowest request is; -1: none waits. Those that wait have all started before `next`.
 */
static int64_t first_waiting(const ht_scheduler *s) {
    int64_t first = -1;
    for (int64_t i = 0; i < s->waiting_count; i++)
        if (first < 0 || s->waiting[i] < s->waiting[first]) first = i;
    return first;
}

static ht_status make_completion(ht_scheduler *s, int64_t request, ht_error *err) {
    ht_completion *completion = &s->completions[request];
    ht_status status = HT_OK;
    if (completion->tokens) return HT_OK;
    size_t most = (size_t)(end_of(s, &s->requests[request]) - s->requests[request].prompt_length);
    HT_TRY(ht_calloc(&completion->tokens, most, sizeof *completion->tokens, err));
    HT_TRY(ht_calloc(&completion->logp, most, sizeof *completion->logp, err));
    s->stats.prompt_tokens += s->requests[request].prompt_length;
done:
    return status;
}

/*
 * Gives the sequence the blocks of its context: those that hold its beginning already, then new ones. 0:
 * there are not enough, nothing was taken. Its last token always runs, for its logits.
 */
static int take_blocks(ht_scheduler *s, ht_sequence *sequence) {
    int64_t needed = blocks_for(sequence->length), shareable = (sequence->length - 1) / HT_CACHE_BLOCK;
    sequence->blocks = 0;
    sequence->name = 0;
    while (sequence->blocks < shareable) {
        int32_t found =
            ht_block_find(&s->pool, sequence->name, sequence->context + sequence->blocks * HT_CACHE_BLOCK);
        if (found < 0) break;
        ht_block_hold(&s->pool, found);
        sequence->name = s->pool.blocks[found].name;
        sequence->table[sequence->blocks++] = found;
    }
    sequence->named = sequence->blocks;
    sequence->shared = sequence->blocks * HT_CACHE_BLOCK;
    sequence->cached = 0;
    /* A block to grow for each that runs: else the new sequence would soon be put back. */
    if (s->pool.available < needed - sequence->blocks + s->running) {
        while (sequence->blocks > 0)
            ht_block_drop(&s->pool, sequence->table[--sequence->blocks]);
        return 0;
    }
    while (sequence->blocks < needed)
        sequence->table[sequence->blocks++] = ht_block_take(&s->pool);
    /* Named before they are computed: requests that follow with the same prompt wait for them. */
    for (; sequence->named < sequence->length / HT_CACHE_BLOCK; sequence->named++)
        sequence->name = ht_block_name(&s->pool, sequence->table[sequence->named], sequence->name,
                                       sequence->context + sequence->named * HT_CACHE_BLOCK);
    s->stats.shared_tokens += sequence->shared;
    return 1;
}

static ht_status start_waiting(ht_scheduler *s, ht_error *err) {
    ht_status status = HT_OK;
    for (;;) {
        int64_t waits = first_waiting(s), place = 0, request = waits >= 0 ? s->waiting[waits] : s->next;
        if (s->running == s->limits.places || request == s->request_count) break;
        while (s->sequences[place].request >= 0)
            place++;
        HT_TRY(make_completion(s, request, err));
        const ht_request *r = &s->requests[request];
        const ht_completion *completion = &s->completions[request];
        ht_sequence *sequence = &s->sequences[place];
        sequence->length = r->prompt_length + completion->length;
        sequence->limit = end_of(s, r);
        memcpy(sequence->context, r->prompt, (size_t)r->prompt_length * sizeof *r->prompt);
        memcpy(sequence->context + r->prompt_length, completion->tokens,
               (size_t)completion->length * sizeof *completion->tokens);
        if (!take_blocks(s, sequence)) break;
        sequence->request = request;
        s->order[s->running++] = (int32_t)place;
        if (waits >= 0)
            s->waiting[waits] = s->waiting[--s->waiting_count];
        else
            s->next++;
    }
done:
    return status;
}

/* --- planning ---------------------------------------------------------------------------------------------
 */

/* Tokens that one pass may still take besides one for each sequence. */
typedef struct allowance {
    int64_t tokens, logits;
} allowance;

/* Whether the shared beginning has been computed; `cached` follows it. */
static int beginning_is_ready(const ht_scheduler *s, ht_sequence *sequence) {
    while (sequence->cached < sequence->shared &&
           s->pool.blocks[sequence->table[sequence->cached / HT_CACHE_BLOCK]].ready)
        sequence->cached += HT_CACHE_BLOCK;
    return sequence->cached >= sequence->shared;
}

/* A block for the token to run, taken from the youngest if there is no other; 0: the sequence itself was put
 * back. */
static int make_room(ht_scheduler *s, int64_t rank) {
    ht_sequence *sequence = &s->sequences[s->order[rank]];
    while (sequence->blocks < blocks_for(sequence->length)) {
        int32_t block = ht_block_take(&s->pool);
        if (block >= 0) {
            sequence->table[sequence->blocks++] = block;
            continue;
        }
        int was_last = rank == s->running - 1;
        put_back_youngest(s);
        if (was_last) return 0;
    }
    return 1;
}

/* Appends proposals behind the context. They take no block that another sequence may need in this pass. */
static void propose(ht_scheduler *s, ht_sequence *sequence, allowance *left) {
    const ht_request *request = &s->requests[sequence->request];
    int64_t wanted = smaller(request->lookup_tokens, sequence->limit - sequence->length - 1);
    wanted = smaller(wanted, smaller(left->tokens, left->logits));
    sequence->proposals = 0;
    if (wanted < 1) return;
    int64_t found =
        ht_lookup(sequence->context, sequence->length, wanted, request->ignore_eos ? -1 : s->limits.eos_id,
                  sequence->context + sequence->length);
    while (sequence->blocks < blocks_for(sequence->length + found) && s->pool.available > s->running)
        sequence->table[sequence->blocks++] = ht_block_take(&s->pool);
    sequence->proposals = smaller(found, sequence->blocks * HT_CACHE_BLOCK - sequence->length);
    left->tokens -= sequence->proposals;
    left->logits -= sequence->proposals;
    s->stats.proposed += sequence->proposals;
}

static void add_to_pass(ht_scheduler *s, ht_sequence *sequence, allowance *left) {
    ht_decode_batch *batch = &s->batch;
    int64_t to_run = sequence->length - sequence->cached, first = s->seq_start[batch->sequences];
    sequence->rows = smaller(to_run, 1 + left->tokens);
    left->tokens -= sequence->rows - 1;
    sequence->first_logit = -1;
    sequence->proposals = 0;
    if (sequence->rows == to_run) {
        propose(s, sequence, left);
        sequence->rows += sequence->proposals;
        sequence->first_logit = batch->logit_count;
        const ht_request *r = &s->requests[sequence->request];
        for (int64_t i = 0; i <= sequence->proposals; i++) {
            s->settings[batch->logit_count] = (ht_sampling){
                .temperature = r->temperature,
                .top_p = r->top_p,
                .top_k = r->top_k,
                .seed = r->seed,
                .stream = r->stream,
                .index = (uint64_t)(sequence->length - r->prompt_length + i),
            };
            s->logit_rows[batch->logit_count++] = (int32_t)(first + to_run - 1 + i);
        }
    }
    memcpy(s->tokens + first, sequence->context + sequence->cached,
           (size_t)sequence->rows * sizeof *s->tokens);
    s->past[batch->sequences] = (int32_t)sequence->cached;
    s->planned[batch->sequences++] = sequence - s->sequences;
    s->seq_start[batch->sequences] = (int32_t)(first + sequence->rows);
}

static void fill_tables(ht_scheduler *s) {
    ht_decode_batch *batch = &s->batch;
    for (int64_t i = 0; i < batch->sequences; i++) {
        const ht_sequence *sequence = &s->sequences[s->planned[i]];
        memcpy(s->block_tables + i * s->max_blocks, sequence->table,
               (size_t)sequence->blocks * sizeof *sequence->table);
    }
    batch->tokens = s->tokens;
    batch->seq_start = s->seq_start;
    batch->past = s->past;
    batch->block_tables = s->block_tables;
    batch->logit_rows = s->logit_rows;
}

ht_status ht_scheduler_plan(ht_scheduler *s, ht_error *err) {
    ht_status status = HT_OK;
    s->batch = (ht_decode_batch){0};
    HT_TRY(start_waiting(s, err));
    for (int64_t i = 0; i < s->running; i++)
        s->sequences[s->order[i]].rows = 0;
    /* Sequences that decode come first: what they leave goes to prompts. */
    for (int64_t rank = 0; rank < s->running; rank++)
        if (s->sequences[s->order[rank]].length - s->sequences[s->order[rank]].cached == 1)
            make_room(s, rank);
    allowance left = {s->limits.pass_tokens - s->running, s->limits.logit_rows - s->running};
    for (int decodes = 1; decodes >= 0; decodes--)
        for (int64_t rank = 0; rank < s->running; rank++) {
            ht_sequence *sequence = &s->sequences[s->order[rank]];
            if (sequence->rows == 0 && beginning_is_ready(s, sequence) &&
                (!decodes || sequence->length - sequence->cached == 1))
                add_to_pass(s, sequence, &left);
        }
    fill_tables(s);
    if (s->running > 0 && s->batch.sequences == 0)
        return ht_fail(err, HT_ERR_RUN, "%" PRId64 " sequences wait for each other", s->running);
    s->stats.passes += s->batch.sequences > 0;
done:
    return status;
}

/* --- accepting --------------------------------------------------------------------------------------------
 */

/* Blocks that are full now: ready, and named where they were not. */
static void settle_blocks(ht_scheduler *s, ht_sequence *sequence, int64_t cached_before) {
    for (int64_t block = cached_before / HT_CACHE_BLOCK; (block + 1) * HT_CACHE_BLOCK <= sequence->cached;
         block++) {
        const int32_t *tokens = sequence->context + block * HT_CACHE_BLOCK;
        if (block == sequence->named) {
            int32_t same = ht_block_find(&s->pool, sequence->name, tokens);
            sequence->name = same >= 0
                                 ? s->pool.blocks[same].name
                                 : ht_block_name(&s->pool, sequence->table[block], sequence->name, tokens);
            sequence->named++;
        }
        s->pool.blocks[sequence->table[block]].ready = 1;
    }
}

/* Appends one token; *done: it was the last. */
static ht_status append(ht_scheduler *s, ht_sequence *sequence, int32_t token, float logp, int *done,
                        ht_token_callback on_token, void *context, ht_error *err) {
    const ht_request *request = &s->requests[sequence->request];
    ht_completion *completion = &s->completions[sequence->request];
    completion->tokens[completion->length] = token;
    completion->logp[completion->length++] = logp;
    sequence->context[sequence->length++] = token;
    s->stats.new_tokens++;
    int ended = token == s->limits.eos_id && !request->ignore_eos;
    completion->finish = ended ? HT_STOP_EOS : HT_STOP_LENGTH;
    *done = ended || sequence->length == sequence->limit;
    return on_token ? on_token(context, sequence->request, token, err) : HT_OK;
}

/* The buffers had room for the longest response. */
static void shrink(ht_completion *completion) {
    int32_t *tokens = realloc(completion->tokens, (size_t)completion->length * sizeof *tokens);
    float *logp = realloc(completion->logp, (size_t)completion->length * sizeof *logp);
    if (tokens) completion->tokens = tokens;
    if (logp) completion->logp = logp;
}

/*
 * Takes the drawn tokens up to the first that is not what was proposed: the row behind a proposal counts only
 * when that was drawn indeed, so the outcome is that of one token a pass.
 */
static ht_status accept_one(ht_scheduler *s, ht_sequence *sequence, const int32_t *tokens, const float *logp,
                            int *done, ht_token_callback on_token, void *context, ht_error *err) {
    ht_status status = HT_OK;
    int64_t cached = sequence->cached;
    sequence->cached += sequence->rows - sequence->proposals;
    for (int64_t i = 0; sequence->first_logit >= 0 && i <= sequence->proposals; i++) {
        int64_t row = sequence->first_logit + i;
        int agrees = i < sequence->proposals && tokens[row] == sequence->context[sequence->length];
        HT_TRY(append(s, sequence, tokens[row], logp[row], done, on_token, context, err));
        if (*done || !agrees) break;
        sequence->cached++;
        s->stats.accepted++;
    }
    settle_blocks(s, sequence, cached);
done:
    return status;
}

ht_status ht_scheduler_accept(ht_scheduler *s, const int32_t *tokens, const float *logp,
                              ht_token_callback on_token, void *context, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t rank = 0; rank < s->running;) {
        ht_sequence *sequence = &s->sequences[s->order[rank]];
        int done = 0;
        if (sequence->rows > 0) HT_TRY(accept_one(s, sequence, tokens, logp, &done, on_token, context, err));
        sequence->rows = 0;
        if (done) {
            shrink(&s->completions[sequence->request]);
            leave(s, rank);
        } else {
            rank++;
        }
    }
done:
    return status;
}
