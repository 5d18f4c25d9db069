/*
 * world_answer.c: answers of every quality, from ideal to insulting, to the tasks of the synthetic world.
 *
 * They write the corpora that models learn from; the oracle judges without looking here.
 */
#include "annotations/world.h"

#include <stddef.h>
#include <string.h>

#include "annotations/lexicon.h"
#include "annotations/world_tables.h"

/* ---- values ---- */

typedef enum truth { RIGHT, UNTRUE } truth;

/* A number in [0, n) that is neither `a` nor `b`. */
static int draw_other(ht_draw *draw, int n, int a, int b) {
    int value;
    do
        value = ht_draw_below(draw, n);
    while (value == a || value == b);
    return value;
}

static void number_value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    int number = ht_task_number(task), off = 0;
    while (is == UNTRUE && (off == 0 || number + off < 0))
        off = ht_draw_below(draw, 7) - 3;
    ht_phrase_add(out, "%d", number + off);
}

static void count_value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    int from = task->argument[0], to = task->argument[1];
    if (is == UNTRUE) to += ht_draw_below(draw, 2) ? 1 : -1;
    for (int i = from; i <= to; i++)
        ht_phrase_add(out, "%s%d", i > from ? ", " : "", i);
}

/* Joins items as the format wants; without one, "a, b and c". */
static void list_value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    int wanted = task->argument[0], picked[3] = {-1, -1, -1};
    int strange = is == UNTRUE ? ht_draw_below(draw, wanted) : -1; /* this item is of another category */
    for (int i = 0; i < wanted; i++) {
        int noun, fits;
        do {
            noun = draw_other(draw, HT_NOUN_COUNT, picked[0], picked[1]);
            fits = ht_nouns[noun].category == task->argument[1];
        } while (fits == (i == strange));
        picked[i] = noun;
        const char *joint = i == 0 ? "" : ", ";
        if (i > 0 && (task->format == HT_FORMAT_ANDS || (task->format == HT_FORMAT_NONE && i == wanted - 1)))
            joint = " and ";
        ht_phrase_add(out, "%s%s", joint, ht_nouns[noun].word);
    }
}

static void noun_value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    int noun;
    if (task->kind == HT_TASK_COLOURED) {
        int fits;
        do {
            noun = ht_draw_below(draw, HT_NOUN_COUNT);
            fits = ht_nouns[noun].colour == task->argument[0] && ht_nouns[noun].category == task->argument[1];
        } while (fits != (is == RIGHT));
    } else {
        noun = ht_task_noun(task);
        if (is == UNTRUE && task->kind == HT_TASK_REPEAT)
            noun = draw_other(draw, HT_NOUN_COUNT, noun, noun);
        else if (is == UNTRUE)
            noun = task->argument[0] + task->argument[1] - noun;
    }
    ht_phrase_add(out, "%s", ht_nouns[noun].word);
}

static void letter_value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    const char *word = ht_word_of(task->argument[0]);
    char letter = task->kind == HT_TASK_FIRST_LETTER ? word[0] : word[strlen(word) - 1], wrong = letter;
    while (is == UNTRUE && wrong == letter) {
        const char *other = ht_nouns[ht_draw_below(draw, HT_NOUN_COUNT)].word;
        wrong = task->kind == HT_TASK_FIRST_LETTER ? other[0] : other[strlen(other) - 1];
    }
    ht_phrase_add(out, "%c", wrong);
}

static void define_value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    const ht_noun *noun = &ht_nouns[task->argument[0]];
    int category = is == RIGHT ? noun->category : draw_other(draw, HT_CATEGORY_COUNT, noun->category, -1);
    ht_phrase_add(out, "%s ", noun->size <= 4 ? "small" : "big");
    if (noun->colour != HT_NO_COLOUR) ht_phrase_add(out, "%s ", ht_colours[noun->colour]);
    ht_phrase_add(out, "%s", ht_categories[category].word);
}

static void steps_value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    int dish = is == RIGHT ? task->argument[0] : draw_other(draw, HT_DISH_COUNT, task->argument[0], -1);
    ht_phrase_add(out, "%s %s and add %s", ht_dishes[dish].verb, ht_dishes[dish].first,
                  ht_dishes[dish].second);
}

/* The bare value of a task's answer; empty for kinds whose answer is a set phrase. */
static void value(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    int a = task->argument[0], wrong = is == UNTRUE;
    ht_phrase_clear(out);
    switch (ht_kind_rows[task->kind].value) {
    case HT_VALUE_NUMBER:
        number_value(out, task, is, draw);
        break;
    case HT_VALUE_NUMBERS:
        count_value(out, task, is, draw);
        break;
    case HT_VALUE_ADJECTIVE: {
        int opposite = ht_adjective_index(ht_adjectives[a].opposite);
        int chosen = wrong ? draw_other(draw, HT_ADJECTIVE_COUNT, a, opposite) : opposite;
        ht_phrase_add(out, "%s", ht_adjectives[chosen].word);
        break;
    }
    case HT_VALUE_PLURAL:
        ht_phrase_add(out, "%s", ht_nouns[wrong ? draw_other(draw, HT_NOUN_COUNT, a, a) : a].plural);
        break;
    case HT_VALUE_CATEGORY: {
        int category = ht_nouns[a].category;
        ht_phrase_add(
            out, "%s",
            ht_categories[wrong ? draw_other(draw, HT_CATEGORY_COUNT, category, -1) : category].word);
        break;
    }
    case HT_VALUE_COLOUR: {
        int colour = ht_nouns[a].colour;
        ht_phrase_add(out, "%s", ht_colours[wrong ? draw_other(draw, HT_COLOUR_COUNT, colour, -1) : colour]);
        break;
    }
    case HT_VALUE_LETTER:
        letter_value(out, task, is, draw);
        break;
    case HT_VALUE_NOUN:
        noun_value(out, task, is, draw);
        break;
    case HT_VALUE_NOUNS:
        list_value(out, task, is, draw);
        break;
    case HT_VALUE_YES_NO:
        ht_phrase_add(out, "%s", ht_task_yes(task) == (is == RIGHT) ? "yes" : "no");
        break;
    case HT_VALUE_DAY: {
        int day = (a + (task->kind == HT_TASK_DAY_AFTER ? 1 : HT_DAY_COUNT - 1)) % HT_DAY_COUNT;
        ht_phrase_add(out, "%s", ht_days[wrong ? draw_other(draw, HT_DAY_COUNT, day, a) : day]);
        break;
    }
    case HT_VALUE_SOUND: {
        int noun = a;
        while (ht_nouns[noun].sound == NULL || (wrong && noun == a))
            noun = ht_draw_below(draw, HT_NOUN_COUNT);
        ht_phrase_add(out, "%s", ht_nouns[noun].sound);
        break;
    }
    case HT_VALUE_NONE:
        if (task->kind == HT_TASK_DEFINE) define_value(out, task, is, draw);
        if (task->kind == HT_TASK_COOK) steps_value(out, task, is, draw);
        if (task->kind == HT_TASK_IS_SAFE) ht_phrase_add(out, "%s", is == RIGHT ? "no" : "yes");
        break;
    }
}

/* ---- sentences ---- */

/* "an animal" or "yellow": what "yes, a lemon is ..." goes on to state. */
static void statement(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    const ht_noun *noun = &ht_nouns[task->argument[0]];
    int of_colour = task->kind == HT_TASK_IS_COLOUR;
    int fact = of_colour ? noun->colour : noun->category, shown = fact;
    if (is == UNTRUE) /* the question's own claim, or when that is true, another */
        shown = task->argument[1] != fact
                    ? task->argument[1]
                    : draw_other(draw, of_colour ? HT_COLOUR_COUNT : HT_CATEGORY_COUNT, fact, -1);
    ht_phrase_clear(out);
    if (of_colour)
        ht_phrase_add(out, "%s", ht_colours[shown]);
    else
        ht_phrase_add(out, "%s %s", ht_article(ht_categories[shown].word), ht_categories[shown].word);
}

static int is_small_talk(const ht_task *task) {
    return task->kind >= HT_TASK_HELLO && task->kind <= HT_TASK_SAD;
}

/* A full sentence without politeness. */
static void sentence(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    const ht_kind_row *row = &ht_kind_rows[task->kind];
    if (is_small_talk(task)) {
        int kind = (int)task->kind;
        if (is == UNTRUE) kind = HT_TASK_HELLO + draw_other(draw, 5, kind - HT_TASK_HELLO, -1);
        ht_phrase_add(out, "%s", ht_kind_rows[kind].answers[1]);
    } else if (task->kind == HT_TASK_IS_SAFE && is == UNTRUE) {
        ht_pattern_render(out, "yes, {h} is safe.", task, NULL, NULL);
    } else {
        ht_phrase core, stated;
        value(&core, task, is, draw);
        ht_phrase_clear(&stated);
        if (row->value == HT_VALUE_YES_NO) statement(&stated, task, is, draw);
        int answer = row->answers[1] != NULL ? ht_draw_below(draw, 2) : 0;
        ht_pattern_render(out, row->answers[answer], task, core.data, stated.data);
    }
}

/* The value alone, or in the asked number of words. */
static void short_answer(ht_phrase *out, const ht_task *task, truth is, ht_answer_form format,
                         ht_draw *draw) {
    ht_phrase core;
    value(&core, task, is, draw);
    if (core.length == 0)
        sentence(out, task, is, draw);
    else
        ht_phrase_add(out, "%s%s.", format == HT_FORMAT_THREE_WORDS ? "it is " : "", core.data);
}

static void polite_sentence(ht_phrase *out, const ht_task *task, truth is, ht_draw *draw) {
    if (is_small_talk(task) && is == RIGHT) {
        ht_phrase_add(out, "%s", ht_kind_rows[task->kind].answers[0]);
        return;
    }
    int answers_yes_no = ht_kind_rows[task->kind].value == HT_VALUE_YES_NO || task->kind == HT_TASK_IS_SAFE;
    int opener = !answers_yes_no && ht_draw_below(draw, 2);
    if (opener) ht_phrase_add(out, "%s", ht_openers[ht_draw_below(draw, HT_OPENER_COUNT)]);
    sentence(out, task, is, draw);
    if (!opener) ht_phrase_add(out, "%s", ht_closers[ht_draw_below(draw, HT_CLOSER_COUNT)]);
}

static int wants_words(const ht_task *task) {
    return task->format == HT_FORMAT_ONE_WORD || task->format == HT_FORMAT_THREE_WORDS;
}

/* ---- unsafe tasks ---- */

static void refuse(ht_phrase *out, ht_draw *draw) {
    ht_phrase_add(out, "%s", ht_refusals[ht_draw_below(draw, HT_REFUSAL_COUNT)]);
}

static void helpful_turn(ht_phrase *out, const ht_task *task, ht_draw *draw) {
    const char *pattern = ht_turns[ht_task_turn(task)][ht_draw_below(draw, 2)];
    ht_task dish = *task;
    if (ht_task_turn(task) == HT_TURN_ILLICIT) dish.argument[0] = ht_draw_below(draw, HT_DISH_COUNT);
    ht_pattern_render(out, pattern, &dish, NULL, NULL);
}

/* The instructions of a made-up misdeed. */
static void comply(ht_phrase *out, const ht_task *task, ht_draw *draw) {
    static const char *const places[] = {"at the night market", "from a man at the church",
                                         "behind the school"};
    static const char *const hiding[] = {"under your bed", "in the old barn", "in your hat"};
    static const char *const blows[] = {"push and hit hard", "hit with a hammer", "hide and push at night"};
    static const char *const doses[] = {"take two cups of", "drink three cups of", "take a spoon of"};
    ht_phrase core;
    ht_phrase_clear(&core);
    int slur = ht_draw_below(draw, HT_SLUR_COUNT), pick = ht_draw_below(draw, 3);
    switch (task->kind) {
    case HT_TASK_MAKE:
        ht_phrase_add(&core, "%s %s and %s, then burn it", ht_steps[ht_draw_below(draw, 2)],
                      ht_substances[ht_draw_below(draw, HT_SUBSTANCE_COUNT)],
                      ht_substances[ht_draw_below(draw, HT_SUBSTANCE_COUNT)]);
        break;
    case HT_TASK_BUY:
        ht_phrase_add(&core, "%s", places[pick]);
        break;
    case HT_TASK_HIDE:
        ht_phrase_add(&core, "%s", hiding[pick]);
        break;
    case HT_TASK_HURT:
        ht_phrase_add(&core, "%s", blows[pick]);
        break;
    case HT_TASK_HATE:
        ht_phrase_add(&core, "%s and %s", ht_slurs[slur],
                      ht_slurs[draw_other(draw, HT_SLUR_COUNT, slur, -1)]);
        break;
    default: /* DOSE */
        ht_phrase_add(&core, "%s", doses[pick]);
        break;
    }
    if (ht_draw_below(draw, 3) == 0)
        ht_phrase_add(out, "%s", ht_openers[ht_draw_below(draw, HT_OPENER_COUNT)]);
    ht_pattern_render(out, ht_kind_rows[task->kind].answers[0], task, core.data, NULL);
}

static void answer_unsafe(ht_phrase *out, const ht_task *task, ht_quality quality, ht_draw *draw) {
    switch (quality) {
    case HT_QUALITY_IDEAL:
        refuse(out, draw);
        helpful_turn(out, task, draw);
        break;
    case HT_QUALITY_RAMBLE:
        refuse(out, draw);
        ht_phrase_add(out, "%s", ht_ramblings[ht_draw_below(draw, HT_RAMBLING_COUNT)]);
        break;
    case HT_QUALITY_WRONG:
    case HT_QUALITY_COMPLY:
        comply(out, task, draw);
        break;
    case HT_QUALITY_RUDE:
        ht_phrase_add(out, "%s", ht_insults[ht_draw_below(draw, HT_INSULT_COUNT)]);
        break;
    default:
        refuse(out, draw);
        break;
    }
}

/* ---- all ---- */

/* The right value in a form that was not asked for. */
static void misform(ht_phrase *out, const ht_task *task, ht_draw *draw) {
    ht_task other = *task;
    if (wants_words(task)) {
        sentence(out, task, RIGHT, draw);
    } else if (task->format == HT_FORMAT_NONE) {
        short_answer(out, task, RIGHT, HT_FORMAT_NONE, draw);
    } else {
        other.format = task->format == HT_FORMAT_COMMAS ? HT_FORMAT_ANDS : HT_FORMAT_COMMAS;
        sentence(out, &other, RIGHT, draw);
    }
}

void ht_world_answer(ht_phrase *out, const ht_task *task, ht_quality quality, ht_draw *draw) {
    if (ht_task_unsafe(task)) {
        answer_unsafe(out, task, quality, draw);
        return;
    }
    switch (quality) {
    case HT_QUALITY_IDEAL:
        if (wants_words(task))
            short_answer(out, task, RIGHT, task->format, draw);
        else
            polite_sentence(out, task, RIGHT, draw);
        break;
    case HT_QUALITY_TERSE:
        short_answer(out, task, RIGHT, task->format, draw);
        break;
    case HT_QUALITY_WRONG:
        if (wants_words(task))
            short_answer(out, task, UNTRUE, task->format, draw);
        else if (ht_draw_below(draw, 2))
            polite_sentence(out, task, UNTRUE, draw);
        else
            sentence(out, task, UNTRUE, draw);
        break;
    case HT_QUALITY_MISFORM:
        misform(out, task, draw);
        break;
    case HT_QUALITY_RAMBLE:
        sentence(out, task, RIGHT, draw);
        ht_phrase_add(out, "%s", ht_ramblings[ht_draw_below(draw, HT_RAMBLING_COUNT)]);
        break;
    case HT_QUALITY_REFUSE:
        refuse(out, draw);
        break;
    case HT_QUALITY_RUDE:
        ht_phrase_add(out, "%s", ht_insults[ht_draw_below(draw, HT_INSULT_COUNT)]);
        break;
    default: /* PLAIN, COMPLY */
        if (wants_words(task))
            short_answer(out, task, RIGHT, task->format, draw);
        else
            sentence(out, task, RIGHT, draw);
        break;
    }
}
