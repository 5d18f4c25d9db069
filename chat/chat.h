/*
 * chat.h: halter-chat: talk to a model, answer one prompt, or answer a file of prompts.
 */
#ifndef HT_CHAT_CHAT_H
#define HT_CHAT_CHAT_H

#include <stdio.h>

#include "core/config/config.h"

/* docs/chat.md says what each means. Strings are empty where not given. */
typedef struct ht_chat_config {
    char *model, *system, *prompt, *input;
    int which; /* ht_template */
    int json, sample, return_full_text, ignore_eos;
    double temperature, top_p;
    int64_t top_k, max_new_tokens, prompt_lookup, seed, batch, threads;
    int backend; /* ht_backend_kind */
    int dtype;   /* ht_dtype_choice */
    int profile;
} ht_chat_config;

extern const ht_command ht_chat_command;

/* Where a run reads and writes; tests give it pipes. */
typedef struct ht_chat_streams {
    int in;          /* file descriptor: messages of a dialogue */
    FILE *out;       /* answers */
    int in_terminal; /* a person types: `in` gets a prompt sign, and a bad message does not end the dialogue
                      */
    int out_terminal;
} ht_chat_streams;

/*
 * Answers config->prompt, or the lines of config->input, or holds a dialogue with `streams->in`.
 *
 * HT_ERR_USAGE when options exclude each other; HT_ERR_DATA for a prompt that the template refuses or the
 * model has no room for (a line of a file by file and number); HT_INTERRUPTED, HT_TERMINATED when asked to
 * stop: what was answered so far has been written. A dialogue goes on after an answer that SIGINT stopped.
 */
ht_status ht_chat_run(const ht_chat_config *config, const ht_chat_streams *streams, ht_error *err);

#endif
