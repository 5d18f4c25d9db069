/* Scores and gradients of a step on a tiny model: whatever the passes, the loss of the whole step. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "reward/step.h"
#include "tests/unit/do.h"
#include "tests/unit/small_llama.h"

enum { PAIRS = 7, VOCAB = 23, EOS = 2, MAX_TOKENS = 400, MAX_SEQUENCES = 16 };

static ht_backend *be;
static ht_arena arena;
static ht_llama model;
static ht_activations *acts;
static ht_params grads;
static ht_pair_set set;
static int64_t order[PAIRS];

/* Pairs of random ids and lengths 3 to 40 that end with EOS, most of them with a bin. */
static void make_pairs(void) {
    set.pairs = calloc(PAIRS, sizeof(ht_pair));
    set.count = PAIRS;
    for (int64_t i = 0; i < 2 * PAIRS; i++) {
        int32_t ids[64];
        int64_t length = 3 + (int64_t)ht_rng_below(1, 1, (uint64_t)i, 38);
        for (int64_t t = 0; t < length; t++)
            ids[t] = t + 1 == length
                         ? EOS
                         : (int32_t)(3 + ht_rng_below(1, 2 + (uint64_t)i, (uint64_t)t, VOCAB - 3));
        DO(ht_example_set_add(&set.sequences, 100 + i / 2, ids, NULL, length, &err_));
    }
    for (int i = 0; i < PAIRS; i++) {
        set.pairs[i] = (ht_pair){.id = 100 + i, .rating = i % 5, .safety = i % 4};
        order[i] = (i * 3) % PAIRS;
    }
}

static int setup_group(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_llama_config shape = small_llama(VOCAB, 64);
    shape.head = HT_HEAD_SCALAR;
    if (ht_backend_open(&be, HT_BACKEND_CPU, 1, &err) != HT_OK) return -1;
    ht_arena_init(&arena, 0);
    ht_backend_arena(be, &arena);
    if (ht_llama_init(&model, be, &arena, &shape, HT_F32, &err) != HT_OK ||
        ht_llama_randomize(&model, 3, &err) != HT_OK ||
        ht_params_init(&grads, &model.layout, HT_F32, HT_MEMORY_GRADIENTS, &arena, &err) != HT_OK ||
        ht_activations_init(&acts, &model, &arena, HT_KEEP_ALL, MAX_TOKENS, MAX_SEQUENCES, &err) != HT_OK)
        return -1;
    make_pairs();
    return 0;
}

static int teardown_group(void **state) {
    (void)state;
    ht_pair_set_free(&set);
    ht_activations_free(acts);
    ht_params_free(&grads);
    ht_llama_free(&model);
    ht_arena_clear(&arena);
    ht_backend_close(be);
    return 0;
}

static ht_reward_loss small_with_labels(void) {
    ht_reward_loss loss = {.aux_weight = 0.8};
    const ht_floats none = {NULL, 0};
    DO(ht_reward_margins(&loss, HT_MARGIN_SMALL, &none, &err_));
    return loss;
}

/* Runs a step in passes of max_tokens and max_sequences. */
static ht_reward_result run(int64_t max_tokens, int64_t max_sequences) {
    ht_reward_loss loss = small_with_labels();
    ht_reward_result result;
    ht_reward_pass pass;
    DO(ht_params_zero(be, &grads, &err_));
    DO(ht_reward_pass_init(&pass, &model, acts, max_tokens, max_sequences, &err_));
    DO(ht_reward_step(&pass, &loss, &set, order, PAIRS, &grads, &result, &err_));
    ht_reward_pass_free(&pass);
    return result;
}

static int64_t unit_size(int64_t unit) {
    return model.layout.unit_size[unit];
}

/* Largest |gradient|, and largest difference of `grads` from `other`. */
static void compare(float *const *other, double *largest, double *difference) {
    *largest = *difference = 0;
    for (int64_t u = 0; u < model.layout.units; u++)
        for (int64_t i = 0; i < unit_size(u); i++) {
            double a = (double)((float *)grads.units[u])[i], b = (double)other[u][i];
            *largest = fmax(*largest, fabs(b));
            *difference = fmax(*difference, fabs(a - b));
        }
}

static float **copy_grads(void) {
    float **copy = calloc((size_t)model.layout.units, sizeof *copy);
    for (int64_t u = 0; u < model.layout.units; u++) {
        copy[u] = malloc((size_t)unit_size(u) * sizeof(float));
        memcpy(copy[u], grads.units[u], (size_t)unit_size(u) * sizeof(float));
    }
    return copy;
}

static void free_copy(float **copy) {
    for (int64_t u = 0; u < model.layout.units; u++)
        free(copy[u]);
    free(copy);
}

/* One pass; three pairs a pass; a pair a pass; pairs in pieces (40 tokens hold one sequence, not two). */
static void test_step__passes_change_nothing_but_rounding(void **state) {
    (void)state;
    static const int64_t tokens[] = {130, MAX_TOKENS, 40}, sequences[] = {MAX_SEQUENCES, 2, MAX_SEQUENCES};
    ht_reward_result whole = run(MAX_TOKENS, MAX_SEQUENCES);
    float **expected = copy_grads();
    for (int i = 0; i < 3; i++) {
        ht_reward_result cut = run(tokens[i], sequences[i]);
        double largest, difference;
        compare(expected, &largest, &difference);
        assert_true(largest > 1e-3);
        /* f32: some 2^8 roundings of 2^-24 in a gradient's path, relative to the largest */
        assert_true(difference < 0x1p-16 * largest);
        assert_true(fabs(cut.loss - whole.loss) < 0x1p-16);
        assert_int_equal(cut.tokens, whole.tokens);
        assert_int_equal(cut.labelled, whole.labelled);
    }
    free_copy(expected);
}

/* Means are over the step: a step of all pairs is not the mean of steps of parts, whose denominators differ.
 */
static void test_step__labelled_responses_are_averaged_over_the_step(void **state) {
    (void)state;
    ht_reward_loss loss = small_with_labels();
    ht_reward_result whole = run(MAX_TOKENS, MAX_SEQUENCES), part;
    ht_reward_pass pass;
    double ranking = 0, auxiliary = 0;
    int64_t labelled = 0;
    DO(ht_reward_pass_init(&pass, &model, acts, MAX_TOKENS, MAX_SEQUENCES, &err_));
    for (int i = 0; i < PAIRS; i++) {
        DO(ht_reward_step(&pass, &loss, &set, order + i, 1, &grads, &part, &err_));
        ranking += part.ranking_loss / PAIRS;
        auxiliary += part.aux_loss * (double)part.labelled;
        labelled += part.labelled;
    }
    assert_int_equal(labelled, whole.labelled);
    assert_int_equal(labelled, 10); /* bins of pairs 1, 2, 3, 5, 6 */
    assert_true(fabs(whole.ranking_loss - ranking) < 1e-6);
    assert_true(fabs(whole.aux_loss - auxiliary / 10) < 1e-6);
    assert_true(fabs(whole.loss - (ranking + 0.8 * auxiliary / 10)) < 1e-6);
    ht_reward_pass_free(&pass);
}

/* Scores of a pair's sequences at every position. */
static void score_rows(ht_example sequence, float *scores) {
    ht_batch batch;
    int32_t rows[64];
    for (int32_t i = 0; i < 64; i++)
        rows[i] = i;
    DO(ht_batch_init(&batch, MAX_TOKENS, 1, &err_));
    assert_int_equal(ht_batch_add(&batch, sequence.tokens, sequence.length), 1);
    DO(ht_llama_forward(&model, acts, &batch, &err_));
    DO(ht_scalar_forward(&model, acts, rows, sequence.length, scores, &err_));
    ht_batch_free(&batch);
}

static void test_step__the_score_is_read_at_eos(void **state) {
    (void)state;
    ht_reward_loss loss = small_with_labels();
    ht_reward_result result;
    ht_reward_pass pass;
    DO(ht_reward_pass_init(&pass, &model, acts, MAX_TOKENS, MAX_SEQUENCES, &err_));
    for (int64_t pair = 0; pair < PAIRS; pair++) {
        float at[64];
        ht_example chosen = ht_pair_chosen(&set, pair);
        DO(ht_reward_step(&pass, &loss, &set, &pair, 1, &grads, &result, &err_));
        score_rows(chosen, at);
        assert_int_equal(chosen.tokens[chosen.length - 1], EOS);
        double last = (double)at[chosen.length - 1], before = (double)at[chosen.length - 2];
        assert_true(fabs(result.chosen_score - last) < 1e-5);
        /* One token off is another score. */
        assert_true(fabs(result.chosen_score - before) > 1e-3);
    }
    ht_reward_pass_free(&pass);
}

/* The model's gradient against the loss itself, along a random direction of all weights. */
static void test_step__gradient_is_that_of_the_loss(void **state) {
    (void)state;
    const double h = 1e-3;
    double slope = 0, norm = 0, losses[2];
    run(130, MAX_SEQUENCES);
    float **gradient = copy_grads();
    for (int64_t u = 0; u < model.layout.units; u++)
        for (int64_t i = 0; i < unit_size(u); i++)
            norm += (double)gradient[u][i] * (double)gradient[u][i];
    norm = sqrt(norm);
    for (int side = 0; side < 2; side++) {
        for (int64_t u = 0; u < model.layout.units; u++)
            for (int64_t i = 0; i < unit_size(u); i++)
                ((float *)model.weights.units[u])[i] +=
                    (float)((side ? -2 : 1) * h * (double)gradient[u][i] / norm);
        losses[side] = run(130, MAX_SEQUENCES).loss;
    }
    for (int64_t u = 0; u < model.layout.units; u++)
        for (int64_t i = 0; i < unit_size(u); i++)
            ((float *)model.weights.units[u])[i] += (float)(h * (double)gradient[u][i] / norm);
    slope = (losses[0] - losses[1]) / (2 * h);
    /* along the gradient the slope is its norm; f32 scores give the losses some 2^-20 each */
    assert_true(fabs(slope - norm) < 0x1p-19 / h + 0.01 * norm);
    assert_true(norm > 0.1);
    free_copy(gradient);
}

static void test_step__a_sequence_above_a_pass_is_named(void **state) {
    (void)state;
    ht_reward_loss loss = small_with_labels();
    ht_reward_result result;
    ht_reward_pass pass;
    ht_error err = HT_ERROR_INIT;
    DO(ht_reward_pass_init(&pass, &model, acts, 8, 2, &err_));
    assert_int_equal(ht_reward_step(&pass, &loss, &set, order, PAIRS, &grads, &result, &err), HT_ERR_USAGE);
    assert_non_null(strstr(err.message, "above train.micro_tokens = 8"));
    assert_non_null(strstr(err.message, "comparison 10"));
    ht_reward_pass_free(&pass);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step__passes_change_nothing_but_rounding),
        cmocka_unit_test(test_step__labelled_responses_are_averaged_over_the_step),
        cmocka_unit_test(test_step__the_score_is_read_at_eos),
        cmocka_unit_test(test_step__gradient_is_that_of_the_loss),
        cmocka_unit_test(test_step__a_sequence_above_a_pass_is_named),
    };
    return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
