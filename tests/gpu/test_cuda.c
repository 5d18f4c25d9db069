/*
 * The CUDA backend where the table of tests/op does not reach: more rows than a grid holds, rows longer than shared memory,
 * views that are aligned, sums whose order is promised, the same tokens as the CPU's. Each is held against the CPU backend.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "tests/op/harness.h"
#include "tests/op/reference.h"

static ht_backend *cpu, *gpu;

/* Runs an operation: makes its inputs, records its outputs. */
typedef void (*work)(op_run *run, const void *shape);

/* The outputs of both backends agree within their tolerances, in these dtypes. */
static void compare(work run_work, const void *shape, int with_bf16) {
    for (int d = 0; d <= with_bf16; d++) {
        op_result results[2];
        for (int side = 0; side < 2; side++) {
            op_run run = {.dtype = d ? HT_BF16 : HT_F32, .seed = 3};
            op_run_begin(&run, side ? gpu : cpu, &results[side]);
            run_work(&run, shape);
            op_run_end(&run);
        }
        assert_int_equal(results[0].count, results[1].count);
        for (int i = 0; i < results[1].count; i++) {
            op_output *o = &results[1].outputs[i];
            double *zeros = o->expected;
            o->expected = results[0].outputs[i].actual;
            int agrees = op_error(o) <= 1;
            if (!agrees) op_report(d ? "bf16" : "f32", o);
            o->expected = zeros;
            assert_true(agrees);
        }
        op_result_free(&results[0]);
        op_result_free(&results[1]);
    }
}

/* A tensor of normal numbers. */
static ht_tensor normal(op_run *run, ht_dtype dtype, int64_t rows, int64_t cols) {
    double *values = op_normal(run, dtype, rows * cols, 1);
    ht_tensor t = op_tensor(run, dtype, rows, cols, values);
    free(values);
    return t;
}

static void output(op_run *run, const char *name, const ht_tensor *t, double f32_roundings, double bf16_roundings) {
    op_output_tensor(run, name, t, op_zeros(t->rows * t->cols),
                     (op_tolerance){f32_roundings, op_bf16(run, bf16_roundings), 1});
}

/* --- rows ------------------------------------------------------------------------------------------------- */

typedef struct rows_shape {
    int64_t rows, cols;
    int64_t margin; /* columns on either side of the views; a multiple of 8 keeps them aligned */
} rows_shape;

/* Columns [margin, margin + cols) of a wider tensor. */
static ht_tensor view(op_run *run, ht_dtype dtype, const rows_shape *s, int64_t cols) {
    return ht_tensor_columns(normal(run, dtype, s->rows, cols + 2 * s->margin), s->margin, cols);
}

static void run_norm(op_run *run, const void *shape) {
    const rows_shape *s = shape;
    ht_tensor x = view(run, run->dtype, s, s->cols), gain = normal(run, run->dtype, 1, s->cols);
    ht_tensor y = view(run, run->dtype, s, s->cols), dx = view(run, run->dtype, s, s->cols);
    ht_tensor dy = view(run, run->dtype, s, s->cols), dgain = normal(run, HT_F32, 1, s->cols);
    float *rstd = op_floats(run, s->rows, NULL);
    op_check(run, ht_rms_norm_forward(run->be, &y, rstd, &x, &gain, 1e-5f, &run->err));
    op_check(run, ht_rms_norm_backward(run->be, &dx, &dgain, &dy, &x, rstd, &gain, &run->err));
    output(run, "y", &y, 2 * SUM_ROUNDINGS(s->cols), 2);
    output(run, "dx", &dx, 2 * SUM_ROUNDINGS(s->cols), 2);
    output(run, "dgain", &dgain, 2 * SUM_ROUNDINGS(s->rows), 0);
}

static void run_swiglu(op_run *run, const void *shape) {
    const rows_shape *s = shape;
    ht_tensor gu = view(run, run->dtype, s, 2 * s->cols), y = view(run, run->dtype, s, s->cols);
    ht_tensor dy = view(run, run->dtype, s, s->cols), dgu = view(run, run->dtype, s, 2 * s->cols);
    op_check(run, ht_swiglu_forward(run->be, &y, &gu, &run->err));
    op_check(run, ht_swiglu_backward(run->be, &dgu, &dy, &gu, &run->err));
    output(run, "y", &y, 64, 2);
    output(run, "dgu", &dgu, 64, 2);
}

static void run_moves(op_run *run, const void *shape) {
    const rows_shape *s = shape;
    int64_t R = (s->rows + 1) / 2;
    int32_t *rows = calloc((size_t)R, sizeof *rows);
    for (int64_t r = 0; r < R; r++)
        rows[r] = (int32_t)(s->rows - 1 - 2 * r);
    const int32_t *trows = op_ids(run, rows, R);
    ht_tensor x = view(run, run->dtype, s, s->cols), same = view(run, run->dtype, s, s->cols);
    ht_tensor other = view(run, run->dtype == HT_F32 ? HT_BF16 : HT_F32, s, s->cols);
    ht_tensor some = ht_tensor_rows(view(run, run->dtype, s, s->cols), 0, R);
    op_check(run, ht_copy(run->be, &same, &x, &run->err));
    op_check(run, ht_copy(run->be, &other, &x, &run->err));
    op_check(run, ht_gather_rows(run->be, &some, &x, trows, &run->err));
    op_check(run, ht_scatter_rows(run->be, &x, &some, trows, &run->err));
    output(run, "same", &same, 0, 0);
    output(run, "converted", &other, 0, 0);
    output(run, "gathered", &some, 0, 0);
    output(run, "scattered", &x, 1, 1);
    free(rows);
}

static void run_rope_views(op_run *run, const void *shape) {
    const rows_shape *s = shape;
    enum { POSITIONS = 100, HEADS = 5 };
    double *angles = op_zeros(POSITIONS * s->cols);
    ref_rope_table(angles, POSITIONS, s->cols, 10000);
    ht_tensor table = op_tensor(run, HT_F32, POSITIONS, s->cols, angles);
    ht_tensor x = view(run, run->dtype, s, HEADS * s->cols);
    int32_t *positions = op_integers(run, s->rows, POSITIONS);
    op_check(run, ht_rope(run->be, &x, HEADS, s->cols, op_ids(run, positions, s->rows), &table, 1, &run->err));
    output(run, "x", &x, 8, 1);
    free(positions);
    free(angles);
}

static void test_cuda__more_rows_than_a_grid_and_aligned_views(void **state) {
    (void)state;
    const rows_shape shapes[] = {{700, 40, 0}, {300, 24, 8}, {33, 264, 16}, {5, 48, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        compare(run_norm, &shapes[i], 1);
        compare(run_swiglu, &shapes[i], 1);
        compare(run_moves, &shapes[i], 1);
        compare(run_rope_views, &shapes[i], 1);
    }
}

/* The gain's gradient takes 48 KiB of shared memory and more, a row more than the registers of a block. */
static void test_cuda__norm_of_long_rows(void **state) {
    (void)state;
    compare(run_norm, &(rows_shape){2, 12288, 0}, 1);
    compare(run_norm, &(rows_shape){9, 13000, 0}, 1);
    compare(run_norm, &(rows_shape){3, 20001, 0}, 1);
}

/* --- sums ------------------------------------------------------------------------------------------------- */

static void run_squares(op_run *run, const void *shape) {
    int64_t n = *(const int64_t *)shape;
    ht_tensor x = normal(run, HT_F32, 1, n);
    double sums[2];
    op_check(run, ht_sum_squares(run->be, x.data, n, &sums[0], &run->err));
    op_check(run, ht_sum_squares(run->be, (float *)x.data + 1, n - 1, &sums[1], &run->err)); /* not aligned */
    op_output_host(run, "sums", sums, 2, op_zeros(2), (op_tolerance){.f32_roundings = (double)n * 0x1p-29});
}

static void test_cuda__sum_of_squares_of_more_than_its_grid(void **state) {
    (void)state;
    compare(run_squares, &(int64_t){1200003}, 0);
}

/* "In order of t": the same bits as a loop over the tokens. Some ids come hundreds of times, most never. */
static void test_cuda__embedding_gradient_in_the_order_of_tokens(void **state) {
    (void)state;
    enum { TOKENS = 1500, VOCAB = 333, DIM = 40 };
    op_result result;
    op_run run = {.dtype = HT_F32, .seed = 5};
    op_run_begin(&run, gpu, &result);
    double *dy = op_normal(&run, HT_F32, TOKENS * DIM, 1), *dtable = op_normal(&run, HT_F32, VOCAB * DIM, 1);
    int32_t *ids = op_integers(&run, TOKENS, VOCAB);
    for (int t = 0; t < TOKENS; t++)
        ids[t] = t % 3 == 0 ? 7 : t % 3 == 1 ? VOCAB - 1 : ids[t] / 8 * 8;
    ht_tensor tdy = op_tensor(&run, HT_F32, TOKENS, DIM, dy), tdtable = op_tensor(&run, HT_F32, VOCAB, DIM, dtable);
    op_check(&run, ht_embedding_backward(gpu, &tdtable, &tdy, op_ids(&run, ids, TOKENS), &run.err));
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < DIM; i++)
            dtable[ids[t] * DIM + i] = (double)((float)dtable[ids[t] * DIM + i] + (float)dy[t * DIM + i]);
    op_output_tensor(&run, "dtable", &tdtable, dtable, (op_tolerance){0});
    assert_true(op_error(&result.outputs[0]) == 0);
    op_result_free(&result);
    op_run_end(&run);
    free(ids);
    free(dy);
}

/* --- attention -------------------------------------------------------------------------------------------- */

/* A packed batch of three sequences; q, k and v lie beside each other, as the model has them, and so do their gradients. */
typedef struct attention_heads {
    int64_t heads, kv_heads, width;
    int32_t lengths[3];
} attention_heads;

static void run_attention(op_run *run, const void *shape) {
    const attention_heads *h = shape;
    int64_t wide = h->heads * h->width, narrow = h->kv_heads * h->width;
    int32_t start[4] = {0};
    for (int i = 0; i < 3; i++)
        start[i + 1] = start[i] + h->lengths[i];
    int64_t T = start[3];
    ht_tensor qkv = normal(run, run->dtype, T, wide + 2 * narrow), gradients = normal(run, run->dtype, T, qkv.cols);
    ht_tensor q = ht_tensor_columns(qkv, 0, wide), dq = ht_tensor_columns(gradients, 0, wide);
    ht_tensor k = ht_tensor_columns(qkv, wide, narrow), dk = ht_tensor_columns(gradients, wide, narrow);
    ht_tensor v = ht_tensor_columns(qkv, wide + narrow, narrow);
    ht_tensor dv = ht_tensor_columns(gradients, wide + narrow, narrow);
    ht_tensor out = normal(run, run->dtype, T, wide), dout = normal(run, run->dtype, T, wide);
    float *lse = op_floats(run, T * h->heads, NULL);
    const ht_attention_shape packed = {.heads = h->heads,
                                       .kv_heads = h->kv_heads,
                                       .head_dim = h->width,
                                       .sequences = 3,
                                       .seq_start = op_ids(run, start, 4),
                                       .seq_start_host = start};
    const ht_attention_backward_args args = {
        .dq = &dq, .dk = &dk, .dv = &dv, .dout = &dout, .q = &q, .k = &k, .v = &v, .out = &out, .lse = lse};
    op_check(run, ht_attention_forward(run->be, &out, lse, &q, &k, &v, &packed, &run->err));
    op_check(run, ht_attention_backward(run->be, &args, &packed, &run->err));
    double n = 2 * SUM_ROUNDINGS(h->width + T);
    output(run, "out", &out, n, 3);
    op_output_floats(run, "lse", lse, T, h->heads, op_zeros(T * h->heads), (op_tolerance){n, 0, 1});
    output(run, "dq", &dq, n, 4);
    output(run, "dk", &dk, n, 4);
    output(run, "dv", &dv, n, 4);
}

static void test_cuda__attention_on_views_of_one_buffer(void **state) {
    (void)state;
    static const attention_heads shapes[] = {
        {2, 2, 64, {1, 129, 200}},  {4, 1, 128, {16, 17, 100}}, {8, 1, 64, {15, 64, 127}},
        {2, 1, 128, {63, 130, 65}}, {6, 2, 96, {40, 1, 33}},    {2, 1, 320, {5, 34, 2}},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        compare(run_attention, &shapes[i], 1);
}

/* --- token losses of rows that need leave for shared memory, or do not fit it ------------------------------ */

static void run_long_loss(op_run *run, const void *shape) {
    const rows_shape *s = shape;
    ht_tensor logits = normal(run, HT_F32, s->rows, s->cols), dlogits = logits;
    if (run->dtype == HT_BF16) dlogits = normal(run, HT_BF16, s->rows, s->cols);
    int32_t *targets = op_integers(run, s->rows, s->cols);
    double *weight = op_normal(run, HT_F32, s->rows, 1);
    float *logp = op_floats(run, s->rows, NULL), *entropy = op_floats(run, s->rows, NULL);
    const ht_token_loss loss = {.kind = HT_TOKEN_LOSS_NLL, .weight = op_floats(run, s->rows, weight)};
    op_check(run, ht_token_loss_forward(run->be, &logits, &dlogits, op_ids(run, targets, s->rows), logp, entropy, &loss,
                                        &run->err));
    double n = 2 * SUM_ROUNDINGS(s->cols);
    op_output_floats(run, "logp", logp, s->rows, 1, op_zeros(s->rows), (op_tolerance){n, 0, 1});
    op_output_floats(run, "entropy", entropy, s->rows, 1, op_zeros(s->rows), (op_tolerance){n, 0, 1});
    op_output_tensor(run, "dlogits", &dlogits, op_zeros(s->rows * s->cols), (op_tolerance){n, op_bf16(run, 1), 0});
    free(weight);
    free(targets);
}

static void test_cuda__token_loss_of_long_rows(void **state) {
    (void)state;
    compare(run_long_loss, &(rows_shape){2, 12288, 0}, 1); /* 48 KiB */
    compare(run_long_loss, &(rows_shape){2, 60000, 0}, 1);
    compare(run_long_loss, &(rows_shape){2, 60001, 0}, 1);
}

/* --- decoding --------------------------------------------------------------------------------------------- */

/* bf16 products of `rows` rows of x from row `first` on; the bits of y. `shift`: x's rows are not aligned. */
static void rows_product(uint16_t *bits, int64_t first, int64_t rows, int shift) {
    enum { M = 600, N = 200, K = 1096 };
    op_result result;
    op_run run = {.dtype = HT_BF16, .seed = 8};
    op_run_begin(&run, gpu, &result);
    double *x = op_normal(&run, HT_BF16, M * K, 1);
    ht_tensor w = normal(&run, HT_BF16, N, K), add = normal(&run, HT_BF16, M, N);
    run.strided = shift; /* by 5 elements more */
    ht_tensor tx = op_tensor(&run, HT_BF16, M, K, x);
    run.strided = 0;
    ht_tensor y = op_tensor(&run, HT_BF16, rows, N, NULL);
    tx = ht_tensor_rows(tx, first, rows);
    add = ht_tensor_rows(add, first, rows);
    op_check(&run, ht_matmul_rows(gpu, &y, &tx, &w, &add, &run.err));
    op_check(&run, ht_download(gpu, bits, y.data, (size_t)(rows * N) * sizeof *bits, &run.err));
    free(x);
    op_run_end(&run);
}

static void test_cuda__decoded_rows_do_not_depend_on_their_company(void **state) {
    (void)state;
    enum { M = 600, N = 200 };
    const int64_t cuts[][2] = {{0, 1},  {17, 1},   {299, 1},  {3, 8},   {5, 16},   {40, 17},
                               {1, 33}, {100, 64}, {200, 65}, {9, 130}, {33, 513}, {0, 599}};
    uint16_t *whole = calloc(M * N, sizeof *whole), *part = calloc(M * N, sizeof *part);
    rows_product(whole, 0, M, 0);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        rows_product(part, cuts[i][0], cuts[i][1], i % 3 == 2);
        assert_memory_equal(part, whole + cuts[i][0] * N, (size_t)(cuts[i][1] * N) * sizeof *part);
    }
    free(part);
    free(whole);
}

static void sample_on(ht_backend *be, const double *logits, int64_t R, int64_t V, const ht_sampling *settings,
                      int32_t *tokens, float *logp) {
    op_result result;
    op_run run = {.dtype = HT_F32};
    op_run_begin(&run, be, &result);
    ht_tensor t = op_tensor(&run, HT_F32, R, V, logits);
    op_check(&run, ht_sample(be, &t, settings, tokens, logp, &run.err));
    op_run_end(&run);
}

/* The same token for the same uniform number, with every filter; logits with ties and without; rows that fit shared memory,
 * those that take 48 KiB of it, and one that does not. */
static void test_cuda__samples_are_the_cpus(void **state) {
    (void)state;
    enum { R = 48 };
    static const int64_t sizes[] = {1, 5, 33, 1000, 12288, 32000, 60001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t V = sizes[i], rows = V == 12288 || V > 32000 ? 12 : R;
        double *logits = op_zeros(rows * V);
        ht_sampling settings[R];
        int32_t expected[R], tokens[R];
        float expected_logp[R], logp[R];
        for (int64_t r = 0; r < rows; r++) {
            static const float temperatures[] = {1, 0.7f, 0, 1.5f}, shares[] = {1, 0.9f, 0.5f};
            static const int32_t counts[] = {0, 0, 40, 3, 1};
            settings[r] = (ht_sampling){.temperature = temperatures[r % 4],
                                        .top_p = shares[r % 3],
                                        .top_k = counts[r % 5],
                                        .seed = 4,
                                        .stream = (uint64_t)r,
                                        .index = (uint64_t)V};
            for (int64_t v = 0; v < V; v++) {
                double z = 2.5 * ht_rng_normal(21, (uint64_t)(r + V), (uint64_t)v);
                logits[r * V + v] = r % 2 ? rint(z) : (double)(float)z;
            }
        }
        sample_on(cpu, logits, rows, V, settings, expected, expected_logp);
        sample_on(gpu, logits, rows, V, settings, tokens, logp);
        for (int64_t r = 0; r < rows; r++) {
            if (tokens[r] != expected[r])
                fail_msg("%d tokens, row %d: %d, not %d", (int)V, (int)r, (int)tokens[r], (int)expected[r]);
            assert_true(fabs((double)logp[r] - (double)expected_logp[r]) <= 1e-5 * (1 + fabs((double)logp[r])));
        }
        free(logits);
    }
}

static void test_cuda__logits_that_are_not_finite_are_refused(void **state) {
    (void)state;
    const double bad[] = {(double)NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        enum { V = 100 };
        double logits[3 * V] = {0};
        logits[2 * V + 99] = bad[i];
        const ht_sampling plain = {.temperature = 1, .top_p = 1};
        const ht_sampling settings[3] = {plain, plain, plain};
        int32_t tokens[3];
        op_result result;
        op_run run = {.dtype = HT_F32};
        op_run_begin(&run, gpu, &result);
        ht_tensor t = op_tensor(&run, HT_F32, 3, V, logits);
        assert_int_equal(ht_sample(gpu, &t, settings, tokens, NULL, &run.err), HT_ERR_RUN);
        assert_string_equal(run.err.message, "sample: row 2 of 3: a logit is not finite");
        op_run_end(&run);
    }
}

/* --- passes that repeat ------------------------------------------------------------------------------------ */

enum { PASS_ROWS = 3, PASS_DIM = 1096, PASS_OUT = 40, PASS_TABLE = 20 };

/* Looks rows up, normalises and multiplies them, in tensors that stay; on a backend of its own, with little scratch memory. */
typedef struct repeated {
    op_run run;
    op_result result;
    ht_tensor table, gain, w, x, y;
    float *rstd;
    int32_t *ids;
    int calls;
    int waits, uploads; /* 1: does what cannot be recorded */
} repeated;

static ht_status run_repeated(void *context, ht_error *err) {
    repeated *r = context;
    ht_backend *be = r->run.be;
    ht_status status = HT_OK;
    double sum;
    r->calls++;
    HT_TRY(ht_embedding_forward(be, &r->x, &r->table, r->ids, err));
    HT_TRY(ht_rms_norm_forward(be, &r->x, r->rstd, &r->x, &r->gain, 1e-5f, err));
    if (r->uploads) HT_TRY(ht_upload(be, r->ids, (int32_t[PASS_ROWS]){0}, PASS_ROWS * sizeof *r->ids, err));
    if (r->waits) HT_TRY(ht_sum_squares(be, r->rstd, PASS_ROWS, &sum, err));
    HT_TRY(ht_matmul_rows(be, &r->y, &r->x, &r->w, NULL, err)); /* in slices: it needs scratch memory */
done:
    return status;
}

static void open_repeated(repeated *r) {
    *r = (repeated){.run = {.dtype = HT_BF16, .seed = 6}};
    op_run *run = &r->run;
    op_run_begin(run, op_backend_open(1), &r->result);
    r->table = normal(run, HT_BF16, PASS_TABLE, PASS_DIM);
    r->gain = normal(run, HT_BF16, 1, PASS_DIM);
    r->w = normal(run, HT_BF16, PASS_OUT, PASS_DIM);
    r->x = op_tensor(run, HT_BF16, PASS_ROWS, PASS_DIM, NULL);
    r->y = op_tensor(run, HT_BF16, PASS_ROWS, PASS_OUT, NULL);
    r->rstd = op_floats(run, PASS_ROWS, NULL);
    r->ids = op_ids(run, (int32_t[PASS_ROWS]){0}, PASS_ROWS);
}

static void close_repeated(repeated *r, ht_recording *recording) {
    ht_recording_free(r->run.be, recording);
    op_run_end(&r->run);
    ht_backend_close(r->run.be);
}

/* The bits of y after a pass over rows first, first + 1, ...: as it is (recording NULL), or replayed. */
static void pass_over(repeated *r, int32_t first, ht_recording **recording, uint16_t bits[PASS_ROWS * PASS_OUT]) {
    op_run *run = &r->run;
    const int32_t ids[PASS_ROWS] = {first, first + 1, first + 2};
    op_check(run, ht_upload(run->be, r->ids, ids, sizeof ids, &run->err));
    op_check(run, recording ? ht_replay(run->be, recording, run_repeated, r, &run->err) : run_repeated(r, &run->err));
    op_check(run, ht_download(run->be, bits, r->y.data, PASS_ROWS * PASS_OUT * sizeof *bits, &run->err));
}

/* Scratch memory moves: this needs more of it than anything before. */
static void need_scratch(repeated *r, int64_t rows) {
    double *zeros = op_zeros(rows);
    ht_tensor logits = op_tensor(&r->run, HT_F32, rows, 1, zeros);
    ht_sampling *settings = calloc((size_t)rows, sizeof *settings);
    int32_t *tokens = calloc((size_t)rows, sizeof *tokens);
    for (int64_t i = 0; i < rows; i++)
        settings[i].top_p = 1;
    op_check(&r->run, ht_sample(r->run.be, &logits, settings, tokens, NULL, &r->run.err));
    free(tokens);
    free(settings);
    free(zeros);
}

static void test_cuda__replayed_passes_are_the_pass(void **state) {
    (void)state;
    repeated r;
    ht_recording *recording = NULL;
    uint16_t direct[PASS_ROWS * PASS_OUT], replayed[PASS_ROWS * PASS_OUT];
    open_repeated(&r);
    pass_over(&r, 0, NULL, direct);
    for (int32_t first = 0; first + PASS_ROWS <= PASS_TABLE; first++) {
        int calls = r.calls;
        pass_over(&r, first, &recording, replayed);
        assert_int_equal(r.calls - calls, first % 6 == 0); /* recorded at first, and when scratch memory has moved */
        pass_over(&r, first, NULL, direct);
        assert_memory_equal(replayed, direct, sizeof direct);
        if (first % 6 == 5) need_scratch(&r, 2048 << first / 6);
    }
    close_repeated(&r, recording);
}

/* It is an error, and the backend goes on: also when all of its staging memory has come round. */
static void test_cuda__a_pass_that_uses_host_memory_is_not_recorded(void **state) {
    (void)state;
    repeated r;
    ht_recording *recording = NULL;
    uint16_t direct[PASS_ROWS * PASS_OUT], replayed[PASS_ROWS * PASS_OUT];
    open_repeated(&r);
    pass_over(&r, 4, NULL, direct);
    for (int i = 0; i < 2; i++) {
        r.waits = i == 0, r.uploads = i == 1;
        assert_int_equal(ht_replay(r.run.be, &recording, run_repeated, &r, &r.run.err), HT_ERR_RUN);
        assert_null(recording);
        r.run.err = (ht_error)HT_ERROR_INIT;
    }
    r.waits = r.uploads = 0;
    for (int i = 0; i < 20; i++) {
        pass_over(&r, 4, &recording, replayed);
        assert_memory_equal(replayed, direct, sizeof direct);
    }
    close_repeated(&r, recording);
}

/* --- memory ------------------------------------------------------------------------------------------------ */

/* Copies longer than the staging memory, and many short ones through it. */
static void test_cuda__long_and_short_copies(void **state) {
    (void)state;
    const size_t sizes[] = {1, 63, 4 << 20, (4 << 20) + 1, (8 << 20) - 3, (40 << 20) + 777};
    size_t most = sizes[5];
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    unsigned char *host = malloc(most), *back = malloc(most), *memory = NULL;
    for (size_t i = 0; i < most; i++)
        host[i] = (unsigned char)(i * 31 + i / 251);
    ht_arena_init(&arena, 0);
    ht_backend_arena(gpu, &arena);
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_WORKSPACE, most, &memory, &err), HT_OK);
    for (int i = 0; i < 6; i++) {
        memset(back, 0, sizes[i]);
        assert_int_equal(ht_upload(gpu, memory, host, sizes[i], &err), HT_OK);
        assert_int_equal(ht_download(gpu, back, memory, sizes[i], &err), HT_OK);
        assert_memory_equal(back, host, sizes[i]);
    }
    for (size_t i = 0; i < 3000; i++)
        assert_int_equal(ht_upload(gpu, memory + i * 100, host + i * 7, 100, &err), HT_OK);
    assert_int_equal(ht_upload(gpu, NULL, NULL, 0, &err), HT_OK);
    assert_int_equal(ht_download(gpu, NULL, NULL, 0, &err), HT_OK);
    assert_int_equal(ht_download(gpu, back, memory, 300000, &err), HT_OK);
    for (size_t i = 0; i < 3000; i++)
        assert_memory_equal(back + i * 100, host + i * 7, 100);
    ht_arena_clear(&arena);
    free(back);
    free(host);
}

static void test_cuda__auto_takes_it(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_backend *chosen = NULL;
    assert_int_equal(ht_backend_open(&chosen, HT_BACKEND_AUTO, 1, &err), HT_OK);
    assert_string_equal(ht_backend_name(chosen), "cuda");
    ht_backend_close(chosen);
}

static int open_backends(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    gpu = op_backend_open(1);
    assert_string_equal(ht_backend_name(gpu), "cuda");
    return ht_backend_open(&cpu, HT_BACKEND_CPU, 1, &err) != HT_OK;
}

static int close_backends(void **state) {
    (void)state;
    ht_backend_close(cpu);
    ht_backend_close(gpu);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuda__more_rows_than_a_grid_and_aligned_views),
        cmocka_unit_test(test_cuda__norm_of_long_rows),
        cmocka_unit_test(test_cuda__sum_of_squares_of_more_than_its_grid),
        cmocka_unit_test(test_cuda__embedding_gradient_in_the_order_of_tokens),
        cmocka_unit_test(test_cuda__attention_on_views_of_one_buffer),
        cmocka_unit_test(test_cuda__token_loss_of_long_rows),
        cmocka_unit_test(test_cuda__decoded_rows_do_not_depend_on_their_company),
        cmocka_unit_test(test_cuda__samples_are_the_cpus),
        cmocka_unit_test(test_cuda__logits_that_are_not_finite_are_refused),
        cmocka_unit_test(test_cuda__replayed_passes_are_the_pass),
        cmocka_unit_test(test_cuda__a_pass_that_uses_host_memory_is_not_recorded),
        cmocka_unit_test(test_cuda__long_and_short_copies),
        cmocka_unit_test(test_cuda__auto_takes_it),
    };
    return cmocka_run_group_tests(tests, open_backends, close_backends);
}
