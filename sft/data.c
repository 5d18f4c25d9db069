/*
 * Demonstrations as examples.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/generate/prompts.h"
#include "core/generate/samples.h"
#include "core/tokenizer/chat.h"
#include "sft/internal.h"

ht_status ht_sft_check_stop(ht_error *err) {
    ht_status asked = ht_stop_requested();
    return asked == HT_OK ? HT_OK
                          : ht_fail(err, asked, "stopped while reading the data; nothing was trained");
}

/* --- hash -------------------------------------------------------------------------------------------------
 */

/* The hashes of a set's five arrays, one after the other, at `out`; returns behind them. */
static char *hash_set(const ht_sft_set *set, char *out) {
    const ht_example_set *e = &set->examples;
    size_t tokens = e->count ? (size_t)e->start[e->count] : 0;
    const struct {
        const void *data;
        size_t size;
    } arrays[] = {{e->tokens, tokens * sizeof *e->tokens},
                  {e->is_target, tokens},
                  {e->start, e->count ? (e->count + 1) * sizeof *e->start : 0},
                  {e->ids, e->count * sizeof *e->ids},
                  {set->weights, e->count * sizeof *set->weights}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++, out += HT_HASH_LEN - 1)
        ht_hash(arrays[i].size ? arrays[i].data : "", arrays[i].size, out);
    return out;
}

ht_status ht_sft_data_finish(ht_sft_data *data, ht_error *err) {
    char hashes[10 * (HT_HASH_LEN - 1) + 1];
    const ht_example_set *train = &data->train.examples, *held_out = &data->held_out.examples;
    char *end = hash_set(&data->held_out, hash_set(&data->train, hashes));
    ht_hash(hashes, (size_t)(end - hashes), data->hash);
    ht_info(
        "%zu examples, %" PRId64 " tokens, %" PRId64 " of them targets; longest %" PRId64 "; %zu held out",
        train->count, train->start[train->count], data->train.targets, data->train.longest, held_out->count);
    if (json_object_set_new(data->lineage, "examples", json_integer((json_int_t)train->count)) ||
        json_object_set_new(data->lineage, "tokens", json_integer((json_int_t)train->start[train->count])) ||
        json_object_set_new(data->lineage, "targets", json_integer((json_int_t)data->train.targets)) ||
        json_object_set_new(data->lineage, "held_out", json_integer((json_int_t)held_out->count)) ||
        json_object_set_new(data->lineage, "hash", json_string(data->hash)))
        return ht_fail(err, HT_ERR_NOMEM, "out of memory for the data's description");
    return HT_OK;
}

/* --- filter -----------------------------------------------------------------------------------------------
 */

/* *mask = bits of the names in a list; text(i) names value i of `count`. */
static ht_status parse_mask(unsigned *mask, const char *key, const ht_strings *names,
                            const char *(*text)(int), int count, ht_error *err) {
    *mask = 0;
    for (size_t i = 0; i < names->count; i++) {
        int value = 0;
        while (value < count && strcmp(names->values[i], text(value)) != 0)
            value++;
        if (value == count)
            return ht_fail(err, HT_ERR_USAGE, "%s: \"%s\" is not one of %s, %s", key, names->values[i],
                           text(0), text(1));
        *mask |= 1u << value;
    }
    if (*mask == 0)
        return ht_fail(err, HT_ERR_USAGE, "%s is empty; allowed are %s, %s", key, text(0), text(1));
    return HT_OK;
}

static const char *kind_text(int kind) {
    return ht_kind_text((ht_kind)kind);
}

static const char *origin_text(int origin) {
    return ht_origin_text((ht_origin)origin);
}

/* Rounds are looked at here, as those of the two origins may differ. */
static int is_of_round(const ht_data_config *config, const ht_demonstration_row *row) {
    if (row->origin == HT_ORIGIN_REJECTION && config->rejection_round >= 0)
        return row->round == config->rejection_round;
    return row->round >= config->first_round && (config->last_round < 0 || row->round <= config->last_round);
}

static ht_status make_filter(ht_store_filter *filter, const ht_data_config *config, ht_error *err) {
    ht_status status = HT_OK;
    *filter = (ht_store_filter){.batch = config->batch && config->batch[0] ? config->batch : NULL};
    if (config->last_round >= 0 && config->last_round < config->first_round)
        return ht_fail(err, HT_ERR_USAGE,
                       "data.last_round = %" PRId64 " is before data.first_round = %" PRId64,
                       config->last_round, config->first_round);
    HT_TRY(parse_mask(&filter->kinds, "data.kinds", &config->kinds, kind_text, HT_KIND_COUNT, err));
    HT_TRY(parse_mask(&filter->origins, "data.origins", &config->origins, origin_text, HT_ORIGIN_COUNT, err));
done:
    return status;
}

/* --- reading ----------------------------------------------------------------------------------------------
 */

typedef struct reader {
    ht_sft_data *data;
    const ht_data_config *config;
    ht_chat chat;
    ht_chat_ids ids;
    uint8_t *is_target;
    size_t target_capacity;
    int64_t skipped, retokenised;
} reader;

/* r->ids = the demonstration's dialogue and answer. */
static ht_status encode(reader *r, const ht_demonstration_row *row, ht_error *err) {
    ht_status status = HT_OK;
    ht_messages messages = {0};
    HT_TRY(ht_messages_parse(&messages, row->dialog.messages, err));
    ht_prompt prompt = {messages.items, messages.count};
    int from_text = 0;
    HT_TRY(ht_response_encode(&r->chat, prompt, &row->response, &r->ids, &from_text, err));
    r->retokenised += from_text;
done:
    ht_messages_release(&messages);
    return status;
}

/* r->is_target = 1 at the ids of the answers that are trained on, their EOS included. */
static ht_status mark_targets(reader *r, ht_error *err) {
    size_t length = r->ids.ids.count;
    ht_status status = ht_grow(&r->is_target, &r->target_capacity, length, 1, err);
    if (status != HT_OK) return status;
    memset(r->is_target, 0, length);
    size_t first = r->config->train_on == HT_TRAIN_ON_LAST ? r->ids.span_count - 1 : 0;
    for (size_t i = first; i < r->ids.span_count; i++)
        memset(r->is_target + r->ids.spans[i].start, 1,
               (size_t)(r->ids.spans[i].end - r->ids.spans[i].start));
    return HT_OK;
}

static ht_status add_demonstration(reader *r, const ht_demonstration_row *row, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(encode(r, row, err));
    int64_t length = (int64_t)r->ids.ids.count;
    if (length > r->config->seq_len) {
        r->skipped++;
        if (r->config->too_long == HT_TOO_LONG_ERROR)
            status = ht_fail(err, HT_ERR_DATA,
                             "%" PRId64 " tokens, above data.seq_len = %" PRId64
                             " (data.too_long = skip leaves such out)",
                             length, r->config->seq_len);
        goto done;
    }
    HT_TRY(mark_targets(r, err));
    ht_example example = {
        .id = row->id, .tokens = r->ids.ids.data, .is_target = r->is_target, .length = length};
    ht_sft_set *set = row->dialog.split == HT_SPLIT_TEST ? &r->data->held_out : &r->data->train;
    status = ht_sft_set_add(set, &example, row->weight, err);
done:
    if (status != HT_OK)
        ht_fail_in(err, "demonstration %" PRId64 " (dialogue %" PRId64 ")", row->id, row->dialog.id);
    return status;
}

static ht_status read_rows(reader *r, ht_store *store, const ht_store_filter *filter, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_progress progress;
    int64_t total = 0, done_rows = 0;
    HT_TRY(ht_store_count(store, HT_STORE_DEMONSTRATIONS, filter, &total, err));
    HT_TRY(ht_store_read(store, HT_STORE_DEMONSTRATIONS, filter, &cursor, err));
    ht_progress_start(&progress, "demonstrations", total);
    for (;;) {
        ht_demonstration_row row;
        int found = 0;
        HT_TRY(ht_sft_check_stop(err));
        HT_TRY(ht_store_next_demonstration(cursor, &row, &found, err));
        if (!found) break;
        if (is_of_round(r->config, &row)) HT_TRY(add_demonstration(r, &row, err));
        ht_progress_update(&progress, ++done_rows, NULL);
    }
done:
    ht_store_cursor_free(cursor);
    return status;
}

ht_status ht_sft_load_demonstrations(ht_sft_data *data, ht_store *store, const ht_data_config *config,
                                     const ht_tokenizer *tokenizer, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_filter filter;
    reader r = {.data = data, .config = config, .chat = {tokenizer, HT_TEMPLATE_LLAMA2}};
    memset(data, 0, sizeof *data);
    HT_TRY(make_filter(&filter, config, err));
    HT_TRY(read_rows(&r, store, &filter, err));
    if (r.skipped)
        ht_warn("%" PRId64 " demonstrations of more than %" PRId64 " tokens are left out", r.skipped,
                config->seq_len);
    if (r.retokenised)
        ht_warn("%" PRId64 " sampled answers are encoded from their text: their model has another tokenizer",
                r.retokenised);
    data->lineage = json_pack("{s:s, s:I, s:I}", "database", ht_store_path(store), "skipped_too_long",
                              (json_int_t)r.skipped, "encoded_again", (json_int_t)r.retokenised);
    if (data->train.examples.count == 0)
        status = ht_fail(err, HT_ERR_DATA,
                         "%s: no demonstration of split train fits the filter (data.kinds, data.origins, "
                         "data.first_round, data.last_round, data.rejection_round, data.batch)",
                         ht_store_path(store));
    else
        status = ht_sft_data_finish(data, err);
done:
    ht_chat_ids_release(&r.ids);
    free(r.is_target);
    if (status != HT_OK) ht_sft_data_free(data);
    return status;
}
