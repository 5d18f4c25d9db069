/*
 * Host memory, by several threads: what is read from a mapped file waits for the disk page by page.
 */
#include <omp.h>
#include <string.h>

#include "core/backend/ops.h"

enum { SHARE = 256 << 10, BUFFER = 4096 }; /* bytes a thread does at once; elements */

int ht_host_threads(int threads) {
    return threads > 0 ? threads : omp_get_num_procs();
}

void ht_host_copy(const ht_backend *be, void *out, const void *in, size_t bytes) {
    int64_t shares = (int64_t)((bytes + SHARE - 1) / SHARE);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (shares > 1)
    for (int64_t i = 0; i < shares; i++) {
        size_t first = (size_t)i * SHARE;
        memcpy((char *)out + first, (const char *)in + first, bytes - first < SHARE ? bytes - first : SHARE);
    }
}

void ht_host_convert(const ht_backend *be, void *out, ht_dtype out_dtype, const void *in, ht_dtype in_dtype, int64_t n) {
    size_t out_size = ht_dtype_size(out_dtype), in_size = ht_dtype_size(in_dtype);
    if (in_dtype == out_dtype) {
        ht_host_copy(be, out, in, (size_t)n * in_size);
        return;
    }
    int64_t shares = (n + BUFFER - 1) / BUFFER;
#pragma omp parallel for schedule(static) num_threads(be->threads) if (shares > SHARE / BUFFER)
    for (int64_t i = 0; i < shares; i++) {
        float aligned[BUFFER];
        size_t first = (size_t)i * BUFFER, count = (size_t)n - first < BUFFER ? (size_t)n - first : BUFFER;
        memcpy(aligned, (const char *)in + first * in_size, count * in_size);
        ht_convert((char *)out + first * out_size, out_dtype, aligned, in_dtype, count);
    }
}
