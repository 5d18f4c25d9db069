#include "reward/pairs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/generate/samples.h"

_Static_assert(sizeof(ht_pair) == 40, "no padding: the bytes of pairs are hashed");

/* *index = that of a name, added when new; -1 for NULL. */
static ht_status intern(ht_pair_set *set, const char *name, int32_t *index, ht_error *err) {
    ht_status status = HT_OK;
    *index = -1;
    if (!name) return HT_OK;
    const json_t *known = json_object_get(set->name_index, name);
    if (known) {
        *index = (int32_t)json_integer_value(known);
        return HT_OK;
    }
    HT_TRY(ht_grow(&set->names, &set->name_capacity, set->name_count + 1, sizeof(char *), err));
    HT_TRY(ht_strdup(&set->names[set->name_count], name, err));
    *index = (int32_t)set->name_count++;
    if (json_object_set_new(set->name_index, name, json_integer(*index)) != 0)
        status = ht_fail(err, HT_ERR_NOMEM, "no memory for the name \"%s\"", name);
done:
    return status;
}

static int is_among(const ht_strings *names, const char *name) {
    if (!names->count) return 1;
    for (size_t i = 0; name && i < names->count; i++)
        if (strcmp(names->values[i], name) == 0) return 1;
    return 0;
}

/* Scratch of loading. */
typedef struct loader {
    const ht_pair_query *query;
    const ht_chat *chat;
    ht_chat_ids chosen, rejected;
} loader;

static ht_status encode_pair(loader *l, ht_pair_set *set, const ht_comparison_row *row, ht_error *err) {
    ht_status status = HT_OK;
    ht_messages messages = {0};
    int from_text = 0;
    HT_TRY(ht_messages_parse(&messages, row->dialog.messages, err));
    ht_prompt prompt = {messages.items, messages.count};
    HT_TRY(ht_response_encode(l->chat, prompt, &row->chosen, &l->chosen, &from_text, err));
    set->from_text += from_text;
    HT_TRY(ht_response_encode(l->chat, prompt, &row->rejected, &l->rejected, &from_text, err));
    set->from_text += from_text;
done:
    ht_messages_release(&messages);
    if (status != HT_OK) ht_fail_in(err, "comparison %" PRId64, row->id);
    return status;
}

static ht_status append_pair(ht_pair_set *set, const loader *l, const ht_comparison_row *row, ht_error *err) {
    ht_status status = HT_OK;
    const ht_ids *chosen = &l->chosen.ids, *rejected = &l->rejected.ids;
    const ht_pair_query *query = l->query;
    ht_pair pair = {.id = row->id,
                    .rating = row->rating,
                    .safety = (int32_t)row->safety,
                    .kind = (int32_t)row->dialog.kind,
                    .round = (int32_t)row->round};
    pair.own = row->dialog.kind == query->own_kind && is_among(&query->own_sources, row->source);
    pair.identical = chosen->count == rejected->count &&
                     memcmp(chosen->data, rejected->data, chosen->count * sizeof(int32_t)) == 0;
    HT_TRY(intern(set, row->batch, &pair.batch, err));
    HT_TRY(intern(set, row->source, &pair.source, err));
    HT_TRY(ht_grow(&set->pairs, &set->capacity, set->count + 1, sizeof(ht_pair), err));
    HT_TRY(ht_example_set_add(&set->sequences, row->id, chosen->data, NULL, (int64_t)chosen->count, err));
    HT_TRY(ht_example_set_add(&set->sequences, row->id, rejected->data, NULL, (int64_t)rejected->count, err));
    set->identical += pair.identical;
    set->pairs[set->count++] = pair;
done:
    return status;
}

/* Appends a pair, or leaves it out as too long. */
static ht_status take_pair(ht_pair_set *set, loader *l, const ht_comparison_row *row, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(encode_pair(l, set, row, err));
    size_t longer = l->chosen.ids.count > l->rejected.ids.count ? l->chosen.ids.count : l->rejected.ids.count;
    int64_t length = (int64_t)longer;
    if (length > l->query->max_tokens) {
        set->skipped++;
        if (l->query->too_long == HT_TOO_LONG_ERROR)
            status =
                ht_fail(err, HT_ERR_DATA,
                        "comparison %" PRId64 ": prompt and response have %" PRId64 " tokens, above %" PRId64,
                        row->id, length, l->query->max_tokens);
        goto done;
    }
    if (length > set->longest) {
        set->longest = length;
        set->longest_id = row->id;
    }
    HT_TRY(append_pair(set, l, row, err));
done:
    return status;
}

static void say(const ht_pair_set *set, const ht_pair_query *query) {
    if (set->skipped)
        ht_warn("%" PRId64 " comparisons with more than %" PRId64 " tokens are left out", set->skipped,
                query->max_tokens);
    if (set->identical)
        ht_warn("%" PRId64 " comparisons have two responses that do not differ as token ids", set->identical);
    if (set->from_text)
        ht_info("%" PRId64 " responses sampled with another tokenizer are encoded from their text",
                set->from_text);
}

ht_status ht_pair_set_load(ht_pair_set *set, ht_store *store, const ht_pair_query *query, const ht_chat *chat,
                           ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    loader l = {.query = query, .chat = chat};
    memset(set, 0, sizeof *set);
    set->name_index = json_object();
    if (!set->name_index) {
        status = ht_fail(err, HT_ERR_NOMEM, "no memory for the names of sources and batches");
        goto done;
    }
    HT_TRY(ht_store_read(store, HT_STORE_COMPARISONS, &query->filter, &cursor, err));
    for (;;) {
        ht_comparison_row row;
        int found;
        HT_TRY(ht_store_next_comparison(cursor, &row, &found, err));
        if (!found) break;
        if (is_among(&query->sources, row.source)) HT_TRY(take_pair(set, &l, &row, err));
    }
    say(set, query);
done:
    ht_store_cursor_free(cursor);
    ht_chat_ids_release(&l.chosen);
    ht_chat_ids_release(&l.rejected);
    if (status != HT_OK) ht_pair_set_free(set);
    return status;
}

void ht_pair_set_free(ht_pair_set *set) {
    ht_example_set_free(&set->sequences);
    free(set->pairs);
    json_decref(set->name_index);
    for (size_t i = 0; i < set->name_count; i++)
        free(set->names[i]);
    free(set->names);
    memset(set, 0, sizeof *set);
}

const char *ht_pair_name(const ht_pair_set *set, int32_t index) {
    return index < 0 ? NULL : set->names[index];
}

void ht_pair_set_hash(const ht_pair_set *set, char out[33]) {
    char parts[3 * HT_HASH_LEN];
    size_t n = 2 * set->count;
    int64_t tokens = n ? set->sequences.start[n] : 0;
    memset(parts, 0, sizeof parts);
    ht_hash(set->pairs, set->count * sizeof(ht_pair), parts);
    ht_hash(set->sequences.tokens, (size_t)tokens * sizeof(int32_t), parts + HT_HASH_LEN);
    ht_hash(set->sequences.start, n ? (n + 1) * sizeof(int64_t) : 0, parts + 2 * (size_t)HT_HASH_LEN);
    ht_hash(parts, sizeof parts, out);
}
