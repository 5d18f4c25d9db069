#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/launch.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/comm/internal.h"

#define PATIENCE 60.0

/* --- life -------------------------------------------------------------------------------------------------- */

static void release(ht_comm *comm) {
    ht_comm_device_close(comm->device);
    if (comm->link) ht_comm_link_close(comm);
    free(comm->parts);
    free(comm);
}

ht_status ht_comm_open(ht_comm **comm, ht_error *err) {
    ht_status status = HT_OK;
    ht_comm *made = NULL;
    int launched = ht_launched_processes();
    *comm = NULL;
    if (launched == 1) return HT_OK;
    HT_TRY(ht_calloc(&made, 1, sizeof *made, err));
    made->patience = PATIENCE;
    HT_TRY(ht_comm_link_open(made, err));
    if (made->size != launched) {
        status = ht_fail(err, HT_ERR_USAGE,
                         "started as %d processes, of which MPI has brought %d together: the launcher is not that of the MPI "
                         "this program is built with (with srun, see --mpi)",
                         launched, made->size);
        goto done;
    }
    HT_TRY(ht_calloc(&made->parts, (size_t)made->size * HT_COMM_SLICE, sizeof *made->parts, err));
    if (made->rank > 0) ht_log_set_level(HT_LOG_SILENT);
    *comm = made;
done:
    if (status != HT_OK && made) release(made);
    return status;
}

/* Of the ranks that failed by themselves, the first; -1: none has. */
static int first_failed(const ht_comm_ending *endings, int size) {
    for (int k = 0; k < size; k++)
        if (endings[k].status != HT_OK && !endings[k].is_learned) return k;
    return -1;
}

ht_status ht_comm_close(ht_comm *comm, ht_status status, ht_error *err) {
    if (!comm) return status;
    ht_comm_ending own = {.status = (int)status, .is_learned = comm->has_learned};
    memcpy(own.message, err->message, sizeof own.message);
    const ht_comm_ending *endings = ht_comm_end(comm, &own);
    int first = first_failed(endings, comm->size);
    if (first >= 0 && first != comm->rank) {
        *err = (ht_error)HT_ERROR_INIT;
        status = ht_fail(err, (ht_status)endings[first].status, "rank %d: %s", first, endings[first].message);
    }
    release(comm);
    return status;
}

int ht_comm_rank(const ht_comm *comm) {
    return comm ? comm->rank : 0;
}

int ht_comm_size(const ht_comm *comm) {
    return comm ? comm->size : 1;
}

int ht_comm_local_rank(const ht_comm *comm) {
    return comm ? comm->local_rank : 0;
}

void ht_comm_part(const ht_comm *comm, int64_t count, int64_t *first, int64_t *end) {
    int rank = ht_comm_rank(comm), size = ht_comm_size(comm);
    *first = ht_comm_part_start(count, rank, size);
    *end = ht_comm_part_start(count, rank + 1, size);
}

/* --- bytes -------------------------------------------------------------------------------------------------- */

/* Room for the messages of an exchange: out [size], in [size]. */
static ht_status allocate_messages(const ht_comm *comm, ht_comm_message **messages, ht_error *err) {
    return ht_calloc(messages, 2 * (size_t)comm->size, sizeof **messages, err);
}

/* Sends the same bytes to all others, and receives from each of them. */
static ht_status exchange_all(ht_comm *comm, const void *data, size_t bytes, const ht_comm_message *in, const char *what,
                              ht_error *err) {
    ht_status status = HT_OK;
    ht_comm_message *out = NULL;
    HT_TRY(ht_calloc(&out, (size_t)comm->size, sizeof *out, err));
    for (int k = 0; k < comm->size; k++)
        out[k] = (ht_comm_message){(void *)(uintptr_t)data, bytes};
    status = ht_comm_exchange(comm, out, in, what, err);
done:
    free(out);
    return status;
}

ht_status ht_comm_barrier(ht_comm *comm, ht_error *err) {
    double nothing = 0;
    return ht_comm_sum(comm, &nothing, 1, err);
}

ht_status ht_comm_broadcast(ht_comm *comm, void *data, size_t bytes, ht_error *err) {
    ht_status status = HT_OK;
    ht_comm_message *messages = NULL;
    if (!comm) return HT_OK;
    HT_TRY(allocate_messages(comm, &messages, err));
    ht_comm_message *out = messages, *in = messages + comm->size;
    for (int k = 1; k < comm->size && comm->rank == 0; k++)
        out[k] = (ht_comm_message){data, bytes};
    if (comm->rank > 0) in[0] = (ht_comm_message){data, bytes};
    status = ht_comm_exchange(comm, out, in, "broadcast", err);
done:
    free(messages);
    return status;
}

static ht_status gather_bytes(ht_comm *comm, const void *data, size_t bytes, ht_gathered *all, ht_error *err) {
    ht_status status = HT_OK;
    ht_comm_message *in = NULL;
    size_t *sizes = all->start + 1;
    HT_TRY(ht_calloc(&in, (size_t)comm->size, sizeof *in, err));
    for (int k = 0; k < comm->size; k++)
        in[k] = (ht_comm_message){&sizes[k], sizeof *sizes};
    HT_TRY(exchange_all(comm, &bytes, sizeof bytes, in, "gather", err));
    sizes[comm->rank] = bytes;
    for (int k = 0; k < comm->size; k++)
        sizes[k] += all->start[k];
    HT_TRY(ht_calloc(&all->data, all->start[comm->size], 1, err));
    for (int k = 0; k < comm->size; k++)
        in[k] = (ht_comm_message){all->data + all->start[k], all->start[k + 1] - all->start[k]};
    if (bytes) memcpy(in[comm->rank].data, data, bytes);
    HT_TRY(exchange_all(comm, data, bytes, in, "gather", err));
done:
    free(in);
    return status;
}

ht_status ht_comm_gather(ht_comm *comm, const void *data, size_t bytes, ht_gathered *all, ht_error *err) {
    ht_status status = HT_OK;
    memset(all, 0, sizeof *all);
    HT_TRY(ht_calloc(&all->start, (size_t)ht_comm_size(comm) + 1, sizeof *all->start, err));
    if (comm) {
        HT_TRY(gather_bytes(comm, data, bytes, all, err));
    } else {
        HT_TRY(ht_calloc(&all->data, bytes, 1, err));
        all->start[1] = bytes;
        if (bytes) memcpy(all->data, data, bytes);
    }
done:
    if (status != HT_OK) ht_gathered_free(all);
    return status;
}

void ht_gathered_free(ht_gathered *all) {
    free(all->data);
    free(all->start);
    memset(all, 0, sizeof *all);
}

/* --- numbers ------------------------------------------------------------------------------------------------ */

static double add(double a, double b) {
    return a + b;
}

/* x = each number of all ranks put together in the order of the ranks. */
static ht_status combine(ht_comm *comm, double *x, int64_t count, double (*with)(double, double), ht_error *err) {
    ht_status status = HT_OK;
    ht_gathered all = {NULL, NULL};
    size_t bytes = (size_t)count * sizeof *x;
    if (!comm) return HT_OK;
    HT_TRY(ht_comm_gather(comm, x, bytes, &all, err));
    memcpy(x, all.data, bytes);
    for (int k = 1; k < comm->size; k++)
        for (int64_t i = 0; i < count; i++) {
            double other;
            memcpy(&other, all.data + all.start[k] + (size_t)i * sizeof other, sizeof other);
            x[i] = with(x[i], other);
        }
done:
    ht_gathered_free(&all);
    return status;
}

ht_status ht_comm_sum(ht_comm *comm, double *x, int64_t count, ht_error *err) {
    return combine(comm, x, count, add, err);
}

ht_status ht_comm_max(ht_comm *comm, double *x, int64_t count, ht_error *err) {
    return combine(comm, x, count, fmax, err);
}

/* --- sums of the backend's memory --------------------------------------------------------------------------- */

ht_status ht_comm_use_device(ht_comm *comm, void *stream, ht_error *err) {
    return comm ? ht_comm_device_open(&comm->device, comm, stream, err) : HT_OK;
}

/* slice [n] = the sum over the ranks; part k is that of rank k, slice's own content that of this one. */
static void add_parts(const ht_comm *comm, float *slice, int64_t n) {
    enum { BLOCK = 1024 }; /* stays in the cache */
    float sum[BLOCK];
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t count = n - first < BLOCK ? n - first : BLOCK;
        for (int k = 0; k < comm->size; k++) {
            const float *part = (k == comm->rank ? slice : comm->parts + (int64_t)k * HT_COMM_SLICE) + first;
            for (int64_t i = 0; i < count; i++)
                sum[i] = k ? sum[i] + part[i] : part[i];
        }
        memcpy(slice + first, sum, (size_t)count * sizeof *sum);
    }
}

/* A piece of at most size * HT_COMM_SLICE elements. */
static ht_status sum_piece(ht_comm *comm, float *x, int64_t n, ht_comm_message *messages, ht_error *err) {
    ht_status status = HT_OK;
    ht_comm_message *slices = messages, *in = messages + comm->size;
    for (int k = 0; k < comm->size; k++) {
        int64_t first = ht_comm_part_start(n, k, comm->size), end = ht_comm_part_start(n, k + 1, comm->size);
        slices[k] = (ht_comm_message){x + first, (size_t)(end - first) * sizeof *x};
    }
    ht_comm_message own = slices[comm->rank];
    for (int k = 0; k < comm->size; k++)
        in[k] = (ht_comm_message){comm->parts + (int64_t)k * HT_COMM_SLICE, own.bytes};
    HT_TRY(ht_comm_exchange(comm, slices, in, "sum of gradients", err));
    add_parts(comm, own.data, (int64_t)(own.bytes / sizeof *x));
    HT_TRY(exchange_all(comm, own.data, own.bytes, slices, "sum of gradients", err));
done:
    return status;
}

ht_status ht_comm_sum_f32(ht_comm *comm, float *x, int64_t n, ht_error *err) {
    ht_status status = HT_OK;
    ht_comm_message *messages = NULL;
    if (!comm) return HT_OK;
    if (comm->device) return ht_comm_device_sum(comm->device, x, n, err);
    int64_t piece = (int64_t)comm->size * HT_COMM_SLICE;
    HT_TRY(allocate_messages(comm, &messages, err));
    for (int64_t first = 0; first < n; first += piece)
        HT_TRY(sum_piece(comm, x + first, n - first < piece ? n - first : piece, messages, err));
done:
    free(messages);
    return status;
}
