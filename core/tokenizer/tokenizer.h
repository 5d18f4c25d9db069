/*
 * tokenizer.h: text to token ids and back, by SentencePiece.
 *
 * A tokenizer is what a tokenizer.model file says and never changes after it was opened: every function that
 * takes a const ht_tokenizer may run on many threads at once. Ids are those of the file, 0 .. size - 1. BOS
 * and EOS are never added here; chat.h does.
 */
#ifndef HT_TOKENIZER_TOKENIZER_H
#define HT_TOKENIZER_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"
#include "core/tokenizer/text.h"

typedef struct ht_tokenizer ht_tokenizer;

/* Growing list of token ids; {0} is empty. */
typedef struct ht_ids {
    int32_t *data;
    size_t count, capacity;
} ht_ids;

void ht_ids_release(ht_ids *ids); /* frees; empty and usable again */
ht_status ht_ids_append(ht_ids *ids, const int32_t *more, size_t count, ht_error *err);

/*
 * *out = the tokenizer of a tokenizer.model file, to be released with ht_tokenizer_free.
 *
 * HT_ERR_IO when the file cannot be read. HT_ERR_DATA when it is empty, cut short or no SentencePiece model,
 * when it lacks BOS, EOS or UNK, when a piece is not UTF-8, or when it asks for what the toolkit does not do
 * (white space as suffix, a denormalizer), or is above 64 MiB: the message names the file.
 */
ht_status ht_tokenizer_open(ht_tokenizer **out, const char *path, ht_error *err);
void ht_tokenizer_free(ht_tokenizer *tokenizer);

int32_t ht_tokenizer_size(const ht_tokenizer *tokenizer); /* vocabulary, pieces */
int32_t ht_tokenizer_bos(const ht_tokenizer *tokenizer);
int32_t ht_tokenizer_eos(const ht_tokenizer *tokenizer);
int32_t ht_tokenizer_unk(const ht_tokenizer *tokenizer);

/* Hash of the file's content (ht_hash), 32 hex digits; borrowed. Models that share it share their ids. */
const char *ht_tokenizer_hash(const ht_tokenizer *tokenizer);

/* Text of a piece as the file has it (U+2581 for a space, "<0x0A>" for a byte); borrowed. NULL when id is not
 * in [0, size). */
const char *ht_tokenizer_piece(const ht_tokenizer *tokenizer, int32_t id);

/*
 * Appends the ids of `size` bytes of text to `ids`. Tags such as "<s>" in the text are plain text. Ids are
 * those of sentencepiece's encode. On failure ids keeps what it had.
 *
 * Errors: HT_ERR_DATA when the text is not UTF-8 (with the byte offset) or above 1 GiB.
 */
ht_status ht_tokenizer_encode(const ht_tokenizer *tokenizer, const char *text, size_t size, ht_ids *ids,
                              ht_error *err);

/*
 * Appends the text of ids to `text`, as sentencepiece's decode: control pieces (BOS, EOS) give nothing;
 * U+2581 gives a space, but the one that encoding puts in front of a text is taken off again; runs of byte
 * pieces give the characters they spell, and U+FFFD a byte where they spell none; UNK gives the model's
 * surface for it.
 *
 * Errors: HT_ERR_DATA when an id is outside [0, size); text keeps what it had.
 */
ht_status ht_tokenizer_decode(const ht_tokenizer *tokenizer, const int32_t *ids, size_t count, ht_text *text,
                              ht_error *err);

/* Whether ids stand at the beginning of a text (its first space, put there by encoding, is taken off) or
 * continue one (the space is kept). */
typedef enum ht_text_place { HT_TEXT_BEGINS, HT_TEXT_CONTINUES } ht_text_place;

/*
 * Decoding a few ids at a time, as they are sampled. All output together is what ht_tokenizer_decode gives
 * for all ids (place HT_TEXT_BEGINS); each push appends whole characters only, and holds back the bytes of an
 * unfinished one.
 */
typedef struct ht_text_stream {
    const ht_tokenizer *tokenizer; /* borrowed */
    int at_start;
    char pending[4]; /* bytes of an unfinished character */
    size_t pending_size;
} ht_text_stream;

void ht_text_stream_init(ht_text_stream *stream, const ht_tokenizer *tokenizer, ht_text_place place);

/* Appends the newly completed characters to `text`. HT_ERR_DATA when an id is outside [0, size): nothing
 * changes. */
ht_status ht_text_stream_push(ht_text_stream *stream, const int32_t *ids, size_t count, ht_text *text,
                              ht_error *err);

/* Ends the text: bytes still held back give U+FFFD each. The stream may go on. */
ht_status ht_text_stream_finish(ht_text_stream *stream, ht_text *text, ht_error *err);

/* Bytes of text that ht_tokenizer_train takes when max_bytes is 0. SentencePiece holds them in memory several
 * times. */
#define HT_TOKENIZER_TRAIN_BYTES ((size_t)1 << 30)

/*
 * Trains a tokenizer of Llama's kind on the lines of text files and writes it to out_path, atomically: BPE
 * with byte fallback, one token a digit, no normalisation, a space put in front of every text, runs of spaces
 * kept, UNK 0, BOS 1, EOS 2, no padding, character coverage 0.99995 (the value in Llama 2's own file; rarer
 * characters go by bytes).
 *
 * One thread and no random numbers of a shared state: the same text and library give the same file, bit for
 * bit. Of text above max_bytes (0: HT_TOKENIZER_TRAIN_BYTES) each line is taken with probability max_bytes /
 * size, chosen by (file, line) alone; the log says so. Lines are also cut at U+2585, which SentencePiece
 * reserves, and words longer than 4,096 bytes into pieces of that; both are counted in the log.
 *
 * Errors: HT_ERR_IO when a file cannot be read or written; HT_ERR_DATA when a file is not UTF-8 (with the
 * byte offset), when there is no text, or when vocab_size is below what bytes and characters of the text
 * need, or above what the text can give (the message says the largest possible); HT_ERR_USAGE when vocab_size
 * is outside [260, 2^24].
 */
ht_status ht_tokenizer_train(const char *const *paths, size_t count, int32_t vocab_size, const char *out_path,
                             size_t max_bytes, ht_error *err);

#endif
