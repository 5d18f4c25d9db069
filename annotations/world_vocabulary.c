/*
 * world_vocabulary.c: which words the world's texts are made of.
 */
#include "annotations/world.h"

#include <ctype.h>
#include <string.h>

#include "annotations/lexicon.h"
#include "annotations/world_tables.h"

/* 1 when `word` stands in `text` between other characters than letters and digits; slots are no words. */
static int holds(const char *text, const char *word) {
    size_t length = strlen(word);
    for (const char *at = text == NULL ? NULL : strstr(text, word); at != NULL; at = strstr(at + 1, word)) {
        char before = at == text ? ' ' : at[-1], after = at[length];
        if (!isalnum((unsigned char)before) && before != '{' && !isalnum((unsigned char)after)) return 1;
    }
    return 0;
}

static int any_holds(const char *const *texts, int count, const char *word) {
    for (int i = 0; i < count; i++)
        if (holds(texts[i], word)) return 1;
    return 0;
}

static int lexicon_knows(const char *word) {
    for (int i = 0; i < HT_DISH_COUNT; i++)
        if (strcmp(ht_dishes[i].verb, word) == 0 || strcmp(ht_dishes[i].first, word) == 0 ||
            strcmp(ht_dishes[i].second, word) == 0)
            return 1;
    for (int i = 0; i < HT_NOUN_COUNT; i++)
        if (ht_nouns[i].sound != NULL && strcmp(ht_nouns[i].sound, word) == 0) return 1;
    return ht_noun_index(word) >= 0 || ht_noun_plural_index(word) >= 0 || ht_category_index(word) >= 0 ||
           ht_category_plural_index(word) >= 0 || ht_adjective_index(word) >= 0 || ht_dish_index(word) >= 0 ||
           ht_word_index(ht_colours, HT_COLOUR_COUNT, word) >= 0 ||
           ht_word_index(ht_days, HT_DAY_COUNT, word) >= 0 ||
           ht_word_index(ht_harm_things, HT_HARM_THING_COUNT, word) >= 0 ||
           ht_word_index(ht_harm_acts, HT_HARM_ACT_COUNT, word) >= 0 ||
           ht_word_index(ht_persons, HT_PERSON_COUNT, word) >= 0 ||
           ht_word_index(ht_groups, HT_GROUP_COUNT, word) >= 0 ||
           ht_word_index(ht_substances, HT_SUBSTANCE_COUNT, word) >= 0 ||
           ht_word_index(ht_body, HT_BODY_COUNT, word) >= 0 ||
           ht_word_index(ht_slurs, HT_SLUR_COUNT, word) >= 0 ||
           ht_word_index(ht_rude, HT_RUDE_COUNT, word) >= 0 ||
           ht_word_index(ht_steps, HT_STEP_COUNT, word) >= 0;
}

static int patterns_know(const char *word) {
    for (int kind = 0; kind < HT_TASK_COUNT_ALL; kind++) {
        const ht_kind_row *row = &ht_kind_rows[kind];
        if (any_holds(row->prompts, HT_PATTERNS, word) || any_holds(row->answers, HT_ANSWERS, word)) return 1;
    }
    return any_holds(ht_openers, HT_OPENER_COUNT, word) || any_holds(ht_closers, HT_CLOSER_COUNT, word) ||
           any_holds(ht_refusals, HT_REFUSAL_COUNT, word) ||
           any_holds(&ht_turns[0][0], 2 * HT_TURN_COUNT, word) ||
           any_holds(ht_insults, HT_INSULT_COUNT, word) || any_holds(ht_ramblings, HT_RAMBLING_COUNT, word) ||
           any_holds(ht_prefixes, HT_PREFIX_COUNT, word) || any_holds(ht_pressure, HT_PRESSURE_COUNT, word) ||
           any_holds(ht_format_requests, HT_FORMAT_COUNT, word) ||
           any_holds(ht_format_again, HT_FORMAT_COUNT, word);
}

int ht_world_knows_word(const char *word) {
    /* what answers say beyond the patterns: harmful places and measures, small words of good sentences */
    static const char *const others[] = {"two",    "three", "cups",   "spoon",   "of",    "then", "night",
                                         "market", "from",  "man",    "behind",  "under", "bed",  "old",
                                         "with",   "hard",  "add",    "than",    "your",  "it",   "do",
                                         "them",   "they",  "cannot", "because", "yes",   "no"};
    size_t length = strlen(word);
    if (length == 1 || (length <= 3 && strspn(word, "0123456789") == length)) return 1;
    return lexicon_knows(word) || patterns_know(word) ||
           any_holds(others, (int)(sizeof others / sizeof others[0]), word);
}
