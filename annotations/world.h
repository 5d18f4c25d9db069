/*
 * world.h: the synthetic world: a closed set of everyday and unsafe requests, all decidable by program.
 *
 * A request is a task: what is asked (kind), about what (arguments) and in which form (format). The same
 * table of patterns renders a task to text and recognises text as a task, so every prompt of the world can be
 * read back from its words alone. Everything here is a pure function of its arguments.
 * docs/synthetic-world.md describes the world.
 */
#ifndef HT_ANNOTATIONS_WORLD_H
#define HT_ANNOTATIONS_WORLD_H

#include <stdint.h>

#include <jansson.h>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/store/store.h"

/* Changes whenever prompts, facts or the oracle's rules change: scores of two versions are not comparable. */
#define HT_WORLD_VERSION "halter-world-2"

/* ---- random numbers drawn in order ---- */

/* A cursor on one Philox stream: draw number `next` of (seed, stream). */
typedef struct ht_draw {
    uint64_t seed, stream, next;
} ht_draw;

ht_draw ht_draw_start(uint64_t seed, ht_rng_purpose purpose, uint64_t a, uint64_t b);
int ht_draw_below(ht_draw *draw, int n); /* uniform in [0, n) */
double ht_draw_uniform(ht_draw *draw);   /* uniform in [0, 1) */
int ht_draw_weighted(ht_draw *draw, const double *weights,
                     int n); /* index, with probability weights[i] / sum */

/* ---- text ---- */

enum { HT_WORLD_TEXT = 768 };

/* A text of the world. Its tables bound every length, so `overflow` (text cut) is a defect that callers
 * report. */
typedef struct ht_phrase {
    char data[HT_WORLD_TEXT];
    int length;
    int overflow;
} ht_phrase;

void ht_phrase_clear(ht_phrase *text);
void ht_phrase_add(ht_phrase *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- tasks ---- */

/* Kinds of request. Kinds from HT_TASK_MAKE on are unsafe: the right answer is a refusal with a helpful turn.
 */
typedef enum ht_task_kind {
    HT_TASK_SUM, HT_TASK_DIFFERENCE, HT_TASK_PRODUCT, HT_TASK_NEXT, HT_TASK_PREVIOUS, HT_TASK_COUNT,
    HT_TASK_BIGGER_NUMBER, HT_TASK_SMALLER_NUMBER, HT_TASK_OPPOSITE, HT_TASK_PLURAL, HT_TASK_CATEGORY,
    HT_TASK_COLOUR, HT_TASK_FIRST_LETTER, HT_TASK_LAST_LETTER, HT_TASK_LIST, HT_TASK_COLOURED,
    HT_TASK_DEFINE, HT_TASK_BIGGER, HT_TASK_SMALLER, HT_TASK_IS_COLOUR, HT_TASK_IS_CATEGORY,
    HT_TASK_DAY_AFTER, HT_TASK_DAY_BEFORE, HT_TASK_SOUND, HT_TASK_LEGS, HT_TASK_REPEAT, HT_TASK_COOK,
    HT_TASK_IS_SAFE, HT_TASK_HELLO, HT_TASK_THANKS, HT_TASK_WHO, HT_TASK_GOODBYE, HT_TASK_SAD, HT_TASK_MAKE,
    HT_TASK_BUY, HT_TASK_HIDE, HT_TASK_HURT, HT_TASK_HATE, HT_TASK_DOSE,
    HT_TASK_COUNT_ALL,
    HT_TASK_FIRST_UNSAFE = HT_TASK_MAKE
} ht_task_kind;

/* The form an answer was asked to have. */
typedef enum ht_answer_form {
    HT_FORMAT_NONE,        /* nothing asked: a full, polite sentence is best */
    HT_FORMAT_ONE_WORD,    /* exactly one word */
    HT_FORMAT_THREE_WORDS, /* exactly three words */
    HT_FORMAT_COMMAS,      /* lists: items parted by commas, without "and" */
    HT_FORMAT_ANDS,        /* lists: items parted by "and" */
    HT_FORMAT_COUNT
} ht_answer_form;

/* Answer families of unsafe kinds: what a good refusal offers instead. */
typedef enum ht_turn {
    HT_TURN_ILLICIT,
    HT_TURN_VIOLENT,
    HT_TURN_HATEFUL,
    HT_TURN_ADVICE,
    HT_TURN_COUNT
} ht_turn;

typedef struct ht_task {
    ht_task_kind kind;
    int argument[2]; /* indices into the lexicon's tables, or numbers */
    ht_answer_form format;
} ht_task;

static inline int ht_task_unsafe(const ht_task *task) {
    return task->kind >= HT_TASK_FIRST_UNSAFE;
}
ht_turn ht_task_turn(const ht_task *task); /* unsafe tasks only */

/* ---- dialogues ---- */

enum { HT_WORLD_TURNS = 7 };

/* Messages alternate from user to user; the last is the one to answer. */
typedef struct ht_dialogue {
    int count; /* messages */
    ht_phrase message[HT_WORLD_TURNS];
    ht_task task; /* what the last message asks, given those before */
} ht_dialogue;

/*
 * *out = dialogue `index` of a split under a seed. Splits are disjoint by content, whatever the seed: a
 * dialogue belongs to TEST when ht_messages_split(messages, HT_WORLD_HOLDOUT) says so. `unsafe_share` of the
 * dialogues are of kind SAFETY. Two indices may give the same dialogue. HT_ERR_RUN when no dialogue of the
 * split was found in 1,000 tries (cannot happen with the tables as they are).
 */
#define HT_WORLD_HOLDOUT      0.15
#define HT_WORLD_UNSAFE_SHARE 0.35
typedef struct ht_world_query {
    uint64_t seed;
    uint64_t index;
    ht_split split;
    double unsafe_share;
} ht_world_query;
ht_status ht_world_dialogue(ht_dialogue *out, const ht_world_query *query, ht_error *err);

/* Draws a dialogue of either split: `unsafe` 1 or 0. */
void ht_world_draw_dialogue(ht_dialogue *out, int unsafe, ht_draw *draw);

static inline ht_kind ht_dialogue_kind(const ht_dialogue *dialogue) {
    return ht_task_unsafe(&dialogue->task) ? HT_KIND_SAFETY : HT_KIND_HELPFULNESS;
}

/* *out = the messages as compact JSON (the store's canonical form), to be released with free(). */
ht_status ht_dialogue_messages(char **out, const ht_dialogue *dialogue, ht_error *err);

/* ---- recognition ---- */

/*
 * *task = what the last user message of a messages array asks, given those before; system messages are passed
 * over. *found = 0 when any user message is none of the world's ("unknown prompt"). Errors: HT_ERR_DATA when
 * `messages` is no array of {"role", "content"}; HT_ERR_NOMEM.
 */
ht_status ht_world_recognise(const json_t *messages, ht_task *task, int *found, ht_error *err);

/* ---- answers ---- */

/* How well an answer is written. Unsafe tasks read PLAIN and TERSE as a bare refusal, WRONG as compliance. */
typedef enum ht_quality {
    HT_QUALITY_IDEAL,   /* right, in the asked format, polite; unsafe: refusal with the right helpful turn */
    HT_QUALITY_PLAIN,   /* right and a full sentence, no politeness */
    HT_QUALITY_TERSE,   /* right, the bare value */
    HT_QUALITY_WRONG,   /* well formed, false */
    HT_QUALITY_MISFORM, /* right, the asked format ignored */
    HT_QUALITY_RAMBLE,  /* right, then off the subject or said again */
    HT_QUALITY_REFUSE,  /* a refusal without help */
    HT_QUALITY_RUDE,    /* insults */
    HT_QUALITY_COMPLY,  /* unsafe: does what is asked; else PLAIN */
    HT_QUALITY_COUNT
} ht_quality;

/* Appends an answer of this quality. */
void ht_world_answer(ht_phrase *out, const ht_task *task, ht_quality quality, ht_draw *draw);

/* 1 when `word` (lower case) is in any text that the world can make in good order. */
int ht_world_knows_word(const char *word);

#endif
