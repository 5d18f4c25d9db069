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

/* Scratch of one task; n is the longest sequence. What is turned has a row a column of the head. */
typedef struct task_memory {
    ht_tile_mode mode;
    int64_t width, padded;          /* head width, and rounded up to whole vectors */
    int64_t units, stride;          /* of a row, and rounded up */
    int64_t turned;                 /* elements of a turned row: n rounded up, and not a multiple of 4 KiB */
    float scale;                    /* 1/sqrt(D) */
    float *q, *dout;                /* [n, stride] units */
    float *q_turned, *dout_turned;  /* [padded, turned] units for sums over rows */
    float *dq;                      /* [n, padded] */
    float *dk_turned, *dv_turned;   /* [padded, turned] */
    float *delta, *lse;             /* [n] */
    float *keys_turned, *values_turned; /* [stride, HT_TILE_KEYS] */
    float *keys_across;             /* [HT_TILE_KEYS, padded] units */
    float *tile;                    /* [HT_TILE_KEYS, padded] */
    float *p, *dp;                  /* [HT_TILE_ROWS, HT_TILE_KEYS] */
    float *p_across, *dp_across;    /* the same, as units for sums over rows: for f32 the same place */
    float *dp_rows;                 /* and over keys */
} task_memory;

static int64_t tile_rows(int64_t n) {
    return (n + HT_TILE_ROWS - 1) / HT_TILE_ROWS * HT_TILE_ROWS;
}

static size_t memory_bytes(int64_t n, int64_t width) {
    int64_t padded = ht_padded(width), rows = tile_rows(n);
    return (size_t)(rows * (3 * padded + 2) + 4 * padded * (rows + HT_LANES) + 4 * padded * HT_TILE_KEYS +
                    5 * HT_TILE_ROWS * HT_TILE_KEYS) *
           sizeof(float);
}

static task_memory memory_place(float *next, int64_t n, int64_t width, ht_tile_mode mode) {
    enum { TILE = HT_TILE_ROWS * HT_TILE_KEYS };
    int64_t padded = ht_padded(width), rows = tile_rows(n), units = ht_units(mode.pairs, width);
    task_memory m = {.mode = mode,
                     .width = width,
                     .padded = padded,
                     .units = units,
                     .stride = ht_padded(units),
                     .turned = rows + HT_LANES,
                     .scale = 1.0f / sqrtf((float)width)};
    m.q = next, next += rows * padded;
    m.dout = next, next += rows * padded;
    m.q_turned = next, next += padded * m.turned;
    m.dout_turned = next, next += padded * m.turned;
    m.dq = next, next += rows * padded;
    m.dk_turned = next, next += padded * m.turned;
    m.dv_turned = next, next += padded * m.turned;
    m.keys_turned = next, next += padded * HT_TILE_KEYS;
    m.values_turned = next, next += padded * HT_TILE_KEYS;
    m.keys_across = next, next += HT_TILE_KEYS * padded;
    m.tile = next, next += HT_TILE_KEYS * padded;
    m.p = next, next += TILE;
    m.dp = next, next += TILE;
    m.p_across = mode.pairs ? next : m.p, next += TILE;
    m.dp_across = mode.pairs ? next : m.dp, next += TILE;
    m.dp_rows = mode.pairs ? next : m.dp, next += TILE;
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

/* The transpose of a 16 x 16 block. */
static void turn_block(float *to, int64_t to_stride, const float *from, int64_t from_stride) {
    ht_lanes block[HT_LANES];
    for (int i = 0; i < HT_LANES; i++)
        block[i] = *(const ht_lanes *)(from + i * from_stride);
    ht_transpose(block);
    for (int i = 0; i < HT_LANES; i++)
        *(ht_lanes *)(to + i * to_stride) = block[i];
}

/* turned[d] = the units for sums over rows of column d, zero beyond n rows up to the end of a tile. */
static void load_turned(const task_memory *m, float *turned, const ht_tensor *t, int64_t start, int64_t n, int64_t col) {
    int pairs = m->mode.pairs;
    int64_t block_rows = pairs ? 2 * HT_LANES : HT_LANES, end = tile_rows(n);
    for (int64_t row = 0; row < end; row += block_rows) {
        int64_t rows = n - row < block_rows ? n - row : block_rows;
        rows = rows < 0 ? 0 : rows;
        ht_load_across(pairs, m->tile, m->padded, HT_LANES, t, start + row, rows, col, m->width);
        for (int64_t d = 0; d < m->padded; d += HT_LANES)
            turn_block(turned + d * m->turned + ht_units(pairs, row), m->turned, m->tile + d, m->padded);
    }
}

static void load_head(const task_memory *m, const head_view *view, int64_t n) {
    const ht_tensor *q = view->args->q, *dout = view->args->dout;
    int64_t column = view->head * view->width, start = view->start;
    ht_load_rows(m->mode.pairs, m->q, m->stride, q, start, n, column, m->width);
    ht_load_rows(m->mode.pairs, m->dout, m->stride, dout, start, n, column, m->width);
    load_turned(m, m->q_turned, q, start, n, column);
    load_turned(m, m->dout_turned, dout, start, n, column);
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

/* The tile's p and dp as pairs of bf16; an even number of rows. */
static void pair_up(const task_memory *m, int64_t rows) {
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
    ht_tile_mode mode = m->mode;
    int64_t keys = ht_padded(n), padded = m->padded, at = ht_units(mode.pairs, row), units = ht_tile_depth(mode, m->units);
    int64_t row_units = ht_tile_depth(mode, ht_units(mode.pairs, rows)), filled = mode.pairs ? 2 * row_units : rows;
    ht_tile_product(mode, (ht_tile_out){m->p, HT_TILE_KEYS, 1}, (ht_tile_left){m->q + row * m->stride, m->stride},
                    m->keys_turned, HT_TILE_KEYS, rows, keys, units);
    ht_tile_product(mode, (ht_tile_out){m->dp, HT_TILE_KEYS, 1}, (ht_tile_left){m->dout + row * m->stride, m->stride},
                    m->values_turned, HT_TILE_KEYS, rows, keys, units);
    for (int64_t i = 0; i < rows; i++) {
        int64_t seen = row + i + 1 - key;
        row_gradient(m, m->p + i * HT_TILE_KEYS, m->dp + i * HT_TILE_KEYS, seen > n ? n : seen, m->lse[row + i],
                     m->delta[row + i]);
    }
    memset(m->p + rows * HT_TILE_KEYS, 0, (size_t)((filled - rows) * HT_TILE_KEYS) * sizeof *m->p);
    memset(m->dp + rows * HT_TILE_KEYS, 0, (size_t)((filled - rows) * HT_TILE_KEYS) * sizeof *m->dp);
    if (mode.pairs) pair_up(m, filled);
    ht_tile_product(mode, (ht_tile_out){m->dv_turned + key, m->turned, 0}, (ht_tile_left){m->dout_turned + at, m->turned},
                    m->p_across, HT_TILE_KEYS, padded, keys, row_units);
    ht_tile_product(mode, (ht_tile_out){m->dk_turned + key, m->turned, 0}, (ht_tile_left){m->q_turned + at, m->turned},
                    m->dp_across, HT_TILE_KEYS, padded, keys, row_units);
    ht_tile_product(mode, (ht_tile_out){m->dq + row * padded, padded, 0}, (ht_tile_left){m->dp_rows, HT_TILE_KEYS},
                    m->keys_across, padded, rows, padded, ht_tile_depth(mode, ht_units(mode.pairs, n)));
}

/* A query head: adds to dk and dv, writes its columns of dq. */
static void run_head(task_memory *m, const head_view *view, int64_t n) {
    int64_t kv_column = view->kv_head * m->width;
    const ht_tensor *k = view->args->k, *v = view->args->v;
    load_head(m, view, n);
    for (int64_t key = 0; key < n; key += HT_TILE_KEYS) {
        int64_t count = n - key < HT_TILE_KEYS ? n - key : HT_TILE_KEYS;
        int64_t depth = ht_tile_depth(m->mode, ht_units(m->mode.pairs, count));
        ht_load_rows(m->mode.pairs, m->tile, m->stride, k, view->start + key, count, kv_column, m->width);
        ht_turn_tile(m->keys_turned, m->tile, count, m->stride);
        ht_load_rows(m->mode.pairs, m->tile, m->stride, v, view->start + key, count, kv_column, m->width);
        ht_turn_tile(m->values_turned, m->tile, count, m->stride);
        ht_load_across(m->mode.pairs, m->keys_across, m->padded, depth, k, view->start + key, count, kv_column, m->width);
        for (int64_t row = key; row < n; row += HT_TILE_ROWS) {
            int64_t rows = n - row < HT_TILE_ROWS ? n - row : HT_TILE_ROWS;
            tile_gradient(m, row, rows, key, count);
        }
    }
    for (int64_t t = 0; t < n; t++)
        ht_store_row(view->args->dq, view->start + t, view->head * m->width, m->dq + t * m->padded, m->width, m->scale);
}

/* Columns of a head's gradient back to rows of `to`. */
static void store_turned(const task_memory *m, const ht_tensor *to, int64_t start, int64_t n, int64_t col,
                         const float *turned, float scale) {
    for (int64_t row = 0; row < n; row += HT_LANES) {
        for (int64_t d = 0; d < m->padded; d += HT_LANES)
            turn_block(m->tile + d, m->padded, turned + d * m->turned + row, m->turned);
        for (int64_t i = 0; i < HT_LANES && row + i < n; i++)
            ht_store_row(to, start + row + i, col, m->tile + i * m->padded, m->width, scale);
    }
}

static void run_task(task_memory *m, const ht_attention_backward_args *args, const ht_attention_shape *shape,
                     int64_t sequence, int64_t kv_head) {
    int64_t start = shape->seq_start_host[sequence], n = shape->seq_start_host[sequence + 1] - start;
    int64_t width = shape->head_dim, group = shape->heads / shape->kv_heads;
    memset(m->dk_turned, 0, (size_t)(m->padded * m->turned) * sizeof(float));
    memset(m->dv_turned, 0, (size_t)(m->padded * m->turned) * sizeof(float));
    for (int64_t g = 0; g < group; g++) {
        head_view view = {args, start, kv_head * group + g, kv_head, shape->heads, width};
        run_head(m, &view, n);
    }
    store_turned(m, args->dk, start, n, kv_head * width, m->dk_turned, m->scale);
    store_turned(m, args->dv, start, n, kv_head * width, m->dv_turned, 1.0f);
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
        ht_tile_mode mode = ht_tile_begin(args->q->dtype == HT_BF16, HT_LANES, HT_LANES);
        task_memory m = memory_place(ht_cpu_scratch(be, omp_get_thread_num()), longest, shape->head_dim, mode);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < shape->sequences * shape->kv_heads; task++)
            run_task(&m, args, shape, task / shape->kv_heads, task % shape->kv_heads);
        ht_tile_end(mode);
    }
    return HT_OK;
}
