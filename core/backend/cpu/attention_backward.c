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

/* Scratch of one task; n is the longest sequence. */
typedef struct task_memory {
    int pairs;                      /* units are pairs of bf16 */
    int64_t width, padded;          /* head width, and rounded up to whole vectors */
    int64_t units, stride;          /* of a row, and rounded up */
    float scale;                    /* 1/sqrt(D) */
    float *q, *dout;                /* [n, stride] units */
    float *q_across, *dout_across;  /* [n, padded] units for sums over rows */
    float *dq, *dk, *dv;            /* [n, padded] */
    float *delta, *lse;             /* [n] */
    float *keys_turned, *values_turned; /* [stride, HT_TILE_KEYS] */
    float *keys_across;             /* [HT_TILE_KEYS, padded] units */
    float *tile;                    /* [HT_TILE_KEYS, padded] */
    float *p, *dp;                  /* [HT_TILE_ROWS, HT_TILE_KEYS] */
    float *p_across, *dp_across;    /* the same, as units for sums over rows: for f32 the same place */
    float *dp_rows;                 /* and over keys */
} task_memory;

static size_t memory_bytes(int64_t n, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(n);
    return (size_t)(rows * (7 * padded + 2) + 4 * padded * HT_TILE_KEYS + 5 * HT_TILE_ROWS * HT_TILE_KEYS) *
           sizeof(float);
}

static task_memory memory_place(float *next, int64_t n, int64_t width, int pairs) {
    enum { TILE = HT_TILE_ROWS * HT_TILE_KEYS };
    int64_t padded = ht_padded(width), rows = ht_padded(n), units = ht_units(pairs, width);
    task_memory m = {.pairs = pairs,
                     .width = width,
                     .padded = padded,
                     .units = units,
                     .stride = ht_padded(units),
                     .scale = 1.0f / sqrtf((float)width)};
    m.q = next, next += rows * padded;
    m.dout = next, next += rows * padded;
    m.q_across = next, next += rows * padded;
    m.dout_across = next, next += rows * padded;
    m.dq = next, next += rows * padded;
    m.dk = next, next += rows * padded;
    m.dv = next, next += rows * padded;
    m.keys_turned = next, next += padded * HT_TILE_KEYS;
    m.values_turned = next, next += padded * HT_TILE_KEYS;
    m.keys_across = next, next += HT_TILE_KEYS * padded;
    m.tile = next, next += HT_TILE_KEYS * padded;
    m.p = next, next += TILE;
    m.dp = next, next += TILE;
    m.p_across = pairs ? next : m.p, next += TILE;
    m.dp_across = pairs ? next : m.dp, next += TILE;
    m.dp_rows = pairs ? next : m.dp, next += TILE;
    m.delta = next, next += rows;
    m.lse = next;
    return m;
}

/* One query head of one sequence. */
typedef struct head_view {
    const ht_attention_backward_args *args;
    int64_t start, head, kv_head, heads, width;
} head_view;

/* out . dout of a row. */
static float row_delta(const head_view *view, int64_t row, int64_t column) {
    float out_buffer[HT_PIECE], dout_buffer[HT_PIECE], dot = 0;
    for (int64_t d = 0, n; d < view->width; d += n) {
        n = ht_piece(view->width, d);
        const float *out = ht_read(view->args->out, row, column + d, n, out_buffer);
        const float *dout = ht_read(view->args->dout, row, column + d, n, dout_buffer);
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < n; i++)
            dot += out[i] * dout[i];
    }
    return dot;
}

static void load_head(task_memory *m, const head_view *view, int64_t n) {
    const ht_tensor *q = view->args->q, *dout = view->args->dout;
    int64_t column = view->head * view->width, start = view->start;
    ht_load_rows(m->pairs, m->q, m->stride, q, start, n, column, m->width);
    ht_load_rows(m->pairs, m->dout, m->stride, dout, start, n, column, m->width);
    ht_load_across(m->pairs, m->q_across, m->padded, q, start, n, column, m->width);
    ht_load_across(m->pairs, m->dout_across, m->padded, dout, start, n, column, m->width);
    memset(m->dq, 0, (size_t)(n * m->padded) * sizeof *m->dq);
    for (int64_t t = 0; t < n; t++) {
        m->delta[t] = row_delta(view, start + t, column);
        m->lse[t] = view->args->lse[(start + t) * view->heads + view->head];
    }
}

/* One row of a tile: scores become the softmax, dp the scores' gradient; only the first `seen` keys are visible. */
static void row_gradient(const task_memory *m, float *p, float *dp, int64_t seen, float lse, float delta) {
    for (int64_t j = seen < 0 ? 0 : seen; j < HT_TILE_KEYS; j++) {
        p[j] = -INFINITY;
        dp[j] = 0;
    }
#pragma GCC unroll 4
    for (int v = 0; v < HT_TILE_KEYS; v += HT_LANES) {
        ht_lanes e = ht_exp_lanes(*(const ht_lanes *)(p + v) * m->scale - lse);
        *(ht_lanes *)(p + v) = e;
        *(ht_lanes *)(dp + v) = e * (*(const ht_lanes *)(dp + v) - delta);
    }
}

/* The tile's p and dp as pairs of bf16. */
static void pair_up(const task_memory *m, int64_t rows) {
    if (rows % 2) {
        memset(m->p + rows * HT_TILE_KEYS, 0, HT_TILE_KEYS * sizeof *m->p);
        memset(m->dp + rows * HT_TILE_KEYS, 0, HT_TILE_KEYS * sizeof *m->dp);
    }
    for (int64_t i = 0; i < rows; i += 2) {
        const float *p = m->p + i * HT_TILE_KEYS, *dp = m->dp + i * HT_TILE_KEYS;
        float *p_to = m->p_across + i / 2 * HT_TILE_KEYS, *dp_to = m->dp_across + i / 2 * HT_TILE_KEYS;
        for (int j = 0; j < HT_TILE_KEYS; j += HT_LANES) {
            *(ht_lanes *)(p_to + j) =
                ht_pair_up(*(const ht_lanes *)(p + j), *(const ht_lanes *)(p + HT_TILE_KEYS + j));
            *(ht_lanes *)(dp_to + j) =
                ht_pair_up(*(const ht_lanes *)(dp + j), *(const ht_lanes *)(dp + HT_TILE_KEYS + j));
        }
    }
    for (int64_t i = 0; i < rows; i++)
        ht_to_bf16((uint16_t *)(void *)(m->dp_rows + i * HT_TILE_KEYS), m->dp + i * HT_TILE_KEYS, HT_TILE_KEYS);
}

/* One tile: rows [row, row + rows) against keys [key, key + n). */
static void tile_gradient(task_memory *m, int64_t row, int64_t rows, int64_t key, int64_t n) {
    int64_t keys = ht_padded(n), padded = m->padded, row_units = ht_units(m->pairs, rows), at = ht_units(m->pairs, row);
    size_t bytes = (size_t)(rows * HT_TILE_KEYS) * sizeof(float);
    memset(m->p, 0, bytes);
    memset(m->dp, 0, bytes);
    ht_tile_product(m->pairs, m->p, HT_TILE_KEYS, (ht_tile_left){m->q + row * m->stride, m->stride, 1}, m->keys_turned,
                    HT_TILE_KEYS, rows, keys, m->units);
    ht_tile_product(m->pairs, m->dp, HT_TILE_KEYS, (ht_tile_left){m->dout + row * m->stride, m->stride, 1},
                    m->values_turned, HT_TILE_KEYS, rows, keys, m->units);
    for (int64_t i = 0; i < rows; i++) {
        int64_t seen = row + i + 1 - key;
        row_gradient(m, m->p + i * HT_TILE_KEYS, m->dp + i * HT_TILE_KEYS, seen > n ? n : seen, m->lse[row + i],
                     m->delta[row + i]);
    }
    if (m->pairs) pair_up(m, rows);
    ht_tile_product(m->pairs, m->dv + key * padded, padded, (ht_tile_left){m->p_across, 1, HT_TILE_KEYS},
                    m->dout_across + at * padded, padded, n, padded, row_units);
    ht_tile_product(m->pairs, m->dk + key * padded, padded, (ht_tile_left){m->dp_across, 1, HT_TILE_KEYS},
                    m->q_across + at * padded, padded, n, padded, row_units);
    ht_tile_product(m->pairs, m->dq + row * padded, padded, (ht_tile_left){m->dp_rows, HT_TILE_KEYS, 1}, m->keys_across,
                    padded, rows, padded, ht_units(m->pairs, n));
}

/* A query head: adds to dk and dv, writes its columns of dq. */
static void run_head(task_memory *m, const head_view *view, int64_t n) {
    int64_t kv_column = view->kv_head * m->width;
    const ht_tensor *k = view->args->k, *v = view->args->v;
    load_head(m, view, n);
    for (int64_t key = 0; key < n; key += HT_TILE_KEYS) {
        int64_t count = n - key < HT_TILE_KEYS ? n - key : HT_TILE_KEYS;
        ht_load_rows(m->pairs, m->tile, m->stride, k, view->start + key, count, kv_column, m->width);
        ht_turn_tile(m->keys_turned, m->tile, count, m->stride);
        ht_load_rows(m->pairs, m->tile, m->stride, v, view->start + key, count, kv_column, m->width);
        ht_turn_tile(m->values_turned, m->tile, count, m->stride);
        ht_load_across(m->pairs, m->keys_across, m->padded, k, view->start + key, count, kv_column, m->width);
        for (int64_t row = key; row < n; row += HT_TILE_ROWS) {
            int64_t rows = n - row < HT_TILE_ROWS ? n - row : HT_TILE_ROWS;
            tile_gradient(m, row, rows, key, count);
        }
    }
    for (int64_t t = 0; t < n; t++)
        ht_store_row(view->args->dq, view->start + t, view->head * m->width, m->dq + t * m->padded, m->width, m->scale);
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
        ht_store_row(args->dk, start + t, kv_head * width, m->dk + t * padded, width, m->scale);
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
        task_memory m = memory_place(ht_cpu_scratch(be, omp_get_thread_num()), longest, shape->head_dim,
                                     args->q->dtype == HT_BF16);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < shape->sequences * shape->kv_heads; task++)
            run_task(&m, args, shape, task / shape->kv_heads, task % shape->kv_heads);
    }
    return HT_OK;
}
