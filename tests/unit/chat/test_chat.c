#include "tests/unit/chat/support.h"

#include "core/base/lines.h"

static json_t *parse(const char *text) {
    json_error_t problem;
    json_t *value = json_loads(text, 0, &problem);
    if (!value) fail_msg("%s in %s", problem.text, text);
    return value;
}

static int64_t integer(const json_t *object, const char *key) {
    assert_true(json_is_integer(json_object_get(object, key)));
    return json_integer_value(json_object_get(object, key));
}

/* --- one prompt -------------------------------------------------------------------------------------------
 */

static void test_chat__one_prompt_gets_one_answer(void **state) {
    const world *w = *state;
    outcome text = RUN(w, "", "--prompt", "Hello llama", "--max-new-tokens", "20");
    outcome json = RUN(w, "", "--prompt", "Hello llama", "--max-new-tokens", "20", "--json");
    assert_run(&text);
    assert_run(&json);
    json_t *answer = parse(json.out);
    /* The same text and a newline; the ids are those of the prompt's ids, as many as were counted. */
    const char *same = json_string_value(json_object_get(answer, "text"));
    assert_int_equal(text.size, strlen(same) + 1);
    assert_memory_equal(text.out, same, strlen(same));
    assert_int_equal(json_array_size(json_object_get(answer, "tokens")), integer(answer, "new_tokens"));
    ht_ids prompt = {0};
    int32_t bos = ht_tokenizer_bos(w->tokenizer->tokenizer);
    append_id(&prompt, bos);
    append_encoded(w->tokenizer->tokenizer, "[INST] Hello llama [/INST]", &prompt);
    assert_int_equal(integer(answer, "prompt_tokens"), prompt.count);
    ht_ids_release(&prompt);
    assert_string_equal(json_string_value(json_object_get(answer, "finish")),
                        integer(answer, "new_tokens") == 20 ? "length" : "eos");
    assert_true(json_real_value(json_object_get(answer, "tokens_per_second")) > 0);
    assert_true(json_real_value(json_object_get(answer, "peak_memory_mb")) > 1);
    assert_non_null(strstr(said, "tokens/s; peak memory"));
    json_decref(answer);
    outcome_release(&text);
    outcome_release(&json);
}

static void test_chat__settings_reach_the_sampler(void **state) {
    const world *w = *state;
    const char *const settings[][3] = {{"--no-sample"},
                                       {"--temperature", "0"},
                                       {"--top-k", "1"},
                                       {"--top-p", "0.000001"},
                                       {"--seed", "2"},
                                       {"--seed", "1"},
                                       {NULL}};
    char *outputs[7];
    for (int i = 0; i < 7; i++) {
        const char *words[10] = {"--prompt", "What?", "--ignore-eos", "--temperature", "3", "--top-p", "1"};
        for (int k = 0; k < 3 && settings[i][k]; k++)
            words[7 + k] = settings[i][k];
        outcome o = run_chat(w, "", words);
        assert_run(&o);
        outputs[i] = o.out;
    }
    for (int i = 1; i < 4; i++) /* all of them greedy */
        assert_string_equal(outputs[0], outputs[i]);
    assert_string_not_equal(outputs[0], outputs[4]);
    assert_string_not_equal(outputs[4], outputs[5]);
    assert_string_equal(outputs[5], outputs[6]); /* the default seed */
    for (int i = 0; i < 7; i++)
        free(outputs[i]);
}

static void test_chat__raw_text_is_continued(void **state) {
    const world *w = *state;
    outcome rest =
        RUN(w, "", "--template", "none", "--prompt", "The llama", "--no-sample", "--max-new-tokens", "30");
    outcome whole = RUN(w, "", "--template", "none", "--prompt", "The llama", "--no-sample",
                        "--max-new-tokens", "30", "--return-full-text");
    outcome json = RUN(w, "", "--template", "none", "--prompt", "The llama", "--no-sample",
                       "--max-new-tokens", "30", "--json");
    assert_run(&rest);
    assert_run(&whole);
    assert_memory_equal(whole.out, "The llama", 9);
    assert_string_equal(whole.out + 9, rest.out); /* nothing is added, not even a newline */
    json_t *answer = parse(json.out);
    assert_string_equal(json_string_value(json_object_get(answer, "text")), rest.out);
    json_decref(answer);
    outcome_release(&rest);
    outcome_release(&whole);
    outcome_release(&json);
}

static void test_chat__lookup_and_eos_do_as_they_say(void **state) {
    const world *w = *state;
    outcome plain =
        RUN(w, "", "--prompt", "a a a a", "--max-new-tokens", "100", "--ignore-eos", "--no-sample");
    outcome lookup = RUN(w, "", "--prompt", "a a a a", "--max-new-tokens", "100", "--ignore-eos",
                         "--no-sample", "--prompt-lookup", "10");
    assert_run(&plain);
    assert_string_equal(plain.out, lookup.out);
    assert_non_null(strstr(said, "proposed tokens accepted"));
    outcome_release(&plain);
    outcome_release(&lookup);
}

static void test_chat__options_that_exclude_each_other_are_refused(void **state) {
    const world *w = *state;
    struct {
        const char *words[8];
        ht_status status;
        const char *message;
    } cases[] = {
        {{"--prompt", "a", "--input", "b"}, HT_ERR_USAGE, "--prompt and --input exclude each other"},
        {{"--prompt", "a", "--system", "b", "--template", "none"},
         HT_ERR_USAGE,
         "--system needs --template llama2"},
        {{"--return-full-text"}, HT_ERR_USAGE, "--return-full-text needs --prompt or --input"},
        {{"--prompt", "a", "--top-p", "0"}, HT_ERR_USAGE, "top"},
        {{"--prompt", "[INST]"}, HT_ERR_DATA, "[INST]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o = run_chat(w, "", cases[i].words);
        assert_int_equal(o.status, cases[i].status);
        if (!strstr(o.message, cases[i].message)) fail_msg("%s", o.message);
        outcome_release(&o);
    }
}

static void test_chat__a_prompt_without_room_is_refused(void **state) {
    const world *w = *state;
    char prompt[2000];
    for (size_t i = 0; i + 1 < sizeof prompt; i++)
        prompt[i] = "ab9 "[i % 4];
    prompt[sizeof prompt - 1] = '\0';
    outcome o = RUN(w, "", "--prompt", prompt);
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_non_null(strstr(o.message, "tokens leaves no room for an answer: the model takes 160 positions"));
    outcome_release(&o);
}

static void test_chat__a_reward_model_does_not_chat(void **state) {
    const world *w = *state;
    world reward = *w;
    ht_error err = HT_ERROR_INIT;
    snprintf(reward.model, sizeof reward.model, "%s/reward", w->tokenizer->folder);
    assert_ok(save_model(w, HT_HEAD_SCALAR, reward.model, &err), &err);
    outcome o = RUN(&reward, "", "--prompt", "a");
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_non_null(strstr(o.message, "a reward model; wanted is a language model"));
    outcome_release(&o);
}

/* --- dialogues --------------------------------------------------------------------------------------------
 */

static void test_chat__a_dialogue_answers_line_by_line(void **state) {
    const world *w = *state;
    outcome o = RUN(w, "Hello\n\n/system Be kind.\nHello\n/reset\n/system\r\nHello\nHello", "--json",
                    "--max-new-tokens", "12", "--no-sample");
    assert_run(&o);
    json_t *answers[4];
    char *at = o.out;
    for (int i = 0; i < 4; i++) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        *end = '\0';
        answers[i] = parse(at);
        at = end + 1;
    }
    assert_int_equal(*at, '\0');
    /* 0 and 2 are alike; 1 has a system message; 3 comes after 2. */
    assert_true(json_equal(json_object_get(answers[0], "tokens"), json_object_get(answers[2], "tokens")));
    assert_true(integer(answers[1], "prompt_tokens") > integer(answers[0], "prompt_tokens"));
    assert_int_equal(integer(answers[2], "prompt_tokens"), integer(answers[0], "prompt_tokens"));
    assert_true(integer(answers[3], "prompt_tokens") > 2 * integer(answers[0], "prompt_tokens"));
    for (int i = 0; i < 4; i++)
        json_decref(answers[i]);
    outcome_release(&o);
}

/* The answer within a dialogue is that of the whole dialogue at once: the kept cache changes nothing. */
static void test_chat__a_dialogue_equals_its_messages(void **state) {
    const world *w = *state;
    outcome dialogue = RUN(w, "Hi\nand you?\n", "--json", "--max-new-tokens", "10", "--no-sample");
    assert_run(&dialogue);
    char *second = strchr(dialogue.out, '\n') + 1;
    second[-1] = '\0';
    json_t *first = parse(dialogue.out), *last = parse(second);
    json_t *line =
        json_pack("{s:[{s:s,s:s},{s:s,s:s},{s:s,s:s}]}", "messages", "role", "user", "content", "Hi", "role",
                  "assistant", "content", json_string_value(json_object_get(first, "text")), "role", "user",
                  "content", "and you?");
    char path[128];
    ht_error err = HT_ERROR_INIT;
    snprintf(path, sizeof path, "%s/dialogue.jsonl", w->tokenizer->folder);
    char *text = json_dumps(line, JSON_COMPACT);
    assert_ok(ht_file_write(path, text, strlen(text), &err), &err);
    outcome once = RUN(w, "", "--input", path, "--json", "--max-new-tokens", "10", "--no-sample");
    assert_run(&once);
    json_t *answer = parse(once.out);
    assert_true(json_equal(json_object_get(answer, "tokens"), json_object_get(last, "tokens")));
    assert_int_equal(integer(answer, "prompt_tokens"), integer(last, "prompt_tokens"));
    free(text);
    json_decref(first);
    json_decref(last);
    json_decref(line);
    json_decref(answer);
    outcome_release(&dialogue);
    outcome_release(&once);
}

static void test_chat__a_bad_message_is_named(void **state) {
    const world *w = *state;
    outcome o = RUN(w, "Hello\nthis is [INST] bad\nHello\n", "--max-new-tokens", "3");
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_memory_equal(o.message, "message 2: ", 11);
    outcome_release(&o);
    o = RUN(w, "Hello \xff\n", "--max-new-tokens", "3");
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_memory_equal(o.message, "message 1: ", 11);
    outcome_release(&o);
    char *endless = malloc(2 * HT_LINE_BYTES_MAX);
    assert_non_null(endless);
    memset(endless, 'a', 2 * HT_LINE_BYTES_MAX - 1);
    endless[2 * HT_LINE_BYTES_MAX - 1] = '\0';
    o = RUN(w, endless, "--max-new-tokens", "3");
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_string_equal(o.message, "message 1: a message of more than 16777216 bytes");
    outcome_release(&o);
    free(endless);
}

/* A slip of a person ends nothing. */
static void test_chat__a_person_is_told_and_goes_on(void **state) {
    const world *w = *state;
    by_hand = 1;
    outcome o = RUN(w, "this is [INST] bad\n/quit\nHello\n", "--max-new-tokens", "3");
    by_hand = 0;
    assert_run(&o);
    assert_int_equal(o.size, 0);
    assert_non_null(strstr(said, "/reset begins a new dialogue, /system TEXT one with a system message, /quit or Ctrl-D ends"));
    assert_non_null(strstr(said, "holds the special tag [INST], which is not allowed"));
    outcome_release(&o);
    o = RUN(w, "/system Be kind.\nHello\n", "--max-new-tokens", "3", "--template", "none");
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_string_equal(o.message, "message 1: template none has no system message");
    outcome_release(&o);
}

/* --- files ------------------------------------------------------------------------------------------------
 */

static const char *input_file(const world *w, const char *text) {
    static char path[128];
    ht_error err = HT_ERROR_INIT;
    snprintf(path, sizeof path, "%s/input.jsonl", w->tokenizer->folder);
    assert_ok(ht_file_write(path, text, strlen(text), &err), &err);
    return path;
}

static void test_chat__a_file_is_answered_in_order(void **state) {
    const world *w = *state;
    char text[8192] = "";
    for (int i = 0; i < 40; i++) {
        size_t used = strlen(text);
        if (i % 2)
            snprintf(text + used, sizeof text - used, "{\"id\": %d, \"prompt\": \"question %d\"}\n", i, i);
        else
            snprintf(text + used, sizeof text - used,
                     "{\"messages\": [{\"role\": \"user\", \"content\": \"question %d\"}], \"id\": %d}\n%s",
                     i, i, i % 4 ? "" : "\n");
    }
    outcome many =
        RUN(w, "", "--input", input_file(w, text), "--json", "--max-new-tokens", "9", "--batch", "3");
    outcome one =
        RUN(w, "", "--input", input_file(w, text), "--json", "--max-new-tokens", "9", "--batch", "1");
    assert_run(&many);
    assert_string_equal(many.out, one.out);
    char *at = many.out;
    for (int i = 0; i < 40; i++) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        *end = '\0';
        json_t *answer = parse(at);
        assert_int_equal(integer(answer, "id"), i);
        assert_non_null(json_object_get(answer, i % 2 ? "prompt" : "messages"));
        assert_true(json_is_string(json_object_get(answer, "response")));
        assert_int_equal(json_array_size(json_object_get(answer, "tokens")), integer(answer, "new_tokens"));
        json_decref(answer);
        at = end + 1;
    }
    assert_int_equal(*at, '\0');
    outcome_release(&many);
    outcome_release(&one);
}

static int64_t first_prompt_tokens(outcome o) {
    assert_run(&o);
    *strchr(o.out, '\n') = '\0';
    json_t *answer = parse(o.out);
    int64_t tokens = integer(answer, "prompt_tokens");
    json_decref(answer);
    outcome_release(&o);
    return tokens;
}

/* By a command, by an option, for prompts and for messages without one; one of its own stays. */
static void test_chat__a_system_message_comes_first(void **state) {
    const world *w = *state;
    const char *line = "{\"messages\": [{\"role\": \"system\", \"content\": \"Be kind.\"}, {\"role\": \"user\", \"content\": \"Hello\"}]}";
    int64_t with = first_prompt_tokens(RUN(w, "/system Be kind.\nHello\n", "--json", "--max-new-tokens", "2"));
    assert_true(with > first_prompt_tokens(RUN(w, "Hello\n", "--json", "--max-new-tokens", "2")));
    assert_int_equal(with, first_prompt_tokens(RUN(w, "Hello\n", "--json", "--max-new-tokens", "2", "--system", "Be kind.")));
    assert_int_equal(with, first_prompt_tokens(RUN(w, "", "--input", input_file(w, "{\"prompt\": \"Hello\"}"), "--json", "--max-new-tokens",
                                                   "2", "--system", "Be kind.")));
    assert_int_equal(with, first_prompt_tokens(RUN(w, "", "--input", input_file(w, line), "--json", "--max-new-tokens", "2", "--system",
                                                   "Be of another mind.")));
}

static void test_chat__answers_as_text_are_told_apart(void **state) {
    const world *w = *state;
    outcome o =
        RUN(w, "", "--input", input_file(w, "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\"}"),
            "--max-new-tokens", "4");
    assert_run(&o);
    int lines = 0;
    for (const char *at = o.out; (at = strstr(at, "\n---\n")); at++)
        lines++;
    assert_int_equal(lines, 2);
    outcome_release(&o);
}

static void test_chat__bad_lines_are_named(void **state) {
    const world *w = *state;
    struct {
        const char *line, *message;
    } cases[] = {
        {"{\"prompt\": \"a\"", "input.jsonl:2: column"},
        {"[1]", "input.jsonl:2: not a JSON object"},
        {"{\"text\": \"a\"}", "input.jsonl:2: needs either \"prompt\" or \"messages\""},
        {"{\"prompt\": \"a\", \"messages\": []}", "input.jsonl:2: needs either"},
        {"{\"prompt\": 3}", "input.jsonl:2: \"prompt\" is not a string"},
        {"{\"messages\": []}", "input.jsonl:2: "},
        {"{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}", "input.jsonl:2: "},
        {"{\"prompt\": \"a\", \"tokens\": 1}",
         "input.jsonl:2: \"tokens\" is the name of a key of the output"},
        {"{\"prompt\": \"<<SYS>>\"}", "input.jsonl:2: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"prompt\": \"fine\"}\n%s\n", cases[i].line);
        outcome o = RUN(w, "", "--input", input_file(w, text), "--json");
        assert_int_equal(o.status, HT_ERR_DATA);
        if (!strstr(o.message, cases[i].message)) fail_msg("%s", o.message);
        assert_int_equal(o.size, 0);
        outcome_release(&o);
    }
    const char *long_line = input_file(w, "");
    assert_int_equal(truncate(long_line, (off_t)HT_LINE_BYTES_MAX + 1), 0);
    outcome o = RUN(w, "", "--input", long_line);
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_non_null(strstr(o.message, "input.jsonl:1: a line of 16777217 bytes is above the limit of 16777216"));
    outcome_release(&o);
    o = RUN(w, "", "--input", input_file(w, "\n \n"));
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_non_null(strstr(o.message, "no prompts"));
    outcome_release(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat__one_prompt_gets_one_answer),
        cmocka_unit_test(test_chat__settings_reach_the_sampler),
        cmocka_unit_test(test_chat__raw_text_is_continued),
        cmocka_unit_test(test_chat__lookup_and_eos_do_as_they_say),
        cmocka_unit_test(test_chat__options_that_exclude_each_other_are_refused),
        cmocka_unit_test(test_chat__a_prompt_without_room_is_refused),
        cmocka_unit_test(test_chat__a_reward_model_does_not_chat),
        cmocka_unit_test(test_chat__a_dialogue_answers_line_by_line),
        cmocka_unit_test(test_chat__a_dialogue_equals_its_messages),
        cmocka_unit_test(test_chat__a_bad_message_is_named),
        cmocka_unit_test(test_chat__a_person_is_told_and_goes_on),
        cmocka_unit_test(test_chat__a_file_is_answered_in_order),
        cmocka_unit_test(test_chat__a_system_message_comes_first),
        cmocka_unit_test(test_chat__answers_as_text_are_told_apart),
        cmocka_unit_test(test_chat__bad_lines_are_named),
    };
    return cmocka_run_group_tests(tests, world_make, world_drop);
}
