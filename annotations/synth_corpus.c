/*
 * synth_corpus.c: pretraining text, demonstrations and prompts of the synthetic world.
 *
 * The text is as mixed as the web: mostly right, some of it wrong, terse, rambling, rude or harmful.
 * Demonstrations come from vendors of very different quality, as METHOD section 2 tells of. A model trained
 * on both knows much, but answers like the crowd that taught it; preferences are what tells it which of those
 * answers are good.
 */
#include "annotations/synth_corpus.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "annotations/csv_write.h"
#include "annotations/lexicon.h"
#include "annotations/world_tables.h"
#include "core/base/files.h"
#include "core/base/memory.h"

/* Streams: coordinate b of HT_RNG_SYNTH; 1 and 2 are the dialogues of the splits. */
enum { STREAM_DOCUMENT = 10, STREAM_DEMONSTRATION = 11 };

/* Dialogues of demonstrations are drawn from here on, those of prompts.csv from 0. */
static const uint64_t FIRST_DEMONSTRATION = (uint64_t)1 << 40;

/* How often a source writes each quality, in the order of ht_quality, for harmless and for unsafe requests.
 */
typedef struct mixture {
    const char *name;
    double share;
    double harmless[HT_QUALITY_COUNT], unsafe[HT_QUALITY_COUNT];
} mixture;

/*                       ideal plain terse wrong misform ramble refuse rude comply */
static const mixture web = {"web", 1, {16, 48, 17, 5, 4, 4, 3, 3, 0}, {12, 20, 0, 0, 0, 8, 0, 8, 52}};

enum { VENDOR_COUNT = 5 };
static const mixture vendors[VENDOR_COUNT] = {
    {"vendor-a", 0.20, {90, 10, 0, 0, 0, 0, 0, 0, 0}, {100, 0, 0, 0, 0, 0, 0, 0, 0}},
    {"vendor-b", 0.25, {5, 75, 10, 7, 3, 0, 0, 0, 0}, {0, 70, 0, 0, 0, 0, 0, 0, 30}},
    {"vendor-c", 0.20, {0, 20, 60, 8, 12, 0, 0, 0, 0}, {0, 55, 0, 0, 0, 0, 0, 0, 45}},
    {"vendor-d", 0.20, {0, 35, 5, 18, 10, 22, 6, 4, 0}, {5, 20, 0, 0, 0, 15, 0, 5, 55}},
    {"vendor-e", 0.15, {25, 40, 10, 5, 0, 10, 10, 0, 0}, {30, 35, 0, 0, 0, 0, 0, 0, 35}},
};

static ht_quality draw_quality(const mixture *source, const ht_task *task, ht_draw *draw) {
    const double *weights = ht_task_unsafe(task) ? source->unsafe : source->harmless;
    return (ht_quality)ht_draw_weighted(draw, weights, HT_QUALITY_COUNT);
}

/* ---- pretraining text ---- */

/* A text that grows. */
typedef struct growing {
    char *data;
    size_t length, capacity;
} growing;

static ht_status page_add(growing *page, const char *text, ht_error *err) {
    size_t added = strlen(text);
    ht_status status = ht_grow(&page->data, &page->capacity, page->length + added + 1, 1, err);
    if (status != HT_OK) return status;
    memcpy(page->data + page->length, text, added + 1);
    page->length += added;
    return HT_OK;
}

static ht_status page_add_text(growing *page, const char *before, const ht_phrase *text, ht_error *err) {
    if (text->overflow)
        return ht_fail(err, HT_ERR_RUN, "a text of the synthetic world is longer than %d bytes",
                       HT_WORLD_TEXT);
    ht_status status = page_add(page, before, err);
    return status == HT_OK ? page_add(page, text->data, err) : status;
}

/* A last answer of web quality to a dialogue. */
static void web_answer(ht_phrase *out, const ht_task *task, ht_draw *draw) {
    ht_phrase_clear(out);
    ht_world_answer(out, task, draw_quality(&web, task, draw), draw);
}

/* What a page of facts is about: kinds that share their first argument. */
typedef struct fact_subject {
    double share;
    int values; /* of the first argument */
    int kinds;
    ht_task_kind kind[10];
} fact_subject;

enum { SUBJECT_COUNT = 4 };
static const fact_subject subjects[SUBJECT_COUNT] = {
    {6,
     HT_NOUN_COUNT,
     10,
     {HT_TASK_PLURAL, HT_TASK_CATEGORY, HT_TASK_COLOUR, HT_TASK_FIRST_LETTER, HT_TASK_LAST_LETTER,
      HT_TASK_DEFINE, HT_TASK_SOUND, HT_TASK_LEGS, HT_TASK_IS_COLOUR, HT_TASK_IS_CATEGORY}},
    {3, 20, 5, {HT_TASK_SUM, HT_TASK_DIFFERENCE, HT_TASK_PRODUCT, HT_TASK_NEXT, HT_TASK_PREVIOUS}},
    {2, HT_ADJECTIVE_COUNT, 1, {HT_TASK_OPPOSITE}},
    {1, HT_HARM_THING_COUNT, 4, {HT_TASK_MAKE, HT_TASK_BUY, HT_TASK_HIDE, HT_TASK_IS_SAFE}},
};

/* A task about argument `about`; 0 when this kind has none that makes sense in some draws. */
static int draw_fact(ht_task *task, const fact_subject *subject, int about, ht_draw *draw) {
    for (int tries = 0; tries < 20; tries++) {
        task->kind = subject->kind[ht_draw_below(draw, subject->kinds)];
        task->format = HT_FORMAT_NONE;
        task->argument[0] = about;
        task->argument[1] = task->kind == HT_TASK_IS_COLOUR     ? ht_draw_below(draw, HT_COLOUR_COUNT)
                            : task->kind == HT_TASK_IS_CATEGORY ? ht_draw_below(draw, HT_CATEGORY_COUNT)
                                                                : 1 + ht_draw_below(draw, 9);
        if (ht_task_valid(task)) return 1;
    }
    return 0;
}

/* Statements about one subject: plain answers without their questions; now and then a false one. */
static ht_status write_facts(growing *page, ht_draw *draw, ht_error *err) {
    double shares[SUBJECT_COUNT];
    for (int i = 0; i < SUBJECT_COUNT; i++)
        shares[i] = subjects[i].share;
    const fact_subject *subject = &subjects[ht_draw_weighted(draw, shares, SUBJECT_COUNT)];
    int sentences = 3 + ht_draw_below(draw, 4), numbers = subject->kind[0] == HT_TASK_SUM;
    int about = numbers + ht_draw_below(draw, subject->values);
    for (int i = 0; i < sentences; i++) {
        ht_task task;
        ht_phrase sentence;
        if (subject->kinds == 1) about = ht_draw_below(draw, subject->values);
        if (!draw_fact(&task, subject, about, draw)) continue;
        ht_quality quality = ht_draw_uniform(draw) < 0.04 ? HT_QUALITY_WRONG : HT_QUALITY_COMPLY;
        ht_phrase_clear(&sentence);
        ht_world_answer(&sentence, &task, quality, draw);
        ht_status status = page_add_text(page, page->length > 0 ? " " : "", &sentence, err);
        if (status != HT_OK) return status;
    }
    return HT_OK;
}

/* Questions and answers: as prose ("question: ... answer: ...") or as in chat logs ("[INST] ... [/INST]
 * ..."). */
static ht_status write_dialogue(growing *page, ht_dialogue *dialogue, ht_draw *draw, ht_error *err) {
    int chat = ht_draw_uniform(draw) < 0.5, rounds = 1 + ht_draw_below(draw, 3);
    for (int r = 0; r < rounds; r++) {
        ht_phrase answer;
        ht_world_draw_dialogue(dialogue, ht_draw_uniform(draw) < 0.2, draw);
        for (int i = 0; i < dialogue->count; i++) {
            const char *question = chat ? "[INST] " : "question: ", *reply = chat ? " [/INST] " : " answer: ";
            ht_status status = page_add(page, page->length > 0 && i % 2 == 0 ? " " : "", err);
            if (status == HT_OK)
                status = page_add_text(page, i % 2 == 0 ? question : reply, &dialogue->message[i], err);
            if (status != HT_OK) return status;
        }
        web_answer(&answer, &dialogue->task, draw);
        ht_status status = page_add_text(page, chat ? " [/INST] " : " answer: ", &answer, err);
        if (status != HT_OK) return status;
    }
    return HT_OK;
}

ht_status ht_corpus_document(char **out, uint64_t seed, uint64_t index, ht_error *err) {
    ht_draw draw = ht_draw_start(seed, HT_RNG_SYNTH, index, STREAM_DOCUMENT);
    growing page = {NULL, 0, 0};
    ht_dialogue *dialogue = NULL;
    ht_status status;
    *out = NULL;
    HT_TRY(ht_calloc(&dialogue, 1, sizeof *dialogue, err));
    if (ht_draw_uniform(&draw) < 0.25) HT_TRY(write_facts(&page, &draw, err));
    if (page.length == 0) HT_TRY(write_dialogue(&page, dialogue, &draw, err));
    *out = page.data;
    page.data = NULL;
done:
    free(page.data);
    free(dialogue);
    return status;
}

static ht_status write_pretraining(const ht_corpus_request *request, const char *path, ht_error *err) {
    ht_file_writer writer = {0};
    ht_status status;
    HT_TRY(ht_file_create(&writer, path, err));
    for (int64_t i = 0; i < request->documents; i++) {
        char *document;
        HT_TRY(ht_corpus_document(&document, request->seed, (uint64_t)i, err));
        fprintf(writer.stream, "%s\n", document);
        free(document);
    }
    HT_TRY(ht_file_commit(&writer, err));
done:
    ht_file_abandon(&writer);
    return status;
}

/* ---- demonstrations ---- */

ht_status ht_corpus_demonstration(ht_dialogue *dialogue, ht_phrase *answer, const char **vendor,
                                  uint64_t seed, uint64_t index, ht_error *err) {
    double shares[VENDOR_COUNT];
    ht_world_query query = {seed, FIRST_DEMONSTRATION + index, HT_SPLIT_TRAIN, HT_WORLD_UNSAFE_SHARE};
    ht_status status = ht_world_dialogue(dialogue, &query, err);
    if (status != HT_OK) return status;
    ht_draw draw = ht_draw_start(seed, HT_RNG_SYNTH, index, STREAM_DEMONSTRATION);
    for (int i = 0; i < VENDOR_COUNT; i++)
        shares[i] = vendors[i].share;
    const mixture *writer = &vendors[ht_draw_weighted(&draw, shares, VENDOR_COUNT)];
    *vendor = writer->name;
    ht_phrase_clear(answer);
    ht_world_answer(answer, &dialogue->task, draw_quality(writer, &dialogue->task, &draw), &draw);
    if (answer->overflow)
        return ht_fail(err, HT_ERR_RUN, "a text of the synthetic world is longer than %d bytes",
                       HT_WORLD_TEXT);
    return HT_OK;
}

static ht_status write_demonstrations(const ht_corpus_request *request, const char *path, ht_error *err) {
    static const char *const header[] = {"messages", "response", "kind", "split", "annotator", "batch"};
    ht_file_writer writer = {0};
    ht_dialogue *dialogue = NULL;
    ht_status status;
    HT_TRY(ht_calloc(&dialogue, 1, sizeof *dialogue, err));
    HT_TRY(ht_file_create(&writer, path, err));
    ht_csv_write(writer.stream, header, 6);
    for (int64_t i = 0; i < request->demonstrations; i++) {
        ht_phrase answer;
        const char *vendor;
        char *messages;
        HT_TRY(ht_corpus_demonstration(dialogue, &answer, &vendor, request->seed, (uint64_t)i, err));
        HT_TRY(ht_dialogue_messages(&messages, dialogue, err));
        const char *fields[] = {messages, answer.data, ht_kind_text(ht_dialogue_kind(dialogue)),
                                "train",  vendor,      "demonstrations"};
        ht_csv_write(writer.stream, fields, 6);
        free(messages);
    }
    HT_TRY(ht_file_commit(&writer, err));
done:
    ht_file_abandon(&writer);
    free(dialogue);
    return status;
}

/* ---- prompts ---- */

/* Writes `count` distinct prompts of a split; `seen` holds the messages written so far. */
static ht_status write_split(FILE *stream, json_t *seen, uint64_t seed, ht_split split, int64_t count,
                             ht_error *err) {
    ht_dialogue *dialogue = NULL;
    ht_status status;
    int64_t written = 0;
    HT_TRY(ht_calloc(&dialogue, 1, sizeof *dialogue, err));
    for (int64_t index = 0; written < count; index++) {
        ht_world_query query = {seed, (uint64_t)index, split, HT_WORLD_UNSAFE_SHARE};
        char *messages;
        if (index >= 100 * count)
            HT_TRY(ht_fail(err, HT_ERR_USAGE, "the synthetic world has no %" PRId64 " distinct %s prompts",
                           count, ht_split_text(split)));
        HT_TRY(ht_world_dialogue(dialogue, &query, err));
        HT_TRY(ht_dialogue_messages(&messages, dialogue, err));
        if (json_object_get(seen, messages) == NULL) {
            json_object_set_new(seen, messages, json_true());
            const char *fields[] = {messages, ht_kind_text(ht_dialogue_kind(dialogue)), ht_split_text(split)};
            ht_csv_write(stream, fields, 3);
            written++;
        }
        free(messages);
    }
done:
    free(dialogue);
    return status;
}

static ht_status write_prompts(const ht_corpus_request *request, const char *path, ht_error *err) {
    static const char *const header[] = {"messages", "kind", "split"};
    ht_file_writer writer = {0};
    ht_status status;
    json_t *seen = json_object();
    HT_TRY(ht_file_create(&writer, path, err));
    ht_csv_write(writer.stream, header, 3);
    HT_TRY(write_split(writer.stream, seen, request->seed, HT_SPLIT_TRAIN, request->train_prompts, err));
    HT_TRY(write_split(writer.stream, seen, request->seed, HT_SPLIT_TEST, request->test_prompts, err));
    HT_TRY(ht_file_commit(&writer, err));
done:
    ht_file_abandon(&writer);
    json_decref(seen);
    return status;
}

ht_status ht_corpus_write(const ht_corpus_request *request, ht_error *err) {
    char path[HT_PATH_MAX];
    ht_status status;
    HT_TRY(ht_folder_create(request->folder, err));
    HT_TRY(ht_path_join(path, request->folder, "pretrain.txt", err));
    HT_TRY(write_pretraining(request, path, err));
    HT_TRY(ht_path_join(path, request->folder, "demonstrations.csv", err));
    HT_TRY(write_demonstrations(request, path, err));
    HT_TRY(ht_path_join(path, request->folder, "prompts.csv", err));
    HT_TRY(write_prompts(request, path, err));
done:
    return status;
}
