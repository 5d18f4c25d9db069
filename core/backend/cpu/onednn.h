/*
 * onednn.h: oneDNN's matmul primitive behind one call, for oneDNN 2.6 to 3.x; primitives are created once a shape.
 */
#ifndef HT_BACKEND_CPU_ONEDNN_H
#define HT_BACKEND_CPU_ONEDNN_H

#include <stdint.h>

#include "core/backend/ops.h"

typedef struct ht_onednn ht_onednn;

ht_status ht_onednn_open(ht_onednn **library, ht_error *err);
void ht_onednn_close(ht_onednn *library);

/* An operand: element (i, k) at data + i * row + k * col elements. One of row, col is 1. */
typedef struct ht_onednn_matrix {
    const void *data;
    int64_t row, col;
} ht_onednn_matrix;

/*
 * C[m, n] = A[m, k] B[k, n] (+ C): A and B bf16; C bf16 or f32, rows of `c.row` elements.
 *   any_rows, any_depth: m or k differs from call to call, so one primitive serves all of them
 * HT_ERR_USAGE where oneDNN has no such product for this processor.
 */
typedef struct ht_onednn_product {
    int64_t m, n, k;
    ht_onednn_matrix a, b, c;
    int c_is_f32, accumulate, any_rows, any_depth;
} ht_onednn_product;
ht_status ht_onednn_matmul(ht_onednn *library, const ht_onednn_product *product, ht_error *err);

/* How fast oneDNN multiplies bf16 on this processor beside f32; *why in words. */
ht_bf16_speed ht_onednn_bf16_speed(const char **why);

#endif
