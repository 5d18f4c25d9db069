/* The engine on a small random model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/generate/generate.h"
#include "tests/unit/do.h"
#include "tests/unit/small_llama.h"

enum { VOCAB = 97, POSITIONS = 160, REQUESTS = 18 };

static ht_backend *backend;
static ht_arena arena;
static ht_llama model;
static ht_activations *acts;

static int set_up(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    const ht_llama_config config = small_llama(VOCAB, POSITIONS);
    ht_status status = HT_OK;
    HT_TRY(ht_backend_open(&backend, HT_BACKEND_CPU, 1, &err));
    ht_arena_init(&arena, 0);
    ht_backend_arena(backend, &arena);
    HT_TRY(ht_llama_init(&model, backend, &arena, &config, HT_F32, &err));
    HT_TRY(ht_llama_randomize(&model, 3, &err));
    widen_logits(&model);
    HT_TRY(ht_activations_init(&acts, &model, &arena, HT_KEEP_NOTHING, POSITIONS, 4, &err));
done:
    return status == HT_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    ht_activations_free(acts);
    ht_llama_free(&model);
    ht_arena_clear(&arena);
    ht_backend_close(backend);
    return 0;
}

/* --- requests ---------------------------------------------------------------------------------------------
 */

static int32_t prompts[REQUESTS][POSITIONS];

/* Every third prompt is new; greedy, sampled and filtered requests. */
static void make_requests(ht_request *requests) {
    for (int i = 0; i < REQUESTS; i++) {
        uint64_t group = (uint64_t)(i / 3);
        int64_t length = 3 + (int64_t)ht_rng_below(1, 7, group, 70);
        for (int64_t p = 0; p < length; p++)
            prompts[i][p] = (int32_t)ht_rng_below(2, group, (uint64_t)p, VOCAB);
        requests[i] = (ht_request){.prompt = prompts[i],
                                   .prompt_length = length,
                                   .max_new_tokens = 10 + 20 * (i % 5),
                                   .temperature = i % 4 ? 0.9f : 0,
                                   .top_p = i % 4 == 2 ? 0.9f : 1,
                                   .top_k = i % 4 == 3 ? 20 : 0,
                                   .seed = 9,
                                   .stream = (uint64_t)i,
                                   .ignore_eos = i % 2};
    }
}

static ht_engine_stats generate(ht_engine_limits limits, const ht_request *requests, int64_t count,
                                ht_completion *completions) {
    ht_arena own;
    ht_engine *engine;
    ht_arena_init(&own, 0);
    ht_backend_arena(backend, &own);
    DO(ht_engine_init(&engine, &model, &own, &limits, &err_));
    ht_arena_seal(&own);
    DO(ht_generate(engine, requests, count, completions, NULL, NULL, &err_));
    ht_engine_stats stats = ht_engine_statistics(engine);
    ht_engine_free(engine);
    ht_arena_clear(&own);
    return stats;
}

static void assert_same(const ht_completion *a, const ht_completion *b, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        assert_int_equal(a[i].length, b[i].length);
        assert_int_equal(a[i].finish, b[i].finish);
        assert_memory_equal(a[i].tokens, b[i].tokens, (size_t)a[i].length * sizeof(int32_t));
        assert_memory_equal(a[i].logp, b[i].logp, (size_t)a[i].length * sizeof(float));
    }
}

/* --- cases ------------------------------------------------------------------------------------------------
 */

static const ht_engine_limits wide = {.max_sequences = 8, .cache_tokens = 4096, .prefill_tokens = 256};

/* What ht_llama_forward says about the same sequence: the log-probability of every token. */
static void forward_logp(const int32_t *tokens, int64_t length, int64_t prompt_length, float *logp) {
    ht_batch batch;
    int32_t rows[POSITIONS], targets[POSITIONS];
    int64_t count = length - prompt_length;
    for (int64_t i = 0; i < count; i++) {
        rows[i] = (int32_t)(prompt_length - 1 + i);
        targets[i] = tokens[prompt_length + i];
    }
    DO(ht_batch_init(&batch, POSITIONS, 1, &err_));
    assert_int_equal(ht_batch_add(&batch, tokens, length), 1);
    DO(ht_llama_forward(&model, acts, &batch, &err_));
    ht_lm_rows lm = {.count = count, .rows = rows, .targets = targets, .logp = logp};
    DO(ht_lm_loss(&model, acts, &lm, NULL, &err_));
    ht_batch_free(&batch);
}

static void test_engine__log_probabilities_are_those_of_the_packed_forward(void **state) {
    (void)state;
    ht_request requests[REQUESTS];
    ht_completion completions[REQUESTS];
    make_requests(requests);
    /* Chunks of 13 tokens: prompts are cut. */
    generate((ht_engine_limits){.max_sequences = 5, .cache_tokens = 2048, .prefill_tokens = 13}, requests,
             REQUESTS, completions);
    for (int i = 0; i < REQUESTS; i++) {
        int32_t tokens[POSITIONS];
        float logp[POSITIONS];
        int64_t prompt = requests[i].prompt_length, length = prompt + completions[i].length;
        memcpy(tokens, requests[i].prompt, (size_t)prompt * sizeof *tokens);
        memcpy(tokens + prompt, completions[i].tokens, (size_t)completions[i].length * sizeof *tokens);
        forward_logp(tokens, length, prompt, logp);
        for (int64_t t = 0; t < completions[i].length; t++)
            assert_true(fabsf(logp[t] - completions[i].logp[t]) < 1e-4f);
        /* Greedy: no other token is more probable. */
        for (int64_t t = 0; requests[i].temperature == 0 && t < completions[i].length; t += 9)
            for (int32_t other = 0; other < VOCAB; other++) {
                float rival;
                int32_t was = tokens[prompt + t];
                tokens[prompt + t] = other;
                forward_logp(tokens, prompt + t + 1, prompt + t, &rival);
                tokens[prompt + t] = was;
                assert_true(rival <= logp[t] + 1e-5f);
            }
    }
    ht_completions_free(completions, REQUESTS);
}

static void test_engine__the_batch_does_not_change_the_output(void **state) {
    (void)state;
    ht_request requests[REQUESTS], turned[REQUESTS];
    ht_completion plain[REQUESTS], other[REQUESTS], back[REQUESTS];
    make_requests(requests);
    generate(wide, requests, REQUESTS, plain);
    const ht_engine_limits cases[] = {
        {.max_sequences = 1, .cache_tokens = POSITIONS, .prefill_tokens = 1},
        {.max_sequences = 3, .cache_tokens = 400, .prefill_tokens = 17},
        {.max_sequences = 18, .cache_tokens = POSITIONS, .prefill_tokens = 64}, /* sequences wait */
    };
    for (int c = 0; c < 3; c++) {
        ht_engine_stats stats = generate(cases[c], requests, REQUESTS, other);
        assert_same(plain, other, REQUESTS);
        assert_true(c != 2 || stats.put_back > 0);
        ht_completions_free(other, REQUESTS);
    }
    for (int i = 0; i < REQUESTS; i++) /* another order: a permutation, as 5 and 18 share no factor */
        turned[i] = requests[i * 5 % REQUESTS];
    generate(wide, turned, REQUESTS, other);
    for (int i = 0; i < REQUESTS; i++)
        back[i * 5 % REQUESTS] = other[i];
    assert_same(plain, back, REQUESTS);
    ht_completions_free(other, REQUESTS);
    for (int i = 0; i < REQUESTS; i++) { /* alone */
        generate(wide, &requests[i], 1, other);
        assert_same(&plain[i], other, 1);
        ht_completions_free(other, 1);
    }
    ht_completions_free(plain, REQUESTS);
}

static void test_engine__a_shared_beginning_changes_nothing(void **state) {
    (void)state;
    ht_request requests[12];
    ht_completion together[12], alone[1];
    for (int i = 0; i < 12; i++) {
        for (int p = 0; p < 70; p++)
            prompts[0][p] = (int32_t)ht_rng_below(3, 1, (uint64_t)p, VOCAB);
        requests[i] = (ht_request){.prompt = prompts[0],
                                   .prompt_length = 70,
                                   .max_new_tokens = 40,
                                   .temperature = 1,
                                   .top_p = 1,
                                   .seed = 4,
                                   .stream = (uint64_t)i};
    }
    ht_engine_stats stats = generate(wide, requests, 12, together);
    assert_int_equal(stats.shared_tokens, 11 * 64);
    assert_int_equal(stats.prompt_tokens, 12 * 70);
    int differ = 0;
    for (int i = 0; i < 12; i++) {
        generate(wide, &requests[i], 1, alone);
        assert_same(&together[i], alone, 1);
        differ += together[i].tokens[0] != together[0].tokens[0];
        ht_completions_free(alone, 1);
    }
    assert_true(differ > 0);
    ht_completions_free(together, 12);
}

static void test_engine__lookup_changes_no_token(void **state) {
    (void)state;
    ht_request requests[REQUESTS];
    ht_completion plain[REQUESTS], lookup[REQUESTS];
    make_requests(requests);
    for (int i = 0; i < REQUESTS; i++) {
        /* The prompt says everything twice, and a small model soon repeats itself when greedy. */
        int64_t half = requests[i].prompt_length;
        memcpy(prompts[i] + half, prompts[i], (size_t)half * sizeof(int32_t));
        requests[i].prompt_length = 2 * half > 120 ? 120 : 2 * half;
        requests[i].max_new_tokens = 60;
        if (i % 2) requests[i].temperature = 0;
    }
    ht_engine_stats before = generate(wide, requests, REQUESTS, plain);
    for (int i = 0; i < REQUESTS; i++)
        requests[i].lookup_tokens = i % 3 ? 10 : 3;
    ht_engine_stats after = generate(wide, requests, REQUESTS, lookup);
    assert_same(plain, lookup, REQUESTS);
    assert_true(after.accepted > 0 && after.proposed > after.accepted);
    assert_int_equal(after.new_tokens, before.new_tokens);
    ht_completions_free(plain, REQUESTS);
    ht_completions_free(lookup, REQUESTS);
}

static void test_engine__responses_end_where_they_must(void **state) {
    (void)state;
    ht_completion completion;
    ht_request request = {
        .prompt = prompts[0], .prompt_length = 20, .max_new_tokens = 100000, .temperature = 1, .top_p = 1};
    make_requests((ht_request[REQUESTS]){{0}});
    request.ignore_eos = 1;
    generate(wide, &request, 1, &completion);
    assert_int_equal(completion.length, POSITIONS - 20);
    assert_int_equal(completion.finish, HT_STOP_LENGTH);
    ht_completions_free(&completion, 1);
    /* EOS is one token in 97: some stream meets it. */
    request.ignore_eos = 0;
    int met = 0;
    for (uint64_t stream = 0; stream < 20 && !met; stream++) {
        request.stream = stream;
        generate(wide, &request, 1, &completion);
        for (int64_t t = 0; t + 1 < completion.length; t++)
            assert_int_not_equal(completion.tokens[t], model.config.eos_id);
        met = completion.finish == HT_STOP_EOS;
        if (met) assert_int_equal(completion.tokens[completion.length - 1], model.config.eos_id);
        ht_completions_free(&completion, 1);
    }
    assert_true(met);
    request.prompt_length = POSITIONS - 1; /* room for one */
    generate(wide, &request, 1, &completion);
    assert_int_equal(completion.length, 1);
    ht_completions_free(&completion, 1);
}

static void test_engine__failures_release_the_completions(void **state) {
    (void)state;
    ht_error bad = HT_ERROR_INIT;
    ht_arena own;
    ht_engine *engine;
    ht_completion completions[2];
    ht_request requests[2] = {
        {.prompt = prompts[0], .prompt_length = 5, .max_new_tokens = 5, .top_p = 1},
        {.prompt = prompts[0], .prompt_length = POSITIONS, .max_new_tokens = 5, .top_p = 1}};
    ht_arena_init(&own, 0);
    ht_backend_arena(backend, &own);
    DO(ht_engine_init(&engine, &model, &own, &wide, &err_));
    assert_int_equal(ht_generate(engine, requests, 2, completions, NULL, NULL, &bad), HT_ERR_DATA);
    assert_null(completions[0].tokens);
    /* A bad setting is found when its row is drawn: the run ends, and the engine is good for another. */
    bad = (ht_error)HT_ERROR_INIT;
    requests[1] = requests[0];
    requests[1].top_p = 7;
    assert_int_equal(ht_generate(engine, requests, 2, completions, NULL, NULL, &bad), HT_ERR_USAGE);
    assert_null(completions[0].tokens);
    assert_null(completions[1].logp);
    requests[1].top_p = 1;
    DO(ht_generate(engine, requests, 2, completions, NULL, NULL, &err_));
    assert_same(&completions[0], &completions[1], 1);
    ht_completions_free(completions, 2);
    ht_engine_free(engine);
    ht_arena_clear(&own);
}

static void test_engine__a_scalar_head_cannot_generate(void **state) {
    (void)state;
    ht_arena own;
    ht_engine *engine;
    ht_llama scalar = model;
    scalar.config.head = HT_HEAD_SCALAR;
    ht_arena_init(&own, 0);
    ht_backend_arena(backend, &own);
    FAILS(ht_engine_init(&engine, &scalar, &own, &wide, &err_), HT_ERR_USAGE, "a model with a scalar head cannot generate");
    assert_null(engine);
    ht_arena_clear(&own);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine__log_probabilities_are_those_of_the_packed_forward),
        cmocka_unit_test(test_engine__the_batch_does_not_change_the_output),
        cmocka_unit_test(test_engine__a_shared_beginning_changes_nothing),
        cmocka_unit_test(test_engine__lookup_changes_no_token),
        cmocka_unit_test(test_engine__responses_end_where_they_must),
        cmocka_unit_test(test_engine__failures_release_the_completions),
        cmocka_unit_test(test_engine__a_scalar_head_cannot_generate),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
