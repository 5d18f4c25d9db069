/*
 * config.h: option tables, YAML configuration, command lines and the main function of every program.
 *
 * One row of a table is a flag, a YAML key, a default, a check and a help line. A key without a dot is also a
 * flag: key `max_new_tokens` is `--max-new-tokens N`. A key with a dot (`optim.lr`) is a nested YAML key and is set
 * on the command line by `--set optim.lr=2e-5`, as can be any key. Values are taken from the defaults, then the file
 * given by --config, then the command line from left to right.
 *
 * A configuration file is one YAML document of nested mappings, scalars and lists of scalars, of at most 1 MiB
 * (HT_ERR_DATA above); anchors, aliases, tags and nulls are refused. It may hold keys of the program's command only; an unknown key, a duplicate key, a wrong
 * type or a value out of range is HT_ERR_USAGE with file, line, value, what is allowed and, for keys, the nearest
 * known one:
 *   configs/tiny/sft.yaml:12: optim.lr = "2e5" is above 1
 *   configs/tiny/sft.yaml:9: unknown key "optim.lrr"; did you mean "optim.lr"?
 *   --temperature: "abc" is not a number
 * Numbers are decimal and fill the whole value (`1e-4`, not `1e-4x`, `0x10`, `nan`, `inf`); flags are true or false.
 *
 * Command lines follow GNU's rules: `--key VALUE` or `--key=VALUE`, `--flag`, `--no-flag`, options and arguments
 * mixed, `--` ends the options, `-` is an argument. Options are not abbreviated. The last value given to an option
 * stands, for lists too.
 * Flags every command has: --config F, --set KEY=VALUE, --help; every program: --version, --verbose, --quiet.
 */
#ifndef HT_CONFIG_CONFIG_H
#define HT_CONFIG_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "core/base/error.h"

typedef enum ht_option_type {
    HT_OPTION_FLAG,   /* int field: 0 or 1; --key or --no-key on the command line, true/false in YAML */
    HT_OPTION_INT,    /* int64_t field, [min, max] */
    HT_OPTION_FLOAT,  /* double field, [min, max] */
    HT_OPTION_STRING, /* char * field, owned by the configuration */
    HT_OPTION_PATH,   /* the same; `~` and variables are not expanded */
    HT_OPTION_CHOICE, /* int field: index into `choices` */
    HT_OPTION_FLOATS, /* ht_floats field: YAML sequence, or comma-separated; each in [min, max] */
    HT_OPTION_STRINGS /* ht_strings field: YAML sequence, or comma-separated (blanks around an item are dropped) */
} ht_option_type;

typedef struct ht_floats {
    double *values;
    size_t count;
} ht_floats;

typedef struct ht_strings {
    char **values;
    size_t count;
} ht_strings;

/* Option properties, or-ed. */
enum {
    HT_OPTION_REQUIRED = 1,   /* must be given by file or command line */
    HT_OPTION_RESUME_SAFE = 2 /* may differ between a run and its --resume (paths, threads, steps to save at) */
};

typedef struct ht_option {
    ht_option_type type;
    const char *key;
    size_t offset;             /* of the field in the configuration struct */
    const char *fallback;      /* default as text; NULL: empty string, empty list, 0 */
    double min, max;           /* numbers */
    const char *const *choices; /* NULL-terminated */
    unsigned properties;
    const char *help; /* one line, lower case, no full stop; the unit where there is one */
} ht_option;

#define HT_OPT_FLAG(s, f, key, props, help)                                                                   \
    {HT_OPTION_FLAG, key, offsetof(s, f), "false", 0, 0, NULL, props, help}
#define HT_OPT_FLAG_ON(s, f, key, props, help)                                                                \
    {HT_OPTION_FLAG, key, offsetof(s, f), "true", 0, 0, NULL, props, help}
#define HT_OPT_INT(s, f, key, def, lo, hi, props, help)                                                       \
    {HT_OPTION_INT, key, offsetof(s, f), def, lo, hi, NULL, props, help}
#define HT_OPT_FLOAT(s, f, key, def, lo, hi, props, help)                                                     \
    {HT_OPTION_FLOAT, key, offsetof(s, f), def, lo, hi, NULL, props, help}
#define HT_OPT_STRING(s, f, key, def, props, help)                                                            \
    {HT_OPTION_STRING, key, offsetof(s, f), def, 0, 0, NULL, props, help}
#define HT_OPT_PATH(s, f, key, def, props, help)                                                              \
    {HT_OPTION_PATH, key, offsetof(s, f), def, 0, 0, NULL, props, help}
#define HT_OPT_CHOICE(s, f, key, def, list, props, help)                                                      \
    {HT_OPTION_CHOICE, key, offsetof(s, f), def, 0, 0, list, props, help}
#define HT_OPT_FLOATS(s, f, key, def, lo, hi, props, help)                                                    \
    {HT_OPTION_FLOATS, key, offsetof(s, f), def, lo, hi, NULL, props, help}
#define HT_OPT_STRINGS(s, f, key, def, props, help)                                                           \
    {HT_OPTION_STRINGS, key, offsetof(s, f), def, 0, 0, NULL, props, help}

/* What a command gets besides its configuration. */
typedef struct ht_invocation {
    const char *program;         /* "halter-sft" */
    const struct ht_command *command;
    char *const *arguments;      /* positional arguments, borrowed */
    size_t argument_count;
    json_t *resolved;            /* every key with its value, in table order: for halter.json, hashes and resume */
} ht_invocation;

/*
 * One command of a program. Option tables are concatenated from parts, so that stages share the training loop's
 * table: `parts` is terminated by a zeroed entry; every part's offsets are relative to the configuration plus the
 * part's base offset.
 */
typedef struct ht_option_part {
    const ht_option *options;
    size_t count;
    size_t base; /* offset of the part's struct in the configuration struct */
} ht_option_part;

typedef struct ht_command {
    const char *name;    /* NULL: the program has one command and no word for it */
    const char *summary; /* one line */
    const char *arguments; /* e.g. "FILE..."; NULL: no positional arguments are allowed */
    ht_option_part parts[6];
    size_t config_size;
    int parallel; /* 1: runs on all processes that mpirun or srun starts together; 0: is refused to be one of several */
    ht_status (*run)(void *config, const ht_invocation *invocation, ht_error *err);
} ht_command;

typedef struct ht_program {
    const char *name;    /* "halter-sft" */
    const char *summary; /* one line */
    const ht_command *commands;
    size_t command_count;
} ht_program;

/*
 * The body of every main(): parses, runs, prints "halter-sft: error: MESSAGE" on stderr (unless the log is silent), and
 * returns the exit code. A program of several commands takes the command's name as first word. Installs the signal
 * handlers. Output to stdout that cannot be written is HT_ERR_IO.
 */
int ht_program_main(const ht_program *program, int argc, char **argv);

/* The text of --help: of the command, or of the whole program when `command` is NULL and it has several. */
void ht_program_help(const ht_program *program, const ht_command *command, FILE *out);

/*
 * Parses a command line for one command into `config` (config_size zeroed bytes) without running it; used by
 * ht_program_main and by tests. argv[0] is the program's or the command's own name and is skipped. *resolved is a
 * new reference: one flat object, dotted keys in table order. *arguments is an array to be released with free(), of
 * strings borrowed from argv. --help and --version are a program's and HT_ERR_USAGE here. On failure nothing needs
 * to be released. ht_config_release frees the strings and lists.
 */
ht_status ht_config_parse(const ht_command *command, int argc, char *const *argv, void *config, json_t **resolved,
                          char ***arguments, size_t *argument_count, ht_error *err);
void ht_config_release(const ht_command *command, void *config);

/*
 * Compares two resolved configurations, leaving out RESUME_SAFE keys; keys that are no option's are compared
 * too. HT_ERR_USAGE lists every differing key with both values.
 */
ht_status ht_config_check_same(const ht_command *command, const json_t *before, const json_t *now, ht_error *err);

#endif
