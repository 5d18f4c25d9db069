#include "tests/unit/checkpoint/support.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "core/base/json.h"
#include "core/checkpoint/train_state.h"

/* A policy with weights and m, and a value model with weights and m in fewer bits. */
enum { PARTS = 5 };

typedef struct run {
    ht_backend *be;
    ht_arena arena;
    ht_layout layouts[2];
    ht_params params[PARTS];
    ht_state_part parts[PARTS];
} run;

static const char *const names[PARTS] = {"policy.weights", "value.weights", "policy.m", "value.m", "value.v"};
static const ht_dtype dtypes[PARTS] = {HT_F32, HT_F32, HT_F32, HT_BF16, HT_U8};

static void open_run(run *r, int64_t vocab) {
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config = {.vocab_size = vocab,
                              .dim = 8,
                              .n_layers = 1,
                              .n_heads = 2,
                              .n_kv_heads = 1,
                              .head_dim = 4,
                              .ffn_dim = 12,
                              .max_positions = 16,
                              .norm_eps = 1e-5,
                              .rope_theta = 10000};
    assert_ok(ht_backend_open(&r->be, HT_BACKEND_CPU, 1, &err), &err);
    ht_arena_init(&r->arena, 0);
    ht_backend_arena(r->be, &r->arena);
    assert_ok(ht_layout_init(&r->layouts[0], &config, &err), &err);
    config.head = HT_HEAD_SCALAR;
    assert_ok(ht_layout_init(&r->layouts[1], &config, &err), &err);
    for (int p = 0; p < PARTS; p++) {
        const ht_layout *layout = &r->layouts[strncmp(names[p], "value", 5) == 0];
        assert_ok(ht_params_init(&r->params[p], layout, dtypes[p], HT_MEMORY_OPTIMIZER, &r->arena, &err), &err);
        r->parts[p] = (ht_state_part){names[p], &r->params[p]};
    }
}

static void close_run(run *r) {
    for (int p = 0; p < PARTS; p++)
        ht_params_free(&r->params[p]);
    ht_layout_free(&r->layouts[0]);
    ht_layout_free(&r->layouts[1]);
    ht_arena_clear(&r->arena);
    ht_backend_close(r->be);
}

/* A pattern that differs in every part, unit and element, with all 32 bits in use (NaN payloads too). */
static uint32_t pattern(uint32_t seed, int part, int64_t unit, int64_t i) {
    uint32_t x =
        seed * 2654435761u + (uint32_t)part * 40503u + (uint32_t)unit * 7919u + (uint32_t)i * 104729u;
    return (x ^ x >> 15) * 2246822519u;
}

static void fill_run(run *r, uint32_t seed) {
    ht_error err = HT_ERROR_INIT;
    for (int p = 0; p < PARTS; p++)
        for (int64_t u = 0; u < r->params[p].layout->units; u++)
            for (int64_t i = 0; i < r->params[p].layout->unit_size[u]; i++) {
                uint32_t bits = pattern(seed, p, u, i);
                size_t size = ht_dtype_size(dtypes[p]);
                char *element = (char *)r->params[p].units[u] + (size_t)i * size;
                assert_ok(ht_upload(r->be, element, &bits, size, &err), &err);
            }
}

static void assert_run(run *r, uint32_t seed) {
    ht_error err = HT_ERROR_INIT;
    for (int p = 0; p < PARTS; p++)
        for (int64_t u = 0; u < r->params[p].layout->units; u++)
            for (int64_t i = 0; i < r->params[p].layout->unit_size[u]; i++) {
                uint32_t bits, wanted = pattern(seed, p, u, i);
                size_t size = ht_dtype_size(dtypes[p]);
                const char *element = (const char *)r->params[p].units[u] + (size_t)i * size;
                assert_ok(ht_download(r->be, &bits, element, size, &err), &err);
                assert_memory_equal(&bits, &wanted, size); /* the low bytes come first */
            }
}

/* Saves step `step` with the pattern and the values {"step": step}. */
static void save(run *r, int64_t step, int64_t keep_last) {
    ht_error err = HT_ERROR_INIT;
    json_t *values = json_pack("{s:I}", "step", (json_int_t)step);
    fill_run(r, (uint32_t)step);
    assert_ok(ht_train_state_save(in_root("state"), step, values, r->parts, PARTS, r->be, keep_last, &err),
              &err);
    json_decref(values);
}

/* The newest sound state is `step`'s, and it loads. */
static void assert_found(run *r, int64_t step) {
    ht_error err = HT_ERROR_INIT;
    json_t *values;
    int64_t found;
    assert_ok(ht_train_state_find(in_root("state"), &found, &values, &err), &err);
    assert_int_equal(found, step);
    assert_int_equal(json_integer_value(json_object_get(values, "step")), step);
    json_decref(values);
    fill_run(r, 77);
    assert_ok(ht_train_state_load(in_root("state"), step, r->parts, PARTS, r->be, &err), &err);
    assert_run(r, (uint32_t)step);
}

static void test_train_state__none(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    int64_t step = 5;
    json_t *values;
    assert_ok(ht_train_state_find(in_root("state"), &step, &values, &err), &err);
    assert_int_equal(step, -1);
    assert_null(values);
    make_folder(in_root("state/step-1"));
    make_folder(in_root("state/other"));
    assert_ok(ht_train_state_find(in_root("state"), &step, &values, &err), &err);
    assert_int_equal(step, -1);
    write_text(in_root("file"), "no folder");
    assert_failed(ht_train_state_find(in_root("file"), &step, &values, &err), HT_ERR_IO, &err, "cannot read folder \"");
    assert_non_null(strstr(err.message, "/file\": Not a directory"));
}

static void test_train_state__round_trip(void **state) {
    (void)state;
    run r;
    open_run(&r, 33);
    save(&r, 12, 2);
    assert_found(&r, 12);
    assert_true(ht_path_exists(in_root("state/step-00000012/policy.safetensors")));
    assert_true(ht_path_exists(in_root("state/step-00000012/value.safetensors")));
    assert_string_equal(warnings, "");
    close_run(&r);
}

/* Numbers of a stage come back bit for bit. */
static void test_train_state__values_are_exact(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    run r;
    json_t *values,
        *expected = json_pack("{s:f, s:f, s:f, s:I, s:f, s:s}", "a", 0.1, "b", 1.0 / 3, "c", 4.9e-324, "d",
                              (json_int_t)INT64_MAX, "e", -0.0, "f", "\xc3\xa9\n\"");
    int64_t step;
    open_run(&r, 33);
    assert_ok(ht_train_state_save(in_root("state"), 0, expected, r.parts, PARTS, r.be, 1, &err), &err);
    assert_ok(ht_train_state_find(in_root("state"), &step, &values, &err), &err);
    assert_int_equal(step, 0);
    assert_true(json_equal(values, expected));
    assert_true(1 / json_real_value(json_object_get(values, "e")) < 0);
    json_decref(values);
    json_decref(expected);
    close_run(&r);
}

static void test_train_state__keeps_the_last(void **state) {
    (void)state;
    run r;
    open_run(&r, 33);
    for (int64_t step = 10; step <= 50; step += 10)
        save(&r, step, 2);
    assert_false(ht_path_exists(in_root("state/step-00000030")));
    assert_true(ht_path_exists(in_root("state/step-00000040")));
    assert_found(&r, 50);
    save(&r, 60, 1);
    assert_false(ht_path_exists(in_root("state/step-00000050")));
    assert_found(&r, 60);
    close_run(&r);
}

/* Each way of damage is seen, named, and the state before is used. */
static void test_train_state__damage(void **state) {
    (void)state;
    enum { FLIP_FIRST, FLIP_LAST, CUT, GROW, DELETE, WAYS };
    static const char *const files[] = {"policy.safetensors", "value.safetensors", "state.json"};
    run r;
    open_run(&r, 33);
    for (size_t f = 0; f < 3; f++) {
        for (int way = 0; way < WAYS; way++) {
            ht_error err = HT_ERROR_INIT;
            char path[128];
            char *data;
            size_t size;
            assert_ok(ht_folder_remove(in_root("state"), &err), &err);
            save(&r, 1, 3);
            save(&r, 2, 3);
            warnings[0] = '\0';
            assert_found(&r, 2);
            snprintf(path, sizeof path, "state/step-00000002/%s", files[f]);
            assert_ok(ht_file_read(in_root(path), &data, &size, &err), &err);
            /* state.json ends in "\n}\n" after the checksum: its last byte but three is in that. */
            if (way == FLIP_FIRST) flip_byte(in_root(path), 0);
            if (way == FLIP_LAST) flip_byte(in_root(path), f == 2 ? -6 : -1);
            if (way == CUT) write_bytes(in_root(path), data, size / 2);
            if (way == GROW) {
                data[size] = 'x'; /* the place of the terminating NUL */
                write_bytes(in_root(path), data, size + 1);
            }
            if (way == DELETE) assert_int_equal(unlink(in_root(path)), 0);
            free(data);
            assert_string_equal(warnings, "");
            assert_found(&r, 1);
            assert_non_null(strstr(warnings, "step-00000002\" is damaged"));
            assert_non_null(strstr(warnings, files[f]));
        }
    }
    close_run(&r);
}

/* A value changed by hand in state.json is damage, not another run. */
static void test_train_state__changed_value(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    run r;
    json_t *json;
    open_run(&r, 33);
    save(&r, 1, 3);
    save(&r, 2, 3);
    assert_ok(ht_json_read(in_root("state/step-00000002/state.json"), &json, &err), &err);
    json_object_set_new(json_object_get(json, "values"), "step", json_integer(3));
    assert_ok(ht_json_write(in_root("state/step-00000002/state.json"), json, &err), &err);
    json_decref(json);
    assert_found(&r, 1);
    assert_non_null(strstr(warnings, "when it was saved"));
    close_run(&r);
}

/* A list of files that leads elsewhere, with the right checksum: nothing outside of the state is read. */
static void test_train_state__files_of_another_folder(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    run r;
    json_t *json;
    char *text, hash[HT_HASH_LEN];
    open_run(&r, 33);
    save(&r, 1, 3);
    save(&r, 2, 3);
    assert_ok(ht_json_read(in_root("state/step-00000002/state.json"), &json, &err), &err);
    json_object_set(json_object_get(json, "files"), "../step-00000001/policy.safetensors",
                    json_object_get(json_object_get(json, "files"), "policy.safetensors"));
    json_object_del(json, "checksum");
    assert_ok(ht_json_text(&text, json, JSON_COMPACT | JSON_SORT_KEYS, &err), &err);
    ht_hash(text, strlen(text), hash);
    json_object_set_new(json, "checksum", json_string(hash));
    assert_ok(ht_json_write(in_root("state/step-00000002/state.json"), json, &err), &err);
    free(text);
    json_decref(json);
    assert_found(&r, 1);
    assert_non_null(strstr(warnings, "step-00000002: \"files\" is malformed"));
    close_run(&r);
}

static void test_train_state__all_damaged(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    run r;
    int64_t step;
    json_t *values;
    open_run(&r, 33);
    save(&r, 1, 3);
    save(&r, 2, 3);
    flip_byte(in_root("state/step-00000001/policy.safetensors"), -1);
    flip_byte(in_root("state/step-00000002/policy.safetensors"), -1);
    assert_failed(ht_train_state_find(in_root("state"), &step, &values, &err), HT_ERR_DATA, &err,
                  "all 2 training states are damaged");
    assert_int_equal(step, -1);
    assert_null(values);
    close_run(&r);
}

/* After a damaged newest state the run goes on from an older one: what it saves then is the newest. */
static void test_train_state__leaves_a_damaged_line(void **state) {
    (void)state;
    run r;
    open_run(&r, 33);
    save(&r, 10, 3);
    save(&r, 20, 3);
    flip_byte(in_root("state/step-00000020/value.safetensors"), -1);
    assert_found(&r, 10);
    save(&r, 15, 3);
    assert_false(ht_path_exists(in_root("state/step-00000020")));
    assert_found(&r, 15);
    close_run(&r);
}

static void test_train_state__replaces_its_step(void **state) {
    (void)state;
    run r;
    open_run(&r, 33);
    save(&r, 10, 1);
    flip_byte(in_root("state/step-00000010/value.safetensors"), -1);
    save(&r, 10, 1);
    assert_found(&r, 10);
    assert_false(ht_path_exists(in_root("state/step-00000010.next")));
    close_run(&r);
}

/* What a killed save leaves is not looked at, and the next save removes it; other folders are left alone. */
static void test_train_state__left_overs(void **state) {
    (void)state;
    static const char *const gone[] = {"state/step-00000020.tmp-4711", "state/step-00000020.next",
                                       "state/step-00000020.next.tmp-12"};
    static const char *const kept[] = {"state/notes", "state/step-00000020.bak", "state/other.tmp-12"};
    run r;
    open_run(&r, 33);
    save(&r, 10, 3);
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        make_folder(in_root(gone[i]));
        make_folder(in_root(kept[i]));
        snprintf(path, sizeof path, "%s/policy.safetensors", gone[i]);
        write_text(in_root(path), "half");
    }
    assert_found(&r, 10);
    save(&r, 30, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_false(ht_path_exists(in_root(gone[i])));
        assert_true(ht_path_exists(in_root(kept[i])));
    }
    assert_found(&r, 30);
    close_run(&r);
}

/* A process killed while it saves: whatever is there afterwards, the newest sound state is the old or the new
 * one, whole. */
static void test_train_state__killed_while_saving(void **state) {
    (void)state;
    run r;
    open_run(&r, 4001); /* large enough for a save to take milliseconds */
    save(&r, 1, 2);
    for (int delay = 0; delay < 12; delay++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            save(&r, 2 + delay, 2);
            _exit(0);
        }
        usleep((useconds_t)(delay * 700));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        ht_error err = HT_ERROR_INIT;
        json_t *values;
        int64_t found;
        assert_ok(ht_train_state_find(in_root("state"), &found, &values, &err), &err);
        assert_true(found >= 1 && found <= 2 + delay);
        json_decref(values);
        assert_found(&r, found);
    }
    save(&r, 50, 1);
    assert_found(&r, 50);
    assert_string_equal(warnings, "");
    close_run(&r);
}

/* A disk that is full at any point costs the new state, never the old one, and leaves nothing behind. */
static void test_train_state__full_disk(void **state) {
    (void)state;
    run r;
    struct rlimit whole, limit;
    open_run(&r, 33);
    save(&r, 1, 1);
    fill_run(&r, 2);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &whole), 0);
    signal(SIGXFSZ, SIG_IGN);
    json_t *values = json_object();
    for (rlim_t bytes = 0; bytes < 16384; bytes += 1500) {
        ht_error err = HT_ERROR_INIT;
        limit = (struct rlimit){bytes, whole.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ht_status status = ht_train_state_save(in_root("state"), 2, values, r.parts, PARTS, r.be, 1, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &whole), 0);
        if (status == HT_OK) break;
        assert_failed(status, HT_ERR_IO, &err, "cannot write");
        char temporary[128];
        snprintf(temporary, sizeof temporary, "state/step-00000002.tmp-%ld", (long)getpid());
        assert_false(ht_path_exists(in_root(temporary)));
        assert_found(&r, 1);
        assert_true(bytes < 12000); /* policy.safetensors has about 12 kB: the loop must end by success */
        fill_run(&r, 2);
    }
    json_decref(values);
    signal(SIGXFSZ, SIG_DFL);
    close_run(&r);
}

static void test_train_state__refuses_another_model(void **state) {
    (void)state;
    run r, other;
    open_run(&r, 33);
    open_run(&other, 34);
    save(&r, 1, 1);
    fill_run(&other, 5);
    ht_error err = HT_ERROR_INIT;
    assert_failed(ht_train_state_load(in_root("state"), 1, other.parts, PARTS, other.be, &err), HT_ERR_DATA,
                  &err, "tensor \"weights.model.embed_tokens.weight\" is not F32 [34,8]");
    assert_run(&other, 5);
    ht_params narrow = r.params[2];
    narrow.dtype = HT_BF16;
    ht_state_part rounded[] = {r.parts[0], r.parts[1], {"policy.m", &narrow}, r.parts[3], r.parts[4]};
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_train_state_load(in_root("state"), 1, rounded, PARTS, r.be, &err), HT_ERR_DATA, &err,
                  "tensor \"m.model.embed_tokens.weight\" is not BF16 [33,8]");
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_train_state_load(in_root("state"), 1, r.parts, 2, r.be, &err), HT_ERR_DATA, &err,
                  "policy.safetensors: 24 tensors, this run has 12");
    ht_state_part more[] = {r.parts[0], r.parts[1], r.parts[2], r.parts[3], r.parts[4], {"policy.v", &r.params[0]}};
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_train_state_load(in_root("state"), 1, more, 6, r.be, &err), HT_ERR_DATA, &err,
                  "tensor \"v.model.embed_tokens.weight\" is missing");
    ht_state_part third[] = {r.parts[0], r.parts[1], r.parts[2], r.parts[3], r.parts[4], {"critic.weights", &r.params[0]}};
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_train_state_load(in_root("state"), 1, third, 6, r.be, &err), HT_ERR_IO, &err,
                  "critic.safetensors");
    close_run(&other);
    close_run(&r);
}

static void test_train_state__refuses_misuse(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    run r;
    json_t *values = json_object();
    open_run(&r, 33);
    assert_failed(ht_train_state_save(in_root("state"), 1, values, r.parts, PARTS, r.be, 0, &err),
                  HT_ERR_USAGE, &err, "keeping 0 (at least 1)");
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_train_state_save(in_root("state"), -1, values, r.parts, PARTS, r.be, 1, &err),
                  HT_ERR_USAGE, &err, "step -1");
    ht_state_part bad = {"policy", &r.params[0]};
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_train_state_save(in_root("state"), 1, values, &bad, 1, r.be, 1, &err), HT_ERR_USAGE,
                  &err, "\"policy\" is not named MODEL.KIND");
    assert_false(ht_path_exists(in_root("state")));
    json_decref(values);
    close_run(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_train_state__none),
        TEST(test_train_state__round_trip),
        TEST(test_train_state__values_are_exact),
        TEST(test_train_state__keeps_the_last),
        TEST(test_train_state__damage),
        TEST(test_train_state__changed_value),
        TEST(test_train_state__files_of_another_folder),
        TEST(test_train_state__all_damaged),
        TEST(test_train_state__leaves_a_damaged_line),
        TEST(test_train_state__replaces_its_step),
        TEST(test_train_state__left_overs),
        TEST(test_train_state__killed_while_saving),
        TEST(test_train_state__full_disk),
        TEST(test_train_state__refuses_another_model),
        TEST(test_train_state__refuses_misuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
