/* From the database to token ids: stored ids, ends of answers, limits, filters. */
#include "tests/unit/tokenizer/trained.h"

#include <math.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/store/store.h"
#include "reward/pairs.h"
#include "tests/unit/do.h"

static fixture *tokens;
static ht_chat chat;
static char db_path[128], warned[1024];
static ht_store *store;

static int setup_group(void **state) {
    if (fixture_make(state)) return -1;
    tokens = *state;
    chat = (ht_chat){tokens->tokenizer, HT_TEMPLATE_LLAMA2};
    snprintf(db_path, sizeof db_path, "%s/p.db", tokens->folder);
    return 0;
}

static void keep_warning(ht_log_level level, const char *line) {
    if (level == HT_LOG_WARN) snprintf(warned, sizeof warned, "%s", line);
}

static int setup(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    warned[0] = '\0';
    ht_log_set_sink(keep_warning);
    return ht_store_open(&store, db_path, HT_STORE_CREATE, &err) == HT_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    ht_log_set_sink(NULL);
    ht_store_close(store);
    char path[160];
    snprintf(path, sizeof path, "%s-wal", db_path);
    unlink(path);
    snprintf(path, sizeof path, "%s-shm", db_path);
    unlink(path);
    return unlink(db_path);
}

static int64_t add_dialog(const char *text, ht_kind kind, ht_split split) {
    char messages[512];
    int64_t id;
    snprintf(messages, sizeof messages, "[{\"role\":\"user\",\"content\":\"%s\"}]", text);
    DO(ht_store_add_dialog(store, &(ht_dialog_row){.messages = messages, .kind = kind, .split = split}, &id,
                           NULL, &err_));
    return id;
}

static int64_t add_response(ht_response_row row) {
    int64_t id;
    DO(ht_store_add_response(store, &row, &id, NULL, &err_));
    return id;
}

static int64_t add_text(int64_t dialog, const char *text) {
    return add_response((ht_response_row){.dialog_id = dialog, .text = text, .logprob = NAN});
}

static int64_t add_comparison(ht_comparison_row row) {
    int64_t id;
    DO(ht_store_add_comparison(store, &row, &id, NULL, &err_));
    return id;
}

static int64_t add_model(const char *name, const char *tokenizer_hash) {
    int64_t id;
    const ht_model_row row = {
        .name = name, .path = name, .hash = name, .stage = "sft", .tokenizer_hash = tokenizer_hash};
    DO(ht_store_add_model(store, &row, &id, &err_));
    return id;
}

static ht_pair_query any(void) {
    return (ht_pair_query){.own_kind = HT_KIND_SAFETY, .max_tokens = 4096};
}

static ht_pair_set load(ht_pair_query query) {
    ht_pair_set set;
    DO(ht_pair_set_load(&set, store, &query, &chat, &err_));
    return set;
}

/* prompt ids and then `tail` */
static void expected_ids(ht_ids *out, const char *text, const int32_t *tail, size_t count) {
    const ht_message message = {HT_ROLE_USER, text};
    DO(ht_chat_encode_prompt(&chat, (ht_prompt){&message, 1}, out, &err_));
    DO(ht_ids_append(out, tail, count, &err_));
}

static void test_pairs__a_finished_answer_ends_with_eos(void **state) {
    (void)state;
    int64_t dialog = add_dialog("Hello llama", HT_KIND_SAFETY, HT_SPLIT_TRAIN);
    add_comparison((ht_comparison_row){.chosen_id = add_text(dialog, "Hello there"),
                                       .rejected_id = add_text(dialog, "I cannot"),
                                       .rating = 3,
                                       .safety = HT_SAFETY_CHOSEN_SAFE,
                                       .batch = "one",
                                       .source = "here",
                                       .round = 2});
    ht_pair_set set = load(any());
    assert_int_equal(set.count, 1);
    ht_example chosen = ht_pair_chosen(&set, 0), rejected = ht_pair_rejected(&set, 0);
    assert_int_equal(chosen.tokens[chosen.length - 1], ht_tokenizer_eos(tokens->tokenizer));
    assert_int_equal(rejected.tokens[rejected.length - 1], ht_tokenizer_eos(tokens->tokenizer));
    assert_int_equal(set.pairs[0].rating, 3);
    assert_int_equal(set.pairs[0].safety, HT_SAFETY_CHOSEN_SAFE);
    assert_int_equal(set.pairs[0].round, 2);
    assert_string_equal(ht_pair_name(&set, set.pairs[0].batch), "one");
    assert_string_equal(ht_pair_name(&set, set.pairs[0].source), "here");
    ht_pair_set_free(&set);
}

/* Ids that encoding the text would never give: they must come out as they went in. */
static void test_pairs__stored_ids_are_used(void **state) {
    (void)state;
    const char *text = "the llama";
    ht_ids encoded = {0}, expected = {0};
    append_encoded(tokens->tokenizer, "t h e", &encoded);
    append_id(&encoded, ht_tokenizer_eos(tokens->tokenizer));
    int64_t dialog = add_dialog("Hello llama", HT_KIND_SAFETY, HT_SPLIT_TRAIN);
    int64_t model = add_model("policy", ht_tokenizer_hash(tokens->tokenizer));
    int64_t sampled = add_response((ht_response_row){.dialog_id = dialog,
                                                     .text = text,
                                                     .tokens = encoded.data,
                                                     .token_count = (int64_t)encoded.count,
                                                     .model_id = model,
                                                     .logprob = -1,
                                                     .finish = HT_FINISH_EOS});
    add_comparison((ht_comparison_row){.chosen_id = sampled, .rejected_id = add_text(dialog, text)});
    ht_pair_set set = load(any());
    ht_example chosen = ht_pair_chosen(&set, 0), rejected = ht_pair_rejected(&set, 0);
    expected_ids(&expected, "Hello llama", encoded.data, encoded.count);
    assert_int_equal(chosen.length, expected.count);
    assert_memory_equal(chosen.tokens, expected.data, expected.count * sizeof(int32_t));
    assert_int_equal(set.from_text, 0);
    assert_true(rejected.length != chosen.length);
    ht_pair_set_free(&set);
    ht_ids_release(&encoded);
    ht_ids_release(&expected);
}

static void test_pairs__ids_of_another_tokenizer_are_not(void **state) {
    (void)state;
    const int32_t foreign[] = {5, 6, 7};
    int64_t dialog = add_dialog("Hello llama", HT_KIND_SAFETY, HT_SPLIT_TRAIN);
    int64_t sampled = add_response((ht_response_row){.dialog_id = dialog,
                                                     .text = "the answer",
                                                     .tokens = foreign,
                                                     .token_count = 3,
                                                     .model_id = add_model("other", "0123"),
                                                     .logprob = -1,
                                                     .finish = HT_FINISH_EOS});
    add_comparison((ht_comparison_row){.chosen_id = sampled, .rejected_id = add_text(dialog, "the answer")});
    ht_pair_set set = load(any());
    assert_int_equal(set.from_text, 1);
    /* The same text, so the same sequence: also said. */
    assert_int_equal(set.pairs[0].identical, 1);
    assert_int_equal(set.identical, 1);
    assert_non_null(strstr(warned, "1 comparisons have two responses that do not differ"));
    ht_pair_set_free(&set);
}

static void test_pairs__a_cut_answer_has_no_eos(void **state) {
    (void)state;
    const int32_t ids[] = {20, 21, 22};
    int32_t eos = ht_tokenizer_eos(tokens->tokenizer);
    int64_t dialog = add_dialog("Hello llama", HT_KIND_SAFETY, HT_SPLIT_TRAIN);
    int64_t own = add_model("policy", ht_tokenizer_hash(tokens->tokenizer)),
            other = add_model("other", "0123");
    ht_response_row row = {.dialog_id = dialog,
                           .text = "cut",
                           .tokens = ids,
                           .token_count = 3,
                           .model_id = own,
                           .logprob = -1,
                           .finish = HT_FINISH_LENGTH};
    int64_t by_ids = add_response(row);
    row.model_id = other;
    add_comparison((ht_comparison_row){.chosen_id = by_ids, .rejected_id = add_response(row)});
    ht_pair_set set = load(any());
    ht_example chosen = ht_pair_chosen(&set, 0), rejected = ht_pair_rejected(&set, 0);
    assert_int_equal(chosen.tokens[chosen.length - 1], 22);
    assert_true(rejected.tokens[rejected.length - 1] != eos);
    ht_pair_set_free(&set);
}

static void test_pairs__own_kind_sources_and_filter(void **state) {
    (void)state;
    static const char *const sources[] = {"meta", "open", NULL};
    for (int i = 0; i < 6; i++) {
        char text[32];
        snprintf(text, sizeof text, "Question %d", i);
        int64_t dialog = add_dialog(text, i < 3 ? HT_KIND_SAFETY : HT_KIND_HELPFULNESS, HT_SPLIT_TRAIN);
        add_comparison((ht_comparison_row){.chosen_id = add_text(dialog, "yes"),
                                           .rejected_id = add_text(dialog, "no"),
                                           .source = sources[i % 3]});
    }
    char *meta[] = {"meta"};
    ht_pair_query query = any();
    ht_pair_set set = load(query);
    assert_int_equal(set.count, 6);
    for (int i = 0; i < 6; i++)
        assert_int_equal(set.pairs[i].own, i < 3);
    ht_pair_set_free(&set);
    query.own_sources = (ht_strings){meta, 1};
    set = load(query);
    for (int i = 0; i < 6; i++)
        assert_int_equal(set.pairs[i].own, i == 0);
    ht_pair_set_free(&set);
    query.sources = (ht_strings){meta, 1};
    set = load(query);
    assert_int_equal(set.count, 2);
    ht_pair_set_free(&set);
}

static void test_pairs__too_long(void **state) {
    (void)state;
    int64_t ids[2];
    for (int i = 0; i < 2; i++) {
        int64_t dialog = add_dialog(i ? "Hello hello hello hello hello hello hello hello" : "Hello",
                                    HT_KIND_SAFETY, HT_SPLIT_TRAIN);
        ids[i] = add_comparison(
            (ht_comparison_row){.chosen_id = add_text(dialog, "yes"), .rejected_id = add_text(dialog, "no")});
    }
    ht_pair_set set = load(any());
    int64_t longest = set.longest;
    assert_int_equal(set.longest_id, ids[1]);
    ht_pair_set_free(&set);
    ht_pair_query query = any();
    query.max_tokens = longest;
    set = load(query);
    assert_int_equal(set.count, 2);
    ht_pair_set_free(&set);

    char part[128];
    query.max_tokens = longest - 1;
    snprintf(part, sizeof part, "comparison %d: prompt and response have %d tokens, above %d", (int)ids[1],
             (int)longest, (int)longest - 1);
    FAILS(ht_pair_set_load(&set, store, &query, &chat, &err_), HT_ERR_DATA, part);
    assert_null(set.pairs);

    query.too_long = HT_TOO_LONG_SKIP;
    set = load(query);
    assert_int_equal(set.count, 1);
    assert_int_equal(set.skipped, 1);
    assert_non_null(strstr(warned, "1 comparisons with more than"));
    ht_pair_set_free(&set);
}

static void test_pairs__hash_follows_the_data(void **state) {
    (void)state;
    char before[33], again[33], after[33];
    int64_t dialog = add_dialog("Hello", HT_KIND_SAFETY, HT_SPLIT_TRAIN);
    int64_t yes = add_text(dialog, "yes"), no = add_text(dialog, "no");
    add_comparison((ht_comparison_row){.chosen_id = yes, .rejected_id = no, .rating = 1});
    ht_pair_set set = load(any());
    ht_pair_set_hash(&set, before);
    ht_pair_set_free(&set);
    set = load(any());
    ht_pair_set_hash(&set, again);
    assert_string_equal(before, again);
    set.pairs[0].rating = 2;
    ht_pair_set_hash(&set, after);
    assert_string_not_equal(before, after);
    set.pairs[0].rating = 1;
    set.sequences.tokens[3]++;
    ht_pair_set_hash(&set, after);
    assert_string_not_equal(before, after);
    ht_pair_set_free(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pairs__a_finished_answer_ends_with_eos, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pairs__stored_ids_are_used, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pairs__ids_of_another_tokenizer_are_not, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pairs__a_cut_answer_has_no_eos, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pairs__own_kind_sources_and_filter, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pairs__too_long, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pairs__hash_follows_the_data, setup, teardown),
    };
    return cmocka_run_group_tests(tests, setup_group, fixture_drop);
}
