/*
 * Attention on the CPU, forward: packed sequences and the paged cache.  Contract: backend.h.
 *
 * One task is a block of rows of one key/value head: the query heads that share it are further rows of the block, so
 * keys are read once for all of them. Keys come in tiles of 64; scores, softmax and the weighted sum of values of one tile
 * stay in the cache (Flash-style running maximum), and tiles beyond the last visible key are never touched.
 * No [T, T] exists. Tiles begin at multiples of 64 positions and every sum runs in the order of its terms, so a row's bits
 * depend on its own sequence only, and not on which rows share its block.
 *
 * A block of the cache holds keys turned, [G*D, block_size], so that 16 keys of one dimension are one vector, and values
 * in rows, [block_size, G*D].
 */
#include <math.h>
#include <omp.h>

#include "core/backend/cpu/attention.h"
#include "core/backend/cpu/exp.h"

/* A block of rows, and its scratch. */
typedef struct block {
    int64_t rows;        /* (token, head) pairs: at most HT_TILE_ROWS, or one token's group when that is larger */
    int64_t width, padded; /* head width, and rounded up to whole vectors */
    float *q;            /* [rows, padded], scaled by 1/sqrt(D) */
    float *out;          /* [rows, padded] */
    float *scores;       /* [rows, HT_TILE_KEYS] */
    float *largest, *mass; /* [rows] */
    int64_t *visible;    /* [rows] keys that a row sees */
    float *keys;         /* [padded, HT_TILE_KEYS], turned */
    float *values;       /* [HT_TILE_KEYS, padded] */
} block;

static size_t block_bytes(int64_t max_rows, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(max_rows);
    int64_t floats = rows * (2 * padded + HT_TILE_KEYS + 2) + 2 * HT_TILE_KEYS * padded;
    return (size_t)floats * sizeof(float) + (size_t)rows * sizeof(int64_t);
}

static block block_place(void *scratch, int64_t max_rows, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(max_rows);
    block b = {.width = width, .padded = padded};
    float *next = scratch;
    b.q = next, next += rows * padded;
    b.out = next, next += rows * padded;
    b.scores = next, next += rows * HT_TILE_KEYS;
    b.keys = next, next += padded * HT_TILE_KEYS;
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
    for (int64_t j = seen; j < HT_TILE_KEYS; j++)
        s[j] = -INFINITY;
    if (seen == 0) {
        memset(s, 0, HT_TILE_KEYS * sizeof *s);
        return;
    }
    float before = b->largest[row], largest = before, total = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < HT_TILE_KEYS; j++)
        largest = s[j] > largest ? s[j] : largest;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < HT_TILE_KEYS; j++) {
        s[j] = ht_expf(s[j] - largest);
        total += s[j];
    }
    float carry = before == -INFINITY ? 0.0f : ht_expf(before - largest);
    b->largest[row] = largest;
    b->mass[row] = b->mass[row] * carry + total;
    if (carry != 1.0f) {
        float *o = b->out + row * b->padded;
        for (int64_t d = 0; d < b->padded; d++)
            o[d] *= carry;
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
    const int32_t *past;            /* NULL: 0 */
    const ht_tensor *keys, *values; /* packed rows, or pages */
    int64_t block_size;             /* of pages; 0: packed */
    const int32_t *block_tables;
    int64_t max_blocks;
} job;

/* Keys and values of one head of one sequence. */
typedef struct source {
    const job *job;
    int64_t start, column;  /* first row of the packed sequence, first column of the head */
    const int32_t *blocks;  /* the sequence's, for pages */
} source;

/* Scores and weighted values of a tile: n keys from position `first` on. */
static void tile_packed(block *b, const source *s, int64_t first, int64_t n) {
    int64_t row = s->start + first;
    ht_load_tile(b->values, s->job->keys, row, n, s->column, b->width, b->padded);
    ht_turn_tile(b->keys, b->values, n, b->padded);
    ht_load_tile(b->values, s->job->values, row, n, s->column, b->width, b->padded);
    ht_tile_product(b->scores, HT_TILE_KEYS, (ht_tile_left){b->q, b->padded, 1}, b->keys, HT_TILE_KEYS, 0, b->rows,
                    ht_padded(n), b->width);
    for (int64_t i = 0; i < b->rows; i++)
        softmax_row(b, i, first, n);
    ht_tile_product(b->out, b->padded, (ht_tile_left){b->scores, HT_TILE_KEYS, 1}, b->values, b->padded, 0, b->rows,
                    b->padded, n);
}

/* The page's 16 keys or values from a position on, at the head's columns; *stride: from a dimension (keys) or a position
 * (values) to the next. */
static const void *page_part(const source *s, const ht_tensor *pages, int64_t position, int turned, int64_t *stride) {
    int64_t size = s->job->block_size, offset = position % size;
    int64_t at = s->blocks[position / size] * size * pages->cols;
    *stride = turned ? size : pages->cols;
    at += turned ? s->column * size + offset : offset * pages->cols + s->column;
    return ht_element(&(ht_tensor){.data = pages->data, .dtype = pages->dtype}, 0, at);
}

static void page_scores(block *b, const source *s, int64_t first, int64_t n) {
    ht_tile_left q = {b->q, b->padded, 1};
    int half = s->job->keys->dtype == HT_BF16;
    for (int64_t j = 0; j < n; j += HT_KERNEL_VECTORS * HT_LANES) {
        ht_tile_right right = {.half = half};
        int vectors = 0;
        for (int64_t v = j; v < n && vectors < HT_KERNEL_VECTORS; v += HT_LANES)
            right.columns[vectors++] = page_part(s, s->job->keys, first + v, 1, &right.stride);
        ht_tile_columns(vectors, b->scores + j, HT_TILE_KEYS, q, &right, b->rows, b->width);
    }
}

static void page_values(block *b, const source *s, int64_t first, int64_t n) {
    const ht_tensor *pages = s->job->values;
    for (int64_t j = 0; j < n; j += HT_LANES) {
        int64_t depth = n - j < HT_LANES ? n - j : HT_LANES, stride;
        const void *rows = page_part(s, pages, first + j, 0, &stride);
        ht_tile_left weights = {b->scores + j, HT_TILE_KEYS, 1};
        int half = pages->dtype == HT_BF16;
        if (b->padded != b->width) { /* whole vectors would reach beyond the head */
            ht_tensor part = {.data = (void *)(uintptr_t)rows, .rows = depth, .stride = stride, .dtype = pages->dtype};
            ht_load_tile(b->values, &part, 0, depth, 0, b->width, b->padded);
            rows = b->values, stride = b->padded, half = 0;
        }
        ht_tile_product(b->out, b->padded, weights, rows, stride, half, b->rows, b->padded, depth);
    }
}

static void tile_paged(block *b, const source *s, int64_t first, int64_t n) {
    page_scores(b, s, first, n);
    for (int64_t i = 0; i < b->rows; i++)
        softmax_row(b, i, first, n);
    page_values(b, s, first, n);
}

/* All tiles of keys for a block whose q and visible are set; out is normalised at the end. */
static void attend(block *b, const source *s) {
    memset(b->out, 0, (size_t)(b->rows * b->padded) * sizeof(float));
    for (int64_t i = 0; i < b->rows; i++) {
        b->largest[i] = -INFINITY;
        b->mass[i] = 0;
    }
    int64_t last = b->visible[b->rows - 1]; /* rows are in token order: the last one sees most */
    for (int64_t first = 0; first < last; first += HT_TILE_KEYS) {
        int64_t n = last - first < HT_TILE_KEYS ? last - first : HT_TILE_KEYS;
        memset(b->scores, 0, (size_t)(b->rows * HT_TILE_KEYS) * sizeof(float));
        if (s->blocks)
            tile_paged(b, s, first, n);
        else
            tile_packed(b, s, first, n);
    }
}

/* Rows [first, first + count) of a sequence, one key/value head. */
static void run_block(const job *j, block *b, int64_t sequence, int64_t kv_head, int64_t first, int64_t count) {
    int64_t group = j->heads / j->kv_heads, start = j->seq_start[sequence], past = j->past ? j->past[sequence] : 0;
    float scale = 1.0f / sqrtf((float)j->width);
    b->rows = count * group;
    for (int64_t i = 0; i < b->rows; i++) {
        int64_t column = (kv_head * group + i % group) * j->width;
        ht_load_row(b->q + i * b->padded, j->q, start + first + i / group, column, j->width, b->padded, scale);
        b->visible[i] = past + first + i / group + 1;
    }
    source s = {.job = j, .start = start, .column = kv_head * j->width};
    if (j->block_size) s.blocks = j->block_tables + sequence * j->max_blocks;
    attend(b, &s);
    for (int64_t i = 0; i < b->rows; i++) {
        int64_t token = start + first + i / group, head = kv_head * group + i % group;
        ht_store_row(j->out, token, head * j->width, b->out + i * b->padded, j->width, 1.0f / b->mass[i]);
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

ht_status HT_CPU(attention_forward)(ht_backend *be, ht_tensor *out, float *lse, const ht_tensor *q, const ht_tensor *k,
                                    const ht_tensor *v, const ht_attention_shape *shape, ht_error *err) {
    job j = {
        .out = out,
        .lse = lse,
        .q = q,
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .width = shape->head_dim,
        .sequences = shape->sequences,
        .seq_start = shape->seq_start_host,
        .keys = k,
        .values = v,
    };
    return run_job(be, &j, err);
}

/* Puts one row's keys and values into its block. */
static void write_row(const ht_kv_pages *pages, const ht_tensor *k, const ht_tensor *v, int64_t row, int64_t page,
                      int64_t offset) {
    int64_t size = pages->block_size, cols = k->cols;
    int64_t base = page * size * cols;
    if (k->dtype == HT_BF16) {
        const uint16_t *from = ht_element(k, row, 0);
        uint16_t *keys = (uint16_t *)pages->keys.data + base + offset;
        for (int64_t c = 0; c < cols; c++)
            keys[c * size] = from[c];
    } else {
        const float *from = ht_row(k, row);
        float *keys = (float *)pages->keys.data + base + offset;
        for (int64_t c = 0; c < cols; c++)
            keys[c * size] = from[c];
    }
    size_t width = ht_dtype_size(v->dtype);
    memcpy((char *)pages->values.data + (size_t)(base + offset * cols) * width, ht_element(v, row, 0),
           (size_t)cols * width);
}

static void write_pages(ht_backend *be, const ht_kv_pages *pages, const ht_tensor *k, const ht_tensor *v,
                        const ht_cached_shape *shape) {
#pragma omp parallel for schedule(static) num_threads(be->threads) if (k->rows > 4)
    for (int64_t s = 0; s < shape->sequences; s++) {
        const int32_t *blocks = shape->block_tables_host + s * shape->max_blocks;
        for (int64_t r = shape->seq_start_host[s]; r < shape->seq_start_host[s + 1]; r++) {
            int64_t position = shape->past_host[s] + r - shape->seq_start_host[s];
            write_row(pages, k, v, r, blocks[position / pages->block_size], position % pages->block_size);
        }
    }
}

ht_status HT_CPU(attention_cached)(ht_backend *be, ht_tensor *out, const ht_tensor *q, const ht_tensor *k,
                                   const ht_tensor *v, ht_kv_pages *pages, const ht_cached_shape *shape,
                                   ht_error *err) {
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
        .keys = &pages->keys,
        .values = &pages->values,
        .block_size = pages->block_size,
        .block_tables = shape->block_tables_host,
        .max_blocks = shape->max_blocks,
    };
    return run_job(be, &j, err);
}
