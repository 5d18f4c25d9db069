/*
 * Attention on the CPU, forward: packed sequences and the paged cache.  Contract: backend.h.
 *
 * One task is a block of rows of one key/value head: the query heads that share it are further rows of the block, so
 * keys are read once for all of them. Where there are few rows a head, as in decoding, several heads make a task, so that each
 * step finds work that need not wait for the one before. Keys come in tiles of 64; scores, softmax and the weighted sum of values of one tile
 * stay in the cache (Flash-style running maximum), and tiles beyond the last visible key are never touched.
 * No [T, T] exists. Tiles begin at multiples of 64 positions and every sum runs in the order of its terms, so a row's bits
 * depend on its own sequence only, and not on which rows share its block.
 *
 * A block of the cache holds, head after head, keys turned, [D, block_size] units, so that one unit of 16 keys is one vector,
 * and values, [block_size, D] units; of bf16, units of keys pair two dimensions and those of values two positions.
 */
#include <math.h>
#include <omp.h>

#include "core/backend/cpu/attention.h"

enum { HT_HEADS_TOGETHER = 8 };

/* A block of rows, and its scratch. */
typedef struct block {
    ht_tile_mode mode;
    int64_t heads;         /* key/value heads */
    int64_t rows;          /* of each, (token, head) pairs: at most HT_TILE_ROWS, or one token's group when that is larger */
    int64_t slot;          /* from a head's first row to the next one's */
    int64_t width, padded; /* head width, and rounded up to whole vectors */
    int64_t units, stride; /* of a row of q and keys, and rounded up */
    float scale;           /* 1/sqrt(D) */
    float *q;              /* [heads, slot, stride] units */
    float *out;            /* [heads, slot, padded] */
    float *scores;         /* [heads, slot, HT_TILE_KEYS] */
    float *weights;        /* [heads, slot, HT_TILE_KEYS] units, for f32 the scores' place */
    float *largest, *mass; /* [heads, slot] */
    int64_t *visible;      /* [rows] keys that a row sees */
    float *keys;           /* [stride, HT_TILE_KEYS], turned */
    float *values;         /* [HT_TILE_KEYS, padded] */
} block;

static size_t block_bytes(int64_t max_rows, int64_t width) {
    int64_t padded = ht_padded(width), rows = ht_padded(max_rows);
    int64_t floats = rows * (2 * padded + 2 * HT_TILE_KEYS + 2) + 2 * HT_TILE_KEYS * padded;
    return (size_t)floats * sizeof(float) + (size_t)rows * sizeof(int64_t);
}

static block block_place(void *scratch, int64_t max_rows, int64_t width, ht_tile_mode mode) {
    int64_t padded = ht_padded(width), rows = ht_padded(max_rows), units = ht_units(mode.pairs, width);
    block b = {.mode = mode,
               .width = width,
               .padded = padded,
               .units = units,
               .stride = ht_padded(units),
               .scale = 1.0f / sqrtf((float)width)};
    float *next = scratch;
    b.q = next, next += rows * padded;
    b.out = next, next += rows * padded;
    b.scores = next, next += rows * HT_TILE_KEYS;
    b.weights = mode.pairs ? next : b.scores, next += rows * HT_TILE_KEYS;
    b.keys = next, next += padded * HT_TILE_KEYS;
    b.values = next, next += HT_TILE_KEYS * padded;
    b.largest = next, next += rows;
    b.mass = next, next += rows;
    b.visible = (int64_t *)(void *)next;
    return b;
}

/* Lanes from `seen` on are -infinity. */
HT_INLINE ht_lanes hide(ht_lanes x, int64_t seen) {
    const ht_lanes_index lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const ht_lanes_index hidden = lane >= (int32_t)seen;
    return (ht_lanes)(((ht_lanes_index)x & ~hidden) | ((ht_lanes_index)((ht_lanes){0} - INFINITY) & hidden));
}

/* One row's softmax over a tile of n keys, carried on from the tiles before; scores become weights. */
static void softmax_row(block *b, int64_t head, int64_t i, int64_t first, int64_t n) {
    int64_t row = head * b->slot + i, seen = b->visible[i] - first;
    const float *s = b->scores + row * HT_TILE_KEYS;
    float *weights = b->weights + row * HT_TILE_KEYS;
    seen = seen > n ? n : seen;
    if (seen <= 0) {
        memset(weights, 0, HT_TILE_KEYS * sizeof *weights);
        return;
    }
    ht_lanes x[HT_TILE_VECTORS], most, total = {0};
#pragma GCC unroll 4
    for (int v = 0; v < HT_TILE_VECTORS; v++) {
        x[v] = hide(*(const ht_lanes *)(s + v * HT_LANES) * b->scale, seen - v * HT_LANES);
        most = v ? ht_lanes_larger(most, x[v]) : x[v];
    }
    float before = b->largest[row], largest = ht_lanes_max(most);
    largest = before > largest ? before : largest;
#pragma GCC unroll 4
    for (int v = 0; v < HT_TILE_VECTORS; v++) {
        x[v] = ht_exp_lanes(x[v] - largest);
        total += x[v];
        if (b->mode.pairs)
            ht_to_bf16((uint16_t *)(void *)weights + v * HT_LANES, (const float *)&x[v], HT_LANES);
        else
            *(ht_lanes *)(weights + v * HT_LANES) = x[v];
    }
    float mass = ht_lanes_sum(total);
    if (before == largest) {
        b->mass[row] += mass;
        return;
    }
    float carry = before == -INFINITY ? 0.0f : ht_expf(before - largest), *o = b->out + row * b->padded;
    b->largest[row] = largest;
    b->mass[row] = b->mass[row] * carry + mass;
    for (int64_t d = 0; d < b->padded; d++)
        o[d] *= carry;
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

enum { GROUPS = HT_TILE_KEYS / HT_LANES };

/* Keys and values of one sequence, from the block's first head on. */
typedef struct source {
    const job *job;
    int64_t start, column;  /* first row of the packed sequence, first column */
    const int32_t *blocks;  /* the sequence's, for pages */
    const float *keys[GROUPS], *values[GROUPS]; /* where the pages have each 16 positions of a tile */
} source;

/* A head's scores, and its weighted values, of n keys from position `first` on. */
static void multiply_scores(block *b, int64_t head, const ht_tile_right *keys, int vectors, int64_t j, int64_t depth) {
    int64_t row = head * b->slot;
    ht_tile_columns(b->mode, vectors, &(ht_tile_out){b->scores + row * HT_TILE_KEYS + j, HT_TILE_KEYS, 1},
                    (ht_tile_left){b->q + row * b->stride, b->stride}, keys, b->rows, depth);
}

static void packed_scores(block *b, const source *s, int64_t head, int64_t first, int64_t n) {
    ht_load_rows(b->mode.pairs, b->values, b->stride, s->job->keys, s->start + first, n, s->column + head * b->width,
                 b->width);
    ht_turn_tile(b->keys, b->values, n, b->stride);
    for (int64_t j = 0; j < n; j += HT_KERNEL_VECTORS * HT_LANES) {
        int vectors = 0;
        ht_tile_right right = {.stride = HT_TILE_KEYS};
        for (int64_t at = j; at < n && vectors < HT_KERNEL_VECTORS; at += HT_LANES)
            right.columns[vectors++] = b->keys + at;
        multiply_scores(b, head, &right, vectors, j, ht_tile_depth(b->mode, b->units));
    }
}

static void packed_values(block *b, const source *s, int64_t head, int64_t first, int64_t n) {
    int64_t row = head * b->slot, depth = ht_tile_depth(b->mode, ht_units(b->mode.pairs, n));
    ht_load_across(b->mode.pairs, b->values, b->padded, depth, s->job->values, s->start + first, n,
                   s->column + head * b->width, b->width);
    ht_tile_product(b->mode, (ht_tile_out){b->out + row * b->padded, b->padded, 0},
                    (ht_tile_left){b->weights + row * HT_TILE_KEYS, HT_TILE_KEYS}, b->values, b->padded, b->rows,
                    b->padded, depth);
}

/* Looks up where a tile of n keys from position `first` on lies, once for all heads. */
static void find_pages(source *s, int pairs, int64_t first, int64_t n) {
    const ht_tensor *keys = s->job->keys, *values = s->job->values;
    int64_t size = s->job->block_size;
    for (int64_t j = 0; j < n; j += HT_LANES) {
        int64_t inside = (first + j) % size, begin = (s->blocks[(first + j) / size] * keys->cols + s->column) * size;
        s->keys[j / HT_LANES] = (const float *)keys->data + ht_units(pairs, begin) + inside;
        s->values[j / HT_LANES] = (const float *)values->data + ht_units(pairs, begin + inside * s->job->width);
    }
}

static void page_scores(block *b, const source *s, int64_t head, int64_t n) {
    int64_t size = s->job->block_size, before = head * b->units * size;
    ht_tile_right right = {.stride = size};
    for (int64_t j = 0; j < n; j += HT_KERNEL_VECTORS * HT_LANES) {
        int vectors = 0;
        for (int64_t at = j; at < n && vectors < HT_KERNEL_VECTORS; at += HT_LANES)
            right.columns[vectors++] = s->keys[at / HT_LANES] + before;
        multiply_scores(b, head, &right, vectors, j, b->units);
    }
}

/* In groups of 16 positions, which a page has together. */
static void page_values(block *b, const source *s, int64_t head, int64_t n) {
    const float *groups[GROUPS];
    int64_t group = ht_units(b->mode.pairs, HT_LANES), count = 0, row = head * b->slot;
    for (int64_t j = 0; j < n; j += HT_LANES) {
        const float *rows = s->values[count] + head * b->units * s->job->block_size;
        if (b->padded != b->width) { /* whole vectors would reach beyond the head */
            float *copy = b->values + count * group * b->padded;
            for (int64_t k = 0; k < group; k++) {
                memcpy(copy + k * b->padded, rows + k * b->width, (size_t)b->width * sizeof *copy);
                memset(copy + k * b->padded + b->width, 0, (size_t)(b->padded - b->width) * sizeof *copy);
            }
            rows = copy;
        }
        groups[count++] = rows;
    }
    ht_tile_groups(b->mode, (ht_tile_out){b->out + row * b->padded, b->padded, 0},
                   (ht_tile_left){b->weights + row * HT_TILE_KEYS, HT_TILE_KEYS}, groups, count, group, b->padded, b->rows,
                   b->padded);
}

/* All tiles of keys for a block whose q and visible are set; out is normalised at the end. */
static void attend(block *b, source *s) {
    memset(b->out, 0, (size_t)(b->heads * b->slot * b->padded) * sizeof(float));
    for (int64_t i = 0; i < b->heads * b->slot; i++) {
        b->largest[i] = -INFINITY;
        b->mass[i] = 0;
    }
    int64_t last = b->visible[b->rows - 1]; /* rows are in token order: the last one sees most */
    for (int64_t first = 0; first < last; first += HT_TILE_KEYS) {
        int64_t n = last - first < HT_TILE_KEYS ? last - first : HT_TILE_KEYS;
        if (s->blocks) find_pages(s, b->mode.pairs, first, n);
        for (int64_t head = 0; head < b->heads; head++)
            s->blocks ? page_scores(b, s, head, n) : packed_scores(b, s, head, first, n);
        for (int64_t head = 0; head < b->heads; head++)
            for (int64_t i = 0; i < b->rows; i++)
                softmax_row(b, head, i, first, n);
        for (int64_t head = 0; head < b->heads; head++)
            s->blocks ? page_values(b, s, head, n) : packed_values(b, s, head, first, n);
    }
}

/* Rows [first, first + count) of a sequence, b->heads key/value heads from this one on. */
static void run_block(const job *j, block *b, int64_t sequence, int64_t kv_head, int64_t first, int64_t count) {
    int64_t group = j->heads / j->kv_heads, start = j->seq_start[sequence], past = j->past ? j->past[sequence] : 0;
    b->rows = count * group;
    for (int64_t i = 0; i < b->rows; i++) {
        b->visible[i] = past + first + i / group + 1;
        for (int64_t head = 0; head < b->heads; head++) {
            int64_t column = ((kv_head + head) * group + i % group) * j->width;
            ht_load_rows(b->mode.pairs, b->q + (head * b->slot + i) * b->stride, b->stride, j->q, start + first + i / group,
                         1, column, j->width);
        }
    }
    source s = {.job = j, .start = start, .column = kv_head * j->width};
    if (j->block_size) s.blocks = j->block_tables + sequence * j->max_blocks;
    attend(b, &s);
    for (int64_t head = 0; head < b->heads; head++)
        for (int64_t i = 0; i < b->rows; i++) {
            int64_t row = head * b->slot + i, token = start + first + i / group, column = (kv_head + head) * group + i % group;
            ht_store_row(j->out, token, column * j->width, b->out + row * b->padded, j->width, 1.0f / b->mass[row]);
            if (j->lse) j->lse[token * j->heads + column] = b->largest[row] + logf(b->mass[row]);
        }
}

/* AMX's step (tile.h). Packed operands are padded. In pages, keys have the head's own units, and values 8 units for 16
 * positions: those that are not written yet are zero (write_bf16). */
static int tile_step(const job *j) {
    if (!j->block_size) return 16;
    return j->width % 16 == 0 ? 8 : 0;
}

/* Tasks are (sequence, row block, key/value heads), counted out so that threads take them as they become free. */
static ht_status run_job(ht_backend *be, const job *j, ht_error *err) {
    int64_t group = j->heads / j->kv_heads;
    int64_t block_tokens = HT_TILE_ROWS / group > 0 ? HT_TILE_ROWS / group : 1;
    int64_t total_blocks = 0, longest = 0;
    for (int64_t s = 0; s < j->sequences; s++) {
        int64_t length = j->seq_start[s + 1] - j->seq_start[s];
        total_blocks += (length + block_tokens - 1) / block_tokens;
        longest = length > longest ? length : longest;
    }
    int64_t most_rows = group * (longest < block_tokens ? longest : block_tokens), heads = 1;
    while (most_rows <= HT_LANES && heads < HT_HEADS_TOGETHER && heads < j->kv_heads &&
           2 * heads * most_rows <= HT_TILE_ROWS && total_blocks * j->kv_heads >= 8 * be->threads * heads)
        heads *= 2;
    int64_t head_groups = (j->kv_heads + heads - 1) / heads;
    /* Heads of a block lie beside each other: one thread takes them all where there are blocks enough. */
    int64_t chunk = total_blocks >= 4 * be->threads ? head_groups : 1;
    ht_status status = ht_cpu_scratch_all(be, block_bytes(HT_LANES * heads > most_rows ? HT_LANES * heads : most_rows, j->width), err);
    if (status) return status;
#pragma omp parallel num_threads(be->threads)
    {
        void *scratch = ht_cpu_scratch(be, omp_get_thread_num());
        ht_tile_mode mode = ht_tile_begin(j->q->dtype == HT_BF16, most_rows, tile_step(j));
        int64_t slot = ht_tile_rows(mode, most_rows);
        block b = block_place(scratch, slot * heads, j->width, mode);
        b.slot = slot;
        int64_t sequence = 0, sequence_block = 0; /* blocks before this sequence */
#pragma omp for schedule(monotonic : dynamic, chunk)
        for (int64_t task = 0; task < total_blocks * head_groups; task++) {
            int64_t index = task / head_groups, length, blocks, kv_head = task % head_groups * heads;
            for (;;) { /* a thread's tasks ascend (monotonic), so this walks each sequence once */
                length = j->seq_start[sequence + 1] - j->seq_start[sequence];
                blocks = (length + block_tokens - 1) / block_tokens;
                if (index < sequence_block + blocks) break;
                sequence_block += blocks;
                sequence++;
            }
            int64_t first = (index - sequence_block) * block_tokens;
            int64_t count = length - first < block_tokens ? length - first : block_tokens;
            b.heads = j->kv_heads - kv_head < heads ? j->kv_heads - kv_head : heads;
            run_block(j, &b, sequence, kv_head, first, count);
        }
        ht_tile_end(mode);
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

/* Puts one row's keys and values into its block, at `offset`. Sums of values run over whole groups of 16 positions: nothing that
 * the block's last owner left may stand behind the newest one. */
static void write_f32(const ht_kv_pages *pages, int64_t width, const float *k, const float *v, int64_t page, int64_t offset) {
    int64_t size = pages->block_size, cols = pages->keys.cols;
    float *keys = (float *)pages->keys.data + page * size * cols + offset;
    for (int64_t c = 0; c < cols; c++)
        keys[c * size] = k[c];
    for (int64_t head = 0; head < cols; head += width) {
        float *values = (float *)pages->values.data + (page * cols + head) * size + offset * width;
        if (offset % HT_LANES == 0) memset(values, 0, (size_t)(HT_LANES * width) * sizeof *values);
        memcpy(values, v + head, (size_t)width * sizeof *v);
    }
}

static void write_bf16(const ht_kv_pages *pages, int64_t width, const uint16_t *k, const uint16_t *v, int64_t page,
                       int64_t offset) {
    int64_t size = pages->block_size, cols = pages->keys.cols;
    uint32_t *keys = (uint32_t *)pages->keys.data + page * size * cols / 2 + offset;
    for (int64_t c = 0; c < cols; c += 2)
        keys[c / 2 * size] = (uint32_t)k[c] | (uint32_t)k[c + 1] << 16;
    for (int64_t head = 0; head < cols; head += width) {
        uint32_t *values = (uint32_t *)pages->values.data + ((page * cols + head) * size + offset / 2 * 2 * width) / 2;
        if (offset % HT_LANES == 0) memset(values, 0, (size_t)(HT_LANES / 2 * width) * sizeof *values);
        for (int64_t d = 0; d < width; d++)
            values[d] = offset % 2 ? (values[d] & 0xffffu) | (uint32_t)v[head + d] << 16 : v[head + d];
    }
}

static void write_pages(ht_backend *be, const ht_kv_pages *pages, const ht_tensor *k, const ht_tensor *v,
                        const ht_cached_shape *shape) {
#pragma omp parallel for schedule(static) num_threads(be->threads) if (k->rows > 4)
    for (int64_t s = 0; s < shape->sequences; s++) {
        const int32_t *blocks = shape->block_tables_host + s * shape->max_blocks;
        for (int64_t r = shape->seq_start_host[s]; r < shape->seq_start_host[s + 1]; r++) {
            int64_t position = shape->past_host[s] + r - shape->seq_start_host[s];
            int64_t page = blocks[position / pages->block_size], offset = position % pages->block_size;
            if (k->dtype == HT_BF16)
                write_bf16(pages, shape->head_dim, ht_element(k, r, 0), ht_element(v, r, 0), page, offset);
            else
                write_f32(pages, shape->head_dim, ht_row(k, r), ht_row(v, r), page, offset);
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
