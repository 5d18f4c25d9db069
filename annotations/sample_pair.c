/*
 * sample_pair.c: one pair of responses for annotators: its settings, whether it can be compared, its row.
 */
#include <inttypes.h>
#include <string.h>

#include "annotations/annotation.h"
#include "annotations/csv_write.h"
#include "annotations/sample.h"
#include "core/base/rng.h"
#include "core/tokenizer/chat.h"
#include "core/tokenizer/text.h"

/* First coordinate of HT_RNG_CHOICE; the indexes of its numbers. */
enum { CHOICE_PAIR = 3, INDEX_FIRST = 0, INDEX_SECOND, INDEX_SIDE };

#define PAIR_TEXT(name, text) text,
const char *ht_pair_text(ht_pair_state state) {
    static const char *const texts[] = {HT_PAIR_MAP(PAIR_TEXT)};
    return texts[state];
}

ht_pair_settings ht_pair_draw(const double *temperatures, size_t count, int64_t seed, int64_t round,
                              int64_t dialog) {
    uint64_t key = (uint64_t)seed;
    uint64_t stream =
        ht_rng_stream(HT_RNG_CHOICE, (uint64_t)CHOICE_PAIR << 32 | (uint64_t)round, (uint64_t)dialog);
    uint64_t first = ht_rng_below(key, stream, INDEX_FIRST, count), second = first;
    if (count > 1) second = (first + 1 + ht_rng_below(key, stream, INDEX_SECOND, count - 1)) % count;
    return (ht_pair_settings){.temperature = {temperatures[first], temperatures[second]},
                              .is_swapped = (int)ht_rng_below(key, stream, INDEX_SIDE, 2)};
}

static int has_tag(const char *text) {
    ht_error ignored = HT_ERROR_INIT;
    ht_message message = {HT_ROLE_USER, text};
    return ht_chat_check(HT_TEMPLATE_LLAMA2, (ht_prompt){&message, 1}, &ignored) != HT_OK;
}

ht_pair_state ht_pair_judge(const char *first, const char *second) {
    size_t first_size = strlen(first), second_size = strlen(second);
    if (has_tag(first) || has_tag(second)) return HT_PAIR_TAGGED;
    ht_text_strip(&first, &first_size, HT_STRIP_BOTH);
    ht_text_strip(&second, &second_size, HT_STRIP_BOTH);
    return first_size == second_size && memcmp(first, second, first_size) == 0 ? HT_PAIR_IDENTICAL
                                                                               : HT_PAIR_FINE;
}

static const ht_column columns[] = {
    HT_COLUMN_ID,         HT_COLUMN_MESSAGES,      HT_COLUMN_KIND,          HT_COLUMN_RESPONSE_A,
    HT_COLUMN_RESPONSE_B, HT_COLUMN_RESPONSE_A_ID, HT_COLUMN_RESPONSE_B_ID, HT_COLUMN_CHOICE,
    HT_COLUMN_RATING,     HT_COLUMN_SAFETY,        HT_COLUMN_ANNOTATOR,     HT_COLUMN_BATCH,
    HT_COLUMN_ROUND,
};
enum { COLUMNS = sizeof columns / sizeof *columns };

void ht_pair_write_header(FILE *stream) {
    const char *fields[COLUMNS];
    for (int i = 0; i < COLUMNS; i++)
        fields[i] = ht_column_text(columns[i]);
    ht_csv_write(stream, fields, COLUMNS);
}

void ht_pair_write(FILE *stream, const ht_pair_row *row) {
    char digits[4][32];
    const char *value[HT_COLUMN_COUNT] = {NULL}, *fields[COLUMNS];
    const int64_t numbers[4] = {row->number, row->id[0], row->id[1], row->round};
    for (int i = 0; i < 4; i++)
        snprintf(digits[i], sizeof digits[i], "%" PRId64, numbers[i]);
    value[HT_COLUMN_ID] = digits[0];
    value[HT_COLUMN_MESSAGES] = row->dialog->messages;
    value[HT_COLUMN_KIND] = ht_kind_text(row->dialog->kind);
    value[HT_COLUMN_RESPONSE_A] = row->text[0];
    value[HT_COLUMN_RESPONSE_B] = row->text[1];
    value[HT_COLUMN_RESPONSE_A_ID] = digits[1];
    value[HT_COLUMN_RESPONSE_B_ID] = digits[2];
    value[HT_COLUMN_ROUND] = digits[3];
    for (int i = 0; i < COLUMNS; i++)
        fields[i] = value[columns[i]];
    ht_csv_write(stream, fields, COLUMNS);
}
