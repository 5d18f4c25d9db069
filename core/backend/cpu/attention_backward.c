/*
 * Attention on the CPU, backward.  Contract: backend.h.
 *
 * One task is a key/value head of a sequence with all the query heads that read it: its dk and dv are its own, so nothing is
 * added across threads. Scores are computed again from q, k and the kept log-sum-exp, tile by tile; tiles above the diagonal
 * are skipped.   Source of the formulas: Dao et al. 2022, appendix B.
 */
#include <math.h>
#include <omp.h>

#include "core/backend/cpu/attention.h"
#include "core/backend/cpu/exp.h"

/* Scratch of one task; n is the longest sequence. */
typedef struct task_memory {
    float *q, *dout, *dq, *dk, *dv; /* [n, padded]; q is scaled by 1/sqrt(D) */
    float *delta, *lse;             /* [n] */
    float *keys_t, *values_t;       /* [padded, HT_TILE_KEYS], turned */
    float *keys, *values;           /* [HT_TILE_KEYS, padded] */
    float *p, *dp;                  /* [HT_TILE_ROWS, HT_TILE_KEYS] */
} task_memory;

static size_t memory_bytes(int64_t n, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(n);
    return (size_t)(rows * (5 * padded + 2) + 4 * padded * HT_TILE_KEYS + 2 * HT_TILE_ROWS * HT_TILE_KEYS) *
           sizeof(float);
}

static task_memory memory_place(float *next, int64_t n, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(n);
    task_memory m;
    m.q = next, next += rows * padded;
    m.dout = next, next += rows * padded;
    m.dq = next, next += rows * padded;
    m.dk = next, next += rows * padded;
    m.dv = next, next += rows * padded;
    m.keys_t = next, next += padded * HT_TILE_KEYS;
    m.values_t = next, next += padded * HT_TILE_KEYS;
    m.keys = next, next += HT_TILE_KEYS * padded;
    m.values = next, next += HT_TILE_KEYS * padded;
    m.p = next, next += HT_TILE_ROWS * HT_TILE_KEYS;
    m.dp = next, next += HT_TILE_ROWS * HT_TILE_KEYS;
    m.delta = next, next += rows;
    m.lse = next;
    return m;
}

/* One query head of one sequence. */
typedef struct head_view {
    const ht_attention_backward_args *args;
    int64_t start, head, kv_head, heads, width;
} head_view;

/* The head's rows into scratch: scaled q, dout, lse, and delta = out . dout. */
static void load_head(task_memory *m, const head_view *view, int64_t n) {
    int64_t width = view->width, padded = ht_padded(width), column = view->head * width;
    float scale = 1.0f / sqrtf((float)width);
    for (int64_t t = 0; t < n; t++) {
        float *q = m->q + t * padded, *dout = m->dout + t * padded, *out = m->dq + t * padded, dot = 0;
        ht_load_row(q, view->args->q, view->start + t, column, width, padded, scale);
        ht_load_row(dout, view->args->dout, view->start + t, column, width, padded, 1.0f);
        ht_load_row(out, view->args->out, view->start + t, column, width, padded, 1.0f);
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < padded; d++)
            dot += out[d] * dout[d];
        memset(out, 0, (size_t)padded * sizeof *out); /* dq begins here */
        m->delta[t] = dot;
        m->lse[t] = view->args->lse[(view->start + t) * view->heads + view->head];
    }
}

/* One tile: rows [row, row + rows) against keys [key, key + n). p becomes the softmax, dp the scores' gradient. */
static void tile_gradient(task_memory *m, int64_t row, int64_t rows, int64_t key, int64_t n, int64_t width) {
    int64_t padded = ht_padded(width), padded_keys = ht_padded(n);
    size_t bytes = (size_t)(rows * HT_TILE_KEYS) * sizeof(float);
    memset(m->p, 0, bytes);
    memset(m->dp, 0, bytes);
    ht_tile_product(m->p, HT_TILE_KEYS, (ht_tile_left){m->q + row * padded, padded, 1}, m->keys_t, HT_TILE_KEYS, 0,
                    rows, padded_keys, width);
    ht_tile_product(m->dp, HT_TILE_KEYS, (ht_tile_left){m->dout + row * padded, padded, 1}, m->values_t, HT_TILE_KEYS,
                    0, rows, padded_keys, width);
    for (int64_t i = 0; i < rows; i++) {
        float *p = m->p + i * HT_TILE_KEYS, *dp = m->dp + i * HT_TILE_KEYS;
        float lse = m->lse[row + i], delta = m->delta[row + i];
        int64_t seen = row + i + 1 - key;
        seen = seen > n ? n : seen < 0 ? 0 : seen;
#pragma omp simd
        for (int64_t j = 0; j < seen; j++) {
            p[j] = ht_expf(p[j] - lse);
            dp[j] = p[j] * (dp[j] - delta);
        }
        memset(p + seen, 0, (size_t)(HT_TILE_KEYS - seen) * sizeof(float));
        memset(dp + seen, 0, (size_t)(HT_TILE_KEYS - seen) * sizeof(float));
    }
    ht_tile_product(m->dv + key * padded, padded, (ht_tile_left){m->p, 1, HT_TILE_KEYS}, m->dout + row * padded, padded,
                    0, n, padded, rows);
    ht_tile_product(m->dk + key * padded, padded, (ht_tile_left){m->dp, 1, HT_TILE_KEYS}, m->q + row * padded, padded,
                    0, n, padded, rows);
    ht_tile_product(m->dq + row * padded, padded, (ht_tile_left){m->dp, HT_TILE_KEYS, 1}, m->keys, padded, 0,
                    rows, padded, n);
}

/* A query head: adds to dk and dv, writes its columns of dq. */
static void run_head(task_memory *m, const head_view *view, int64_t n) {
    int64_t width = view->width, padded = ht_padded(width), kv_column = view->kv_head * width;
    const ht_tensor *k = view->args->k, *v = view->args->v;
    load_head(m, view, n);
    for (int64_t key = 0; key < n; key += HT_TILE_KEYS) {
        int64_t count = n - key < HT_TILE_KEYS ? n - key : HT_TILE_KEYS;
        ht_load_tile(m->keys, k, view->start + key, count, kv_column, width, padded);
        ht_turn_tile(m->keys_t, m->keys, count, padded);
        ht_load_tile(m->values, v, view->start + key, count, kv_column, width, padded);
        ht_turn_tile(m->values_t, m->values, count, padded);
        for (int64_t row = key; row < n; row += HT_TILE_ROWS) {
            int64_t rows = n - row < HT_TILE_ROWS ? n - row : HT_TILE_ROWS;
            tile_gradient(m, row, rows, key, count, width);
        }
    }
    float scale = 1.0f / sqrtf((float)width);
    for (int64_t t = 0; t < n; t++)
        ht_store_row(view->args->dq, view->start + t, view->head * width, m->dq + t * padded, width, scale);
}

static void run_task(task_memory *m, const ht_attention_backward_args *args, const ht_attention_shape *shape,
                     int64_t sequence, int64_t kv_head) {
    int64_t start = shape->seq_start_host[sequence], n = shape->seq_start_host[sequence + 1] - start;
    int64_t width = shape->head_dim, padded = ht_padded(width), group = shape->heads / shape->kv_heads;
    memset(m->dk, 0, (size_t)(n * padded) * sizeof(float));
    memset(m->dv, 0, (size_t)(n * padded) * sizeof(float));
    for (int64_t g = 0; g < group; g++) {
        head_view view = {args, start, kv_head * group + g, kv_head, shape->heads, width};
        run_head(m, &view, n);
    }
    for (int64_t t = 0; t < n; t++) {
        ht_store_row(args->dk, start + t, kv_head * width, m->dk + t * padded, width, 1.0f);
        ht_store_row(args->dv, start + t, kv_head * width, m->dv + t * padded, width, 1.0f);
    }
}

ht_status HT_CPU(attention_backward)(ht_backend *be, const ht_attention_backward_args *args,
                                     const ht_attention_shape *shape, ht_error *err) {
    int64_t longest = 0;
    for (int64_t s = 0; s < shape->sequences; s++) {
        int64_t n = shape->seq_start_host[s + 1] - shape->seq_start_host[s];
        longest = n > longest ? n : longest;
    }
    ht_status status = ht_cpu_scratch_all(be, memory_bytes(longest, shape->head_dim), err);
    if (status) return status;
#pragma omp parallel num_threads(be->threads)
    {
        task_memory m = memory_place(ht_cpu_scratch(be, omp_get_thread_num()), longest, shape->head_dim);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < shape->sequences * shape->kv_heads; task++)
            run_task(&m, args, shape, task / shape->kv_heads, task % shape->kv_heads);
    }
    return HT_OK;
}
