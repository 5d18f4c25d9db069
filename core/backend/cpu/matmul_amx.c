/*
 * Products of bf16 on AMX.  Contract: backend.h.
 *
 * One operand is brought into tiles (amx.h), part by part, so that a part stays in the second cache while the other operand
 * goes by. An element's sum runs over the depth in order, in steps of 32, whichever operand is brought into tiles and whatever
 * the number of rows: a row's bits depend on that row alone, so decoding shares all of this with training.
 *   forward, backward data   w in tiles, rows of x as they lie
 *   forward, few rows        x in tiles, rows of w as they lie; what comes out is turned
 *   backward weight          x in tiles, dy turned, DEPTH tokens at a time, each added to dw
 */
#include "core/backend/cpu/cpu.h"

#ifdef __AMX_BF16__
#include <omp.h>

#include "core/backend/cpu/rows.h"
#include "core/backend/cpu/amx.h"

/* Rows and columns of a block of sums; units and columns (or rows) of a tile; bf16 of a row of units. */
enum { BLOCK = 32, TILE = 16, STEP = 2 * TILE, BLOCK_FLOATS = BLOCK * BLOCK };
/* What is in the second cache at a time: tiles of DEPTH by WIDTH bf16, and where the depth is more, sums of SHARE rows; or, of a
 * product of few rows, tiles of MOST_TILED bf16. */
enum { DEPTH = 1024, WIDTH = 256, SHARE = 1024, MOST_TILED = 1 << 19 };
/* Units of depth of what is in the first cache. */
enum { PANEL = 128 };

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* --- into tiles ------------------------------------------------------------------------------------------- */

/* 32 bf16 of a row from column `col` on, as units; zeros beyond `cols`. */
HT_INLINE ht_lanes load_units(const ht_tensor *t, int64_t row, int64_t col, int64_t cols) {
    ht_lanes units = {0};
    const void *from = ht_element(t, row, col);
    if (col + STEP <= cols)
        memcpy(&units, from, sizeof units);
    else
        memcpy(&units, from, (size_t)(cols - col) * 2);
    return units;
}

/* Units that pair rows `row` and row + 1 of 16 columns; zeros beyond `rows` and `cols`. */
HT_INLINE ht_lanes pair_rows(const ht_tensor *t, int64_t row, int64_t rows, int64_t col, int64_t cols) {
    uint16_t low[TILE] = {0}, high[TILE] = {0};
    const void *a = ht_element(t, row, col), *b = ht_element(t, row + 1, col);
    if (row + 1 >= rows || col + TILE > cols) {
        size_t bytes = (size_t)smaller(TILE, cols - col) * 2;
        a = row < rows ? memcpy(low, a, bytes) : low;
        b = row + 1 < rows ? memcpy(high, b, bytes) : high;
    }
    __m512i even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(a)), odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(b));
    return (ht_lanes)_mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

/* Tiles of B, those of 16 columns one behind the other along the depth, `units` of them: of columns [0, n) of t^T, rows
 * [row, row + n) of t, from its column `first` on. Zeros where t ends. */
static void tiles_of_rows(float *tiles, int64_t units, const ht_tensor *t, int64_t row, int64_t n, int64_t first) {
    for (int64_t j = 0; j < n; j += TILE)
        for (int64_t u = 0; u < units; u += TILE) {
            ht_lanes m[TILE];
            for (int64_t i = 0; i < TILE; i++)
                m[i] = row + j + i < t->rows ? load_units(t, row + j + i, first + 2 * u, t->cols) : (ht_lanes){0};
            ht_transpose(m);
            for (int64_t i = 0; i < TILE; i++)
                *(ht_lanes *)(tiles + j * units + (u + i) * TILE) = m[i];
        }
}

/* The same of columns [col, col + n) of t, units [from, to) of them; rows begin at `first`, and those from `end` on are zero. */
static void tiles_of_columns(float *tiles, int64_t units, int64_t from, int64_t to, const ht_tensor *t, int64_t first,
                             int64_t end, int64_t col, int64_t n) {
    for (int64_t u = from; u < to; u++)
        for (int64_t j = 0; j < n; j += TILE)
            *(ht_lanes *)(tiles + j * units + u * TILE) =
                first + 2 * u < end ? pair_rows(t, first + 2 * u, end, col + j, t->cols) : (ht_lanes){0};
}

/* Rows of A = t^T: columns [col, col + n) of t, their units pairing rows [first, end); a row every `stride` units. */
static void turn_columns(float *to, int64_t stride, const ht_tensor *t, int64_t first, int64_t end, int64_t col, int64_t n) {
    for (int64_t k = first; k < end; k += STEP)
        for (int64_t j = 0; j < n; j += TILE) {
            ht_lanes m[TILE];
            for (int64_t i = 0; i < TILE; i++)
                m[i] = k + 2 * i < end ? pair_rows(t, k + 2 * i, end, col + j, t->cols) : (ht_lanes){0};
            ht_transpose(m);
            for (int64_t i = 0; i < TILE; i++)
                *(ht_lanes *)(to + (j + i) * stride + (k - first) / 2) = m[i];
        }
}

/* Rows of A: as they lie, or copied where they end inside of a tile or lie so that they meet in one place of the cache. */
typedef struct left {
    const float *data;
    int64_t stride; /* units */
} left;

/* Rows come to lie in the same place of the first cache, which has place for few of them. */
static int rows_meet(const ht_tensor *t) {
    return t->stride * (int64_t)ht_dtype_size(t->dtype) % 4096 == 0;
}

/* Columns [first, first + 2 units) of t. Rows that meet are copied if they are `reused` often. */
static left rows_of(const ht_tensor *t, int64_t row, int64_t rows, int64_t first, int64_t units, int reused, float *copy) {
    int64_t stride = units + TILE;
    if (rows == BLOCK && first + 2 * units <= t->cols && t->stride % 2 == 0 && !(reused && rows_meet(t)))
        return (left){ht_element(t, row, first), t->stride / 2};
    for (int64_t i = 0; i < BLOCK; i++)
        for (int64_t u = 0; u < units; u += TILE)
            *(ht_lanes *)(copy + i * stride + u) =
                i < rows ? load_units(t, row + i, first + 2 * u, t->cols) : (ht_lanes){0};
    return (left){copy, stride};
}

/* --- results ---------------------------------------------------------------------------------------------- */

/* One vector of sums, plus `add`, to y. */
HT_INLINE void store(const ht_tensor *y, const ht_tensor *add, int64_t row, int64_t col, int64_t n, ht_lanes sums) {
    if (n == TILE && y->dtype == HT_BF16) {
        if (add) {
            __m256i before = _mm256_loadu_si256((const __m256i *)ht_element(add, row, col));
            sums += (ht_lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(before), 16);
        }
        _mm256_storeu_si256((__m256i *)ht_element(y, row, col), (__m256i)_mm512_cvtneps_pbh((__m512)sums));
        return;
    }
    if (n == TILE && !add) {
        memcpy(ht_element(y, row, col), &sums, sizeof sums);
        return;
    }
    float values[TILE], buffer[TILE];
    memcpy(values, &sums, sizeof values);
    if (add) {
        const float *before = ht_read(add, row, col, n, buffer);
        for (int64_t i = 0; i < n; i++)
            values[i] += before[i];
    }
    if (y->dtype == HT_BF16)
        ht_to_bf16(ht_element(y, row, col), values, n);
    else
        memcpy(ht_element(y, row, col), values, (size_t)n * sizeof *values);
}

/* Sums to rows [row, row + rows), columns [col, col + cols) of y, a row at a time; blocks of columns one behind the other. */
static void store_blocks(const ht_tensor *y, const ht_tensor *add, int64_t row, int64_t rows, int64_t col, int64_t cols,
                         const float *sums) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += TILE)
            store(y, add, row + i, col + j, smaller(TILE, cols - j),
                  *(const ht_lanes *)(sums + j / BLOCK * BLOCK_FLOATS + i * BLOCK + j % BLOCK));
}

/* The same of one block, whose rows are columns of y. */
static void store_turned(const ht_tensor *y, const ht_tensor *add, int64_t row, int64_t rows, int64_t col, int64_t cols,
                         const float *sums) {
    for (int64_t j = 0; j < cols; j += TILE)
        for (int64_t i = 0; i < rows; i += TILE) {
            ht_lanes m[TILE];
            for (int64_t u = 0; u < TILE; u++)
                m[u] = *(const ht_lanes *)(sums + (j + u) * BLOCK + i);
            ht_transpose(m);
            for (int64_t u = 0; u < TILE && i + u < rows; u++)
                store(y, add, row + i + u, col + j, smaller(TILE, cols - j), m[u]);
        }
}

/* The same of a whole block of columns, rounded first: half as much is to be turned. */
static void store_turned_pairs(const ht_tensor *y, int64_t row, int64_t rows, int64_t col, const float *sums) {
    for (int64_t i = 0; i < rows; i += TILE) {
        ht_lanes m[TILE];
        for (int64_t u = 0; u < TILE; u++)
            m[u] = ht_pair_up(*(const ht_lanes *)(sums + 2 * u * BLOCK + i), *(const ht_lanes *)(sums + (2 * u + 1) * BLOCK + i));
        ht_transpose(m);
        for (int64_t u = 0; u < TILE && i + u < rows; u++)
            memcpy(ht_element(y, row + i + u, col), &m[u], sizeof m[u]);
    }
}

/* --- products --------------------------------------------------------------------------------------------- */

/* Tiles of B: those of 16 columns one behind the other along the depth, the next 16 columns' `stride` floats on. */
typedef struct right {
    const float *data;
    int64_t stride;
} right;

/* sums [32, 32] (+)= a [rows, units] b, of one or two times 16 columns. Rows in whole tiles. */
HT_INLINE void multiply_ahead(float *sums, int64_t stride, int fresh, left a, int64_t rows, right b, int64_t cols,
                              int64_t units, ht_amx_ahead ahead) {
    const float *columns[] = {b.data, b.data + b.stride};
    const ht_amx_right at = {.columns = columns, .stride = TILE, .ahead = ahead};
#define MULTIPLY(tall, wide) ht_amx_block(tall, wide, 0, fresh, sums, stride, a.data, a.stride, at, units, TILE, TILE)
    if (rows > TILE && cols > TILE)
        MULTIPLY(1, 1);
    else if (rows > TILE)
        MULTIPLY(1, 0);
    else if (cols > TILE)
        MULTIPLY(0, 1);
    else
        MULTIPLY(0, 0);
#undef MULTIPLY
}

static void multiply(float *sums, int64_t stride, int fresh, left a, int64_t rows, right b, int64_t cols, int64_t units) {
    multiply_ahead(sums, stride, fresh, a, rows, b, cols, units, (ht_amx_ahead){0});
}

/* Into how many units of depth a product is cut, so that 32 rows of A stay in the first cache while columns of B go by. */
static int64_t panel_of(int64_t units) {
    int64_t panels = units > PANEL ? (units + PANEL / 2) / PANEL : 1;
    return round_up((units + panels - 1) / panels, TILE);
}

/* y = x B (+ add), B = w^T or w. */
typedef struct product {
    ht_tensor *y;
    const ht_tensor *x, *w, *add;
    int turned; /* B = w^T */
} product;

/* A thread's scratch: tiles of B, a copy of rows of A, sums. */
typedef struct memory {
    int64_t tile_floats, copy_floats, sum_floats;
    float *tiles, *copy, *sums;
} memory;

static ht_status reserve(ht_backend *be, const memory *m, ht_error *err) {
    return ht_cpu_scratch_all(be, (size_t)(m->tile_floats + m->copy_floats + m->sum_floats) * sizeof(float), err);
}

static memory place(ht_backend *be, memory m) {
    m.tiles = ht_cpu_scratch(be, omp_get_thread_num());
    m.copy = m.tiles + m.tile_floats;
    m.sums = m.copy + m.copy_floats;
    return m;
}

/* Rows [row, end) and columns [col, col + cols) of y. */
typedef struct part {
    int64_t row, end, col, cols;
} part;

/* What a part's products with x's columns from `first` on come to; stored when they are the last. */
static void product_depth(const product *p, const memory *m, const part *at, int64_t first) {
    int64_t K = p->x->cols, units = round_up(smaller(DEPTH, K - first), STEP) / 2, panel = panel_of(units);
    int last = first + DEPTH >= K;
    float *sums = m->sums;
    for (int64_t row = at->row; row < at->end; row += BLOCK) {
        int64_t rows = smaller(BLOCK, at->end - row);
        left a = rows_of(p->x, row, rows, first, units, 1, m->copy);
        int direct = K <= DEPTH && !p->add && p->y->dtype == HT_F32 && rows == BLOCK && at->cols % BLOCK == 0;
        for (int64_t u = 0; u < units; u += panel)
            for (int64_t j = 0; j < at->cols; j += BLOCK) {
                for (int64_t i = 0; last && u + panel >= units && i < rows; i++)
                    __builtin_prefetch(ht_element(p->y, row + i, at->col + j), 1);
                float *to = direct ? ht_element(p->y, row, at->col + j) : sums + j * BLOCK;
                multiply(to, direct ? p->y->stride : BLOCK, first + u == 0, (left){a.data + u, a.stride}, rows,
                         (right){m->tiles + j * units + u * TILE, units * TILE}, smaller(BLOCK, at->cols - j),
                         smaller(panel, units - u));
            }
        if (last && !direct) store_blocks(p->y, p->add, row, rows, at->col, at->cols, sums);
        if (K > DEPTH) sums += round_up(at->cols, BLOCK) * BLOCK;
    }
}

static void product_part(const product *p, const memory *m, const part *at) {
    for (int64_t first = 0; first < p->x->cols; first += DEPTH) {
        int64_t units = round_up(smaller(DEPTH, p->x->cols - first), STEP) / 2;
        if (p->turned)
            tiles_of_rows(m->tiles, units, p->w, at->col, at->cols, first);
        else
            tiles_of_columns(m->tiles, units, 0, units, p->w, first, p->w->rows, at->col, at->cols);
        product_depth(p, m, at, first);
    }
}

/* Columns of a part, WIDTH at most: so many that the thread with the most of them has as few as can be. */
static int64_t width_of(int64_t cols, int64_t threads) {
    int64_t best = 0, least = INT64_MAX, rounds = (cols + WIDTH * threads - 1) / (WIDTH * threads);
    for (int64_t r = rounds; r <= rounds + 1; r++) {
        int64_t width = round_up((cols + r * threads - 1) / (r * threads), BLOCK), parts = (cols + width - 1) / width;
        int64_t most = (parts + threads - 1) / threads * width;
        if (most < least) best = width, least = most;
    }
    return best;
}

static ht_status run_product(ht_backend *be, const product *p, ht_error *err) {
    int64_t N = p->y->cols, M = p->y->rows, K = p->x->cols, depth = round_up(smaller(K, DEPTH), STEP);
    if (M == 0 || N == 0) return HT_OK;
    /* Each thread has columns of its own, and where there are too few of them, rows. */
    int64_t width = width_of(N, be->threads), parts = (N + width - 1) / width;
    int64_t shares = parts < be->threads ? be->threads : 1, share = round_up((M + shares - 1) / shares, BLOCK);
    if (K > DEPTH) share = smaller(share, SHARE);
    shares = (M + share - 1) / share;
    const memory sizes = {width * depth / 2, BLOCK * (depth / 2 + TILE), (K > DEPTH ? share : BLOCK) * width, NULL, NULL, NULL};
    ht_status status = reserve(be, &sizes, err);
    if (status) return status;
#pragma omp parallel num_threads(be->threads)
    {
        memory m = place(be, sizes);
        ht_amx_begin(TILE, TILE);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < parts * shares; task++) {
            int64_t col = task / shares * width, row = task % shares * share;
            product_part(p, &m, &(part){row, smaller(row + share, M), col, smaller(width, N - col)});
        }
        ht_amx_end();
    }
    return HT_OK;
}

/* Sums can be rounded before they are turned. */
static int turns_pairs(const product *p) {
    return p->y->dtype == HT_BF16 && !p->add;
}

/* The rows of w that come after those from `col` on: the first two products with these ask for half of them each. */
static ht_amx_ahead next_rows(const product *p, int64_t col, int64_t row) {
    int64_t count = p->x->rows > BLOCK ? BLOCK / 2 : BLOCK, next = col + BLOCK + row / BLOCK * count;
    if (row >= 2 * BLOCK || next + count > p->w->rows) return (ht_amx_ahead){0};
    return (ht_amx_ahead){ht_element(p->w, next, 0), count, p->w->stride * 2};
}

/* y = x w^T (+ add) with x in tiles: w is read once, as it lies. */
static ht_status run_few_rows(ht_backend *be, const product *p, ht_error *err) {
    int64_t N = p->y->cols, M = p->y->rows, units = round_up(p->x->cols, STEP) / 2, blocks = (N + BLOCK - 1) / BLOCK;
    const memory sizes = {round_up(M, TILE) * units, BLOCK * (units + TILE), BLOCK_FLOATS, NULL, NULL, NULL};
    ht_status status = reserve(be, &sizes, err);
    if (status) return status;
#pragma omp parallel num_threads(be->threads) if (M * N * p->x->cols > 65536)
    {
        memory m = place(be, sizes);
        int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
        ht_amx_begin(TILE, TILE);
        tiles_of_rows(m.tiles, units, p->x, 0, M, 0); /* each thread for itself: they are few */
        for (int64_t block = blocks * thread / threads; block < blocks * (thread + 1) / threads; block++) {
            int64_t col = block * BLOCK, cols = smaller(BLOCK, N - col);
            left w = rows_of(p->w, col, cols, 0, units, 0, m.copy);
            for (int64_t row = 0; row < M; row += BLOCK) {
                multiply_ahead(m.sums, BLOCK, 1, w, cols, (right){m.tiles + row * units, units * TILE}, M - row, units,
                               next_rows(p, col, row));
                if (turns_pairs(p) && cols == BLOCK)
                    store_turned_pairs(p->y, row, smaller(BLOCK, M - row), col, m.sums);
                else
                    store_turned(p->y, p->add, row, smaller(BLOCK, M - row), col, cols, m.sums);
            }
        }
        ht_amx_end();
    }
    return HT_OK;
}

/* x's tiles leave room in the second cache, and turning sums takes less than bringing w into tiles. */
static int has_few_rows(const product *p) {
    int64_t rows = p->x->rows, depth = p->x->cols;
    return rows * depth <= MOST_TILED && (turns_pairs(p) || rows < 64 + depth / 2);
}

ht_status HT_CPU(matmul_forward)(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                                 const ht_tensor *add, ht_error *err) {
    if (x->dtype != HT_BF16) return ht_cpu_matmul_forward(be, y, x, w, add, err);
    const product p = {y, x, w, add, 1};
    return has_few_rows(&p) ? run_few_rows(be, &p, err) : run_product(be, &p, err);
}

ht_status HT_CPU(matmul_backward_data)(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const ht_tensor *w,
                                       ht_error *err) {
    if (dy->dtype != HT_BF16) return ht_cpu_matmul_backward_data(be, dx, dy, w, err);
    return run_product(be, &(product){dx, dy, w, NULL, 0}, err);
}

/* 32 rows of dw from `row` on, columns [col, col + cols): += a b, b's columns `units` deep. */
static void weight_rows(const ht_tensor *dw, int64_t row, int64_t rows, int64_t col, int64_t cols, left a, const float *tiles,
                        int64_t units, float *sums) {
    int64_t panel = panel_of(units);
    for (int64_t u = 0; u < units; u += panel)
        for (int64_t j = col; j < col + cols; j += BLOCK) {
            int64_t now = smaller(BLOCK, col + cols - j), depth = smaller(panel, units - u);
            left from = {a.data + u, a.stride};
            right b = {tiles + j * units + u * TILE, units * TILE};
            if (rows == BLOCK && now == BLOCK) {
                multiply(ht_element(dw, row, j), dw->stride, 0, from, rows, b, now, depth);
                continue;
            }
            multiply(sums, BLOCK, 1, from, rows, b, now, depth);
            store_blocks(dw, dw, row, rows, j, now, sums);
        }
}

/* dw rows [row, row + n) += what tokens [first, end) come to; `tiles`: of x. */
static void weight_part(const ht_tensor *dw, const ht_tensor *dy, const float *tiles, const memory *m, int64_t first,
                        int64_t end, int64_t row, int64_t n) {
    int64_t units = round_up(end - first, STEP) / 2, stride = units + TILE;
    const int64_t width = 2 * WIDTH; /* tiles of so many columns and the rows of dy stay in the second cache */
    turn_columns(m->copy, stride, dy, first, end, row, n);
    for (int64_t col = 0; col < dw->cols; col += width)
        for (int64_t i = 0; i < n; i += BLOCK)
            weight_rows(dw, row + i, smaller(BLOCK, n - i), col, smaller(width, dw->cols - col),
                        (left){m->copy + i * stride, stride}, tiles, units, m->sums);
}

ht_status HT_CPU(matmul_backward_weight)(ht_backend *be, ht_tensor *dw, const ht_tensor *dy, const ht_tensor *x,
                                         ht_error *err) {
    if (dy->dtype != HT_BF16) return ht_cpu_matmul_backward_weight(be, dw, dy, x, err);
    int64_t N = dw->rows, span = smaller(DEPTH, round_up(dy->rows, STEP));
    int64_t width = width_of(N, be->threads);
    const memory sizes = {round_up(dw->cols, TILE) * span / 2, width * (span / 2 + TILE), BLOCK_FLOATS, NULL, NULL, NULL};
    ht_status status = reserve(be, &sizes, err);
    if (status) return status;
    float *tiles = ht_cpu_scratch(be, 0); /* of x, for all threads */
#pragma omp parallel num_threads(be->threads)
    {
        memory m = place(be, sizes);
        ht_amx_begin(TILE, TILE);
        for (int64_t first = 0; first < dy->rows; first += span) {
            int64_t end = smaller(first + span, dy->rows), units = round_up(end - first, STEP) / 2;
#pragma omp for schedule(static)
            for (int64_t u = 0; u < units; u += TILE)
                tiles_of_columns(tiles, units, u, u + TILE, x, first, end, 0, dw->cols);
#pragma omp for schedule(dynamic, 1)
            for (int64_t row = 0; row < N; row += width)
                weight_part(dw, dy, tiles, &m, first, end, row, smaller(width, N - row));
        }
        ht_amx_end();
    }
    return HT_OK;
}
#endif
