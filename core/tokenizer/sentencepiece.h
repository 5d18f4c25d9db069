/*
 * sentencepiece.h: the C face of SentencePiece; internal to core/tokenizer.
 *
 * No C++ exception crosses it, nothing is printed.
 */
#ifndef HT_TOKENIZER_SENTENCEPIECE_H
#define HT_TOKENIZER_SENTENCEPIECE_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"
#include "core/tokenizer/tokenizer.h"

typedef struct ht_spm ht_spm;

typedef enum ht_spm_kind { HT_SPM_TEXT, HT_SPM_CONTROL, HT_SPM_UNKNOWN, HT_SPM_BYTE } ht_spm_kind;

/* *out = the model in `size` bytes (not kept). HT_ERR_DATA with SentencePiece's reason. */
ht_status ht_spm_load(ht_spm **out, const char *bytes, size_t size, ht_error *err);
void ht_spm_free(ht_spm *spm);

int32_t ht_spm_size(const ht_spm *spm);
int32_t ht_spm_bos(const ht_spm *spm); /* -1: none; also below */
int32_t ht_spm_eos(const ht_spm *spm);
int32_t ht_spm_unk(const ht_spm *spm);

/* The piece of an id in [0, size): borrowed bytes, *size of them. */
const char *ht_spm_piece(const ht_spm *spm, int32_t id, size_t *size);
ht_spm_kind ht_spm_kind_of(const ht_spm *spm, int32_t id);

/* Appends the ids of valid UTF-8 text. Thread-safe. */
ht_status ht_spm_encode(const ht_spm *spm, const char *text, size_t size, ht_ids *ids, ht_error *err);

/* A source of training lines: 1 and the next line (borrowed until the next call), or 0 at the end. */
typedef struct ht_spm_lines {
    int (*next)(void *owner, const char **line, size_t *size);
    void *owner;
} ht_spm_lines;

/* *model = the serialised model trained on the lines, of vocab_size pieces or as many as the text gives; new
 * memory, to be released with free(). HT_ERR_DATA with SentencePiece's reason. */
ht_status ht_spm_train(char **model, size_t *model_size, int32_t vocab_size, ht_spm_lines lines,
                       ht_error *err);

/*
 * What a model file says beyond its pieces, read from its protocol buffer directly, as the library's face
 * does not show it. Source: sentencepiece_model.proto.
 */
typedef struct ht_spm_header {
    int64_t pieces;
    int has_trainer, has_normalizer, has_denormalizer;
    int whitespace_as_suffix;
    int add_dummy_prefix, remove_extra_whitespaces;
    const char *unk_surface; /* borrowed from the bytes, unk_surface_size of them */
    size_t unk_surface_size;
} ht_spm_header;

/* HT_ERR_DATA with the byte offset when the bytes are no protocol buffer of a model. */
ht_status ht_spm_header_read(ht_spm_header *header, const char *bytes, size_t size, ht_error *err);

#endif
