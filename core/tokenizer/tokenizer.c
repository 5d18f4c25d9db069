#include "core/tokenizer/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/base/memory.h"
#include "core/tokenizer/sentencepiece.h"

#define TEXT_MAX ((size_t)1 << 30) /* the library counts in int */
/* Of a model: those of the largest vocabularies (256,000 pieces) have 4 MB; the library takes many times the memory of a
 * file that is pieces without text. */
#define FILE_BYTES_MAX ((size_t)64 << 20)

static const char space_piece[] = "\xE2\x96\x81"; /* U+2581, a space inside pieces */
static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

typedef struct piece {
    size_t raw;     /* offset in tokenizer->text of the piece as the file has it, NUL-terminated */
    size_t surface; /* offset of what decoding gives; of BYTE pieces the byte itself */
    size_t surface_size;
    ht_spm_kind kind;
    int leads; /* raw begins with U+2581 */
} piece;

struct ht_tokenizer {
    ht_spm *spm;
    int32_t size, bos, eos, unk;
    int strip_one; /* encoding puts a space in front: decoding takes one off */
    int strip_all; /* encoding drops extra spaces: decoding takes all in front off */
    piece *pieces; /* [size] */
    ht_text text;  /* all pieces and surfaces */
    char hash[HT_HASH_LEN];
};

void ht_ids_release(ht_ids *ids) {
    free(ids->data);
    *ids = (ht_ids){0};
}

ht_status ht_ids_append(ht_ids *ids, const int32_t *more, size_t count, ht_error *err) {
    ht_status status = ht_grow(&ids->data, &ids->capacity, ids->count + count, sizeof *ids->data, err);
    if (status != HT_OK) return status;
    if (count > 0) memcpy(ids->data + ids->count, more, count * sizeof *more);
    ids->count += count;
    return HT_OK;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of a piece "<0xNN>", or -1. */
static int byte_of_piece(const char *raw, size_t size) {
    if (size != 6 || memcmp(raw, "<0x", 3) != 0 || raw[5] != '>') return -1;
    int high = hex_digit(raw[3]), low = hex_digit(raw[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static ht_status append_surface(ht_text *text, const char *raw, size_t size, ht_error *err) {
    ht_status status = HT_OK;
    for (size_t i = 0; i < size && status == HT_OK;) {
        if (size - i >= 3 && memcmp(raw + i, space_piece, 3) == 0) {
            status = ht_text_append(text, " ", 1, err);
            i += 3;
        } else {
            status = ht_text_append(text, raw + i, 1, err);
            i++;
        }
    }
    return status;
}

static ht_status read_piece(ht_tokenizer *t, const ht_spm_header *header, int32_t id, ht_error *err) {
    size_t size;
    const char *raw = ht_spm_piece(t->spm, id, &size);
    piece *p = &t->pieces[id];
    ht_status status;
    if (size == 0 || memchr(raw, '\0', size) || ht_utf8_valid(raw, size) != size)
        return ht_fail(err, HT_ERR_DATA, "piece %" PRId32 " is empty or not UTF-8", id);
    p->kind = ht_spm_kind_of(t->spm, id);
    p->leads = size >= 3 && memcmp(raw, space_piece, 3) == 0;
    p->raw = t->text.size;
    HT_TRY(ht_text_append(&t->text, raw, size + 1, err));
    p->surface = t->text.size;
    if (p->kind == HT_SPM_BYTE) {
        int byte = byte_of_piece(raw, size);
        if (byte < 0)
            return ht_fail(err, HT_ERR_DATA, "byte piece %" PRId32 " is \"%s\", not <0x00> to <0xFF>", id,
                           raw);
        HT_TRY(ht_text_append(&t->text, &(char){(char)byte}, 1, err));
    } else if (p->kind == HT_SPM_UNKNOWN) {
        HT_TRY(ht_text_append(&t->text, header->unk_surface, header->unk_surface_size, err));
    } else if (p->kind == HT_SPM_TEXT) {
        HT_TRY(append_surface(&t->text, raw, size, err));
    }
    p->surface_size = t->text.size - p->surface;
    status = HT_OK;
done:
    return status;
}

static ht_status read_model(ht_tokenizer *t, const char *bytes, size_t size, ht_error *err) {
    ht_spm_header header;
    ht_status status;
    if (size == 0) return ht_fail(err, HT_ERR_DATA, "the file is empty, not a sentencepiece model");
    HT_TRY(ht_spm_header_read(&header, bytes, size, err));
    if (header.whitespace_as_suffix)
        return ht_fail(err, HT_ERR_DATA, "models that treat white space as a suffix are not supported");
    if (header.has_denormalizer)
        return ht_fail(err, HT_ERR_DATA, "models with a denormalizer are not supported");
    if (ht_utf8_valid(header.unk_surface, header.unk_surface_size) != header.unk_surface_size)
        return ht_fail(err, HT_ERR_DATA, "the surface of unk is not UTF-8");
    HT_TRY(ht_spm_load(&t->spm, bytes, size, err));
    t->size = ht_spm_size(t->spm);
    t->bos = ht_spm_bos(t->spm);
    t->eos = ht_spm_eos(t->spm);
    t->unk = ht_spm_unk(t->spm);
    if (t->bos < 0 || t->eos < 0 || t->unk < 0)
        return ht_fail(err, HT_ERR_DATA, "the tokenizer has no %s piece",
                       t->bos < 0   ? "bos"
                       : t->eos < 0 ? "eos"
                                    : "unk");
    t->strip_one = header.add_dummy_prefix;
    t->strip_all = header.remove_extra_whitespaces;
    HT_TRY(ht_calloc(&t->pieces, (size_t)t->size, sizeof *t->pieces, err));
    for (int32_t id = 0; id < t->size; id++)
        HT_TRY(read_piece(t, &header, id, err));
    ht_hash(bytes, size, t->hash);
done:
    return status;
}

ht_status ht_tokenizer_open(ht_tokenizer **out, const char *path, ht_error *err) {
    ht_status status;
    ht_tokenizer *t = NULL;
    char *bytes = NULL;
    size_t size = 0;
    *out = NULL;
    HT_TRY(ht_file_read_limited(path, FILE_BYTES_MAX, &bytes, &size, err));
    HT_TRY(ht_calloc(&t, 1, sizeof *t, err));
    status = read_model(t, bytes, size, err);
    if (status != HT_OK) {
        ht_fail_in(err, "%s", path);
        goto done;
    }
    *out = t;
    t = NULL;
done:
    ht_tokenizer_free(t);
    free(bytes);
    return status;
}

void ht_tokenizer_free(ht_tokenizer *tokenizer) {
    if (!tokenizer) return;
    ht_spm_free(tokenizer->spm);
    free(tokenizer->pieces);
    ht_text_release(&tokenizer->text);
    free(tokenizer);
}

int32_t ht_tokenizer_size(const ht_tokenizer *tokenizer) {
    return tokenizer->size;
}

int32_t ht_tokenizer_bos(const ht_tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t ht_tokenizer_eos(const ht_tokenizer *tokenizer) {
    return tokenizer->eos;
}

int32_t ht_tokenizer_unk(const ht_tokenizer *tokenizer) {
    return tokenizer->unk;
}

const char *ht_tokenizer_hash(const ht_tokenizer *tokenizer) {
    return tokenizer->hash;
}

const char *ht_tokenizer_piece(const ht_tokenizer *tokenizer, int32_t id) {
    if (id < 0 || id >= tokenizer->size) return NULL;
    return tokenizer->text.data + tokenizer->pieces[id].raw;
}

ht_status ht_tokenizer_encode(const ht_tokenizer *tokenizer, const char *text, size_t size, ht_ids *ids,
                              ht_error *err) {
    if (size > TEXT_MAX)
        return ht_fail(err, HT_ERR_DATA, "text of %zu bytes is above the limit of %zu", size, TEXT_MAX);
    size_t valid = ht_utf8_valid(text, size);
    if (valid != size) return ht_fail(err, HT_ERR_DATA, "text is not UTF-8 at byte %zu of %zu", valid, size);
    return ht_spm_encode(tokenizer->spm, text, size, ids, err);
}

void ht_text_stream_init(ht_text_stream *stream, const ht_tokenizer *tokenizer, ht_text_place place) {
    *stream = (ht_text_stream){.tokenizer = tokenizer, .at_start = place == HT_TEXT_BEGINS};
}

/* Writes the characters that the pending bytes complete; all of them at the end of a run of byte pieces,
 * where what spells no character becomes U+FFFD a byte. */
static ht_status write_pending(ht_text_stream *stream, int run_ends, ht_text *text, ht_error *err) {
    while (stream->pending_size > 0) {
        int length = ht_utf8_read(stream->pending, stream->pending_size);
        if (length == 0 && !run_ends) return HT_OK;
        size_t used = length > 0 ? (size_t)length : 1;
        ht_status status = length > 0 ? ht_text_append(text, stream->pending, used, err)
                                      : ht_text_append(text, replacement, sizeof replacement - 1, err);
        if (status != HT_OK) return status;
        stream->pending_size -= used;
        memmove(stream->pending, stream->pending + used, stream->pending_size);
    }
    return HT_OK;
}

static ht_status push_one(ht_text_stream *stream, const piece *p, ht_text *text, ht_error *err) {
    const ht_tokenizer *t = stream->tokenizer;
    const char *surface = t->text.data + p->surface;
    size_t size = p->surface_size;
    if (p->kind == HT_SPM_BYTE) {
        stream->pending[stream->pending_size++] = surface[0];
        stream->at_start = 0;
        return write_pending(stream, 0, text, err);
    }
    ht_status status = write_pending(stream, 1, text, err);
    if (status != HT_OK || size == 0) return status;
    if (stream->at_start && p->kind == HT_SPM_TEXT && p->leads && (t->strip_one || t->strip_all)) {
        surface++;
        size--;
        /* With strip_all every leading piece loses its space until a piece leaves some text. */
        if (!t->strip_all || size > 0) stream->at_start = 0;
    } else {
        stream->at_start = 0;
    }
    return ht_text_append(text, surface, size, err);
}

ht_status ht_text_stream_push(ht_text_stream *stream, const int32_t *ids, size_t count, ht_text *text,
                              ht_error *err) {
    const ht_tokenizer *t = stream->tokenizer;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= t->size)
            return ht_fail(err, HT_ERR_DATA, "token %zu has id %" PRId32 ", outside [0, %" PRId32 ")", i,
                           ids[i], t->size);
    for (size_t i = 0; i < count; i++) {
        ht_status status = push_one(stream, &t->pieces[ids[i]], text, err);
        if (status != HT_OK) return status;
    }
    return HT_OK;
}

ht_status ht_text_stream_finish(ht_text_stream *stream, ht_text *text, ht_error *err) {
    return write_pending(stream, 1, text, err);
}

ht_status ht_tokenizer_decode(const ht_tokenizer *tokenizer, const int32_t *ids, size_t count, ht_text *text,
                              ht_error *err) {
    ht_text_stream stream;
    size_t before = text->size;
    ht_text_stream_init(&stream, tokenizer, HT_TEXT_BEGINS);
    ht_status status = ht_text_append(text, "", 0, err); /* so that no ids give "" and not NULL */
    if (status == HT_OK) status = ht_text_stream_push(&stream, ids, count, text, err);
    if (status == HT_OK) status = ht_text_stream_finish(&stream, text, err);
    if (status != HT_OK && text->data) {
        text->size = before;
        text->data[before] = '\0';
    }
    return status;
}
