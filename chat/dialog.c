/*
 * A dialogue: a message a line, an answer to each, in the light of all before it. The cache is kept between
 * answers, so that each computes only what is new.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chat/session.h"
#include "core/base/lines.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/signals.h"

/* --- lines ------------------------------------------------------------------------------------------------
 */

/* Not stdio: a line must be waited for so that a signal is seen. */
typedef struct reader {
    int fd, at_end;
    char *data;
    size_t start, size, capacity;
} reader;

static ht_status fill(reader *r, ht_error *err) {
    ht_status status = HT_OK;
    struct pollfd waiting = {.fd = r->fd, .events = POLLIN};
    for (;;) {
        ht_status stop = ht_stop_requested();
        if (stop != HT_OK) return ht_fail(err, stop, "stopped");
        /* The time limit: a signal between the look above and the wait is seen then. */
        int ready = poll(&waiting, 1, 1000);
        if (ready > 0) break;
        if (ready < 0 && errno != EINTR)
            return ht_fail(err, HT_ERR_IO, "cannot wait for a message: %s", strerror(errno));
    }
    HT_TRY(ht_grow(&r->data, &r->capacity, r->size + 4096, 1, err));
    ssize_t got = read(r->fd, r->data + r->size, r->capacity - r->size - 1);
    if (got < 0 && errno != EINTR)
        return ht_fail(err, HT_ERR_IO, "cannot read a message: %s", strerror(errno));
    if (got == 0) r->at_end = 1;
    if (got > 0) r->size += (size_t)got;
done:
    return status;
}

/* *line = the next line without its end, valid until the next call; NULL when there is none. */
static ht_status next_line(reader *r, char **line, ht_error *err) {
    ht_status status = HT_OK;
    size_t seen = r->start;
    char *end = NULL;
    *line = NULL;
    for (;;) {
        if (r->size > seen) end = memchr(r->data + seen, '\n', r->size - seen);
        if (end || r->at_end) break;
        seen = r->size - r->start;
        if (seen > HT_LINE_BYTES_MAX)
            HT_TRY(ht_fail(err, HT_ERR_DATA, "a message of more than %zu bytes", HT_LINE_BYTES_MAX));
        if (r->start) memmove(r->data, r->data + r->start, seen);
        r->size = seen;
        r->start = 0;
        HT_TRY(fill(r, err));
    }
    if (!end && r->size == r->start) goto done;
    if (!end) end = r->data + r->size; /* the last line needs no newline; fill left a byte for the NUL */
    *line = r->data + r->start;
    r->start = (size_t)(end - r->data) + (end < r->data + r->size);
    if (memchr(*line, '\0', (size_t)(end - *line))) HT_TRY(ht_fail(err, HT_ERR_DATA, "it holds a NUL byte"));
    if (end > *line && end[-1] == '\r') end--;
    *end = '\0';
done:
    return status;
}

/* --- the dialogue -----------------------------------------------------------------------------------------
 */

typedef struct dialog {
    ht_session *session;
    ht_messages messages;
    char *system; /* NULL: none */
    ht_ids ids;
    ht_answer answer;
} dialog;

static ht_status begin(dialog *d, ht_error *err) {
    ht_messages_release(&d->messages);
    return d->system ? ht_messages_append(&d->messages, HT_ROLE_SYSTEM, d->system, err) : HT_OK;
}

/* Takes the last message off. */
static void unsay(dialog *d) {
    free((void *)d->messages.items[--d->messages.count].content);
}

static ht_status set_system(dialog *d, const char *text, ht_error *err) {
    ht_status status = HT_OK;
    if (text[0] && d->session->config->which == HT_TEMPLATE_NONE)
        HT_TRY(ht_fail(err, HT_ERR_DATA, "template none has no system message"));
    free(d->system);
    d->system = NULL;
    if (text[0]) HT_TRY(ht_strdup(&d->system, text, err));
    HT_TRY(begin(d, err));
    ht_info("%s", text[0] ? "a new dialogue, with this system message"
                          : "a new dialogue, without a system message");
done:
    return status;
}

static ht_status say(dialog *d, const char *text, ht_error *err) {
    ht_status status = HT_OK;
    d->ids.count = 0;
    HT_TRY(ht_messages_append(&d->messages, HT_ROLE_USER, text, err));
    status = ht_session_encode(d->session, &d->messages, &d->ids, err);
    if (status != HT_OK) {
        unsay(d);
        goto done;
    }
    status = ht_session_reply(d->session, &d->ids, &d->answer, err);
    if (status == HT_INTERRUPTED) { /* what there is of the answer stands */
        ht_stop_forget();
        *err = (ht_error)HT_ERROR_INIT;
        status = HT_OK;
    }
    if (status == HT_OK)
        status = ht_messages_append(&d->messages, HT_ROLE_ASSISTANT,
                                    d->answer.text.data ? d->answer.text.data : "", err);
done:
    return status;
}

/* One line: a command or a message. *over: the dialogue is to end. */
static ht_status take_line(dialog *d, const char *line, int *over, ht_error *err) {
    ht_status status = HT_OK;
    size_t system = strlen("/system");
    if (strspn(line, " \t") == strlen(line)) return HT_OK;
    if (strcmp(line, "/quit") == 0) {
        *over = 1;
    } else if (strcmp(line, "/reset") == 0) {
        HT_TRY(begin(d, err));
        ht_info("a new dialogue");
    } else if (strncmp(line, "/system", system) == 0 && (line[system] == ' ' || !line[system])) {
        HT_TRY(set_system(d, line + system + strspn(line + system, " "), err));
    } else {
        HT_TRY(say(d, line, err));
    }
done:
    return status;
}

ht_status ht_chat_dialog(ht_session *session, ht_error *err) {
    ht_status status = HT_OK;
    int by_hand = session->streams->in_terminal, over = 0;
    int64_t number = 0;
    dialog d = {.session = session};
    reader lines = {.fd = session->streams->in};
    if (session->config->system[0]) HT_TRY(ht_strdup(&d.system, session->config->system, err));
    HT_TRY(begin(&d, err));
    HT_TRY(ht_session_load(session, 1, session->shape.max_positions, err));
    if (by_hand)
        ht_info("/reset begins a new dialogue, /system TEXT one with a system message, /quit or Ctrl-D ends");
    while (!over) {
        char *line = NULL;
        if (by_hand) fputs("> ", stderr);
        status = next_line(&lines, &line, err);
        if (status == HT_OK && !line) break;
        number++;
        if (status == HT_OK) status = take_line(&d, line, &over, err);
        if (status == HT_ERR_DATA && by_hand) { /* a person can say it otherwise */
            ht_warn("%s", err->message);
            *err = (ht_error)HT_ERROR_INIT;
            status = HT_OK;
        }
        if (status == HT_ERR_DATA) ht_fail_in(err, "message %" PRId64, number);
        if (status != HT_OK) goto done;
    }
    if (by_hand && !over) fputc('\n', stderr);
done:
    free(lines.data);
    free(d.system);
    ht_messages_release(&d.messages);
    ht_ids_release(&d.ids);
    ht_answer_release(&d.answer);
    return status;
}
