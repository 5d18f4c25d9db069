/*
 * The option tables of halter-evaluate.
 */
#include "core/model/llama.h"
#include "core/train/train.h"
#include "evaluate/evaluate.h"

#define PLACE_OPTIONS(S)                                                                                             \
    HT_DEVICE_OPTIONS(S),                                                                                            \
        HT_PROFILE_OPTION(S),                                                                                        \
        HT_OPT_FLAG(S, json, "json", 0, "print JSON instead of a table")

#define S ht_evaluate_config
#define SAMPLE_OPTIONS                                                                                               \
    HT_OPT_PATH(S, db, "db", NULL, HT_OPTION_REQUIRED, "database: prompts are read and responses go there"),         \
        HT_OPT_PATH(S, model, "model", NULL, HT_OPTION_REQUIRED, "model folder to evaluate"),                        \
        HT_OPT_PATH(S, helpful, "helpful", NULL, HT_OPTION_REQUIRED, "helpfulness reward model's folder"),           \
        HT_OPT_PATH(S, safe, "safe", NULL, HT_OPTION_REQUIRED, "safety reward model's folder"),                      \
        HT_OPT_CHOICE(S, split, "split", "test", ht_split_choices + 1, 0, "split of the prompts"),                   \
        HT_OPT_INT(S, prompts, "prompts", "0", 0, 1 << 24, 0,                                                        \
                   "prompts, spread evenly over the split and its kinds; 0: all"),                                   \
        HT_OPT_FLOAT(S, temperature, "temperature", "1", 0, 100, 0, "0: greedy; 1: the policy itself"),              \
        HT_OPT_FLOAT(S, top_p, "top_p", "1", 1e-6, 1, 0, "share of the probability that is sampled from"),              \
        HT_OPT_INT(S, max_new_tokens, "max_new_tokens", "512", 1, 1 << 20, 0, "longest response, tokens"),           \
        HT_OPT_INT(S, max_prompt_tokens, "max_prompt_tokens", "0", 0, 1 << 20, 0,                                    \
                   "longest prompt; 0: what the models' positions leave beside max_new_tokens"),                     \
        HT_OPT_CHOICE(S, too_long, "too_long", "error", ht_too_long_names, 0, "what to do with a longer prompt"),    \
        HT_OPT_INT(S, sequences, "sequences", "64", 1, HT_LOGIT_ROWS, 0,                                             \
                   "responses sampled at once; bounds the KV cache"),                                                \
        HT_OPT_INT(S, seed, "seed", "1", 0, 9007199254740992.0, 0, "seed of the sampling"), PLACE_OPTIONS(S)

static const ht_option model_options[] = {
    SAMPLE_OPTIONS,
    HT_OPT_PATH(S, against, "against", NULL, 0, "another model folder: win rate against it"),
};
static const ht_option compare_options[] = {
    SAMPLE_OPTIONS,
    HT_OPT_PATH(S, against, "against", NULL, HT_OPTION_REQUIRED, "model folder to compare with"),
};
#undef S

/* In the order of ht_documents. */
static const char *const document_names[] = {"blank-line", "line", "whole", NULL};
static const char *const template_names[] = {"none", NULL};

#define S ht_perplexity_config
static const ht_option perplexity_options[] = {
    HT_OPT_PATH(S, model, "model", NULL, HT_OPTION_REQUIRED, "model folder"),
    HT_OPT_PATH(S, text, "text", NULL, HT_OPTION_REQUIRED, "plain-text file"),
    HT_OPT_CHOICE(S, documents, "documents", "whole", document_names, 0,
                  "the file is one text, or documents that are separated so"),
    HT_OPT_CHOICE(S, which, "template", "none", template_names, 0, "plain text has none"),
    HT_OPT_INT(S, seq_len, "seq_len", "0", 0, 1 << 24, 0,
               "tokens a window, 2 at least; 0: the model's positions"),
    HT_OPT_INT(S, pass_tokens, "pass_tokens", "0", 0, 1 << 24, 0,
               "tokens a forward pass, a window at least; bounds memory"),
    PLACE_OPTIONS(S),
};
#undef S

static const ht_option table_options[] = {
    HT_OPT_PATH(ht_table_config, db, "db", NULL, HT_OPTION_REQUIRED, "database"),
    HT_OPT_STRINGS(ht_table_config, models, "models", NULL, 0,
                   "names of the versions to show, in this order; none given: all"),
    HT_OPT_PATH(ht_table_config, out, "out", NULL, 0, "JSON file to write besides"),
    HT_OPT_FLAG(ht_table_config, json, "json", 0, "print JSON instead of a table"),
};

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static const ht_command commands[] = {
    {.name = "model",
     .summary = "sample responses to held-out prompts and judge them by both reward models",
     .parts = {{model_options, COUNT(model_options), 0}},
     .config_size = sizeof(ht_evaluate_config),
     .run = ht_evaluate_model},
    {.name = "compare",
     .summary = "win rate of a model against another one, from the responses of their evaluations where there are such",
     .parts = {{compare_options, COUNT(compare_options), 0}},
     .config_size = sizeof(ht_evaluate_config),
     .run = ht_evaluate_compare},
    {.name = "perplexity",
     .summary = "mean negative log-likelihood a token of plain text",
     .parts = {{perplexity_options, COUNT(perplexity_options), 0}},
     .config_size = sizeof(ht_perplexity_config),
     .run = ht_evaluate_perplexity},
    {.name = "table",
     .summary = "the table of versions",
     .parts = {{table_options, COUNT(table_options), 0}},
     .config_size = sizeof(ht_table_config),
     .run = ht_evaluate_table},
};

const ht_program ht_evaluate_program = {.name = "halter-evaluate",
                                        .summary = "evaluates language models: rewards, win rates, perplexity, versions",
                                        .commands = commands,
                                        .command_count = COUNT(commands)};
