#include "core/tokenizer/text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

void ht_text_release(ht_text *text) {
    free(text->data);
    *text = (ht_text){0};
}

void ht_text_clear(ht_text *text) {
    text->size = 0;
    if (text->data) text->data[0] = '\0';
}

ht_status ht_text_append(ht_text *text, const char *bytes, size_t size, ht_error *err) {
    if (size > SIZE_MAX - text->size - 1)
        return ht_fail(err, HT_ERR_NOMEM, "text of %zu bytes cannot grow by %zu", text->size, size);
    ht_status status = ht_grow(&text->data, &text->capacity, text->size + size + 1, 1, err);
    if (status != HT_OK) return status;
    if (size > 0) memcpy(text->data + text->size, bytes, size);
    text->size += size;
    text->data[text->size] = '\0';
    return HT_OK;
}

int ht_utf8_read(const char *bytes, size_t size) {
    if (size == 0) return 0;
    const unsigned char *b = (const unsigned char *)bytes;
    int length;
    unsigned char low = 0x80, high = 0xBF; /* allowed range of the second byte */
    if (b[0] < 0x80) return 1;
    if (b[0] < 0xC2) return -1;
    if (b[0] < 0xE0) {
        length = 2;
    } else if (b[0] < 0xF0) {
        length = 3;
        if (b[0] == 0xE0) low = 0xA0;  /* overlong below */
        if (b[0] == 0xED) high = 0x9F; /* surrogates above */
    } else if (b[0] < 0xF5) {
        length = 4;
        if (b[0] == 0xF0) low = 0x90;
        if (b[0] == 0xF4) high = 0x8F; /* above U+10FFFF */
    } else {
        return -1;
    }
    for (int i = 1; i < length; i++) {
        if ((size_t)i == size) return 0;
        if (b[i] < low || b[i] > high) return -1;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

size_t ht_utf8_valid(const char *bytes, size_t size) {
    size_t at = 0;
    while (at < size) {
        uint64_t block;
        /* Eight ASCII bytes at a time: most text is. */
        while (size - at >= sizeof block) {
            memcpy(&block, bytes + at, sizeof block);
            if (block & 0x8080808080808080u) break;
            at += sizeof block;
        }
        if (at == size) break;
        int length = ht_utf8_read(bytes + at, size - at);
        if (length <= 0) break;
        at += (size_t)length;
    }
    return at;
}

/* Value of the valid character of `length` bytes at b. */
static uint32_t character(const char *bytes, int length) {
    const unsigned char *b = (const unsigned char *)bytes;
    if (length == 1) return b[0];
    uint32_t value = b[0] & (0x7Fu >> length);
    for (int i = 1; i < length; i++)
        value = value << 6 | (b[i] & 0x3Fu);
    return value;
}

/* Python's str.isspace: bidirectional type WS, B or S, or category Zs. */
static int is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

void ht_text_strip(const char **bytes, size_t *size, ht_strip edges) {
    const char *begin = *bytes, *end = begin + *size;
    while (begin < end) {
        int length = ht_utf8_read(begin, (size_t)(end - begin));
        if (length <= 0 || !is_space(character(begin, length))) break;
        begin += length;
    }
    while (edges == HT_STRIP_BOTH && end > begin) {
        const char *last = end - 1;
        while (last > begin && ((unsigned char)*last & 0xC0) == 0x80)
            last--;
        int length = ht_utf8_read(last, (size_t)(end - last));
        if (length <= 0 || last + length != end || !is_space(character(last, length))) break;
        end = last;
    }
    *bytes = begin;
    *size = (size_t)(end - begin);
}
