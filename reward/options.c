/*
 * The option tables of halter-reward.
 */
#include "core/generate/prompts.h"
#include "reward/reward.h"

static const ht_option train_loop_options[] = {HT_TRAIN_OPTIONS("1e-5", "cosine", "0.1", "0.03", "5")};

static const ht_option train_options[] = {
    HT_OPT_PATH(ht_reward_config, db, "db", NULL, HT_OPTION_REQUIRED | HT_OPTION_RESUME_SAFE, "database"),
    HT_OPT_PATH(ht_reward_config, model, "model", NULL, HT_OPTION_REQUIRED,
                "model folder to start from: a language model, or a reward model to train on"),
    HT_OPT_CHOICE(ht_reward_config, kind, "reward.kind", NULL, ht_kind_choices + 1, HT_OPTION_REQUIRED,
                  "what the model is to judge"),
    HT_OPT_CHOICE(ht_reward_config, margin, "reward.margin", "small", ht_margin_names, 0,
                  "margin by rating: small 0, 1/3, 2/3, 1; large 0, 1, 2, 3; table: reward.margin_table"),
    HT_OPT_FLOATS(ht_reward_config, margin_table, "reward.margin_table", NULL, -1000, 1000, 0,
                  "margins of negligibly, slightly, better, significantly"),
    HT_OPT_FLOAT(ht_reward_config, aux_weight, "reward.aux_weight", "-1", -1, 1000, 0,
                 "weight of the safe/unsafe loss; -1: 1 for safety, 0 for helpfulness"),
    HT_OPT_FLOAT(ht_reward_config, own_share, "reward.own_share", "-1", -1, 1, 0,
                 "share of own comparisons in an epoch; -1: 0.9 for safety, 0.5 for helpfulness"),
    HT_OPT_STRINGS(ht_reward_config, own_sources, "reward.own_sources", NULL, 0,
                   "sources of the kind that count as own; none given: all"),
    HT_OPT_STRINGS(ht_reward_config, sources, "data.sources", NULL, 0,
                   "sources of comparisons to take at all; none given: all"),
    HT_OPT_INT(ht_reward_config, rounds.first, "data.first_round", "0", 0, 1000000, 0,
               "first round of comparisons to take"),
    HT_OPT_INT(ht_reward_config, rounds.last, "data.last_round", "-1", -1, 1000000, 0,
               "last round of comparisons to take; -1: no end"),
    HT_OPT_INT(ht_reward_config, max_tokens, "data.max_tokens", "0", 0, 1 << 24, 0,
               "longest prompt with response; 0: the model's positions"),
    HT_OPT_CHOICE(ht_reward_config, too_long, "data.too_long", "error", ht_too_long_names, 0,
                  "what to do with a longer one"),
    HT_OPT_INT(ht_reward_config, batch_size, "data.batch_size", "512", 1, 1 << 20, 0,
               "pairs an optimizer step"),
    HT_OPT_INT(ht_reward_config, epochs, "data.epochs", "1", 1, 1000, 0,
               "times the own comparisons are seen"),
    HT_OPT_INT(ht_reward_config, eval_pairs, "data.eval_pairs", "1000", 0, 1 << 30, 0,
               "own comparisons of the test split to evaluate on; 0: all"),
};

static const ht_option place_options[] = {
    HT_OPT_PATH(ht_reward_place, model, "model", NULL, HT_OPTION_REQUIRED, "reward model folder"),
    HT_DEVICE_OPTIONS(ht_reward_place),
    HT_OPT_INT(ht_reward_place, pass_tokens, "pass_tokens", "0", 0, 1 << 24, 0,
               "tokens a forward pass, also the longest sequence; 0: the model's positions"),
};

#define ROWS_OPTIONS(SPLIT)                                                                                  \
    {                                                                                                        \
        HT_OPT_CHOICE(ht_reward_rows, split, "split", SPLIT, ht_split_choices, 0, "split of the dialogue"),  \
            HT_OPT_CHOICE(ht_reward_rows, kind, "kind", "all", ht_kind_choices, 0, "kind of the dialogue"),  \
            HT_OPT_INT(ht_reward_rows, rounds.first, "first_round", "0", 0, 1000000, 0,                      \
                       "first round of rows to take"),                                                       \
            HT_OPT_INT(ht_reward_rows, rounds.last, "last_round", "-1", -1, 1000000, 0,                      \
                       "last round of rows to take; -1: no end"),                                            \
            HT_OPT_STRING(ht_reward_rows, source, "source", NULL, 0,                                         \
                          "rows of this source; none given: all"),                                           \
    }
static const ht_option evaluate_rows[] = ROWS_OPTIONS("test");
static const ht_option apply_rows[] = ROWS_OPTIONS("all");

static const ht_option evaluate_options[] = {
    HT_OPT_PATH(ht_reward_evaluate_config, db, "db", NULL, HT_OPTION_REQUIRED, "database"),
    HT_OPT_CHOICE(ht_reward_evaluate_config, too_long, "too_long", "error", ht_too_long_names, 0,
                  "what to do with a comparison longer than a pass or the model's positions"),
    HT_OPT_FLAG(ht_reward_evaluate_config, json, "json", 0, "print JSON instead of a table"),
};

static const ht_option apply_options[] = {
    HT_OPT_PATH(ht_reward_apply_config, db, "db", NULL, 0, "database whose responses are scored"),
    HT_OPT_PATH(ht_reward_apply_config, input, "input", NULL, 0,
                "instead: JSON lines of {\"messages\": [...], \"response\": text}; -: standard input"),
    HT_OPT_STRING(ht_reward_apply_config, sampled_by, "sampled_by", NULL, 0,
                  "responses of the model of this name; none given: all, also those written by people"),
    HT_OPT_INT(ht_reward_apply_config, run, "run", "0", 0, 9007199254740992.0, 0,
               "responses of the run of this id; 0: all"),
    HT_OPT_FLAG(ht_reward_apply_config, json, "json", 0, "print the summary as JSON"),
};

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static const ht_command commands[] = {
    {.name = "train",
     .summary = "train a reward model on the database's comparisons",
     .parts = {{train_options, COUNT(train_options), 0},
               {train_loop_options, COUNT(train_loop_options), offsetof(ht_reward_config, train)}},
     .config_size = sizeof(ht_reward_config),
     .parallel = 1,
     .run = ht_reward_train},
    {.name = "evaluate",
     .summary = "accuracy, unsafe responses found and calibration on held-out comparisons",
     .parts = {{evaluate_options, COUNT(evaluate_options), 0},
               {place_options, COUNT(place_options), offsetof(ht_reward_evaluate_config, place)},
               {evaluate_rows, COUNT(evaluate_rows), offsetof(ht_reward_evaluate_config, rows)}},
     .config_size = sizeof(ht_reward_evaluate_config),
     .parallel = 1,
     .run = ht_reward_evaluate},
    {.name = "apply",
     .summary = "score responses of the database or of a file",
     .parts = {{apply_options, COUNT(apply_options), 0},
               {place_options, COUNT(place_options), offsetof(ht_reward_apply_config, place)},
               {apply_rows, COUNT(apply_rows), offsetof(ht_reward_apply_config, rows)}},
     .config_size = sizeof(ht_reward_apply_config),
     .parallel = 1,
     .run = ht_reward_apply},
};

const ht_program ht_reward_program = {.name = "halter-reward",
                                      .summary = "trains, evaluates and applies reward models",
                                      .commands = commands,
                                      .command_count = COUNT(commands)};

ht_store_filter ht_reward_filter(const ht_reward_rows *rows) {
    return (ht_store_filter){.splits = ht_choice_mask(rows->split),
                             .kinds = ht_choice_mask(rows->kind),
                             .first_round = rows->rounds.first,
                             .end_round = rows->rounds.last + 1,
                             .source = rows->source && rows->source[0] ? rows->source : NULL};
}
