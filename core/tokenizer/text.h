/*
 * text.h: growing UTF-8 text.
 *
 * All text inside the toolkit is valid UTF-8: it is checked where it enters, and nothing is replaced in
 * silence.
 */
#ifndef HT_TOKENIZER_TEXT_H
#define HT_TOKENIZER_TEXT_H

#include <stddef.h>

#include "core/base/error.h"

/* Bytes with a NUL behind the last one. {0} is an empty text whose data may be NULL. */
typedef struct ht_text {
    char *data;
    size_t size; /* bytes, without the NUL */
    size_t capacity;
} ht_text;

/* Frees the memory; the text is empty and may be used again. */
void ht_text_release(ht_text *text);

/* Empty, memory kept. */
void ht_text_clear(ht_text *text);

/* Appends `size` bytes. HT_ERR_NOMEM leaves the text as it was. */
ht_status ht_text_append(ht_text *text, const char *bytes, size_t size, ht_error *err);

/*
 * Reads one character of at most `size` bytes: > 0 its length in bytes; 0 when the bytes are the beginning of
 * one (also when size is 0); -1 when the first byte begins no character. Overlong forms, surrogates and
 * values above U+10FFFF are invalid. Source: Unicode 15, table 3-7.
 */
int ht_utf8_read(const char *bytes, size_t size);

/* Number of leading bytes that are valid UTF-8; equal to size when all are. */
size_t ht_utf8_valid(const char *bytes, size_t size);

typedef enum ht_strip { HT_STRIP_BOTH, HT_STRIP_LEFT } ht_strip;

/* Narrows [*bytes, *bytes + *size), valid UTF-8, as Python's str.strip() or str.lstrip() does: the same 29
 * characters count as white space, Unicode's too. */
void ht_text_strip(const char **bytes, size_t *size, ht_strip edges);

#endif
