#include "core/generate/prompts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"

const char *const ht_too_long_names[] = {"error", "skip", NULL};

/* Encodes one dialogue and appends it, or leaves the set as it was when it is too long. */
static ht_status add_prompt(ht_prompt_set *set, const ht_dialog_row *row, const ht_chat *chat,
                            const ht_prompt_limits *limits, ht_error *err) {
    ht_status status = HT_OK;
    ht_messages messages = {0};
    size_t before = set->tokens.count;
    status = ht_messages_parse(&messages, row->messages, err);
    if (status == HT_OK) {
        ht_prompt prompt = {messages.items, messages.count};
        status = ht_chat_encode_prompt(chat, prompt, &set->tokens, err);
    }
    if (status) {
        ht_fail_in(err, "dialog %" PRId64, row->id);
        goto done;
    }
    int64_t length = (int64_t)(set->tokens.count - before);
    if (length > limits->max_tokens) {
        set->tokens.count = before;
        set->skipped++;
        if (limits->too_long == HT_TOO_LONG_ERROR)
            status = ht_fail(err, HT_ERR_DATA, "dialog %" PRId64 ": the prompt has %" PRId64 " tokens, above %" PRId64,
                             row->id, length, limits->max_tokens);
        goto done;
    }
    HT_TRY(ht_grow(&set->start, &set->start_capacity, set->count + 2, sizeof(int64_t), err));
    HT_TRY(ht_grow(&set->dialog_ids, &set->id_capacity, set->count + 1, sizeof(int64_t), err));
    HT_TRY(ht_grow(&set->is_safety, &set->kind_capacity, set->count + 1, 1, err));
    set->dialog_ids[set->count] = row->id;
    set->is_safety[set->count] = row->kind == HT_KIND_SAFETY;
    set->start[++set->count] = (int64_t)set->tokens.count;
    if (length > set->longest) set->longest = length;
done:
    ht_messages_release(&messages);
    return status;
}

ht_status ht_prompt_set_load(ht_prompt_set *set, ht_store *store, const ht_store_filter *filter, const ht_chat *chat,
                             const ht_prompt_limits *limits, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    memset(set, 0, sizeof *set);
    HT_TRY(ht_store_read(store, HT_STORE_DIALOGS, filter, &cursor, err));
    for (;;) {
        ht_dialog_row row;
        int found;
        HT_TRY(ht_store_next_dialog(cursor, &row, &found, err));
        if (!found) break;
        HT_TRY(add_prompt(set, &row, chat, limits, err));
    }
    if (set->skipped)
        ht_warn("%" PRId64 " prompts of more than %" PRId64 " tokens are left out", set->skipped, limits->max_tokens);
    if (!set->count)
        status = ht_fail(err, HT_ERR_DATA, "%s: no prompt fits the filter (kind, split, round)", ht_store_path(store));
done:
    ht_store_cursor_free(cursor);
    if (status) ht_prompt_set_free(set);
    return status;
}

void ht_prompt_set_free(ht_prompt_set *set) {
    ht_ids_release(&set->tokens);
    free(set->start);
    free(set->dialog_ids);
    free(set->is_safety);
    memset(set, 0, sizeof *set);
}
