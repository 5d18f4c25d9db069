/*
 * Attention on the CPU, forward: packed sequences and the paged cache.  Contract: backend.h.
 *
 * One task is a block of rows of one key/value head: the query heads that share it are further rows of the block, so
 * keys are read once for all of them. Keys come in tiles of 64; scores, softmax and the weighted sum of values of one tile
 * stay in the cache (Flash-style running maximum), and tiles beyond the last visible key are never touched.
 * No [T, T] exists. A row's bits depend on its own sequence only.
 */
#include <math.h>
#include <omp.h>

#include "core/backend/cpu/attention.h"
#include "core/backend/cpu/exp.h"

void ht_load_transposed(float *tile, const ht_row_source *source, int64_t first, int64_t n, int64_t width) {
    int64_t padded = ht_padded(n);
    for (int64_t j = 0; j < n; j++) {
        const float *row = ht_source_row(source, first + j);
        for (int64_t d = 0; d < width; d++)
            tile[d * HT_TILE_KEYS + j] = row[d];
    }
    for (int64_t d = 0; d < width && n < padded; d++)
        memset(tile + d * HT_TILE_KEYS + n, 0, (size_t)(padded - n) * sizeof(float));
}

void ht_load_rows(float *tile, const ht_row_source *source, int64_t first, int64_t n, int64_t width,
                  int64_t padded_width) {
    for (int64_t j = 0; j < n; j++) {
        memcpy(tile + j * padded_width, ht_source_row(source, first + j), (size_t)width * sizeof(float));
        memset(tile + j * padded_width + width, 0, (size_t)(padded_width - width) * sizeof(float));
    }
}

/* A block of rows, and its scratch. */
typedef struct block {
    int64_t rows;        /* (token, head) pairs: at most HT_TILE_ROWS, or one token's group when that is larger */
    int64_t width, padded; /* head width, and rounded up to whole vectors */
    float *q;            /* [rows, width], scaled by 1/sqrt(D) */
    float *out;          /* [rows, padded] */
    float *scores;       /* [rows, HT_TILE_KEYS] */
    float *largest, *mass; /* [rows] */
    int64_t *visible;    /* [rows] keys that a row sees */
    float *keys;         /* [width, HT_TILE_KEYS], transposed */
    float *values;       /* [HT_TILE_KEYS, padded] */
} block;

static size_t block_bytes(int64_t max_rows, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(max_rows);
    int64_t floats = rows * (ht_padded(width) + padded + HT_TILE_KEYS + 2) + (width + 1) * HT_TILE_KEYS +
                     HT_TILE_KEYS * padded;
    return (size_t)floats * sizeof(float) + (size_t)rows * sizeof(int64_t);
}

static block block_place(void *scratch, int64_t max_rows, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(max_rows);
    block b = {.width = width, .padded = padded};
    float *next = scratch;
    b.q = next, next += rows * padded;
    b.out = next, next += rows * padded;
    b.scores = next, next += rows * HT_TILE_KEYS;
    b.keys = next, next += (width + 1) * HT_TILE_KEYS;
    b.values = next, next += HT_TILE_KEYS * padded;
    b.largest = next, next += rows;
    b.mass = next, next += rows;
    b.visible = (int64_t *)(void *)next;
    return b;
}

/* One row's softmax over a tile of n keys, carried on from the tiles before; scores become weights. */
static void softmax_row(block *b, int64_t row, int64_t first, int64_t n) {
    float *s = b->scores + row * HT_TILE_KEYS;
    int64_t seen = b->visible[row] - first;
    seen = seen < 0 ? 0 : seen > n ? n : seen;
    float before = b->largest[row], largest = before, total = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < seen; j++)
        largest = s[j] > largest ? s[j] : largest;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < seen; j++) {
        s[j] = ht_expf(s[j] - largest);
        total += s[j];
    }
    memset(s + seen, 0, (size_t)(HT_TILE_KEYS - seen) * sizeof(float));
    if (seen == 0) return;
    float carry = before == -INFINITY ? 0.0f : ht_expf(before - largest);
    b->largest[row] = largest;
    b->mass[row] = b->mass[row] * carry + total;
    if (carry != 1.0f) {
        float *o = b->out + row * b->padded;
        for (int64_t d = 0; d < b->padded; d++)
            o[d] *= carry;
    }
}

/* Scores of all the block's rows for the tile's key j. */
static void score_key(block *b, const float *key, int64_t j) {
    for (int64_t i = 0; i < b->rows; i++) {
        const float *q = b->q + i * b->width;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < b->width; d++)
            dot += q[d] * key[d];
        b->scores[i * HT_TILE_KEYS + j] = dot;
    }
}

static void add_value(block *b, const float *value, int64_t j) {
    for (int64_t i = 0; i < b->rows; i++) {
        float weight = b->scores[i * HT_TILE_KEYS + j], *o = b->out + i * b->padded;
        for (int64_t d = 0; d < b->width; d++)
            o[d] += weight * value[d];
    }
}

/* Few rows: products row by row, without transposing keys that are read once. */
static void tile_few(block *b, const ht_row_source *keys, const ht_row_source *values, int64_t first, int64_t n) {
    for (int64_t j = 0; j < n;) {
        const float *key = ht_source_row(keys, first + j);
        for (int64_t run = ht_source_run(keys, first + j, n - j); run > 0; run--, j++, key += keys->stride)
            score_key(b, key, j);
    }
    for (int64_t i = 0; i < b->rows; i++)
        softmax_row(b, i, first, n);
    for (int64_t j = 0; j < n;) {
        const float *value = ht_source_row(values, first + j);
        for (int64_t run = ht_source_run(values, first + j, n - j); run > 0; run--, j++, value += values->stride)
            add_value(b, value, j);
    }
}

static void tile_many(block *b, const ht_row_source *keys, const ht_row_source *values, int64_t first, int64_t n) {
    ht_load_transposed(b->keys, keys, first, n, b->width);
    ht_load_rows(b->values, values, first, n, b->width, b->padded);
    memset(b->scores, 0, (size_t)(b->rows * HT_TILE_KEYS) * sizeof(float));
    ht_tile_product(b->scores, HT_TILE_KEYS, (ht_tile_left){b->q, b->width, 1}, b->keys, HT_TILE_KEYS, b->rows,
                    ht_padded(n), b->width);
    for (int64_t i = 0; i < b->rows; i++)
        softmax_row(b, i, first, n);
    ht_tile_product(b->out, b->padded, (ht_tile_left){b->scores, HT_TILE_KEYS, 1}, b->values, b->padded, b->rows,
                    b->padded, n);
}

/* All tiles of keys for a block whose q and visible are set; out is normalised at the end. */
static void attend(block *b, const ht_row_source *keys, const ht_row_source *values) {
    enum { FEW = 4 };
    memset(b->out, 0, (size_t)(b->rows * b->padded) * sizeof(float));
    for (int64_t i = 0; i < b->rows; i++) {
        b->largest[i] = -INFINITY;
        b->mass[i] = 0;
    }
    int64_t last = b->visible[b->rows - 1]; /* rows are in token order: the last one sees most */
    for (int64_t first = 0; first < last; first += HT_TILE_KEYS) {
        int64_t n = last - first < HT_TILE_KEYS ? last - first : HT_TILE_KEYS;
        if (b->rows < FEW)
            tile_few(b, keys, values, first, n);
        else
            tile_many(b, keys, values, first, n);
    }
    for (int64_t i = 0; i < b->rows; i++) {
        float scale = 1.0f / b->mass[i], *o = b->out + i * b->padded;
        for (int64_t d = 0; d < b->width; d++)
            o[d] *= scale;
    }
}

/* What one call runs over: both operations fill this in. */
typedef struct job {
    ht_tensor *out;
    float *lse; /* NULL: not wanted */
    const ht_tensor *q;
    int64_t heads, kv_heads, width;
    int64_t sequences;
    const int32_t *seq_start;
    const int32_t *past; /* NULL: 0 */
    ht_row_source keys, values; /* of head 0; sequence-relative positions */
    const int32_t *block_tables;
    int64_t max_blocks;
} job;

/* Rows [first, first + count) of a sequence, one key/value head. */
static void run_block(const job *j, block *b, int64_t sequence, int64_t kv_head, int64_t first, int64_t count) {
    int64_t group = j->heads / j->kv_heads, start = j->seq_start[sequence], past = j->past ? j->past[sequence] : 0;
    float scale = 1.0f / sqrtf((float)j->width);
    b->rows = count * group;
    for (int64_t i = 0; i < b->rows; i++) {
        const float *from = ht_row(j->q, start + first + i / group) + (kv_head * group + i % group) * j->width;
        float *to = b->q + i * j->width;
        for (int64_t d = 0; d < j->width; d++)
            to[d] = from[d] * scale;
        b->visible[i] = past + first + i / group + 1;
    }
    ht_row_source keys = j->keys, values = j->values;
    int64_t column = kv_head * j->width;
    if (j->block_tables) {
        keys.blocks = values.blocks = j->block_tables + sequence * j->max_blocks;
        keys.base += column, values.base += column;
    } else {
        keys.base += start * keys.stride + column, values.base += start * values.stride + column;
    }
    attend(b, &keys, &values);
    for (int64_t i = 0; i < b->rows; i++) {
        int64_t token = start + first + i / group, head = kv_head * group + i % group;
        memcpy(ht_row(j->out, token) + head * j->width, b->out + i * b->padded, (size_t)j->width * sizeof(float));
        if (j->lse) j->lse[token * j->heads + head] = b->largest[i] + logf(b->mass[i]);
    }
}

/* Tasks are (sequence, row block, key/value head), counted out so that threads take them as they become free. */
static ht_status run_job(ht_backend *be, const job *j, ht_error *err) {
    int64_t group = j->heads / j->kv_heads;
    int64_t block_tokens = HT_TILE_ROWS / group > 0 ? HT_TILE_ROWS / group : 1;
    int64_t total_blocks = 0;
    for (int64_t s = 0; s < j->sequences; s++)
        total_blocks += (j->seq_start[s + 1] - j->seq_start[s] + block_tokens - 1) / block_tokens;
    ht_status status = ht_cpu_scratch_all(be, block_bytes(block_tokens * group, j->width), err);
    if (status) return status;
#pragma omp parallel num_threads(be->threads)
    {
        block b = block_place(ht_cpu_scratch(be, omp_get_thread_num()), block_tokens * group, j->width);
        int64_t sequence = 0, sequence_block = 0; /* blocks before this sequence */
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < total_blocks * j->kv_heads; task++) {
            int64_t index = task / j->kv_heads, length, blocks;
            for (;;) { /* a thread's tasks ascend, so this walks each sequence once */
                length = j->seq_start[sequence + 1] - j->seq_start[sequence];
                blocks = (length + block_tokens - 1) / block_tokens;
                if (index < sequence_block + blocks) break;
                sequence_block += blocks;
                sequence++;
            }
            int64_t first = (index - sequence_block) * block_tokens;
            int64_t count = length - first < block_tokens ? length - first : block_tokens;
            run_block(j, &b, sequence, task % j->kv_heads, first, count);
        }
    }
    return HT_OK;
}

ht_status ht_cpu_attention_forward(ht_backend *be, ht_tensor *out, float *lse, const ht_tensor *q, const ht_tensor *k,
                                   const ht_tensor *v, const ht_attention_shape *shape, ht_error *err) {
    ht_status status = ht_cpu_need_f32("attention_forward", q, err);
    if (status) return status;
    job j = {
        .out = out,
        .lse = lse,
        .q = q,
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .width = shape->head_dim,
        .sequences = shape->sequences,
        .seq_start = shape->seq_start_host,
        .keys = {.base = k->data, .stride = k->stride},
        .values = {.base = v->data, .stride = v->stride},
    };
    return run_job(be, &j, err);
}

/* Puts the new rows' keys and values into their pages. */
static void write_pages(ht_backend *be, ht_kv_pages *pages, const ht_tensor *k, const ht_tensor *v,
                        const ht_cached_shape *shape) {
    size_t bytes = (size_t)k->cols * sizeof(float);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (k->rows > 16)
    for (int64_t s = 0; s < shape->sequences; s++) {
        const int32_t *blocks = shape->block_tables_host + s * shape->max_blocks;
        for (int64_t r = shape->seq_start_host[s]; r < shape->seq_start_host[s + 1]; r++) {
            int64_t position = shape->past_host[s] + r - shape->seq_start_host[s];
            int64_t row = blocks[position / pages->block_size] * pages->block_size + position % pages->block_size;
            memcpy(ht_row(&pages->keys, row), ht_row(k, r), bytes);
            memcpy(ht_row(&pages->values, row), ht_row(v, r), bytes);
        }
    }
}

ht_status ht_cpu_attention_cached(ht_backend *be, ht_tensor *out, const ht_tensor *q, const ht_tensor *k,
                                  const ht_tensor *v, ht_kv_pages *pages, const ht_cached_shape *shape,
                                  ht_error *err) {
    ht_status status = ht_cpu_need_f32("attention_cached", q, err);
    if (status) return status;
    write_pages(be, pages, k, v, shape);
    job j = {
        .out = out,
        .q = q,
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .width = shape->head_dim,
        .sequences = shape->sequences,
        .seq_start = shape->seq_start_host,
        .past = shape->past_host,
        .keys = {.base = pages->keys.data, .stride = pages->keys.stride, .block_size = pages->block_size},
        .values = {.base = pages->values.data, .stride = pages->values.stride, .block_size = pages->block_size},
        .block_tables = shape->block_tables_host,
        .max_blocks = shape->max_blocks,
    };
    return run_job(be, &j, err);
}
