/*
 * fuzz.h: what the fuzz targets share.
 *
 * A target (targets/NAME.c) is one LLVMFuzzerTestOneInput: it gives the bytes to the code that reads such a
 * file and throws the result away. A crash, a sanitizer's report, a leak, an endless loop and a broken
 * promise of error.h (fuzz_judge) are findings. Seeds are in corpus/NAME, words that random bytes would not
 * hit in dictionary/NAME.
 */
#ifndef HT_TESTS_FUZZ_H
#define HT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"

/* A face that libFuzzer knows by these names. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* "FOLDER/NAME", FOLDER being this process's own, removed at its end; valid for the next 15 calls. */
const char *fuzz_path(const char *name);

/* Writes a file below it (no temporary, no fsync: it is done thousands of times a second). */
void fuzz_write(const char *name, const void *data, size_t size);
void fuzz_write_text(const char *name, const char *text);

/* Aborts with the message unless the call succeeded: preparing a target. */
void fuzz_must(ht_status status, const ht_error *err);

/*
 * Aborts unless the outcome is one that a file may have: success without an error, or a failure that the
 * error repeats, with a message. HT_ERR_RUN is none: that is what our own mistakes give. Clears the error.
 */
void fuzz_judge(ht_status status, ht_error *err);

/* A small tokenizer, trained on fixed text into "FOLDER/NAME". */
void fuzz_train_tokenizer(const char *name);

#endif
