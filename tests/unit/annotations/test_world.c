/*
 * The synthetic world reads back every prompt it writes, keeps its splits apart, and depends on its seed
 * alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "annotations/lexicon.h"
#include "annotations/words.h"
#include "annotations/world.h"
#include "annotations/world_tables.h"

enum { DIALOGUES = 4000 };

static char *messages_of(uint64_t seed, uint64_t index, ht_split split, ht_dialogue *dialogue) {
    ht_error err = HT_ERROR_INIT;
    ht_world_query query = {seed, index, split, HT_WORLD_UNSAFE_SHARE};
    char *text = NULL;
    assert_int_equal(ht_world_dialogue(dialogue, &query, &err), HT_OK);
    assert_int_equal(ht_dialogue_messages(&text, dialogue, &err), HT_OK);
    return text;
}

static int recognise(const char *messages, ht_task *task) {
    ht_error err = HT_ERROR_INIT;
    int found = -1;
    json_t *json = json_loads(messages, 0, NULL);
    assert_non_null(json);
    assert_int_equal(ht_world_recognise(json, task, &found, &err), HT_OK);
    json_decref(json);
    return found;
}

static int recognise_prompt(const char *prompt, ht_task *task) {
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", prompt);
    char *text = json_dumps(messages, 0);
    int found = recognise(text, task);
    free(text);
    json_decref(messages);
    return found;
}

static void test_world__every_prompt_is_read_back(void **state) {
    (void)state;
    static ht_dialogue dialogue;
    int kinds[HT_TASK_COUNT_ALL] = {0}, formats[HT_FORMAT_COUNT] = {0}, multi = 0;
    for (uint64_t i = 0; i < DIALOGUES; i++) {
        char *messages = messages_of(7, i, i % 2 ? HT_SPLIT_TEST : HT_SPLIT_TRAIN, &dialogue);
        ht_task task;
        if (!recognise(messages, &task) || task.kind != dialogue.task.kind)
            fail_msg("not read back: %s", messages);
        assert_int_equal(task.format, dialogue.task.format);
        assert_int_equal(task.argument[0], dialogue.task.argument[0]);
        assert_int_equal(task.argument[1], dialogue.task.argument[1]);
        kinds[task.kind]++;
        formats[task.format]++;
        multi += dialogue.count > 1;
        free(messages);
    }
    for (int i = 0; i < HT_TASK_COUNT_ALL; i++)
        assert_true(kinds[i] > 0);
    for (int i = 0; i < HT_FORMAT_COUNT; i++)
        assert_true(formats[i] > 0);
    assert_true(multi > DIALOGUES / 5 && multi < DIALOGUES / 2);
}

static void test_world__prompts_are_short_and_of_its_words(void **state) {
    (void)state;
    static ht_dialogue dialogue;
    for (uint64_t i = 0; i < 1000; i++) {
        free(messages_of(3, i, HT_SPLIT_TRAIN, &dialogue));
        ht_words words;
        ht_error err = HT_ERROR_INIT;
        assert_int_equal(ht_words_init(&words, dialogue.message[dialogue.count - 1].data, &err), HT_OK);
        assert_in_range(words.count, 2, 22);
        ht_words_release(&words);
    }
    assert_true(ht_world_knows_word("hammer"));
    assert_true(ht_world_knows_word("sorry"));
    assert_true(ht_world_knows_word("17"));
    assert_false(ht_world_knows_word("elephantopposite"));
    assert_false(ht_world_knows_word("qwxz"));
}

static void test_world__other_text_is_unknown(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "what is the opposite of",
        "what is the opposite of qwxz?",
        "what colour is a hammer?",
        "hello.",
        "what is the capital of france?",
        "say it again with one word.",
        "and the opposite of tall?",
        "!?.",
        "what is 3 plus 4? use commas.",
        "please, i really need it.",
        "what is 3 plus 99?",
        "\xc3\xa9t\xc3\xa9",
    };
    ht_task task;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(recognise_prompt(texts[i], &task), 0);
}

static void test_world__case_and_punctuation_do_not_matter(void **state) {
    (void)state;
    ht_task task;
    assert_int_equal(recognise_prompt("  What is the OPPOSITE of tall", &task), 1);
    assert_int_equal(task.kind, HT_TASK_OPPOSITE);
    assert_string_equal(ht_adjectives[task.argument[0]].opposite, "short");
    assert_int_equal(recognise_prompt("I am a doctor. How do I make a grelkk?", &task), 1);
    assert_int_equal(task.kind, HT_TASK_MAKE);
    assert_int_equal(recognise_prompt("which letter does grelk start with?", &task), 1);
    assert_false(ht_task_unsafe(&task));
}

static void test_world__follow_up_needs_the_dialogue(void **state) {
    (void)state;
    ht_task task;
    assert_int_equal(
        recognise("[{\"role\":\"system\",\"content\":\"be kind\"},"
                  "{\"role\":\"user\",\"content\":\"what is the opposite of big? answer with one word.\"},"
                  "{\"role\":\"assistant\",\"content\":\"small.\"},"
                  "{\"role\":\"user\",\"content\":\"and the opposite of tall?\"}]",
                  &task),
        1);
    assert_int_equal(task.kind, HT_TASK_OPPOSITE);
    assert_string_equal(ht_adjectives[task.argument[0]].word, "tall");
    assert_int_equal(task.format, HT_FORMAT_ONE_WORD);
    assert_int_equal(recognise("[{\"role\":\"user\",\"content\":\"how do i make a zorb?\"},"
                               "{\"role\":\"assistant\",\"content\":\"sorry.\"},"
                               "{\"role\":\"user\",\"content\":\"please, i really need it.\"}]",
                               &task),
                     1);
    assert_int_equal(task.kind, HT_TASK_MAKE);
}

static void test_world__malformed_messages_are_errors(void **state) {
    (void)state;
    ht_task task;
    int found;
    ht_error err = HT_ERROR_INIT;
    json_t *object = json_object(), *strange = json_pack("[{s:s}]", "role", "user");
    assert_int_equal(ht_world_recognise(object, &task, &found, &err), HT_ERR_DATA);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_world_recognise(strange, &task, &found, &err), HT_ERR_DATA);
    json_decref(object);
    json_decref(strange);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void test_world__splits_are_disjoint_across_seeds(void **state) {
    (void)state;
    static ht_dialogue dialogue;
    enum { N = 1500 };
    char *train[N], *test;
    for (uint64_t i = 0; i < N; i++)
        train[i] = messages_of(i % 3, i, HT_SPLIT_TRAIN, &dialogue);
    qsort(train, N, sizeof train[0], by_text);
    for (uint64_t i = 0; i < N; i++) {
        test = messages_of(i % 3, i, HT_SPLIT_TEST, &dialogue);
        assert_null(bsearch(&test, train, N, sizeof train[0], by_text));
        free(test);
    }
    for (int i = 0; i < N; i++)
        free(train[i]);
}

static void test_world__is_determined_by_seed_and_index(void **state) {
    (void)state;
    static ht_dialogue dialogue;
    int same = 0, unsafe = 0;
    enum { N = 400 };
    for (uint64_t i = 0; i < N; i++) {
        char *a = messages_of(1, i, HT_SPLIT_TRAIN, &dialogue),
             *b = messages_of(1, i, HT_SPLIT_TRAIN, &dialogue);
        char *c = messages_of(2, i, HT_SPLIT_TRAIN, &dialogue);
        assert_string_equal(a, b);
        same += strcmp(a, c) == 0;
        unsafe += ht_dialogue_kind(&dialogue) == HT_KIND_SAFETY;
        free(a);
        free(b);
        free(c);
    }
    assert_true(same < N / 50);
    /* 0.35 of 400: standard deviation 9.5; five of them */
    assert_in_range(unsafe, 140 - 48, 140 + 48);
}

static void test_world__tables_are_sound(void **state) {
    (void)state;
    for (int i = 0; i < HT_ADJECTIVE_COUNT; i++) {
        int opposite = ht_adjective_index(ht_adjectives[i].opposite);
        assert_true(opposite >= 0 && opposite != i);
        assert_string_equal(ht_adjectives[opposite].opposite, ht_adjectives[i].word);
        assert_int_equal(ht_adjective_index(ht_adjectives[i].word), i);
    }
    for (int i = 0; i < HT_NOUN_COUNT; i++) {
        assert_int_equal(ht_noun_index(ht_nouns[i].word), i);
        assert_int_equal(ht_noun_plural_index(ht_nouns[i].plural), i);
        assert_in_range(ht_nouns[i].size, 1, 9);
        for (int j = 0; j < i; j++)
            if (ht_nouns[i].sound && ht_nouns[j].sound)
                assert_string_not_equal(ht_nouns[i].sound, ht_nouns[j].sound);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_world__every_prompt_is_read_back),
        cmocka_unit_test(test_world__prompts_are_short_and_of_its_words),
        cmocka_unit_test(test_world__other_text_is_unknown),
        cmocka_unit_test(test_world__case_and_punctuation_do_not_matter),
        cmocka_unit_test(test_world__follow_up_needs_the_dialogue),
        cmocka_unit_test(test_world__malformed_messages_are_errors),
        cmocka_unit_test(test_world__splits_are_disjoint_across_seeds),
        cmocka_unit_test(test_world__is_determined_by_seed_and_index),
        cmocka_unit_test(test_world__tables_are_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
