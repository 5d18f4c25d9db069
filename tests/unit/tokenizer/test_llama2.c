/*
 * Llama 2's own tokenizer: the ids printed in METHOD.md section 10. Its file is not part of the project;
 * without HALTER_LLAMA2_TOKENIZER, the path of it, every test here is skipped and says so.
 */
#include "tests/unit/tokenizer/trained.h"

#include "core/tokenizer/chat.h"

static const char variable[] = "HALTER_LLAMA2_TOKENIZER";
static ht_tokenizer *tokenizer;

static void need_tokenizer(const char *name) {
    ht_error err = HT_ERROR_INIT;
    const char *path = getenv(variable);
    if (!path || !*path) {
        printf("skipped: %s: set %s\n", name, variable);
        skip();
    }
    if (!tokenizer) assert_ok(ht_tokenizer_open(&tokenizer, path, &err), &err);
}

static int drop_tokenizer(void **state) {
    (void)state;
    ht_tokenizer_free(tokenizer);
    return 0;
}

#define ASSERT_IDS(ids, ...)                                                                                 \
    assert_ids(&(ids), (const int32_t[]){__VA_ARGS__},                                                       \
               sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))
#define ASSERT_ENCODED(text, ...)                                                                            \
    do {                                                                                                     \
        ht_ids ids_ = {0};                                                                                   \
        append_encoded(tokenizer, text, &ids_);                                                              \
        ASSERT_IDS(ids_, __VA_ARGS__);                                                                       \
        ht_ids_release(&ids_);                                                                               \
    } while (0)

static void test_llama2__special_ids(void **state) {
    (void)state;
    need_tokenizer(__func__);
    assert_int_equal(ht_tokenizer_size(tokenizer), 32000);
    assert_int_equal(ht_tokenizer_unk(tokenizer), 0);
    assert_int_equal(ht_tokenizer_bos(tokenizer), 1);
    assert_int_equal(ht_tokenizer_eos(tokenizer), 2);
}

static void test_llama2__ids_of_strings(void **state) {
    (void)state;
    need_tokenizer(__func__);
    ASSERT_ENCODED("[INST]", 518, 25580, 29962);
    ASSERT_ENCODED("[INST] Hi [/INST]", 518, 25580, 29962, 6324, 518, 29914, 25580, 29962);
    ASSERT_ENCODED("[INST] Hi [/INST] Hello! ", 518, 25580, 29962, 6324, 518, 29914, 25580, 29962, 15043,
                   29991, 29871);
    ASSERT_ENCODED(" Hello!", 29871, 15043, 29991);
    ASSERT_ENCODED("2023", 29871, 29906, 29900, 29906, 29941);
}

static void test_llama2__ids_of_a_dialogue(void **state) {
    (void)state;
    need_tokenizer(__func__);
    ht_error err = HT_ERROR_INIT;
    ht_chat chat = {tokenizer, HT_TEMPLATE_LLAMA2};
    ht_message messages[] = {{HT_ROLE_USER, " Hi\n"}, {HT_ROLE_ASSISTANT, "Hello!"}, {HT_ROLE_USER, "Hi"}};
    ht_chat_ids out = {0};
    ht_ids prompt = {0};
    assert_ok(ht_chat_encode_prompt(&chat, (ht_prompt){messages, 3}, &prompt, &err), &err);
    ASSERT_IDS(prompt, 1, 518, 25580, 29962, 6324, 518, 29914, 25580, 29962, 15043, 29991, 29871, 2, 1, 518,
               25580, 29962, 6324, 518, 29914, 25580, 29962);
    assert_ok(
        ht_chat_encode_dialog(&chat, (ht_prompt){messages, 1}, "Hello!", HT_ANSWER_FINISHED, &out, &err),
        &err);
    ASSERT_IDS(out.ids, 1, 518, 25580, 29962, 6324, 518, 29914, 25580, 29962, 15043, 29991, 29871, 2);
    assert_int_equal(out.span_count, 1);
    assert_int_equal(out.spans[0].start, 9);
    assert_int_equal(out.spans[0].end, 13);
    assert_ok(ht_chat_encode_dialog(&chat, (ht_prompt){messages, 1}, "Hello!", HT_ANSWER_CUT, &out, &err),
              &err);
    ASSERT_IDS(out.ids, 1, 518, 25580, 29962, 6324, 518, 29914, 25580, 29962, 15043, 29991);
    ht_chat_ids_release(&out);
    ht_ids_release(&prompt);
}

static void test_llama2__ids_of_a_system_block(void **state) {
    (void)state;
    need_tokenizer(__func__);
    ht_error err = HT_ERROR_INIT;
    ht_chat chat = {tokenizer, HT_TEMPLATE_LLAMA2};
    ht_message messages[] = {{HT_ROLE_SYSTEM, ""}, {HT_ROLE_USER, "Hi"}};
    ht_ids ids = {0};
    assert_ok(ht_chat_encode_prompt(&chat, (ht_prompt){messages, 2}, &ids, &err), &err);
    /* [INST] <<SYS>> \n \n <</SYS>> \n \n Hi [/INST] */
    static const int32_t head[] = {1,  518,   25580, 29962, 3532,  14816, 29903, 6778, 13,
                                   13, 29966, 829,   14816, 29903, 6778,  13,    13};
    static const int32_t tail[] = {518, 29914, 25580, 29962};
    assert_true(ids.count > sizeof head / sizeof *head + 4);
    assert_memory_equal(ids.data, head, sizeof head);
    assert_memory_equal(ids.data + ids.count - 4, tail, sizeof tail);
    ht_ids_release(&ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama2__special_ids),
        cmocka_unit_test(test_llama2__ids_of_strings),
        cmocka_unit_test(test_llama2__ids_of_a_dialogue),
        cmocka_unit_test(test_llama2__ids_of_a_system_block),
    };
    int failed = cmocka_run_group_tests(tests, NULL, drop_tokenizer);
    const char *path = getenv(variable);
    return failed == 0 && (!path || !*path) ? 77 : failed; /* 77: CTest reports it as skipped */
}
