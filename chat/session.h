/*
 * session.h: inside of halter-chat: a loaded model, and one answer of it.
 */
#ifndef HT_CHAT_SESSION_H
#define HT_CHAT_SESSION_H

#include "chat/chat.h"
#include "core/generate/policy.h"
#include "core/tokenizer/chat.h"

typedef struct ht_session {
    const ht_chat_config *config;   /* borrowed */
    const ht_chat_streams *streams; /* borrowed */
    ht_llama_config shape;
    ht_tokenizer *tokenizer; /* there before the weights are: prompts are checked first */
    ht_chat chat;
    ht_backend *be;
    ht_policy policy;
    uint64_t answers; /* begun so far: each has a random stream of its own */
} ht_session;

/* Reads the model's shape and tokenizer, not its weights. Zeroed on failure. */
ht_status ht_session_open(ht_session *session, const ht_chat_config *config, const ht_chat_streams *streams,
                          ht_error *err);
/* Loads the weights, with a cache of so many positions. */
ht_status ht_session_load(ht_session *session, int64_t sequences, int64_t cache_tokens, ht_error *err);
void ht_session_close(ht_session *session);

/* *ids (appended) = a prompt's ids. HT_ERR_DATA also when the model has no room for an answer to it. */
ht_status ht_session_encode(const ht_session *session, const ht_messages *messages, ht_ids *ids,
                            ht_error *err);

/* Positions that a prompt and its answer can take. */
int64_t ht_session_positions(const ht_session *session, int64_t prompt_tokens);

/* A request for the next answer, with the options' settings. Borrows ids. */
ht_request ht_session_request(ht_session *session, const int32_t *ids, int64_t count);

/* An answer, finished or stopped. */
typedef struct ht_answer {
    ht_ids ids;   /* EOS included */
    ht_text text; /* with --return-full-text the prompt's before it */
    int64_t prompt_tokens;
    ht_stop_reason finish;
    double seconds; /* from the prompt's ids to the last text written: prefill and streaming count */
} ht_answer;
void ht_answer_release(ht_answer *answer);

/*
 * Generates one answer. stream: its text is written there as it comes, in whole characters; NULL: not. When
 * asked to stop, *answer is what there is. Clears what *answer held.
 */
ht_status ht_session_answer(ht_session *session, const ht_ids *prompt, FILE *stream, ht_answer *answer,
                            ht_error *err);

/* The same, to the session's `out` as the options want it, and the report behind it. */
ht_status ht_session_reply(ht_session *session, const ht_ids *prompt, ht_answer *answer, ht_error *err);

/* How text of an answer begins: template llama2 puts a space before it that is none of the answer's; a
 * continuation of raw text keeps its own. */
ht_text_place ht_session_place(const ht_session *session);

/* "eos" or "length" */
const char *ht_finish_text(ht_stop_reason finish);

/*
 * Peak memory in MB (10^6 bytes). On the CPU the process's largest resident set, weights included, from its
 * start; on a device what was taken there.
 */
double ht_session_peak_mb(const ht_session *session);

/* Says tokens a second and memory on stderr; finish (may be NULL): what ended them. */
void ht_session_report(const ht_session *session, int64_t new_tokens, double seconds, const char *finish);

/* Writes a JSON object and a newline; takes the reference. HT_ERR_IO, HT_ERR_NOMEM (NULL). */
ht_status ht_session_write_json(const ht_session *session, json_t *object, ht_error *err);
/* HT_ERR_IO when a write to `out` has failed. */
ht_status ht_session_flush(const ht_session *session, ht_error *err);

/* Array of ids; a new reference. */
json_t *ht_ids_json(const int32_t *ids, int64_t count);

/* The three ways to run. */
ht_status ht_chat_once(ht_session *session, ht_error *err);
ht_status ht_chat_batch(ht_session *session, ht_error *err);
ht_status ht_chat_dialog(ht_session *session, ht_error *err);

#endif
