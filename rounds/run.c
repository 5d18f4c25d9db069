/*
 * Running the steps: one child process each.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "rounds/rounds.h"

extern char **environ;

ht_status ht_step_command_line(const ht_step *step, char **out, ht_error *err) {
    ht_status status = HT_OK;
    char *line = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&line, &size);
    if (!stream) return ht_fail(err, HT_ERR_NOMEM, "no memory for a command line");
    for (char **arg = step->argv; *arg; arg++) {
        const char *plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=./,:+@%";
        int quote = **arg == '\0' || strspn(*arg, plain) != strlen(*arg);
        fprintf(stream, "%s%s", arg == step->argv ? "" : " ", quote ? "'" : "");
        for (const char *c = *arg; *c; c++)
            fputs(*c == '\'' ? "'\\''" : (char[2]){*c, 0}, stream);
        if (quote) fputc('\'', stream);
    }
    if (step->stdout_to) fprintf(stream, " > %s", step->stdout_to);
    if (fclose(stream)) status = ht_fail(err, HT_ERR_NOMEM, "no memory for a command line");
    *out = line;
    return status;
}

/* Waits for the process, and passes signals on to it; its status as waitpid gives it. */
static ht_status wait_for(pid_t child, const char *program, int *wait_status, ht_error *err) {
    siginfo_t ended;
    int result;
    ht_signals_pass_to(child);
    do
        result = waitid(P_PID, (id_t)child, &ended, WEXITED | WNOWAIT);
    while (result < 0 && errno == EINTR);
    ht_signals_pass_to(0);
    if (result < 0 || waitpid(child, wait_status, 0) < 0)
        return ht_fail(err, HT_ERR_IO, "cannot wait for %s: %s", program, strerror(errno));
    return HT_OK;
}

/* Starts the program and waits; *exit_code as a shell gives it. */
static ht_status run_child(char *const *argv, const char *program, const char *stdout_to, int *exit_code,
                           ht_error *err) {
    ht_status status = HT_OK;
    posix_spawn_file_actions_t actions;
    pid_t child;
    int result, wait_status = 0;
    if (posix_spawn_file_actions_init(&actions)) return ht_fail(err, HT_ERR_NOMEM, "no memory to start %s", program);
    if (stdout_to &&
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, stdout_to, O_WRONLY | O_CREAT | O_TRUNC, 0644)) {
        status = ht_fail(err, HT_ERR_NOMEM, "no memory to start %s", program);
        goto done;
    }
    result = posix_spawn(&child, program, &actions, NULL, argv, environ);
    if (result) {
        status = ht_fail(err, HT_ERR_IO, "cannot start %s: %s", program, strerror(result));
        goto done;
    }
    HT_TRY(wait_for(child, program, &wait_status, err));
    *exit_code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
done:
    posix_spawn_file_actions_destroy(&actions);
    return status;
}

/* The child's exit code as our status: those of the table pass through. */
static ht_status child_status(int exit_code) {
    switch (exit_code) {
#define CASE(name, code, text)                                                                                \
    case code:                                                                                                \
        return HT_##name;
        HT_STATUS_MAP(CASE)
#undef CASE
    default:
        return HT_ERR_RUN;
    }
}

/* *argv = the step's arguments (borrowed), and how much time it has; free() the array. `minutes` is where the last is written. */
static ht_status arguments_of(char ***argv, const ht_step *step, double end, char minutes[32], ht_error *err) {
    static char option[] = "--max-minutes";
    size_t count = 0;
    while (step->argv[count])
        count++;
    ht_status status = ht_calloc(argv, count + 3, sizeof **argv, err);
    if (status != HT_OK) return status;
    memcpy(*argv, step->argv, count * sizeof **argv);
    if (!step->is_timed || end == 0) return HT_OK;
    snprintf(minutes, 32, "%.6f", fmax(end - ht_now(), 0.001) / 60); /* 0 would be no limit */
    (*argv)[count] = option;
    (*argv)[count + 1] = minutes;
    return HT_OK;
}

/* Runs a step, which is to end before `end` (ht_now; 0: no limit), and leaves its file in steps/. What it prints on stdout goes
 * to `output`; NULL: to ours. */
static ht_status run_step(const ht_step *step, double end, const char *programs, const char *mark, const char *output,
                          ht_error *err) {
    ht_status status = HT_OK;
    char **argv = NULL, minutes[32];
    char program[HT_PATH_MAX], *line = NULL, *temporary = NULL;
    int exit_code = 0;
    HT_TRY(ht_path_join(program, programs, step->argv[0], err));
    HT_TRY(ht_step_command_line(step, &line, err));
    if (output) HT_TRY(ht_format(&temporary, err, "%s.tmp", output));
    ht_info("  $ %s", line);
    HT_TRY(arguments_of(&argv, step, end, minutes, err));
    HT_TRY(run_child(argv, program, temporary, &exit_code, err));
    if (exit_code) {
        status = ht_fail(err, child_status(exit_code), "step %s ended with exit code %d (%s); start again to go on there",
                         step->name, exit_code, ht_status_text(child_status(exit_code)));
        goto done;
    }
    if (temporary && rename(temporary, output)) {
        status = ht_fail(err, HT_ERR_IO, "cannot rename %s: %s", temporary, strerror(errno));
        goto done;
    }
    HT_TRY(ht_file_write(mark, line, strlen(line), err));
done:
    if (status && temporary) unlink(temporary);
    free(temporary);
    free(argv);
    free(line);
    return status;
}

/* 1 when step i comes after a round's steps: the evaluation of all versions. */
static int after_rounds(const ht_plan *plan, size_t i) {
    for (size_t j = 0; j < i; j++)
        if (plan->steps[j].round) return 1;
    return 0;
}

ht_status ht_plan_run(const ht_plan *plan, const ht_rounds_config *config, const char *programs, ht_error *err) {
    ht_status status = HT_OK;
    double started = ht_now(), end = config->max_minutes > 0 ? started + 60 * config->max_minutes : 0;
    ht_stop_at(end);
    /* Threads that wait for each other give up the core soon: on a machine that others use too, GNU OpenMP's long busy
     * waiting makes two threads many times slower than one. On an idle machine it costs nothing that was measurable. */
    setenv("GOMP_SPINCOUNT", "10000", 0);
    for (size_t i = 0; i < plan->count; i++) {
        const ht_step *step = &plan->steps[i];
        char mark[HT_PATH_MAX], log[HT_PATH_MAX], relative[160], folder[HT_PATH_MAX];
        snprintf(relative, sizeof relative, "steps/%s", step->name);
        HT_TRY(ht_path_join(mark, config->run, relative, err));
        int is_last = i + 1 == plan->count; /* the table: shown every time */
        if (ht_path_exists(mark) && !is_last) continue;
        if (config->until_round && (step->round > config->until_round || (step->round == 0 && after_rounds(plan, i)))) {
            ht_info("round %" PRId64 " is done", config->until_round);
            return HT_OK;
        }
        HT_TRY(ht_stop_requested());
        if (step->waits_for && !ht_path_exists(step->waits_for)) {
            ht_info("waiting for annotations: fill in the columns choice (a or b), rating (1 to 4) and, for kind safety, safety "
                    "of\n  %s\nsave it as\n  %s\nand start again",
                    step->to_fill, step->waits_for);
            return HT_OK;
        }
        if (step->round) {
            snprintf(relative, sizeof relative, "round-%" PRId64, step->round);
            HT_TRY(ht_path_join(folder, config->run, relative, err));
            HT_TRY(ht_folder_create(folder, err));
        }
        ht_info("[%zu/%zu] %s", i + 1, plan->count, step->name);
        snprintf(relative, sizeof relative, "logs/%s.out", step->name);
        HT_TRY(ht_path_join(log, config->run, relative, err));
        HT_TRY(run_step(step, end, programs, mark, is_last ? NULL : step->stdout_to ? step->stdout_to : log, err));
    }
    ht_info("done in %.0f s", ht_now() - started);
done:
    return status;
}
