/*
 * The steps of a run.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend/backend.h"
#include "core/base/memory.h"
#include "rounds/rounds.h"

void ht_plan_free(ht_plan *plan) {
    for (size_t i = 0; i < plan->count; i++) {
        ht_step *step = &plan->steps[i];
        for (char **arg = step->argv; arg && *arg; arg++)
            free(*arg);
        free(step->argv);
        free(step->stdout_to);
        free(step->waits_for);
        free(step->to_fill);
    }
    free(plan->steps);
    memset(plan, 0, sizeof *plan);
}

/* What is being built; the first failure stays in err and later calls do nothing. */
typedef struct builder {
    ht_plan *plan;
    const ht_rounds_config *config;
    int64_t round; /* 0: before the first */
    size_t argc, capacity;
    ht_error *err;
} builder;

static ht_step *current(builder *b) {
    return &b->plan->steps[b->plan->count - 1];
}

/* Adds one argument, formatted. */
static void arg(builder *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void arg(builder *b, const char *format, ...) {
    char text[HT_PATH_MAX];
    va_list args;
    if (b->err->status) return;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof text) {
        ht_fail(b->err, HT_ERR_USAGE, "an argument of step %s is longer than %zu bytes", current(b)->name, sizeof text - 1);
        return;
    }
    if (ht_grow(&current(b)->argv, &b->capacity, b->argc + 2, sizeof(char *), b->err)) return;
    if (ht_strdup(&current(b)->argv[b->argc], text, b->err) == HT_OK) b->argc++;
}

/* `name value` as two arguments. */
#define OPTION(b, name, ...) (arg(b, "%s", name), arg(b, __VA_ARGS__))

/* Begins a step "NAME" or "round-N-NAME"; `program` is halter-<program>. */
static void step(builder *b, const char *name, const char *program) {
    if (b->err->status) return;
    if (ht_grow(&b->plan->steps, &b->plan->capacity, b->plan->count + 1, sizeof(ht_step), b->err)) return;
    ht_step *added = &b->plan->steps[b->plan->count++];
    if (b->round)
        snprintf(added->name, sizeof added->name, "round-%" PRId64 "-%s", b->round, name);
    else
        snprintf(added->name, sizeof added->name, "%s", name);
    added->round = b->round;
    b->argc = b->capacity = 0;
    arg(b, "halter-%s", program);
}

/* The names that stage_config is given. */
static const char *const stage_files[] = {"pretrain", "sft", "sft-round", "reward-helpfulness", "reward-safety", "rejection", "ppo"};

static int is_stage_file(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof stage_files / sizeof *stage_files; i++)
        if (strlen(stage_files[i]) == length && strncmp(name, stage_files[i], length) == 0) return 1;
    return 0;
}

/* A change of a file that there is not would be lost without a word. */
static ht_status check_changes(const ht_strings *changes, ht_error *err) {
    char names[128] = "";
    for (size_t i = 0; i < sizeof stage_files / sizeof *stage_files; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", stage_files[i]);
    for (size_t i = 0; i < changes->count; i++) {
        size_t length = strcspn(changes->values[i], ":");
        if (!changes->values[i][length] || !is_stage_file(changes->values[i], length))
            return ht_fail(err, HT_ERR_USAGE, "set_stage: \"%s\" is not FILE:KEY=VALUE with a FILE of %s", changes->values[i], names);
    }
    return HT_OK;
}

/* --config CONFIGS/FILE.yaml, and the run's own changes "FILE:key=value". */
static void stage_config(builder *b, const char *file) {
    size_t length = strlen(file);
    OPTION(b, "--config", "%s/%s.yaml", b->config->configs, file);
    for (size_t i = 0; i < b->config->set.count; i++) {
        const char *change = b->config->set.values[i];
        if (strncmp(change, file, length) == 0 && change[length] == ':') OPTION(b, "--set", "%s", change + length + 1);
    }
}

static void database(builder *b) {
    OPTION(b, "--db", "%s/halter.db", b->config->run);
}

/* Of a step that has no file of its own. */
static void dtype(builder *b) {
    if (b->config->dtype != HT_DTYPE_F32) OPTION(b, "--dtype", "%s", ht_dtype_choice_names[b->config->dtype]);
}

static void seed_and_threads(builder *b) {
    OPTION(b, "--seed", "%" PRId64, b->config->seed);
    if (b->config->threads) OPTION(b, "--threads", "%" PRId64, b->config->threads);
}

/* A step that is told its time, and goes on with what an earlier start has left. */
static void is_timed(builder *b) {
    if (b->err->status == HT_OK) current(b)->is_timed = 1;
}

/* The same, where that must be asked for. */
static void resumes(builder *b) {
    arg(b, "--resume");
    is_timed(b);
}

static void seed_only(builder *b) {
    OPTION(b, "--seed", "%" PRId64, b->config->seed);
}

/* Folder of version n: 0 is SFT. */
static const char *version(const ht_rounds_config *config, int64_t n, char out[HT_PATH_MAX]) {
    if (n > 0)
        snprintf(out, HT_PATH_MAX, "%s/rlhf-v%" PRId64, config->run, n);
    else
        snprintf(out, HT_PATH_MAX, "%s/sft", config->run);
    return out;
}

static const char *base_model(const ht_rounds_config *config, char out[HT_PATH_MAX]) {
    if (config->base[0])
        snprintf(out, HT_PATH_MAX, "%s", config->base);
    else
        snprintf(out, HT_PATH_MAX, "%s/base", config->run);
    return out;
}

/* --- before the first round ------------------------------------------------------------------------------- */

static void import_file(builder *b, const char *name, const char *file, const char *kind_of_format) {
    step(b, name, "annotations");
    arg(b, "import");
    database(b);
    OPTION(b, "--format", "%s", kind_of_format);
    OPTION(b, "--round", "%" PRId64, b->round);
    arg(b, "%s", file);
}

static void synthetic_world(builder *b) {
    const ht_rounds_config *config = b->config;
    char path[HT_PATH_MAX];
    step(b, "corpus", "annotations");
    arg(b, "synth");
    database(b);
    OPTION(b, "--make", "corpus");
    OPTION(b, "--out", "%s/data", config->run);
    OPTION(b, "--documents", "%" PRId64, config->documents);
    OPTION(b, "--demonstrations", "%" PRId64, config->demonstrations);
    OPTION(b, "--train-prompts", "%" PRId64, config->train_prompts);
    OPTION(b, "--test-prompts", "%" PRId64, config->test_prompts);
    seed_only(b);
    snprintf(path, sizeof path, "%.4000s/data/demonstrations.csv", config->run);
    import_file(b, "import-demonstrations", path, "csv");
    snprintf(path, sizeof path, "%.4000s/data/prompts.csv", config->run);
    import_file(b, "import-prompts", path, "csv");
    if (config->base[0]) return;
    step(b, "base", "sft");
    stage_config(b, "pretrain");
    OPTION(b, "--text", "%s/data/pretrain.txt", config->run);
    OPTION(b, "--out", "%s/base", config->run);
    seed_and_threads(b);
    resumes(b);
}

static void fine_tune(builder *b, const char *name, const char *file, const char *out) {
    char path[HT_PATH_MAX];
    step(b, name, "sft");
    stage_config(b, file);
    database(b);
    OPTION(b, "--model", "%s", base_model(b->config, path));
    OPTION(b, "--out", "%s", out);
    OPTION(b, "--round", "%" PRId64, b->round);
    if (b->round > 0) OPTION(b, "--set", "data.rejection_round=%" PRId64, b->round);
    seed_and_threads(b);
    resumes(b);
}

/* --- one round -------------------------------------------------------------------------------------------- */

static void sample_pairs(builder *b) {
    const ht_rounds_config *config = b->config;
    char latest[HT_PATH_MAX], before[HT_PATH_MAX];
    step(b, "sample", "annotations");
    arg(b, "sample");
    database(b);
    OPTION(b, "--model", "%s", version(config, b->round - 1, latest));
    if (b->round > 1) OPTION(b, "--other", "%s", version(config, b->round - 2, before));
    OPTION(b, "--out", "%s/round-%" PRId64 "/to-annotate.csv", config->run, b->round);
    OPTION(b, "--prompts", "%" PRId64, config->pairs);
    OPTION(b, "--test-prompts", "%" PRId64, config->test_pairs);
    OPTION(b, "--round", "%" PRId64, b->round);
    OPTION(b, "--max-new-tokens", "%" PRId64, config->max_new_tokens);
    if (config->temperatures.count) {
        char list[512] = "";
        for (size_t i = 0; i < config->temperatures.count; i++) {
            size_t used = strlen(list);
            snprintf(list + used, sizeof list - used, "%s%g", i ? "," : "", config->temperatures.values[i]);
        }
        OPTION(b, "--temperatures", "%s", list);
    }
    dtype(b);
    seed_and_threads(b);
    is_timed(b);
}

static void annotate(builder *b) {
    const ht_rounds_config *config = b->config;
    char path[HT_PATH_MAX];
    snprintf(path, sizeof path, "%.4000s/round-%" PRId64 "/annotated.csv", config->run, b->round);
    if (config->annotator == HT_ANNOTATOR_SYNTHETIC) {
        step(b, "annotate", "annotations");
        arg(b, "synth");
        database(b);
        OPTION(b, "--make", "annotations");
        OPTION(b, "--input", "%s/round-%" PRId64 "/to-annotate.csv", config->run, b->round);
        OPTION(b, "--out", "%s", path);
        seed_only(b);
    }
    import_file(b, "import", path, "csv");
    if (config->annotator == HT_ANNOTATOR_HUMAN && b->err->status == HT_OK) {
        ht_strdup(&current(b)->waits_for, path, b->err);
        ht_format(&current(b)->to_fill, b->err, "%s/round-%" PRId64 "/to-annotate.csv", config->run, b->round);
    }
}

static void reward_model(builder *b, const char *kind) {
    const ht_rounds_config *config = b->config;
    char name[64], file[64], latest[HT_PATH_MAX];
    snprintf(name, sizeof name, "reward-%s", kind);
    snprintf(file, sizeof file, "reward-%s", kind);
    step(b, name, "reward");
    arg(b, "train");
    stage_config(b, file);
    database(b);
    OPTION(b, "--model", "%s", version(config, b->round - 1, latest));
    OPTION(b, "--out", "%s/round-%" PRId64 "/%s", config->run, b->round, name);
    OPTION(b, "--round", "%" PRId64, b->round);
    seed_and_threads(b);
    resumes(b);
    snprintf(name, sizeof name, "evaluate-reward-%s", kind);
    step(b, name, "reward");
    arg(b, "evaluate");
    database(b);
    OPTION(b, "--model", "%s/round-%" PRId64 "/%s", config->run, b->round, file);
    OPTION(b, "--kind", "%s", kind);
    dtype(b);
    if (config->threads) OPTION(b, "--threads", "%" PRId64, config->threads);
    arg(b, "--json");
    if (b->err->status == HT_OK)
        ht_format(&current(b)->stdout_to, b->err, "%s/round-%" PRId64 "/%s.json", config->run, b->round, file);
}

/* --helpful and --safe of round n. */
static void reward_models(builder *b, int64_t n) {
    OPTION(b, "--helpful", "%s/round-%" PRId64 "/reward-helpfulness", b->config->run, n);
    OPTION(b, "--safe", "%s/round-%" PRId64 "/reward-safety", b->config->run, n);
}

static void rejection(builder *b) {
    const ht_rounds_config *config = b->config;
    char latest[HT_PATH_MAX];
    step(b, "rejection", "rejection");
    stage_config(b, "rejection");
    database(b);
    OPTION(b, "--model", "%s", version(config, b->round - 1, latest));
    reward_models(b, b->round);
    OPTION(b, "--round", "%" PRId64, b->round);
    OPTION(b, "--out", "%s/round-%" PRId64 "/rejection", config->run, b->round);
    OPTION(b, "--set", "pool.rounds=%s", b->round >= config->pool_all_from ? "all" : "last");
    seed_and_threads(b);
    is_timed(b);
}

static void ppo(builder *b, const char *from) {
    char path[HT_PATH_MAX];
    step(b, "ppo", "ppo");
    stage_config(b, "ppo");
    database(b);
    OPTION(b, "--model", "%s", from);
    reward_models(b, b->round);
    OPTION(b, "--out", "%s", version(b->config, b->round, path));
    OPTION(b, "--round", "%" PRId64, b->round);
    seed_and_threads(b);
    resumes(b);
}

/* A round's version is the base fine-tuned on the chosen answers; that of the last round has PPO on top. */
static void one_round(builder *b) {
    char path[HT_PATH_MAX], tuned[HT_PATH_MAX + 8];
    int with_ppo = b->round > b->config->rounds;
    snprintf(tuned, sizeof tuned, "%s%s", version(b->config, b->round, path), with_ppo ? "-rs" : "");
    sample_pairs(b);
    annotate(b);
    reward_model(b, "helpfulness");
    reward_model(b, "safety");
    rejection(b);
    fine_tune(b, "fine-tune", "sft-round", tuned);
    if (with_ppo) ppo(b, tuned);
}

/* --- after the last round --------------------------------------------------------------------------------- */

static void evaluate(builder *b, int64_t rounds) {
    const ht_rounds_config *config = b->config;
    char path[HT_PATH_MAX], name[64];
    for (int64_t v = 0; v <= rounds; v++) {
        snprintf(name, sizeof name, v ? "evaluate-rlhf-v%" PRId64 : "evaluate-sft", v);
        step(b, name, "evaluate");
        arg(b, "model");
        database(b);
        OPTION(b, "--model", "%s", version(config, v, path));
        if (v) OPTION(b, "--against", "%s", version(config, 0, path));
        reward_models(b, rounds);
        OPTION(b, "--prompts", "%" PRId64, config->eval_prompts);
        OPTION(b, "--max-new-tokens", "%" PRId64, config->max_new_tokens);
        dtype(b);
        seed_and_threads(b);
    }
    if (config->annotator == HT_ANNOTATOR_SYNTHETIC) {
        step(b, "oracle", "annotations");
        arg(b, "synth");
        database(b);
        OPTION(b, "--make", "scores");
    }
    step(b, "table", "evaluate");
    arg(b, "table");
    database(b);
    OPTION(b, "--out", "%s/summary.json", config->run);
}

ht_status ht_plan_make(ht_plan *plan, const ht_rounds_config *config, ht_error *err) {
    char path[HT_PATH_MAX];
    builder b = {.plan = plan, .config = config, .err = err};
    int64_t rounds = config->rounds + (config->ppo ? 1 : 0);
    memset(plan, 0, sizeof *plan);
    if (check_changes(&config->set, err) != HT_OK) return err->status;
    if (config->annotator == HT_ANNOTATOR_SYNTHETIC) synthetic_world(&b);
    for (size_t i = 0; i < config->imports.count; i++) {
        char name[64];
        snprintf(name, sizeof name, "import-%zu", i + 1);
        import_file(&b, name, config->imports.values[i], "csv");
    }
    fine_tune(&b, "sft", "sft", version(config, 0, path));
    for (b.round = 1; b.round <= rounds; b.round++)
        one_round(&b);
    b.round = 0;
    evaluate(&b, rounds);
    if (err->status) ht_plan_free(plan);
    return err->status;
}
