/*
 * The chat format on a tokenizer trained here. What is expected is spelled out as strings and encoded as
 * strings.
 */
#include "tests/unit/tokenizer/trained.h"

#include "core/tokenizer/chat.h"

#define SYSTEM(text)                                                                                         \
    { HT_ROLE_SYSTEM, text }
#define USER(text)                                                                                           \
    { HT_ROLE_USER, text }
#define ASSISTANT(text)                                                                                      \
    { HT_ROLE_ASSISTANT, text }
#define PROMPT(...)                                                                                          \
    ((ht_prompt){(const ht_message[]){__VA_ARGS__},                                                          \
                 sizeof((const ht_message[]){__VA_ARGS__}) / sizeof(ht_message)})

static ht_chat llama2(const fixture *f) {
    return (ht_chat){f->tokenizer, HT_TEMPLATE_LLAMA2};
}

static ht_chat plain(const fixture *f) {
    return (ht_chat){f->tokenizer, HT_TEMPLATE_NONE};
}

/* Appends BOS and the ids of text, and EOS when asked. */
static void expect(const fixture *f, ht_ids *wanted, const char *text, int eos) {
    append_id(wanted, 1);
    append_encoded(f->tokenizer, text, wanted);
    if (eos) append_id(wanted, 2);
}

static void assert_prompt(const ht_chat *chat, ht_prompt prompt, const ht_ids *wanted) {
    ht_error err = HT_ERROR_INIT;
    ht_ids ids = {0};
    assert_ok(ht_chat_encode_prompt(chat, prompt, &ids, &err), &err);
    assert_ids(&ids, wanted->data, wanted->count);
    ht_ids_release(&ids);
}

/* ---- prompts ---- */

static void test_prompt__one_turn(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_ids wanted = {0};
    expect(f, &wanted, "[INST] Hello [/INST]", 0);
    assert_prompt(&chat, PROMPT(USER("Hello")), &wanted);
    assert_prompt(&chat, PROMPT(USER(" \n Hello\xC2\xA0\xE3\x80\x80\n")), &wanted);
    ht_ids_release(&wanted);
}

static void test_prompt__turns_with_system(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_ids wanted = {0};
    /* the inner edges of the system text and of the first user text stay */
    expect(f, &wanted, "[INST] <<SYS>>\n Be kind. \n<</SYS>>\n\n  Hi [/INST] Hello, llama! ", 1);
    expect(f, &wanted, "[INST] And\nyou? [/INST]", 0);
    assert_prompt(
        &chat,
        PROMPT(SYSTEM(" Be kind. "), USER("  Hi "), ASSISTANT("\tHello, llama!\n"), USER(" And\nyou? ")),
        &wanted);
    int bos = 0, eos = 0;
    for (size_t i = 0; i < wanted.count; i++) {
        bos += wanted.data[i] == 1;
        eos += wanted.data[i] == 2;
    }
    assert_int_equal(bos, 2);
    assert_int_equal(eos, 1);
    ht_ids_release(&wanted);
}

static void test_prompt__strip_acts_on_the_merged_text(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_ids wanted = {0};
    expect(f, &wanted, "[INST] <<SYS>>\nBe kind.\n<</SYS>> [/INST]", 0);
    assert_prompt(&chat, PROMPT(SYSTEM("Be kind."), USER("  ")), &wanted);
    ht_ids_release(&wanted);
}

static void test_prompt__appends(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_error err = HT_ERROR_INIT;
    ht_ids ids = {0}, wanted = {0};
    append_id(&ids, 77);
    append_id(&wanted, 77);
    expect(f, &wanted, "[INST] Hello [/INST]", 0);
    assert_ok(ht_chat_encode_prompt(&chat, PROMPT(USER("Hello")), &ids, &err), &err);
    assert_ids(&ids, wanted.data, wanted.count);
    /* and keeps what it had when it fails */
    assert_int_equal(ht_chat_encode_prompt(&chat, PROMPT(USER("[INST]")), &ids, &err), HT_ERR_DATA);
    assert_ids(&ids, wanted.data, wanted.count);
    ht_ids_release(&ids);
    ht_ids_release(&wanted);
}

/* ---- what is refused ---- */

static void refuse(ht_prompt prompt, const char *part) {
    ht_error err = HT_ERROR_INIT;
    assert_error(ht_chat_check(HT_TEMPLATE_LLAMA2, prompt, &err), HT_ERR_DATA, &err, part);
}

static void test_check__roles(void **state) {
    (void)state;
    refuse((ht_prompt){NULL, 0}, "messages is empty");
    refuse(PROMPT(SYSTEM("s")), "system message only");
    refuse(PROMPT(ASSISTANT("a")), "messages[0].role = \"assistant\" where \"user\"");
    refuse(PROMPT(USER("u"), ASSISTANT("a")), "messages[1].role = \"assistant\": the last message");
    refuse(PROMPT(USER("u"), USER("u")), "messages[1].role = \"user\" where \"assistant\"");
    refuse(PROMPT(USER("u"), ASSISTANT("a"), ASSISTANT("a")),
           "messages[2].role = \"assistant\" where \"user\"");
    refuse(PROMPT(USER("u"), SYSTEM("s"), USER("u")), "messages[1].role = \"system\" where \"assistant\"");
    refuse(PROMPT(USER("u"), ASSISTANT("a"), SYSTEM("s")), "messages[2].role = \"system\" where \"user\"");
    /* the merged message has the role of the one behind the system message */
    refuse(PROMPT(SYSTEM("s"), ASSISTANT("a")), "messages[1].role = \"assistant\" where \"user\"");
    refuse(PROMPT(SYSTEM("s"), SYSTEM("s"), USER("u")), "messages[1].role = \"system\" where \"user\"");
    refuse(PROMPT(SYSTEM("s"), USER("u"), ASSISTANT("a")),
           "messages[2].role = \"assistant\": the last message");

    ht_error err = HT_ERROR_INIT;
    assert_ok(
        ht_chat_check(HT_TEMPLATE_LLAMA2, PROMPT(SYSTEM("s"), USER("u"), ASSISTANT("a"), USER("u")), &err),
        &err);
}

static void test_check__tags_in_any_message(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    static const char *const tags[] = {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"};
    static const char *const roles[] = {"messages[0] (system)", "messages[1] (user)",
                                        "messages[2] (assistant)", "messages[3] (user)"};
    for (size_t t = 0; t < 4; t++) {
        char content[64];
        snprintf(content, sizeof content, "some%stext", tags[t]);
        for (size_t m = 0; m < 4; m++) {
            ht_message messages[] = {SYSTEM("s"), USER("u"), ASSISTANT("a"), USER("u")};
            messages[m].content = content;
            refuse((ht_prompt){messages, 4}, roles[m]);
            refuse((ht_prompt){messages, 4}, tags[t]);
        }
        ht_error err = HT_ERROR_INIT;
        ht_chat_ids out = {0};
        ht_status status =
            ht_chat_encode_dialog(&chat, PROMPT(USER("u")), content, HT_ANSWER_FINISHED, &out, &err);
        assert_error(status, HT_ERR_DATA, &err, tags[t]);
        assert_error(status, HT_ERR_DATA, &err, "the answer");
        assert_int_equal(out.ids.count, 0);
        ht_chat_ids_release(&out);
        /* plain text has no tags */
        err = (ht_error)HT_ERROR_INIT;
        assert_ok(ht_chat_check(HT_TEMPLATE_NONE, PROMPT(USER(content)), &err), &err);
    }
    ht_error err = HT_ERROR_INIT; /* the test is by case and to the letter */
    assert_ok(ht_chat_check(HT_TEMPLATE_LLAMA2, PROMPT(USER("[inst] [ INST] <SYS> <<SYS> [INST")), &err),
              &err);
}

static void test_check__content_is_utf8(void **state) {
    (void)state;
    refuse(PROMPT(USER("u"), ASSISTANT("a\xFF"), USER("u")),
           "messages[1] (assistant) is not UTF-8 at byte 1 of 2");
}

/* ---- dialogues ---- */

static void test_dialog__turns_and_spans(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_error err = HT_ERROR_INIT;
    ht_chat_ids out = {0};
    ht_ids wanted = {0}, prompt = {0};
    expect(f, &wanted, "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello, llama! ", 1);
    size_t second = wanted.count;
    expect(f, &wanted, "[INST] And you? [/INST] I am well ", 1);
    assert_ok(ht_chat_encode_dialog(
                  &chat,
                  PROMPT(SYSTEM("Be kind."), USER("Hi"), ASSISTANT(" Hello, llama!"), USER("And you?")),
                  " I am well\n", HT_ANSWER_FINISHED, &out, &err),
              &err);
    assert_ids(&out.ids, wanted.data, wanted.count);
    assert_int_equal(out.span_count, 2);
    /* an answer begins where its prompt ends and includes its EOS: no prompt token, no BOS */
    expect(f, &prompt, "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST]", 0);
    assert_int_equal(out.spans[0].start, prompt.count);
    assert_int_equal(out.spans[0].end, second);
    prompt.count = 0;
    expect(f, &prompt, "[INST] And you? [/INST]", 0);
    assert_int_equal(out.spans[1].start, second + prompt.count);
    assert_int_equal(out.spans[1].end, wanted.count);
    for (size_t s = 0; s < 2; s++) {
        ht_text text = {0};
        size_t count = (size_t)(out.spans[s].end - out.spans[s].start);
        const int32_t *answer = out.ids.data + out.spans[s].start;
        assert_int_equal(answer[count - 1], 2);
        for (size_t i = 0; i + 1 < count; i++)
            assert_true(answer[i] > 2);
        assert_ok(ht_tokenizer_decode(f->tokenizer, answer, count, &text, &err), &err);
        assert_string_equal(text.data, s == 0 ? "Hello, llama! " : "I am well ");
        ht_text_release(&text);
    }
    ht_chat_ids_release(&out);
    ht_ids_release(&wanted);
    ht_ids_release(&prompt);
}

static void test_dialog__one_string_is_not_two(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_error err = HT_ERROR_INIT;
    ht_chat_ids out = {0};
    ht_ids apart = {0};
    assert_ok(ht_chat_encode_dialog(&chat, PROMPT(USER("Hi")), "Hello", HT_ANSWER_FINISHED, &out, &err),
              &err);
    /* encoded apart, the answer would get a second space in front */
    expect(f, &apart, "[INST] Hi [/INST]", 0);
    append_encoded(f->tokenizer, " Hello ", &apart);
    append_id(&apart, 2);
    assert_int_not_equal(out.ids.count, apart.count);
    ht_chat_ids_release(&out);
    ht_ids_release(&apart);
}

static void test_dialog__a_cut_answer_has_no_end(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_error err = HT_ERROR_INIT;
    ht_chat_ids out = {0};
    ht_ids wanted = {0};
    expect(f, &wanted, "[INST] Hi [/INST] Hello, lla", 0);
    assert_ok(ht_chat_encode_dialog(&chat, PROMPT(USER("Hi")), " Hello, lla", HT_ANSWER_CUT, &out, &err),
              &err);
    assert_ids(&out.ids, wanted.data, wanted.count);
    assert_int_equal(out.spans[0].end, wanted.count);
    /* what it ends with stays; turns before it are finished all the same */
    wanted.count = 0;
    expect(f, &wanted, "[INST] Hi [/INST] Ho ", 1);
    expect(f, &wanted, "[INST] Hi [/INST] Hello\n\n", 0);
    assert_ok(ht_chat_encode_dialog(&chat, PROMPT(USER("Hi"), ASSISTANT("Ho"), USER("Hi")), "Hello\n\n",
                                    HT_ANSWER_CUT, &out, &err),
              &err);
    assert_ids(&out.ids, wanted.data, wanted.count);
    ht_chat_ids_release(&out);
    ht_ids_release(&wanted);
}

static void test_dialog__prompt_is_where_generation_starts(void **state) {
    fixture *f = *state;
    ht_chat chats[] = {llama2(f), plain(f)};
    ht_error err = HT_ERROR_INIT;
    ht_prompt prompt = PROMPT(USER("What is the answer?"));
    for (size_t c = 0; c < 2; c++) {
        ht_chat_ids out = {0};
        ht_ids ids = {0};
        assert_ok(ht_chat_encode_prompt(&chats[c], prompt, &ids, &err), &err);
        assert_ok(ht_chat_encode_dialog(&chats[c], prompt, " The answer", HT_ANSWER_FINISHED, &out, &err),
                  &err);
        assert_int_equal(out.spans[0].start, ids.count);
        assert_memory_equal(out.ids.data, ids.data, ids.count * sizeof *ids.data);
        ht_chat_ids_release(&out);
        ht_ids_release(&ids);
    }
}

static void test_response__ids_are_taken_as_they_are(void **state) {
    fixture *f = *state;
    ht_chat chat = llama2(f);
    ht_error err = HT_ERROR_INIT;
    ht_chat_ids out = {0};
    ht_ids wanted = {0};
    ht_prompt prompt = PROMPT(USER("Hi"), ASSISTANT("Hello"), USER("And you?"));
    /* ids no encoder would give: bytes for letters, a BOS */
    const int32_t response[] = {3 + 'a', 1, 3 + 'b', 2};
    expect(f, &wanted, "[INST] Hi [/INST] Hello ", 1);
    expect(f, &wanted, "[INST] And you? [/INST]", 0);
    size_t start = wanted.count;
    for (size_t i = 0; i < 4; i++)
        append_id(&wanted, response[i]);
    assert_ok(ht_chat_encode_response(&chat, prompt, response, 4, &out, &err), &err);
    assert_ids(&out.ids, wanted.data, wanted.count);
    assert_int_equal(out.span_count, 2);
    assert_int_equal(out.spans[1].start, start);
    assert_int_equal(out.spans[1].end, wanted.count);
    /* one that was cut stays without EOS */
    assert_ok(ht_chat_encode_response(&chat, prompt, response, 1, &out, &err), &err);
    assert_ids(&out.ids, wanted.data, wanted.count - 3);

    assert_error(ht_chat_encode_response(&chat, prompt, response, 0, &out, &err), HT_ERR_DATA, &err,
                 "no ids");
    err = (ht_error)HT_ERROR_INIT;
    const int32_t ended[] = {5, 2, 5}, outside[] = {5, -1};
    assert_error(ht_chat_encode_response(&chat, prompt, ended, 3, &out, &err), HT_ERR_DATA, &err,
                 "response id 1 of 3 is EOS");
    err = (ht_error)HT_ERROR_INIT;
    assert_error(ht_chat_encode_response(&chat, prompt, outside, 2, &out, &err), HT_ERR_DATA, &err,
                 "response id 1 is -1");
    ht_chat_ids_release(&out);
    ht_ids_release(&wanted);
}

/* ---- plain text ---- */

static void test_plain__joins_contents(void **state) {
    fixture *f = *state;
    ht_chat chat = plain(f);
    ht_error err = HT_ERROR_INIT;
    ht_chat_ids out = {0};
    ht_ids wanted = {0};
    expect(f, &wanted, " The llama [INST] is ", 0);
    assert_prompt(&chat, PROMPT(ASSISTANT(" The llama"), SYSTEM(" [INST] is ")), &wanted);
    wanted.count = 0;
    expect(f, &wanted, "The answer is 42. ", 1);
    assert_ok(
        ht_chat_encode_dialog(&chat, PROMPT(USER("The answer")), " is 42. ", HT_ANSWER_FINISHED, &out, &err),
        &err);
    assert_ids(&out.ids, wanted.data, wanted.count);
    assert_int_equal(out.span_count, 1);
    ht_chat_ids_release(&out);
    ht_ids_release(&wanted);
}

static void test_plain__refuses_an_answer_that_changes_the_prompt(void **state) {
    fixture *f = *state;
    ht_chat chat = plain(f);
    ht_error err = HT_ERROR_INIT;
    ht_chat_ids out = {0};
    ht_ids whole = {0};
    append_encoded(f->tokenizer, "llama", &whole);
    assert_int_equal(whole.count, 1); /* the pieces of "lla" are not in it */
    ht_status status =
        ht_chat_encode_dialog(&chat, PROMPT(USER("lla")), "ma", HT_ANSWER_FINISHED, &out, &err);
    assert_error(status, HT_ERR_DATA, &err, "turn 0: the ids of its prompt are not a prefix");
    assert_int_equal(out.ids.count, 0);
    ht_chat_ids_release(&out);
    ht_ids_release(&whole);
}

/* ---- JSON ---- */

static void test_messages__json_there_and_back(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_messages messages;
    char *json;
    const char *given = " [ {\"content\": \"a \\\"b\\\"\\n\\u00e9\", \"role\": \"system\"},\n "
                        "{\"role\":\"user\",\"content\":\"\"} ] ";
    assert_ok(ht_messages_parse(&messages, given, &err), &err);
    assert_int_equal(messages.count, 2);
    assert_int_equal(messages.items[0].role, HT_ROLE_SYSTEM);
    assert_string_equal(messages.items[0].content, "a \"b\"\n\xC3\xA9");
    assert_int_equal(messages.items[1].role, HT_ROLE_USER);
    assert_ok(ht_messages_print(&json, messages.items, messages.count, &err), &err);
    assert_string_equal(json, "[{\"role\":\"system\",\"content\":\"a "
                              "\\\"b\\\"\\n\xC3\xA9\"},{\"role\":\"user\",\"content\":\"\"}]");
    free(json);
    ht_messages_release(&messages);
    assert_error(ht_messages_print(&json, (const ht_message[]){USER("\xFF")}, 1, &err), HT_ERR_DATA, &err,
                 "messages[0].content is not UTF-8 at byte 0");
    assert_null(json);
}

static void test_messages__json_errors(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "line"},
        {"[", "line 1"},
        {"{}", "not an array"},
        {"[1]", "messages[0] is not an object"},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\"}]", "messages[1] has no content"},
        {"[{\"content\":\"a\"}]", "messages[0] has no role"},
        {"[{\"role\":\"user\",\"content\":null}]", "messages[0].content is not a string"},
        {"[{\"role\":\"User\",\"content\":\"a\"}]", "messages[0].role = \"User\""},
        {"[{\"role\":\"user\",\"content\":\"a\",\"name\":\"b\"}]", "the key \"name\""},
        {"[{\"role\":\"user\",\"content\":\"a\",\"content\":\"b\"}]", "duplicate"},
        {"[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]", "line 1"},
        {"[{\"role\":\"user\",\"content\":\"\xFF\"}]", "unable to decode byte 0xff"},
        {"[] x", "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_messages messages;
        assert_error(ht_messages_parse(&messages, cases[i][0], &err), HT_ERR_DATA, &err, cases[i][1]);
        assert_int_equal(messages.count, 0);
        assert_null(messages.items);
    }
}

static void test_template__names(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_template which = HT_TEMPLATE_NONE;
    assert_ok(ht_template_parse(&which, "llama2", &err), &err);
    assert_int_equal(which, HT_TEMPLATE_LLAMA2);
    assert_ok(ht_template_parse(&which, "none", &err), &err);
    assert_int_equal(which, HT_TEMPLATE_NONE);
    assert_string_equal(ht_template_text(HT_TEMPLATE_LLAMA2), "llama2");
    assert_string_equal(ht_role_text(HT_ROLE_ASSISTANT), "assistant");
    assert_error(ht_template_parse(&which, "llama3", &err), HT_ERR_USAGE, &err, "\"llama3\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt__one_turn),
        cmocka_unit_test(test_prompt__turns_with_system),
        cmocka_unit_test(test_prompt__strip_acts_on_the_merged_text),
        cmocka_unit_test(test_prompt__appends),
        cmocka_unit_test(test_check__roles),
        cmocka_unit_test(test_check__tags_in_any_message),
        cmocka_unit_test(test_check__content_is_utf8),
        cmocka_unit_test(test_dialog__turns_and_spans),
        cmocka_unit_test(test_dialog__one_string_is_not_two),
        cmocka_unit_test(test_dialog__a_cut_answer_has_no_end),
        cmocka_unit_test(test_dialog__prompt_is_where_generation_starts),
        cmocka_unit_test(test_response__ids_are_taken_as_they_are),
        cmocka_unit_test(test_plain__joins_contents),
        cmocka_unit_test(test_plain__refuses_an_answer_that_changes_the_prompt),
        cmocka_unit_test(test_messages__json_there_and_back),
        cmocka_unit_test(test_messages__json_errors),
        cmocka_unit_test(test_template__names),
    };
    return cmocka_run_group_tests(tests, fixture_make, fixture_drop);
}
