/*
 * harness.h: runs an operation on a backend and compares it with the reference.
 *
 * A runner makes the inputs of one case (Philox; rounded to the case's dtype, so that only the operation's
 * own roundings differ), runs the operation, and lists its outputs beside the exact ones. The same runner
 * then serves every check: values, the same bits twice, threads, and, with inputs to the reference made wrong
 * on purpose, that the comparison can fail.
 *
 * The backend is HALTER_TEST_BACKEND (default cpu), so that one table of cases runs on each. HALTER_TEST_ONLY, a pattern of
 * names with * and ?, chooses among the tests of a program that is linked with this.
 */
#ifndef HT_TESTS_OP_HARNESS_H
#define HT_TESTS_OP_HARNESS_H

#include <stddef.h>
#include <stdint.h>

#include "core/backend/backend.h"
#include "core/base/arena.h"

/* --- comparison -------------------------------------------------------------------------------------------
 */

/*
 * One output. An element may differ from the exact one by
 *     scale * (f32_roundings * 2^-24 + bf16_roundings * 2^-8),
 * scale = the largest magnitude of its row's exact result, at least the root mean square of the whole output
 * (a row can be near zero by cancellation) and at least `floor`. A sum of n terms counts as SUM_ROUNDINGS(n).
 */
typedef struct op_output {
    char name[24];
    int64_t rows, cols;
    double *actual, *expected; /* [rows, cols] */
    double f32_roundings, bf16_roundings, floor;
} op_output;

/* Errors of a sum add up like a random walk; 6 leaves some standard deviations and the operations around it.
 */
#define SUM_ROUNDINGS(n) (6 * sqrt((double)(n) + 4))

/* Largest error over what is allowed: at most 1 is a pass. NaN and infinity where the other is finite:
 * infinity. */
double op_error(const op_output *output);
/* Tells, of a test that fails, that error and where it is; `of`: which run it was. */
void op_report(const char *of, const op_output *output);

#define OP_MAX_OUTPUTS 6

typedef struct op_result {
    op_output outputs[OP_MAX_OUTPUTS];
    int count;
    int overrun; /* something was written outside of a strided view */
} op_result;
void op_result_free(op_result *result);
/* 1 when every output has the same bits. */
int op_same_bits(const op_result *a, const op_result *b);

/* --- running ----------------------------------------------------------------------------------------------
 */

typedef struct op_run {
    ht_backend *be;
    ht_arena arena;
    ht_dtype dtype; /* of activations and weights */
    int strided;    /* rows of tensors lie further apart than their width */
    int wrong;      /* inputs to the reference are made wrong */
    uint64_t seed, next_stream;
    op_result *result;
    ht_error err;
} op_run;

/* Kind named by HALTER_TEST_BACKEND; exits 77 (skipped) when this build or machine has none. */
ht_backend *op_backend_open(int threads);

/* 0 when the backend refuses (HT_ERR_USAGE) to compute in `dtype`: asked once, of a product. Its cases are then
 * not run. */
int op_backend_computes(ht_backend *be, ht_dtype dtype);

/* Prepares a run on a fresh arena, and releases what it took. */
void op_run_begin(op_run *run, ht_backend *be, op_result *result);
void op_run_end(op_run *run);

/* Fails the test with the error's message unless the call succeeded. */
void op_check(op_run *run, ht_status status);

/* n normal numbers, rounded to `dtype`; new memory, free(). */
double *op_normal(op_run *run, ht_dtype dtype, int64_t n, double deviation);
/* n integers in [0, limit); new memory, free(). */
int32_t *op_integers(op_run *run, int64_t n, int64_t limit);
double *op_zeros(int64_t n);
double *op_duplicate(const double *x, int64_t n);

/* Backend memory, released by op_run_end. `values` NULL: filled with NaN, so that what is not written shows.
 */
ht_tensor op_tensor(op_run *run, ht_dtype dtype, int64_t rows, int64_t cols, const double *values);
float *op_floats(op_run *run, int64_t n, const double *values);
int32_t *op_ids(op_run *run, const int32_t *values, int64_t n);
void *op_bytes(op_run *run, const uint8_t *values, int64_t n);
/* n elements of `dtype` end to end. */
void *op_vector(op_run *run, ht_dtype dtype, int64_t n, const double *values);

/* Records an output: reads it from the backend, takes over `expected`. */
typedef struct op_tolerance {
    double f32_roundings, bf16_roundings, floor;
} op_tolerance;
void op_output_tensor(op_run *run, const char *name, const ht_tensor *actual, double *expected,
                      op_tolerance tolerance);
void op_output_floats(op_run *run, const char *name, const float *actual, int64_t rows, int64_t cols,
                      double *expected, op_tolerance tolerance);
void op_output_vector(op_run *run, const char *name, const void *actual, ht_dtype dtype, int64_t n, double *expected,
                      op_tolerance tolerance);
void op_output_host(op_run *run, const char *name, const double *actual, int64_t n, double *expected,
                    op_tolerance tolerance);

/* bf16 roundings count only where the run's dtype is bf16. */
static inline double op_bf16(const op_run *run, double roundings) {
    return run->dtype == HT_BF16 ? roundings : 0;
}

/* --- families ---------------------------------------------------------------------------------------------
 */

typedef struct op_family {
    const char *name;
    void (*run)(op_run *run, int64_t index);
    int64_t count;
    ht_dtype dtypes[2];
    int dtype_count;
    /* Each result element is computed from its row alone, or by a fixed tree: the thread count cannot change
     * bits. For the others backend.h promises the same bits only at the same thread count. */
    int any_threads;
} op_family;

extern const op_family op_families[];
extern const size_t op_family_count;

/* Runners, by file. */
void run_embedding_forward(op_run *run, int64_t index);
void run_embedding_backward(op_run *run, int64_t index);
void run_rms_norm_forward(op_run *run, int64_t index);
void run_rms_norm_backward(op_run *run, int64_t index);
void run_rope(op_run *run, int64_t index);
void run_swiglu_forward(op_run *run, int64_t index);
void run_swiglu_backward(op_run *run, int64_t index);
void run_gather_rows(op_run *run, int64_t index);
void run_scatter_rows(op_run *run, int64_t index);
void run_copy(op_run *run, int64_t index);
void run_matmul_forward(op_run *run, int64_t index);
void run_matmul_rows(op_run *run, int64_t index);
void run_matmul_backward_data(op_run *run, int64_t index);
void run_matmul_backward_weight(op_run *run, int64_t index);
void run_attention_forward(op_run *run, int64_t index);
void run_attention_backward(op_run *run, int64_t index);
void run_attention_cached(op_run *run, int64_t index);
void run_token_loss(op_run *run, int64_t index);
void run_adamw(op_run *run, int64_t index);
void run_sum_squares(op_run *run, int64_t index);

#endif
