/* A configuration file, YAML, with a key of every type. */
#include <stdlib.h>

#include "core/config/config.h"
#include "tests/fuzz/fuzz.h"

typedef struct every_type {
    int flag, choice;
    int64_t integer;
    double number;
    char *string, *path;
    ht_floats floats;
    ht_strings strings;
} every_type;

static const char *const choices[] = {"cosine", "constant", NULL};
static const ht_option options[] = {
    HT_OPT_FLAG(every_type, flag, "flag", 0, "a flag"),
    HT_OPT_CHOICE(every_type, choice, "optim.schedule", "cosine", choices, 0, "a choice"),
    HT_OPT_INT(every_type, integer, "optim.steps", "1", 0, 1e15, 0, "an integer"),
    HT_OPT_FLOAT(every_type, number, "optim.lr", "1e-5", 0, 1, 0, "a number"),
    HT_OPT_STRING(every_type, string, "data.source", NULL, 0, "a string"),
    HT_OPT_PATH(every_type, path, "data.path", NULL, 0, "a path"),
    HT_OPT_FLOATS(every_type, floats, "data.mix.fractions", "0.5,0.5", 0, 1, 0, "numbers"),
    HT_OPT_STRINGS(every_type, strings, "data.mix.names", "a,b", 0, "strings"),
};
static const ht_command command = {.summary = "every type",
                                   .parts = {{options, sizeof options / sizeof *options, 0}},
                                   .config_size = sizeof(every_type)};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ht_error err = HT_ERROR_INIT;
    every_type config = {0};
    json_t *resolved = NULL;
    char **arguments = NULL;
    size_t count = 0;
    fuzz_write("config.yaml", data, size);
    char *argv[] = {(char *)"fuzz", (char *)"--config", (char *)(uintptr_t)fuzz_path("config.yaml")};
    ht_status status = ht_config_parse(&command, 3, argv, &config, &resolved, &arguments, &count, &err);
    if (status == HT_OK) {
        json_decref(resolved);
        free(arguments);
        ht_config_release(&command, &config);
    }
    fuzz_judge(status, &err);
    return 0;
}
