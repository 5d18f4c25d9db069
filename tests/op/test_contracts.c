/*
 * What backend.h promises beside values: refusal of misshapen and mistyped arguments, bits of a row that do
 * not depend on its batch, and the memory functions.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/op/harness.h"

static ht_backend *backend;
static float *memory; /* backend memory that is large enough for every argument below */

static ht_tensor f32(int64_t rows, int64_t cols) {
    return ht_tensor_of(memory, HT_F32, rows, cols);
}
static ht_tensor typed(ht_dtype dtype, int64_t rows, int64_t cols) {
    return ht_tensor_of(memory, dtype, rows, cols);
}

/* The call is refused with HT_ERR_USAGE and a message. */
#define REFUSED(call)                                                                                        \
    do {                                                                                                     \
        ht_error err = HT_ERROR_INIT;                                                                        \
        ht_status status_ = (call);                                                                          \
        if (status_ != HT_ERR_USAGE || err.message[0] == '\0') {                                             \
            print_error("line %d: %s gave %d (%s)\n", __LINE__, #call, (int)status_, err.message);           \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

static const int32_t *ids(void) {
    return (const int32_t *)memory;
}

static void test_contracts__rows_refuse(void **state) {
    (void)state;
    int failures = 0;
    ht_tensor a = f32(4, 8), rows5 = f32(5, 8), cols7 = f32(4, 7), half = typed(HT_F16, 4, 8),
              narrow = f32(4, 8);
    ht_tensor bf16 = typed(HT_BF16, 4, 8), gain = f32(1, 8), gain7 = f32(1, 7), wide = f32(4, 16),
              gain_bf16 = typed(HT_BF16, 1, 8);
    narrow.stride = 7; /* rows would overlap */
    REFUSED(ht_copy(backend, &rows5, &a, &err));
    REFUSED(ht_copy(backend, &cols7, &a, &err));
    REFUSED(ht_copy(backend, &half, &a, &err));
    REFUSED(ht_copy(backend, &a, &half, &err));
    REFUSED(ht_copy(backend, &narrow, &a, &err));

    REFUSED(ht_embedding_forward(backend, &cols7, &a, ids(), &err));
    REFUSED(ht_embedding_forward(backend, &bf16, &a, ids(), &err));
    REFUSED(ht_embedding_backward(backend, &a, &cols7, ids(), &err));
    REFUSED(ht_embedding_backward(backend, &bf16, &a, ids(), &err));
    REFUSED(ht_embedding_backward(backend, &a, &half, ids(), &err));

    REFUSED(ht_rms_norm_forward(backend, &rows5, memory, &a, &gain, 1e-5f, &err));
    REFUSED(ht_rms_norm_forward(backend, &a, memory, &a, &gain7, 1e-5f, &err));
    REFUSED(ht_rms_norm_forward(backend, &bf16, memory, &a, &gain, 1e-5f, &err));
    REFUSED(ht_rms_norm_forward(backend, &a, memory, &a, &gain_bf16, 1e-5f, &err));
    REFUSED(ht_rms_norm_forward(backend, &half, memory, &half, &half, 1e-5f, &err));
    REFUSED(ht_rms_norm_backward(backend, &rows5, NULL, &a, &a, memory, &gain, &err));
    REFUSED(ht_rms_norm_backward(backend, &a, NULL, &cols7, &a, memory, &gain, &err));
    REFUSED(ht_rms_norm_backward(backend, &a, &gain7, &a, &a, memory, &gain, &err));
    REFUSED(ht_rms_norm_backward(backend, &a, &gain_bf16, &a, &a, memory, &gain, &err));
    REFUSED(ht_rms_norm_backward(backend, &a, NULL, &a, &a, memory, &gain7, &err));

    REFUSED(ht_swiglu_forward(backend, &a, &a, &err));
    REFUSED(ht_swiglu_forward(backend, &rows5, &wide, &err));
    REFUSED(ht_swiglu_forward(backend, &bf16, &wide, &err));
    REFUSED(ht_swiglu_backward(backend, &a, &a, &wide, &err));
    REFUSED(ht_swiglu_backward(backend, &wide, &rows5, &wide, &err));
    REFUSED(ht_swiglu_backward(backend, &wide, &bf16, &wide, &err));

    REFUSED(ht_gather_rows(backend, &cols7, &a, ids(), &err));
    REFUSED(ht_gather_rows(backend, &bf16, &a, ids(), &err));
    REFUSED(ht_scatter_rows(backend, &a, &cols7, ids(), &err));
    REFUSED(ht_scatter_rows(backend, &a, &bf16, ids(), &err));
    assert_int_equal(failures, 0);
}

static void test_contracts__products_refuse(void **state) {
    (void)state;
    int failures = 0;
    /* M 4, N 6, K 8 */
    ht_tensor y = f32(4, 6), x = f32(4, 8), w = f32(6, 8), x5 = f32(5, 8), w9 = f32(6, 9), w7 = f32(7, 8);
    ht_tensor w_bf16 = typed(HT_BF16, 6, 8), x_bf16 = typed(HT_BF16, 4, 8), half_y = typed(HT_F16, 4, 6);
    ht_tensor half_x = typed(HT_F16, 4, 8), half_w = typed(HT_F16, 6, 8), narrow = f32(4, 8);
    narrow.stride = 7;
    REFUSED(ht_matmul_forward(backend, &y, &x5, &w, NULL, &err));
    REFUSED(ht_matmul_forward(backend, &y, &x, &w9, NULL, &err));
    REFUSED(ht_matmul_forward(backend, &y, &x, &w7, NULL, &err));
    REFUSED(ht_matmul_forward(backend, &y, &x, &w_bf16, NULL, &err));
    REFUSED(ht_matmul_forward(backend, &y, &narrow, &w, NULL, &err));
    REFUSED(ht_matmul_forward(backend, &half_y, &half_x, &half_w, NULL, &err));
    REFUSED(ht_matmul_forward(backend, &y, &x, &w, &x, &err));
    REFUSED(ht_matmul_forward(backend, &y, &x, &w, &half_y, &err));
    REFUSED(ht_matmul_rows(backend, &y, &x5, &w, NULL, &err));
    REFUSED(ht_matmul_rows(backend, &y, &x, &w9, NULL, &err));
    REFUSED(ht_matmul_rows(backend, &y, &x, &w_bf16, NULL, &err));
    REFUSED(ht_matmul_rows(backend, &y, &x, &w, &x, &err));
    REFUSED(ht_matmul_backward_data(backend, &x5, &y, &w, &err));
    REFUSED(ht_matmul_backward_data(backend, &x, &y, &w7, &err));
    REFUSED(ht_matmul_backward_data(backend, &x, &y, &w9, &err));
    REFUSED(ht_matmul_backward_data(backend, &x, &y, &w_bf16, &err));
    REFUSED(ht_matmul_backward_weight(backend, &w7, &y, &x, &err));
    REFUSED(ht_matmul_backward_weight(backend, &w9, &y, &x, &err));
    REFUSED(ht_matmul_backward_weight(backend, &w, &y, &x5, &err));
    REFUSED(ht_matmul_backward_weight(backend, &w, &y, &x_bf16, &err));
    REFUSED(ht_matmul_backward_weight(backend, &w_bf16, &y, &x, &err)); /* gradients of weights are f32 */
    assert_int_equal(failures, 0);
}

static void test_contracts__rope_refuses(void **state) {
    (void)state;
    int failures = 0;
    ht_tensor x = f32(4, 16), table = f32(9, 8), table6 = f32(9, 6), table_bf16 = typed(HT_BF16, 9, 8);
    ht_tensor half = typed(HT_F16, 4, 16), x14 = f32(4, 14), table7 = f32(9, 7);
    REFUSED(ht_rope(backend, &x, 3, 8, ids(), &table, 1, &err));
    REFUSED(ht_rope(backend, &x, 2, 8, ids(), &table6, 1, &err));
    REFUSED(ht_rope(backend, &x, 2, 8, ids(), &table_bf16, 1, &err));
    REFUSED(ht_rope(backend, &half, 2, 8, ids(), &table, 1, &err));
    REFUSED(ht_rope(backend, &x14, 2, 7, ids(), &table7, 1, &err)); /* halves of an odd head */
    REFUSED(ht_rope(backend, &x, 2, 8, ids(), &table, 0, &err));
    assert_int_equal(failures, 0);
}

static void test_contracts__attention_refuses(void **state) {
    (void)state;
    int failures = 0;
    /* T 4, H 4, G 2, D 8 */
    const int32_t start[] = {0, 1, 4}, past[] = {0, 0}, tables[] = {0, 1};
    ht_tensor q = f32(4, 32), k = f32(4, 16), v = f32(4, 16), out = f32(4, 32), q5 = f32(5, 32),
              k8 = f32(4, 8);
    ht_tensor k_bf16 = typed(HT_BF16, 4, 16), out_bf16 = typed(HT_BF16, 4, 32), q_half = typed(HT_F16, 4, 32);
    ht_tensor k_half = typed(HT_F16, 4, 16);
    const ht_attention_shape shape = {.heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 8,
                                      .sequences = 2,
                                      .seq_start = ids(),
                                      .seq_start_host = start};
    ht_attention_shape uneven = shape;
    uneven.kv_heads = 3;
    ht_attention_shape shorter = shape;
    shorter.sequences = 1;
    REFUSED(ht_attention_forward(backend, &out, memory, &q5, &k, &v, &shape, &err));
    REFUSED(ht_attention_forward(backend, &out, memory, &q, &k8, &v, &shape, &err));
    REFUSED(ht_attention_forward(backend, &out, memory, &q, &k, &k8, &shape, &err));
    REFUSED(ht_attention_forward(backend, &out, memory, &q, &k_bf16, &v, &shape, &err));
    REFUSED(ht_attention_forward(backend, &out_bf16, memory, &q, &k, &v, &shape, &err));
    REFUSED(ht_attention_forward(backend, &k, memory, &q, &k, &v, &shape, &err));
    REFUSED(ht_attention_forward(backend, &out, memory, &q, &k, &v, &uneven, &err));
    REFUSED(ht_attention_forward(backend, &out, memory, &q, &k, &v, &shorter, &err));
    REFUSED(ht_attention_forward(backend, &q_half, memory, &q_half, &k_half, &k_half, &shape, &err));

    const ht_attention_backward_args good = {
        .dq = &q, .dk = &k, .dv = &v, .dout = &out, .q = &q, .k = &k, .v = &v, .out = &out, .lse = memory};
    ht_attention_backward_args args = good;
    args.dq = &k;
    REFUSED(ht_attention_backward(backend, &args, &shape, &err));
    args = good, args.dk = &k8;
    REFUSED(ht_attention_backward(backend, &args, &shape, &err));
    args = good, args.dv = &k_bf16;
    REFUSED(ht_attention_backward(backend, &args, &shape, &err));
    args = good, args.dout = &q5;
    REFUSED(ht_attention_backward(backend, &args, &shape, &err));
    args = good, args.out = &out_bf16;
    REFUSED(ht_attention_backward(backend, &args, &shape, &err));
    REFUSED(ht_attention_backward(backend, &good, &uneven, &err));

    const ht_cached_shape cached = {.heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 8,
                                    .sequences = 2,
                                    .max_blocks = 1,
                                    .seq_start = ids(),
                                    .past = ids(),
                                    .block_tables = ids(),
                                    .seq_start_host = start,
                                    .past_host = past,
                                    .block_tables_host = tables};
    ht_cached_shape cached_uneven = cached;
    cached_uneven.kv_heads = 3;
    ht_kv_pages pages = {f32(32, 16), f32(32, 16), 16}, thin = {f32(32, 8), f32(32, 8), 16};
    ht_kv_pages unlike = {f32(32, 16), f32(16, 16), 16},
                pages_bf16 = {typed(HT_BF16, 32, 16), typed(HT_BF16, 32, 16), 16},
                odd = {f32(32, 16), f32(32, 16), 8};
    REFUSED(ht_attention_cached(backend, &out, &q5, &k, &v, &pages, &cached, &err));
    REFUSED(ht_attention_cached(backend, &out, &q, &k8, &v, &pages, &cached, &err));
    REFUSED(ht_attention_cached(backend, &out, &q, &k, &v, &thin, &cached, &err));
    REFUSED(ht_attention_cached(backend, &out, &q, &k, &v, &unlike, &cached, &err));
    REFUSED(ht_attention_cached(backend, &out, &q, &k, &v, &pages_bf16, &cached, &err));
    REFUSED(ht_attention_cached(backend, &out, &q, &k, &v, &odd, &cached, &err));
    REFUSED(ht_attention_cached(backend, &out, &q, &k, &v, &pages, &cached_uneven, &err));
    assert_int_equal(failures, 0);
}

static void test_contracts__losses_refuse(void **state) {
    (void)state;
    int failures = 0;
    ht_tensor logits = f32(4, 16), half = typed(HT_F16, 4, 16), narrow = f32(4, 16);
    narrow.stride = 15;
    const ht_token_loss none = {.kind = HT_TOKEN_LOSS_NONE};
    const ht_token_loss weightless = {.kind = HT_TOKEN_LOSS_NLL};
    const ht_token_loss oldless = {
        .kind = HT_TOKEN_LOSS_CLIP, .weight = memory, .advantage = memory, .clip = 0.2f};
    const ht_token_loss clipless = {
        .kind = HT_TOKEN_LOSS_CLIP, .weight = memory, .advantage = memory, .old_logp = memory, .clip = 0};
    const ht_token_loss nll = {.kind = HT_TOKEN_LOSS_NLL, .weight = memory};
    ht_tensor bf16 = typed(HT_BF16, 4, 16), short_one = f32(3, 16);
#define LOSS(logits, dlogits, loss) ht_token_loss_forward(backend, logits, dlogits, ids(), memory, NULL, loss, &err)
    REFUSED(LOSS(&half, NULL, &none));
    REFUSED(LOSS(&bf16, NULL, &none));
    REFUSED(LOSS(&narrow, NULL, &none));
    REFUSED(LOSS(&logits, &logits, &weightless));
    REFUSED(LOSS(&logits, &logits, &oldless));
    REFUSED(LOSS(&logits, &logits, &clipless));
    REFUSED(LOSS(&logits, NULL, &nll));
    REFUSED(LOSS(&logits, &short_one, &nll));
    REFUSED(LOSS(&logits, &half, &nll));
#undef LOSS
    const ht_adamw_args step0 = {
        .lr = 1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .grad_scale = 1, .step = 0};
    const ht_adamw_args step1 = {
        .lr = 1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .grad_scale = 1, .step = 1};
    ht_adamw_run run = {.w = memory, .m = memory, .v = memory, .grad = memory, .n = 4};
    REFUSED(ht_adamw(backend, &run, &step0, &err));
    run.dtype = HT_BF16; /* without the low bits that f32 state needs */
    REFUSED(ht_adamw(backend, &run, &step1, &err));
    run.state = HT_ADAMW_8BIT; /* without scales */
    REFUSED(ht_adamw(backend, &run, &step1, &err));
    run.m_scale = run.v_scale = memory;
    run.dtype = HT_F16;
    REFUSED(ht_adamw(backend, &run, &step1, &err));
    run.dtype = HT_BF16;
    run.low = (uint16_t *)memory;
    REFUSED(ht_adamw(backend, &run, &step1, &err));
    run.low = NULL;
    run.state = HT_ADAMW_BF16; /* with scales */
    REFUSED(ht_adamw(backend, &run, &step1, &err));
    const ht_sampling greedy[4] = {{.top_p = 1}, {.top_p = 1}, {.top_p = 1}, {.top_p = 1}};
    int32_t tokens[4];
    REFUSED(ht_sample(backend, &half, greedy, tokens, NULL, &err));
    REFUSED(ht_sample(backend, &narrow, greedy, tokens, NULL, &err));
    assert_int_equal(failures, 0);
}

static void test_contracts__unknown_backend_is_refused(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_backend *be = (ht_backend *)&err;
    ht_status status = ht_backend_open(&be, (ht_backend_kind)17, 1, &err);
    assert_int_equal(status, HT_ERR_USAGE);
    assert_null(be);
    ht_error again = HT_ERROR_INIT;
    assert_int_equal(ht_backend_open(&be, HT_BACKEND_CPU, -1, &again), HT_ERR_USAGE);
    assert_null(be);
    assert_string_equal(ht_backend_names[HT_BACKEND_CPU], "cpu");
    assert_null(ht_backend_names[HT_BACKEND_CUDA + 1]);
}

/* A row's bits do not depend on T. */
static void test_contracts__rms_norm_rows_stand_alone(void **state) {
    (void)state;
    enum { T = 131, DIM = 288 };
    op_result whole, alone;
    op_run run = {.dtype = HT_F32, .seed = 4};
    op_run_begin(&run, backend, &whole);
    double *x = op_normal(&run, HT_F32, (int64_t)T * DIM, 1), *gain = op_normal(&run, HT_F32, DIM, 1);
    ht_tensor tx = op_tensor(&run, HT_F32, T, DIM, x), tgain = op_tensor(&run, HT_F32, 1, DIM, gain);
    ht_tensor ty = op_tensor(&run, HT_F32, T, DIM, NULL);
    op_check(&run, ht_rms_norm_forward(backend, &ty, op_floats(&run, T, NULL), &tx, &tgain, 1e-5f, &run.err));
    op_output_tensor(&run, "y", &ty, op_zeros((int64_t)T * DIM), (op_tolerance){0});
    run.result = &alone;
    for (int64_t t = 0; t < T; t++) {
        alone = (op_result){0};
        ht_tensor row = ht_tensor_rows(tx, t, 1), y = op_tensor(&run, HT_F32, 1, DIM, NULL);
        op_check(&run,
                 ht_rms_norm_forward(backend, &y, op_floats(&run, 1, NULL), &row, &tgain, 1e-5f, &run.err));
        op_output_tensor(&run, "y", &y, op_zeros(DIM), (op_tolerance){0});
        assert_memory_equal(alone.outputs[0].actual, whole.outputs[0].actual + t * DIM, DIM * sizeof(double));
        op_result_free(&alone);
    }
    op_result_free(&whole);
    free(gain);
    free(x);
    op_run_end(&run);
}

/* Heads, and how many positions a sequence of them gets; its blocks lie scattered, and behind them those of its company. */
typedef struct cached_heads {
    int64_t heads, kv_heads, width;
} cached_heads;
enum { CACHED = 300, CACHE_BLOCK = 16, CACHE_BLOCKS = 64, CACHE_TABLE = (CACHED + CACHE_BLOCK - 1) / CACHE_BLOCK };

/* One call: rows [past, past + rows) of the sequence, and beside it `company` rows of another one that begins. */
static ht_tensor attend_cached(op_run *run, const cached_heads *h, const ht_tensor qkv[3], ht_kv_pages *pages,
                               int32_t past, int32_t rows, int32_t company) {
    const int32_t start[] = {0, company, company + rows}, pasts[] = {0, past};
    int32_t tables[2 * CACHE_TABLE];
    for (int32_t i = 0; i < 2 * CACHE_TABLE; i++)
        tables[i] = (i * 7 + 3) % CACHE_BLOCKS;
    const ht_cached_shape shape = {.heads = h->heads,
                                   .kv_heads = h->kv_heads,
                                   .head_dim = h->width,
                                   .sequences = 2,
                                   .max_blocks = CACHE_TABLE,
                                   .seq_start = op_ids(run, start, 3),
                                   .past = op_ids(run, pasts, 2),
                                   .block_tables = op_ids(run, tables, 2 * CACHE_TABLE),
                                   .seq_start_host = start,
                                   .past_host = pasts,
                                   .block_tables_host = tables};
    ht_tensor now[4]; /* q, k, v, out */
    for (int i = 0; i < 4; i++) {
        now[i] = op_tensor(run, run->dtype, company + rows, qkv[i % 3].cols, NULL);
        ht_tensor others = ht_tensor_rows(now[i], 0, company), own = ht_tensor_rows(now[i], company, rows);
        ht_tensor first = ht_tensor_rows(qkv[i % 3], 0, company), next = ht_tensor_rows(qkv[i % 3], past, rows);
        if (i < 3) {
            op_check(run, ht_copy(backend, &others, &first, &run->err));
            op_check(run, ht_copy(backend, &own, &next, &run->err));
        }
    }
    op_check(run, ht_attention_cached(backend, &now[3], &now[0], &now[1], &now[2], pages, &shape, &run->err));
    return ht_tensor_rows(now[3], company, rows);
}

/* The bits of all positions' results when the sequence comes in pieces of cut[0], cut[1], and so on in turn. */
static unsigned char *attend_in_pieces(ht_dtype dtype, const cached_heads *h, const int32_t cut[2], int32_t company) {
    op_result result;
    op_run run = {.dtype = dtype, .seed = 6};
    op_run_begin(&run, backend, &result);
    ht_tensor qkv[3];
    for (int i = 0; i < 3; i++) {
        int64_t cols = (i ? h->kv_heads : h->heads) * h->width;
        double *values = op_normal(&run, dtype, CACHED * cols, 1);
        qkv[i] = op_tensor(&run, dtype, CACHED, cols, values);
        free(values);
    }
    double *used = op_zeros(CACHE_BLOCKS * CACHE_BLOCK * qkv[1].cols);
    ht_kv_pages pages = {op_tensor(&run, dtype, CACHE_BLOCKS * CACHE_BLOCK, qkv[1].cols, used),
                         op_tensor(&run, dtype, CACHE_BLOCKS * CACHE_BLOCK, qkv[1].cols, used), CACHE_BLOCK};
    size_t row = (size_t)qkv[0].cols * ht_dtype_size(dtype);
    unsigned char *bits = calloc(CACHED, row);
    for (int32_t past = 0, turn = 0; past < CACHED; turn ^= 1) {
        int32_t rows = cut[turn] < CACHED - past ? cut[turn] : CACHED - past;
        ht_tensor out = attend_cached(&run, h, qkv, &pages, past, rows, company);
        op_check(&run, ht_download(backend, bits + (size_t)past * row, out.data, (size_t)rows * row, &run.err));
        past += rows;
    }
    free(used);
    op_run_end(&run);
    return bits;
}

/* A cached row's bits depend neither on how its sequence was cut into calls nor on what else is in them. */
static void test_contracts__cached_rows_stand_alone(void **state) {
    (void)state;
    static const cached_heads heads[] = {{4, 2, 20}, {4, 1, 64}, {2, 2, 128}, {8, 1, 128}};
    static const struct {
        int32_t cut[2], company;
    } others[] = {{{1, 1}, 0}, {{127, 1}, 3}, {{5, 2}, 1}, {{17, 40}, 90}, {{130, 3}, 20}};
    const ht_dtype dtypes[] = {HT_F32, HT_BF16};
    for (size_t d = 0; d < (op_backend_computes(backend, HT_BF16) ? 2 : 1); d++) {
        for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
            size_t bytes = (size_t)(CACHED * heads[i].heads * heads[i].width) * ht_dtype_size(dtypes[d]);
            unsigned char *whole = attend_in_pieces(dtypes[d], &heads[i], (const int32_t[]){CACHED, 1}, 0);
            for (size_t c = 0; c < sizeof others / sizeof *others; c++) {
                unsigned char *pieces = attend_in_pieces(dtypes[d], &heads[i], others[c].cut, others[c].company);
                if (memcmp(whole, pieces, bytes) != 0)
                    fail_msg("%s, heads of %d: bits differ in pieces of %d and %d", ht_dtype_torch_name(dtypes[d]),
                             (int)heads[i].width, (int)others[c].cut[0], (int)others[c].cut[1]);
                free(pieces);
            }
            free(whole);
        }
    }
}

static void test_contracts__plans_that_do_not_fit_are_refused(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_arena plan;
    void *none;
    size_t available, total;
    assert_int_equal(ht_backend_memory(backend, &available, &total, &err), HT_OK);
    assert_true(available > 0 && available <= total);
    ht_arena_init(&plan, 1);
    ht_backend_arena(backend, &plan);
    assert_int_equal(plan.booked[HT_MEMORY_BACKEND] > 0, strcmp(ht_backend_name(backend), "cuda") == 0);
    assert_int_equal(ht_arena_take(&plan, HT_MEMORY_WEIGHTS, 4096, &none, &err), HT_OK);
    assert_int_equal(ht_backend_check_plan(backend, &plan, &err), HT_OK);
    assert_int_equal(ht_arena_take(&plan, HT_MEMORY_KV_CACHE, total, &none, &err), HT_OK);
    assert_int_equal(ht_backend_check_plan(backend, &plan, &err), HT_ERR_NOMEM);
    assert_non_null(strstr(err.message, "weights 0.000 GiB, KV cache "));
    assert_non_null(strstr(err.message, "memory are available"));
    assert_null(strstr(err.message, "gradients"));
    ht_arena_clear(&plan);
}

static void test_contracts__memory(void **state) {
    (void)state;
    enum { N = 1000 };
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    ht_arena_init(&arena, 0);
    ht_backend_arena(backend, &arena);
    unsigned char *block = NULL, host[N], back[N];
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_WORKSPACE, N, &block, &err), HT_OK);
    assert_int_equal((uintptr_t)block % 64, 0);
    memset(back, 1, N);
    assert_int_equal(ht_download(backend, back, block, N, &err), HT_OK);
    for (int i = 0; i < N; i++)
        assert_int_equal(back[i], 0);
    for (int i = 0; i < N; i++)
        host[i] = (unsigned char)(i * 7);
    assert_int_equal(ht_upload(backend, block, host, N, &err), HT_OK);
    assert_int_equal(ht_zero(backend, block + 1, 3, &err), HT_OK);
    assert_int_equal(ht_download(backend, back, block, N, &err), HT_OK);
    memset(host + 1, 0, 3);
    assert_memory_equal(back, host, N);
    ht_arena_clear(&arena);
}

/* From an address that is aligned to nothing, in every dtype, in sizes that end inside of every kind of piece. */
static void test_contracts__converted_uploads(void **state) {
    (void)state;
    enum { MOST = (5 << 20) / 2 + 77 };
    static const ht_dtype from[] = {HT_F32, HT_BF16, HT_F16}, to[] = {HT_F32, HT_BF16};
    static const int64_t sizes[] = {1, 63, 4097, MOST};
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    unsigned char *file = malloc(MOST * sizeof(float) + 1), *back = malloc(MOST * sizeof(float));
    float *aligned = malloc(MOST * sizeof(float)), *expected = malloc(MOST * sizeof(float));
    void *block = NULL;
    ht_arena_init(&arena, 0);
    ht_backend_arena(backend, &arena);
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_WORKSPACE, MOST * sizeof(float), &block, &err), HT_OK);
    for (int64_t i = 0; i < MOST; i++)
        aligned[i] = (float)(i % 256 - 128) / 64;
    for (size_t f = 0; f < 3; f++) {
        ht_convert(expected, from[f], aligned, HT_F32, MOST);
        memcpy(file + 1, expected, MOST * ht_dtype_size(from[f]));
        for (size_t t = 0; t < 2; t++) {
            ht_convert(expected, to[t], aligned, HT_F32, MOST); /* every value is exact in every dtype */
            for (size_t s = 0; s < 4; s++) {
                ht_tensor y = ht_tensor_of(block, to[t], 1, sizes[s]);
                size_t bytes = (size_t)sizes[s] * ht_dtype_size(to[t]);
                assert_int_equal(ht_upload_converted(backend, &y, file + 1, from[f], &err), HT_OK);
                assert_int_equal(ht_download(backend, back, block, bytes, &err), HT_OK);
                assert_memory_equal(back, expected, bytes);
                assert_int_equal(ht_zero(backend, block, bytes, &err), HT_OK);
            }
        }
    }
    ht_tensor rows = {.data = block, .rows = 2, .cols = 4, .stride = 8, .dtype = HT_F32};
    assert_int_equal(ht_upload_converted(backend, &rows, file, HT_F32, &err), HT_ERR_USAGE);
    ht_arena_clear(&arena);
    free(expected);
    free(aligned);
    free(back);
    free(file);
}

/* The comparison of the harness itself: what passes, what fails. */
static void test_contracts__comparison_can_fail(void **state) {
    (void)state;
    double expected[] = {1, 2, 0, 0}, actual[] = {1, 2, 0, 0};
    op_output output = {.rows = 2, .cols = 2, .actual = actual, .expected = expected, .f32_roundings = 4};
    assert_true(op_error(&output) == 0);
    actual[0] = 1 + 3 * 2 * 0x1p-24; /* three roundings of the row's largest, 2 */
    assert_true(op_error(&output) > 0.7 && op_error(&output) < 0.8);
    actual[0] = 1 + 5 * 2 * 0x1p-24;
    assert_true(op_error(&output) > 1);
    actual[0] = NAN;
    assert_true(op_error(&output) > 1);
    actual[0] = 1;
    actual[3] = INFINITY;
    assert_true(op_error(&output) > 1);
    actual[3] = 0x1p-24;
    output.f32_roundings = 0;
    assert_true(op_error(&output) > 1);
}

static int open_backend(void **state) {
    (void)state;
    static ht_arena arena;
    ht_error err = HT_ERROR_INIT;
    backend = op_backend_open(2);
    ht_arena_init(&arena, 0);
    ht_backend_arena(backend, &arena);
    *state = &arena;
    return ht_arena_take(&arena, HT_MEMORY_WORKSPACE, 1 << 16, &memory, &err) != HT_OK;
}

static int close_backend(void **state) {
    ht_arena_clear(*state);
    ht_backend_close(backend);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contracts__rows_refuse),
        cmocka_unit_test(test_contracts__products_refuse),
        cmocka_unit_test(test_contracts__rope_refuses),
        cmocka_unit_test(test_contracts__attention_refuses),
        cmocka_unit_test(test_contracts__losses_refuse),
        cmocka_unit_test(test_contracts__unknown_backend_is_refused),
        cmocka_unit_test(test_contracts__rms_norm_rows_stand_alone),
        cmocka_unit_test(test_contracts__cached_rows_stand_alone),
        cmocka_unit_test(test_contracts__plans_that_do_not_fit_are_refused),
        cmocka_unit_test(test_contracts__memory),
        cmocka_unit_test(test_contracts__converted_uploads),
        cmocka_unit_test(test_contracts__comparison_can_fail),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
