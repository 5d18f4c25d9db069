/*
 * train.c: the lines a tokenizer is trained on.
 *
 * SentencePiece passes over what it cannot take (lines with U+2585, lines that are too long) with a line in
 * its own log, and ends the process on a word of more than 65,535 characters. So lines are cut here, before
 * it sees them, and what was cut is counted.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/tokenizer/sentencepiece.h"

enum {
    WORD_MAX = 4096, /* bytes */
    VOCAB_MIN = 260, /* unk, bos, eos, 256 bytes and one character */
    VOCAB_MAX = 1 << 24
};

static const char reserved[] = "\xE2\x96\x85"; /* U+2585 */

typedef struct source {
    const char *const *paths;
    ht_file_map *maps; /* [count] */
    size_t count;
    size_t total, max_bytes;
    size_t file, at;  /* where the next line begins */
    uint64_t line;    /* number in the file */
    const char *rest; /* what is left of the line being cut */
    size_t rest_size;
    size_t bytes_taken;
    uint64_t lines, lines_taken, reserved_cuts, word_cuts;
} source;

static ht_status open_source(source *s, ht_error *err) {
    ht_status status;
    HT_TRY(ht_calloc(&s->maps, s->count, sizeof *s->maps, err));
    for (size_t i = 0; i < s->count; i++) {
        HT_TRY(ht_file_map_open(&s->maps[i], s->paths[i], err));
        size_t size = s->maps[i].size, valid = ht_utf8_valid((const char *)s->maps[i].data, size);
        if (valid != size)
            return ht_fail(err, HT_ERR_DATA, "%s: text is not UTF-8 at byte %zu", s->paths[i], valid);
        s->total += size;
    }
done:
    return status;
}

static void close_source(source *s) {
    if (!s->maps) return;
    for (size_t i = 0; i < s->count; i++)
        ht_file_map_close(&s->maps[i]);
    free(s->maps);
}

/* Whether a line is in the sample: a function of (file, line) alone. */
static int is_taken(const source *s) {
    if (s->total <= s->max_bytes) return 1;
    uint64_t stream = ht_rng_stream(HT_RNG_CHOICE, s->file, 0);
    return ht_rng_uniform(0, stream, s->line) < (double)s->max_bytes / (double)s->total;
}

/* Makes the next taken line the rest to be cut; 0 at the end of all files. */
static int next_line(source *s) {
    while (s->file < s->count) {
        const char *data = (const char *)s->maps[s->file].data;
        size_t size = s->maps[s->file].size;
        if (s->at == size) {
            s->file++;
            s->at = 0;
            s->line = 0;
            continue;
        }
        const char *begin = data + s->at;
        const char *newline = memchr(begin, '\n', size - s->at);
        size_t length = newline ? (size_t)(newline - begin) : size - s->at;
        s->at += length + (newline != NULL);
        int taken = is_taken(s);
        s->line++;
        if (length > 0 && begin[length - 1] == '\r') length--;
        if (length == 0) continue;
        s->lines++;
        if (!taken) continue;
        s->lines_taken++;
        s->bytes_taken += length;
        s->rest = begin;
        s->rest_size = length;
        return 1;
    }
    return 0;
}

/* Bytes of the rest up to the place where it must be cut: a reserved character, or WORD_MAX bytes into a
 * word. */
static size_t cut_length(source *s) {
    size_t word = 0, i = 0;
    while (i < s->rest_size) {
        int length = ht_utf8_read(s->rest + i, s->rest_size - i);
        if (length == 3 && memcmp(s->rest + i, reserved, 3) == 0) return i;
        word = s->rest[i] == ' ' ? 0 : word + (size_t)length;
        if (word > WORD_MAX) {
            s->word_cuts++;
            return i;
        }
        i += (size_t)length;
    }
    return i;
}

static int next(void *owner, const char **line, size_t *size) {
    source *s = owner;
    for (;;) {
        if (s->rest_size == 0 && !next_line(s)) return 0;
        size_t length = cut_length(s);
        *line = s->rest;
        *size = length;
        s->rest += length;
        s->rest_size -= length;
        if (s->rest_size >= 3 && memcmp(s->rest, reserved, 3) == 0) {
            s->reserved_cuts++;
            s->rest += 3;
            s->rest_size -= 3;
        }
        if (length > 0) return 1;
    }
}

/* Says in our words why training failed where the reason is known. */
static ht_status explain(const source *s, int32_t vocab_size, ht_error *err) {
    char reason[sizeof err->message];
    ht_status status = err->status;
    int asked, needed;
    memcpy(reason, err->message, sizeof reason);
    const char *small = strstr(reason, "required_chars. ");
    *err = (ht_error)HT_ERROR_INIT;
    if (s->lines_taken == 0)
        return ht_fail(err, HT_ERR_DATA,
                       "no text to train a tokenizer on: %zu files, %zu bytes, %" PRIu64 " lines", s->count,
                       s->total, s->lines);
    if (small && sscanf(small, "required_chars. %d vs %d", &asked, &needed) == 2)
        return ht_fail(err, HT_ERR_DATA,
                       "vocab_size = %" PRId32
                       " is too small for this text: its characters, the 256 bytes and unk, bos "
                       "and eos need %d",
                       vocab_size, needed);
    return ht_fail(err, status, "training a tokenizer of vocab_size = %" PRId32 ": %s", vocab_size, reason);
}

static void tell(const source *s) {
    if (s->total > s->max_bytes)
        ht_info("tokenizer: training on a sample, %zu of %zu bytes (%" PRIu64 " of %" PRIu64
                " lines), as the limit is %zu bytes",
                s->bytes_taken, s->total, s->lines_taken, s->lines, s->max_bytes);
    else
        ht_info("tokenizer: training on all %" PRIu64 " lines, %zu bytes", s->lines_taken, s->bytes_taken);
    if (s->reserved_cuts > 0)
        ht_warn("tokenizer: %" PRIu64 " times U+2585, which sentencepiece reserves: the line was cut there",
                s->reserved_cuts);
    if (s->word_cuts > 0)
        ht_warn("tokenizer: %" PRIu64 " cuts in words of more than %d bytes", s->word_cuts, WORD_MAX);
}

ht_status ht_tokenizer_train(const char *const *paths, size_t count, int32_t vocab_size, const char *out_path,
                             size_t max_bytes, ht_error *err) {
    source s = {
        .paths = paths, .count = count, .max_bytes = max_bytes ? max_bytes : HT_TOKENIZER_TRAIN_BYTES};
    ht_spm *trained = NULL;
    char *model = NULL;
    size_t model_size = 0;
    ht_status status;
    if (vocab_size < VOCAB_MIN || vocab_size > VOCAB_MAX)
        return ht_fail(err, HT_ERR_USAGE, "vocab_size = %" PRId32 " is outside [%d, %d]", vocab_size,
                       VOCAB_MIN, VOCAB_MAX);
    HT_TRY(open_source(&s, err));
    status = ht_spm_train(&model, &model_size, vocab_size, (ht_spm_lines){next, &s}, err);
    if (status != HT_OK) {
        status = explain(&s, vocab_size, err);
        goto done;
    }
    tell(&s);
    HT_TRY(ht_spm_load(&trained, model, model_size, err));
    if (ht_spm_size(trained) < vocab_size) {
        status =
            ht_fail(err, HT_ERR_DATA,
                    "vocab_size = %" PRId32 " is too large for a text of %zu bytes: the largest possible is "
                    "%" PRId32,
                    vocab_size, s.bytes_taken, ht_spm_size(trained));
        goto done;
    }
    HT_TRY(ht_file_write(out_path, model, model_size, err));
done:
    ht_spm_free(trained);
    free(model);
    close_source(&s);
    return status;
}
