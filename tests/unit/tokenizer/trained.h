/*
 * trained.h: a small tokenizer for the tests, trained on the text below, and small helpers.
 */
#ifndef TESTS_UNIT_TOKENIZER_TRAINED_H
#define TESTS_UNIT_TOKENIZER_TRAINED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/files.h"
#include "core/tokenizer/tokenizer.h"

enum { TRAINED_VOCAB = 400 };

static const char trained_text[] =
    "The halter is put on the head of the llama, and the llama follows.\n"
    "A llama that is trained with a halter walks beside you; a llama that is not walks where it likes.\n"
    "Please say hello to the llama. Hello, llama! Hello there, how are you today?\n"
    "I am sorry, I cannot help you with that, but I can help you to find someone who can.\n"
    "What is the answer? The answer is 42, and in 2023 it was 42 as well.\n"
    "[INST] What can you tell me about the wool of the llama? [/INST] The wool is warm and light.\n"
    "[INST] How high do they live? [/INST] They live high in the mountains, at 3,500 metres and above.\n"
    "<<SYS>> You are a helpful, honest and careful assistant. <</SYS>>\n"
    "    Four spaces stand before this line, and  two  stand  between  its  words.\n"
    "Caf\xC3\xA9, na\xC3\xAFve, \xC3\xBC"
    "ber: letters with marks are letters too.\n"
    "It is better to ask and to listen than to guess and to be wrong.\n"
    "The answer that is chosen is better than the answer that is rejected.\n";

typedef struct fixture {
    char folder[64];
    char text_path[96];
    char model_path[96];
    ht_tokenizer *tokenizer;
} fixture;

static inline void write_file(const char *path, const void *data, size_t size) {
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, size, stream), size);
    assert_int_equal(fclose(stream), 0);
}

static inline int fixture_make(void **state) {
    ht_error err = HT_ERROR_INIT;
    fixture *f = calloc(1, sizeof *f);
    strcpy(f->folder, "/tmp/halter-test-tokenizer-XXXXXX");
    if (!mkdtemp(f->folder)) return -1;
    snprintf(f->text_path, sizeof f->text_path, "%s/text.txt", f->folder);
    snprintf(f->model_path, sizeof f->model_path, "%s/tokenizer.model", f->folder);
    write_file(f->text_path, trained_text, sizeof trained_text - 1);
    const char *paths[] = {f->text_path};
    if (ht_tokenizer_train(paths, 1, TRAINED_VOCAB, f->model_path, 0, &err) != HT_OK ||
        ht_tokenizer_open(&f->tokenizer, f->model_path, &err) != HT_OK) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    *state = f;
    return 0;
}

static inline int fixture_drop(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_tokenizer_free(f->tokenizer);
    ht_status status = ht_folder_remove(f->folder, &err);
    free(f);
    return status == HT_OK ? 0 : -1;
}

static inline void assert_ok(ht_status status, const ht_error *err) {
    if (status != HT_OK) fail_msg("status %d: %s", (int)status, err->message);
}

/* The call failed with this status, and its message holds `part`. */
static inline void assert_error(ht_status status, ht_status wanted, const ht_error *err, const char *part) {
    assert_int_equal(status, wanted);
    assert_int_equal(err->status, wanted);
    if (!strstr(err->message, part)) fail_msg("\"%s\" is not in \"%s\"", part, err->message);
}

static inline void append_encoded(const ht_tokenizer *tokenizer, const char *text, ht_ids *ids) {
    ht_error err = HT_ERROR_INIT;
    assert_ok(ht_tokenizer_encode(tokenizer, text, strlen(text), ids, &err), &err);
}

static inline void append_id(ht_ids *ids, int32_t id) {
    ht_error err = HT_ERROR_INIT;
    assert_ok(ht_ids_append(ids, &id, 1, &err), &err);
}

static inline void assert_ids(const ht_ids *ids, const int32_t *wanted, size_t count) {
    for (size_t i = 0; i < ids->count && i < count; i++)
        if (ids->data[i] != wanted[i]) fail_msg("id %zu is %d, not %d", i, (int)ids->data[i], (int)wanted[i]);
    assert_int_equal(ids->count, count);
}

#endif
