#include "tests/golden/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/json.h"
#include "core/checkpoint/model_folder.h"

static void path_of(char path[HT_PATH_MAX], const char *name, const char *suffix) {
    snprintf(path, HT_PATH_MAX, "tests/golden/data/%s%s", name, suffix);
}

void golden_check(ht_status status, const ht_error *err) {
    if (status != HT_OK) fail_msg("%s", err->message);
}

golden_values golden_values_open(const char *name) {
    golden_values values = {0};
    ht_error err = HT_ERROR_INIT;
    char path[HT_PATH_MAX];
    path_of(path, name, ".json");
    golden_check(ht_json_read(path, &values.json, &err), &err);
    path_of(path, name, ".safetensors");
    golden_check(ht_safetensors_open(&values.tensors, path, &err), &err);
    return values;
}

void golden_values_close(golden_values *values) {
    ht_safetensors_close(values->tensors);
    json_decref(values->json);
}

float *golden_tensor(const golden_values *values, const char *name, int64_t *count) {
    const ht_safetensors_entry *entry = ht_safetensors_find(values->tensors, name);
    if (!entry || !entry->supported || entry->dtype != HT_F32) fail_msg("no f32 tensor \"%s\"", name);
    float *elements = calloc(1, entry->bytes);
    memcpy(elements, entry->data, entry->bytes);
    if (count) *count = (int64_t)(entry->bytes / sizeof *elements);
    return elements;
}

double golden_number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("no number \"%s\"", key);
    return json_number_value(value);
}

void golden_model_open(golden_model *m, const char *folder) {
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config;
    char path[HT_PATH_MAX];
    int head_loaded = 0;
    memset(m, 0, sizeof *m);
    path_of(path, folder, "");
    golden_check(ht_model_folder_config(path, &config, &err), &err);
    golden_check(ht_backend_open(&m->be, HT_BACKEND_CPU, 2, &err), &err);
    ht_arena_init(&m->arena, 0);
    ht_backend_arena(m->be, &m->arena);
    golden_check(ht_llama_init(&m->model, m->be, &m->arena, &config, HT_F32, &err), &err);
    golden_check(ht_model_folder_load(path, &m->model, &head_loaded, &err), &err);
    assert_int_equal(head_loaded, 1);
    golden_check(
        ht_activations_init(&m->acts, &m->model, &m->arena, HT_KEEP_ALL, GOLDEN_MAX_TOKENS, 16, &err), &err);
    golden_check(ht_params_init(&m->grads, &m->model.layout, HT_F32, HT_MEMORY_GRADIENTS, &m->arena, &err),
                 &err);
    golden_check(ht_batch_init(&m->batch, GOLDEN_MAX_TOKENS, 16, &err), &err);
}

void golden_model_close(golden_model *m) {
    ht_batch_free(&m->batch);
    ht_params_free(&m->grads);
    ht_activations_free(m->acts);
    ht_llama_free(&m->model);
    ht_arena_clear(&m->arena);
    ht_backend_close(m->be);
}

int64_t golden_add_sequence(ht_batch *batch, const json_t *tokens) {
    int32_t ids[GOLDEN_MAX_TOKENS];
    size_t n = json_array_size(tokens);
    assert_in_range(n, 1, GOLDEN_MAX_TOKENS);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
    assert_int_equal(ht_batch_add(batch, ids, (int64_t)n), 1);
    return (int64_t)n;
}

int64_t golden_first_difference(const float *actual, const float *expected, int64_t n, double tolerance,
                                double floor) {
    double scale = floor;
    for (int64_t i = 0; i < n; i++)
        scale = fmax(scale, fabs((double)expected[i]));
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)actual[i] - (double)expected[i]) <= tolerance * scale)) return i;
    }
    return -1;
}

void golden_compare(const char *what, const float *actual, const float *expected, int64_t n, double tolerance,
                    double floor) {
    int64_t i = golden_first_difference(actual, expected, n, tolerance, floor);
    if (i >= 0) fail_msg("%s[%d] is %.9g, not %.9g", what, (int)i, (double)actual[i], (double)expected[i]);
}

void golden_compare_number(const char *what, double actual, double expected, double tolerance) {
    if (!(fabs(actual - expected) <= tolerance * fmax(1, fabs(expected))))
        fail_msg("%s is %.9g, not %.9g", what, actual, expected);
}

void golden_compare_params(golden_model *m, const ht_params *params, const golden_values *values,
                           const char *prefix, double tolerance) {
    ht_error err = HT_ERROR_INIT;
    for (int64_t p = 0; p < params->layout->count; p++) {
        char name[160];
        int64_t n;
        snprintf(name, sizeof name, "%s.%s", prefix, params->layout->params[p].name);
        float *expected = golden_tensor(values, name, &n);
        ht_tensor t = ht_params_tensor(params, p);
        assert_int_equal(n, t.rows * t.cols);
        float *actual = calloc((size_t)n, sizeof *actual);
        golden_check(ht_download(m->be, actual, t.data, (size_t)n * sizeof *actual, &err), &err);
        golden_compare(name, actual, expected, n, tolerance, 0);
        free(actual);
        free(expected);
    }
}
