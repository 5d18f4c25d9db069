/*
 * What llama.h and score.h refuse: sizes above the planned ones, ids outside of the vocabulary, a head that the model has not.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/model/score.h"
#include "tests/unit/do.h"

enum { VOCAB = 11, POSITIONS = 8, TOKENS = 12, SEQUENCES = 2, BLOCKS = 3, BLOCK_SIZE = 4 };

static const ht_llama_config shape = {.vocab_size = VOCAB,
                                      .dim = 8,
                                      .n_layers = 1,
                                      .n_heads = 2,
                                      .n_kv_heads = 1,
                                      .head_dim = 4,
                                      .ffn_dim = 8,
                                      .max_positions = POSITIONS,
                                      .norm_eps = 1e-5,
                                      .rope_theta = 10000,
                                      .bos_id = 1,
                                      .eos_id = 2};

static ht_backend *backend;
static ht_arena arena;
static ht_llama language, scalar;
static ht_activations *all, *nothing; /* for both models: the language model's are the larger ones */
static ht_params grads;
static ht_kv_cache cache;

static int set_up(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config = shape;
    ht_status status = HT_OK;
    HT_TRY(ht_backend_open(&backend, HT_BACKEND_CPU, 1, &err));
    ht_arena_init(&arena, 0);
    ht_backend_arena(backend, &arena);
    HT_TRY(ht_llama_init(&language, backend, &arena, &config, HT_F32, &err));
    config.head = HT_HEAD_SCALAR;
    HT_TRY(ht_llama_init(&scalar, backend, &arena, &config, HT_F32, &err));
    HT_TRY(ht_activations_init(&all, &language, &arena, HT_KEEP_ALL, TOKENS, SEQUENCES, &err));
    HT_TRY(ht_activations_init(&nothing, &language, &arena, HT_KEEP_NOTHING, TOKENS, SEQUENCES, &err));
    HT_TRY(ht_params_init(&grads, &language.layout, HT_F32, HT_MEMORY_GRADIENTS, &arena, &err));
    HT_TRY(ht_kv_cache_init(&cache, &language, &arena, BLOCKS, BLOCK_SIZE, SEQUENCES, &err));
done:
    return status == HT_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    ht_kv_cache_free(&cache);
    ht_params_free(&grads);
    ht_activations_free(nothing);
    ht_activations_free(all);
    ht_llama_free(&scalar);
    ht_llama_free(&language);
    ht_arena_clear(&arena);
    ht_backend_close(backend);
    return 0;
}

/* Borrows the arrays. */
static ht_batch batch_of(int32_t *tokens, int32_t *seq_start, int64_t sequences) {
    return (ht_batch){
        .tokens = tokens, .seq_start = seq_start, .n_tokens = seq_start[sequences], .n_sequences = sequences};
}

static void test_model__batches_that_do_not_fit_are_refused(void **state) {
    (void)state;
    int32_t tokens[TOKENS + 1] = {0};
    static struct {
        int32_t starts[SEQUENCES + 2], at, token;
        int64_t sequences;
        ht_status status;
        const char *says;
    } cases[] = {
        {{0, 6, 13}, 0, 0, 2, HT_ERR_USAGE, "a batch of 13 tokens in 2 sequences is above the planned 12 in 2"},
        {{0, 1, 2, 3}, 0, 0, 3, HT_ERR_USAGE, "a batch of 3 tokens in 3 sequences is above the planned 12 in 2"},
        {{0, 3, 12}, 0, 0, 2, HT_ERR_DATA, "sequence 1 has 9 tokens, above the model's 8"},
        {{0, 3}, 2, VOCAB, 1, HT_ERR_DATA, "token id 11 at row 2 is not in 0 to 10"},
        {{0, 3}, 1, -1, 1, HT_ERR_DATA, "token id -1 at row 1 is not in 0 to 10"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokens[cases[i].at] = cases[i].token;
        ht_batch batch = batch_of(tokens, cases[i].starts, cases[i].sequences);
        FAILS(ht_llama_forward(&language, all, &batch, &err_), cases[i].status, cases[i].says);
        tokens[cases[i].at] = 0;
    }
}

static void test_model__heads_refuse(void **state) {
    (void)state;
    int32_t tokens[3] = {3, 4, 5}, starts[] = {0, 3}, rows[] = {0, 3}, targets[] = {1, VOCAB};
    float values[2] = {0};
    ht_batch batch = batch_of(tokens, starts, 1);
    ht_lm_rows lm = {.count = 2, .rows = rows, .targets = targets, .logp = values};
    DO(ht_llama_forward(&scalar, all, &batch, &err_));
    FAILS(ht_lm_loss(&scalar, all, &lm, NULL, &err_), HT_ERR_USAGE, "lm loss: the model has a scalar head");
    FAILS(ht_scalar_forward(&scalar, all, rows, 2, values, &err_), HT_ERR_USAGE, "head: row 3 is not in the batch's 3");
    rows[1] = -1;
    FAILS(ht_scalar_forward(&scalar, all, rows, 2, values, &err_), HT_ERR_USAGE, "head: row -1 is not in the batch's 3");
    DO(ht_llama_forward(&language, all, &batch, &err_));
    const char *no_scalar = "scalar head: the model has a language-model head";
    FAILS(ht_scalar_forward(&language, all, rows, 1, values, &err_), HT_ERR_USAGE, no_scalar);
    FAILS(ht_scalar_backward(&language, all, rows, 1, values, &grads, &err_), HT_ERR_USAGE, no_scalar);
    FAILS(ht_llama_randomize_head(&language, 1, &err_), HT_ERR_USAGE, "the model has a language-model head, not a scalar one");
    FAILS(ht_lm_loss(&language, all, &lm, NULL, &err_), HT_ERR_DATA, "lm loss: target 11 is not in 0 to 10");
    targets[1] = -1;
    FAILS(ht_lm_loss(&language, all, &lm, NULL, &err_), HT_ERR_DATA, "lm loss: target -1 is not in 0 to 10");
}

static void test_model__no_gradient_without_what_it_needs(void **state) {
    (void)state;
    int32_t tokens[3] = {3, 4, 5}, starts[] = {0, 3}, row = 0, target = 1;
    float weight = 1;
    ht_token_loss loss = {.kind = HT_TOKEN_LOSS_NLL, .weight = &weight};
    ht_lm_rows lm = {.count = 1, .rows = &row, .targets = &target, .loss = &loss};
    ht_batch batch = batch_of(tokens, starts, 1);
    DO(ht_llama_forward(&language, all, &batch, &err_));
    FAILS(ht_llama_backward(&language, all, &grads, &err_), HT_ERR_USAGE, "backward: no head has written a gradient");
    DO(ht_lm_loss(&language, all, &lm, &grads, &err_));
    DO(ht_llama_backward(&language, all, &grads, &err_));
    FAILS(ht_llama_backward(&language, all, &grads, &err_), HT_ERR_USAGE, "backward: no head has written a gradient");
    DO(ht_llama_forward(&language, nothing, &batch, &err_));
    const char *kept_nothing = "these activations keep nothing for a gradient";
    FAILS(ht_lm_loss(&language, nothing, &lm, &grads, &err_), HT_ERR_USAGE, kept_nothing);
    FAILS(ht_llama_backward(&language, nothing, &grads, &err_), HT_ERR_USAGE, kept_nothing);
    DO(ht_llama_forward(&scalar, nothing, &batch, &err_));
    FAILS(ht_scalar_backward(&scalar, nothing, &row, 1, &weight, &grads, &err_), HT_ERR_USAGE, kept_nothing);
}

static void test_model__decoding_refuses(void **state) {
    (void)state;
    const int32_t tokens[HT_LOGIT_ROWS + 1] = {0}, rows[HT_LOGIT_ROWS + 1] = {0};
    static const struct {
        int32_t starts[SEQUENCES + 2], past[SEQUENCES + 1], tables[2 * (SEQUENCES + 1)];
        int64_t sequences, logits;
        const char *says;
    } cases[] = {
        {{0, 1}, {0}, {0}, 1, HT_LOGIT_ROWS + 1, "decode: 257 rows of logits are above 256"},
        {{0, 1, 2, 3}, {0}, {0}, 3, 1, "decode: 3 sequences are above the cache's 2"},
        {{0, 1, 3}, {0, 7}, {0, 1, 1, 2}, 2, 1, "decode: sequence 1 ends at position 9, above the model's 8"},
        {{0, 1, 3}, {0, 3}, {0, 0, 1, 3}, 2, 1, "decode: sequence 1 has block 3 of 3"},
        {{0, 1}, {4}, {0, -1}, 1, 1, "decode: sequence 0 has block -1 of 3"},
    };
    ht_tensor logits;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_decode_batch batch = {.tokens = tokens,
                                 .seq_start = cases[i].starts,
                                 .past = cases[i].past,
                                 .block_tables = cases[i].tables,
                                 .sequences = cases[i].sequences,
                                 .logit_rows = rows,
                                 .logit_count = cases[i].logits};
        FAILS(ht_llama_decode(&language, nothing, &cache, &batch, &logits, &err_), HT_ERR_USAGE, cases[i].says);
        FAILS(ht_llama_decode(&scalar, nothing, &cache, &batch, &logits, &err_), HT_ERR_USAGE, "decode: the model has a scalar head");
    }
}

static void test_model__sequences_that_cannot_be_scored_are_named(void **state) {
    (void)state;
    const int32_t tokens[TOKENS + 1] = {0}, *sequences[] = {tokens, tokens};
    float scores[2];
    FAILS(ht_score_sequences(&scalar, nothing, sequences, (int64_t[]){3, 0}, 2, scores, &err_), HT_ERR_DATA,
          "score: sequence 1 has 0 tokens, not 1 to 12");
    FAILS(ht_score_sequences(&scalar, nothing, sequences, (int64_t[]){TOKENS + 1, 1}, 2, scores, &err_), HT_ERR_DATA,
          "score: sequence 0 has 13 tokens, not 1 to 12");
}

/* Of what a shape can be wrong in, what no file's own checks say first. */
static void test_model__shapes_that_cannot_be_are_refused(void **state) {
    (void)state;
    static const struct {
        double norm_eps, rope_theta;
        const char *says;
    } cases[] = {
        {0, 10000, "rms_norm_eps = 0 is not between 0 and 1"},
        {NAN, 10000, "rms_norm_eps = nan is not between 0 and 1"},
        {1e-5, 0.5, "rope_theta = 0.5 is not a finite number from 1 on"},
        {1e-5, INFINITY, "rope_theta = inf is not a finite number from 1 on"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_llama_config config = shape;
        config.norm_eps = cases[i].norm_eps;
        config.rope_theta = cases[i].rope_theta;
        FAILS(ht_llama_config_check(&config, &err_), HT_ERR_DATA, cases[i].says);
    }
    ht_llama_config config = shape;
    ht_llama model;
    config.n_kv_heads = 3;
    FAILS(ht_llama_init(&model, backend, &arena, &config, HT_F32, &err_), HT_ERR_DATA,
          "num_attention_heads = 2 is not a multiple of num_key_value_heads = 3");
    ht_llama_free(&model); /* nothing is left in it */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model__batches_that_do_not_fit_are_refused),
        cmocka_unit_test(test_model__heads_refuse),
        cmocka_unit_test(test_model__no_gradient_without_what_it_needs),
        cmocka_unit_test(test_model__decoding_refuses),
        cmocka_unit_test(test_model__sequences_that_cannot_be_scored_are_named),
        cmocka_unit_test(test_model__shapes_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
