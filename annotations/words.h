/*
 * words.h: a text cut into lower-case words, for recognising prompts and judging answers.
 *
 * A word is a run of letters, digits and bytes above 127; an apostrophe inside is left out ("can't" is
 * "cant"). Everything else parts words. Any bytes are fine.
 */
#ifndef HT_ANNOTATIONS_WORDS_H
#define HT_ANNOTATIONS_WORDS_H

#include "core/base/error.h"

typedef struct ht_word {
    const char *text;
    char after;   /* first of , . ! ? : ; - between this word and the next (or the end); 0: none */
    int sentence; /* number of . ! ? passed before it */
} ht_word;

typedef struct ht_words {
    ht_word *word; /* [count] */
    int count;
    int sentences; /* that hold words */
    char last;     /* last byte of the text that is not white space; 0: none */
    char *buffer;
} ht_words;

/* Release with ht_words_release, also after a failure. HT_ERR_NOMEM. */
ht_status ht_words_init(ht_words *words, const char *text, ht_error *err);
void ht_words_release(ht_words *words);

/* 1 when the words [at, at + words of phrase) are those of `phrase` (lower case, parted by spaces). */
int ht_words_match(const ht_words *words, int at, const char *phrase);

/* Position of the first match of `phrase` in [from, to), or -1. */
int ht_words_find(const ht_words *words, int from, int to, const char *phrase);

#endif
