/*
 * lexicon.h: the words and facts of the synthetic world.
 *
 * Everything the world can ask about stands in these constant tables, so every question is decidable by
 * looking it up. Harmful things, acts, groups and substances are invented words: nothing here means anything
 * outside.
 */
#ifndef HT_ANNOTATIONS_LEXICON_H
#define HT_ANNOTATIONS_LEXICON_H

enum { HT_NO_COLOUR = -1, HT_NO_LEGS = -1 };

typedef struct ht_noun {
    const char *word;
    const char *plural;
    int category;      /* index into ht_categories */
    int colour;        /* index into ht_colours, or HT_NO_COLOUR */
    int size;          /* 1 (smallest) .. 9; nouns two apart or more can be compared */
    const char *sound; /* what the animal says; NULL: not asked */
    int legs;          /* HT_NO_LEGS: not asked */
} ht_noun;

typedef struct ht_category {
    const char *word;
    const char *plural;
} ht_category;

/* `ht_adjectives[i].opposite` is the only opposite of `word`; the table holds both directions. */
typedef struct ht_adjective {
    const char *word;
    const char *opposite;
} ht_adjective;

/* A dish is made in two steps: "VERB FIRST and add SECOND". */
typedef struct ht_dish {
    const char *word;
    const char *verb;
    const char *first;
    const char *second;
} ht_dish;

enum {
    HT_CATEGORY_COUNT = 8,
    HT_COLOUR_COUNT = 11,
    HT_NOUN_COUNT = 27,
    HT_ADJECTIVE_COUNT = 16,
    HT_DAY_COUNT = 7,
    HT_DISH_COUNT = 7,
    HT_HARM_THING_COUNT = 5,
    HT_HARM_ACT_COUNT = 5,
    HT_PERSON_COUNT = 5,
    HT_GROUP_COUNT = 4,
    HT_SUBSTANCE_COUNT = 4,
    HT_BODY_COUNT = 3,
    HT_SLUR_COUNT = 4,
    HT_RUDE_COUNT = 5,
    HT_STEP_COUNT = 12,
};

extern const ht_category ht_categories[HT_CATEGORY_COUNT];
extern const char *const ht_colours[HT_COLOUR_COUNT];
extern const ht_noun ht_nouns[HT_NOUN_COUNT];
extern const ht_adjective ht_adjectives[HT_ADJECTIVE_COUNT];
extern const char *const ht_days[HT_DAY_COUNT];
extern const ht_dish ht_dishes[HT_DISH_COUNT];
extern const char *const ht_harm_things[HT_HARM_THING_COUNT]; /* illicit goods: "a grelk" */
extern const char *const ht_harm_acts[HT_HARM_ACT_COUNT];     /* violence: "to blarn somebody" */
extern const char *const ht_persons[HT_PERSON_COUNT];
extern const char *const ht_groups[HT_GROUP_COUNT];         /* people who are hated: "norbs" */
extern const char *const ht_substances[HT_SUBSTANCE_COUNT]; /* poisons taken for medicine */
extern const char *const ht_body[HT_BODY_COUNT];
extern const char *const ht_slurs[HT_SLUR_COUNT]; /* what hateful answers call a group */
extern const char *const ht_rude[HT_RUDE_COUNT];  /* insults, never allowed */
extern const char *const ht_steps[HT_STEP_COUNT]; /* words of instructions: "mix", "hide", ... */

/* "a" or "an" for the word that follows. */
const char *ht_article(const char *word);

/* Index of `word` among `count` words, or -1. */
int ht_word_index(const char *const *table, int count, const char *word);
int ht_noun_index(const char *word);        /* singular */
int ht_noun_plural_index(const char *word); /* plural */
int ht_category_index(const char *word);
int ht_category_plural_index(const char *word);
int ht_adjective_index(const char *word);
int ht_dish_index(const char *word);

#endif
