/*
 * world_tables.h: the patterns of the synthetic world, shared by rendering, recognition and the oracle.
 *
 * A pattern is text with slots, a letter in braces. The first slot takes the task's first argument, the
 * second its second; slots marked * always take the second: {n} number   {a} adjective   {s} noun   {i} noun
 * with article   {x} noun or harmful thing   {k} colour {y} colour with article   {t}* category   {e}*
 * category with article   {l}* plural of a category   {q} two|three {w} day   {f} dish   {h} harmful thing
 * with article   {v} harmful act   {o}* person   {g} group   {m} substance {b}* part of the body In answers
 * {=} is the value, {@} the value with its article, {!} what a yes/no answer goes on to state.
 */
#ifndef HT_ANNOTATIONS_WORLD_TABLES_H
#define HT_ANNOTATIONS_WORLD_TABLES_H

#include "annotations/world.h"

/* What sort of thing the value of an answer is: the oracle looks for all words of that sort. */
typedef enum ht_value_class {
    HT_VALUE_NONE, /* judged by key words */
    HT_VALUE_NUMBER,
    HT_VALUE_NUMBERS, /* a row of numbers */
    HT_VALUE_ADJECTIVE,
    HT_VALUE_PLURAL,
    HT_VALUE_CATEGORY,
    HT_VALUE_COLOUR,
    HT_VALUE_LETTER,
    HT_VALUE_NOUN,
    HT_VALUE_NOUNS, /* a list of nouns */
    HT_VALUE_YES_NO,
    HT_VALUE_DAY,
    HT_VALUE_SOUND,
} ht_value_class;

enum { HT_PATTERNS = 4, HT_ANSWERS = 2 };

typedef struct ht_kind_row {
    double weight; /* share among tasks of its side (safe, unsafe) */
    ht_value_class value;
    unsigned formats;                 /* mask of 1u << HT_FORMAT_* that can be asked */
    const char *prompts[HT_PATTERNS]; /* NULL-terminated unless full */
    const char *follow_up;            /* new arguments only: "and {a}?"; NULL: no follow-up */
    const char *answers[HT_ANSWERS];
} ht_kind_row;

extern const ht_kind_row ht_kind_rows[HT_TASK_COUNT_ALL];

/* Sentences put before a request; from HT_PREFIX_FIRST_ATTACK on they are the framings of attacks. */
enum { HT_PREFIX_COUNT = 14, HT_PREFIX_FIRST_ATTACK = 6 };
extern const char *const ht_prefixes[HT_PREFIX_COUNT]; /* [0] is empty */

/* How a format is asked for, after the request, and in a later turn. */
extern const char *const ht_format_requests[HT_FORMAT_COUNT];
extern const char *const ht_format_again[HT_FORMAT_COUNT];

/* The ways a follow-up begins, and what is said to press for an unsafe answer. */
enum { HT_FOLLOW_COUNT = 2, HT_PRESSURE_COUNT = 3 };
extern const char *const ht_follow_words[HT_FOLLOW_COUNT];
extern const char *const ht_pressure[HT_PRESSURE_COUNT];

/* Politeness of good answers, refusals, their helpful turns ({f} dish, {o} person), insults, ramblings. */
enum {
    HT_OPENER_COUNT = 3,
    HT_CLOSER_COUNT = 2,
    HT_REFUSAL_COUNT = 3,
    HT_INSULT_COUNT = 4,
    HT_RAMBLING_COUNT = 4
};
extern const char *const ht_openers[HT_OPENER_COUNT];
extern const char *const ht_closers[HT_CLOSER_COUNT];
extern const char *const ht_refusals[HT_REFUSAL_COUNT];
extern const char *const ht_turns[HT_TURN_COUNT][2];
extern const char *const ht_insults[HT_INSULT_COUNT];
extern const char *const ht_ramblings[HT_RAMBLING_COUNT];

extern const char *const ht_small_talk_keys[5]; /* of HELLO .. SAD: the word that a right answer holds */

/* 1 when the task's arguments make sense (a colour is known, sizes differ enough, ...). */
int ht_task_valid(const ht_task *task);

/* Truth about a task with a single numeric, yes/no or noun answer. */
int ht_task_number(const ht_task *task); /* SUM .. SMALLER_NUMBER but COUNT, LEGS */
int ht_task_yes(const ht_task *task);    /* IS_COLOUR, IS_CATEGORY */
int ht_task_noun(const ht_task *task);   /* BIGGER, SMALLER, REPEAT: index of the noun */

/* The word a REPEAT, FIRST_LETTER or LAST_LETTER task is about. */
const char *ht_word_of(int argument);

/* Appends the pattern with its slots filled from the task; `value` fills {=} and {@}, `statement` {!} (may be
 * NULL). */
void ht_pattern_render(ht_phrase *out, const char *pattern, const ht_task *task, const char *value,
                       const char *statement);

/* 1 for the slots marked * above. */
int ht_slot_is_second(char slot);

#endif
