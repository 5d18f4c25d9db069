/*
 * halter-rounds: options, the run's folder.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/backend/backend.h"
#include "core/base/json.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "rounds/rounds.h"

static const char *const annotator_names[] = {"synthetic", "human", NULL};

#define S ht_rounds_config
static const ht_option options[] = {
    HT_OPT_PATH(S, run, "run", NULL, HT_OPTION_REQUIRED, "folder of the run"),
    HT_OPT_INT(S, seed, "seed", "1", 0, 9007199254740992.0, 0, "seed of every random number"),
    HT_OPT_INT(S, threads, "threads", "0", 0, 4096, HT_OPTION_RESUME_SAFE, "CPU threads; 0: one a core"),
    HT_OPT_CHOICE(S, dtype, "dtype", "f32", ht_dtype_choice_names, 0,
                  "type of weights and activations of the steps that have no file of their own"),
    HT_OPT_INT(S, until_round, "until_round", "0", 0, 1000, HT_OPTION_RESUME_SAFE, "stop after this round; 0: all"),
    HT_OPT_FLOAT(S, max_minutes, "max_minutes", "0", 0, 1e7, HT_OPTION_RESUME_SAFE,
                 "stop, exit code 75, before so many minutes are over; the same command goes on; 0: no limit"),
    HT_OPT_FLAG(S, dry_run, "dry_run", HT_OPTION_RESUME_SAFE, "print the command lines of all steps, run none"),
    HT_OPT_FLAG(S, restart, "restart", HT_OPTION_RESUME_SAFE,
                "when the folder holds a run of another configuration, remove it and begin anew"),
    HT_OPT_PATH(S, configs, "configs", "configs/tiny", 0, "folder with a YAML file a stage"),
    HT_OPT_PATH(S, base, "base", NULL, 0, "pretrained model folder; empty: pretrain one on the synthetic text"),
    HT_OPT_STRINGS(S, imports, "import", NULL, 0, "CSV files of demonstrations and prompts to begin with"),
    HT_OPT_STRINGS(S, set, "set_stage", NULL, 0, "changes to the stages' files, as FILE:KEY=VALUE, e.g. sft:data.epochs=3"),
    HT_OPT_CHOICE(S, annotator, "annotator", "human", annotator_names, 0, "who compares responses"),
    HT_OPT_INT(S, rounds, "rounds.count", "4", 1, 100, 0, "rounds of rejection sampling (V1, V2, ...)"),
    HT_OPT_FLAG_ON(S, ppo, "rounds.ppo", 0,
                   "one more round, whose version has PPO on top of its rejection sampling"),
    HT_OPT_INT(S, pool_all_from, "rounds.pool_all_from", "4", 1, 1000, 0,
               "first round that chooses among the samples of all rounds so far; before it, of its own"),
    HT_OPT_INT(S, pairs, "pairs.train", "3000", 1, 100000000, 0, "pairs sampled a round to train reward models"),
    HT_OPT_INT(S, test_pairs, "pairs.test", "1000", 1, 100000000, 0, "pairs sampled a round to evaluate them"),
    HT_OPT_FLOATS(S, temperatures, "pairs.temperatures", "0.7,1.0,1.2", 0, 10, 0, "temperatures of the pairs' samples"),
    HT_OPT_INT(S, max_new_tokens, "sample.max_new_tokens", "512", 1, 1 << 20, 0, "longest response of pairs and evaluation"),
    HT_OPT_INT(S, eval_prompts, "evaluate.prompts", "1000", 1, 100000000, 0, "held-out prompts of the table of versions"),
    HT_OPT_INT(S, documents, "synth.documents", "30000", 1, 100000000, 0, "synthetic world: documents of pretraining text"),
    HT_OPT_INT(S, demonstrations, "synth.demonstrations", "1000", 1, 100000000, 0, "synthetic world: demonstrations"),
    HT_OPT_INT(S, train_prompts, "synth.train_prompts", "4000", 1, 100000000, 0, "synthetic world: prompts to train on"),
    HT_OPT_INT(S, test_prompts, "synth.test_prompts", "1000", 1, 100000000, 0, "synthetic world: prompts held out"),
};
#undef S

/* Folder that holds this program and the others. */
static ht_status program_folder(char out[HT_PATH_MAX], ht_error *err) {
    ssize_t length = readlink("/proc/self/exe", out, HT_PATH_MAX - 1);
    if (length < 0) return ht_fail(err, HT_ERR_IO, "cannot find this program's folder");
    out[length] = '\0';
    *strrchr(out, '/') = '\0';
    return HT_OK;
}

/* Begins the folder and takes its lock, or checks that it holds a run of this configuration. */
static ht_status open_run(const ht_rounds_config *config, const ht_invocation *invocation, ht_lock *lock, ht_error *err) {
    ht_status status = HT_OK;
    json_t *before = NULL;
    char note[HT_PATH_MAX], steps[HT_PATH_MAX], logs[HT_PATH_MAX];
    HT_TRY(ht_path_join(note, config->run, "run.json", err));
    HT_TRY(ht_path_join(steps, config->run, "steps", err));
    HT_TRY(ht_path_join(logs, config->run, "logs", err));
    if (ht_path_exists(config->run) && !ht_path_is_folder(config->run))
        return ht_fail(err, HT_ERR_USAGE, "run = \"%s\" is not a folder", config->run);
    HT_TRY(ht_folder_check_writable(config->run, err));
    HT_TRY(ht_lock_acquire(lock, config->run, err));
    if (ht_path_exists(note)) {
        HT_TRY(ht_json_read(note, &before, err));
        status = ht_config_check_same(invocation->command, before, invocation->resolved, err);
        if (status == HT_OK) goto done;
        if (!config->restart) {
            ht_fail_in(err, "%s holds a run of another configuration (give another folder, or --restart)", config->run);
            goto done;
        }
        ht_info("%s holds a run of another configuration: beginning anew", config->run);
        *err = (ht_error)HT_ERROR_INIT;
        HT_TRY(ht_folder_remove(config->run, err));
        ht_lock_release(lock); /* its file is gone */
        HT_TRY(ht_lock_acquire(lock, config->run, err));
    }
    HT_TRY(ht_folder_create(steps, err));
    HT_TRY(ht_folder_create(logs, err));
    HT_TRY(ht_json_write(note, invocation->resolved, err));
done:
    json_decref(before);
    return status;
}

static ht_status print_plan(const ht_plan *plan, ht_error *err) {
    ht_status status = HT_OK;
    for (size_t i = 0; i < plan->count && status == HT_OK; i++) {
        char *line = NULL;
        status = ht_step_command_line(&plan->steps[i], &line, err);
        if (status == HT_OK) puts(line);
        free(line);
    }
    return status;
}

static ht_status run_rounds(void *values, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    ht_rounds_config *config = values;
    ht_plan plan = {0};
    ht_lock lock = {.path = ""};
    char programs[HT_PATH_MAX];
    if (config->annotator == HT_ANNOTATOR_HUMAN && !config->base[0])
        return ht_fail(err, HT_ERR_USAGE, "base is empty: with annotator = human a pretrained model folder is needed");
    HT_TRY(program_folder(programs, err));
    HT_TRY(ht_plan_make(&plan, config, err));
    if (config->dry_run) {
        HT_TRY(print_plan(&plan, err));
    } else {
        HT_TRY(open_run(config, invocation, &lock, err));
        HT_TRY(ht_plan_run(&plan, config, programs, err));
    }
done:
    ht_plan_free(&plan);
    ht_lock_release(&lock);
    return status;
}

const ht_command ht_rounds_command = {
    .summary = "run rounds of preference annotation, reward models, rejection sampling and PPO; goes on where it stopped",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(ht_rounds_config),
    .run = run_rounds,
};
