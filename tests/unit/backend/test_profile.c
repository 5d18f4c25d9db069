/* What --profile counts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend/profile.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "tests/unit/do.h"

static ht_backend *backend;
static float memory[4096];
static char said[16384];

static void listen(ht_log_level level, const char *line) {
    (void)level;
    size_t used = strlen(said);
    snprintf(said + used, sizeof said - used, "%s\n", line);
}

static int open_backend(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    said[0] = '\0';
    ht_log_set_sink(listen);
    return ht_backend_open(&backend, HT_BACKEND_CPU, 1, &err) == HT_OK ? 0 : -1;
}

static int close_backend(void **state) {
    (void)state;
    ht_backend_close(backend);
    backend = NULL;
    ht_log_set_sink(NULL);
    return 0;
}

static ht_tensor f32(int64_t rows, int64_t cols) {
    return ht_tensor_of(memory, HT_F32, rows, cols);
}

static void start(void) {
    DO(ht_profile_start(backend, &err_));
}

static const ht_profile_line *line(ht_operation operation) {
    return &ht_backend_profile(backend)->lines[operation];
}

static void assert_line(ht_operation operation, int64_t calls, double flop, double bytes) {
    const ht_profile_line *l = line(operation);
    assert_int_equal(l->calls, calls);
    assert_true(l->flop == flop);
    assert_true(l->bytes == bytes);
    assert_true(calls ? l->seconds > 0 : l->seconds == 0);
}

static void test_profile__counts_nothing_before_it_starts(void **state) {
    (void)state;
    ht_tensor a = f32(4, 8), b = ht_tensor_of(memory + 1024, HT_F32, 4, 8);
    DO(ht_copy(backend, &b, &a, &err_));
    assert_null(ht_backend_profile(backend));
    start();
    for (int i = 0; i < HT_OPERATION_COUNT; i++) /* the runs that measure the peaks are not counted either */
        assert_int_equal(line((ht_operation)i)->calls, 0);
}

static void test_profile__peaks_are_rates(void **state) {
    (void)state;
    start();
    const ht_profile *p = ht_backend_profile(backend);
    assert_true(p->product_peak > 1e8 && p->product_peak < 1e15);
    assert_true(p->read_peak > 1e8 && p->read_peak < 1e13);
    assert_true(p->copy_peak > 1e8 && p->copy_peak < 1e13);
}

/* y [3, 5] = x [3, 7] w [5, 7]^T, and its gradients; each line is one operation with hand-counted work. */
static void test_profile__counts_are_exact(void **state) {
    (void)state;
    ht_tensor x = f32(3, 7), w = f32(5, 7), y = ht_tensor_of(memory + 1024, HT_F32, 3, 5), gain = f32(1, 7);
    ht_tensor z = ht_tensor_of(memory + 2048, HT_F32, 3, 7), wide = f32(3, 14);
    double sum;
    int32_t ids[3] = {0, 1, 2};
    start();
    DO(ht_matmul_forward(backend, &y, &x, &w, NULL, &err_));
    DO(ht_matmul_forward(backend, &y, &x, &w, NULL, &err_));
    DO(ht_matmul_rows(backend, &y, &x, &w, NULL, &err_));
    DO(ht_matmul_backward_data(backend, &z, &y, &w, &err_));
    DO(ht_matmul_backward_weight(backend, &w, &y, &z, &err_));
    DO(ht_rms_norm_forward(backend, &z, memory + 3072, &x, &gain, 1e-5f, &err_));
    DO(ht_swiglu_forward(backend, &z, &wide, &err_));
    DO(ht_gather_rows(backend, &z, &x, ids, &err_));
    DO(ht_sum_squares(backend, memory, 100, &sum, &err_));
    DO(ht_zero(backend, memory, 256, &err_));
    assert_line(HT_OPERATION_MATMUL_FORWARD, 2, 2 * 2 * 3 * 5 * 7, 0);
    assert_line(HT_OPERATION_MATMUL_ROWS, 1, 2 * 3 * 5 * 7, 4 * (3 * 7 + 5 * 7));
    assert_line(HT_OPERATION_MATMUL_BACKWARD_DATA, 1, 2 * 3 * 5 * 7, 0);
    assert_line(HT_OPERATION_MATMUL_BACKWARD_WEIGHT, 1, 2 * 3 * 5 * 7, 0);
    assert_line(HT_OPERATION_RMS_NORM_FORWARD, 1, 0, 4 * 2 * 3 * 7);
    assert_line(HT_OPERATION_SWIGLU_FORWARD, 1, 0, 4 * (3 * 7 + 3 * 14));
    assert_line(HT_OPERATION_GATHER_ROWS, 1, 0, 4 * 2 * 3 * 7);
    assert_line(HT_OPERATION_SUM_SQUARES, 1, 0, 400);
    assert_line(HT_OPERATION_ZERO, 1, 0, 256);
    assert_line(HT_OPERATION_ADAMW, 0, 0, 0);
    assert_line(HT_OPERATION_COPY, 0, 0, 0);
}

/* Two sequences of 3 and 2 tokens: 6 + 3 pairs of a query and a key; 4 heads of width 2. */
static void test_profile__attention_counts_causal_pairs(void **state) {
    (void)state;
    int32_t seq_start[] = {0, 3, 5}, past[] = {4, 0}, tables[] = {0, 1};
    ht_attention_shape shape = {.heads = 4, .kv_heads = 2, .head_dim = 2, .sequences = 2,
                                .seq_start = seq_start, .seq_start_host = seq_start};
    ht_tensor q = f32(5, 8), k = f32(5, 4), out = ht_tensor_of(memory + 1024, HT_F32, 5, 8);
    start();
    DO(ht_attention_forward(backend, &out, memory + 2048, &q, &k, &k, &shape, &err_));
    assert_line(HT_OPERATION_ATTENTION_FORWARD, 1, 2 * 2 * 9 * 4 * 2, 0);
    ht_cached_shape cached = {.heads = 4, .kv_heads = 2, .head_dim = 2, .sequences = 2, .seq_start = seq_start,
                              .past = past, .block_tables = tables, .max_blocks = 1, .seq_start_host = seq_start,
                              .past_host = past, .block_tables_host = tables};
    ht_kv_pages pages = {.keys = ht_tensor_of(memory + 2048, HT_F32, 32, 4),
                         .values = ht_tensor_of(memory + 3072, HT_F32, 32, 4),
                         .block_size = 16};
    DO(ht_attention_cached(backend, &out, &q, &k, &k, &pages, &cached, &err_));
    /* 3 rows over 4 positions and themselves: 3 * 4 + 6 pairs; 2 rows alone: 3; 7 + 2 positions of 4 keys and 4 values */
    assert_line(HT_OPERATION_ATTENTION_CACHED, 1, 2 * 2 * (18 + 3) * 4 * 2, 4 * 9 * 8);
}

/* A product that copies its addend first is one product. */
static void test_profile__inner_calls_belong_to_the_outer(void **state) {
    (void)state;
    ht_tensor x = f32(3, 7), w = f32(5, 7), y = ht_tensor_of(memory + 1024, HT_F32, 3, 5), add = f32(3, 5);
    start();
    DO(ht_matmul_forward(backend, &y, &x, &w, &add, &err_));
    assert_line(HT_OPERATION_MATMUL_FORWARD, 1, 2 * 3 * 5 * 7, 0);
    assert_line(HT_OPERATION_COPY, 0, 0, 0);
}

static void test_profile__least_time_is_of_flop_or_bytes(void **state) {
    (void)state;
    ht_profile profile = {.product_peak = 100, .read_peak = 10, .copy_peak = 5};
    ht_profile_add(&profile, HT_OPERATION_MATMUL_ROWS, 1, 8, (ht_work){.flop = 200, .bytes = 10});
    assert_true(profile.lines[HT_OPERATION_MATMUL_ROWS].least == 2);
    ht_profile_add(&profile, HT_OPERATION_MATMUL_ROWS, 2, 8, (ht_work){.flop = 200, .bytes = 40});
    assert_true(profile.lines[HT_OPERATION_MATMUL_ROWS].least == 6);
    assert_int_equal(profile.lines[HT_OPERATION_MATMUL_ROWS].calls, 3);
    ht_profile_add(&profile, HT_OPERATION_COPY, 1, 8, (ht_work){.bytes = 10});
    assert_true(profile.lines[HT_OPERATION_COPY].least == 2);
}

static void wait_a_moment(void) {
    for (double begin = ht_now(); ht_now() - begin < 0.01;)
        ;
}

static void test_profile__stretches(void **state) {
    (void)state;
    ht_tensor x = f32(3, 7), w = f32(5, 7), y = ht_tensor_of(memory + 1024, HT_F32, 3, 5);
    start();
    const ht_profile_stretch *step = &ht_backend_profile(backend)->stretches[HT_STRETCH_STEP];
    DO(ht_zero(backend, memory, 64, &err_)); /* outside of any */
    double before = line(HT_OPERATION_ZERO)->seconds;
    for (int i = 0; i < 2; i++) {
        ht_profile_enter(backend);
        DO(ht_matmul_forward(backend, &y, &x, &w, NULL, &err_));
        ht_profile_enter(backend); /* generation inside of a step is a part of it */
        DO(ht_zero(backend, memory, 64, &err_));
        ht_profile_leave(backend, HT_STRETCH_GENERATION);
        wait_a_moment();
        ht_profile_leave(backend, HT_STRETCH_STEP);
    }
    assert_int_equal(step->count, 2);
    assert_int_equal(ht_backend_profile(backend)->stretches[HT_STRETCH_GENERATION].count, 0);
    assert_true(step->seconds > 0.02);
    /* sums of differences: equal to the last bits */
    double product = line(HT_OPERATION_MATMUL_FORWARD)->seconds, zero = line(HT_OPERATION_ZERO)->seconds - before;
    assert_true(fabs(step->core - product) < 1e-9);
    assert_true(fabs(step->operations - product - zero) < 1e-9);
}

static void test_profile__closing_reports(void **state) {
    (void)state;
    ht_tensor x = f32(3, 7), w = f32(5, 7), y = ht_tensor_of(memory + 1024, HT_F32, 3, 5);
    start();
    ht_profile_enter(backend);
    for (int i = 0; i < 3; i++)
        DO(ht_matmul_forward(backend, &y, &x, &w, NULL, &err_));
    ht_profile_leave(backend, HT_STRETCH_STEP);
    ht_backend_close(backend);
    backend = NULL;
    assert_non_null(strstr(said, "profile: f32 on cpu, threads 1; peaks: products "));
    assert_non_null(strstr(said, "\nproduct, forward                  3 "));
    assert_non_null(strstr(said, "\noutside of operations "));
    assert_non_null(strstr(said, "\ntraining step, 1 x "));
    assert_null(strstr(said, "adamw")); /* what was not called has no line */
    assert_null(strstr(said, "generation,"));
}

static void test_profile__off_reports_nothing(void **state) {
    (void)state;
    ht_profile_enter(backend);
    ht_profile_leave(backend, HT_STRETCH_STEP);
    ht_backend_close(backend);
    backend = NULL;
    assert_string_equal(said, "");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(test_profile__##name, open_backend, close_backend)
    const struct CMUnitTest tests[] = {
        TEST(counts_nothing_before_it_starts),
        TEST(peaks_are_rates),
        TEST(counts_are_exact),
        TEST(attention_counts_causal_pairs),
        TEST(inner_calls_belong_to_the_outer),
        TEST(least_time_is_of_flop_or_bytes),
        TEST(stretches),
        TEST(closing_reports),
        TEST(off_reports_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
