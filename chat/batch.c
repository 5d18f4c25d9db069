/*
 * A file of prompts, many answered at once. Everything is read and checked before the weights are loaded;
 * answers are written in the order of the lines.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "chat/session.h"
#include "core/base/json.h"
#include "core/base/lines.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"

/* Prompts given to the engine together, for each that it answers at once: what is lost when stopped, against
 * the time in which the last of them run alone. */
#define PROMPTS_A_PLACE 8

typedef struct lines {
    ht_ids ids;
    size_t *start;    /* [count + 1] into ids */
    json_t **objects; /* [count] */
    size_t count, start_capacity, object_capacity;
} lines;

static void lines_free(lines *l) {
    for (size_t i = 0; i < l->count; i++)
        json_decref(l->objects[i]);
    free(l->objects);
    free(l->start);
    ht_ids_release(&l->ids);
}

/* --- reading ----------------------------------------------------------------------------------------------
 */

/* The messages of a line's object, the system message of the options in front unless it has its own. */
static ht_status read_messages(const ht_session *session, const json_t *object, ht_messages *messages,
                               ht_error *err) {
    static const char *const ours[] = {"response", "tokens", "prompt_tokens", "new_tokens", "finish"};
    ht_status status = HT_OK;
    const char *system = session->config->system;
    const json_t *prompt = json_object_get(object, "prompt"), *array = json_object_get(object, "messages");
    if (!json_is_object(object)) return ht_fail(err, HT_ERR_DATA, "not a JSON object");
    if (!prompt == !array) return ht_fail(err, HT_ERR_DATA, "needs either \"prompt\" or \"messages\"");
    if (prompt && !json_is_string(prompt)) return ht_fail(err, HT_ERR_DATA, "\"prompt\" is not a string");
    for (size_t i = 0; session->config->json && i < sizeof ours / sizeof *ours; i++)
        if (json_object_get(object, ours[i]))
            return ht_fail(err, HT_ERR_DATA, "\"%s\" is the name of a key of the output", ours[i]);
    const char *first = array ? ht_json_string(json_array_get(array, 0), "role") : "user";
    if (system[0] && !(first && strcmp(first, "system") == 0))
        HT_TRY(ht_messages_append(messages, HT_ROLE_SYSTEM, system, err));
    if (prompt) {
        HT_TRY(ht_messages_append(messages, HT_ROLE_USER, json_string_value(prompt), err));
    } else {
        ht_messages own = {0};
        status = ht_messages_from_json(&own, array, err);
        for (size_t i = 0; status == HT_OK && i < own.count; i++)
            status = ht_messages_append(messages, own.items[i].role, own.items[i].content, err);
        ht_messages_release(&own);
    }
done:
    return status;
}

static ht_status read_line(const ht_session *session, const char *text, size_t size, lines *l,
                           ht_error *err) {
    ht_status status = HT_OK;
    json_error_t problem;
    ht_messages messages = {0};
    HT_TRY(ht_grow(&l->objects, &l->object_capacity, l->count + 1, sizeof *l->objects, err));
    HT_TRY(ht_grow(&l->start, &l->start_capacity, l->count + 2, sizeof *l->start, err));
    json_t *object;
    status = ht_json_parse(&object, text, size, &problem, err);
    if (status == HT_ERR_DATA) ht_fail(err, status, "column %d: %s", problem.column, problem.text);
    HT_TRY(status);
    l->objects[l->count++] = object;
    HT_TRY(read_messages(session, object, &messages, err));
    HT_TRY(ht_session_encode(session, &messages, &l->ids, err));
    l->start[l->count] = l->ids.count;
done:
    ht_messages_release(&messages);
    return status;
}

static ht_status read_lines(const ht_session *session, lines *l, ht_error *err) {
    ht_status status = HT_OK;
    const char *path = session->config->input, *line;
    size_t size;
    ht_json_lines file;
    HT_TRY(ht_json_lines_open(&file, path, err));
    for (;;) {
        HT_TRY(ht_json_lines_next(&file, &line, &size, err));
        if (!line) break;
        if (read_line(session, line, size, l, err) != HT_OK) HT_TRY(ht_json_lines_fail_in(&file, err));
    }
    if (l->count == 0) HT_TRY(ht_fail(err, HT_ERR_DATA, "%s: no prompts", path));
done:
    ht_json_lines_close(&file);
    return status;
}

static int descending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Positions for the `places` longest prompts with their answers at once. */
static ht_status cache_size(const ht_session *session, const lines *l, int64_t places, int64_t *size,
                            ht_error *err) {
    ht_status status = HT_OK;
    int64_t *positions = NULL;
    HT_TRY(ht_calloc(&positions, l->count, sizeof *positions, err));
    for (size_t i = 0; i < l->count; i++) /* whole blocks: 16 positions at most are lost */
        positions[i] = ht_session_positions(session, (int64_t)(l->start[i + 1] - l->start[i])) + 16;
    qsort(positions, l->count, sizeof *positions, descending);
    *size = 0;
    for (int64_t i = 0; i < places; i++)
        *size += positions[i];
done:
    free(positions);
    return status;
}

/* --- answering --------------------------------------------------------------------------------------------
 */

typedef struct run {
    ht_progress progress;
    const ht_completion *completions;
    const ht_request *requests;
    int64_t finished, new_tokens, cut;
    int64_t max_positions;
    int32_t eos_id;
    double started;
} run;

static ht_status count_token(void *context, int64_t index, int32_t token, ht_error *err) {
    (void)err;
    run *r = context;
    const ht_request *request = &r->requests[index];
    int64_t length = r->completions[index].length;
    r->new_tokens++;
    if ((token == r->eos_id && !request->ignore_eos) || length == request->max_new_tokens ||
        request->prompt_length + length == r->max_positions)
        r->finished++;
    char note[64];
    double seconds = ht_now() - r->started;
    snprintf(note, sizeof note, "%" PRId64 " tokens  %.1f tokens/s", r->new_tokens,
             seconds > 0 ? (double)r->new_tokens / seconds : 0.0);
    ht_progress_update(&r->progress, r->finished, note);
    return HT_OK;
}

static ht_status write_answer(ht_session *session, const lines *l, size_t line,
                              const ht_completion *completion, ht_error *err) {
    ht_status status = HT_OK;
    FILE *out = session->streams->out;
    const ht_chat_config *config = session->config;
    ht_text text = {0};
    ht_text_stream decoder;
    const int32_t *prompt = l->ids.data + l->start[line];
    size_t prompt_tokens = l->start[line + 1] - l->start[line];
    int whole = config->return_full_text;
    ht_text_stream_init(&decoder, session->tokenizer, whole ? HT_TEXT_BEGINS : ht_session_place(session));
    if (whole) HT_TRY(ht_text_stream_push(&decoder, prompt, prompt_tokens, &text, err));
    HT_TRY(ht_text_stream_push(&decoder, completion->tokens, (size_t)completion->length, &text, err));
    HT_TRY(ht_text_stream_finish(&decoder, &text, err));
    if (config->json) {
        json_t *answer = json_pack(
            "{s:s%, s:o, s:I, s:I, s:s}", "response", text.data ? text.data : "", text.size, "tokens",
            ht_ids_json(completion->tokens, completion->length), "prompt_tokens", (json_int_t)prompt_tokens,
            "new_tokens", (json_int_t)completion->length, "finish", ht_finish_text(completion->finish));
        json_t *object = json_copy(l->objects[line]); /* what came with the prompt comes with its answer */
        if (!answer || !object || json_object_update(object, answer)) {
            json_decref(object);
            object = NULL;
        }
        json_decref(answer);
        HT_TRY(ht_session_write_json(session, object, err));
    } else {
        if (line > 0) fputs("---\n", out);
        fwrite(text.data ? text.data : "", 1, text.size, out);
        fputc('\n', out);
        HT_TRY(ht_session_flush(session, err));
    }
done:
    ht_text_release(&text);
    return status;
}

static ht_status answer_all(ht_session *session, const lines *l, int64_t places, ht_error *err) {
    ht_status status = HT_OK;
    int64_t count = (int64_t)l->count, most = places * PROMPTS_A_PLACE, written = 0;
    ht_request *requests = NULL;
    ht_completion *completions = NULL;
    HT_TRY(ht_calloc(&requests, (size_t)most, sizeof *requests, err));
    HT_TRY(ht_calloc(&completions, (size_t)most, sizeof *completions, err));
    run r = {.completions = completions,
             .requests = requests,
             .max_positions = session->shape.max_positions,
             .eos_id = session->shape.eos_id,
             .started = ht_now()};
    ht_progress_start(&r.progress, "answers", count);
    while (written < count) {
        int64_t now = count - written < most ? count - written : most;
        for (int64_t i = 0; i < now; i++) {
            size_t first = l->start[written + i], end = l->start[written + i + 1];
            requests[i] = ht_session_request(session, l->ids.data + first, (int64_t)(end - first));
        }
        status = ht_generate(session->policy.engine, requests, now, completions, count_token, &r, err);
        for (int64_t i = 0; status == HT_OK && i < now; i++) {
            status = write_answer(session, l, (size_t)(written + i), &completions[i], err);
            r.cut += completions[i].finish == HT_STOP_LENGTH;
        }
        ht_completions_free(completions, now);
        if (status != HT_OK) {
            ht_fail_in(err, "after %" PRId64 " of %" PRId64 " answers", written, count);
            goto done;
        }
        written += now;
    }
    ht_progress_finish(&r.progress, count, "");
    ht_session_report(session, r.new_tokens, ht_now() - r.started, NULL);
    if (r.cut > 0) ht_info("%" PRId64 " of %" PRId64 " answers were cut at their length", r.cut, count);
done:
    free(requests);
    free(completions);
    return status;
}

ht_status ht_chat_batch(ht_session *session, ht_error *err) {
    ht_status status = HT_OK;
    lines l = {0};
    int64_t cache = 0;
    HT_TRY(read_lines(session, &l, err));
    int64_t places = session->config->batch < (int64_t)l.count ? session->config->batch : (int64_t)l.count;
    HT_TRY(cache_size(session, &l, places, &cache, err));
    HT_TRY(ht_session_load(session, places, cache, err));
    HT_TRY(answer_all(session, &l, places, err));
done:
    lines_free(&l);
    return status;
}
