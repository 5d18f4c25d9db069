/*
 * support.h: a small model folder with the tokenizer tests' tokenizer, and runs of halter-chat on it.
 */
#ifndef TESTS_UNIT_CHAT_SUPPORT_H
#define TESTS_UNIT_CHAT_SUPPORT_H

#include "tests/unit/tokenizer/trained.h"

#include <unistd.h>

#include "chat/chat.h"
#include "core/base/log.h"
#include "core/checkpoint/model_folder.h"
#include "tests/unit/small_llama.h"

enum { POSITIONS = 160 };

typedef struct world {
    fixture *tokenizer;
    char model[96];
} world;

static char said[8192]; /* what the log got, one line after the other */

static inline void keep_line(ht_log_level level, const char *line) {
    size_t used = strlen(said);
    (void)level;
    snprintf(said + used, sizeof said - used, "%s\n", line);
}

static inline ht_status save_model(const world *w, ht_head head, const char *folder, ht_error *err) {
    ht_status status = HT_OK;
    ht_backend *be = NULL;
    ht_llama model = {0};
    ht_arena arena;
    ht_lineage lineage = {.stage = "sft"};
    ht_llama_config config = small_llama(ht_tokenizer_size(w->tokenizer->tokenizer), POSITIONS);
    config.head = head;
    ht_arena_init(&arena, 0);
    HT_TRY(ht_backend_open(&be, HT_BACKEND_CPU, 1, err));
    ht_backend_arena(be, &arena);
    HT_TRY(ht_llama_init(&model, be, &arena, &config, HT_F32, err));
    HT_TRY(ht_llama_randomize(&model, 5, err));
    if (head == HT_HEAD_LM) widen_logits(&model);
    HT_TRY(ht_model_folder_save(folder, &model, HT_F32, w->tokenizer->model_path, &lineage, err));
done:
    ht_llama_free(&model);
    ht_arena_clear(&arena);
    ht_backend_close(be);
    return status;
}

static inline int world_make(void **state) {
    world *w = calloc(1, sizeof *w);
    ht_error err = HT_ERROR_INIT;
    void *tokenizer = NULL;
    if (fixture_make(&tokenizer)) return -1;
    w->tokenizer = tokenizer;
    snprintf(w->model, sizeof w->model, "%s/model", w->tokenizer->folder);
    ht_log_set_sink(keep_line);
    *state = w;
    return save_model(w, HT_HEAD_LM, w->model, &err) == HT_OK ? 0 : -1;
}

static inline int world_drop(void **state) {
    world *w = *state;
    void *tokenizer = w->tokenizer;
    ht_log_set_sink(NULL);
    free(w);
    return fixture_drop(&tokenizer);
}

/* A finished run. */
typedef struct outcome {
    ht_status status;
    char message[1024];
    char *out; /* of `size` bytes and a NUL */
    size_t size;
} outcome;

static inline void outcome_release(outcome *o) {
    free(o->out);
    o->out = NULL;
}

static int by_hand; /* a person types the input of the next runs */

/* Runs with command-line words (NULL-terminated; --model and --threads are added), `input` on standard input.
 */
static inline outcome run_chat_to(const world *w, const char *input, const char *const *words, FILE *out) {
    outcome o = {0};
    ht_error err = HT_ERROR_INIT;
    ht_chat_config config = {0};
    json_t *resolved = NULL;
    char **arguments = NULL;
    size_t argument_count = 0;
    char *argv[32] = {(char *)"halter-chat", (char *)"--model", (char *)w->model, (char *)"--threads",
                      (char *)"1"};
    int argc = 5;
    for (; words && *words; words++)
        argv[argc++] = (char *)*words;
    said[0] = '\0';
    o.status =
        ht_config_parse(&ht_chat_command, argc, argv, &config, &resolved, &arguments, &argument_count, &err);
    if (o.status == HT_OK) {
        FILE *in = tmpfile();
        assert_non_null(in);
        assert_int_equal(fwrite(input, 1, strlen(input), in), strlen(input));
        rewind(in);
        ht_chat_streams streams = {.in = fileno(in), .out = out, .in_terminal = by_hand};
        o.status = ht_chat_run(&config, &streams, &err);
        fclose(in);
    }
    memcpy(o.message, err.message, sizeof o.message);
    json_decref(resolved);
    free(arguments);
    ht_config_release(&ht_chat_command, &config);
    return o;
}

/* The same, and what was written is kept. */
static inline outcome run_chat(const world *w, const char *input, const char *const *words) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    outcome o = run_chat_to(w, input, words, out);
    fclose(out);
    o.out = text;
    o.size = size;
    return o;
}

#define RUN(w, input, ...) run_chat(w, input, (const char *const[]){__VA_ARGS__, NULL})

static inline void assert_run(const outcome *o) {
    if (o->status != HT_OK) fail_msg("status %d: %s", (int)o->status, o->message);
}

#endif
