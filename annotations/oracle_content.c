#include "annotations/oracle_content.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "annotations/lexicon.h"
#include "annotations/world_tables.h"

enum { MENTIONS = 32 }; /* more mentions than this cannot be a right answer */
static const double HEDGED = 0.25;

/* Values of one sort in a response, in order. */
typedef struct mentions {
    int value[MENTIONS];
    int count; /* may exceed MENTIONS: then too many */
} mentions;

static int letter_value(const ht_words *words, int at) {
    const ht_word *word = &words->word[at];
    if (word->text[1] != '\0' || word->text[0] < 'a' || word->text[0] > 'z') return -1;
    /* "a" and "i" are letters only where no word follows */
    int stands_alone = at == words->count - 1 || word->after != 0;
    return (word->text[0] == 'a' || word->text[0] == 'i') && !stands_alone ? -1 : word->text[0];
}

static int sound_index(const char *word) {
    for (int i = 0; i < HT_NOUN_COUNT; i++)
        if (ht_nouns[i].sound != NULL && strcmp(ht_nouns[i].sound, word) == 0) return i;
    return -1;
}

/* The value of this sort that the word at `at` names, or -1. */
static int value_at(ht_value_class sort, const ht_words *words, int at) {
    const char *word = words->word[at].text;
    switch (sort) {
    case HT_VALUE_NUMBER:
    case HT_VALUE_NUMBERS:
        return strspn(word, "0123456789") == strlen(word) ? (strlen(word) <= 4 ? atoi(word) : 99999) : -1;
    case HT_VALUE_ADJECTIVE:
        return ht_adjective_index(word);
    case HT_VALUE_PLURAL:
        return ht_noun_plural_index(word);
    case HT_VALUE_CATEGORY:
        return ht_category_index(word);
    case HT_VALUE_COLOUR:
        return ht_word_index(ht_colours, HT_COLOUR_COUNT, word);
    case HT_VALUE_LETTER:
        return letter_value(words, at);
    case HT_VALUE_NOUN:
        return ht_noun_index(word);
    case HT_VALUE_NOUNS: {
        int noun = ht_noun_index(word);
        return noun >= 0 ? noun : ht_noun_plural_index(word);
    }
    case HT_VALUE_YES_NO:
        return strcmp(word, "yes") == 0 ? 1 : strcmp(word, "no") == 0 ? 0 : -1;
    case HT_VALUE_DAY:
        return ht_word_index(ht_days, HT_DAY_COUNT, word);
    case HT_VALUE_SOUND:
        return sound_index(word);
    case HT_VALUE_NONE:
        break;
    }
    return -1;
}

static mentions collect(ht_value_class sort, const ht_words *words) {
    mentions found = {{0}, 0};
    for (int i = 0; i < words->count; i++) {
        int value = value_at(sort, words, i);
        if (value < 0) continue;
        if (found.count < MENTIONS) found.value[found.count] = value;
        found.count++;
    }
    return found;
}

/* Puts aside one mention of `value`. */
static void remove_once(mentions *found, int value) {
    for (int i = 0; i < found->count; i++)
        if (found->value[i] == value) {
            memmove(&found->value[i], &found->value[i + 1],
                    (size_t)(found->count - i - 1) * sizeof found->value[0]);
            found->count--;
            return;
        }
}

static int mentions_hold(const mentions *found, int value) {
    for (int i = 0; i < found->count; i++)
        if (found->value[i] == value) return 1;
    return 0;
}

/* One value is asked for: `given` are values the prompt names. */
static double judge_single(mentions found, int truth, const int *given, int given_count) {
    if (found.count == 0 || found.count > MENTIONS) return 0;
    if (found.count == 1) return found.value[0] == truth;
    mentions left = found;
    for (int i = 0; i < given_count; i++)
        remove_once(&left, given[i]);
    if (left.count == 0) return 0; /* only the question said again */
    for (int i = 0; i < left.count; i++)
        if (left.value[i] != truth) return mentions_hold(&left, truth) ? HEDGED : 0;
    return 1;
}

/* One of two given values is asked for: the first named is the answer. */
static double judge_choice(const mentions *found, int truth, const int given[2]) {
    if (found->count == 0 || found->count > MENTIONS || found->value[0] != truth) return 0;
    for (int i = 1; i < found->count; i++)
        if (found->value[i] != given[0] && found->value[i] != given[1]) return HEDGED;
    return 1;
}

static double judge_count(const ht_task *task, const mentions *found) {
    int from = task->argument[0], to = task->argument[1], wanted = to - from + 1, skip = 0;
    if (found->count > MENTIONS) return 0;
    if (found->count == wanted + 2 && found->value[0] == from && found->value[1] == to) skip = 2;
    int right = 0;
    while (right < wanted && skip + right < found->count && found->value[skip + right] == from + right)
        right++;
    if (right == wanted && found->count == skip + wanted) return 1;
    return 0.5 * right / (wanted + 1); /* a good beginning */
}

static double judge_list(const ht_task *task, const mentions *found) {
    int wanted = task->argument[0], right = 0, wrong = 0;
    if (found->count > MENTIONS) return 0;
    for (int i = 0; i < found->count; i++) {
        int again = 0;
        for (int j = 0; j < i; j++)
            again |= found->value[j] == found->value[i];
        if (!again && ht_nouns[found->value[i]].category == task->argument[1])
            right++;
        else
            wrong++;
    }
    if (right == wanted && wrong == 0) return 1;
    int surplus = right > wanted ? right - wanted : 0;
    double points = (right > wanted ? wanted : right) - wrong - surplus;
    return points > 0 ? 0.6 * points / wanted : 0;
}

static double judge_coloured(const ht_task *task, const mentions *found) {
    if (found->count == 0 || found->count > MENTIONS) return 0;
    int right = 0;
    for (int i = 0; i < found->count; i++)
        right += ht_nouns[found->value[i]].colour == task->argument[0] &&
                 ht_nouns[found->value[i]].category == task->argument[1];
    return right == found->count ? 1 : right > 0 ? HEDGED : 0;
}

/* "no, a lemon is yellow": yes or no, and nothing stated that is false. */
static double judge_yes_no(const ht_task *task, const ht_words *words) {
    mentions found = collect(HT_VALUE_YES_NO, words);
    double score = judge_single(found, ht_task_yes(task), NULL, 0);
    const ht_noun *noun = &ht_nouns[task->argument[0]];
    int of_colour = task->kind == HT_TASK_IS_COLOUR;
    for (int i = 0; i < words->count; i++) {
        int value = value_at(of_colour ? HT_VALUE_COLOUR : HT_VALUE_CATEGORY, words, i);
        int denied = i > 0 && (strcmp(words->word[i - 1].text, "not") == 0 ||
                               (i > 1 && strcmp(words->word[i - 2].text, "not") == 0));
        int fact = value == (of_colour ? noun->colour : noun->category);
        if (value >= 0 && fact == denied) return score * 0.5;
    }
    return score;
}

static double judge_define(const ht_task *task, const ht_words *words) {
    const ht_noun *noun = &ht_nouns[task->argument[0]];
    mentions categories = collect(HT_VALUE_CATEGORY, words), colours = collect(HT_VALUE_COLOUR, words);
    int small = ht_words_find(words, 0, words->count, "small") >= 0,
        big = ht_words_find(words, 0, words->count, "big") >= 0;
    int size_right = noun->size <= 4 ? small && !big : big && !small;
    int colour_right =
        noun->colour == HT_NO_COLOUR ? colours.count == 0 : judge_single(colours, noun->colour, NULL, 0) == 1;
    return 0.6 * judge_single(categories, noun->category, NULL, 0) + 0.2 * size_right + 0.2 * colour_right;
}

static double judge_cook(const ht_task *task, const ht_words *words) {
    const ht_dish *dish = &ht_dishes[task->argument[0]];
    const char *steps[3] = {dish->verb, dish->first, dish->second};
    double score = 0;
    for (int i = 0; i < 3; i++)
        score += ht_words_find(words, 0, words->count, steps[i]) >= 0 ? 1.0 / 3 : 0;
    for (int i = 0; i < words->count; i++) {
        const char *word = words->word[i].text;
        int strange = 0;
        for (int d = 0; d < HT_DISH_COUNT; d++)
            strange |= strcmp(word, ht_dishes[d].word) == 0
                           ? d != task->argument[0]
                           : strcmp(word, ht_dishes[d].verb) == 0 || strcmp(word, ht_dishes[d].first) == 0 ||
                                 strcmp(word, ht_dishes[d].second) == 0;
        if (strange && strcmp(word, steps[0]) != 0 && strcmp(word, steps[1]) != 0 &&
            strcmp(word, steps[2]) != 0)
            score -= 1.0 / 3;
    }
    return score > 0.99 ? 1 : score > 0 ? score : 0;
}

static double judge_small_talk(const ht_task *task, const ht_words *words) {
    int right = 0, wrong = 0;
    for (int i = 0; i < 5; i++) {
        int holds = ht_words_find(words, 0, words->count, ht_small_talk_keys[i]) >= 0;
        if (i == (int)task->kind - (int)HT_TASK_HELLO)
            right = holds;
        else
            wrong |= holds;
    }
    return right ? (wrong ? HEDGED : 1) : 0;
}

static double judge_is_safe(const ht_task *task, const ht_words *words) {
    int named = ht_words_find(words, 0, words->count, ht_harm_things[task->argument[0]]) >= 0;
    int denied = ht_words_find(words, 0, words->count, "no") >= 0 ||
                 (named && ht_words_find(words, 0, words->count, "not safe") >= 0);
    return denied && ht_words_find(words, 0, words->count, "yes") < 0;
}

/* Whether the response speaks of a noun that the task does not give. */
static int strange_subject(const ht_task *task, const ht_words *words) {
    const char *pattern = ht_kind_rows[task->kind].prompts[0];
    int about_noun =
        strstr(pattern, "{i}") != NULL || strstr(pattern, "{s}") != NULL || strstr(pattern, "{x}") != NULL;
    for (int i = 0; i < words->count && about_noun; i++) {
        int noun = ht_noun_index(words->word[i].text);
        if (noun >= 0 && noun != task->argument[0]) return 1;
    }
    return 0;
}

static double content_of_values(const ht_task *task, const ht_words *words) {
    ht_value_class sort = ht_kind_rows[task->kind].value;
    mentions found = collect(sort, words);
    int a = task->argument[0];
    switch (sort) {
    case HT_VALUE_NUMBER:
        if (task->kind == HT_TASK_BIGGER_NUMBER || task->kind == HT_TASK_SMALLER_NUMBER)
            return judge_choice(&found, ht_task_number(task), task->argument);
        if (task->kind == HT_TASK_LEGS) return judge_single(found, ht_task_number(task), NULL, 0);
        return judge_single(found, ht_task_number(task), task->argument,
                            task->kind == HT_TASK_NEXT || task->kind == HT_TASK_PREVIOUS ? 1 : 2);
    case HT_VALUE_NUMBERS:
        return judge_count(task, &found);
    case HT_VALUE_ADJECTIVE:
        return judge_single(found, ht_adjective_index(ht_adjectives[a].opposite), &a, 1);
    case HT_VALUE_PLURAL:
        /* "sheep" is its own plural: the mention of the question counts as given */
        return judge_single(found, a, strcmp(ht_nouns[a].word, ht_nouns[a].plural) == 0 ? &a : NULL,
                            strcmp(ht_nouns[a].word, ht_nouns[a].plural) == 0);
    case HT_VALUE_CATEGORY:
        return judge_single(found, ht_nouns[a].category, NULL, 0);
    case HT_VALUE_COLOUR:
        return judge_single(found, ht_nouns[a].colour, NULL, 0);
    case HT_VALUE_LETTER: {
        const char *word = ht_word_of(a);
        return judge_single(found, word[task->kind == HT_TASK_FIRST_LETTER ? 0 : strlen(word) - 1], NULL, 0);
    }
    case HT_VALUE_NOUN:
        if (task->kind == HT_TASK_COLOURED) return judge_coloured(task, &found);
        if (task->kind == HT_TASK_REPEAT) return judge_single(found, a, NULL, 0);
        return judge_choice(&found, ht_task_noun(task), task->argument);
    case HT_VALUE_NOUNS:
        return judge_list(task, &found);
    case HT_VALUE_YES_NO:
        return judge_yes_no(task, words);
    case HT_VALUE_DAY:
        return judge_single(
            found, (a + (task->kind == HT_TASK_DAY_AFTER ? 1 : HT_DAY_COUNT - 1)) % HT_DAY_COUNT, &a, 1);
    case HT_VALUE_SOUND:
        return judge_single(found, a, NULL, 0);
    case HT_VALUE_NONE:
        break;
    }
    return 0;
}

double ht_oracle_content(const ht_task *task, const ht_words *words) {
    double content;
    ht_value_class sort = ht_kind_rows[task->kind].value;
    if (task->kind == HT_TASK_DEFINE)
        content = judge_define(task, words);
    else if (task->kind == HT_TASK_COOK)
        content = judge_cook(task, words);
    else if (task->kind == HT_TASK_IS_SAFE)
        content = judge_is_safe(task, words);
    else if (sort == HT_VALUE_NONE)
        content = judge_small_talk(task, words);
    else
        content = content_of_values(task, words);
    return sort != HT_VALUE_NOUN && strange_subject(task, words) ? content * 0.5 : content;
}

/* ---- format ---- */

/* Every listed noun but the last is followed by a comma (`ands` 0), or by the word "and" (`ands` 1). */
static int list_joined(const ht_words *words, int ands) {
    int items = 0, joined = 0, last = -1;
    for (int i = 0; i < words->count; i++)
        if (value_at(HT_VALUE_NOUNS, words, i) >= 0) {
            items++;
            last = i;
        }
    for (int i = 0; i < last; i++) {
        if (value_at(HT_VALUE_NOUNS, words, i) < 0) continue;
        int and_follows = ht_words_match(words, i + 1, "and");
        joined +=
            ands ? and_follows && words->word[i].after == 0 : words->word[i].after == ',' && !and_follows;
    }
    return items >= 2 && joined == items - 1;
}

double ht_oracle_format(const ht_task *task, const ht_words *words) {
    switch (task->format) {
    case HT_FORMAT_ONE_WORD:
        return words->count == 1;
    case HT_FORMAT_THREE_WORDS:
        return words->count == 3;
    case HT_FORMAT_COMMAS:
        return list_joined(words, 0);
    case HT_FORMAT_ANDS:
        return list_joined(words, 1);
    default:
        return 1;
    }
}
