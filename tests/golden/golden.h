/*
 * golden.h: reads tests/golden/data (layout: README.md) and compares with it.
 */
#ifndef HT_TESTS_GOLDEN_GOLDEN_H
#define HT_TESTS_GOLDEN_GOLDEN_H

#include <jansson.h>

#include "core/base/arena.h"
#include "core/checkpoint/safetensors.h"
#include "core/model/llama.h"

/*
 * PyTorch computed in f32 too: both sides carry the roundings of some 80 sums of up to 64 terms (forward and
 * backward of two layers, 8 roundings of 2^-24 a sum as a random walk, 72 together), with a factor of 4 for
 * two sides.
 */
#define GOLDEN_TOLERANCE (288 * 0x1p-24)

#define GOLDEN_MAX_TOKENS 256

/* One set of golden values: NAME.json and NAME.safetensors. */
typedef struct golden_values {
    json_t *json;
    ht_safetensors *tensors;
} golden_values;
golden_values golden_values_open(const char *name);
void golden_values_close(golden_values *values);

/* A tensor's elements, f32; new memory, free(). *count may be NULL. Fails the test when it is absent. */
float *golden_tensor(const golden_values *values, const char *name, int64_t *count);
double golden_number(const json_t *object, const char *key);

/* A model folder of the data, loaded in f32, with everything a forward and backward pass needs. */
typedef struct golden_model {
    ht_backend *be;
    ht_arena arena;
    ht_llama model;
    ht_activations *acts;
    ht_params grads;
    ht_batch batch;
} golden_model;
void golden_model_open(golden_model *model, const char *folder);
void golden_model_close(golden_model *model);

/* Appends a JSON array of token ids to the batch; returns its length. */
int64_t golden_add_sequence(ht_batch *batch, const json_t *tokens);

/* Fails the test when the call failed. */
void golden_check(ht_status status, const ht_error *err);

/* Index of the first of n with |actual - expected| > tolerance * (largest |expected|, at least floor); -1:
 * none. */
int64_t golden_first_difference(const float *actual, const float *expected, int64_t n, double tolerance,
                                double floor);
/* Fails the test at such a difference. */
void golden_compare(const char *what, const float *actual, const float *expected, int64_t n, double tolerance,
                    double floor);
void golden_compare_number(const char *what, double actual, double expected, double tolerance);

/* Every parameter's gradient against "PREFIX.<parameter name>". */
void golden_compare_params(golden_model *model, const ht_params *params, const golden_values *values,
                           const char *prefix, double tolerance);

#endif
