#include "annotations/words.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

static int is_word_byte(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c >= 128;
}

static int ends_sentence(char c) {
    return c == '.' || c == '!' || c == '?';
}

ht_status ht_words_init(ht_words *words, const char *text, ht_error *err) {
    ht_status status;
    memset(words, 0, sizeof *words);
    size_t length = strlen(text), used = 0;
    HT_TRY(ht_calloc(&words->buffer, 2 * length + 1, 1, err)); /* every word and its NUL */
    HT_TRY(ht_calloc(&words->word, length + 1, sizeof *words->word, err));
    int sentence = 0, inside = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c > ' ') words->last = (char)c;
        if (is_word_byte(c)) {
            if (!inside) words->word[words->count++] = (ht_word){&words->buffer[used], 0, sentence};
            words->buffer[used++] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
            inside = 1;
            continue;
        }
        if (inside && c == '\'' && is_word_byte((unsigned char)text[i + 1])) continue;
        if (inside) words->buffer[used++] = '\0';
        inside = 0;
        if (c == '\0' || strchr(",.!?:;-", c) == NULL) continue;
        if (words->count > 0 && words->word[words->count - 1].after == 0)
            words->word[words->count - 1].after = (char)c;
        if (ends_sentence((char)c) && words->count > 0 && words->word[words->count - 1].sentence == sentence)
            sentence++;
    }
    words->sentences = words->count > 0 ? words->word[words->count - 1].sentence + 1 : 0;
done:
    return status;
}

void ht_words_release(ht_words *words) {
    free(words->word);
    free(words->buffer);
    memset(words, 0, sizeof *words);
}

int ht_words_match(const ht_words *words, int at, const char *phrase) {
    while (*phrase != '\0') {
        size_t length = strcspn(phrase, " ");
        if (at >= words->count || strncmp(words->word[at].text, phrase, length) != 0 ||
            words->word[at].text[length] != '\0')
            return 0;
        at++;
        phrase += length;
        phrase += strspn(phrase, " ");
    }
    return 1;
}

int ht_words_find(const ht_words *words, int from, int to, const char *phrase) {
    for (int i = from; i < to && i < words->count; i++)
        if (ht_words_match(words, i, phrase)) return i;
    return -1;
}
