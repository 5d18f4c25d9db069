/*
 * Products for decoding.  Contract: backend.h, ht_matmul_rows.
 *
 * Every element is one dot product over K in a fixed order of 16 running sums, added up by a fixed tree, so its bits depend
 * on its row of x and its row of w alone. Weights are read once, in the order in which they lie: with few rows of x that is
 * what limits the speed.
 */
#include <omp.h>

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/rows.h"
#include "core/backend/cpu/simd.h"

/* Rows of x by rows of w whose sums stay in registers; one row of x alone takes more of w. */
#ifdef __AVX512F__
enum { BLOCK_M = 4, BLOCK_N = 4, SINGLE_N = 16 };
#else
enum { BLOCK_M = 2, BLOCK_N = 2, SINGLE_N = 4 };
#endif
enum { STRIP = HT_LANES, CHUNK_BYTES = 128 * 1024 }; /* columns of y at a time; rows of x that stay in the second cache */

HT_INLINE ht_lanes load(const void *p) {
    typedef float unaligned __attribute__((vector_size(HT_LANES * 4), aligned(2), may_alias));
    return *(const unaligned *)p;
}

/* to[i][first + j] = x[i] . w[j], for constants rows * cols <= 16. */
HT_INLINE void dot_block(const int rows, const int cols, const int half, float (*to)[STRIP], int first,
                         const void *const *x, const void *const *w, int64_t depth) {
    const int64_t step = half ? 2 * HT_LANES : HT_LANES, size = half ? 2 : 4;
    int64_t whole = depth / step * step, left = depth - whole;
    ht_lanes sums[HT_LANES];
    for (int i = 0; i < HT_LANES; i++)
        sums[i] = (ht_lanes){0};
    for (int64_t k = 0; k < whole; k += step)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                sums[i * cols + j] = ht_multiply_add(half, sums[i * cols + j], load((const char *)x[i] + k * size),
                                                     load((const char *)w[j] + k * size));
    if (left > 0) {
        ht_lanes x_tail[BLOCK_M] = {{0}}, w_tail[SINGLE_N] = {{0}};
        for (int i = 0; i < rows; i++)
            memcpy(&x_tail[i], (const char *)x[i] + whole * size, (size_t)(left * size));
        for (int j = 0; j < cols; j++)
            memcpy(&w_tail[j], (const char *)w[j] + whole * size, (size_t)(left * size));
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                sums[i * cols + j] = ht_multiply_add(half, sums[i * cols + j], x_tail[i], w_tail[j]);
    }
    ht_lanes result = ht_sum_each(sums);
    for (int i = 0; i < rows; i++)
        memcpy(&to[i][first], (const float *)&result + i * cols, (size_t)cols * sizeof(float));
}

/* A strip of y: rows [row, row + rows) of x, columns [col, col + n), n <= STRIP. */
typedef struct product {
    ht_tensor *y;
    const ht_tensor *x, *w, *add;
} product;

static void finish_strip(const product *p, float (*values)[STRIP], int64_t row, int rows, int64_t col, int64_t n) {
    float buffer[STRIP];
    for (int i = 0; i < rows; i++) {
        float *v = values[i];
        if (p->add) {
            const float *add = ht_read(p->add, row + i, col, n, buffer);
            for (int64_t j = 0; j < n; j++)
                v[j] += add[j];
        }
        if (p->y->dtype == HT_BF16)
            ht_to_bf16(ht_element(p->y, row + i, col), v, n);
        else
            memcpy(ht_element(p->y, row + i, col), v, (size_t)n * sizeof *v);
    }
}

HT_INLINE void strip_rows(const int rows, const int cols, const int half, const product *p, int64_t row, int64_t col,
                          int64_t n, const void *const *w) {
    float values[BLOCK_M][STRIP];
    const void *x[BLOCK_M];
    for (int i = 0; i < rows; i++)
        x[i] = ht_element(p->x, row + i, 0);
    for (int first = 0; first < n; first += cols)
        dot_block(rows, cols, half, values, first, x, w + first, p->x->cols);
    finish_strip(p, values, row, rows, col, n);
}

HT_INLINE void run_strip(const int half, const product *p, int64_t first_row, int64_t end_row, int64_t col, int64_t n) {
    const void *w[STRIP];
    for (int64_t j = 0; j < STRIP; j++) /* beyond the last column: computed, not stored */
        w[j] = ht_element(p->w, col + (j < n ? j : n - 1), 0);
    int64_t row = first_row;
    for (; row + BLOCK_M <= end_row; row += BLOCK_M)
        strip_rows(BLOCK_M, BLOCK_N, half, p, row, col, n, w);
    for (; row < end_row; row++)
        strip_rows(1, SINGLE_N, half, p, row, col, n, w);
}

ht_status HT_CPU(matmul_rows)(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                              const ht_tensor *add, ht_error *err) {
#ifdef __AMX_BF16__
    if (x->dtype == HT_BF16) return HT_CPU(matmul_forward)(be, y, x, w, add, err);
#endif
    (void)err;
    product p = {y, x, w, add};
    int64_t N = w->rows, strips = (N + STRIP - 1) / STRIP, bytes = x->cols * (int64_t)ht_dtype_size(x->dtype);
    int64_t chunk = CHUNK_BYTES / (bytes > 0 ? bytes : 1) / BLOCK_M * BLOCK_M;
    chunk = chunk < BLOCK_M ? BLOCK_M : chunk;
#pragma omp parallel num_threads(be->threads) if (x->rows * N * x->cols > 65536)
    {
        int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
        int64_t begin = strips * thread / threads, end = strips * (thread + 1) / threads;
        for (int64_t row = 0; row < x->rows; row += chunk) {
            int64_t end_row = row + chunk < x->rows ? row + chunk : x->rows;
            for (int64_t strip = begin; strip < end; strip++) {
                int64_t col = strip * STRIP, n = N - col < STRIP ? N - col : STRIP;
                if (x->dtype == HT_BF16)
                    run_strip(1, &p, row, end_row, col, n);
                else
                    run_strip(0, &p, row, end_row, col, n);
            }
        }
    }
    return HT_OK;
}
