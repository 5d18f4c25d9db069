/*
 * tile.h: small single-threaded products on packed tiles, for attention.
 */
#ifndef HT_BACKEND_CPU_TILE_H
#define HT_BACKEND_CPU_TILE_H

#include "core/backend/cpu/amx.h"
#include "core/backend/cpu/simd.h"

/* Accumulators of a kernel, rows by vectors: as many as the registers hold. */
#ifdef __AVX512F__
enum { HT_KERNEL_ROWS = 4, HT_KERNEL_VECTORS = 4 };
#else
enum { HT_KERNEL_ROWS = 4, HT_KERNEL_VECTORS = 1 };
#endif

enum { HT_TILE_GROUPS = 8 }; /* of a product over rows that lie apart */
enum { HT_TILE_FEW_ROWS = 2 }; /* vectors are faster than AMX */

/* How products run. step 0: by vectors; rows 0: by vectors that give the bits of AMX with this step. */
typedef struct ht_tile_mode {
    int pairs;      /* units are pairs of bf16 */
    int rows, step; /* of AMX's tiles (amx.h) */
    unsigned control; /* of vectors' arithmetic, as it was before */
} ht_tile_mode;

/*
 * Before a thread's products, and after them. Their rows are at most `rows`, their depths multiples of `step`; with step 0 AMX
 * is not used. On AMX whole tiles are read and written: A and C have memory for rows up to the next multiple of mode.rows.
 * A row or two fill no tile: vectors ask the memory for more at a time.
 */
static inline ht_tile_mode ht_tile_begin(int pairs, int64_t rows, int step) {
    ht_tile_mode mode = {.pairs = pairs};
#ifdef __AMX_BF16__
    if (pairs) mode.step = step;
    if (mode.step && rows > HT_TILE_FEW_ROWS) {
        mode.rows = rows < 16 ? (int)rows : 16;
        ht_amx_begin(mode.rows, mode.step);
    } else if (mode.step) { /* like AMX, subnormal operands and results count as zero */
        enum { FLUSH_RESULTS = 0x8000, FLUSH_OPERANDS = 0x0040 };
        mode.control = _mm_getcsr();
        _mm_setcsr(mode.control | FLUSH_RESULTS | FLUSH_OPERANDS);
    }
#else
    (void)rows;
    (void)step;
#endif
    return mode;
}

static inline void ht_tile_end(ht_tile_mode mode) {
#ifdef __AMX_BF16__
    if (mode.rows)
        ht_amx_end();
    else if (mode.step)
        _mm_setcsr(mode.control);
#else
    (void)mode;
#endif
}

/* The rows that m rows take in memory. */
static inline int64_t ht_tile_rows(ht_tile_mode mode, int64_t m) {
    return mode.rows ? (m + mode.rows - 1) / mode.rows * mode.rows : m;
}

/* The depth to which operands are filled with zeros. */
static inline int64_t ht_tile_depth(ht_tile_mode mode, int64_t units) {
    return mode.step ? (units + mode.step - 1) / mode.step * mode.step : units;
}

/* --- C += A B --------------------------------------------------------------------------------------------- */

/* The left operand, in units: row i at data + i * stride. */
typedef struct ht_tile_left {
    const float *data;
    int64_t stride;
} ht_tile_left;

/* The right operand, in units: row k of vector j is at columns[j] + k * stride. */
typedef struct ht_tile_right {
    const float *columns[HT_KERNEL_VECTORS];
    int64_t stride;
} ht_tile_right;

/* The result: rows of `stride` floats, added to what is there, or `fresh`. */
typedef struct ht_tile_out {
    float *data;
    int64_t stride;
    int fresh;
} ht_tile_out;

/* Constants `pairs`, `rows` and `vectors`, so that accumulators stay in registers. An element's sum runs over k in order,
 * whatever the shape: its bits depend on its row and column alone. */
HT_INLINE void ht_tile_kernel(const int pairs, const int rows, const int vectors, float *c, const ht_tile_out *out,
                              const float *a, int64_t lda, const ht_tile_right *b, int64_t depth) {
    ht_lanes acc[HT_KERNEL_ROWS][HT_KERNEL_VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            acc[i][j] = out->fresh ? (ht_lanes){0} : *(const ht_lanes *)(c + i * out->stride + j * HT_LANES);
    for (int64_t k = 0; k < depth; k++) {
        ht_lanes right[HT_KERNEL_VECTORS];
        for (int j = 0; j < vectors; j++)
            right[j] = *(const ht_lanes *)(b->columns[j] + k * b->stride);
        for (int i = 0; i < rows; i++) {
            ht_lanes left = ht_broadcast(a + i * lda + k);
            for (int j = 0; j < vectors; j++)
                acc[i][j] = ht_multiply_add(pairs, acc[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            *(ht_lanes *)(c + i * out->stride + j * HT_LANES) = acc[i][j];
}

HT_INLINE void ht_tile_strip(const int pairs, const int vectors, const ht_tile_out *c, ht_tile_left a,
                             const ht_tile_right *b, int64_t m, int64_t depth) {
    int64_t i = 0;
    for (; i + HT_KERNEL_ROWS <= m; i += HT_KERNEL_ROWS)
        ht_tile_kernel(pairs, HT_KERNEL_ROWS, vectors, c->data + i * c->stride, c, a.data + i * a.stride, a.stride, b,
                       depth);
    for (; i < m; i++)
        ht_tile_kernel(pairs, 1, vectors, c->data + i * c->stride, c, a.data + i * a.stride, a.stride, b, depth);
}

#ifdef __AMX_BF16__
/* One row with AMX's rounding: of each step, even and odd elements are summed apart, then both, and that joins the sum. */
HT_INLINE void ht_tile_stepped_kernel(const int vectors, float *c, int fresh, const float *a, const ht_tile_right *b,
                                      int64_t depth, int step) {
    ht_lanes acc[HT_KERNEL_VECTORS];
    for (int j = 0; j < vectors; j++)
        acc[j] = fresh ? (ht_lanes){0} : *(const ht_lanes *)(c + j * HT_LANES);
    for (int64_t k = 0; k < depth; k += step) {
        ht_lanes even[HT_KERNEL_VECTORS] = {{0}}, odd[HT_KERNEL_VECTORS] = {{0}};
        for (int64_t u = k; u < k + step; u++) {
            ht_lanes_bits left = (ht_lanes_bits)ht_broadcast(a + u);
            for (int j = 0; j < vectors; j++) {
                ht_lanes_bits right = *(const ht_lanes_bits *)(b->columns[j] + u * b->stride);
                even[j] += (ht_lanes)(left << 16) * (ht_lanes)(right << 16);
                odd[j] += (ht_lanes)(left & 0xffff0000u) * (ht_lanes)(right & 0xffff0000u);
            }
        }
        for (int j = 0; j < vectors; j++)
            acc[j] += even[j] + odd[j];
    }
    for (int j = 0; j < vectors; j++)
        *(ht_lanes *)(c + j * HT_LANES) = acc[j];
}

HT_INLINE void ht_tile_stepped(const int vectors, const ht_tile_out *c, ht_tile_left a, const ht_tile_right *b, int64_t m,
                               int64_t depth, int step) {
    for (int64_t i = 0; i < m; i++)
        ht_tile_stepped_kernel(vectors, c->data + i * c->stride, c->fresh, a.data + i * a.stride, b, depth, step);
}

HT_INLINE void ht_tile_amx(const int grouped, ht_tile_mode mode, int64_t vectors, const ht_tile_out *c, ht_tile_left a,
                           ht_amx_right right, int64_t m, int64_t depth) {
#define BLOCK(tall, wide)                                                                                      \
    ht_amx_block(tall, wide, grouped, c->fresh, c->data + i * c->stride + j * HT_LANES, c->stride,             \
                 a.data + i * a.stride, a.stride, at, depth, mode.rows, mode.step)
    for (int64_t i = 0; i < m; i += 2 * mode.rows)
        for (int64_t j = 0; j < vectors; j += 2) {
            int tall = i + mode.rows < m, wide = j + 1 < vectors;
            ht_amx_right at = right;
            const float *groups[HT_TILE_GROUPS];
            if (!grouped) at.columns += j;
            for (int64_t s = 0; grouped && s < depth / mode.step; s++)
                groups[s] = right.groups[s] + j * HT_LANES;
            if (grouped) at.groups = groups;
            if (tall && wide)
                BLOCK(1, 1);
            else if (tall)
                BLOCK(1, 0);
            else if (wide)
                BLOCK(0, 1);
            else
                BLOCK(0, 0);
        }
#undef BLOCK
}
#endif

HT_INLINE void ht_tile_vectors(const int vectors, ht_tile_mode mode, const ht_tile_out *c, ht_tile_left a,
                               const ht_tile_right *b, int64_t m, int64_t depth) {
#ifdef __AMX_BF16__
    if (mode.step) {
        ht_tile_stepped(vectors, c, a, b, m, depth, mode.step);
        return;
    }
#endif
    if (mode.pairs)
        ht_tile_strip(1, vectors, c, a, b, m, depth);
    else
        ht_tile_strip(0, vectors, c, a, b, m, depth);
}

/* C[m, 16 vectors] (+)= A[m, depth] B, `vectors` at most HT_KERNEL_VECTORS, depth in units. */
static inline void ht_tile_columns(ht_tile_mode mode, int vectors, const ht_tile_out *c, ht_tile_left a,
                                   const ht_tile_right *b, int64_t m, int64_t depth) {
#ifdef __AMX_BF16__
    if (mode.rows) {
        ht_tile_amx(0, mode, vectors, c, a, (ht_amx_right){.columns = b->columns, .stride = b->stride}, m, depth);
        return;
    }
#endif
#define STRIP(n)                                                                                              \
    case n: ht_tile_vectors(n, mode, c, a, b, m, depth); break;
    switch (vectors) {
        STRIP(1)
#if defined(__AVX512F__)
        STRIP(2)
        STRIP(3)
        STRIP(4)
#endif
    default: break;
    }
#undef STRIP
}

/* C[m, n] (+)= A[m, depth] B[depth, n]; B in rows of `ldb` units; n a multiple of 16 (C and B are padded that far). */
static inline void ht_tile_product(ht_tile_mode mode, ht_tile_out c, ht_tile_left a, const float *b, int64_t ldb,
                                   int64_t m, int64_t n, int64_t depth) {
    for (int64_t j = 0; j < n; j += HT_KERNEL_VECTORS * HT_LANES) {
        int64_t left = (n - j) / HT_LANES;
        int vectors = left < HT_KERNEL_VECTORS ? (int)left : HT_KERNEL_VECTORS;
        ht_tile_right right = {.stride = ldb};
        for (int v = 0; v < vectors; v++)
            right.columns[v] = b + j + v * HT_LANES;
        ht_tile_columns(mode, vectors, &(ht_tile_out){c.data + j, c.stride, c.fresh}, a, &right, m, depth);
    }
}

/* C[m, n] += A[m, groups of `group` units] B, where rows of B lie in groups of `group` units, each at its own place: `count`
 * groups, HT_TILE_GROUPS at most; on AMX `group` is the mode's step. */
static inline void ht_tile_groups(ht_tile_mode mode, ht_tile_out c, ht_tile_left a, const float *const *groups, int64_t count,
                                  int64_t group, int64_t ldb, int64_t m, int64_t n) {
#ifdef __AMX_BF16__
    if (mode.rows) {
        ht_tile_amx(1, mode, n / HT_LANES, &c, a, (ht_amx_right){.groups = groups, .stride = ldb}, m, count * group);
        return;
    }
#endif
    for (int64_t g = 0; g < count; g++)
        ht_tile_product(mode, c, (ht_tile_left){a.data + g * group, a.stride}, groups[g], ldb, m, n, group);
}

#endif
