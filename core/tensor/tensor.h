/*
 * tensor.h: a row-major matrix view. Everything in the packed transformer is a matrix: [tokens, features] or
 * [out, in]; heads are runs of columns.
 */
#ifndef HT_TENSOR_TENSOR_H
#define HT_TENSOR_TENSOR_H

#include <stdint.h>

#include "core/tensor/dtype.h"

/* Borrowed memory of a backend (host code must not dereference `data` of a device backend). */
typedef struct ht_tensor {
    void *data;
    int64_t rows, cols;
    int64_t stride; /* elements from one row to the next, >= cols */
    ht_dtype dtype;
} ht_tensor;

/* Contiguous view. */
static inline ht_tensor ht_tensor_of(void *data, ht_dtype dtype, int64_t rows, int64_t cols) {
    return (ht_tensor){.data = data, .rows = rows, .cols = cols, .stride = cols, .dtype = dtype};
}

/* Columns [first, first + cols) of every row. */
static inline ht_tensor ht_tensor_columns(ht_tensor t, int64_t first, int64_t cols) {
    t.data = (char *)t.data + (size_t)first * ht_dtype_size(t.dtype);
    t.cols = cols;
    return t;
}

/* Rows [first, first + rows). */
static inline ht_tensor ht_tensor_rows(ht_tensor t, int64_t first, int64_t rows) {
    t.data = (char *)t.data + (size_t)(first * t.stride) * ht_dtype_size(t.dtype);
    t.rows = rows;
    return t;
}

#endif
