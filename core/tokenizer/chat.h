/*
 * chat.h: dialogues as token ids.
 *
 * Template llama2 is the chat format of Meta's released code, byte for byte and id for id:
 *   - a leading system message is merged into the message behind it, which keeps its own role:
 *     "<<SYS>>\n" system "\n<</SYS>>\n\n" user;
 *   - a finished turn is BOS, the ids of "[INST] " user.strip() " [/INST] " answer.strip() " " encoded as
 *     one string, EOS: mind the space before EOS, and that BOS stands in front of every turn;
 *   - the last user turn of a prompt is BOS and the ids of "[INST] " user.strip() " [/INST]", without a space
 *     behind;
 *   - strip() is Python's and acts on the merged text: the inner edges of the system text stay.
 * There is no default system message. A turn is encoded as one string, yet generation starts from the ids of
 * its prompt alone: that those are a prefix of the turn's ids is checked for every turn, so training sees
 * exactly what generation produces.
 *
 * Template none is for plain text: a prompt is BOS and the ids of all contents joined, nothing between them,
 * nothing stripped; a dialogue is BOS, the ids of prompt and answer encoded as one string (with the same
 * check), EOS. Roles mean nothing to it and tags are text; it needs one message at least.
 *
 * Source: METHOD.md section 10. All functions may run on many threads at once.
 */
#ifndef HT_TOKENIZER_CHAT_H
#define HT_TOKENIZER_CHAT_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "core/base/error.h"
#include "core/tokenizer/tokenizer.h"

#define HT_ROLE_MAP(X)                                                                                       \
    X(SYSTEM, "system")                                                                                      \
    X(USER, "user")                                                                                          \
    X(ASSISTANT, "assistant")

typedef enum ht_role {
#define HT_ROLE_ENUM(name, text) HT_ROLE_##name,
    HT_ROLE_MAP(HT_ROLE_ENUM)
#undef HT_ROLE_ENUM
} ht_role;

#define HT_TEMPLATE_MAP(X)                                                                                   \
    X(LLAMA2, "llama2")                                                                                      \
    X(NONE, "none")

typedef enum ht_template {
#define HT_TEMPLATE_ENUM(name, text) HT_TEMPLATE_##name,
    HT_TEMPLATE_MAP(HT_TEMPLATE_ENUM)
#undef HT_TEMPLATE_ENUM
} ht_template;

const char *ht_role_text(ht_role role);
const char *ht_template_text(ht_template which);

/* HT_ERR_USAGE for a name that is none of the table; the message lists them. */
ht_status ht_template_parse(ht_template *out, const char *name, ht_error *err);

typedef struct ht_message {
    ht_role role;
    const char *content; /* UTF-8, NUL-terminated */
} ht_message;

/* ---- lists of messages and their JSON ---- */

/* A list that owns its contents; {0} is empty. */
typedef struct ht_messages {
    ht_message *items;
    size_t count, capacity;
} ht_messages;

void ht_messages_release(ht_messages *messages);
/* Appends a message with a copy of content. */
ht_status ht_messages_append(ht_messages *messages, ht_role role, const char *content, ht_error *err);

/*
 * *out = the messages of a JSON array of {"role": "system"|"user"|"assistant", "content": text}; release
 * them. HT_ERR_DATA names the place: malformed JSON, a key missing, of another type, unknown or doubled, an
 * unknown role. Their order is not looked at: see ht_chat_check.
 */
ht_status ht_messages_parse(ht_messages *out, const char *json, ht_error *err);
ht_status ht_messages_from_json(ht_messages *out, const json_t *array, ht_error *err);

/* *out = the JSON array, compact, keys role and content, UTF-8 as it is; released with free(). */
ht_status ht_messages_print(char **out, const ht_message *messages, size_t count, ht_error *err);

/* ---- encoding ---- */

/* What a reply is asked for: borrowed messages, in order; for template llama2 the last is from the user. */
typedef struct ht_prompt {
    const ht_message *messages;
    size_t count;
} ht_prompt;

/* How ids are made; both are borrowed and shared by threads. */
typedef struct ht_chat {
    const ht_tokenizer *tokenizer;
    ht_template which;
} ht_chat;

/*
 * HT_OK when a prompt fits the template. HT_ERR_DATA, naming the message by its index from 0, for no messages
 * and for a content that is not UTF-8, and with template llama2 also for
 *   - a system message alone;
 *   - after merging the system message, roles that do not alternate user, assistant, user ...;
 *   - a last message that is not from the user;
 *   - a content, of any role, that holds [INST], [/INST], <<SYS>> or <</SYS>>.
 */
ht_status ht_chat_check(ht_template which, ht_prompt prompt, ht_error *err);

/* Appends the ids of a prompt to `ids`. Errors: as ht_chat_check and ht_tokenizer_encode; ids keeps what it
 * had. */
ht_status ht_chat_encode_prompt(const ht_chat *chat, ht_prompt prompt, ht_ids *ids, ht_error *err);

/* An answer that ended, or one that was cut at a length: that gets no EOS and no space behind it, and of its
 * edges only the left one is stripped. */
typedef enum ht_answer_end { HT_ANSWER_FINISHED, HT_ANSWER_CUT } ht_answer_end;

/* Ids [start, end) of an answer, its EOS included. */
typedef struct ht_chat_span {
    int64_t start, end;
} ht_chat_span;

/* A whole dialogue: ids, and a span for each assistant turn in order (template none: one). {0} is empty. */
typedef struct ht_chat_ids {
    ht_ids ids;
    ht_chat_span *spans;
    size_t span_count, span_capacity;
} ht_chat_ids;

void ht_chat_ids_release(ht_chat_ids *out);

/*
 * *out (what it held is dropped, its memory used again; empty on failure) = a prompt and the answer to it.
 * For a list of messages that ends with the assistant's: the prompt is all but the last, the answer is the
 * last.
 *
 * Errors: as ht_chat_encode_prompt; the answer holds a tag; HT_ERR_DATA naming the turn (from 0) when the ids
 * of its prompt are not a prefix of its ids.
 */
ht_status ht_chat_encode_dialog(const ht_chat *chat, ht_prompt prompt, const char *answer, ht_answer_end end,
                                ht_chat_ids *out, ht_error *err);

/*
 * *out (as above) = a prompt followed by the response ids as they were sampled: nothing is decoded, encoded
 * or added, so EOS is there when the response has it.
 *
 * Errors: as ht_chat_encode_prompt; HT_ERR_DATA when there are no ids, one is outside [0, size), or EOS comes
 * before the last.
 */
ht_status ht_chat_encode_response(const ht_chat *chat, ht_prompt prompt, const int32_t *response,
                                  size_t count, ht_chat_ids *out, ht_error *err);

#endif
