/* Policies and scorers opened from folders, and what a scorer makes of the database's responses. */
#include "tests/unit/tokenizer/trained.h"

#include <math.h>

#include "core/base/log.h"
#include "core/base/rng.h"
#include "core/checkpoint/model_folder.h"
#include "core/generate/policy.h"
#include "core/generate/samples.h"
#include "core/generate/scoring.h"
#include "tests/unit/small_llama.h"

enum { POSITIONS = 96, SEQUENCES = 9 };

static ht_backend *backend;
static char warning[1024];

static void keep_warning(ht_log_level level, const char *line) {
    if (level == HT_LOG_WARN) snprintf(warning, sizeof warning, "%s", line);
}

/* What a folder is made from. */
typedef struct recipe {
    const char *name;
    ht_head head;
    int64_t vocab_size;
    int32_t eos_id;
} recipe;

static const char *make_folder(const fixture *f, recipe r) {
    static char folder[128];
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    ht_llama model;
    ht_lineage lineage = {.stage = "sft"};
    ht_llama_config config = small_llama(r.vocab_size, POSITIONS);
    config.eos_id = r.eos_id;
    config.head = r.head;
    snprintf(folder, sizeof folder, "%s/%s", f->folder, r.name);
    ht_arena_init(&arena, 0);
    ht_backend_arena(backend, &arena);
    assert_ok(ht_llama_init(&model, backend, &arena, &config, HT_F32, &err), &err);
    assert_ok(ht_llama_randomize(&model, 8, &err), &err);
    assert_ok(ht_model_folder_save(folder, &model, HT_F32, f->model_path, &lineage, &err), &err);
    ht_llama_free(&model);
    ht_arena_clear(&arena);
    return folder;
}

static void test_folders__a_policy_generates(void **state) {
    const fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_policy policy;
    ht_completion completion;
    ht_engine_limits limits = {.max_sequences = 2};
    const char *folder = make_folder(f, (recipe){"policy", HT_HEAD_LM, TRAINED_VOCAB, 2});
    int32_t prompt[] = {1, 300, 20};
    ht_request request = {
        .prompt = prompt, .prompt_length = 3, .max_new_tokens = 1000, .top_p = 1, .ignore_eos = 1};
    warning[0] = '\0';
    assert_ok(ht_policy_open(&policy, backend, folder, HT_F32, &limits, &err), &err);
    assert_string_equal(warning, "");
    assert_string_equal(ht_tokenizer_hash(policy.tokenizer), ht_tokenizer_hash(f->tokenizer));
    assert_true(policy.arena.sealed);
    assert_ok(ht_generate(policy.engine, &request, 1, &completion, NULL, NULL, &err), &err);
    assert_int_equal(completion.length, POSITIONS - 3);
    ht_completions_free(&completion, 1);
    ht_policy_free(&policy);
    ht_policy_free(&policy); /* zeroed: does nothing */
}

static void test_folders__unfit_policies_are_refused(void **state) {
    const fixture *f = *state;
    ht_policy policy;
    ht_engine_limits limits = {.max_sequences = 2};
    struct {
        recipe from;
        const char *message;
    } cases[] = {
        {{"rewarding", HT_HEAD_SCALAR, TRAINED_VOCAB, 2}, "a reward model; wanted is a language model"},
        {{"narrow", HT_HEAD_LM, TRAINED_VOCAB - 1, 2}, "400 pieces, but the model has a vocabulary of 399"}};
    for (int i = 0; i < 2; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_status status =
            ht_policy_open(&policy, backend, make_folder(f, cases[i].from), HT_F32, &limits, &err);
        assert_error(status, HT_ERR_DATA, &err, cases[i].message);
        assert_null(policy.engine);
    }
    ht_error err = HT_ERROR_INIT;
    assert_int_not_equal(ht_policy_open(&policy, backend, f->folder, HT_F32, &limits, &err), HT_OK);
    err = (ht_error)HT_ERROR_INIT;
    warning[0] = '\0';
    assert_ok(ht_policy_open(&policy, backend,
                             make_folder(f, (recipe){"other_eos", HT_HEAD_LM, TRAINED_VOCAB, 7}), HT_F32,
                             &limits, &err),
              &err);
    assert_non_null(strstr(warning, "EOS is 7 in the model and 2 in its tokenizer"));
    ht_policy_free(&policy);
}

/* The scores do not depend on how sequences share passes, and are the head's values at the last tokens. */
static void test_folders__a_scorer_scores_last_tokens(void **state) {
    const fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    const char *folder = make_folder(f, (recipe){"scorer", HT_HEAD_SCALAR, TRAINED_VOCAB, 2});
    int32_t tokens[SEQUENCES][40];
    const int32_t *pointers[SEQUENCES];
    int64_t lengths[SEQUENCES];
    float scores[2][SEQUENCES];
    for (int i = 0; i < SEQUENCES; i++) {
        lengths[i] = 1 + (int64_t)ht_rng_below(1, 1, (uint64_t)i, 40);
        pointers[i] = tokens[i];
        for (int t = 0; t < 40; t++)
            tokens[i][t] = (int32_t)ht_rng_below(2, (uint64_t)i, (uint64_t)t, TRAINED_VOCAB);
    }
    for (int pass = 0; pass < 2; pass++) {
        ht_scorer scorer;
        assert_ok(ht_scorer_open(&scorer, backend, folder, HT_F32, pass ? 40 : 0, &err), &err);
        assert_string_equal(ht_tokenizer_hash(scorer.tokenizer), ht_tokenizer_hash(f->tokenizer));
        assert_ok(ht_scorer_score(&scorer, pointers, lengths, SEQUENCES, scores[pass], &err), &err);
        for (int i = 0; i < SEQUENCES; i++) {
            ht_batch batch;
            int32_t last = (int32_t)lengths[i] - 1;
            float alone;
            assert_ok(ht_batch_init(&batch, 40, 1, &err), &err);
            assert_int_equal(ht_batch_add(&batch, tokens[i], lengths[i]), 1);
            assert_ok(ht_llama_forward(&scorer.model, scorer.acts, &batch, &err), &err);
            assert_ok(ht_scalar_forward(&scorer.model, scorer.acts, &last, 1, &alone, &err), &err);
            assert_true(fabsf(alone - scores[pass][i]) < 1e-5f);
            ht_batch_free(&batch);
        }
        ht_scorer_free(&scorer);
        ht_scorer_free(&scorer);
    }
    for (int i = 1; i < SEQUENCES; i++)
        assert_true(scores[0][i] != scores[0][0]);
}

static void test_folders__a_language_model_does_not_score(void **state) {
    const fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_scorer scorer;
    const char *folder = make_folder(f, (recipe){"speaker", HT_HEAD_LM, TRAINED_VOCAB, 2});
    assert_error(ht_scorer_open(&scorer, backend, folder, HT_F32, 0, &err), HT_ERR_DATA, &err,
                 "a language model; wanted is a reward model");
    assert_null(scorer.acts);
}

/* --- responses of the database -------------------------------------------------------------------------------- */

enum { RESPONSES = 300 }; /* more than a transaction takes */

/* A database of one dialogue and RESPONSES responses as text; response i has the id first + i. */
static ht_store *make_store(const fixture *f, int64_t *model_id, int64_t *first) {
    ht_error err = HT_ERROR_INIT;
    ht_store *store;
    char path[128];
    ht_dialog_row dialog = {.messages = "[{\"role\": \"user\", \"content\": \"hello\"}]"};
    ht_model_row model = {.name = "rm", .path = "rm", .hash = "1", .stage = "reward-safe"};
    int64_t dialog_id;
    snprintf(path, sizeof path, "%s/scoring-XXXXXX", f->folder);
    assert_non_null(mkdtemp(path));
    strcat(path, "/p.db");
    assert_ok(ht_store_open(&store, path, HT_STORE_CREATE, &err), &err);
    assert_ok(ht_store_begin(store, &err), &err);
    assert_ok(ht_store_add_dialog(store, &dialog, &dialog_id, NULL, &err), &err);
    assert_ok(ht_store_add_model(store, &model, model_id, &err), &err);
    for (int i = 0; i < RESPONSES; i++) {
        char text[64];
        int64_t id;
        ht_response_row row = {.dialog_id = dialog_id, .text = text};
        snprintf(text, sizeof text, "the answer is %d", i);
        assert_ok(ht_store_add_response(store, &row, &id, NULL, &err), &err);
        if (i == 0) *first = id;
        assert_int_equal(id, *first + i);
    }
    assert_ok(ht_store_commit(store, &err), &err);
    return store;
}

static int is_even(void *context, const ht_scored_row *row) {
    (void)context;
    return row->response.id % 2 == 0;
}

/* The score that the scorer gives to response i alone. */
static double score_alone(ht_scorer *scorer, int i) {
    ht_error err = HT_ERROR_INIT;
    ht_chat chat = {scorer->tokenizer, HT_TEMPLATE_LLAMA2};
    ht_message message = {.role = HT_ROLE_USER, .content = "hello"};
    ht_chat_ids ids = {0};
    char text[64];
    float score;
    int from_text;
    ht_response_row row = {.text = text};
    snprintf(text, sizeof text, "the answer is %d", i);
    assert_ok(ht_response_encode(&chat, (ht_prompt){&message, 1}, &row, &ids, &from_text, &err), &err);
    assert_int_equal(from_text, 0);
    const int32_t *tokens = ids.ids.data;
    int64_t length = (int64_t)ids.ids.count;
    assert_ok(ht_scorer_score(scorer, &tokens, &length, 1, &score, &err), &err);
    ht_chat_ids_release(&ids);
    return (double)score;
}

static void test_folders__responses_are_scored_once(void **state) {
    const fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_scoring_result result;
    ht_scorer scorer;
    ht_scored_row row;
    ht_store_cursor *cursor;
    int found;
    int64_t model_id, first, count = 0;
    ht_store *store = make_store(f, &model_id, &first);
    ht_scoring scoring = {.store = store,
                          .be = backend,
                          .folder = make_folder(f, (recipe){"judge", HT_HEAD_SCALAR, TRAINED_VOCAB, 2}),
                          .model_id = model_id,
                          .counts = is_even,
                          .label = "test"};
    assert_ok(ht_score_responses(&scoring, &result, &err), &err);
    assert_int_equal(result.scored, RESPONSES / 2);
    assert_int_equal(result.present, 0);
    scoring.counts = NULL;
    assert_ok(ht_score_responses(&scoring, &result, &err), &err);
    assert_int_equal(result.scored, RESPONSES / 2);
    assert_int_equal(result.present, RESPONSES / 2);
    assert_ok(ht_score_responses(&scoring, &result, &err), &err);
    assert_int_equal(result.scored, 0);
    assert_int_equal(result.present, RESPONSES);
    assert_ok(ht_scorer_open(&scorer, backend, scoring.folder, HT_F32, 0, &err), &err);
    ht_store_filter filter = {.helpful_model_id = model_id};
    assert_ok(ht_store_read(store, HT_STORE_RESPONSES, &filter, &cursor, &err), &err);
    for (;; count++) {
        assert_ok(ht_store_next_response(cursor, &row, &found, &err), &err);
        if (!found) break;
        assert_true(fabs(row.helpful - score_alone(&scorer, (int)(row.response.id - first))) < 1e-5);
    }
    assert_int_equal(count, RESPONSES);
    ht_store_cursor_free(cursor);
    ht_scorer_free(&scorer);
    ht_store_close(store);
}

static void test_folders__unfit_responses_and_judges_are_refused(void **state) {
    const fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_scoring_result result;
    int64_t model_id, first;
    ht_store *store = make_store(f, &model_id, &first);
    ht_scoring scoring = {.store = store,
                          .be = backend,
                          .folder = make_folder(f, (recipe){"strict", HT_HEAD_SCALAR, TRAINED_VOCAB, 2}),
                          .model_id = model_id,
                          .pass_tokens = 12,
                          .label = "test"};
    assert_error(ht_score_responses(&scoring, &result, &err), HT_ERR_DATA, &err, "tokens, above the 12 of a pass");
    assert_int_equal(strncmp(err.message, "response ", 9), 0);
    err = (ht_error)HT_ERROR_INIT;
    scoring.folder = make_folder(f, (recipe){"talker", HT_HEAD_LM, TRAINED_VOCAB, 2});
    assert_error(ht_score_responses(&scoring, &result, &err), HT_ERR_DATA, &err, "wanted is a reward model");
    ht_store_close(store);
}

/* Sampled ids are taken as they are by the same tokenizer, and the text by another. */
static void test_folders__sampled_ids_are_not_encoded_again(void **state) {
    const fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_chat chat = {f->tokenizer, HT_TEMPLATE_LLAMA2};
    ht_message message = {.role = HT_ROLE_USER, .content = "hello"};
    ht_prompt prompt = {&message, 1};
    ht_chat_ids ids = {0};
    int from_text;
    const int32_t sampled[] = {300, 17, 300}; /* no text is encoded like this */
    ht_response_row row = {.text = "hello",
                           .tokens = sampled,
                           .token_count = 3,
                           .finish = HT_FINISH_LENGTH,
                           .tokenizer_hash = ht_tokenizer_hash(f->tokenizer)};
    assert_ok(ht_response_encode(&chat, prompt, &row, &ids, &from_text, &err), &err);
    assert_int_equal(from_text, 0);
    assert_memory_equal(ids.ids.data + ids.ids.count - 3, sampled, sizeof sampled);
    row.tokenizer_hash = "another";
    for (int i = 0; i < 2; i++) {
        row.finish = i ? HT_FINISH_EOS : HT_FINISH_LENGTH;
        assert_ok(ht_response_encode(&chat, prompt, &row, &ids, &from_text, &err), &err);
        assert_int_equal(from_text, 1);
        assert_int_equal(ids.ids.data[ids.ids.count - 1] == ht_tokenizer_eos(f->tokenizer), i);
        assert_true(memcmp(ids.ids.data + ids.ids.count - 3, sampled, sizeof sampled) != 0);
    }
    ht_chat_ids_release(&ids);
}

static int set_up(void **state) {
    ht_error err = HT_ERROR_INIT;
    ht_log_set_sink(keep_warning);
    return ht_backend_open(&backend, HT_BACKEND_CPU, 1, &err) == HT_OK ? fixture_make(state) : -1;
}

static int tear_down(void **state) {
    ht_log_set_sink(NULL);
    ht_backend_close(backend);
    return fixture_drop(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders__a_policy_generates),
        cmocka_unit_test(test_folders__unfit_policies_are_refused),
        cmocka_unit_test(test_folders__a_scorer_scores_last_tokens),
        cmocka_unit_test(test_folders__a_language_model_does_not_score),
        cmocka_unit_test(test_folders__responses_are_scored_once),
        cmocka_unit_test(test_folders__unfit_responses_and_judges_are_refused),
        cmocka_unit_test(test_folders__sampled_ids_are_not_encoded_again),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
