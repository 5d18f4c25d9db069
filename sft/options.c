/*
 * The options of halter-sft.
 */
#include "core/generate/prompts.h"
#include "sft/sft.h"

static const char *const document_names[] = {"blank-line", "line", NULL};
static const char *const train_on_names[] = {"last", "all", NULL};

static const ht_option source_options[] = {
    HT_OPT_PATH(ht_sft_config, model, "model", NULL, 0,
                "model folder to start from; without it --text trains a new model of shape init.*"),
    HT_OPT_PATH(ht_sft_config, db, "db", NULL, HT_OPTION_RESUME_SAFE,
                "database: the demonstrations; metrics go there too"),
    HT_OPT_STRINGS(ht_sft_config, text, "text", NULL, 0,
                   "plain-text files to pretrain on, in place of demonstrations"),
};

static const ht_option train_options[] = {HT_TRAIN_OPTIONS("2e-5", "cosine", "0.1", "0.03", "0")};

static const ht_option data_options[] = {
    HT_OPT_INT(ht_data_config, seq_len, "data.seq_len", "4096", 8, 1 << 20, 0, "tokens a packed sequence"),
    HT_OPT_INT(ht_data_config, batch_size, "data.batch_size", "64", 1, 1 << 20, 0,
               "packed sequences an optimizer step"),
    HT_OPT_INT(ht_data_config, epochs, "data.epochs", "2", 1, 1000000, 0, "passes over the data"),
    HT_OPT_INT(ht_data_config, max_steps, "data.max_steps", "0", 0, 1000000000, 0,
               "most optimizer steps; 0: as many as the epochs have"),
    HT_OPT_STRINGS(ht_data_config, kinds, "data.kinds", "helpfulness,safety", 0,
                   "kinds of dialogues to take demonstrations of"),
    HT_OPT_STRINGS(ht_data_config, origins, "data.origins", "human,rejection", 0,
                   "origins of demonstrations: human, rejection"),
    HT_OPT_INT(ht_data_config, first_round, "data.first_round", "0", 0, 1000000, 0,
               "first round of demonstrations to take"),
    HT_OPT_INT(ht_data_config, last_round, "data.last_round", "-1", -1, 1000000, 0,
               "last round of demonstrations to take; -1: no end"),
    HT_OPT_INT(ht_data_config, rejection_round, "data.rejection_round", "-1", -1, 1000000, 0,
               "the one round of rejection-sampled demonstrations to take; -1: first_round to last_round"),
    HT_OPT_STRING(ht_data_config, batch, "data.batch", NULL, 0, "only demonstrations of this batch"),
    HT_OPT_CHOICE(ht_data_config, train_on, "data.train_on", "last", train_on_names, 0,
                  "answers of a dialogue that carry loss"),
    HT_OPT_CHOICE(ht_data_config, too_long, "data.too_long", "error", ht_too_long_names, 0,
                  "what to do with a demonstration longer than data.seq_len"),
    HT_OPT_CHOICE(ht_data_config, documents, "data.documents", "blank-line", document_names, 0,
                  "how the documents of a text are separated"),
    HT_OPT_FLOAT(ht_data_config, holdout, "data.holdout", "0.01", 0, 0.9, 0,
                 "share of a text's documents held out for evaluation"),
    HT_OPT_INT(ht_data_config, eval_examples, "data.eval_examples", "1000", 0, 1000000000, 0,
               "held-out examples an evaluation, the first ones; 0: all"),
};

static const ht_option init_options[] = {
    HT_OPT_INT(ht_init_config, dim, "init.dim", "256", 8, 1 << 20, 0, "width of a new model"),
    HT_OPT_INT(ht_init_config, layers, "init.layers", "4", 1, 4096, 0, "layers of a new model"),
    HT_OPT_INT(ht_init_config, heads, "init.heads", "4", 1, 4096, 0, "attention heads of a new model"),
    HT_OPT_INT(ht_init_config, kv_heads, "init.kv_heads", "0", 0, 4096, 0,
               "key/value heads of a new model; 0: as many as heads"),
    HT_OPT_INT(ht_init_config, ffn_dim, "init.ffn_dim", "0", 0, 1 << 22, 0,
               "feed-forward width of a new model; 0: 8/3 of the width, rounded up to a multiple of 32"),
    HT_OPT_INT(ht_init_config, max_positions, "init.max_positions", "4096", 8, 1 << 20, 0,
               "longest sequence of a new model, tokens"),
    HT_OPT_FLAG(ht_init_config, tied, "init.tied", 0, "the new model's output head shares its embedding"),
    HT_OPT_INT(ht_init_config, vocab_size, "init.vocab_size", "32000", 260, 1 << 24, 0,
               "pieces of the tokenizer that is trained when init.tokenizer is not given"),
    HT_OPT_PATH(ht_init_config, tokenizer, "init.tokenizer", NULL, 0,
                "tokenizer.model of a new model; without it one is trained on the text"),
};

#define PART(table, field)                                                                                   \
    { table, sizeof table / sizeof *table, offsetof(ht_sft_config, field) }

const ht_command ht_sft_command = {
    .summary = "Fine-tunes a model on demonstrations, or pretrains one on plain text.",
    .parts = {{source_options, sizeof source_options / sizeof *source_options, 0},
              PART(train_options, train),
              PART(data_options, data),
              PART(init_options, init)},
    .config_size = sizeof(ht_sft_config),
    .parallel = 1,
    .run = ht_sft_run,
};
