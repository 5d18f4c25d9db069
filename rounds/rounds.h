/*
 * rounds.h: the whole loop: base, SFT, then rounds of sampling, annotating, reward models, rejection sampling and
 * fine-tuning from the base, and PPO on top. Llama 2 section 3.2.3; METHOD.md section 5.
 *
 * A run is a list of steps, each one command line of another program. A step that has ended leaves a file in RUN/steps/; a run
 * that is started again goes on at the first step without one.
 *
 * RUN/ holds: halter.db, data/, base/ (when trained here), sft/, rlhf-v1/ .. rlhf-vN/ (model folders), round-1/ .. (what was
 * sampled and annotated, reward models), summary.json, run.json (the configuration), steps/, logs/.
 */
#ifndef HT_ROUNDS_ROUNDS_H
#define HT_ROUNDS_ROUNDS_H

#include "core/base/files.h"
#include "core/config/config.h"

typedef enum ht_annotator { HT_ANNOTATOR_SYNTHETIC, HT_ANNOTATOR_HUMAN } ht_annotator;

typedef struct ht_rounds_config {
    char *run, *configs, *base;
    ht_strings imports, set;
    int annotator; /* ht_annotator */
    int64_t seed, threads, rounds, until_round, pool_all_from;
    int64_t documents, demonstrations, train_prompts, test_prompts; /* the synthetic world */
    int dtype; /* ht_dtype_choice */
    int64_t pairs, test_pairs, eval_prompts, max_new_tokens;
    ht_floats temperatures;
    double max_minutes; /* 0: no limit */
    int ppo, restart, dry_run;
} ht_rounds_config;

/* One command line. */
typedef struct ht_step {
    char name[96];   /* "round-2-rejection": also its file in steps/ and logs/ */
    char **argv;     /* NULL-terminated; argv[0] is a program beside this one */
    char *stdout_to; /* file that takes its standard output; NULL: logs/NAME.out, or ours for the last step */
    char *waits_for; /* file that a person must provide first; NULL: none */
    char *to_fill;   /* the file they fill in */
    int64_t round;   /* 0: before the first */
    int is_timed;    /* takes --max-minutes */
} ht_step;

typedef struct ht_plan {
    ht_step *steps;
    size_t count, capacity;
} ht_plan;

/* *out = the step's command line as one would type it, arguments with other than plain characters in single quotes; free(). */
ht_status ht_step_command_line(const ht_step *step, char **out, ht_error *err);

/* Every step of a run in order. The table of versions is the last one. */
ht_status ht_plan_make(ht_plan *plan, const ht_rounds_config *config, ht_error *err);
void ht_plan_free(ht_plan *plan);

/*
 * Runs the steps that have not ended, up to the end of round until_round (0: all). Programs are looked for in `programs` (a
 * folder). HT_ERR_RUN with the step, its command line and exit code when one fails (an exit code of the status table is passed
 * on); HT_OK, after saying so, when a step waits for a person. SIGINT and SIGTERM are passed on to the step that runs, and
 * waited for is its end; a timed step is told how many of max_minutes are left.
 */
ht_status ht_plan_run(const ht_plan *plan, const ht_rounds_config *config, const char *programs, ht_error *err);

extern const ht_command ht_rounds_command;

#endif
