/*
 * Each operation by itself, many times, on the tensors of a model's layer: one sequence of the size's length, or the rows of
 * a decoding pass. Inputs stay what they are, but for sums that grow by the same each time. Those that memory could bound
 * take turns among PARTS sets of rows, so that no cache of a GPU has what a call reads.
 */
#include <stdlib.h>

#include "bench/works.h"
#include "core/base/memory.h"

enum { LOGIT_ROWS = 256, MANY = 64, CALLS_TOGETHER = 128, PARTS = 4 };
#define LEAST_SECONDS 0.05

typedef struct operations {
    int64_t tokens, positions;  /* of the sequence; cached before a decoding pass */
    int64_t turn;               /* counts calls: whose rows come next */
    ht_tensor x, y, dy;         /* [PARTS tokens, dim] */
    ht_tensor qkv, dqkv;        /* [tokens, 3 dim], [PARTS tokens, 3 dim] */
    ht_tensor gate_up, dgate_up, ffn; /* [PARTS tokens, 2 ffn] twice, [PARTS tokens, ffn] */
    ht_tensor gain, dgain;      /* [1, dim], f32 [1, dim] */
    ht_tensor w_up, w_head;     /* [2 ffn, dim], [vocab, dim] */
    uint16_t *w_low;            /* of w_up, where that is bf16 */
    ht_tensor dw_up, dw_head;   /* f32 */
    ht_tensor logits, dlogits;  /* [PARTS LOGIT_ROWS, vocab], f32 and the dtype */
    ht_tensor rope;             /* f32 [tokens, head_dim] */
    float *m, *v, *rstd, *lse, *weight, *logp;
    int32_t *ids, *order, *seq_start, *starts, *past, *tables; /* backend; of one sequence, then of MANY */
    int32_t seq_start_host[2], *starts_host, *past_host, *tables_host;
    ht_sampling *settings; /* [LOGIT_ROWS] */
    ht_kv_pages pages;
    int64_t max_blocks;
} operations;

/* --- setting up ------------------------------------------------------------------------------------------- */

static ht_status take(work *w, ht_tensor *t, ht_dtype dtype, int64_t rows, int64_t cols, double deviation, ht_error *err) {
    ht_status status = HT_OK;
    void *data = NULL;
    HT_TRY(ht_arena_take(&w->arena, HT_MEMORY_WORKSPACE, (size_t)(rows * cols) * ht_dtype_size(dtype), &data, err));
    *t = ht_tensor_of(data, dtype, rows, cols);
    HT_TRY(work_randomize(w, data, dtype, rows * cols, deviation, err));
done:
    return status;
}

static ht_status take_floats(work *w, float **to, int64_t n, double deviation, ht_error *err) {
    ht_tensor t;
    ht_status status = take(w, &t, HT_F32, 1, n, deviation, err);
    *to = t.data;
    return status;
}

static ht_status upload_ints(work *w, int32_t **to, const int32_t *host, int64_t n, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_arena_take(&w->arena, HT_MEMORY_WORKSPACE, (size_t)n * sizeof **to, to, err));
    HT_TRY(ht_upload(w->be, *to, host, (size_t)n * sizeof **to, err));
done:
    return status;
}

static ht_status take_tensors(work *w, operations *o, ht_error *err) {
    ht_status status = HT_OK;
    const ht_llama_config *c = &w->config;
    ht_dtype dtype = ht_backend_dtype(w->be);
    int64_t t = o->tokens, rows = PARTS * t, wide = 2 * c->ffn_dim;
    HT_TRY(take(w, &o->x, dtype, rows, c->dim, 1, err));
    HT_TRY(take(w, &o->y, dtype, rows, c->dim, 1, err));
    HT_TRY(take(w, &o->dy, dtype, rows, c->dim, 1e-3, err));
    HT_TRY(take(w, &o->qkv, dtype, t, 3 * c->dim, 1, err));
    HT_TRY(take(w, &o->dqkv, dtype, rows, 3 * c->dim, 1, err));
    HT_TRY(take(w, &o->gate_up, dtype, rows, wide, 1, err));
    HT_TRY(take(w, &o->dgate_up, dtype, rows, wide, 1, err));
    HT_TRY(take(w, &o->ffn, dtype, rows, c->ffn_dim, 1, err));
    HT_TRY(take(w, &o->gain, dtype, 1, c->dim, 1, err));
    HT_TRY(take(w, &o->dgain, HT_F32, 1, c->dim, 1, err));
    HT_TRY(take(w, &o->w_up, dtype, wide, c->dim, 0.02, err));
    HT_TRY(take(w, &o->w_head, dtype, c->vocab_size, c->dim, 0.02, err));
    HT_TRY(take(w, &o->dw_up, HT_F32, wide, c->dim, 1e-3, err));
    HT_TRY(take(w, &o->dw_head, HT_F32, c->vocab_size, c->dim, 1e-3, err));
    HT_TRY(take(w, &o->logits, HT_F32, PARTS * LOGIT_ROWS, c->vocab_size, 2, err));
    HT_TRY(take(w, &o->dlogits, dtype, PARTS * LOGIT_ROWS, c->vocab_size, 1, err));
    HT_TRY(take(w, &o->rope, HT_F32, t, c->head_dim, 0, err)); /* by the angle 0, so that lengths stay as they are */
    HT_TRY(ht_arena_take(&w->arena, HT_MEMORY_WORKSPACE, (size_t)(wide * c->dim) * sizeof *o->w_low, &o->w_low, err));
    HT_TRY(take_floats(w, &o->m, wide * c->dim, 1e-3, err));
    HT_TRY(take_floats(w, &o->v, wide * c->dim, 0, err));
    HT_TRY(take_floats(w, &o->rstd, t, 1, err));
    HT_TRY(take_floats(w, &o->lse, t * c->n_heads, 1, err));
    HT_TRY(take_floats(w, &o->weight, LOGIT_ROWS, 1, err));
    HT_TRY(take_floats(w, &o->logp, LOGIT_ROWS, 1, err));
done:
    return status;
}

/* Ids of the sequence's tokens, an order of its rows, and sequences of one row each over a cache that is half full. */
static ht_status take_batch(work *w, operations *o, ht_error *err) {
    enum { BLOCK = 16 };
    ht_status status = HT_OK;
    const ht_llama_config *c = &w->config;
    int64_t t = o->tokens;
    int32_t *host = NULL;
    o->max_blocks = t / BLOCK;
    o->positions = t / 2;
    o->seq_start_host[1] = (int32_t)t;
    HT_TRY(ht_calloc(&host, (size_t)t, sizeof *host, err));
    for (int64_t i = 0; i < t; i++)
        host[i] = work_token(w, 5, i);
    HT_TRY(upload_ints(w, &o->ids, host, t, err));
    for (int64_t i = 0; i < t; i++)
        host[i] = (int32_t)(t - 1 - i);
    HT_TRY(upload_ints(w, &o->order, host, t, err));
    HT_TRY(upload_ints(w, &o->seq_start, o->seq_start_host, 2, err));
    HT_TRY(ht_calloc(&o->starts_host, MANY + 1, sizeof *o->starts_host, err));
    HT_TRY(ht_calloc(&o->past_host, MANY, sizeof *o->past_host, err));
    HT_TRY(ht_calloc(&o->tables_host, (size_t)(MANY * o->max_blocks), sizeof *o->tables_host, err));
    HT_TRY(ht_calloc(&o->settings, LOGIT_ROWS, sizeof *o->settings, err));
    for (int s = 0; s < MANY; s++) {
        o->starts_host[s + 1] = s + 1;
        o->past_host[s] = (int32_t)o->positions - 1;
    }
    for (int64_t i = 0; i < MANY * o->max_blocks; i++)
        o->tables_host[i] = (int32_t)i;
    for (int i = 0; i < LOGIT_ROWS; i++)
        o->settings[i] = (ht_sampling){.temperature = 1, .top_p = 1, .seed = 1, .stream = (uint64_t)i};
    HT_TRY(upload_ints(w, &o->starts, o->starts_host, MANY + 1, err));
    HT_TRY(upload_ints(w, &o->past, o->past_host, MANY, err));
    HT_TRY(upload_ints(w, &o->tables, o->tables_host, MANY * o->max_blocks, err));
    o->pages.block_size = BLOCK;
    int64_t rows = MANY * o->max_blocks * BLOCK, width = c->n_kv_heads * c->head_dim;
    HT_TRY(take(w, &o->pages.keys, ht_backend_dtype(w->be), rows, width, 1, err));
    HT_TRY(take(w, &o->pages.values, ht_backend_dtype(w->be), rows, width, 1, err));
done:
    free(host);
    return status;
}

static ht_status operations_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    operations *self = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    self->tokens = w->amount.length;
    HT_TRY(take_tensors(w, self, err));
    HT_TRY(take_batch(w, self, err));
done:
    return status;
}

static void operations_close(work *w) {
    operations *self = w->self;
    free(self->settings);
    free(self->tables_host);
    free(self->past_host);
    free(self->starts_host);
}

/* --- the calls -------------------------------------------------------------------------------------------- */

/* Of a tensor of so many sets of rows, the call's. */
static ht_tensor part(const operations *o, ht_tensor all) {
    int64_t rows = all.rows / PARTS;
    return ht_tensor_rows(all, o->turn % PARTS * rows, rows);
}

#define CALL(name) static ht_status name(work *w, operations *o, int64_t n, ht_error *err)

CALL(product_forward) {
    (void)n;
    ht_tensor y = part(o, o->gate_up), x = part(o, o->x);
    return ht_matmul_forward(w->be, &y, &x, &o->w_up, NULL, err);
}
CALL(product_backward_data) {
    (void)n;
    ht_tensor dx = part(o, o->y), dy = part(o, o->gate_up);
    return ht_matmul_backward_data(w->be, &dx, &dy, &o->w_up, err);
}
CALL(product_backward_weight) {
    (void)n;
    ht_tensor dy = part(o, o->gate_up), x = part(o, o->x);
    return ht_matmul_backward_weight(w->be, &o->dw_up, &dy, &x, err);
}
CALL(product_rows) {
    ht_tensor y = ht_tensor_rows(o->gate_up, 0, n), x = ht_tensor_rows(o->x, 0, n);
    return ht_matmul_rows(w->be, &y, &x, &o->w_up, NULL, err);
}

static ht_attention_shape sequence(const work *w, const operations *o) {
    const ht_llama_config *c = &w->config;
    return (ht_attention_shape){c->n_heads, c->n_kv_heads, c->head_dim, 1, o->seq_start, o->seq_start_host};
}
CALL(attention_forward) {
    (void)n;
    ht_attention_shape shape = sequence(w, o);
    int64_t dim = w->config.dim;
    ht_tensor q = ht_tensor_columns(o->qkv, 0, dim), k = ht_tensor_columns(o->qkv, dim, dim);
    ht_tensor v = ht_tensor_columns(o->qkv, 2 * dim, dim), out = part(o, o->y);
    return ht_attention_forward(w->be, &out, o->lse, &q, &k, &v, &shape, err);
}
CALL(attention_backward) {
    (void)n;
    ht_attention_shape shape = sequence(w, o);
    int64_t dim = w->config.dim;
    ht_tensor q = ht_tensor_columns(o->qkv, 0, dim), k = ht_tensor_columns(o->qkv, dim, dim);
    ht_tensor v = ht_tensor_columns(o->qkv, 2 * dim, dim), dqkv = part(o, o->dqkv), dq = ht_tensor_columns(dqkv, 0, dim);
    ht_tensor dk = ht_tensor_columns(dqkv, dim, dim), dv = ht_tensor_columns(dqkv, 2 * dim, dim);
    ht_tensor dout = part(o, o->dy), out = part(o, o->y);
    const ht_attention_backward_args args = {&dq, &dk, &dv, &dout, &q, &k, &v, &out, o->lse};
    return ht_attention_backward(w->be, &args, &shape, err);
}
CALL(attention_cached) {
    int64_t dim = w->config.dim, table = o->turn % (MANY - n + 1) * o->max_blocks; /* the first sequence's */
    const ht_cached_shape shape = {.heads = w->config.n_heads,
                                   .kv_heads = w->config.n_kv_heads,
                                   .head_dim = w->config.head_dim,
                                   .sequences = n,
                                   .seq_start = o->starts,
                                   .past = o->past,
                                   .block_tables = o->tables + table,
                                   .max_blocks = o->max_blocks,
                                   .seq_start_host = o->starts_host,
                                   .past_host = o->past_host,
                                   .block_tables_host = o->tables_host + table};
    ht_tensor rows = ht_tensor_rows(o->dqkv, 0, n), out = ht_tensor_rows(o->y, 0, n);
    ht_tensor q = ht_tensor_columns(rows, 0, dim), k = ht_tensor_columns(rows, dim, dim);
    ht_tensor v = ht_tensor_columns(rows, 2 * dim, dim);
    return ht_attention_cached(w->be, &out, &q, &k, &v, &o->pages, &shape, err);
}
CALL(embedding_forward) {
    (void)n;
    ht_tensor y = part(o, o->y);
    return ht_embedding_forward(w->be, &y, &o->w_head, o->ids, err);
}
CALL(embedding_backward) {
    (void)n;
    ht_tensor dy = part(o, o->dy);
    return ht_embedding_backward(w->be, &o->dw_head, &dy, o->ids, err);
}
CALL(norm_forward) {
    (void)n;
    ht_tensor y = part(o, o->y), x = part(o, o->x);
    return ht_rms_norm_forward(w->be, &y, o->rstd, &x, &o->gain, 1e-5f, err);
}
CALL(norm_backward) {
    (void)n;
    ht_tensor dx = part(o, o->y), dy = part(o, o->dy), x = part(o, o->x);
    return ht_rms_norm_backward(w->be, &dx, &o->dgain, &dy, &x, o->rstd, &o->gain, err);
}
CALL(rotation) {
    (void)n;
    ht_tensor q_and_k = ht_tensor_columns(part(o, o->dqkv), 0, 2 * w->config.dim);
    return ht_rope(w->be, &q_and_k, 2 * w->config.n_heads, w->config.head_dim, o->order, &o->rope, +1, err);
}
CALL(swiglu_forward) {
    (void)n;
    ht_tensor y = part(o, o->ffn), gate_up = part(o, o->gate_up);
    return ht_swiglu_forward(w->be, &y, &gate_up, err);
}
CALL(swiglu_backward) {
    (void)n;
    ht_tensor dgate_up = part(o, o->dgate_up), dy = part(o, o->ffn), gate_up = part(o, o->gate_up);
    return ht_swiglu_backward(w->be, &dgate_up, &dy, &gate_up, err);
}
CALL(token_loss) {
    const ht_token_loss loss = {.kind = HT_TOKEN_LOSS_NLL, .weight = o->weight};
    (void)n;
    ht_tensor logits = part(o, o->logits), dlogits = part(o, o->dlogits);
    return ht_token_loss_forward(w->be, &logits, &dlogits, o->ids, o->logp, NULL, &loss, err);
}
CALL(update) {
    const ht_adamw_args args = {.lr = 1e-5, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .grad_scale = 1, .step = 1};
    const ht_adamw_run run = {.dtype = o->w_up.dtype, .w = o->w_up.data, .low = o->w_up.dtype == HT_BF16 ? o->w_low : NULL,
                              .m = o->m, .v = o->v, .grad = o->dw_up.data, .n = n};
    return ht_adamw(w->be, &run, &args, err);
}
CALL(sum_squares) {
    double sum;
    return ht_sum_squares(w->be, o->dw_up.data, n, &sum, err);
}
CALL(sample) {
    int32_t tokens[LOGIT_ROWS];
    float logp[LOGIT_ROWS];
    ht_tensor rows = ht_tensor_rows(part(o, o->logits), 0, n);
    return ht_sample(w->be, &rows, o->settings, tokens, logp, err);
}
CALL(gather) {
    (void)n;
    ht_tensor y = part(o, o->y), x = part(o, o->x);
    return ht_gather_rows(w->be, &y, &x, o->order, err);
}
CALL(copy) {
    (void)n;
    ht_tensor y = part(o, o->y), x = part(o, o->x);
    return ht_copy(w->be, &y, &x, err);
}

/* --- measuring -------------------------------------------------------------------------------------------- */

/* n: rows or sequences of a decoding pass, or elements; 0: the call's own. */
typedef struct entry {
    const char *name;
    ht_operation operation;
    ht_status (*call)(work *w, operations *o, int64_t n, ht_error *err);
    int64_t n;
} entry;

static ht_status measure(work *w, const entry *e, ht_error *err) {
    ht_status status = HT_OK;
    operations *o = w->self;
    const ht_profile *p = ht_backend_profile(w->be);
    const ht_profile_line *line = &p->lines[e->operation];
    int64_t n = e->n ? e->n : o->dw_up.rows * o->dw_up.cols;
    HT_TRY(e->call(w, o, n, err)); /* the first time sets things up */
    const ht_profile_line before = *line;
    while (line->seconds - before.seconds < LEAST_SECONDS) {
        HT_TRY(ht_profile_together(w->be, err));
        for (int i = 0; i < CALLS_TOGETHER; i++, o->turn++)
            HT_TRY(e->call(w, o, n, err));
        HT_TRY(ht_profile_apart(w->be, e->operation, err));
    }
    const ht_profile_line sum = {line->calls - before.calls, line->seconds - before.seconds, line->least - before.least,
                                 line->flop - before.flop, line->bytes - before.bytes};
    work_print_operation(e->name, e->operation, &sum, p, 0);
done:
    return status;
}

static ht_status operations_profile(work *w, ht_error *err) {
    static const entry entries[] = {
        {"product, forward", HT_OPERATION_MATMUL_FORWARD, product_forward, 0},
        {"product, backward data", HT_OPERATION_MATMUL_BACKWARD_DATA, product_backward_data, 0},
        {"product, backward weight", HT_OPERATION_MATMUL_BACKWARD_WEIGHT, product_backward_weight, 0},
        {"product, 1 row", HT_OPERATION_MATMUL_ROWS, product_rows, 1},
        {"product, 64 rows", HT_OPERATION_MATMUL_ROWS, product_rows, 64},
        {"product, 256 rows", HT_OPERATION_MATMUL_ROWS, product_rows, 256},
        {"attention, forward", HT_OPERATION_ATTENTION_FORWARD, attention_forward, 0},
        {"attention, backward", HT_OPERATION_ATTENTION_BACKWARD, attention_backward, 0},
        {"attention, cached, 1 sequence", HT_OPERATION_ATTENTION_CACHED, attention_cached, 1},
        {"attention, cached, 64 sequences", HT_OPERATION_ATTENTION_CACHED, attention_cached, MANY},
        {"embedding, forward", HT_OPERATION_EMBEDDING_FORWARD, embedding_forward, 0},
        {"embedding, backward", HT_OPERATION_EMBEDDING_BACKWARD, embedding_backward, 0},
        {"norm, forward", HT_OPERATION_RMS_NORM_FORWARD, norm_forward, 0},
        {"norm, backward", HT_OPERATION_RMS_NORM_BACKWARD, norm_backward, 0},
        {"rotary position", HT_OPERATION_ROPE, rotation, 0},
        {"swiglu, forward", HT_OPERATION_SWIGLU_FORWARD, swiglu_forward, 0},
        {"swiglu, backward", HT_OPERATION_SWIGLU_BACKWARD, swiglu_backward, 0},
        {"token loss", HT_OPERATION_TOKEN_LOSS, token_loss, 0},
        {"adamw", HT_OPERATION_ADAMW, update, 0},
        {"norm of gradients", HT_OPERATION_SUM_SQUARES, sum_squares, 0},
        {"sample, 1 row", HT_OPERATION_SAMPLE, sample, 1},
        {"sample, 256 rows", HT_OPERATION_SAMPLE, sample, LOGIT_ROWS},
        {"gather rows", HT_OPERATION_GATHER_ROWS, gather, 0},
        {"copy", HT_OPERATION_COPY, copy, 0},
    };
    ht_status status = HT_OK;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        HT_TRY(measure(w, &entries[i], err));
done:
    return status;
}

const work_kind work_operations = {"operations", operations_open, NULL, NULL, operations_close, operations_profile};
