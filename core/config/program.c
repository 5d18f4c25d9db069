/*
 * The main function of every program, and its help.
 */
#include "core/config/internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/launch.h"
#include "core/base/memory.h"
#include "core/base/signals.h"

#define COLUMN_MAX 36 /* wider option names push their help to the next line */

/* "--lr X", "--[no-]sample", or in the list of keys "optim.lr X" */
static void option_title(char *out, size_t size, const ht_option *option) {
    int is_key = strchr(option->key, '.') != NULL;
    char value[256] = "", name[HT_CONFIG_KEY_MAX];
    static const char *const values[] = {
        [HT_OPTION_FLAG] = "",         [HT_OPTION_INT] = " N",
        [HT_OPTION_FLOAT] = " X",      [HT_OPTION_STRING] = " TEXT",
        [HT_OPTION_PATH] = " PATH",    [HT_OPTION_CHOICE] = " ",
        [HT_OPTION_FLOATS] = " X,...", [HT_OPTION_STRINGS] = " TEXT,...",
    };
    snprintf(value, sizeof value, "%s", values[option->type]);
    if (option->type == HT_OPTION_FLAG && is_key) snprintf(value, sizeof value, " true|false");
    for (size_t i = 0; option->type == HT_OPTION_CHOICE && option->choices[i]; i++) {
        size_t used = strlen(value);
        snprintf(value + used, sizeof value - used, "%s%s", i ? "|" : "", option->choices[i]);
    }
    snprintf(name, sizeof name, "%s", option->key);
    for (char *c = name; *c && !is_key; c++)
        if (*c == '_') *c = '-';
    snprintf(out, size, "%s%s%s",
             is_key                           ? ""
             : option->type == HT_OPTION_FLAG ? "--[no-]"
                                              : "--",
             name, value);
}

/* "0 to 1", "1 or more", "1 at most", "" */
static void option_range(char *out, size_t size, const ht_option *option) {
    char low[32], high[32];
    /* Bounds at the ends of int64_t or infinite are no bounds. */
    int has_low = option->min > -9.2e18, has_high = option->max < 9.2e18;
    out[0] = '\0';
    if (option->type != HT_OPTION_INT && option->type != HT_OPTION_FLOAT && option->type != HT_OPTION_FLOATS)
        return;
    ht_config_format_number(low, option->min);
    ht_config_format_number(high, option->max);
    if (has_low && has_high)
        snprintf(out, size, "%s to %s", low, high);
    else if (has_low)
        snprintf(out, size, "%s or more", low);
    else if (has_high)
        snprintf(out, size, "%s at most", high);
}

static void print_row(FILE *out, int column, const char *title, const char *help, const char *note) {
    if ((int)strlen(title) > column)
        fprintf(out, "  %s\n  %*s", title, column, "");
    else
        fprintf(out, "  %-*s", column, title);
    fprintf(out, "  %s%s\n", help, note);
}

static void print_option(FILE *out, int column, const ht_option *option) {
    char title[512], range[80], note[512];
    int required = (option->properties & HT_OPTION_REQUIRED) != 0;
    int has_default = !required && option->fallback && option->fallback[0];
    option_title(title, sizeof title, option);
    option_range(range, sizeof range, option);
    note[0] = '\0';
    if (range[0] || required || has_default)
        snprintf(note, sizeof note, " (%s%s%s%s%s)", range, range[0] && (required || has_default) ? "; " : "",
                 required ? "required" : "", has_default ? "default " : "",
                 has_default ? option->fallback : "");
    print_row(out, column, title, option->help, note);
}

static void print_commands(const ht_program *program, FILE *out) {
    int column = 0;
    for (size_t i = 0; i < program->command_count; i++) {
        int length = (int)strlen(program->commands[i].name);
        column = length > column ? length : column;
    }
    fprintf(out, "Usage: %s COMMAND [OPTION...]\n%s\n\nCommands:\n", program->name, program->summary);
    for (size_t i = 0; i < program->command_count; i++)
        print_row(out, column, program->commands[i].name, program->commands[i].summary, "");
    fprintf(out, "\n%s COMMAND --help lists the options of a command; %s --version prints the version.\n",
            program->name, program->name);
}

void ht_program_help(const ht_program *program, const ht_command *command, FILE *out) {
    if (!command && program->command_count > 1) {
        print_commands(program, out);
        return;
    }
    if (!command) command = program->commands;
    ht_error err = HT_ERROR_INIT;
    ht_config_table table;
    if (ht_config_table_init(&table, command, NULL, &err) != HT_OK) {
        fprintf(out, "%s\n", err.message);
        return;
    }
    int column = (int)strlen("--set KEY=VALUE"), keys = 0;
    char title[512];
    for (size_t i = 0; i < table.count; i++) {
        option_title(title, sizeof title, table.entries[i].option);
        int length = (int)strlen(title);
        if (length <= COLUMN_MAX && length > column) column = length;
        keys += strchr(table.entries[i].option->key, '.') != NULL;
    }
    fprintf(out, "Usage: %s%s%s [OPTION...]%s%s\n%s\n\nOptions:\n", program->name, command->name ? " " : "",
            command->name ? command->name : "", command->arguments ? " " : "",
            command->arguments ? command->arguments : "",
            command->summary ? command->summary : program->summary);
    for (size_t i = 0; i < table.count; i++)
        if (!strchr(table.entries[i].option->key, '.')) print_option(out, column, table.entries[i].option);
    print_row(out, column, "--config FILE", "configuration file (YAML); options override it", "");
    print_row(out, column, "--set KEY=VALUE", "set any key (repeatable)", "");
    print_row(out, column, "--verbose", "say more on stderr", "");
    print_row(out, column, "--quiet", "say only warnings and errors", "");
    print_row(out, column, "--help", "print this help", "");
    print_row(out, column, "--version", "print the version", "");
    if (keys) fprintf(out, "\nConfiguration keys (--set KEY=VALUE or in the file):\n");
    for (size_t i = 0; i < table.count; i++)
        if (strchr(table.entries[i].option->key, '.')) print_option(out, column, table.entries[i].option);
    ht_config_table_release(&table);
}

/* The command that the first word names; NULL with HT_OK when the program itself is to answer (--help,
 * --version). */
static ht_status choose_command(const ht_program *program, int argc, char **argv, const ht_command **command,
                                ht_error *err) {
    char list[512] = "";
    const char *word = argc > 1 ? argv[1] : NULL, *nearest = NULL;
    size_t least = SIZE_MAX;
    *command = NULL;
    if (program->command_count == 1 && !program->commands[0].name) {
        *command = program->commands;
        return HT_OK;
    }
    if (word && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "--version") == 0))
        return HT_OK;
    for (size_t i = 0; i < program->command_count; i++) {
        const char *name = program->commands[i].name;
        if (word && strcmp(word, name) == 0) {
            *command = &program->commands[i];
            return HT_OK;
        }
        size_t used = strlen(list), apart = word ? ht_config_unlikeness(word, name) : SIZE_MAX;
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", name);
        if (apart < least) {
            least = apart;
            nearest = name;
        }
    }
    if (!word) return ht_fail(err, HT_ERR_USAGE, "a command is missing: one of %s", list);
    if (word[0] == '-')
        return ht_fail(err, HT_ERR_USAGE, "the command comes before \"%s\": one of %s", word, list);
    if (nearest)
        return ht_fail(err, HT_ERR_USAGE, "unknown command \"%s\"; did you mean \"%s\"?", word, nearest);
    return ht_fail(err, HT_ERR_USAGE, "unknown command \"%s\"; it is one of %s", word, list);
}

/* Several processes that know nothing of each other would write the same files. */
static ht_status check_launch(const ht_command *command, ht_error *err) {
    int processes = ht_launched_processes();
    if (processes == 1 || command->parallel) return HT_OK;
    return ht_fail(err, HT_ERR_USAGE, "started as %d processes, but this command runs as one: start it without the launcher",
                   processes);
}

static ht_status run_command(const ht_program *program, const ht_command *command, int argc, char **argv,
                             ht_error *err) {
    void *config = NULL;
    char **arguments = NULL;
    ht_config_request request;
    ht_invocation invocation = {.program = program->name, .command = command};
    ht_status status = HT_OK;
    HT_TRY(ht_calloc(&config, 1, command->config_size, err));
    HT_TRY(ht_config_parse_request(command, argc, argv, config, &invocation.resolved, &arguments,
                                   &invocation.argument_count, &request, err));
    if (request.help) {
        ht_program_help(program, command, stdout);
    } else if (request.version) {
        printf("%s %s\n", program->name, HALTER_VERSION);
    } else {
        ht_log_set_level(request.level);
        invocation.arguments = arguments;
        status = check_launch(command, err);
        if (status == HT_OK) status = command->run(config, &invocation, err);
        ht_config_release(command, config);
    }
done:
    json_decref(invocation.resolved);
    free(arguments);
    free(config);
    return status;
}

int ht_program_main(const ht_program *program, int argc, char **argv) {
    const ht_command *command;
    ht_error err = HT_ERROR_INIT;
    int skip = program->command_count > 1 || program->commands[0].name;
    ht_signals_install();
    ht_status status = choose_command(program, argc, argv, &command, &err);
    if (status == HT_OK && command)
        status = run_command(program, command, argc - skip, argv + skip, &err);
    else if (status == HT_OK && strcmp(argv[1], "--version") == 0)
        printf("%s %s\n", program->name, HALTER_VERSION);
    else if (status == HT_OK)
        ht_program_help(program, NULL, stdout);

    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == HT_OK)
        status = ht_fail(&err, HT_ERR_IO, "cannot write to standard output: %s",
                         errno ? strerror(errno) : "an earlier write failed");
    if (status == HT_OK || ht_log_get_level() == HT_LOG_SILENT) return (int)status;
    ht_log_set_live_line(NULL);
    const char *message = err.message[0] ? err.message : ht_status_text(status);
    fprintf(stderr, "%s: %s%s\n", program->name, ht_status_is_stop(status) ? "" : "error: ", message);
    return (int)status;
}
