/* Perplexity against one prediction at a time, on a small random model and a trained tokenizer. */
#include <math.h>

#include "tests/unit/tokenizer/trained.h"

#include "core/base/arena.h"
#include "evaluate/perplexity.h"
#include "tests/unit/do.h"
#include "tests/unit/small_llama.h"

enum { POSITIONS = 96 };

static ht_backend *backend;
static ht_arena arena;
static ht_llama model;
static ht_activations *acts;

static int set_up(void **state) {
    ht_error err = HT_ERROR_INIT;
    ht_status status = HT_OK;
    const ht_llama_config config = small_llama(TRAINED_VOCAB, POSITIONS);
    if (fixture_make(state)) return -1;
    HT_TRY(ht_backend_open(&backend, HT_BACKEND_CPU, 1, &err));
    ht_arena_init(&arena, 0);
    ht_backend_arena(backend, &arena);
    HT_TRY(ht_llama_init(&model, backend, &arena, &config, HT_F32, &err));
    HT_TRY(ht_llama_randomize(&model, 3, &err));
    widen_logits(&model);
    HT_TRY(ht_activations_init(&acts, &model, &arena, HT_KEEP_NOTHING, POSITIONS, POSITIONS / 2, &err));
done:
    return status == HT_OK ? 0 : -1;
}

static int tear_down(void **state) {
    ht_activations_free(acts);
    ht_llama_free(&model);
    ht_arena_clear(&arena);
    ht_backend_close(backend);
    return fixture_drop(state);
}

/* -log p(ids[at] | ids[from .. at)), in a pass of its own. */
static double surprise(const ht_ids *ids, int64_t from, int64_t at) {
    ht_batch batch;
    int32_t row = (int32_t)(at - from - 1), target = ids->data[at];
    float logp;
    const ht_lm_rows rows = {.count = 1, .rows = &row, .targets = &target, .logp = &logp};
    DO(ht_batch_init(&batch, POSITIONS, 1, &err_));
    assert_int_equal(ht_batch_add(&batch, ids->data + from, at - from), 1);
    DO(ht_llama_forward(&model, acts, &batch, &err_));
    DO(ht_lm_loss(&model, acts, &rows, NULL, &err_));
    ht_batch_free(&batch);
    return -(double)logp;
}

/* The text's ids cut as the header says, by the position of each predicted id. */
static double expected(const ht_ids *ids, int64_t seq_len) {
    double sum = 0;
    for (int64_t at = 1; at < (int64_t)ids->count; at++)
        sum += surprise(ids, (at - 1) / (seq_len - 1) * (seq_len - 1), at);
    return sum;
}

static ht_perplexity_task task_of(const fixture *f, ht_documents documents, int64_t seq_len) {
    return (ht_perplexity_task){.model = &model, .acts = acts, .tokenizer = f->tokenizer, .documents = documents,
                                .seq_len = seq_len, .pass_tokens = POSITIONS};
}

static void test_perplexity__whole_text_in_windows(void **state) {
    fixture *f = *state;
    const char text[] = "The halter is put on the head of the llama.\n\nHello there, how are you today?\n";
    const int64_t lengths[] = {POSITIONS, 17, 2};
    ht_ids ids = {0};
    append_id(&ids, ht_tokenizer_bos(f->tokenizer));
    append_encoded(f->tokenizer, text, &ids);
    int64_t predicted = (int64_t)ids.count - 1;
    assert_in_range(predicted, 20, POSITIONS - 2);
    for (int i = 0; i < 3; i++) {
        ht_perplexity result;
        ht_perplexity_task task = task_of(f, HT_DOCUMENTS_WHOLE, lengths[i]);
        DO(ht_perplexity_of(&result, &task, (ht_span){text, sizeof text - 1}, &err_));
        assert_int_equal(result.tokens, predicted);
        assert_int_equal(result.documents, 1);
        assert_int_equal(result.windows, (predicted + lengths[i] - 2) / (lengths[i] - 1));
        double wanted = expected(&ids, lengths[i]);
        /* f32 log-probabilities of other batches: rounding of each */
        assert_true(fabs(result.nll - wanted) < 1e-5 * wanted);
    }
    /* the cut matters: a wrong one would be seen */
    assert_true(fabs(expected(&ids, 17) - expected(&ids, POSITIONS)) > 1e-3);
    ht_ids_release(&ids);
}

static void test_perplexity__documents_end(void **state) {
    fixture *f = *state;
    const char text[] = "The wool is warm and light.\r\nThe answer is 42.\n\n\nHello, llama!";
    const char *lines[] = {"The wool is warm and light.", "The answer is 42.", "Hello, llama!"};
    const char *blocks[] = {"The wool is warm and light.\r\nThe answer is 42.", "Hello, llama!"};
    const struct {
        ht_documents documents;
        const char **texts;
        int count;
    } cases[] = {{HT_DOCUMENTS_LINE, lines, 3}, {HT_DOCUMENTS_BLANK_LINE, blocks, 2}};
    for (int c = 0; c < 2; c++) {
        ht_perplexity result;
        ht_perplexity_task task = task_of(f, cases[c].documents, 60);
        double wanted = 0;
        int64_t tokens = 0;
        for (int d = 0; d < cases[c].count; d++) {
            ht_ids ids = {0};
            append_id(&ids, ht_tokenizer_bos(f->tokenizer));
            append_encoded(f->tokenizer, cases[c].texts[d], &ids);
            append_id(&ids, ht_tokenizer_eos(f->tokenizer));
            wanted += expected(&ids, 60);
            tokens += (int64_t)ids.count - 1;
            ht_ids_release(&ids);
        }
        DO(ht_perplexity_of(&result, &task, (ht_span){text, sizeof text - 1}, &err_));
        assert_int_equal(result.documents, cases[c].count);
        assert_int_equal(result.tokens, tokens);
        assert_true(fabs(result.nll - wanted) < 1e-5 * wanted);
    }
}

static void test_perplexity__nothing_to_predict(void **state) {
    fixture *f = *state;
    const ht_span texts[] = {{NULL, 0}, {"\n\n\r\n", 4}};
    for (int i = 0; i < 2; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_perplexity result;
        ht_perplexity_task task = task_of(f, HT_DOCUMENTS_BLANK_LINE, 60);
        assert_error(ht_perplexity_of(&result, &task, texts[i], &err), HT_ERR_DATA, &err, "no token to predict");
    }
}

static void test_perplexity__text_that_is_not_utf8(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_perplexity result;
    ht_perplexity_task task = task_of(f, HT_DOCUMENTS_LINE, 60);
    assert_error(ht_perplexity_of(&result, &task, (ht_span){"good\nb\xFFx", 8}, &err), HT_ERR_DATA, &err,
                 "document at byte 5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perplexity__whole_text_in_windows),
        cmocka_unit_test(test_perplexity__documents_end),
        cmocka_unit_test(test_perplexity__nothing_to_predict),
        cmocka_unit_test(test_perplexity__text_that_is_not_utf8),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
