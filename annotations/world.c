/*
 * world.c: drawing tasks and dialogues of the synthetic world, and turning them into text.
 */
#include "annotations/world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "annotations/lexicon.h"
#include "annotations/world_tables.h"
#include "core/base/json.h"

/* ---- random numbers ---- */

ht_draw ht_draw_start(uint64_t seed, ht_rng_purpose purpose, uint64_t a, uint64_t b) {
    return (ht_draw){seed, ht_rng_stream(purpose, a, b), 0};
}

int ht_draw_below(ht_draw *draw, int n) {
    return (int)ht_rng_below(draw->seed, draw->stream, draw->next++, (uint64_t)n);
}

double ht_draw_uniform(ht_draw *draw) {
    return ht_rng_uniform(draw->seed, draw->stream, draw->next++);
}

int ht_draw_weighted(ht_draw *draw, const double *weights, int n) {
    double total = 0;
    int last = 0;
    for (int i = 0; i < n; i++) {
        total += weights[i];
        if (weights[i] > 0) last = i;
    }
    double left = ht_draw_uniform(draw) * total;
    for (int i = 0; i < last; i++) {
        left -= weights[i];
        if (left < 0) return i;
    }
    return last;
}

/* ---- text ---- */

void ht_phrase_clear(ht_phrase *text) {
    text->data[0] = '\0';
    text->length = 0;
    text->overflow = 0;
}

void ht_phrase_add(ht_phrase *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    size_t room = sizeof text->data - (size_t)text->length;
    int added = vsnprintf(text->data + text->length, room, format, args);
    va_end(args);
    if (added < 0 || (size_t)added >= room) {
        text->overflow = 1;
        added = (int)room - 1;
    }
    text->length += added;
}

/* ---- tasks ---- */

ht_turn ht_task_turn(const ht_task *task) {
    switch (task->kind) {
    case HT_TASK_HURT:
        return HT_TURN_VIOLENT;
    case HT_TASK_HATE:
        return HT_TURN_HATEFUL;
    case HT_TASK_DOSE:
        return HT_TURN_ADVICE;
    default:
        return HT_TURN_ILLICIT;
    }
}

/* How many values a slot's argument has, and the first of them. */
static int slot_values(char slot, int *first) {
    *first = 0;
    switch (slot) {
    case 'n':
        *first = 1;
        return 30;
    case 'q':
        *first = 2;
        return 2;
    case 'a':
        return HT_ADJECTIVE_COUNT;
    case 's':
    case 'i':
        return HT_NOUN_COUNT;
    case 'x':
        return HT_NOUN_COUNT + HT_HARM_THING_COUNT;
    case 'k':
        return HT_COLOUR_COUNT;
    case 't':
    case 'e':
    case 'l':
        return HT_CATEGORY_COUNT;
    case 'w':
        return HT_DAY_COUNT;
    case 'f':
        return HT_DISH_COUNT;
    case 'h':
        return HT_HARM_THING_COUNT;
    case 'v':
        return HT_HARM_ACT_COUNT;
    case 'o':
        return HT_PERSON_COUNT;
    case 'g':
        return HT_GROUP_COUNT;
    case 'm':
        return HT_SUBSTANCE_COUNT;
    default: /* 'b' */
        return HT_BODY_COUNT;
    }
}

/* Draws arguments that make sense for task->kind. */
static void draw_arguments(ht_task *task, ht_draw *draw) {
    const char *pattern = ht_kind_rows[task->kind].prompts[0];
    int even = ht_draw_below(draw, 2); /* yes/no questions: as often yes as no */
    do {
        int slot = 0;
        task->argument[0] = task->argument[1] = 0;
        for (const char *at = strchr(pattern, '{'); at != NULL; at = strchr(at + 1, '{')) {
            int first, count = slot_values(at[1], &first);
            task->argument[slot++] = first + ht_draw_below(draw, count);
        }
        const ht_noun *noun = &ht_nouns[task->argument[0] % HT_NOUN_COUNT];
        if (even && task->kind == HT_TASK_IS_COLOUR && noun->colour != HT_NO_COLOUR)
            task->argument[1] = noun->colour;
        if (even && task->kind == HT_TASK_IS_CATEGORY) task->argument[1] = noun->category;
    } while (!ht_task_valid(task));
}

static void draw_task(ht_task *task, int unsafe, ht_draw *draw) {
    double weights[HT_TASK_COUNT_ALL];
    for (int kind = 0; kind < HT_TASK_COUNT_ALL; kind++)
        weights[kind] = (kind >= HT_TASK_FIRST_UNSAFE) == unsafe ? ht_kind_rows[kind].weight : 0;
    task->kind = (ht_task_kind)ht_draw_weighted(draw, weights, HT_TASK_COUNT_ALL);
    task->format = HT_FORMAT_NONE;
    draw_arguments(task, draw);
}

/* A format that this kind can be asked for, or NONE. */
static ht_answer_form draw_format(ht_task_kind kind, double share, ht_draw *draw) {
    unsigned formats = ht_kind_rows[kind].formats;
    if (formats == 0 || ht_draw_uniform(draw) >= share) return HT_FORMAT_NONE;
    ht_answer_form format;
    do
        format = (ht_answer_form)(1 + ht_draw_below(draw, HT_FORMAT_COUNT - 1));
    while ((formats & 1u << format) == 0);
    return format;
}

/* ---- rendering ---- */

/* The word an argument is in this slot; *article = 1 when the slot wants one before it. */
static const char *slot_word(char slot, int argument, int *article) {
    *article = strchr("iyeh", slot) != NULL;
    switch (slot) {
    case 'q':
        return argument == 2 ? "two" : "three";
    case 'a':
        return ht_adjectives[argument].word;
    case 's':
    case 'i':
        return ht_nouns[argument].word;
    case 'x':
        return ht_word_of(argument);
    case 'k':
    case 'y':
        return ht_colours[argument];
    case 't':
    case 'e':
        return ht_categories[argument].word;
    case 'l':
        return ht_categories[argument].plural;
    case 'w':
        return ht_days[argument];
    case 'f':
        return ht_dishes[argument].word;
    case 'h':
        return ht_harm_things[argument];
    case 'v':
        return ht_harm_acts[argument];
    case 'o':
        return ht_persons[argument];
    case 'g':
        return ht_groups[argument];
    case 'm':
        return ht_substances[argument];
    default: /* 'b' */
        return ht_body[argument];
    }
}

void ht_pattern_render(ht_phrase *out, const char *pattern, const ht_task *task, const char *value,
                       const char *statement) {
    int next = 0;
    for (const char *at = pattern; *at != '\0'; at++) {
        if (*at != '{') {
            ht_phrase_add(out, "%c", *at);
            continue;
        }
        char slot = at[1];
        at += 2; /* at the closing brace */
        if (slot == '=') {
            ht_phrase_add(out, "%s", value);
        } else if (slot == '@') {
            ht_phrase_add(out, "%s %s", ht_article(value), value);
        } else if (slot == '!') {
            ht_phrase_add(out, "%s", statement);
        } else {
            int article, argument = task->argument[ht_slot_is_second(slot) ? 1 : next++];
            if (slot == 'n') {
                ht_phrase_add(out, "%d", argument);
            } else {
                const char *word = slot_word(slot, argument, &article);
                ht_phrase_add(out, "%s%s%s", article ? ht_article(word) : "", article ? " " : "", word);
            }
        }
    }
}

/* Doubles the last letter of the harmful word in a prompt: the misspelling attack. */
static void misspell(ht_phrase *text) {
    static const struct {
        const char *const *words;
        int count;
    } tables[] = {{ht_harm_things, HT_HARM_THING_COUNT},
                  {ht_harm_acts, HT_HARM_ACT_COUNT},
                  {ht_substances, HT_SUBSTANCE_COUNT}};
    ht_phrase before = *text;
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
        for (int i = 0; i < tables[t].count; i++) {
            const char *word = tables[t].words[i], *at = strstr(before.data, word);
            if (at == NULL) continue;
            size_t length = strlen(word);
            ht_phrase_clear(text);
            ht_phrase_add(text, "%.*s%s%c%s", (int)(at - before.data), before.data, word, word[length - 1],
                          at + length);
            return;
        }
}

/* A first request: prefix, pattern, format. */
static void render_request(ht_phrase *out, const ht_task *task, const char *prefix, ht_draw *draw) {
    const ht_kind_row *row = &ht_kind_rows[task->kind];
    int patterns = 0;
    while (patterns < HT_PATTERNS && row->prompts[patterns] != NULL)
        patterns++;
    ht_phrase_clear(out);
    if (prefix[0] != '\0') ht_phrase_add(out, "%s ", prefix);
    ht_pattern_render(out, row->prompts[ht_draw_below(draw, patterns)], task, NULL, NULL);
    ht_phrase_add(out, "%s", ht_format_requests[task->format]);
}

static const char *draw_prefix(int unsafe, ht_draw *draw) {
    double u = ht_draw_uniform(draw);
    if (u < (unsafe ? 0.55 : 0.06))
        return ht_prefixes[HT_PREFIX_FIRST_ATTACK +
                           ht_draw_below(draw, HT_PREFIX_COUNT - HT_PREFIX_FIRST_ATTACK)];
    return u < (unsafe ? 0.70 : 0.40) ? ht_prefixes[1 + ht_draw_below(draw, HT_PREFIX_FIRST_ATTACK - 1)] : "";
}

/* ---- dialogues ---- */

static void add_answer(ht_dialogue *out, ht_draw *draw) {
    ht_phrase *text = &out->message[out->count++];
    ht_phrase_clear(text);
    ht_world_answer(text, &out->task, HT_QUALITY_IDEAL, draw);
}

static void add_request(ht_dialogue *out, int unsafe, ht_draw *draw) {
    draw_task(&out->task, unsafe, draw);
    if (!unsafe) out->task.format = draw_format(out->task.kind, 0.3, draw);
    ht_phrase *text = &out->message[out->count++];
    render_request(text, &out->task, draw_prefix(unsafe, draw), draw);
    if (unsafe && ht_draw_uniform(draw) < 0.15) misspell(text);
}

/* New arguments for the task at hand: "and the opposite of tall?". */
static void add_follow_up(ht_dialogue *out, ht_draw *draw) {
    ht_phrase *text = &out->message[out->count++];
    draw_arguments(&out->task, draw);
    ht_phrase_clear(text);
    ht_phrase_add(text, "%s", ht_follow_words[ht_draw_below(draw, HT_FOLLOW_COUNT)]);
    ht_pattern_render(text, ht_kind_rows[out->task.kind].follow_up, &out->task, NULL, NULL);
}

/* The task at hand in another form: "say it again with one word.". */
static void add_again(ht_dialogue *out, ht_draw *draw) {
    ht_phrase *text = &out->message[out->count++];
    ht_answer_form before = out->task.format;
    while (out->task.format == before)
        out->task.format = draw_format(out->task.kind, 0.8, draw);
    ht_phrase_clear(text);
    ht_phrase_add(text, "%s", ht_format_again[out->task.format]);
}

void ht_world_draw_dialogue(ht_dialogue *out, int unsafe, ht_draw *draw) {
    double shape = ht_draw_uniform(draw);
    out->count = 0;
    if (shape < 0.70) { /* one request */
        add_request(out, unsafe, draw);
    } else if (shape < 0.80) { /* two requests; the first is harmless */
        add_request(out, 0, draw);
        add_answer(out, draw);
        add_request(out, unsafe, draw);
    } else { /* the second turn needs the first */
        do {
            out->count = 0;
            add_request(out, unsafe, draw);
        } while (ht_kind_rows[out->task.kind].follow_up == NULL);
        add_answer(out, draw);
        int formats = ht_kind_rows[out->task.kind].formats != 0;
        if (unsafe && shape < 0.90) {
            ht_phrase *text = &out->message[out->count++];
            ht_phrase_clear(text);
            ht_phrase_add(text, "%s", ht_pressure[ht_draw_below(draw, HT_PRESSURE_COUNT)]);
        } else if (!unsafe && formats && shape < 0.87) {
            add_again(out, draw);
        } else {
            add_follow_up(out, draw);
        }
    }
}

ht_status ht_dialogue_messages(char **out, const ht_dialogue *dialogue, ht_error *err) {
    ht_status status = HT_OK;
    *out = NULL;
    json_t *messages = json_array();
    for (int i = 0; i < dialogue->count && messages != NULL; i++) {
        if (dialogue->message[i].overflow) {
            status = ht_fail(err, HT_ERR_RUN, "a text of the synthetic world is longer than %d bytes",
                             HT_WORLD_TEXT);
            goto done;
        }
        json_t *message = json_pack("{s:s, s:s}", "role", i % 2 == 0 ? "user" : "assistant", "content",
                                    dialogue->message[i].data);
        json_array_append_new(messages, message);
    }
    status = ht_json_text(out, messages, JSON_COMPACT, err);
done:
    json_decref(messages);
    return status;
}

ht_status ht_world_dialogue(ht_dialogue *out, const ht_world_query *query, ht_error *err) {
    ht_draw draw =
        ht_draw_start(query->seed, HT_RNG_SYNTH, query->index, 1 + (query->split == HT_SPLIT_TEST));
    int unsafe = ht_draw_uniform(&draw) < query->unsafe_share;
    for (int attempt = 0; attempt < 1000; attempt++) {
        char *messages;
        ht_world_draw_dialogue(out, unsafe, &draw);
        ht_status status = ht_dialogue_messages(&messages, out, err);
        if (status != HT_OK) return status;
        ht_split split = ht_messages_split(messages, HT_WORLD_HOLDOUT);
        free(messages);
        if (split == query->split) return HT_OK;
    }
    return ht_fail(err, HT_ERR_RUN, "no %s dialogue among 1000 draws of the synthetic world",
                   ht_split_text(query->split));
}
