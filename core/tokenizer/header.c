/*
 * header.c: reads the settings in a model file. A protocol buffer is a list of (field, wire type, value); a
 * nested message is a value of bytes. Unknown fields are passed over, as the format wants.
 */
#include <inttypes.h>
#include <stdint.h>

#include "core/tokenizer/sentencepiece.h"

/* Field numbers of sentencepiece_model.proto. */
enum {
    MODEL_PIECE = 1,
    MODEL_TRAINER = 2,
    MODEL_NORMALIZER = 3,
    MODEL_DENORMALIZER = 5,
    TRAINER_WHITESPACE_AS_SUFFIX = 24,
    TRAINER_UNK_SURFACE = 44,
    NORMALIZER_CHARSMAP = 2,
    NORMALIZER_ADD_DUMMY_PREFIX = 3,
    NORMALIZER_REMOVE_EXTRA_WHITESPACES = 4
};

typedef struct cursor {
    const uint8_t *begin; /* of the file, for offsets in messages */
    const uint8_t *at, *end;
} cursor;

typedef struct field {
    uint64_t number, wire;
    uint64_t value; /* of a varint */
    cursor bytes;   /* of a length-delimited field */
} field;

static ht_status broken(const cursor *c, const char *what, ht_error *err) {
    return ht_fail(err, HT_ERR_DATA, "not a sentencepiece model, or cut short: %s at byte %td", what,
                   c->at - c->begin);
}

static ht_status read_varint(cursor *c, uint64_t *value, ht_error *err) {
    *value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (c->at == c->end) return broken(c, "the end inside a number", err);
        uint8_t byte = *c->at++;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return HT_OK;
    }
    return broken(c, "a number of more than 64 bits", err);
}

static ht_status read_field(cursor *c, field *f, ht_error *err) {
    uint64_t key, size = 0;
    ht_status status = read_varint(c, &key, err);
    if (status != HT_OK) return status;
    *f = (field){.number = key >> 3, .wire = key & 7};
    switch (f->wire) {
    case 0:
        return read_varint(c, &f->value, err);
    case 1:
        size = 8;
        break;
    case 2:
        status = read_varint(c, &size, err);
        if (status != HT_OK) return status;
        break;
    case 5:
        size = 4;
        break;
    default:
        return broken(c, "an unknown wire type", err);
    }
    if (size > (uint64_t)(c->end - c->at)) return broken(c, "a field longer than the file", err);
    f->bytes = (cursor){c->begin, c->at, c->at + size};
    c->at += size;
    return HT_OK;
}

static ht_status read_trainer(ht_spm_header *header, cursor c, ht_error *err) {
    while (c.at < c.end) {
        field f;
        ht_status status = read_field(&c, &f, err);
        if (status != HT_OK) return status;
        if (f.number == TRAINER_WHITESPACE_AS_SUFFIX && f.wire == 0)
            header->whitespace_as_suffix = f.value != 0;
        if (f.number == TRAINER_UNK_SURFACE && f.wire == 2) {
            header->unk_surface = (const char *)f.bytes.at;
            header->unk_surface_size = (size_t)(f.bytes.end - f.bytes.at);
        }
    }
    return HT_OK;
}

/* `header` NULL: only *has_rules (a character map is there) is wanted. */
static ht_status read_normalizer(ht_spm_header *header, int *has_rules, cursor c, ht_error *err) {
    *has_rules = 0;
    while (c.at < c.end) {
        field f;
        ht_status status = read_field(&c, &f, err);
        if (status != HT_OK) return status;
        if (f.number == NORMALIZER_CHARSMAP && f.wire == 2) *has_rules = f.bytes.end > f.bytes.at;
        if (header && f.number == NORMALIZER_ADD_DUMMY_PREFIX && f.wire == 0)
            header->add_dummy_prefix = f.value != 0;
        if (header && f.number == NORMALIZER_REMOVE_EXTRA_WHITESPACES && f.wire == 0)
            header->remove_extra_whitespaces = f.value != 0;
    }
    return HT_OK;
}

ht_status ht_spm_header_read(ht_spm_header *header, const char *bytes, size_t size, ht_error *err) {
    /* The defaults of the format; its surface for UNK is U+2047 between spaces. */
    static const char unk_surface[] = " \xE2\x81\x87 ";
    *header = (ht_spm_header){.add_dummy_prefix = 1,
                              .remove_extra_whitespaces = 1,
                              .unk_surface = unk_surface,
                              .unk_surface_size = sizeof unk_surface - 1};
    const uint8_t *begin = (const uint8_t *)bytes;
    cursor c = {begin, begin, begin + size};
    while (c.at < c.end) {
        field f;
        int has_rules = 0;
        ht_status status = read_field(&c, &f, err);
        if (status != HT_OK) return status;
        if (f.wire != 2) continue;
        if (f.number == MODEL_PIECE) {
            header->pieces++;
        } else if (f.number == MODEL_TRAINER) {
            header->has_trainer = 1;
            status = read_trainer(header, f.bytes, err);
        } else if (f.number == MODEL_NORMALIZER) {
            header->has_normalizer = 1;
            status = read_normalizer(header, &has_rules, f.bytes, err);
        } else if (f.number == MODEL_DENORMALIZER) {
            status = read_normalizer(NULL, &has_rules, f.bytes, err);
            header->has_denormalizer |= has_rules;
        }
        if (status != HT_OK) return status;
    }
    if (header->pieces == 0) return ht_fail(err, HT_ERR_DATA, "not a sentencepiece model: it has no pieces");
    /* Pieces come first in the file, then these two: a file that was cut between two fields shows here. */
    if (!header->has_trainer || !header->has_normalizer)
        return ht_fail(err, HT_ERR_DATA,
                       "not a sentencepiece model, or cut short: %" PRId64 " pieces and no %s settings",
                       header->pieces, header->has_trainer ? "normalizer" : "trainer");
    return HT_OK;
}
