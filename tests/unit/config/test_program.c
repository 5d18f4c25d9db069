/* ht_program_main: commands, help, version, exit codes. Every case runs it in a child process with stdout and
 * stderr in files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/signals.h"
#include "core/config/config.h"
#include "tests/unit/folder.h"

typedef struct test_config {
    char *model;
    int sample;
    int64_t steps;
    double temperature, lr;
    int backend;
} test_config;

static const char *const backends[] = {"auto", "cpu", NULL};

static const ht_option options[] = {
    HT_OPT_PATH(test_config, model, "model", NULL, HT_OPTION_REQUIRED, "model folder"),
    HT_OPT_FLAG(test_config, sample, "sample", 0, "draw instead of taking the likeliest"),
    HT_OPT_INT(test_config, steps, "max_steps", "100", 1, 1 << 20, 0, "steps at most"),
    HT_OPT_FLOAT(test_config, temperature, "temperature", "1", 0, 9.3e18, 0, "temperature"),
    HT_OPT_CHOICE(test_config, backend, "backend", "auto", backends, 0, "where to compute"),
    HT_OPT_FLOAT(test_config, lr, "optim.lr", "2e-5", 0, 1, 0, "peak learning rate"),
};

/* Prints what it got; fails in the way the first argument asks for. */
static ht_status run(void *config, const ht_invocation *invocation, ht_error *err) {
    const test_config *c = config;
    ht_debug("debug line");
    ht_info("info line");
    ht_warn("warn line");
    printf("%s %s %s %d\n", invocation->program, invocation->command->name ? invocation->command->name : "-",
           c->model, (int)json_object_size(invocation->resolved));
    if (!invocation->argument_count) return HT_OK;
    if (strcmp(invocation->arguments[0], "data") == 0) return ht_fail(err, HT_ERR_DATA, "row 3 is empty");
    if (strcmp(invocation->arguments[0], "silent") == 0) return HT_ERR_RUN;
    raise(SIGTERM);
    return ht_stop_requested();
}

#define COMMAND(word)                                                                                        \
    {                                                                                                        \
        .name = word, .summary = "summary of a command", .arguments = "FILE...",                             \
        .parts = {{options, sizeof options / sizeof *options, 0}}, .config_size = sizeof(test_config),       \
        .run = run                                                                                           \
    }
static const ht_command one[] = {COMMAND(NULL)};
static const ht_command several[] = {COMMAND("train"), COMMAND("evaluate")};
static const ht_program single = {"halter-test", "Tests a program.", one, 1};
static const ht_program plural = {"halter-tests", "Tests a program of commands.", several, 2};

typedef struct outcome {
    int code;
    char *out, *err; /* to be freed */
} outcome;

static char *content(const char *name) {
    char *data;
    size_t size;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_file_read(in_root(name), &data, &size, &err), HT_OK);
    return data;
}

/* `stdout_path` NULL: a file that becomes outcome.out. */
static outcome run_program(const ht_program *program, const char *stdout_path, const char *const *words) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char *argv[16] = {(char *)"program"};
        int argc = 1;
        while (words[argc - 1]) {
            argv[argc] = (char *)(uintptr_t)words[argc - 1];
            argc++;
        }
        if (!freopen(stdout_path ? stdout_path : in_root("out"), "w", stdout) || !freopen(in_root("err"), "w", stderr))
            _exit(99);
        int code = ht_program_main(program, argc, argv);
        exit(code); /* not _exit: a build that counts what is reached writes it then */
    }
    int result = -1;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    return (outcome){WEXITSTATUS(result), stdout_path ? NULL : content("out"), content("err")};
}

static void check(const ht_program *program, const char *const *words, int code, const char *out,
                  const char *err) {
    outcome o = run_program(program, NULL, words);
    assert_string_equal(o.err, err);
    assert_string_equal(o.out, out);
    assert_int_equal(o.code, code);
    free(o.out);
    free(o.err);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_program__help(void **state) {
    (void)state;
    check(&single, WORDS("--model", "x", "--help", "--nonsense"), 0,
          "Usage: halter-test [OPTION...] FILE...\n"
          "summary of a command\n"
          "\n"
          "Options:\n"
          "  --model PATH        model folder (required)\n"
          "  --[no-]sample       draw instead of taking the likeliest (default false)\n"
          "  --max-steps N       steps at most (1 to 1048576; default 100)\n"
          "  --temperature X     temperature (0 or more; default 1)\n"
          "  --backend auto|cpu  where to compute (default auto)\n"
          "  --config FILE       configuration file (YAML); options override it\n"
          "  --set KEY=VALUE     set any key (repeatable)\n"
          "  --verbose           say more on stderr\n"
          "  --quiet             say only warnings and errors\n"
          "  --help              print this help\n"
          "  --version           print the version\n"
          "\n"
          "Configuration keys (--set KEY=VALUE or in the file):\n"
          "  optim.lr X          peak learning rate (0 to 1; default 2e-5)\n",
          "");
    check(&plural, WORDS("--help"), 0,
          "Usage: halter-tests COMMAND [OPTION...]\n"
          "Tests a program of commands.\n"
          "\n"
          "Commands:\n"
          "  train     summary of a command\n"
          "  evaluate  summary of a command\n"
          "\n"
          "halter-tests COMMAND --help lists the options of a command; halter-tests --version prints the "
          "version.\n",
          "");
    outcome o = run_program(&plural, NULL, WORDS("train", "--help"));
    assert_int_equal(o.code, 0);
    assert_memory_equal(o.out, "Usage: halter-tests train [OPTION...] FILE...\n", 45);
    free(o.out);
    free(o.err);
}

static void test_program__version(void **state) {
    (void)state;
    check(&single, WORDS("--version"), 0, "halter-test " HALTER_VERSION "\n", "");
    check(&plural, WORDS("--version"), 0, "halter-tests " HALTER_VERSION "\n", "");
    check(&plural, WORDS("train", "--version"), 0, "halter-tests " HALTER_VERSION "\n", "");
}

static void test_program__runs_the_command(void **state) {
    (void)state;
    check(&single, WORDS("--model=m"), 0, "halter-test - m 6\n", "info line\nwarning: warn line\n");
    check(&plural, WORDS("evaluate", "--model=m"), 0, "halter-tests evaluate m 6\n",
          "info line\nwarning: warn line\n");
    check(&single, WORDS("--model=m", "--quiet"), 0, "halter-test - m 6\n", "warning: warn line\n");
    check(&single, WORDS("--verbose", "--model=m"), 0, "halter-test - m 6\n",
          "debug line\ninfo line\nwarning: warn line\n");
}

static void test_program__usage_errors(void **state) {
    (void)state;
    check(&single, WORDS("--model=m", "--temperature", "abc"), 2, "",
          "halter-test: error: --temperature: \"abc\" is not a number\n");
    check(&single, (const char *const[]){NULL}, 2, "",
          "halter-test: error: missing required option: --model\n");
    check(&plural, (const char *const[]){NULL}, 2, "",
          "halter-tests: error: a command is missing: one of train, evaluate\n");
    check(&plural, WORDS("trian"), 2, "",
          "halter-tests: error: unknown command \"trian\"; did you mean \"train\"?\n");
    check(&plural, WORDS("dance"), 2, "",
          "halter-tests: error: unknown command \"dance\"; it is one of train, evaluate\n");
    check(&plural, WORDS("--model=m", "train"), 2, "",
          "halter-tests: error: the command comes before \"--model=m\": one of train, evaluate\n");
    check(&single, WORDS("--config=/nowhere/a.yaml"), 4, "",
          "halter-test: error: cannot open \"/nowhere/a.yaml\": No such file or directory\n");
}

static void test_program__exit_codes_of_a_run(void **state) {
    (void)state;
    check(&single, WORDS("--quiet", "--model=m", "data"), 3, "halter-test - m 6\n",
          "warning: warn line\nhalter-test: error: row 3 is empty\n");
    check(&single, WORDS("--quiet", "--model=m", "silent"), 1, "halter-test - m 6\n",
          "warning: warn line\nhalter-test: error: failed\n");
    check(&single, WORDS("--quiet", "--model=m", "stop"), 143, "halter-test - m 6\n",
          "warning: warn line\n\nstopping at the next safe point; once more leaves at once\n"
          "halter-test: terminated (SIGTERM) after saving\n");
}

static void test_program__unwritable_output_is_an_error(void **state) {
    (void)state;
    static const char *const words[][3] = {{"--model=m", "--quiet"}, {"--help"}, {"--version"}};
    for (size_t i = 0; i < 3; i++) {
        outcome o = run_program(&single, "/dev/full", words[i]);
        assert_int_equal(o.code, 4);
        assert_non_null(
            strstr(o.err, "halter-test: error: cannot write to standard output: No space left on device\n"));
        free(o.err);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_program__help),
        cmocka_unit_test(test_program__version),
        cmocka_unit_test(test_program__runs_the_command),
        cmocka_unit_test(test_program__usage_errors),
        cmocka_unit_test(test_program__exit_codes_of_a_run),
        cmocka_unit_test(test_program__unwritable_output_is_an_error),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
