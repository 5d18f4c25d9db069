#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/tokenizer/tokenizer.h"

static char folder[256];

static void silent(ht_log_level level, const char *line) {
    (void)level;
    (void)line;
}

static void remove_folder(void) {
    ht_error ignored = HT_ERROR_INIT;
    (void)ht_folder_remove(folder, &ignored);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/halter-fuzz-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(folder)) {
        fprintf(stderr, "cannot create \"%s\"\n", folder);
        return -1;
    }
    ht_log_set_sink(silent);
    return atexit(remove_folder);
}

const char *fuzz_path(const char *name) {
    static char paths[16][512];
    static int turn;
    char *path = paths[turn++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void fuzz_write(const char *name, const void *data, size_t size) {
    FILE *file = fopen(fuzz_path(name), "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
        fprintf(stderr, "cannot write \"%s\"\n", fuzz_path(name));
        exit(1);
    }
}

void fuzz_write_text(const char *name, const char *text) {
    fuzz_write(name, text, strlen(text));
}

void fuzz_must(ht_status status, const ht_error *err) {
    if (status == HT_OK) return;
    fprintf(stderr, "%s\n", err->message);
    abort();
}

void fuzz_judge(ht_status status, ht_error *err) {
    int sound = status == err->status && status != HT_ERR_RUN && (status == HT_OK) == !err->message[0];
    if (!sound) {
        fprintf(stderr, "status %d, error %d: %s\n", (int)status, (int)err->status, err->message);
        abort();
    }
    *err = (ht_error)HT_ERROR_INIT;
}

void fuzz_train_tokenizer(const char *name) {
    static const char text[] =
        "The halter is put on the head of the llama, and the llama follows.\n"
        "Please say hello to the llama. Hello, llama! Hello there, how are you today?\n"
        "[INST] What can you tell me about the wool of the llama? [/INST] The wool is warm and light.\n"
        "<<SYS>> You are a helpful, honest and careful assistant. <</SYS>>\n";
    ht_error err = HT_ERROR_INIT;
    fuzz_write_text("tokenizer.txt", text);
    const char *paths[] = {fuzz_path("tokenizer.txt")};
    fuzz_must(ht_tokenizer_train(paths, 1, 310, fuzz_path(name), 0, &err), &err);
}
