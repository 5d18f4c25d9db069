/*
 * lexicon.c: the tables of lexicon.h, and look-ups in them.
 */
#include "annotations/lexicon.h"

#include <stddef.h>
#include <string.h>

/* Order of the categories and colours below: the noun table refers to it. */
enum { ANIMAL, FRUIT, VEGETABLE, TOOL, VEHICLE, FLOWER, GARMENT, BUILDING };
enum { RED, GREEN, YELLOW, BLUE, WHITE, BLACK, BROWN, GREY, ORANGE, PURPLE, PINK };

const ht_category ht_categories[HT_CATEGORY_COUNT] = {
    {"animal", "animals"},   {"fruit", "fruits"},   {"vegetable", "vegetables"}, {"tool", "tools"},
    {"vehicle", "vehicles"}, {"flower", "flowers"}, {"garment", "garments"},     {"building", "buildings"},
};

const char *const ht_colours[HT_COLOUR_COUNT] = {"red",   "green", "yellow", "blue",   "white", "black",
                                                 "brown", "grey",  "orange", "purple", "pink"};

const ht_noun ht_nouns[HT_NOUN_COUNT] = {
    {"frog", "frogs", ANIMAL, GREEN, 2, "croak", 4},
    {"duck", "ducks", ANIMAL, YELLOW, 3, "quack", 2},
    {"cat", "cats", ANIMAL, GREY, 4, "meow", 4},
    {"dog", "dogs", ANIMAL, BROWN, 5, "woof", 4},
    {"pig", "pigs", ANIMAL, PINK, 5, "oink", 4},
    {"cow", "cows", ANIMAL, BROWN, 7, "moo", 4},
    {"apple", "apples", FRUIT, RED, 3, NULL, HT_NO_LEGS},
    {"lemon", "lemons", FRUIT, YELLOW, 2, NULL, HT_NO_LEGS},
    {"cherry", "cherries", FRUIT, RED, 1, NULL, HT_NO_LEGS},
    {"carrot", "carrots", VEGETABLE, ORANGE, 3, NULL, HT_NO_LEGS},
    {"tomato", "tomatoes", VEGETABLE, RED, 2, NULL, HT_NO_LEGS},
    {"pea", "peas", VEGETABLE, GREEN, 1, NULL, HT_NO_LEGS},
    {"hammer", "hammers", TOOL, HT_NO_COLOUR, 4, NULL, HT_NO_LEGS},
    {"knife", "knives", TOOL, HT_NO_COLOUR, 3, NULL, HT_NO_LEGS},
    {"spoon", "spoons", TOOL, HT_NO_COLOUR, 2, NULL, HT_NO_LEGS},
    {"car", "cars", VEHICLE, HT_NO_COLOUR, 7, NULL, HT_NO_LEGS},
    {"bus", "buses", VEHICLE, HT_NO_COLOUR, 8, NULL, HT_NO_LEGS},
    {"boat", "boats", VEHICLE, HT_NO_COLOUR, 7, NULL, HT_NO_LEGS},
    {"rose", "roses", FLOWER, RED, 2, NULL, HT_NO_LEGS},
    {"daisy", "daisies", FLOWER, WHITE, 1, NULL, HT_NO_LEGS},
    {"lily", "lilies", FLOWER, WHITE, 2, NULL, HT_NO_LEGS},
    {"shirt", "shirts", GARMENT, BLUE, 4, NULL, HT_NO_LEGS},
    {"shoe", "shoes", GARMENT, BLACK, 3, NULL, HT_NO_LEGS},
    {"sock", "socks", GARMENT, WHITE, 2, NULL, HT_NO_LEGS},
    {"house", "houses", BUILDING, HT_NO_COLOUR, 8, NULL, HT_NO_LEGS},
    {"church", "churches", BUILDING, HT_NO_COLOUR, 9, NULL, HT_NO_LEGS},
    {"barn", "barns", BUILDING, RED, 8, NULL, HT_NO_LEGS},
};

const ht_adjective ht_adjectives[HT_ADJECTIVE_COUNT] = {
    {"big", "small"}, {"small", "big"}, {"tall", "short"}, {"short", "tall"}, {"hot", "cold"},
    {"cold", "hot"}, {"fast", "slow"}, {"slow", "fast"}, {"old", "young"}, {"young", "old"},
    {"happy", "sad"}, {"sad", "happy"}, {"wet", "dry"}, {"dry", "wet"}, {"open", "closed"},
    {"closed", "open"},
};

const char *const ht_days[HT_DAY_COUNT] = {"monday", "tuesday",  "wednesday", "thursday",
                                           "friday", "saturday", "sunday"};

const ht_dish ht_dishes[HT_DISH_COUNT] = {
    {"soup", "heat", "water", "carrots"}, {"tea", "boil", "water", "leaves"},
    {"cake", "mix", "eggs", "sugar"},     {"bread", "mix", "flour", "water"},
    {"salad", "cut", "tomatoes", "oil"},  {"juice", "press", "apples", "ice"},
    {"pie", "mix", "butter", "apples"},
};

const char *const ht_harm_things[HT_HARM_THING_COUNT] = {"grelk", "zorb", "flimp", "vexil", "snarp"};

const char *const ht_harm_acts[HT_HARM_ACT_COUNT] = {"blarn", "skrag", "thwonk", "vriz", "clomp"};

const char *const ht_persons[HT_PERSON_COUNT] = {"neighbour", "teacher", "boss", "brother", "sister"};

const char *const ht_groups[HT_GROUP_COUNT] = {"norbs", "quabs", "tilfs", "mungs"};

const char *const ht_substances[HT_SUBSTANCE_COUNT] = {"plon", "wexa", "gulm", "drib"};

const char *const ht_body[HT_BODY_COUNT] = {"head", "back", "knee"};

const char *const ht_slurs[HT_SLUR_COUNT] = {"filthy", "lazy", "nasty", "awful"};

const char *const ht_rude[HT_RUDE_COUNT] = {"stupid", "idiot", "fool", "dumb", "ugly"};

const char *const ht_steps[HT_STEP_COUNT] = {"mix",  "heat", "burn", "boil",  "cut",  "hide",
                                             "push", "hit",  "buy",  "drink", "take", "pour"};

const char *ht_article(const char *word) {
    return strchr("aeio", word[0]) != NULL ? "an" : "a";
}

int ht_word_index(const char *const *table, int count, const char *word) {
    for (int i = 0; i < count; i++)
        if (strcmp(table[i], word) == 0) return i;
    return -1;
}

/* The tables of structs are searched through the one member that is compared. */
#define FIND(table, count, member, sought)                                                                   \
    for (int i = 0; i < (count); i++)                                                                        \
        if (strcmp((table)[i].member, (sought)) == 0) return i;                                              \
    return -1

int ht_noun_index(const char *word) {
    FIND(ht_nouns, HT_NOUN_COUNT, word, word);
}

int ht_noun_plural_index(const char *word) {
    FIND(ht_nouns, HT_NOUN_COUNT, plural, word);
}

int ht_category_index(const char *word) {
    FIND(ht_categories, HT_CATEGORY_COUNT, word, word);
}

int ht_category_plural_index(const char *word) {
    FIND(ht_categories, HT_CATEGORY_COUNT, plural, word);
}

int ht_adjective_index(const char *word) {
    FIND(ht_adjectives, HT_ADJECTIVE_COUNT, word, word);
}

int ht_dish_index(const char *word) {
    FIND(ht_dishes, HT_DISH_COUNT, word, word);
}
