#include "core/tokenizer/chat.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

static const char *const tags[] = {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"};

/* Memory of one call, used again from turn to turn. */
typedef struct scratch {
    ht_text text;
    ht_text merged;
    ht_ids prompt;
} scratch;

static void scratch_release(scratch *s) {
    ht_text_release(&s->text);
    ht_text_release(&s->merged);
    ht_ids_release(&s->prompt);
}

void ht_chat_ids_release(ht_chat_ids *out) {
    ht_ids_release(&out->ids);
    free(out->spans);
    *out = (ht_chat_ids){0};
}

static const char *tag_in(const char *content) {
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (strstr(content, tags[i])) return tags[i];
    return NULL;
}

/* `where` names the content in messages. */
static ht_status check_content(ht_template which, const char *content, const char *where, ht_error *err) {
    size_t size = strlen(content), valid = ht_utf8_valid(content, size);
    const char *tag = which == HT_TEMPLATE_LLAMA2 ? tag_in(content) : NULL;
    if (valid != size)
        return ht_fail(err, HT_ERR_DATA, "%s is not UTF-8 at byte %zu of %zu", where, valid, size);
    if (tag)
        return ht_fail(err, HT_ERR_DATA, "%s holds the special tag %s, which is not allowed", where, tag);
    return HT_OK;
}

static ht_status check_contents(ht_template which, ht_prompt prompt, ht_error *err) {
    for (size_t i = 0; i < prompt.count; i++) {
        char where[64];
        snprintf(where, sizeof where, "messages[%zu] (%s)", i, ht_role_text(prompt.messages[i].role));
        ht_status status = check_content(which, prompt.messages[i].content, where, err);
        if (status != HT_OK) return status;
    }
    return HT_OK;
}

/* 1 when a system message comes first: it is merged into the next. */
static size_t system_count(ht_prompt prompt) {
    return prompt.count > 0 && prompt.messages[0].role == HT_ROLE_SYSTEM;
}

ht_status ht_chat_check(ht_template which, ht_prompt prompt, ht_error *err) {
    if (prompt.count == 0) return ht_fail(err, HT_ERR_DATA, "messages is empty: a prompt needs one at least");
    if (which == HT_TEMPLATE_NONE) return check_contents(which, prompt, err);
    size_t first = system_count(prompt);
    if (prompt.count == first)
        return ht_fail(err, HT_ERR_DATA,
                       "messages holds a system message only: one from the user must follow");
    for (size_t i = first; i < prompt.count; i++) {
        ht_role wanted = (i - first) % 2 == 0 ? HT_ROLE_USER : HT_ROLE_ASSISTANT;
        ht_role role = prompt.messages[i].role;
        if (role != wanted)
            return ht_fail(
                err, HT_ERR_DATA,
                "messages[%zu].role = \"%s\" where \"%s\" is due: behind an optional system message, "
                "user and assistant alternate",
                i, ht_role_text(role), ht_role_text(wanted));
    }
    if ((prompt.count - first) % 2 == 0)
        return ht_fail(err, HT_ERR_DATA,
                       "messages[%zu].role = \"assistant\": the last message of a prompt is the user's",
                       prompt.count - 1);
    return check_contents(which, prompt, err);
}

static ht_status add_text(ht_text *text, const char *string, ht_error *err) {
    return ht_text_append(text, string, strlen(string), err);
}

static ht_status add_stripped(ht_text *text, const char *string, ht_strip edges, ht_error *err) {
    size_t size = strlen(string);
    ht_text_strip(&string, &size, edges);
    return ht_text_append(text, string, size, err);
}

static ht_status add_id(ht_ids *ids, int32_t id, ht_error *err) {
    return ht_ids_append(ids, &id, 1, err);
}

/* s->text = "[INST] user [/INST]" of message `index`, the system message merged in. */
static ht_status write_instruction(ht_prompt prompt, size_t index, scratch *s, ht_error *err) {
    ht_status status;
    const char *user = prompt.messages[index].content;
    if (index == 1 && system_count(prompt)) {
        ht_text_clear(&s->merged);
        HT_TRY(add_text(&s->merged, "<<SYS>>\n", err));
        HT_TRY(add_text(&s->merged, prompt.messages[0].content, err));
        HT_TRY(add_text(&s->merged, "\n<</SYS>>\n\n", err));
        HT_TRY(add_text(&s->merged, user, err));
        user = s->merged.data;
    }
    ht_text_clear(&s->text);
    HT_TRY(add_text(&s->text, "[INST] ", err));
    HT_TRY(add_stripped(&s->text, user, HT_STRIP_BOTH, err));
    HT_TRY(add_text(&s->text, " [/INST]", err));
done:
    return status;
}

/* s->text = all contents. */
static ht_status write_plain(ht_prompt prompt, scratch *s, ht_error *err) {
    ht_text_clear(&s->text);
    ht_status status = HT_OK;
    for (size_t i = 0; i < prompt.count && status == HT_OK; i++)
        status = add_text(&s->text, prompt.messages[i].content, err);
    return status;
}

/* s->text, which holds the turn's prompt, becomes the whole turn. */
static ht_status write_answer(ht_template which, const char *answer, ht_answer_end end, scratch *s,
                              ht_error *err) {
    ht_status status;
    if (which == HT_TEMPLATE_NONE) return add_text(&s->text, answer, err);
    HT_TRY(add_text(&s->text, " ", err));
    HT_TRY(add_stripped(&s->text, answer, end == HT_ANSWER_FINISHED ? HT_STRIP_BOTH : HT_STRIP_LEFT, err));
    if (end == HT_ANSWER_FINISHED) HT_TRY(add_text(&s->text, " ", err));
done:
    return status;
}

/* Appends BOS and the ids of s->text. */
static ht_status encode_open(const ht_chat *chat, const scratch *s, ht_ids *ids, ht_error *err) {
    ht_status status;
    HT_TRY(add_id(ids, ht_tokenizer_bos(chat->tokenizer), err));
    HT_TRY(ht_tokenizer_encode(chat->tokenizer, s->text.data, s->text.size, ids, err));
done:
    return status;
}

static ht_status add_span(ht_chat_ids *out, size_t start, ht_error *err) {
    ht_status status =
        ht_grow(&out->spans, &out->span_capacity, out->span_count + 1, sizeof *out->spans, err);
    if (status != HT_OK) return status;
    out->spans[out->span_count++] = (ht_chat_span){(int64_t)start, (int64_t)out->ids.count};
    return HT_OK;
}

/* Appends one turn, whose prompt is in s->text, and the span of its answer. */
static ht_status encode_turn(const ht_chat *chat, const char *answer, ht_answer_end end, scratch *s,
                             ht_chat_ids *out, ht_error *err) {
    ht_status status;
    ht_ids *ids = &out->ids;
    size_t begin = ids->count;
    s->prompt.count = 0;
    HT_TRY(encode_open(chat, s, &s->prompt, err));
    HT_TRY(write_answer(chat->which, answer, end, s, err));
    HT_TRY(encode_open(chat, s, ids, err));
    for (size_t i = 0; i < s->prompt.count; i++) {
        if (begin + i < ids->count && ids->data[begin + i] == s->prompt.data[i]) continue;
        return ht_fail(
            err, HT_ERR_DATA,
            "turn %zu: the ids of its prompt are not a prefix of the ids of prompt and answer (they part at "
            "id %zu of %zu), so a model would not be trained on what it generates",
            out->span_count, i, s->prompt.count);
    }
    if (end == HT_ANSWER_FINISHED) HT_TRY(add_id(ids, ht_tokenizer_eos(chat->tokenizer), err));
    HT_TRY(add_span(out, begin + s->prompt.count, err));
done:
    return status;
}

/* Appends every finished turn of a checked llama2 prompt to `out`, and leaves the last user turn in s->text;
 * for template none, the whole prompt. */
static ht_status encode_history(const ht_chat *chat, ht_prompt prompt, scratch *s, ht_chat_ids *out,
                                ht_error *err) {
    ht_status status = HT_OK;
    if (chat->which == HT_TEMPLATE_NONE) return write_plain(prompt, s, err);
    size_t i = system_count(prompt);
    for (; i + 1 < prompt.count; i += 2) {
        HT_TRY(write_instruction(prompt, i, s, err));
        HT_TRY(encode_turn(chat, prompt.messages[i + 1].content, HT_ANSWER_FINISHED, s, out, err));
    }
    HT_TRY(write_instruction(prompt, i, s, err));
done:
    return status;
}

ht_status ht_chat_encode_prompt(const ht_chat *chat, ht_prompt prompt, ht_ids *ids, ht_error *err) {
    ht_status status;
    scratch s = {0};
    ht_chat_ids out = {0};
    HT_TRY(ht_chat_check(chat->which, prompt, err));
    HT_TRY(encode_history(chat, prompt, &s, &out, err));
    HT_TRY(encode_open(chat, &s, &out.ids, err));
    HT_TRY(ht_ids_append(ids, out.ids.data, out.ids.count, err));
done:
    ht_chat_ids_release(&out);
    scratch_release(&s);
    return status;
}

static void clear(ht_chat_ids *out) {
    out->ids.count = 0;
    out->span_count = 0;
}

ht_status ht_chat_encode_dialog(const ht_chat *chat, ht_prompt prompt, const char *answer, ht_answer_end end,
                                ht_chat_ids *out, ht_error *err) {
    ht_status status;
    scratch s = {0};
    clear(out);
    HT_TRY(ht_chat_check(chat->which, prompt, err));
    HT_TRY(check_content(chat->which, answer, "the answer", err));
    HT_TRY(encode_history(chat, prompt, &s, out, err));
    HT_TRY(encode_turn(chat, answer, end, &s, out, err));
done:
    if (status != HT_OK) clear(out);
    scratch_release(&s);
    return status;
}

static ht_status check_response(const ht_tokenizer *tokenizer, const int32_t *response, size_t count,
                                ht_error *err) {
    if (count == 0) return ht_fail(err, HT_ERR_DATA, "the response has no ids");
    for (size_t i = 0; i < count; i++) {
        if (response[i] < 0 || response[i] >= ht_tokenizer_size(tokenizer))
            return ht_fail(err, HT_ERR_DATA, "response id %zu is %" PRId32 ", outside [0, %" PRId32 ")", i,
                           response[i], ht_tokenizer_size(tokenizer));
        if (response[i] == ht_tokenizer_eos(tokenizer) && i + 1 < count)
            return ht_fail(err, HT_ERR_DATA, "response id %zu of %zu is EOS: it may only be the last", i,
                           count);
    }
    return HT_OK;
}

ht_status ht_chat_encode_response(const ht_chat *chat, ht_prompt prompt, const int32_t *response,
                                  size_t count, ht_chat_ids *out, ht_error *err) {
    ht_status status;
    scratch s = {0};
    clear(out);
    HT_TRY(ht_chat_check(chat->which, prompt, err));
    HT_TRY(check_response(chat->tokenizer, response, count, err));
    HT_TRY(encode_history(chat, prompt, &s, out, err));
    HT_TRY(encode_open(chat, &s, &out->ids, err));
    size_t start = out->ids.count;
    HT_TRY(ht_ids_append(&out->ids, response, count, err));
    HT_TRY(add_span(out, start, err));
done:
    if (status != HT_OK) clear(out);
    scratch_release(&s);
    return status;
}
