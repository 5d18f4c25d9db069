/* Values, refusals, precedence and the resolved configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/config/config.h"
#include "tests/unit/folder.h"

typedef struct loop_config {
    int64_t steps;
    double lr;
} loop_config;

typedef struct test_config {
    char *model, *title;
    int resume, shuffle;
    int64_t max_new_tokens, seed;
    double temperature;
    int backend;
    ht_floats temperatures;
    ht_strings stop;
    loop_config loop;
} test_config;

static const char *const backends[] = {"auto", "cpu", "cuda", NULL};

static const ht_option own_options[] = {
    HT_OPT_PATH(test_config, model, "model", NULL, HT_OPTION_RESUME_SAFE, "model folder"),
    HT_OPT_STRING(test_config, title, "title", "none", 0, "title"),
    HT_OPT_FLAG(test_config, resume, "resume", HT_OPTION_RESUME_SAFE, "resume"),
    {HT_OPTION_FLAG, "data.shuffle", offsetof(test_config, shuffle), "true", 0, 0, NULL, 0, "shuffle"},
    HT_OPT_INT(test_config, max_new_tokens, "max_new_tokens", "256", 1, 4096, 0, "tokens at most"),
    HT_OPT_INT(test_config, seed, "seed", NULL, -9.3e18, 9.3e18, 0, "seed"),
    HT_OPT_FLOAT(test_config, temperature, "temperature", "1", 0, 5, 0, "temperature"),
    HT_OPT_CHOICE(test_config, backend, "backend", "auto", backends, 0, "backend"),
    HT_OPT_FLOATS(test_config, temperatures, "sample.temperatures", "0.7,1.0", 0, 5, 0, "temperatures"),
    HT_OPT_STRINGS(test_config, stop, "sample.stop", NULL, 0, "stop texts"),
};
static const ht_option loop_options[] = {
    HT_OPT_INT(loop_config, steps, "optim.steps", "10", 1, 1e6, 0, "steps"),
    HT_OPT_FLOAT(loop_config, lr, "optim.lr", "2e-5", 0, 1, 0, "peak learning rate"),
};
#define COUNT(a) (sizeof(a) / sizeof *(a))
static const ht_command command = {
    .arguments = "FILE...",
    .parts = {{own_options, COUNT(own_options), 0},
              {loop_options, COUNT(loop_options), offsetof(test_config, loop)}},
    .config_size = sizeof(test_config),
};

static char yaml[128];

static int set_up(void **state) {
    if (make_root(state) != 0) return -1;
    snprintf(yaml, sizeof yaml, "%s/a.yaml", root);
    return 0;
}

typedef struct outcome {
    ht_status status;
    ht_error err;
    test_config config;
    json_t *resolved;
    char **arguments;
    size_t argument_count;
} outcome;

/* Parses `words` (NULL-terminated); with `file`, it is the content of a file that --config names first. */
static outcome parse_with(const ht_command *c, const char *file, const char *const *words) {
    outcome o = {.err = HT_ERROR_INIT};
    char *argv[32] = {(char *)"program"};
    int argc = 1;
    if (file) {
        ht_error err = HT_ERROR_INIT;
        assert_int_equal(ht_file_write(yaml, file, strlen(file), &err), HT_OK);
        argv[argc++] = (char *)"--config";
        argv[argc++] = yaml;
    }
    for (size_t i = 0; words[i]; i++)
        argv[argc++] = (char *)(uintptr_t)words[i];
    o.status =
        ht_config_parse(c, argc, argv, &o.config, &o.resolved, &o.arguments, &o.argument_count, &o.err);
    if (o.status != HT_OK) {
        assert_null(o.resolved);
        assert_null(o.arguments);
        assert_null(o.config.title);
        assert_null(o.config.temperatures.values);
    }
    return o;
}

#define PARSE(...)             PARSE_WORDS(__VA_ARGS__, NULL)
#define PARSE_WORDS(file, ...) parse_with(&command, file, (const char *const[]){__VA_ARGS__})

static void release(outcome *o) {
    ht_config_release(&command, &o->config);
    json_decref(o->resolved);
    free(o->arguments);
}

static void assert_accepted(const outcome *o) {
    if (o->status != HT_OK) fail_msg("refused: %s", o->err.message);
}

static void test_config__defaults(void **state) {
    (void)state;
    outcome o = PARSE(NULL);
    assert_accepted(&o);
    const test_config *c = &o.config;
    assert_string_equal(c->model, "");
    assert_string_equal(c->title, "none");
    assert_int_equal(c->resume, 0);
    assert_int_equal(c->shuffle, 1);
    assert_int_equal(c->max_new_tokens, 256);
    assert_int_equal(c->seed, 0);
    assert_true(c->temperature == 1);
    assert_int_equal(c->backend, 0);
    assert_int_equal(c->temperatures.count, 2);
    assert_true(c->temperatures.values[0] == 0.7 && c->temperatures.values[1] == 1);
    assert_int_equal(c->stop.count, 0);
    assert_int_equal(c->loop.steps, 10);
    assert_true(c->loop.lr == 2e-5);
    assert_int_equal(o.argument_count, 0);
    release(&o);
}

static void test_config__every_type_from_the_command_line(void **state) {
    (void)state;
    outcome o =
        PARSE(NULL, "--model", "~/m", "--title=a = b", "--resume", "--set", "data.shuffle=false",
              "--max-new-tokens", "4096", "--seed=-9223372036854775808", "--temperature", "1e-2", "--backend",
              "cuda", "--set", "sample.temperatures=0.5, 1.5 ,2", "--set=sample.stop=a b, c");
    assert_accepted(&o);
    const test_config *c = &o.config;
    assert_string_equal(c->model, "~/m");
    assert_string_equal(c->title, "a = b");
    assert_int_equal(c->resume, 1);
    assert_int_equal(c->shuffle, 0);
    assert_int_equal(c->max_new_tokens, 4096);
    assert_true(c->seed == INT64_MIN);
    assert_true(c->temperature == 0.01);
    assert_int_equal(c->backend, 2);
    assert_int_equal(c->temperatures.count, 3);
    assert_true(c->temperatures.values[1] == 1.5);
    assert_int_equal(c->stop.count, 2);
    assert_string_equal(c->stop.values[0], "a b");
    assert_string_equal(c->stop.values[1], "c");
    release(&o);
}

static void test_config__every_type_from_a_file(void **state) {
    (void)state;
    outcome o = PARSE("# comment\n"
                      "model: /m\n"
                      "title: \"null\"   # quoted: a string\n"
                      "resume: true\n"
                      "data:\n"
                      "  shuffle: false\n"
                      "max_new_tokens: \"7\"\n"
                      "seed: 9223372036854775807\n"
                      "temperature: .5\n"
                      "backend: cpu\n"
                      "sample: {temperatures: [0.5, 1], stop: ['a,b', '', c]}\n"
                      "optim.steps: 3\n"
                      "optim:\n"
                      "  lr: 1e-4\n");
    assert_accepted(&o);
    const test_config *c = &o.config;
    assert_string_equal(c->model, "/m");
    assert_string_equal(c->title, "null");
    assert_int_equal(c->resume, 1);
    assert_int_equal(c->shuffle, 0);
    assert_int_equal(c->max_new_tokens, 7);
    assert_true(c->seed == INT64_MAX);
    assert_true(c->temperature == 0.5);
    assert_int_equal(c->backend, 1);
    assert_int_equal(c->temperatures.count, 2);
    assert_int_equal(c->stop.count, 3);
    assert_string_equal(c->stop.values[0], "a,b");
    assert_string_equal(c->stop.values[1], "");
    assert_int_equal(c->loop.steps, 3);
    assert_true(c->loop.lr == 1e-4);
    release(&o);
}

static void test_config__empty_files_and_sections(void **state) {
    (void)state;
    static const char *const files[] = {"",
                                        "# nothing\n",
                                        "---\n",
                                        "{}\n",
                                        "optim:\n",
                                        "optim:\n  # lr: 1\n",
                                        "sample: {temperatures: []}\n",
                                        "sample.temperatures: ''\n"};
    for (size_t i = 0; i < COUNT(files); i++) {
        outcome o = PARSE(files[i]);
        assert_accepted(&o);
        assert_true(o.config.loop.lr == 2e-5);
        assert_int_equal(o.config.temperatures.count, i < 6 ? 2 : 0);
        release(&o);
    }
}

/* Defaults, then the file, then the command line left to right, wherever --config stands. */
static void test_config__precedence(void **state) {
    (void)state;
    outcome o = PARSE("max_new_tokens: 5\ntemperature: 2\noptim: {lr: 0.5}\n");
    assert_accepted(&o);
    assert_int_equal(o.config.max_new_tokens, 5);
    assert_int_equal(o.config.loop.steps, 10);
    release(&o);
    o = PARSE(NULL, "--temperature", "3", "--set", "optim.lr=0.1", "--config", yaml, "--set", "optim.lr=0.2",
              "--temperature=4", "--resume", "--no-resume");
    assert_accepted(&o);
    assert_int_equal(o.config.max_new_tokens, 5);
    assert_true(o.config.temperature == 4);
    assert_true(o.config.loop.lr == 0.2);
    assert_int_equal(o.config.resume, 0);
    release(&o);
}

static void test_config__arguments(void **state) {
    (void)state;
    outcome o = PARSE(NULL, "a.csv", "--resume", "-", "--", "--temperature", "-x");
    assert_accepted(&o);
    assert_int_equal(o.argument_count, 4);
    assert_string_equal(o.arguments[0], "a.csv");
    assert_string_equal(o.arguments[1], "-");
    assert_string_equal(o.arguments[2], "--temperature");
    assert_string_equal(o.arguments[3], "-x");
    assert_int_equal(o.config.resume, 1);
    release(&o);
    o = PARSE(NULL, "--title", "--resume"); /* the next word is the value, whatever it is */
    assert_accepted(&o);
    assert_string_equal(o.config.title, "--resume");
    assert_int_equal(o.config.resume, 0);
    release(&o);
    ht_command none = command;
    none.arguments = NULL;
    o = parse_with(&none, NULL, (const char *const[]){"a.csv", NULL});
    assert_int_equal(o.status, HT_ERR_USAGE);
    assert_string_equal(o.err.message, "unexpected argument \"a.csv\"");
}

typedef struct refusal {
    const char *words[3];
    const char *message;
} refusal;

static const refusal command_line_refusals[] = {
    {{"--temperature", "abc"}, "--temperature: \"abc\" is not a number"},
    {{"--temperature=1x"}, "--temperature: \"1x\" is not a number"},
    {{"--temperature="}, "--temperature: \"\" is not a number"},
    {{"--temperature= 1"}, "--temperature: \" 1\" is not a number"},
    {{"--temperature=nan"}, "--temperature: \"nan\" is not a number"},
    {{"--temperature=inf"}, "--temperature: \"inf\" is not a number"},
    {{"--temperature=0x1"}, "--temperature: \"0x1\" is not a number"},
    {{"--temperature=1e999"}, "--temperature: \"1e999\" does not fit in a 64-bit floating-point number"},
    {{"--temperature=5.5"}, "--temperature: \"5.5\" is above 5"},
    {{"--temperature", "-1"}, "--temperature: \"-1\" is below 0"},
    {{"--max-new-tokens=1e3"}, "--max-new-tokens: \"1e3\" is not an integer"},
    {{"--max-new-tokens=1.0"}, "--max-new-tokens: \"1.0\" is not an integer"},
    {{"--max-new-tokens=1_000"}, "--max-new-tokens: \"1_000\" is not an integer"},
    {{"--max-new-tokens=-"}, "--max-new-tokens: \"-\" is not an integer"},
    {{"--max-new-tokens="}, "--max-new-tokens: \"\" is not an integer"},
    {{"--max-new-tokens=0"}, "--max-new-tokens: \"0\" is below 1"},
    {{"--max-new-tokens=4097"}, "--max-new-tokens: \"4097\" is above 4096"},
    {{"--set", "optim.steps=1000001"}, "--set optim.steps: \"1000001\" is above 1000000"},
    {{"--seed=9223372036854775808"}, "--seed: \"9223372036854775808\" does not fit in 64 bits"},
    {{"--resume=yes"}, "--resume: \"yes\" is not true or false"},
    {{"--no-resume=true"}, "--no-resume takes no value"},
    {{"--backend", "gpu"}, "--backend: \"gpu\" is none of auto, cpu, cuda"},
    {{"--set", "sample.temperatures=1,x"}, "--set sample.temperatures: \"x\" is not a number"},
    {{"--set", "sample.temperatures=1,6"}, "--set sample.temperatures: \"6\" is above 5"},
    {{"--set", "sample.temperatures=1,,2"}, "--set sample.temperatures: \"1,,2\" has an empty item"},
    {{"--set", "sample.stop=a, "}, "--set sample.stop: \"a, \" has an empty item"},
    {{"--set", "optim.lr=2"}, "--set optim.lr: \"2\" is above 1"},
    {{"--set", "optim.lrr=2"}, "--set: unknown key \"optim.lrr\"; did you mean \"optim.lr\"?"},
    {{"--set", "completely_other=2"}, "--set: unknown key \"completely_other\"; --help lists the keys"},
    {{"--set", "optim.lr"}, "--set: \"optim.lr\" is not KEY=VALUE"},
    {{"--set", "=1"}, "--set: \"=1\" is not KEY=VALUE"},
    {{"--set"}, "--set needs a value"},
    {{"--config"}, "--config needs a value"},
    {{"--config=a", "--config=b"}, "--config is given twice"},
    {{"--temperature"}, "--temperature needs a value"},
    {{"--temprature", "1"}, "unknown option \"--temprature\"; did you mean \"--temperature\"?"},
    {{"--temp=1"}, "unknown option \"--temp\"; did you mean \"--temperature\"?"},
    {{"--max_new_tokens=1"}, "unknown option \"--max_new_tokens\"; did you mean \"--max-new-tokens\"?"},
    {{"--lr=1"}, "unknown option \"--lr\"; did you mean --set optim.lr=VALUE?"},
    {{"--optim.lr", "1"}, "unknown option \"--optim.lr\"; did you mean --set optim.lr=VALUE?"},
    {{"--confg", "f"}, "unknown option \"--confg\"; did you mean \"--config\"?"},
    {{"--completely-other"}, "unknown option \"--completely-other\"; --help lists the options"},
    {{"--no-temperature"}, "unknown option \"--no-temperature\"; did you mean \"--temperature\"?"},
    {{"-t", "1"}, "unknown option \"-t\"; --help lists the options"},
    {{"--help"}, "--help is for a program's command line"},
    {{"--version"}, "--version is for a program's command line"},
};

static void test_config__command_line_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(command_line_refusals); i++) {
        outcome o = parse_with(&command, NULL, command_line_refusals[i].words);
        assert_int_equal(o.status, HT_ERR_USAGE);
        assert_string_equal(o.err.message, command_line_refusals[i].message);
    }
}

static const struct {
    const char *file, *message; /* message without the leading path */
} file_refusals[] = {
    {"model: m\noptim:\n  lr: 2e5\n", ":3: optim.lr = \"2e5\" is above 1"},
    {"optim:\n  lrr: 1\n", ":2: unknown key \"optim.lrr\"; did you mean \"optim.lr\"?"},
    {"lr: 1\n", ":1: unknown key \"lr\"; did you mean \"optim.lr\"?"},
    {"completely_other: 1\n", ":1: unknown key \"completely_other\"; --help lists the keys"},
    {"completely_other: {a: 1}\n", ":1: unknown key \"completely_other\"; --help lists the keys"},
    {"temperature: abc\n", ":1: temperature = \"abc\" is not a number"},
    {"\ntemperature: 1e-2.5\n", ":2: temperature = \"1e-2.5\" is not a number"},
    {"max_new_tokens: 3.0\n", ":1: max_new_tokens = \"3.0\" is not an integer"},
    {"resume: yes\n", ":1: resume = \"yes\" is not true or false"},
    {"resume: True\n", ":1: resume = \"True\" is not true or false"},
    {"backend: gpu\n", ":1: backend = \"gpu\" is none of auto, cpu, cuda"},
    {"temperature: [1, 2]\n", ":1: temperature is one value, not a list"},
    {"temperature: {a: 1}\n", ":1: temperature is a value, not a mapping"},
    {"temperature:\n", ":1: temperature has no value; leave the line out for the default"},
    {"title: ~\n", ":1: title has no value; leave the line out for the default"},
    {"optim: 3\n", ":1: \"optim\" holds keys such as \"optim.steps\", not a value"},
    {"optim: [3]\n", ":1: \"optim\" holds keys such as \"optim.steps\", not a value"},
    {"seed: 1\ntitle: x\nseed: 1\n", ":3: key \"seed\" is given twice, first on line 1"},
    {"optim: {lr: 1}\noptim.lr: 1\n", ":2: key \"optim.lr\" is given twice, first on line 1"},
    {"optim: {lr: 1}\noptim: {steps: 1}\n", ":2: key \"optim\" is given twice, first on line 1"},
    {"sample:\n  temperatures:\n  - 1\n  - 6\n", ":2: sample.temperatures = \"6\" is above 5"},
    {"sample: {temperatures: [[1]]}\n", ":1: a list holds single values, no lists or mappings"},
    {"sample: {stop: [{a: 1}]}\n", ":1: a list holds single values, no lists or mappings"},
    {"sample:\n  stop:\n  - a\n  -\n", ":4: a list item has no value"},
    {"title: &x a\n", ":1: anchors and aliases are not allowed"},
    {"title: *x\n", ":1: anchors and aliases are not allowed"},
    {"optim: &x {lr: 1}\n", ":1: anchors and aliases are not allowed"},
    {"title: !!str 3\n", ":1: tags are not allowed"},
    {"title: \"a\\0b\"\n", ":1: a value holds a NUL character"},
    {"[a]: 1\n", ":1: a key must be one word"},
    {"- a\n", ":1: not a mapping of keys to values"},
    {"just text\n", ":1: not a mapping of keys to values"},
    {"seed: 1\n---\nseed: 2\n", ":2: a second document; a configuration is one"},
    {"title: 1\n  seed: 2\n", ":2: mapping values are not allowed in this context"},
    {"title: \"open\n", ":2: found unexpected end of stream while scanning a quoted scalar"},
    {"seed: 1\n\ttitle: x\n",
     ":2: found a tab character that violates indentation while scanning a plain scalar"},
    {"title: \xff\n", ": byte 7: invalid leading UTF-8 octet"},
};

static void test_config__file_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(file_refusals); i++) {
        char expected[400];
        outcome o = PARSE(file_refusals[i].file);
        assert_int_equal(o.status, HT_ERR_USAGE);
        snprintf(expected, sizeof expected, "%s%s", yaml, file_refusals[i].message);
        assert_string_equal(o.err.message, expected);
    }
}

static void test_config__unfit_files(void **state) {
    (void)state;
    size_t size = ((size_t)1 << 20) + 1;
    char expected[400];
    char *text = malloc(size + 1);
    memset(text, '\n', size);
    text[size] = '\0';
    outcome o = PARSE(text);
    snprintf(expected, sizeof expected, "\"%s\" is above the limit of 1048576 bytes", yaml);
    assert_int_equal(o.status, HT_ERR_DATA);
    assert_string_equal(o.err.message, expected);
    memset(text, '[', size - 1); /* one byte less is read, but nothing nests without end */
    text[size - 1] = '\0';
    o = PARSE(text);
    snprintf(expected, sizeof expected, "%s:1: not a mapping of keys to values", yaml);
    assert_int_equal(o.status, HT_ERR_USAGE);
    assert_string_equal(o.err.message, expected);
    memset(text, '\n', size - 1);
    o = PARSE(text);
    assert_accepted(&o);
    release(&o);
    strcpy(text, "a");
    memset(text + 1, 'a', 300);
    strcpy(text + 301, ": 1\n");
    o = PARSE(text);
    snprintf(expected, sizeof expected, "%s:1: a key is longer than 255 bytes", yaml);
    assert_string_equal(o.err.message, expected);
    free(text);
    o = PARSE(NULL, "--config", "/nowhere/a.yaml");
    assert_int_equal(o.status, HT_ERR_IO);
    assert_string_equal(o.err.message, "cannot open \"/nowhere/a.yaml\": No such file or directory");
}

static void test_config__required(void **state) {
    (void)state;
    static const ht_option options[] = {
        HT_OPT_PATH(test_config, model, "model", NULL, HT_OPTION_REQUIRED, "model folder"),
        HT_OPT_STRING(test_config, title, "out_dir", NULL, HT_OPTION_REQUIRED, "out"),
        HT_OPT_INT(test_config, seed, "data.seed", NULL, 1, 9, HT_OPTION_REQUIRED, "seed"),
    };
    ht_command c = {.parts = {{options, COUNT(options), 0}}, .config_size = sizeof(test_config)};
    outcome o = parse_with(&c, NULL, (const char *const[]){NULL});
    assert_int_equal(o.status, HT_ERR_USAGE);
    assert_string_equal(o.err.message, "missing required options: --model, --out-dir, --set data.seed=");
    o = parse_with(&c, "model: m\ndata: {seed: 3}\n", (const char *const[]){NULL});
    assert_string_equal(o.err.message, "missing required option: --out-dir");
    o = parse_with(&c, "model: m\ndata: {seed: 3}\n", (const char *const[]){"--out-dir=x", NULL});
    assert_accepted(&o);
    ht_config_release(&c, &o.config);
    json_decref(o.resolved);
}

static void test_config__table_mistakes_are_found(void **state) {
    (void)state;
    static const ht_option bad[] = {HT_OPT_INT(test_config, seed, "seed", "x", 0, 1, 0, "seed")};
    ht_command c = {.parts = {{bad, 1, 0}}, .config_size = sizeof(test_config)};
    outcome o = parse_with(&c, NULL, (const char *const[]){NULL});
    assert_string_equal(o.err.message, "default of seed: \"x\" is not an integer");
    c = (ht_command){.parts = {{own_options, 1, 0}, {own_options, 1, 0}}, .config_size = sizeof(test_config)};
    o = parse_with(&c, NULL, (const char *const[]){NULL});
    assert_int_equal(o.status, HT_ERR_RUN);
    assert_string_equal(o.err.message, "option \"model\" is in the table twice");
}

static void test_config__resolved(void **state) {
    (void)state;
    outcome o = PARSE(NULL, "--model=m", "--backend=cpu", "--set", "sample.stop=a,b");
    assert_accepted(&o);
    json_t *expected =
        json_pack("{s:s, s:s, s:b, s:b, s:i, s:i, s:f, s:s, s:[f, f], s:[s, s], s:i, s:f}", "model", "m",
                  "title", "none", "resume", 0, "data.shuffle", 1, "max_new_tokens", 256, "seed", 0,
                  "temperature", 1.0, "backend", "cpu", "sample.temperatures", 0.7, 1.0, "sample.stop", "a",
                  "b", "optim.steps", 10, "optim.lr", 2e-5);
    assert_true(json_equal(o.resolved, expected));
    /* In the table's order. */
    void *expected_at = json_object_iter(expected);
    for (void *at = json_object_iter(o.resolved); at; at = json_object_iter_next(o.resolved, at)) {
        assert_string_equal(json_object_iter_key(at), json_object_iter_key(expected_at));
        expected_at = json_object_iter_next(expected, expected_at);
    }
    json_decref(expected);
    release(&o);
    o = PARSE(NULL, "--title=\xff");
    assert_int_equal(o.status, HT_ERR_USAGE);
    assert_string_equal(o.err.message, "title: the value is not valid UTF-8");
}

static void test_config__check_same(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    outcome before = PARSE(NULL, "--model=a"), now = PARSE(NULL, "--model=b", "--resume");
    /* model and resume may differ */
    assert_int_equal(ht_config_check_same(&command, before.resolved, now.resolved, &err), HT_OK);
    /* A round trip through a file changes nothing. */
    char *text = json_dumps(now.resolved, 0);
    json_t *back = json_loads(text, 0, NULL);
    assert_int_equal(ht_config_check_same(&command, before.resolved, back, &err), HT_OK);
    free(text);
    json_decref(back);
    release(&now);
    now = PARSE(NULL, "--set", "optim.lr=1e-4", "--title=x", "--set", "sample.temperatures=0.7");
    assert_int_equal(ht_config_check_same(&command, before.resolved, now.resolved, &err), HT_ERR_USAGE);
    assert_string_equal(err.message,
                        "configuration differs: title was \"none\", is \"x\"; sample.temperatures was "
                        "[0.7,1.0], is [0.7]; optim.lr was 2e-05, is 0.0001");
    release(&now);
    now = PARSE(NULL);
    json_object_del(before.resolved, "seed");
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_config_check_same(&command, before.resolved, now.resolved, &err), HT_ERR_USAGE);
    assert_string_equal(err.message, "configuration differs: seed was unset, is 0");
    release(&now);
    char long_title[1200] = "--title=";
    memset(long_title + 8, 'x', 1100);
    now = PARSE(NULL, long_title, "--seed=1");
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_config_check_same(&command, before.resolved, now.resolved, &err), HT_ERR_USAGE);
    assert_string_equal(err.message, "configuration differs: seed was unset, is 1; and 1 more");
    release(&now);
    release(&before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config__defaults),
        cmocka_unit_test(test_config__every_type_from_the_command_line),
        cmocka_unit_test(test_config__every_type_from_a_file),
        cmocka_unit_test(test_config__empty_files_and_sections),
        cmocka_unit_test(test_config__precedence),
        cmocka_unit_test(test_config__arguments),
        cmocka_unit_test(test_config__command_line_refusals),
        cmocka_unit_test(test_config__file_refusals),
        cmocka_unit_test(test_config__unfit_files),
        cmocka_unit_test(test_config__required),
        cmocka_unit_test(test_config__table_mistakes_are_found),
        cmocka_unit_test(test_config__resolved),
        cmocka_unit_test(test_config__check_same),
    };
    return cmocka_run_group_tests(tests, set_up, remove_root);
}
