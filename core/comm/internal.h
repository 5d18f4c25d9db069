/*
 * internal.h: what the files of core/comm share. Not for other modules.
 */
#ifndef HT_COMM_INTERNAL_H
#define HT_COMM_INTERNAL_H

#include "core/comm/comm.h"

/* How ranks exchange bytes of host memory. */
typedef struct ht_comm_link ht_comm_link;

/* Sums of device memory. */
typedef struct ht_comm_device ht_comm_device;

struct ht_comm {
    int rank, size, local_rank;
    ht_comm_link *link;
    ht_comm_device *device; /* NULL: memory is the host's */
    float *parts;           /* [size, HT_COMM_SLICE] of a sum: the other ranks' versions of this one's slice */
    ht_error failure;       /* why a collective has failed; status HT_OK: none has */
    int has_learned;        /* `failure` is another rank's */
    double patience;        /* seconds of waiting before rank 0 says so; tests make them few */
};

/* Where the part of rank k of `count` items begins. */
static inline int64_t ht_comm_part_start(int64_t count, int k, int size) {
    return count / size * k + (count % size < k ? count % size : k);
}

enum { HT_COMM_SLICE = 1 << 18 }; /* f32 elements of a slice */

/* --- MPI (mpi/) --- */

/* Fills in rank, size, local_rank and link. */
ht_status ht_comm_link_open(ht_comm *comm, ht_error *err);
void ht_comm_link_close(ht_comm *comm);

/* One message a rank, in either direction; of no bytes: none. Entry comm->rank is not looked at. */
typedef struct ht_comm_message {
    void *data;
    size_t bytes;
} ht_comm_message;

/* Sends out[k] to rank k and receives in[k] from it, all at once; `what` is said of a long wait. When it fails, nothing
 * of `in` is written any more. */
ht_status ht_comm_exchange(ht_comm *comm, const ht_comm_message *out, const ht_comm_message *in, const char *what,
                           ht_error *err);

/* How a rank has ended. */
typedef struct ht_comm_ending {
    int status;     /* ht_status */
    int is_learned; /* it failed because another had */
    char message[sizeof((ht_error *)0)->message];
} ht_comm_ending;

/* Looks whether a rank has failed: then no collective that is not begun can be completed, and HT_OK is not returned. */
ht_status ht_comm_listen(ht_comm *comm, ht_error *err);

/* Tells all others how this rank ends, and waits for their endings. Returns those of all ranks, the link's own. */
const ht_comm_ending *ht_comm_end(ht_comm *comm, const ht_comm_ending *own);

/* --- NCCL (nccl/) --- */

ht_status ht_comm_device_open(ht_comm_device **device, ht_comm *comm, void *stream, ht_error *err);
ht_status ht_comm_device_sum(ht_comm_device *device, float *x, int64_t n, ht_error *err);
void ht_comm_device_close(ht_comm_device *device);

#endif
