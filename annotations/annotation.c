/*
 * annotation.c: from the texts of a row to rows of the store.
 *
 * A row is judged whole before anything is written: so a refused one leaves nothing behind, without a
 * savepoint a row.
 */
#include "annotations/annotation.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "core/base/json.h"
#include "core/tokenizer/chat.h"
#include "core/tokenizer/text.h"

#define COLUMN_TEXT(name, text) text,
static const char *const column_names[] = {HT_COLUMN_MAP(COLUMN_TEXT)};
#define REASON_TEXT(name, text) text,
static const char *const reason_names[] = {HT_REASON_MAP(REASON_TEXT)};

const char *ht_column_text(ht_column column) {
    return column_names[column];
}

int ht_column_find(const char *name, size_t size) {
    for (int i = 0; i < HT_COLUMN_COUNT; i++)
        if (strlen(column_names[i]) == size && memcmp(column_names[i], name, size) == 0) return i;
    return -1;
}

const char *ht_reason_text(ht_reason reason) {
    return reason_names[reason];
}

void ht_refusal_text(char out[HT_REFUSAL_TEXT], const ht_refusal *refusal) {
    const char *quote = refusal->column[0] ? "\"" : "";
    snprintf(out, HT_REFUSAL_TEXT, "%s%s%s%s%s: %s", quote, refusal->column, quote, quote[0] ? ": " : "",
             ht_reason_text(refusal->reason), refusal->detail);
}

ht_row_outcome ht_refuse(ht_refusal *refusal, ht_reason reason, const char *column, const char *format, ...) {
    va_list args;
    refusal->reason = reason;
    refusal->column = column;
    va_start(args, format);
    vsnprintf(refusal->detail, sizeof refusal->detail, format, args);
    va_end(args);
    return HT_ROW_REFUSED;
}

typedef enum row_layout { LAYOUT_PROMPT, LAYOUT_DEMONSTRATION, LAYOUT_COMPARISON } row_layout;

/* A row, understood. Texts are borrowed from the row. */
typedef struct parsed_row {
    row_layout layout;
    char *messages; /* canonical; owned */
    int kind;       /* -1: not said */
    int split;      /* -1: by hash */
    int64_t round, prompt_round;
    const char *source, *prompt_source, *batch;
    ht_column text_column[2]; /* comparison: chosen, rejected; demonstration: response */
    const char *text[2];
    int64_t response_id[2]; /* 0: none given */
    int rating;
    ht_safety safety;
    int drop;
    ht_origin origin;
    double weight;
} parsed_row;

/* What every step below works on; a step that refuses the row gives 0. */
typedef struct judge {
    const ht_annotation *row;
    const ht_annotation_defaults *defaults;
    parsed_row *out;
    ht_refusal *refusal;
} judge;

/* The field's text, NULL when absent or empty. */
static const char *value(const judge *j, ht_column column) {
    const char *text = j->row->field[column];
    return text && *text ? text : NULL;
}

/* Refuses the row for a column; returns 0. */
static int refuse(const judge *j, ht_reason reason, ht_column column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int refuse(const judge *j, ht_reason reason, ht_column column, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(j->refusal->detail, sizeof j->refusal->detail, format, args);
    va_end(args);
    j->refusal->reason = reason;
    j->refusal->column = column_names[column];
    return 0;
}

static int judge_bytes(const judge *j) {
    for (int i = 0; i < HT_COLUMN_COUNT; i++) {
        const char *text = j->row->field[i];
        if (!text) continue;
        size_t size = j->row->size[i], valid;
        if (memchr(text, '\0', size))
            return refuse(j, HT_REASON_NUL_BYTE, (ht_column)i, "a NUL byte after %zu bytes", strlen(text));
        valid = ht_utf8_valid(text, size);
        if (valid != size)
            return refuse(j, HT_REASON_BAD_UTF8, (ht_column)i, "byte %zu (0x%02x) is not UTF-8", valid + 1,
                          (unsigned char)text[valid]);
    }
    return 1;
}

static int judge_layout(const judge *j) {
    const char *const *field = j->row->field;
    int direct = field[HT_COLUMN_CHOSEN] || field[HT_COLUMN_REJECTED];
    int filled = field[HT_COLUMN_RESPONSE_A] || field[HT_COLUMN_RESPONSE_B] || field[HT_COLUMN_CHOICE];
    j->out->layout = direct || filled            ? LAYOUT_COMPARISON
                     : field[HT_COLUMN_RESPONSE] ? LAYOUT_DEMONSTRATION
                                                 : LAYOUT_PROMPT;
    if (direct && filled)
        return refuse(j, HT_REASON_MISSING_COLUMN, HT_COLUMN_CHOSEN,
                      "chosen and rejected, or response_a, response_b and choice");
    ht_column needed[3] = {HT_COLUMN_CHOSEN, HT_COLUMN_REJECTED, HT_COLUMN_CHOSEN};
    if (filled) {
        needed[0] = HT_COLUMN_RESPONSE_A;
        needed[1] = HT_COLUMN_RESPONSE_B;
        needed[2] = HT_COLUMN_CHOICE;
    }
    for (int i = 0; i < 3 && j->out->layout == LAYOUT_COMPARISON; i++)
        if (!field[needed[i]]) return refuse(j, HT_REASON_MISSING_COLUMN, needed[i], "a comparison needs it");
    if (!field[HT_COLUMN_PROMPT] && !field[HT_COLUMN_MESSAGES])
        return refuse(j, HT_REASON_MISSING_COLUMN, HT_COLUMN_PROMPT, "prompt or messages is needed");
    return 1;
}

/* The messages as given, a new reference; NULL: refused, or no memory (then *status says so). */
static json_t *given_messages(const judge *j, ht_column *column, ht_status *status, ht_error *err) {
    json_error_t error;
    json_t *list = NULL;
    const char *prompt = value(j, HT_COLUMN_PROMPT), *messages = value(j, HT_COLUMN_MESSAGES);
    const char *system = value(j, HT_COLUMN_SYSTEM);
    *column = messages ? HT_COLUMN_MESSAGES : HT_COLUMN_PROMPT;
    if (!prompt == !messages) {
        if (prompt) refuse(j, HT_REASON_BAD_MESSAGES, HT_COLUMN_PROMPT, "prompt and messages are both given");
        if (!prompt)
            refuse(j, HT_REASON_EMPTY,
                   j->row->field[HT_COLUMN_PROMPT] ? HT_COLUMN_PROMPT : HT_COLUMN_MESSAGES, "no text");
        return NULL;
    }
    if (prompt) {
        list = json_pack("[{s:s, s:s}]", "role", "user", "content", prompt);
        if (!list) *status = ht_fail(err, HT_ERR_NOMEM, "cannot copy a prompt of %zu bytes", strlen(prompt));
    } else {
        *status = ht_json_parse(&list, messages, strlen(messages), &error, err);
        if (*status == HT_ERR_DATA) {
            refuse(j, HT_REASON_BAD_JSON, HT_COLUMN_MESSAGES, "column %d: %s", error.column, error.text);
            *status = HT_OK;
        }
    }
    if (list && system)
        json_array_insert_new(list, 0, json_pack("{s:s, s:s}", "role", "system", "content", system));
    return list;
}

/* 1 when the chat format would refuse the text for a special tag in it. */
static int has_tag(const char *text) {
    ht_error ignored = HT_ERROR_INIT;
    ht_message message = {HT_ROLE_USER, text};
    return ht_chat_check(HT_TEMPLATE_LLAMA2, (ht_prompt){&message, 1}, &ignored) != HT_OK;
}

static int judge_messages(const judge *j, ht_status *status, ht_error *err) {
    ht_error malformed = HT_ERROR_INIT;
    ht_column column;
    int fine = 0;
    json_t *list = given_messages(j, &column, status, err);
    if (!list) return 0;
    switch (ht_messages_canonical_json(&j->out->messages, list, &malformed)) {
    case HT_OK:
        /* JSON leaves the tags' characters as they are, so one look sees all messages */
        fine = !has_tag(j->out->messages);
        if (!fine)
            refuse(j, HT_REASON_SPECIAL_TAG, column, "[INST], [/INST], <<SYS>> or <</SYS>> in a message");
        break;
    case HT_ERR_DATA:
        if (column == HT_COLUMN_PROMPT)
            refuse(j, HT_REASON_EMPTY, column, "only white space (or such a system message)");
        if (column != HT_COLUMN_PROMPT) refuse(j, HT_REASON_BAD_MESSAGES, column, "%s", malformed.message);
        break;
    default:
        *status = ht_fail(err, malformed.status, "%s", malformed.message);
    }
    json_decref(list);
    return fine;
}

/* A whole number from `min`; column absent: *number stays. */
static int judge_integer(const judge *j, ht_column column, ht_reason reason, int64_t min, int64_t *number) {
    const char *text = value(j, column);
    char *end;
    if (!text) return 1;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    if (errno || end == text || *end || parsed < min)
        return refuse(j, reason, column, "\"%.40s\" is no whole number from %lld", text, (long long)min);
    *number = parsed;
    return 1;
}

static int judge_origin(const judge *j) {
    parsed_row *out = j->out;
    const char *kind = value(j, HT_COLUMN_KIND), *split = value(j, HT_COLUMN_SPLIT);
    out->kind = kind ? ht_kind_find(kind) : j->defaults->kind;
    if (kind && out->kind < 0)
        return refuse(j, HT_REASON_BAD_KIND, HT_COLUMN_KIND, "\"%.40s\" is not helpfulness or safety", kind);
    out->split = split ? ht_split_find(split) : j->defaults->split;
    if (split && out->split < 0)
        return refuse(j, HT_REASON_BAD_SPLIT, HT_COLUMN_SPLIT, "\"%.40s\" is not train or test", split);
    out->round = j->defaults->round;
    if (!judge_integer(j, HT_COLUMN_ROUND, HT_REASON_BAD_ROUND, 0, &out->round)) return 0;
    out->prompt_round = out->round;
    if (!judge_integer(j, HT_COLUMN_PROMPT_ROUND, HT_REASON_BAD_ROUND, 0, &out->prompt_round)) return 0;
    out->source = value(j, HT_COLUMN_SOURCE) ? value(j, HT_COLUMN_SOURCE) : j->defaults->source;
    out->prompt_source =
        j->row->field[HT_COLUMN_PROMPT_SOURCE] ? value(j, HT_COLUMN_PROMPT_SOURCE) : out->source;
    out->batch = value(j, HT_COLUMN_BATCH) ? value(j, HT_COLUMN_BATCH) : j->defaults->batch;
    return 1;
}

/* Narrows to what the chat format keeps of an answer; 1 when nothing is left. */
static int stripped(const char *text, const char **start, size_t *size) {
    *start = text;
    *size = strlen(text);
    ht_text_strip(start, size, HT_STRIP_BOTH);
    return *size == 0;
}

static int judge_text(const judge *j, int which, ht_column column) {
    const char *start, *text = j->row->field[column];
    size_t size;
    j->out->text_column[which] = column;
    j->out->text[which] = text;
    if (stripped(text, &start, &size) && !j->out->response_id[which])
        return refuse(j, HT_REASON_EMPTY, column, "no text");
    if (has_tag(text))
        return refuse(j, HT_REASON_SPECIAL_TAG, column, "[INST], [/INST], <<SYS>> or <</SYS>> in the text");
    return 1;
}

static int judge_rating(const judge *j) {
    static const struct {
        const char *name;
        int rating;
    } names[] = {
        {"1", 1},
        {"negligibly", 1},
        {"negligibly better", 1},
        {"unsure", 1},
        {"negligibly better / unsure", 1},
        {"negligibly better or unsure", 1},
        {"2", 2},
        {"slightly", 2},
        {"slightly better", 2},
        {"3", 3},
        {"better", 3},
        {"4", 4},
        {"significantly", 4},
        {"significantly better", 4},
    };
    const char *text = value(j, HT_COLUMN_RATING);
    if (!text) return 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(text, names[i].name) != 0) continue;
        j->out->rating = names[i].rating;
        return 1;
    }
    return refuse(j, HT_REASON_BAD_RATING, HT_COLUMN_RATING,
                  "\"%.40s\" is not 1 to 4, negligibly, slightly, better or significantly", text);
}

/* `a_is_chosen`: 1, 0, or -1 where the row names no a and b. */
static int judge_safety(const judge *j, int a_is_chosen) {
    const char *text = value(j, HT_COLUMN_SAFETY);
    if (!text) return 1;
    int safety = ht_safety_find(text);
    if (safety < 0 && strcmp(text, "rejected_safe") == 0) {
        j->out->drop = 1;
    } else if (safety < 0 && a_is_chosen >= 0 &&
               (strcmp(text, "a_safe") == 0 || strcmp(text, "b_safe") == 0)) {
        int chosen_is_safe = (text[0] == 'a') == a_is_chosen;
        safety = HT_SAFETY_CHOSEN_SAFE;
        j->out->drop = !chosen_is_safe;
    } else if (safety < 0) {
        return refuse(j, HT_REASON_BAD_SAFETY, HT_COLUMN_SAFETY,
                      "\"%.40s\" is not %schosen_safe, both_safe, both_unsafe or "
                      "rejected_safe",
                      text, a_is_chosen >= 0 ? "a_safe, b_safe, " : "");
    }
    if (!j->out->drop) j->out->safety = (ht_safety)safety;
    return 1;
}

/* 1 chosen is a, 0 chosen is b, -1 refused. */
static int judge_choice(const judge *j) {
    const char *text = value(j, HT_COLUMN_CHOICE);
    if (!text) {
        refuse(j, HT_REASON_NOT_ANNOTATED, HT_COLUMN_CHOICE, "empty: not annotated yet");
        return -1;
    }
    if (strcasecmp(text, "a") == 0 || strcasecmp(text, "response_a") == 0) return 1;
    if (strcasecmp(text, "b") == 0 || strcasecmp(text, "response_b") == 0) return 0;
    refuse(j, HT_REASON_BAD_CHOICE, HT_COLUMN_CHOICE, "\"%.40s\" is not a or b", text);
    return -1;
}

static int judge_comparison(const judge *j) {
    parsed_row *out = j->out;
    ht_column chosen = HT_COLUMN_CHOSEN, rejected = HT_COLUMN_REJECTED;
    int a_is_chosen = -1;
    if (j->row->field[HT_COLUMN_CHOICE]) {
        a_is_chosen = judge_choice(j);
        if (a_is_chosen < 0) return 0;
        chosen = a_is_chosen ? HT_COLUMN_RESPONSE_A : HT_COLUMN_RESPONSE_B;
        rejected = a_is_chosen ? HT_COLUMN_RESPONSE_B : HT_COLUMN_RESPONSE_A;
        ht_column id_a = HT_COLUMN_RESPONSE_A_ID, id_b = HT_COLUMN_RESPONSE_B_ID;
        if (!judge_integer(j, id_a, HT_REASON_BAD_ID, 1, &out->response_id[a_is_chosen ? 0 : 1]) ||
            !judge_integer(j, id_b, HT_REASON_BAD_ID, 1, &out->response_id[a_is_chosen ? 1 : 0]))
            return 0;
    }
    if (!judge_text(j, 0, chosen) || !judge_text(j, 1, rejected)) return 0;
    const char *start[2];
    size_t size[2];
    stripped(out->text[0], &start[0], &size[0]);
    stripped(out->text[1], &start[1], &size[1]);
    if (size[0] == size[1] && memcmp(start[0], start[1], size[0]) == 0)
        return refuse(j, HT_REASON_IDENTICAL, rejected, "both responses say the same");
    return judge_rating(j) && judge_safety(j, a_is_chosen);
}

static int judge_demonstration(const judge *j) {
    const char *origin = value(j, HT_COLUMN_ORIGIN), *weight = value(j, HT_COLUMN_WEIGHT);
    int found = origin ? ht_origin_find(origin) : HT_ORIGIN_HUMAN;
    if (!judge_text(j, 0, HT_COLUMN_RESPONSE)) return 0;
    if (found < 0)
        return refuse(j, HT_REASON_BAD_ORIGIN, HT_COLUMN_ORIGIN, "\"%.40s\" is not human or rejection",
                      origin);
    j->out->origin = (ht_origin)found;
    j->out->weight = 1;
    if (!weight) return 1;
    char *end;
    j->out->weight = strtod(weight, &end);
    if (*end || !isfinite(j->out->weight) || j->out->weight <= 0)
        return refuse(j, HT_REASON_BAD_WEIGHT, HT_COLUMN_WEIGHT, "\"%.40s\" is no number above 0", weight);
    return 1;
}

/* ---- into the store ---- */

/* Looks at the responses that the row names by id; *dialog = theirs, 0 when none is named. 0: refused or
 * failed. */
static int judge_links(const judge *j, ht_store *store, int64_t *dialog, ht_status *status, ht_error *err) {
    parsed_row *out = j->out;
    *dialog = 0;
    for (int i = 0; i < 2; i++) {
        ht_scored_row linked;
        ht_error missing = HT_ERROR_INIT;
        if (!out->response_id[i]) continue;
        ht_column column =
            out->text_column[i] == HT_COLUMN_RESPONSE_A ? HT_COLUMN_RESPONSE_A_ID : HT_COLUMN_RESPONSE_B_ID;
        long long id = out->response_id[i];
        ht_status got = ht_store_get_response(store, id, &linked, &missing);
        if (got == HT_ERR_DATA) return refuse(j, HT_REASON_BAD_ID, column, "there is no response %lld", id);
        if (got != HT_OK) {
            *status = ht_fail(err, got, "%s", missing.message);
            return 0;
        }
        if (strcmp(linked.response.text, out->text[i]) != 0)
            return refuse(j, HT_REASON_ID_MISMATCH, out->text_column[i], "response %lld has another text",
                          id);
        if (strcmp(linked.dialog.messages, out->messages) != 0 || (*dialog && *dialog != linked.dialog.id) ||
            (out->kind >= 0 && value(j, HT_COLUMN_KIND) && out->kind != (int)linked.dialog.kind))
            return refuse(j, HT_REASON_ID_MISMATCH, column, "response %lld answers another dialogue", id);
        *dialog = linked.dialog.id;
        out->kind = (int)linked.dialog.kind;
    }
    return 1;
}

/* 0: refused, as the dialogue is there in another split than the row says; or failed. */
static int put_dialog(const judge *j, ht_store *store, int64_t *id, int *added, ht_status *status,
                      ht_error *err) {
    parsed_row *out = j->out;
    ht_dialog_row there,
        row = {
            .messages = out->messages,
            .is_canonical = 1,
            .kind = (ht_kind)out->kind,
            .split = out->split >= 0 ? (ht_split)out->split
                                     : ht_messages_split(out->messages, j->defaults->holdout),
            .source = out->prompt_source,
            .round = out->prompt_round,
        };
    *status = ht_store_add_dialog(store, &row, id, added, err);
    if (*status != HT_OK) return 0;
    if (*added || out->split < 0) return 1;
    *status = ht_store_get_dialog(store, *id, &there, err);
    if (*status != HT_OK) return 0;
    if (there.split == row.split) return 1;
    return refuse(j, HT_REASON_SPLIT_CONFLICT, HT_COLUMN_SPLIT, "its dialogue is in %s already",
                  ht_split_text(there.split));
}

static ht_status put_response(ht_store *store, const parsed_row *row, int which, int64_t dialog, int64_t *id,
                              ht_error *err) {
    *id = row->response_id[which];
    if (*id) return HT_OK;
    ht_response_row response = {.dialog_id = dialog, .text = row->text[which], .round = row->round};
    return ht_store_add_response(store, &response, id, NULL, err);
}

static ht_status put_answers(ht_store *store, const ht_annotation *source, const parsed_row *row,
                             int64_t dialog, int *added, ht_error *err) {
    ht_status status;
    int64_t first, second, id;
    const char *annotator = source->field[HT_COLUMN_ANNOTATOR];
    HT_TRY(put_response(store, row, 0, dialog, &first, err));
    if (row->layout == LAYOUT_DEMONSTRATION) {
        ht_demonstration_row demonstration = {.response_id = first,
                                              .origin = row->origin,
                                              .round = row->round,
                                              .batch = row->batch,
                                              .source = row->source,
                                              .weight = row->weight};
        return ht_store_add_demonstration(store, &demonstration, &id, added, err);
    }
    HT_TRY(put_response(store, row, 1, dialog, &second, err));
    ht_comparison_row comparison = {
        .chosen_id = first,
        .rejected_id = second,
        .rating = row->rating,
        .safety = row->safety,
        .annotator = annotator && *annotator ? annotator : NULL,
        .batch = row->batch,
        .source = row->source,
        .round = row->round,
    };
    HT_TRY(ht_store_add_comparison(store, &comparison, &id, added, err));
done:
    return status;
}

static int judge_row(const judge *j, ht_status *status, ht_error *err) {
    if (!judge_bytes(j) || !judge_layout(j)) return 0;
    /* before the rest: a row that waits for its annotator may well have other columns empty */
    if (j->row->field[HT_COLUMN_CHOICE] && judge_choice(j) < 0) return 0;
    if (!judge_messages(j, status, err) || !judge_origin(j)) return 0;
    if (j->out->layout == LAYOUT_COMPARISON) return judge_comparison(j);
    return j->out->layout == LAYOUT_PROMPT || judge_demonstration(j);
}

ht_status ht_annotation_take(ht_store *store, const ht_annotation_defaults *defaults,
                             const ht_annotation *row, ht_row_outcome *outcome, ht_refusal *refusal,
                             ht_error *err) {
    ht_status status = HT_OK;
    parsed_row parsed = {0};
    judge j = {row, defaults, &parsed, refusal};
    int64_t linked, dialog;
    int added = 0;
    *outcome = HT_ROW_REFUSED;
    if (!judge_row(&j, &status, err)) goto done;
    if (!judge_links(&j, store, &linked, &status, err)) goto done;
    if (parsed.kind < 0) {
        refuse(&j, HT_REASON_NO_KIND, HT_COLUMN_KIND,
               "neither the row nor --kind says helpfulness or safety");
        goto done;
    }
    if (parsed.drop) {
        *outcome = HT_ROW_DROPPED;
        goto done;
    }
    if (!put_dialog(&j, store, &dialog, &added, &status, err)) goto done;
    if (parsed.layout != LAYOUT_PROMPT) HT_TRY(put_answers(store, row, &parsed, dialog, &added, err));
    *outcome = added ? HT_ROW_TAKEN : HT_ROW_EXISTING;
done:
    free(parsed.messages);
    return status;
}
