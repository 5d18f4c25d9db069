/*
 * Folders saved by transformers, run here: logits, log-probabilities, the loss and the gradient of every
 * parameter are PyTorch's, and greedy continuations are transformers' token for token.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/generate/generate.h"
#include "core/optim/adamw.h"
#include "tests/golden/golden.h"

static const char *const folders[] = {"gqa", "tied", "bf16", "sharded"};
enum { FOLDERS = 4 };

/* The rows that carry loss, with the weight 1 / (target tokens of the whole set). */
typedef struct targets {
    int64_t count;
    int32_t rows[GOLDEN_MAX_TOKENS], tokens[GOLDEN_MAX_TOKENS];
    float weights[GOLDEN_MAX_TOKENS];
} targets;

static void fill_targets(targets *t, golden_model *m, const json_t *json) {
    const json_t *sequences = json_object_get(json, "sequences"), *marks = json_object_get(json, "is_target");
    t->count = 0;
    ht_batch_clear(&m->batch);
    for (size_t s = 0; s < json_array_size(sequences); s++) {
        int64_t first = m->batch.n_tokens, n = golden_add_sequence(&m->batch, json_array_get(sequences, s));
        for (int64_t i = 1; i < n; i++) {
            if (!json_integer_value(json_array_get(json_array_get(marks, s), (size_t)i))) continue;
            t->rows[t->count] = (int32_t)(first + i - 1);
            t->tokens[t->count++] = m->batch.tokens[first + i];
        }
    }
    for (int64_t i = 0; i < t->count; i++)
        t->weights[i] = 1 / (float)t->count;
}

static double loss_and_gradients(golden_model *m, const targets *t, ht_params *grads) {
    ht_error err = HT_ERROR_INIT;
    double total;
    const ht_token_loss loss = {.kind = HT_TOKEN_LOSS_NLL, .weight = t->weights};
    const ht_lm_rows rows = {
        .count = t->count, .rows = t->rows, .targets = t->tokens, .loss = &loss, .total = &total};
    golden_check(ht_llama_forward(&m->model, m->acts, &m->batch, &err), &err);
    golden_check(ht_lm_loss(&m->model, m->acts, &rows, grads, &err), &err);
    golden_check(ht_llama_backward(&m->model, m->acts, grads, &err), &err);
    return total;
}

static void test_golden__loss_and_gradients(void **state) {
    (void)state;
    for (int i = 0; i < FOLDERS; i++) {
        golden_model m;
        targets t;
        char name[64];
        snprintf(name, sizeof name, "%s.golden", folders[i]);
        golden_values values = golden_values_open(name);
        golden_model_open(&m, folders[i]);
        fill_targets(&t, &m, values.json);
        double loss = loss_and_gradients(&m, &t, &m.grads);
        golden_compare_number("loss", loss, golden_number(values.json, "loss"), GOLDEN_TOLERANCE);
        golden_compare_params(&m, &m.grads, &values, "grad", GOLDEN_TOLERANCE);
        golden_model_close(&m);
        golden_values_close(&values);
    }
}

/* Log-probabilities of every token of every sequence, packed into one batch. */
static void test_golden__log_probabilities(void **state) {
    (void)state;
    for (int i = 0; i < FOLDERS; i++) {
        golden_model m;
        ht_error err = HT_ERROR_INIT;
        int32_t rows[GOLDEN_MAX_TOKENS], tokens[GOLDEN_MAX_TOKENS];
        float logp[GOLDEN_MAX_TOKENS];
        int64_t count = 0;
        char name[64];
        snprintf(name, sizeof name, "%s.golden", folders[i]);
        golden_values values = golden_values_open(name);
        golden_model_open(&m, folders[i]);
        const json_t *sequences = json_object_get(values.json, "sequences");
        for (size_t s = 0; s < json_array_size(sequences); s++) {
            int64_t first = m.batch.n_tokens, n = golden_add_sequence(&m.batch, json_array_get(sequences, s));
            for (int64_t t = first + 1; t < first + n; t++) {
                rows[count] = (int32_t)t - 1;
                tokens[count++] = m.batch.tokens[t];
            }
        }
        const ht_lm_rows all = {.count = count, .rows = rows, .targets = tokens, .logp = logp};
        golden_check(ht_llama_forward(&m.model, m.acts, &m.batch, &err), &err);
        golden_check(ht_lm_loss(&m.model, m.acts, &all, NULL, &err), &err);
        const float *next = logp;
        for (size_t s = 0; s < json_array_size(sequences); s++) {
            int64_t n = (int64_t)json_array_size(json_array_get(sequences, s)) - 1;
            if (n == 0) continue;
            snprintf(name, sizeof name, "logp.%d", (int)s);
            float *expected = golden_tensor(&values, name, NULL);
            golden_compare(name, next, expected, n, GOLDEN_TOLERANCE, 1);
            free(expected);
            next += n;
        }
        golden_model_close(&m);
        golden_values_close(&values);
    }
}

/* The comparison can fail: one gain moved by a thousandth is found. */
static void test_golden__a_wrong_model_fails(void **state) {
    (void)state;
    golden_model m;
    ht_error err = HT_ERROR_INIT;
    float gain, logp[GOLDEN_MAX_TOKENS];
    int32_t rows[GOLDEN_MAX_TOKENS];
    golden_values values = golden_values_open("gqa.golden");
    golden_model_open(&m, "gqa");
    int64_t n =
        golden_add_sequence(&m.batch, json_array_get(json_object_get(values.json, "sequences"), 0)) - 1;
    for (int32_t t = 0; t < n; t++)
        rows[t] = t;
    ht_tensor t =
        ht_params_tensor(&m.model.weights, ht_layout_layer(&m.model.layout, 0, HT_LAYER_INPUT_NORM));
    golden_check(ht_download(m.be, &gain, t.data, sizeof gain, &err), &err);
    gain *= 1.001f;
    golden_check(ht_upload(m.be, t.data, &gain, sizeof gain, &err), &err);
    const ht_lm_rows all = {.count = n, .rows = rows, .targets = m.batch.tokens + 1, .logp = logp};
    golden_check(ht_llama_forward(&m.model, m.acts, &m.batch, &err), &err);
    golden_check(ht_lm_loss(&m.model, m.acts, &all, NULL, &err), &err);
    float *expected = golden_tensor(&values, "logp.0", NULL);
    assert_true(golden_first_difference(logp, expected, n, GOLDEN_TOLERANCE, 1) >= 0);
    free(expected);
    golden_model_close(&m);
    golden_values_close(&values);
}

/* Logits of every position, through the cache. */
static void test_golden__logits(void **state) {
    (void)state;
    for (int i = 0; i < FOLDERS; i++) {
        golden_model m;
        ht_kv_cache cache;
        ht_error err = HT_ERROR_INIT;
        char name[64];
        snprintf(name, sizeof name, "%s.golden", folders[i]);
        golden_values values = golden_values_open(name);
        golden_model_open(&m, folders[i]);
        golden_check(ht_kv_cache_init(&cache, &m.model, &m.arena, 8, 16, 1, &err), &err);
        int32_t *table = calloc((size_t)cache.max_blocks, sizeof *table), rows[GOLDEN_MAX_TOKENS];
        for (int32_t b = 0; b < cache.max_blocks; b++)
            table[b] = b;
        for (int32_t r = 0; r < GOLDEN_MAX_TOKENS; r++)
            rows[r] = r;
        const json_t *sequences = json_object_get(values.json, "sequences");
        for (size_t s = 0; s < json_array_size(sequences); s++) {
            ht_batch_clear(&m.batch);
            int64_t n = golden_add_sequence(&m.batch, json_array_get(sequences, s)), count;
            const int32_t past = 0;
            const ht_decode_batch decode = {.tokens = m.batch.tokens,
                                            .seq_start = m.batch.seq_start,
                                            .past = &past,
                                            .block_tables = table,
                                            .sequences = 1,
                                            .logit_rows = rows,
                                            .logit_count = n};
            ht_tensor logits;
            golden_check(ht_llama_decode(&m.model, m.acts, &cache, &decode, &logits, &err), &err);
            snprintf(name, sizeof name, "logits.%d", (int)s);
            float *expected = golden_tensor(&values, name, &count),
                  *actual = calloc((size_t)count, sizeof *actual);
            assert_int_equal(count, n * logits.cols);
            golden_check(ht_download(m.be, actual, logits.data, (size_t)count * sizeof *actual, &err), &err);
            golden_compare(name, actual, expected, count, GOLDEN_TOLERANCE, 0);
            free(actual);
            free(expected);
        }
        free(table);
        ht_kv_cache_free(&cache);
        golden_model_close(&m);
        golden_values_close(&values);
    }
}

static int32_t *prompt_of(const json_t *tokens) {
    int32_t *prompt = calloc(json_array_size(tokens), sizeof *prompt);
    for (size_t i = 0; i < json_array_size(tokens); i++)
        prompt[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
    return prompt;
}

static void test_golden__greedy_continuations(void **state) {
    (void)state;
    enum { PROMPTS = 3 };
    for (int i = 0; i < FOLDERS; i++) {
        golden_model m;
        ht_engine *engine = NULL;
        ht_error err = HT_ERROR_INIT;
        ht_request requests[PROMPTS];
        ht_completion done[PROMPTS];
        char name[64];
        snprintf(name, sizeof name, "%s.golden", folders[i]);
        golden_values values = golden_values_open(name);
        golden_model_open(&m, folders[i]);
        const json_t *greedy = json_object_get(values.json, "greedy");
        assert_int_equal(json_array_size(greedy), PROMPTS);
        for (size_t p = 0; p < PROMPTS; p++) {
            const json_t *prompt = json_object_get(json_array_get(greedy, p), "prompt");
            requests[p] = (ht_request){.prompt = prompt_of(prompt),
                                       .prompt_length = (int64_t)json_array_size(prompt),
                                       .max_new_tokens = 16,
                                       .temperature = 0,
                                       .top_p = 1};
        }
        const ht_engine_limits limits = {.max_sequences = PROMPTS, .cache_tokens = 256, .prefill_tokens = 64};
        golden_check(ht_engine_init(&engine, &m.model, &m.arena, &limits, &err), &err);
        golden_check(ht_generate(engine, requests, PROMPTS, done, NULL, NULL, &err), &err);
        for (size_t p = 0; p < PROMPTS; p++) {
            const json_t *tokens = json_object_get(json_array_get(greedy, p), "tokens");
            assert_int_equal(done[p].length, json_array_size(tokens));
            for (int64_t t = 0; t < done[p].length; t++)
                assert_int_equal(done[p].tokens[t], json_integer_value(json_array_get(tokens, (size_t)t)));
            free((void *)(uintptr_t)requests[p].prompt);
        }
        ht_completions_free(done, PROMPTS);
        ht_engine_free(engine);
        golden_model_close(&m);
        golden_values_close(&values);
    }
}

/* Five steps, each on the gradient at its own weights: clipping, decay groups, bias correction. A difference
 * of the weights is measured against a parameter's largest one. */
static void test_golden__optimizer(void **state) {
    (void)state;
    golden_model m;
    targets t;
    ht_trainable trainable;
    ht_error err = HT_ERROR_INIT;
    golden_values sft = golden_values_open("gqa.golden"), values = golden_values_open("optimizer.golden");
    golden_model_open(&m, "gqa");
    fill_targets(&t, &m, sft.json);
    const ht_trainable_options options = {.state = HT_ADAMW_F32};
    golden_check(ht_trainable_init(&trainable, &m.model, &options, &m.arena, &err), &err);
    const ht_optimizer_config config = {.beta1 = golden_number(values.json, "beta1"),
                                        .beta2 = golden_number(values.json, "beta2"),
                                        .eps = golden_number(values.json, "eps"),
                                        .decay = golden_number(values.json, "decay"),
                                        .clip = golden_number(values.json, "clip")};
    const json_t *rates = json_object_get(values.json, "lr"), *losses = json_object_get(values.json, "loss");
    const json_t *norms = json_object_get(values.json, "norm");
    for (size_t step = 0; step < json_array_size(rates); step++) {
        char prefix[16];
        double norm, loss = loss_and_gradients(&m, &t, &trainable.grads);
        golden_check(ht_optimizer_step(&trainable, &config, json_number_value(json_array_get(rates, step)),
                                       &norm, &err),
                     &err);
        golden_compare_number("loss", loss, json_number_value(json_array_get(losses, step)),
                              GOLDEN_TOLERANCE);
        golden_compare_number("norm", norm, json_number_value(json_array_get(norms, step)), GOLDEN_TOLERANCE);
        snprintf(prefix, sizeof prefix, "step%d", (int)step + 1);
        golden_compare_params(&m, &m.model.weights, &values, prefix, GOLDEN_TOLERANCE);
    }
    ht_trainable_free(&trainable);
    golden_model_close(&m);
    golden_values_close(&values);
    golden_values_close(&sft);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden__logits),
        cmocka_unit_test(test_golden__log_probabilities),
        cmocka_unit_test(test_golden__a_wrong_model_fails),
        cmocka_unit_test(test_golden__loss_and_gradients),
        cmocka_unit_test(test_golden__greedy_continuations),
        cmocka_unit_test(test_golden__optimizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
