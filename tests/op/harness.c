#include "tests/op/harness.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "tests/op/cases.h"

/* Before main, so that no program needs to ask. */
__attribute__((constructor)) static void choose_tests(void) {
    const char *only = getenv("HALTER_TEST_ONLY");
    if (only) cmocka_set_test_filter(only);
}

typedef struct worst {
    double error; /* over what is allowed */
    int64_t row, col;
} worst;

static worst worst_of(const op_output *o) {
    double square = 0;
    worst most = {0};
    for (int64_t i = 0; i < o->rows * o->cols; i++)
        square += o->expected[i] * o->expected[i];
    double least = fmax(o->floor, sqrt(square / (double)(o->rows * o->cols)));
    for (int64_t r = 0; r < o->rows; r++) {
        const double *actual = o->actual + r * o->cols, *expected = o->expected + r * o->cols;
        double scale = least;
        for (int64_t c = 0; c < o->cols; c++)
            scale = fmax(scale, fabs(expected[c]));
        double allowed = scale * (o->f32_roundings * 0x1p-24 + o->bf16_roundings * 0x1p-8);
        for (int64_t c = 0; c < o->cols; c++) {
            double error = fabs(actual[c] - expected[c]);
            if (error == 0) continue;
            double ratio = isfinite(error) && allowed > 0 ? error / allowed : INFINITY; /* so a NaN is the worst error */
            if (ratio > most.error) most = (worst){ratio, r, c};
        }
    }
    return most;
}

double op_error(const op_output *o) {
    return worst_of(o).error;
}

void op_report(const char *of, const op_output *o) {
    worst w = worst_of(o);
    int64_t at = w.row * o->cols + w.col;
    print_error("%s, %s: error is %.3g of what is allowed: row %d of %d, column %d of %d is %.9g, not %.9g\n", of, o->name,
                w.error, (int)w.row, (int)o->rows, (int)w.col, (int)o->cols, o->actual[at], o->expected[at]);
}

void op_result_free(op_result *result) {
    for (int i = 0; i < result->count; i++) {
        free(result->outputs[i].actual);
        free(result->outputs[i].expected);
    }
    *result = (op_result){0};
}

int op_same_bits(const op_result *a, const op_result *b) {
    if (a->count != b->count) return 0;
    for (int i = 0; i < a->count; i++) {
        const op_output *x = &a->outputs[i], *y = &b->outputs[i];
        size_t bytes = (size_t)(x->rows * x->cols) * sizeof(double);
        if (x->rows != y->rows || x->cols != y->cols || memcmp(x->actual, y->actual, bytes) != 0) return 0;
    }
    return 1;
}

static ht_backend_kind wanted_kind(void) {
    const char *wanted = getenv("HALTER_TEST_BACKEND");
    return wanted && strcmp(wanted, "cuda") == 0 ? HT_BACKEND_CUDA : HT_BACKEND_CPU;
}

ht_backend *op_backend_open(int threads) {
    ht_backend_kind kind = wanted_kind();
    ht_error err = HT_ERROR_INIT;
    ht_backend *be = NULL;
    if (ht_backend_open(&be, kind, threads, &err) != HT_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(kind == HT_BACKEND_CUDA && err.status == HT_ERR_USAGE ? 77 : 1);
    }
    return be;
}

void op_run_begin(op_run *run, ht_backend *be, op_result *result) {
    run->be = be;
    run->result = result;
    run->next_stream = 0;
    run->err = (ht_error)HT_ERROR_INIT;
    *result = (op_result){0};
    ht_arena_init(&run->arena, 0);
    ht_backend_arena(be, &run->arena);
}

int op_backend_computes(ht_backend *be, ht_dtype dtype) {
    const double ones[] = {1, 1};
    op_result result;
    op_run run = {.dtype = dtype};
    op_run_begin(&run, be, &result);
    ht_tensor x = op_tensor(&run, dtype, 1, 2, ones), y = op_tensor(&run, dtype, 1, 1, NULL);
    ht_status status = ht_matmul_forward(be, &y, &x, &x, NULL, &run.err);
    if (status != HT_OK) fprintf(stderr, "no %s cases: %s\n", ht_dtype_torch_name(dtype), run.err.message);
    op_run_end(&run);
    return status != HT_ERR_USAGE;
}

void op_run_end(op_run *run) {
    ht_arena_clear(&run->arena);
}

void op_check(op_run *run, ht_status status) {
    if (status != HT_OK) fail_msg("%s", run->err.message);
}

/* --- inputs -----------------------------------------------------------------------------------------------
 */

static void *take(op_run *run, size_t bytes) {
    void *memory = NULL;
    op_check(run, ht_arena_take(&run->arena, HT_MEMORY_WORKSPACE, bytes, &memory, &run->err));
    return memory;
}

static double round_to(ht_dtype dtype, double value) {
    float narrow = (float)value;
    if (dtype == HT_BF16) {
        uint16_t bits;
        ht_convert(&bits, HT_BF16, &narrow, HT_F32, 1);
        narrow = ht_bf16_to_f32(bits);
    }
    return (double)narrow;
}

double *op_zeros(int64_t n) {
    return calloc((size_t)n, sizeof(double));
}

double *op_duplicate(const double *x, int64_t n) {
    double *copy = op_zeros(n);
    memcpy(copy, x, (size_t)n * sizeof *copy);
    return copy;
}

double *op_normal(op_run *run, ht_dtype dtype, int64_t n, double deviation) {
    double *x = op_zeros(n);
    uint64_t stream = run->next_stream++;
    for (int64_t i = 0; i < n; i++) {
        x[i] = round_to(dtype, deviation * ht_rng_normal(run->seed, stream, (uint64_t)i));
    }
    return x;
}

int32_t *op_integers(op_run *run, int64_t n, int64_t limit) {
    int32_t *x = calloc((size_t)n, sizeof *x);
    uint64_t stream = run->next_stream++;
    for (int64_t i = 0; i < n; i++)
        x[i] = (int32_t)ht_rng_below(run->seed, stream, (uint64_t)i, (uint64_t)limit);
    return x;
}

/* Between the rows of a strided view lies a pattern that no operation may touch. */
#define PAD 5
static const float pad_value = 12345.0f;

ht_tensor op_tensor(op_run *run, ht_dtype dtype, int64_t rows, int64_t cols, const double *values) {
    ht_tensor t = {.rows = rows, .cols = cols, .stride = run->strided ? cols + PAD : cols, .dtype = dtype};
    int64_t n = rows * t.stride;
    float *wide = calloc((size_t)n, sizeof *wide);
    void *host = calloc((size_t)n, ht_dtype_size(dtype));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < t.stride; c++) {
            wide[r * t.stride + c] = c >= cols ? pad_value : values ? (float)values[r * cols + c] : NAN;
        }
    }
    ht_convert(host, dtype, wide, HT_F32, (size_t)n);
    t.data = take(run, (size_t)n * ht_dtype_size(dtype));
    op_check(run, ht_upload(run->be, t.data, host, (size_t)n * ht_dtype_size(dtype), &run->err));
    free(host);
    free(wide);
    return t;
}

void *op_bytes(op_run *run, const uint8_t *values, int64_t n) {
    void *memory = take(run, (size_t)n);
    op_check(run, ht_upload(run->be, memory, values, (size_t)n, &run->err));
    return memory;
}

void *op_vector(op_run *run, ht_dtype dtype, int64_t n, const double *values) {
    int strided = run->strided;
    run->strided = 0;
    ht_tensor t = op_tensor(run, dtype, 1, n, values);
    run->strided = strided;
    return t.data;
}

float *op_floats(op_run *run, int64_t n, const double *values) {
    return op_vector(run, HT_F32, n, values);
}

int32_t *op_ids(op_run *run, const int32_t *values, int64_t n) {
    int32_t *memory = take(run, (size_t)n * sizeof *values);
    op_check(run, ht_upload(run->be, memory, values, (size_t)n * sizeof *values, &run->err));
    return memory;
}

/* --- outputs ----------------------------------------------------------------------------------------------
 */

static op_output *add_output(op_run *run, const char *name, int64_t rows, int64_t cols, double *expected,
                             op_tolerance tolerance) {
    assert_true(run->result->count < OP_MAX_OUTPUTS);
    op_output *o = &run->result->outputs[run->result->count++];
    *o = (op_output){.rows = rows,
                     .cols = cols,
                     .actual = op_zeros(rows * cols),
                     .expected = expected,
                     .f32_roundings = tolerance.f32_roundings,
                     .bf16_roundings = tolerance.bf16_roundings,
                     .floor = tolerance.floor};
    snprintf(o->name, sizeof o->name, "%s", name);
    return o;
}

void op_output_tensor(op_run *run, const char *name, const ht_tensor *t, double *expected,
                      op_tolerance tolerance) {
    op_output *o = add_output(run, name, t->rows, t->cols, expected, tolerance);
    /* A view of columns ends before its last row's stride does. */
    size_t n = (size_t)((t->rows - 1) * t->stride + t->cols);
    float *wide = calloc(n, sizeof *wide);
    void *host = calloc(n, ht_dtype_size(t->dtype));
    op_check(run, ht_download(run->be, host, t->data, n * ht_dtype_size(t->dtype), &run->err));
    ht_convert(wide, HT_F32, host, t->dtype, n);
    for (size_t i = 0; i < n; i++) {
        int64_t r = (int64_t)i / t->stride, c = (int64_t)i % t->stride;
        if (c < t->cols)
            o->actual[r * t->cols + c] = (double)wide[i];
        else if (run->strided && t->stride == t->cols + PAD &&
                 (double)wide[i] != round_to(t->dtype, (double)pad_value))
            run->result->overrun = 1;
    }
    free(host);
    free(wide);
}

void op_output_vector(op_run *run, const char *name, const void *actual, ht_dtype dtype, int64_t n, double *expected,
                      op_tolerance tolerance) {
    ht_tensor t = ht_tensor_of((void *)(uintptr_t)actual, dtype, 1, n);
    op_output_tensor(run, name, &t, expected, tolerance);
}

void op_output_floats(op_run *run, const char *name, const float *actual, int64_t rows, int64_t cols,
                      double *expected, op_tolerance tolerance) {
    op_output *o = add_output(run, name, rows, cols, expected, tolerance);
    float *host = calloc((size_t)(rows * cols), sizeof *host);
    op_check(run, ht_download(run->be, host, actual, (size_t)(rows * cols) * sizeof *host, &run->err));
    for (int64_t i = 0; i < rows * cols; i++)
        o->actual[i] = (double)host[i];
    free(host);
}

void op_output_host(op_run *run, const char *name, const double *actual, int64_t n, double *expected,
                    op_tolerance tolerance) {
    op_output *o = add_output(run, name, 1, n, expected, tolerance);
    memcpy(o->actual, actual, (size_t)n * sizeof *actual);
}

/* --- the table --------------------------------------------------------------------------------------------
 */

#define FAMILY(function, cases, ...)                                                                         \
    {                                                                                                        \
        .name = #function, .run = run_##function, .count = OP_COUNT(cases), .dtypes = {HT_F32, HT_BF16},     \
        __VA_ARGS__                                                                                          \
    }

const op_family op_families[] = {
    FAMILY(copy, op_matrix_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(embedding_forward, op_embedding_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(embedding_backward, op_embedding_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(rms_norm_forward, op_matrix_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(rms_norm_backward, op_matrix_cases, .dtype_count = 2),
    FAMILY(matmul_forward, op_product_cases, .dtype_count = 2),
    FAMILY(matmul_rows, op_product_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(matmul_backward_data, op_product_cases, .dtype_count = 2),
    FAMILY(matmul_backward_weight, op_product_cases, .dtype_count = 2),
    FAMILY(rope, op_rope_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(attention_forward, op_attention_cases, .dtype_count = 2),
    FAMILY(attention_backward, op_attention_cases, .dtype_count = 2),
    FAMILY(attention_cached, op_cached_cases, .dtype_count = 2),
    FAMILY(swiglu_forward, op_matrix_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(swiglu_backward, op_matrix_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(gather_rows, op_matrix_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(scatter_rows, op_matrix_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(token_loss, op_loss_cases, .dtype_count = 2),
    FAMILY(adamw, op_adamw_cases, .dtype_count = 2, .any_threads = 1),
    FAMILY(sum_squares, op_vector_cases, .dtype_count = 1, .any_threads = 1),
};
const size_t op_family_count = sizeof op_families / sizeof op_families[0];
