/*
 * In place of the CUDA backend where there was no compiler for it.
 */
#include "core/backend/ops.h"

ht_status ht_cuda_open(ht_backend *be, int device, int threads, ht_error *err) {
    (void)be;
    (void)device;
    (void)threads;
    return ht_fail(err, HT_ERR_USAGE, "backend \"cuda\" is not built into this program; built in: cpu");
}
