/*
 * The scheduler driven by a stand-in for the model: its cache holds the tokens themselves, and a row's draw
 * is a function of all tokens it can see there. Wrong tables, shared blocks or positions give other tokens
 * than expected.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/generate/scheduler.h"

enum { VOCAB = 50, EOS = 2, POSITIONS = 200, MAX_BLOCKS = 512 };

/* How a draw depends on the context. */
typedef enum rule {
    ON_ALL,     /* every token, the stream and the position */
    ON_LAST_TWO /* repeats itself soon: prompt lookup finds matches */
} rule;

typedef struct stand_in {
    ht_scheduler scheduler;
    rule rule;
    int32_t pages[MAX_BLOCKS * HT_CACHE_BLOCK]; /* -1: never written */
    int64_t most_sequences;
} stand_in;

static int32_t draw(rule how, const int32_t *context, int64_t length, uint64_t stream, uint64_t index) {
    uint64_t hash = how == ON_ALL ? ht_rng_stream(HT_RNG_SAMPLE, stream, index) : 5;
    for (int64_t i = how == ON_ALL || length < 2 ? 0 : length - 2; i < length; i++)
        hash = (hash ^ (uint64_t)context[i]) * 0x9E3779B97F4A7C15u + 1;
    hash ^= hash >> 29;
    return (int32_t)(hash % (how == ON_ALL ? VOCAB : 7)) + (how == ON_ALL ? 0 : 3);
}

/* Every sequence sees what the cache held before the pass, and its own new tokens. */
static void run_pass(stand_in *model, int32_t *tokens, float *logp) {
    const ht_decode_batch *b = &model->scheduler.batch;
    int64_t width = model->scheduler.max_blocks, row = 0;
    static int32_t before[MAX_BLOCKS * HT_CACHE_BLOCK];
    memcpy(before, model->pages, sizeof before);
    for (int64_t s = 0; s < b->sequences; s++) {
        int32_t context[POSITIONS];
        const int32_t *table = b->block_tables + s * width;
        int64_t past = b->past[s], rows = b->seq_start[s + 1] - b->seq_start[s];
        assert_true(rows >= 1 && past + rows <= POSITIONS);
        for (int64_t p = 0; p < past; p++)
            context[p] = before[table[p / HT_CACHE_BLOCK] * HT_CACHE_BLOCK + p % HT_CACHE_BLOCK];
        for (int64_t i = 0; i < rows; i++) {
            int64_t p = past + i;
            context[p] = b->tokens[b->seq_start[s] + i];
            model->pages[table[p / HT_CACHE_BLOCK] * HT_CACHE_BLOCK + p % HT_CACHE_BLOCK] = context[p];
            if (row == b->logit_count || b->logit_rows[row] != b->seq_start[s] + i) continue;
            const ht_sampling *settings = &model->scheduler.settings[row];
            tokens[row] = draw(model->rule, context, p + 1, settings->stream, settings->index);
            logp[row] = -(float)tokens[row] - (float)settings->index;
            row++;
        }
    }
    assert_int_equal(row, b->logit_count);
    if (b->sequences > model->most_sequences) model->most_sequences = b->sequences;
}

static ht_schedule_limits limits(int64_t places, int64_t blocks, int64_t pass_tokens) {
    return (ht_schedule_limits){.places = places,
                                .blocks = blocks,
                                .pass_tokens = pass_tokens,
                                .logit_rows = 32,
                                .max_positions = POSITIONS,
                                .vocab_size = VOCAB,
                                .eos_id = EOS};
}

static stand_in *make(ht_schedule_limits l, rule how) {
    ht_error err = HT_ERROR_INIT;
    stand_in *model = calloc(1, sizeof *model);
    assert_int_equal(ht_scheduler_init(&model->scheduler, &l, &err), HT_OK);
    model->rule = how;
    memset(model->pages, 0xff, sizeof model->pages);
    return model;
}

static void drop(stand_in *model) {
    ht_scheduler_release(&model->scheduler);
    free(model);
}

static ht_status run(stand_in *model, const ht_request *requests, int64_t count, ht_completion *completions,
                     ht_token_callback on_token, void *context, ht_error *err) {
    ht_scheduler *s = &model->scheduler;
    int32_t tokens[32];
    float logp[32];
    memset(completions, 0, (size_t)count * sizeof *completions);
    ht_status status = ht_scheduler_begin(s, requests, count, completions, err);
    while (status == HT_OK) {
        status = ht_scheduler_plan(s, err);
        if (status != HT_OK || s->batch.sequences == 0) break;
        assert_true(s->batch.seq_start[s->batch.sequences] <= s->limits.pass_tokens);
        assert_true(s->batch.logit_count <= s->limits.logit_rows);
        run_pass(model, tokens, logp);
        status = ht_scheduler_accept(s, tokens, logp, on_token, context, err);
    }
    ht_scheduler_end(s);
    assert_int_equal(s->pool.available, s->pool.count);
    return status;
}

static void release(ht_completion *completions, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        free(completions[i].tokens);
        free(completions[i].logp);
    }
}

/* Token by token, without a cache. */
static void check(const stand_in *model, const ht_request *request, const ht_completion *completion) {
    int32_t context[POSITIONS];
    int64_t length = request->prompt_length;
    memcpy(context, request->prompt, (size_t)length * sizeof *context);
    for (int64_t i = 0;; i++) {
        assert_true(i < completion->length);
        int32_t token = draw(model->rule, context, length, request->stream, (uint64_t)i);
        assert_int_equal(completion->tokens[i], token);
        assert_true(completion->logp[i] == -(float)token - (float)i);
        context[length++] = token;
        int eos = token == EOS && !request->ignore_eos;
        if (eos || i + 1 == request->max_new_tokens || length == POSITIONS) {
            assert_int_equal(completion->length, i + 1);
            assert_int_equal(completion->finish, eos ? HT_STOP_EOS : HT_STOP_LENGTH);
            return;
        }
    }
}

/* Prompts of several lengths; groups of `alike` requests have the same one. */
enum { REQUESTS = 60 };
static int32_t prompt_tokens[REQUESTS][POSITIONS];
static void make_requests(ht_request *requests, int64_t alike, int64_t longest_prompt, int64_t longest_answer,
                          int32_t lookup) {
    for (int64_t i = 0; i < REQUESTS; i++) {
        uint64_t group = (uint64_t)(i / alike);
        int64_t length = 1 + (int64_t)ht_rng_below(3, 0, group, (uint64_t)longest_prompt);
        for (int64_t p = 0; p < length; p++)
            prompt_tokens[i][p] = (int32_t)ht_rng_below(4, group, (uint64_t)p, VOCAB);
        requests[i] = (ht_request){.prompt = prompt_tokens[i],
                                   .prompt_length = length,
                                   .max_new_tokens =
                                       1 + (int64_t)ht_rng_below(5, 0, (uint64_t)i, (uint64_t)longest_answer),
                                   .temperature = 1,
                                   .top_p = 1,
                                   .seed = 1,
                                   .stream = (uint64_t)i,
                                   .ignore_eos = i % 3 == 0,
                                   .lookup_tokens = lookup};
    }
}

static ht_engine_stats run_and_check(ht_schedule_limits l, rule how, const ht_request *requests) {
    ht_error err = HT_ERROR_INIT;
    ht_completion completions[REQUESTS];
    stand_in *model = make(l, how);
    ht_status status = run(model, requests, REQUESTS, completions, NULL, NULL, &err);
    assert_string_equal(err.message, "");
    assert_int_equal(status, HT_OK);
    for (int64_t i = 0; i < REQUESTS; i++)
        check(model, &requests[i], &completions[i]);
    assert_true(model->most_sequences <= l.places);
    ht_engine_stats stats = model->scheduler.stats;
    release(completions, REQUESTS);
    drop(model);
    return stats;
}

static void test_scheduler__limits_do_not_change_the_output(void **state) {
    (void)state;
    ht_request requests[REQUESTS];
    make_requests(requests, 4, 90, 70, 0);
    const int64_t places[] = {1, 2, 5, 16, 32}, blocks[] = {10, 13, 30, 100, 512},
                  passes[] = {1, 7, 16, 64, 500};
    for (int p = 0; p < 5; p++)
        for (int b = 0; b < 5; b++)
            for (int t = 0; t < 5; t++)
                run_and_check(limits(places[p], blocks[b], passes[t] > places[p] ? passes[t] : places[p]),
                              ON_ALL, requests);
}

static void test_scheduler__sequences_wait_when_blocks_run_out(void **state) {
    (void)state;
    ht_request requests[REQUESTS];
    make_requests(requests, 1, 30, 120, 0);
    for (int i = 0; i < REQUESTS; i++)
        requests[i].ignore_eos = 1;
    ht_engine_stats tight = run_and_check(limits(16, 12, 64), ON_ALL, requests);
    ht_engine_stats wide = run_and_check(limits(16, 200, 64), ON_ALL, requests);
    assert_true(tight.put_back > 0);
    assert_int_equal(wide.put_back, 0);
    assert_int_equal(tight.new_tokens, wide.new_tokens);
    assert_true(tight.passes > wide.passes);
}

static void test_scheduler__a_finished_place_is_taken_at_once(void **state) {
    (void)state;
    ht_request requests[REQUESTS];
    make_requests(requests, 1, 10, 40, 0);
    int64_t total = 0;
    for (int i = 0; i < REQUESTS; i++) {
        requests[i].ignore_eos = 1;
        total += requests[i].max_new_tokens;
    }
    ht_engine_stats stats = run_and_check(limits(8, 512, 500), ON_ALL, requests);
    /* Every pass but the last few gives a token to each place. */
    assert_true(stats.passes <= total / 8 + 40);
    assert_int_equal(stats.new_tokens, total);
}

static void test_scheduler__equal_prompts_are_computed_once(void **state) {
    (void)state;
    ht_request requests[REQUESTS];
    int64_t prompt = 0;
    make_requests(requests, REQUESTS, 150, 20, 0);
    for (int i = 0; i < REQUESTS; i++) {
        requests[i].prompt_length = 97;
        prompt += 97;
    }
    for (int i = 0; i < 97; i++)
        for (int r = 0; r < REQUESTS; r++)
            prompt_tokens[r][i] = i % VOCAB;
    ht_engine_stats stats = run_and_check(limits(8, 100, 64), ON_ALL, requests);
    assert_int_equal(stats.prompt_tokens, prompt);
    assert_int_equal(stats.shared_tokens, 96 * (REQUESTS - 1));
    /* One at a time: the beginning outlives each sequence. */
    stats = run_and_check(limits(1, 100, 64), ON_ALL, requests);
    assert_int_equal(stats.shared_tokens, 96 * (REQUESTS - 1));
    /* A common beginning is enough. */
    for (int r = 0; r < REQUESTS; r++)
        prompt_tokens[r][70] = r % VOCAB;
    stats = run_and_check(limits(8, 100, 64), ON_ALL, requests);
    assert_true(stats.shared_tokens >= 64 * (REQUESTS - 1));
}

static void test_scheduler__lookup_changes_passes_but_no_token(void **state) {
    (void)state;
    ht_request requests[REQUESTS];
    for (int r = 0; r < 2; r++) {
        make_requests(requests, 2, 60, 100, 0);
        ht_engine_stats plain = run_and_check(limits(4, 60, 40), (rule)r, requests);
        make_requests(requests, 2, 60, 100, 10);
        ht_engine_stats lookup = run_and_check(limits(4, 60, 40), (rule)r, requests);
        assert_int_equal(plain.new_tokens, lookup.new_tokens);
        assert_int_equal(plain.proposed, 0);
        assert_true(lookup.proposed > 0);
        if (r == ON_LAST_TWO) {
            assert_true(lookup.accepted > lookup.new_tokens / 2);
            assert_true(lookup.passes < plain.passes / 2);
        }
        run_and_check(limits(32, 11, 32), (rule)r, requests);
        run_and_check(limits(1, 100, 1), (rule)r, requests);
    }
}

static void test_scheduler__the_cache_is_kept_between_runs_when_asked(void **state) {
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        ht_error err = HT_ERROR_INIT;
        ht_schedule_limits l = limits(2, 40, 32);
        l.keep_cache = keep;
        stand_in *model = make(l, ON_ALL);
        int32_t dialogue[POSITIONS] = {1};
        ht_request turn = {
            .prompt = dialogue, .prompt_length = 40, .max_new_tokens = 30, .temperature = 1, .ignore_eos = 1};
        ht_completion completion;
        for (int i = 0; i < 3; i++) {
            assert_int_equal(run(model, &turn, 1, &completion, NULL, NULL, &err), HT_OK);
            check(model, &turn, &completion);
            memcpy(dialogue + turn.prompt_length, completion.tokens,
                   (size_t)completion.length * sizeof *dialogue);
            turn.prompt_length += completion.length + 5;
            release(&completion, 1);
        }
        /* Turn 2 has 69 positions of turn 1 before it, turn 3 has 104 of turn 2: whole blocks of them. */
        assert_int_equal(model->scheduler.stats.shared_tokens, keep ? 64 + 96 : 0);
        drop(model);
    }
}

/* --- callbacks --------------------------------------------------------------------------------------------
 */

typedef struct heard {
    int64_t count[REQUESTS];
    int32_t tokens[REQUESTS][POSITIONS];
    int64_t stop_after, total;
} heard;

static ht_status hear(void *context, int64_t request, int32_t token, ht_error *err) {
    heard *h = context;
    h->tokens[request][h->count[request]++] = token;
    return ++h->total == h->stop_after ? ht_fail(err, HT_INTERRUPTED, "enough") : HT_OK;
}

static void test_scheduler__tokens_are_told_in_order(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_request requests[REQUESTS];
    ht_completion completions[REQUESTS];
    make_requests(requests, 3, 40, 60, 4);
    heard *h = calloc(1, sizeof *h);
    stand_in *model = make(limits(6, 14, 20), ON_LAST_TWO);
    assert_int_equal(run(model, requests, REQUESTS, completions, hear, h, &err), HT_OK);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(h->count[i], completions[i].length);
        assert_memory_equal(h->tokens[i], completions[i].tokens,
                            (size_t)completions[i].length * sizeof(int32_t));
    }
    assert_true(model->scheduler.stats.put_back > 0);
    release(completions, REQUESTS);
    /* A callback can end the run; the next one is as good as the first. */
    memset(h, 0, sizeof *h);
    h->stop_after = 100;
    assert_int_equal(run(model, requests, REQUESTS, completions, hear, h, &err), HT_INTERRUPTED);
    assert_string_equal(err.message, "enough");
    assert_int_equal(h->total, 100);
    release(completions, REQUESTS);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(run(model, requests, REQUESTS, completions, NULL, NULL, &err), HT_OK);
    for (int i = 0; i < REQUESTS; i++)
        check(model, &requests[i], &completions[i]);
    release(completions, REQUESTS);
    drop(model);
    free(h);
}

/* --- refusals ---------------------------------------------------------------------------------------------
 */

static void refuse(ht_request request, ht_schedule_limits l, ht_status expected, const char *message) {
    ht_error err = HT_ERROR_INIT;
    int32_t fine[] = {1};
    ht_request requests[] = {{.prompt = fine, .prompt_length = 1, .max_new_tokens = 1}, request};
    ht_completion completions[2];
    stand_in *model = make(l, ON_ALL);
    assert_int_equal(run(model, requests, 2, completions, NULL, NULL, &err), expected);
    assert_string_equal(err.message, message);
    drop(model);
}

static void test_scheduler__requests_that_cannot_run_are_refused(void **state) {
    (void)state;
    int32_t prompt[POSITIONS] = {0};
    ht_request r = {.prompt = prompt, .prompt_length = POSITIONS, .max_new_tokens = 5};
    refuse(r, limits(2, 40, 32), HT_ERR_DATA,
           "request 1: a prompt of 200 tokens leaves no room for a new one: the model takes 200 positions");
    r.prompt_length = 0;
    refuse(r, limits(2, 40, 32), HT_ERR_DATA, "request 1: empty prompt");
    r.prompt_length = 100;
    r.max_new_tokens = 0;
    refuse(r, limits(2, 40, 32), HT_ERR_USAGE, "request 1: max_new_tokens = 0 is below 1");
    r.max_new_tokens = 1;
    r.lookup_tokens = -1;
    refuse(r, limits(2, 40, 32), HT_ERR_USAGE, "request 1: lookup_tokens = -1 is below 0");
    r.lookup_tokens = 0;
    r.max_new_tokens = 14; /* the last token needs no place in the cache */
    refuse(r, limits(2, 7, 32), HT_ERR_USAGE,
           "request 1: 100 prompt tokens and 14 new ones do not fit the cache of 112 positions");
    prompt[50] = VOCAB;
    refuse(r, limits(2, 40, 32), HT_ERR_DATA,
           "request 1: prompt token 50 is 50, outside the vocabulary of 50");
}

static void test_scheduler__limits_out_of_range_are_refused(void **state) {
    (void)state;
    ht_schedule_limits wrong[] = {limits(0, 10, 32), limits(33, 10, 40), limits(4, 10, 3), limits(4, 0, 32)};
    for (int i = 0; i < 4; i++) {
        ht_scheduler s;
        ht_error err = HT_ERROR_INIT;
        assert_int_equal(ht_scheduler_init(&s, &wrong[i], &err), HT_ERR_USAGE);
        assert_true(err.message[0]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scheduler__limits_do_not_change_the_output),
        cmocka_unit_test(test_scheduler__sequences_wait_when_blocks_run_out),
        cmocka_unit_test(test_scheduler__a_finished_place_is_taken_at_once),
        cmocka_unit_test(test_scheduler__equal_prompts_are_computed_once),
        cmocka_unit_test(test_scheduler__lookup_changes_passes_but_no_token),
        cmocka_unit_test(test_scheduler__the_cache_is_kept_between_runs_when_asked),
        cmocka_unit_test(test_scheduler__tokens_are_told_in_order),
        cmocka_unit_test(test_scheduler__requests_that_cannot_run_are_refused),
        cmocka_unit_test(test_scheduler__limits_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
