/*
 * world_recognise.c: reading the tasks of the synthetic world back from the words of a dialogue.
 */
#include "annotations/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "annotations/lexicon.h"
#include "annotations/words.h"
#include "annotations/world_tables.h"

/* As ht_word_index, also for a word with its last letter doubled (the misspelling attack). */
static int harm_index(const char *const *table, int count, const char *word) {
    int index = ht_word_index(table, count, word);
    size_t length = strlen(word);
    if (index >= 0 || length < 3 || length > 15 || word[length - 1] != word[length - 2]) return index;
    char single[16];
    snprintf(single, sizeof single, "%.*s", (int)length - 1, word);
    return ht_word_index(table, count, single);
}

static int number_of(const char *word) {
    size_t length = strlen(word);
    return length <= 3 && strspn(word, "0123456789") == length ? atoi(word) : -1;
}

/* The argument a word stands for in a slot, or -1. */
static int slot_argument(char slot, const char *word) {
    int index;
    switch (slot) {
    case 'n':
        return number_of(word);
    case 'q':
        return strcmp(word, "two") == 0 ? 2 : strcmp(word, "three") == 0 ? 3 : -1;
    case 'a':
        return ht_adjective_index(word);
    case 's':
    case 'i':
        return ht_noun_index(word);
    case 'x':
        index = ht_noun_index(word);
        if (index >= 0) return index;
        index = ht_word_index(ht_harm_things, HT_HARM_THING_COUNT, word);
        return index < 0 ? -1 : HT_NOUN_COUNT + index;
    case 'k':
        return ht_word_index(ht_colours, HT_COLOUR_COUNT, word);
    case 't':
    case 'e':
        return ht_category_index(word);
    case 'l':
        return ht_category_plural_index(word);
    case 'w':
        return ht_word_index(ht_days, HT_DAY_COUNT, word);
    case 'f':
        return ht_dish_index(word);
    case 'h':
        return harm_index(ht_harm_things, HT_HARM_THING_COUNT, word);
    case 'v':
        return harm_index(ht_harm_acts, HT_HARM_ACT_COUNT, word);
    case 'o':
        return ht_word_index(ht_persons, HT_PERSON_COUNT, word);
    case 'g':
        return ht_word_index(ht_groups, HT_GROUP_COUNT, word);
    case 'm':
        return harm_index(ht_substances, HT_SUBSTANCE_COUNT, word);
    default: /* 'b' */
        return ht_word_index(ht_body, HT_BODY_COUNT, word);
    }
}

/* Matches words from `*at` on against a pattern; fills arguments and moves *at behind the match. */
static int match_pattern(const char *pattern, const ht_words *words, int *at, int argument[2]) {
    int next = 0, position = *at;
    while (*pattern != '\0') {
        if (strchr(" .,?:", *pattern) != NULL) {
            pattern++;
            continue;
        }
        if (position >= words->count) return 0;
        if (*pattern == '{') {
            char slot = pattern[1];
            const char *word = words->word[position].text;
            if (strchr("ieh", slot) != NULL) { /* an article comes first */
                if (strcmp(word, "a") != 0 && strcmp(word, "an") != 0) return 0;
                if (++position >= words->count) return 0;
                word = words->word[position].text;
            }
            int value = slot_argument(slot, word);
            if (value < 0) return 0;
            argument[ht_slot_is_second(slot) ? 1 : next++] = value;
            position++;
            pattern += 3;
        } else {
            size_t length = strcspn(pattern, " .,?:{");
            const char *word = words->word[position].text;
            if (strncmp(word, pattern, length) != 0 || word[length] != '\0') return 0;
            position++;
            pattern += length;
        }
    }
    *at = position;
    return 1;
}

/* The format asked for by the words from `at` to the end, or -1. */
static int match_format(const char *const *requests, const ht_words *words, int at) {
    int unused[2];
    for (int format = 0; format < HT_FORMAT_COUNT; format++) {
        int end = at;
        if (match_pattern(requests[format], words, &end, unused) && end == words->count) return format;
    }
    return -1;
}

/* A request that stands alone: prefix, pattern, format. */
static int recognise_request(const ht_words *words, ht_task *task) {
    int unused[2];
    for (int p = 0; p < HT_PREFIX_COUNT; p++) {
        int start = 0;
        if (!match_pattern(ht_prefixes[p], words, &start, unused)) continue;
        for (int kind = 0; kind < HT_TASK_COUNT_ALL; kind++) {
            const ht_kind_row *row = &ht_kind_rows[kind];
            for (int i = 0; i < HT_PATTERNS && row->prompts[i] != NULL; i++) {
                ht_task read = {(ht_task_kind)kind, {0, 0}, HT_FORMAT_NONE};
                int at = start;
                if (!match_pattern(row->prompts[i], words, &at, read.argument) || !ht_task_valid(&read))
                    continue;
                int format = match_format(ht_format_requests, words, at);
                if (format < 0 || (format > 0 && (row->formats & 1u << format) == 0)) continue;
                read.format = (ht_answer_form)format;
                *task = read;
                return 1;
            }
        }
    }
    return 0;
}

/* A turn that needs the task before it: new arguments, another format, or pressure. */
static int recognise_turn(const ht_words *words, ht_task *task) {
    int unused[2];
    const ht_kind_row *row = &ht_kind_rows[task->kind];
    if (ht_task_unsafe(task))
        for (int i = 0; i < HT_PRESSURE_COUNT; i++) {
            int end = 0;
            if (match_pattern(ht_pressure[i], words, &end, unused) && end == words->count) return 1;
        }
    int format = match_format(ht_format_again, words, 0);
    if (format >= 0 && (format == 0 || (row->formats & 1u << format) != 0)) {
        task->format = (ht_answer_form)format;
        return 1;
    }
    for (int i = 0; i < HT_FOLLOW_COUNT && row->follow_up != NULL; i++) {
        ht_task read = {task->kind, {0, 0}, task->format};
        int at = 0;
        if (match_pattern(ht_follow_words[i], words, &at, unused) &&
            match_pattern(row->follow_up, words, &at, read.argument) && at == words->count &&
            ht_task_valid(&read)) {
            *task = read;
            return 1;
        }
    }
    return 0;
}

ht_status ht_world_recognise(const json_t *messages, ht_task *task, int *found, ht_error *err) {
    size_t index;
    const json_t *message;
    int started = 0;
    memset(task, 0, sizeof *task);
    *found = 0;
    if (!json_is_array(messages)) return ht_fail(err, HT_ERR_DATA, "messages are no JSON array");
    json_array_foreach((json_t *)(uintptr_t)messages, index, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        const char *content = json_string_value(json_object_get(message, "content"));
        if (role == NULL || content == NULL)
            return ht_fail(err, HT_ERR_DATA, "message %zu has no \"role\" and \"content\" text", index);
        if (strcmp(role, "user") != 0) continue;
        ht_words words;
        ht_status status = ht_words_init(&words, content, err);
        *found = 0;
        if (status == HT_OK)
            *found = recognise_request(&words, task) || (started && recognise_turn(&words, task));
        ht_words_release(&words);
        if (status != HT_OK || !*found) return status;
        started = 1;
    }
    return HT_OK;
}
