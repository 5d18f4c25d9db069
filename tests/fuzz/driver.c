/*
 * driver.c: runs a target where there is no libFuzzer: every seed as it is, then so many mutations of seeds.
 * Blind, but the seeds reach deep, and the same everywhere: mutation i is a function of (seeds, i) alone.
 *
 * Usage: TARGET MUTATIONS SEED_FOLDER [DICTIONARY]; with TARGET FILE it runs one file, such as a finding of
 * libFuzzer.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "tests/fuzz/fuzz.h"

#define INPUT_MAX ((size_t)1 << 16) /* bytes: seeds are a few thousand */
#define EDITS_MAX 6                 /* of one mutation */

typedef struct bytes {
    char *data;
    size_t size;
} bytes;

typedef struct list {
    bytes *items;
    size_t count, capacity;
} list;

static void add(list *l, bytes item) {
    ht_error err = HT_ERROR_INIT;
    fuzz_must(ht_grow(&l->items, &l->capacity, l->count + 1, sizeof *l->items, &err), &err);
    l->items[l->count++] = item;
}

static void read_file(list *l, const char *path) {
    ht_error err = HT_ERROR_INIT;
    bytes item;
    fuzz_must(ht_file_read(path, &item.data, &item.size, &err), &err);
    add(l, item);
}

/* In the order of the names: the file system's is not the same everywhere. */
static void read_folder(list *seeds, const char *folder) {
    char path[HT_PATH_MAX];
    ht_error err = HT_ERROR_INIT;
    struct dirent **names;
    int count = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        fuzz_must(ht_path_join(path, folder, names[i]->d_name, &err), &err);
        if (names[i]->d_name[0] != '.') read_file(seeds, path);
        free(names[i]);
    }
    if (count >= 0) free(names);
}

/* Lines "WORD" in quotes, with \xNN, \" and \\ as libFuzzer has them; # begins a comment. */
static void read_dictionary(list *words, const char *path) {
    list file = {0};
    read_file(&file, path);
    for (char *line = strtok(file.items[0].data, "\n"); line; line = strtok(NULL, "\n")) {
        char *at = strchr(line, '"'), *to = line;
        if (line[0] == '#' || !at) continue;
        for (at++; *at && *at != '"'; at++) {
            unsigned code;
            if (at[0] == '\\' && at[1] == 'x' && sscanf(at + 2, "%2x", &code) == 1) {
                *to++ = (char)code;
                at += 3;
            } else {
                if (at[0] == '\\') at++;
                *to++ = *at;
            }
        }
        ht_error err = HT_ERROR_INIT;
        bytes word = {NULL, (size_t)(to - line)};
        fuzz_must(ht_calloc(&word.data, word.size, 1, &err), &err);
        memcpy(word.data, line, word.size);
        add(words, word);
    }
    free(file.items[0].data);
    free(file.items);
}

/* Numbers below n (at least 1), a stream for each mutation. */
typedef struct dice {
    uint64_t mutation, index;
} dice;

static size_t roll(dice *d, size_t n) {
    return (size_t)ht_rng_below(0, d->mutation, d->index++, n);
}

/* Puts `with` in the place of [at, at + taken). */
static void replace(bytes *input, size_t at, size_t taken, const char *with, size_t size) {
    if (input->size - taken + size > INPUT_MAX) return;
    memmove(input->data + at + size, input->data + at + taken, input->size - at - taken);
    if (size) memcpy(input->data + at, with, size);
    input->size += size - taken;
}

/* A number that limits are made of, in one of the forms that files have it in. */
static void put_number(dice *d, bytes *input, size_t at) {
    static const uint64_t numbers[] = {
        0,          1,         UINT64_MAX, INT8_MAX,          UINT8_MAX, INT16_MAX,   UINT16_MAX, INT32_MAX,
        UINT32_MAX, INT64_MAX, 1u << 31,   UINT64_C(1) << 63, 1u << 20,  1000000000u, 4096,       65536};
    char text[32];
    uint64_t number = numbers[roll(d, sizeof numbers / sizeof *numbers)];
    size_t left = input->size - at, width = (size_t)1 << roll(d, 4);
    switch (roll(d, 3)) {
    case 0: /* binary, over what is there */
        replace(input, at, width < left ? width : left, (const char *)&number, width);
        break;
    case 1: /* decimal, for the digits that are there */
        snprintf(text, sizeof text, "%s%" PRIu64, roll(d, 4) ? "" : "-", number);
        replace(input, at, strspn(input->data + at, "0123456789"), text, strlen(text));
        break;
    default:
        snprintf(text, sizeof text, "%ce%d", (int)('0' + roll(d, 10)), (int)roll(d, 400));
        replace(input, at, strspn(input->data + at, "0123456789"), text, strlen(text));
    }
}

static void edit(dice *d, bytes *input, const list *seeds, const list *words) {
    input->data[input->size] = '\0';
    size_t at = roll(d, input->size + 1), left = input->size - at, some = roll(d, left < 64 ? left + 1 : 64);
    char byte = (char)roll(d, 256);
    switch (roll(d, 8)) {
    case 0:
        if (left) input->data[at] = (char)(input->data[at] ^ 1 << roll(d, 8));
        break;
    case 1:
        replace(input, at, left != 0, &byte, 1);
        break;
    case 2:
        replace(input, at, some, NULL, 0);
        break;
    case 3: { /* again, some times: nesting, repeated keys */
        char piece[64];
        memcpy(piece, input->data + at, some);
        for (size_t n = (size_t)1 << roll(d, 10); n && some; n--)
            replace(input, at, 0, piece, some);
        break;
    }
    case 4:
    case 5: {
        const bytes *word = words->count ? &words->items[roll(d, words->count)] : NULL;
        if (word) replace(input, at, roll(d, 2) ? some : 0, word->data, word->size);
        break;
    }
    case 6: { /* the rest of another seed */
        const bytes *other = &seeds->items[roll(d, seeds->count)];
        size_t from = roll(d, other->size + 1);
        replace(input, at, left, other->data + from, other->size - from);
        break;
    }
    default:
        put_number(d, input, at);
    }
}

/* An exact copy, so that a byte read behind its end is seen. */
static void run(const bytes *input) {
    ht_error err = HT_ERROR_INIT;
    uint8_t *copy;
    fuzz_must(ht_calloc(&copy, input->size, 1, &err), &err);
    if (input->size) memcpy(copy, input->data, input->size);
    LLVMFuzzerTestOneInput(copy, input->size);
    free(copy);
}

static void run_mutations(uint64_t count, const list *seeds, const list *words) {
    static char buffer[INPUT_MAX + 1];
    for (uint64_t i = 0; i < count; i++) {
        dice d = {.mutation = i};
        const bytes *seed = &seeds->items[roll(&d, seeds->count)];
        bytes input = {buffer, seed->size};
        memcpy(buffer, seed->data, seed->size);
        for (size_t edits = 1 + roll(&d, EDITS_MAX); edits; edits--)
            edit(&d, &input, seeds, words);
        run(&input);
    }
}

static void release(list *l) {
    for (size_t i = 0; i < l->count; i++)
        free(l->items[i].data);
    free(l->items);
}

int main(int argc, char **argv) {
    list seeds = {0}, words = {0};
    if (argc < 2 || LLVMFuzzerInitialize(&argc, &argv) != 0) return 2;
    if (argc == 2) read_file(&seeds, argv[1]);
    if (argc > 2) read_folder(&seeds, argv[2]);
    if (argc > 3) read_dictionary(&words, argv[3]);
    for (size_t i = 0; i < seeds.count; i++)
        run(&seeds.items[i]);
    if (argc > 2 && seeds.count) run_mutations(strtoull(argv[1], NULL, 10), &seeds, &words);
    printf("%zu seeds, %s mutations\n", seeds.count, argc > 2 ? argv[1] : "no");
    release(&seeds);
    release(&words);
    return seeds.count == 0;
}
