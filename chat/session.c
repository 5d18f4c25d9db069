#include "chat/session.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#include "core/backend/profile.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/checkpoint/model_folder.h"

/* --- life -------------------------------------------------------------------------------------------------
 */

ht_status ht_session_open(ht_session *session, const ht_chat_config *config, const ht_chat_streams *streams,
                          ht_error *err) {
    ht_status status = HT_OK;
    memset(session, 0, sizeof *session);
    session->config = config;
    session->streams = streams;
    HT_TRY(ht_model_folder_config_of(config->model, HT_HEAD_LM, &session->shape, err));
    HT_TRY(ht_model_folder_open_tokenizer(config->model, &session->shape, &session->tokenizer, err));
    session->chat = (ht_chat){session->tokenizer, (ht_template)config->which};
done:
    if (status != HT_OK) ht_session_close(session);
    return status;
}

ht_status ht_session_load(ht_session *session, int64_t sequences, int64_t cache_tokens, ht_error *err) {
    ht_status status = HT_OK;
    const ht_chat_config *config = session->config;
    ht_engine_limits limits = {.max_sequences = sequences, .cache_tokens = cache_tokens, .keep_cache = 1};
    HT_TRY(ht_backend_open(&session->be, (ht_backend_kind)config->backend, (int)config->threads, err));
    HT_TRY(ht_backend_choose_dtype(session->be, (ht_dtype_choice)config->dtype, err));
    if (config->profile) HT_TRY(ht_profile_start(session->be, err));
    HT_TRY(ht_policy_open(&session->policy, session->be, config->model, ht_backend_dtype(session->be), &limits, err));
done:
    return status;
}

void ht_session_close(ht_session *session) {
    ht_policy_free(&session->policy);
    ht_backend_close(session->be);
    ht_tokenizer_free(session->tokenizer);
    memset(session, 0, sizeof *session);
}

/* --- prompts ----------------------------------------------------------------------------------------------
 */

ht_status ht_session_encode(const ht_session *session, const ht_messages *messages, ht_ids *ids,
                            ht_error *err) {
    ht_status status = HT_OK;
    size_t before = ids->count;
    HT_TRY(ht_chat_encode_prompt(&session->chat, (ht_prompt){messages->items, messages->count}, ids, err));
    int64_t length = (int64_t)(ids->count - before);
    if (length >= session->shape.max_positions) {
        ids->count = before;
        return ht_fail(err, HT_ERR_DATA,
                       "a prompt of %" PRId64 " tokens leaves no room for an answer: the model takes %" PRId64
                       " positions",
                       length, session->shape.max_positions);
    }
done:
    return status;
}

int64_t ht_session_positions(const ht_session *session, int64_t prompt_tokens) {
    int64_t wanted = prompt_tokens + session->config->max_new_tokens;
    return wanted < session->shape.max_positions ? wanted : session->shape.max_positions;
}

ht_request ht_session_request(ht_session *session, const int32_t *ids, int64_t count) {
    const ht_chat_config *config = session->config;
    return (ht_request){.prompt = ids,
                        .prompt_length = count,
                        .max_new_tokens = config->max_new_tokens,
                        .temperature = config->sample ? (float)config->temperature : 0,
                        .top_p = (float)config->top_p,
                        .top_k = (int32_t)config->top_k,
                        .seed = (uint64_t)config->seed,
                        .stream = ht_rng_stream(HT_RNG_SAMPLE, session->answers++, 0),
                        .ignore_eos = config->ignore_eos,
                        .lookup_tokens = (int32_t)config->prompt_lookup};
}

/* --- an answer --------------------------------------------------------------------------------------------
 */

void ht_answer_release(ht_answer *answer) {
    ht_ids_release(&answer->ids);
    ht_text_release(&answer->text);
}

ht_text_place ht_session_place(const ht_session *session) {
    return session->config->which == HT_TEMPLATE_NONE ? HT_TEXT_CONTINUES : HT_TEXT_BEGINS;
}

const char *ht_finish_text(ht_stop_reason finish) {
    return finish == HT_STOP_EOS ? "eos" : "length";
}

typedef struct listener {
    ht_text_stream decoder;
    ht_answer *answer;
    FILE *stream;
} listener;

/* Writes what the text has gained since it had `before` bytes. */
static ht_status pass_on(const listener *l, size_t before, ht_error *err) {
    const ht_text *text = &l->answer->text;
    if (!l->stream || text->size == before) return HT_OK;
    if (fwrite(text->data + before, 1, text->size - before, l->stream) != text->size - before ||
        fflush(l->stream))
        return ht_fail(err, HT_ERR_IO, "cannot write the answer: %s", strerror(errno));
    return HT_OK;
}

static ht_status hear_ids(listener *l, const int32_t *ids, size_t count, ht_error *err) {
    ht_status status = HT_OK;
    size_t before = l->answer->text.size;
    HT_TRY(ht_text_stream_push(&l->decoder, ids, count, &l->answer->text, err));
    HT_TRY(pass_on(l, before, err));
done:
    return status;
}

static ht_status hear(void *context, int64_t request, int32_t token, ht_error *err) {
    (void)request;
    ht_status status = HT_OK;
    listener *l = context;
    HT_TRY(ht_ids_append(&l->answer->ids, &token, 1, err));
    HT_TRY(hear_ids(l, &token, 1, err));
done:
    return status;
}

ht_status ht_session_answer(ht_session *session, const ht_ids *prompt, FILE *stream, ht_answer *answer,
                            ht_error *err) {
    ht_status status = HT_OK;
    double started = ht_now();
    ht_completion completion = {0};
    listener l = {.answer = answer, .stream = stream};
    ht_request request = ht_session_request(session, prompt->data, (int64_t)prompt->count);
    int whole = session->config->return_full_text;
    answer->ids.count = 0;
    ht_text_clear(&answer->text);
    answer->prompt_tokens = (int64_t)prompt->count;
    answer->finish = HT_STOP_LENGTH;
    ht_text_stream_init(&l.decoder, session->tokenizer, whole ? HT_TEXT_BEGINS : ht_session_place(session));
    if (whole) HT_TRY(hear_ids(&l, prompt->data, prompt->count, err));
    status = ht_generate(session->policy.engine, &request, 1, &completion, hear, &l, err);
    if (status != HT_OK && !ht_status_is_stop(status)) goto done;
    if (status == HT_OK) answer->finish = completion.finish;
    size_t before = answer->text.size;
    ht_status ended = ht_text_stream_finish(&l.decoder, &answer->text, err);
    if (ended == HT_OK) ended = pass_on(&l, before, err);
    if (ended != HT_OK) status = ended;
    answer->seconds = ht_now() - started;
done:
    ht_completions_free(&completion, 1);
    return status;
}

/* --- reports ----------------------------------------------------------------------------------------------
 */

static int is_cpu(const ht_session *session) {
    return strcmp(ht_backend_name(session->be), "cpu") == 0;
}

double ht_session_peak_mb(const ht_session *session) {
    struct rusage usage;
    if (!is_cpu(session)) return (double)ht_arena_total(&session->policy.arena) * 1e-6;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss * 1024e-6; /* Linux counts in KiB */
}

void ht_session_report(const ht_session *session, int64_t new_tokens, double seconds, const char *finish) {
    char ended[32] = "", lookup[96] = "";
    ht_engine_stats stats = ht_engine_statistics(session->policy.engine);
    if (finish) snprintf(ended, sizeof ended, ", ended by %s,", finish);
    if (stats.proposed > 0)
        snprintf(lookup, sizeof lookup, "; %" PRId64 " of %" PRId64 " proposed tokens accepted so far",
                 stats.accepted, stats.proposed);
    ht_info("%" PRId64 " tokens%s in %.2f s: %.2f tokens/s; peak memory %.1f MB (%s)%s", new_tokens, ended,
            seconds, seconds > 0 ? (double)new_tokens / seconds : 0.0, ht_session_peak_mb(session),
            is_cpu(session) ? "resident set" : "taken on the device", lookup);
}

ht_status ht_session_flush(const ht_session *session, ht_error *err) {
    if (fflush(session->streams->out) || ferror(session->streams->out))
        return ht_fail(err, HT_ERR_IO, "cannot write the answer: %s", strerror(errno));
    return HT_OK;
}

ht_status ht_session_write_json(const ht_session *session, json_t *object, ht_error *err) {
    ht_status status = ht_json_print(object, JSON_COMPACT | JSON_REAL_PRECISION(9), session->streams->out, err);
    json_decref(object);
    return status == HT_OK ? ht_session_flush(session, err) : status;
}

json_t *ht_ids_json(const int32_t *ids, int64_t count) {
    json_t *array = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}
