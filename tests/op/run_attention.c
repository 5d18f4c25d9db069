/* Runners of attention; see harness.h. A wrong attention looks into the neighbouring sequence. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/op/cases.h"
#include "tests/op/harness.h"
#include "tests/op/reference.h"

static int64_t cut_length(const op_cut *cut, int64_t i) {
    return 1 + (cut->first + cut->step * i) % cut->cycle;
}

/* [sequences + 1]; new memory. */
static int32_t *starts_of(const op_cut *cut) {
    int32_t *start = calloc((size_t)cut->sequences + 1, sizeof *start);
    for (int64_t i = 0; i < cut->sequences; i++)
        start[i + 1] = start[i] + (int32_t)cut_length(cut, i);
    return start;
}

typedef struct attention_run {
    int64_t T, wide, narrow; /* columns of q, and of k and v */
    int32_t *start;
    double *q, *k, *v;
    ht_tensor tq, tk, tv;
    ht_attention_shape shape;
    ref_attention exact, wrong;
    int32_t wrong_start[3];
} attention_run;

/* q, k, v as views into one buffer, as the model has them after its one product, when `strided`; else apart.
 */
static void place_qkv(op_run *run, attention_run *a) {
    if (!run->strided) {
        a->tq = op_tensor(run, run->dtype, a->T, a->wide, a->q);
        a->tk = op_tensor(run, run->dtype, a->T, a->narrow, a->k);
        a->tv = op_tensor(run, run->dtype, a->T, a->narrow, a->v);
        return;
    }
    int64_t cols = a->wide + 2 * a->narrow;
    double *all = op_zeros(a->T * cols);
    for (int64_t t = 0; t < a->T; t++) {
        memcpy(all + t * cols, a->q + t * a->wide, (size_t)a->wide * sizeof *all);
        memcpy(all + t * cols + a->wide, a->k + t * a->narrow, (size_t)a->narrow * sizeof *all);
        memcpy(all + t * cols + a->wide + a->narrow, a->v + t * a->narrow, (size_t)a->narrow * sizeof *all);
    }
    ht_tensor buffer = op_tensor(run, run->dtype, a->T, cols, all);
    a->tq = ht_tensor_columns(buffer, 0, a->wide);
    a->tk = ht_tensor_columns(buffer, a->wide, a->narrow);
    a->tv = ht_tensor_columns(buffer, a->wide + a->narrow, a->narrow);
    free(all);
}

static attention_run prepare(op_run *run, int64_t index) {
    const op_attention_case *c = &op_attention_cases[index];
    attention_run a = {
        .start = starts_of(&c->cut), .wide = c->heads * c->head_dim, .narrow = c->kv_heads * c->head_dim};
    a.T = a.start[c->cut.sequences];
    a.q = op_normal(run, run->dtype, a.T * a.wide, 1);
    a.k = op_normal(run, run->dtype, a.T * a.narrow, 1);
    a.v = op_normal(run, run->dtype, a.T * a.narrow, 1);
    place_qkv(run, &a);
    a.shape = (ht_attention_shape){.heads = c->heads,
                                   .kv_heads = c->kv_heads,
                                   .head_dim = c->head_dim,
                                   .sequences = c->cut.sequences,
                                   .seq_start = op_ids(run, a.start, c->cut.sequences + 1),
                                   .seq_start_host = a.start};
    a.exact = (ref_attention){c->heads, c->kv_heads, c->head_dim, c->cut.sequences, a.start};
    return a;
}

/* The sequences run into one; a single one is cut in two. */
static void make_wrong(attention_run *a) {
    a->wrong_start[1] = (int32_t)a->T;
    if (a->exact.sequences == 1) a->wrong_start[1] = (int32_t)a->T / 2, a->wrong_start[2] = (int32_t)a->T;
    a->exact.sequences = a->exact.sequences == 1 ? 2 : 1;
    a->exact.seq_start = a->wrong_start;
}

static void finish(attention_run *a) {
    free(a->v);
    free(a->k);
    free(a->q);
    free(a->start);
}

/* Scores sum head_dim terms; the softmax and its mean sum up to T. */
static double roundings(const attention_run *a) {
    return 2 * SUM_ROUNDINGS(a->shape.head_dim + a->T);
}

void run_attention_forward(op_run *run, int64_t index) {
    attention_run a = prepare(run, index);
    ht_tensor tout = op_tensor(run, run->dtype, a.T, a.wide, NULL);
    float *tlse = op_floats(run, a.T * a.shape.heads, NULL);
    op_check(run, ht_attention_forward(run->be, &tout, tlse, &a.tq, &a.tk, &a.tv, &a.shape, &run->err));
    double *out = op_zeros(a.T * a.wide), *lse = op_zeros(a.T * a.shape.heads);
    if (run->wrong) make_wrong(&a);
    ref_attention_forward(out, lse, a.q, a.k, a.v, &a.exact);
    /* bf16: probabilities and result. */
    op_output_tensor(run, "out", &tout, out, (op_tolerance){roundings(&a), op_bf16(run, 2), 0});
    op_output_floats(run, "lse", tlse, a.T, a.shape.heads, lse, (op_tolerance){roundings(&a), 0, 1});
    finish(&a);
}

void run_attention_backward(op_run *run, int64_t index) {
    attention_run a = prepare(run, index);
    double *dout = op_normal(run, run->dtype, a.T * a.wide, 1), *out = op_zeros(a.T * a.wide);
    double *lse = op_zeros(a.T * a.shape.heads);
    ref_attention_forward(out, lse, a.q, a.k, a.v, &a.exact);
    ht_tensor tdout = op_tensor(run, run->dtype, a.T, a.wide, dout);
    ht_tensor tout = op_tensor(run, run->dtype, a.T, a.wide, out);
    ht_tensor tdq = op_tensor(run, run->dtype, a.T, a.wide, NULL);
    ht_tensor tdk = op_tensor(run, run->dtype, a.T, a.narrow, NULL);
    ht_tensor tdv = op_tensor(run, run->dtype, a.T, a.narrow, NULL);
    const ht_attention_backward_args args = {.dq = &tdq,
                                             .dk = &tdk,
                                             .dv = &tdv,
                                             .dout = &tdout,
                                             .q = &a.tq,
                                             .k = &a.tk,
                                             .v = &a.tv,
                                             .out = &tout,
                                             .lse = op_floats(run, a.T * a.shape.heads, lse)};
    op_check(run, ht_attention_backward(run->be, &args, &a.shape, &run->err));
    double *dq = op_zeros(a.T * a.wide), *dk = op_zeros(a.T * a.narrow), *dv = op_zeros(a.T * a.narrow);
    if (run->wrong) make_wrong(&a);
    ref_attention_backward(dq, dk, dv, dout, a.q, a.k, a.v, &a.exact);
    /* bf16: the saved output, probabilities or their gradient, and the result. A first row's dq is exactly 0:
     * the floor is the size of the terms that cancel there. */
    const op_tolerance tolerance = {roundings(&a), op_bf16(run, 3), 1};
    op_output_tensor(run, "dq", &tdq, dq, tolerance);
    op_output_tensor(run, "dk", &tdk, dk, tolerance);
    op_output_tensor(run, "dv", &tdv, dv, tolerance);
    free(lse);
    free(out);
    free(dout);
    finish(&a);
}

/* --- over a cache -----------------------------------------------------------------------------------------
 */

typedef struct cached_run {
    int64_t S, T, wide, narrow, max_blocks, blocks;
    int32_t *start, *past, *tables; /* [S+1], [S], [S, max_blocks] */
    int32_t *whole;                 /* [S+1] starts when each sequence's past and new rows lie together */
} cached_run;

/* Block tables that are scattered over the pool, with blocks nobody owns between them. */
static cached_run plan_cache(op_run *run, const op_cached_case *c) {
    cached_run p = {
        .S = c->rows.sequences, .wide = c->heads * c->head_dim, .narrow = c->kv_heads * c->head_dim};
    p.start = starts_of(&c->rows);
    p.T = p.start[p.S];
    p.past = calloc((size_t)p.S, sizeof *p.past);
    p.whole = calloc((size_t)p.S + 1, sizeof *p.whole);
    for (int64_t s = 0; s < p.S; s++) {
        p.past[s] = (int32_t)cut_length(&c->past, s) - 1;
        int64_t length = p.past[s] + p.start[s + 1] - p.start[s];
        p.whole[s + 1] = p.whole[s] + (int32_t)length;
        int64_t needed = (length + c->block_size - 1) / c->block_size;
        if (needed > p.max_blocks) p.max_blocks = needed;
    }
    p.blocks = 2 * p.S * p.max_blocks + 1;
    int32_t *order = op_integers(run, p.blocks, INT32_MAX), *pool = calloc((size_t)p.blocks, sizeof *pool);
    for (int64_t i = 0; i < p.blocks; i++) {
        int64_t j = order[i] % (i + 1);
        pool[i] = pool[j];
        pool[j] = (int32_t)i;
    }
    p.tables = calloc((size_t)(p.S * p.max_blocks), sizeof *p.tables);
    memcpy(p.tables, pool, (size_t)(p.S * p.max_blocks) * sizeof *pool);
    free(pool);
    free(order);
    return p;
}

/* Rows [from[s], from[s] + rows of s) of each sequence in whole [.., cols], packed by `start`. */
static double *part_of(const cached_run *p, const double *whole, int64_t cols, const int32_t *start,
                       const int32_t *from) {
    double *rows = op_zeros(start[p->S] * cols);
    for (int64_t s = 0; s < p->S; s++)
        memcpy(rows + start[s] * cols, whole + (p->whole[s] + from[s]) * cols,
               (size_t)((start[s + 1] - start[s]) * cols) * sizeof *rows);
    return rows;
}

static ht_tensor part_tensor(op_run *run, const cached_run *p, const double *whole, int64_t cols, const int32_t *start,
                             const int32_t *from) {
    double *rows = part_of(p, whole, cols, start, from);
    ht_tensor t = op_tensor(run, run->dtype, start[p->S], cols, rows);
    free(rows);
    return t;
}

/* A sequence's q, k, v from the first position to the last. */
typedef struct cached_inputs {
    double *q, *k, *v;
} cached_inputs;

/* Runs rows `start` of each sequence that lie behind `past` positions; *out = what came out. */
static ht_tensor run_part(op_run *run, const op_cached_case *c, const cached_run *p, const cached_inputs *in,
                          ht_kv_pages *pages, const int32_t *start, const int32_t *past) {
    ht_tensor q = part_tensor(run, p, in->q, p->wide, start, past);
    ht_tensor k = part_tensor(run, p, in->k, p->narrow, start, past);
    ht_tensor v = part_tensor(run, p, in->v, p->narrow, start, past);
    ht_tensor out = op_tensor(run, run->dtype, start[p->S], p->wide, NULL);
    const ht_cached_shape shape = {.heads = c->heads,
                                   .kv_heads = c->kv_heads,
                                   .head_dim = c->head_dim,
                                   .sequences = p->S,
                                   .seq_start = op_ids(run, start, p->S + 1),
                                   .past = op_ids(run, past, p->S),
                                   .block_tables = op_ids(run, p->tables, p->S * p->max_blocks),
                                   .max_blocks = p->max_blocks,
                                   .seq_start_host = start,
                                   .past_host = past,
                                   .block_tables_host = p->tables};
    op_check(run, ht_attention_cached(run->be, &out, &q, &k, &v, pages, &shape, &run->err));
    return out;
}

/* Pages full of something finite: what a block's last owner left there. */
static ht_tensor used_pages(op_run *run, const cached_run *p, const op_cached_case *c) {
    int strided = run->strided;
    int64_t rows = p->blocks * c->block_size;
    double *content = op_zeros(rows * p->narrow);
    for (int64_t i = 0; i < rows * p->narrow; i++)
        content[i] = 0.5;
    run->strided = 0; /* pages are contiguous */
    ht_tensor t = op_tensor(run, run->dtype, rows, p->narrow, content);
    run->strided = strided;
    free(content);
    return t;
}

/* A block that no sequence owns is as it was. */
static void check_foreign_block(op_run *run, const char *name, const cached_run *p, const op_cached_case *c,
                                const ht_tensor *pages) {
    int64_t block = 0, n = c->block_size * p->narrow;
    for (int64_t i = 0; i < p->S * p->max_blocks; i++)
        if (p->tables[i] == block) block++, i = -1;
    ht_tensor rows = ht_tensor_rows(*pages, block * c->block_size, c->block_size);
    double *expected = op_zeros(n);
    for (int64_t i = 0; i < n; i++)
        expected[i] = 0.5;
    op_output_tensor(run, name, &rows, expected, (op_tolerance){0});
}

/* The past goes into the cache by the operation itself, as what lies where in a block is the backend's affair. */
void run_attention_cached(op_run *run, int64_t index) {
    const op_cached_case *c = &op_cached_cases[index];
    cached_run p = plan_cache(run, c);
    int64_t W = p.whole[p.S];
    cached_inputs in = {op_normal(run, run->dtype, W * p.wide, 1), op_normal(run, run->dtype, W * p.narrow, 1),
                        op_normal(run, run->dtype, W * p.narrow, 1)};
    ht_kv_pages pages = {used_pages(run, &p, c), used_pages(run, &p, c), c->block_size};
    int32_t *none = calloc((size_t)p.S, sizeof *none), *past_start = calloc((size_t)p.S + 1, sizeof *past_start);
    for (int64_t s = 0; s < p.S; s++)
        past_start[s + 1] = past_start[s] + p.past[s];
    run_part(run, c, &p, &in, &pages, past_start, none);
    ht_tensor out = run_part(run, c, &p, &in, &pages, p.start, p.past);

    if (run->wrong) /* the first position's key and value are lost */
        memset(in.k, 0, (size_t)p.narrow * sizeof *in.k), memset(in.v, 0, (size_t)p.narrow * sizeof *in.v);
    double *whole = op_zeros(W * p.wide);
    const ref_attention exact = {c->heads, c->kv_heads, c->head_dim, p.S, p.whole};
    ref_attention_forward(whole, NULL, in.q, in.k, in.v, &exact);
    op_output_tensor(run, "out", &out, part_of(&p, whole, p.wide, p.start, p.past),
                     (op_tolerance){2 * SUM_ROUNDINGS(c->head_dim + W), op_bf16(run, 2), 0});
    check_foreign_block(run, "keys", &p, c, &pages.keys);
    check_foreign_block(run, "values", &p, c, &pages.values);
    free(whole);
    free(none);
    free(past_start);
    free(in.v);
    free(in.k);
    free(in.q);
    free(p.tables);
    free(p.whole);
    free(p.past);
    free(p.start);
}
