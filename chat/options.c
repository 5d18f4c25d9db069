#include <unistd.h>

#include "chat/chat.h"
#include "core/backend/profile.h"

/* In the order of ht_template. */
static const char *const template_names[] = {"llama2", "none", NULL};

static const ht_option options[] = {
    HT_OPT_PATH(ht_chat_config, model, "model", NULL, HT_OPTION_REQUIRED, "model folder"),
    HT_OPT_STRING(ht_chat_config, prompt, "prompt", NULL, 0, "answer this one prompt, on standard output"),
    HT_OPT_PATH(ht_chat_config, input, "input", NULL, 0,
                "answer every line of a JSONL file: {\"prompt\": text} or {\"messages\": [...]}"),
    HT_OPT_STRING(ht_chat_config, system, "system", NULL, 0, "system message; default: none"),
    HT_OPT_CHOICE(ht_chat_config, which, "template", "llama2", template_names, 0,
                  "chat format; none: continue the prompt as raw text"),
    HT_OPT_FLAG(ht_chat_config, json, "json", 0, "write JSON, one object an answer"),
    HT_OPT_FLAG_ON(ht_chat_config, sample, "sample", 0, "draw tokens; off: always the most probable one"),
    HT_OPT_FLOAT(ht_chat_config, temperature, "temperature", "0.6", 0, 1000, 0,
                 "divides the logits; 0: no sampling"),
    HT_OPT_FLOAT(ht_chat_config, top_p, "top_p", "0.9", 1e-6, 1, 0,
                 "draw from the most probable tokens of this mass; 1: off"),
    HT_OPT_INT(ht_chat_config, top_k, "top_k", "0", 0, 1000000000, 0,
               "draw from the K most probable tokens; 0: off"),
    HT_OPT_INT(ht_chat_config, max_new_tokens, "max_new_tokens", "256", 1, 1000000000, 0,
               "longest answer, tokens; the model's positions also end it"),
    HT_OPT_INT(ht_chat_config, prompt_lookup, "prompt_lookup", "0", 0, 255, 0,
               "tokens proposed a pass from the text so far; same output, faster when it repeats; 0: off"),
    HT_OPT_FLAG(ht_chat_config, return_full_text, "return_full_text", 0,
                "give the prompt's text before the answer's"),
    HT_OPT_FLAG(ht_chat_config, ignore_eos, "ignore_eos", 0, "go on after the end-of-sequence token"),
    HT_OPT_INT(ht_chat_config, seed, "seed", "1", 0, 9007199254740992.0, 0, "seed of every random number"),
    HT_OPT_INT(ht_chat_config, batch, "batch", "16", 1, 256, 0, "prompts of --input answered at once"),
    HT_DEVICE_OPTIONS(ht_chat_config),
    HT_PROFILE_OPTION(ht_chat_config),
};

static ht_status run(void *config, const ht_invocation *invocation, ht_error *err) {
    (void)invocation;
    ht_chat_streams streams = {.in = STDIN_FILENO,
                               .out = stdout,
                               .in_terminal = isatty(STDIN_FILENO),
                               .out_terminal = isatty(STDOUT_FILENO)};
    return ht_chat_run(config, &streams, err);
}

const ht_command ht_chat_command = {
    .summary =
        "Talk to a model. With neither --prompt nor --input, standard input is a dialogue, a message a line.",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(ht_chat_config),
    .run = run,
};
