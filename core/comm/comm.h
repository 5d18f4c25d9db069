/*
 * comm.h: the collectives: what the processes of one run say to each other.
 *
 * mpirun or srun starts a program several times; each process is a rank of 0 .. size - 1. All ranks call the same
 * collectives in the same order. NULL is the ht_comm of a process that is alone: rank 0 of 1, for which every
 * collective has nothing to do. Otherwise messages travel by MPI, and sums of GPU memory by NCCL, which MPI starts.
 *
 * Order and bits. Every sum is added in the order of the ranks, ((x0 + x1) + x2) + ...: all ranks have the same bits,
 * and the same inputs give the same bits every time, whatever arrives first. Neither MPI nor NCCL promises an order of
 * its own reductions (it may change with the algorithm, which they choose by size and topology), so only their sends
 * and receives are used.
 *
 * Failure. A rank that fails ends its command and says so in ht_comm_close. Ranks that wait for it, or will, return
 * from their collective with its status and "rank K: its message", and end as well: nobody waits for a rank that will
 * not come. After a failed collective every other one fails likewise. A rank that was killed is the launcher's to
 * see: mpirun ends the others. Rank 0 says in the log for whom it waits, after a minute and then ever more rarely.
 *
 * Output. Rank 0 alone speaks: ht_comm_open silences the log of the others.
 */
#ifndef HT_COMM_COMM_H
#define HT_COMM_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"

typedef struct ht_comm ht_comm;

/*
 * *comm = NULL when the program was started once. To be called before anything that the ranks do together or that
 * writes; every successful call is followed by ht_comm_close. HT_ERR_USAGE when a launcher has started several
 * processes and they cannot reach each other: MPI is not built in, or is another one than the launcher's.
 */
ht_status ht_comm_open(ht_comm **comm, ht_error *err);

/*
 * Ends the command with the status of all ranks together, to be returned from it: `status` is this rank's own, *err
 * its message. Waits until every rank has come here. When any has failed, all return the status of the first of
 * those that failed by themselves; on ranks that did not, *err is its message. NULL: returns `status`.
 */
ht_status ht_comm_close(ht_comm *comm, ht_status status, ht_error *err);

int ht_comm_rank(const ht_comm *comm);
int ht_comm_size(const ht_comm *comm);
int ht_comm_local_rank(const ht_comm *comm); /* among the ranks of this machine: the number of its GPU */

/* Items [*first, *end) of `count` are this rank's: parts follow each other in the order of the ranks, and the largest
 * has one item more than the smallest. */
void ht_comm_part(const ht_comm *comm, int64_t count, int64_t *first, int64_t *end);

/* Returns when every rank has come here. */
ht_status ht_comm_barrier(ht_comm *comm, ht_error *err);

/* The bytes of rank 0 come to all others, which give the same number of bytes. */
ht_status ht_comm_broadcast(ht_comm *comm, void *data, size_t bytes, ht_error *err);

/* The bytes of all ranks, each its own number of them, come to every rank. */
typedef struct ht_gathered {
    char *data;    /* end to end in the order of the ranks */
    size_t *start; /* [size + 1]; those of rank k are data[start[k] .. start[k + 1]) */
} ht_gathered;
ht_status ht_comm_gather(ht_comm *comm, const void *data, size_t bytes, ht_gathered *all, ht_error *err);
void ht_gathered_free(ht_gathered *all); /* of a zeroed one: does nothing */

/* x [count] in/out, host: sums, largest values over the ranks. */
ht_status ht_comm_sum(ht_comm *comm, double *x, int64_t count, ht_error *err);
ht_status ht_comm_max(ht_comm *comm, double *x, int64_t count, ht_error *err);

/* Readies sums of a GPU's memory, once, when the backend that works on that CUDA stream is open (ht_backend_stream); not
 * called, memory is the host's. HT_ERR_USAGE when NCCL is not built in, HT_ERR_RUN when it is missing or fails. */
ht_status ht_comm_use_device(ht_comm *comm, void *stream, ht_error *err);

/*
 * x [n] in/out, f32, memory of the backend: gradients, summed over the ranks.
 *
 * In pieces: each rank gets its slice of the piece from all others, adds in the order of the ranks, and sends the
 * slice back; every element travels twice, as in a ring. Memory beside x: 2 MiB a rank on the host, 4 MiB a rank
 * on the device. On a device it follows what the stream holds, and is complete on return.
 */
ht_status ht_comm_sum_f32(ht_comm *comm, float *x, int64_t n, ht_error *err);

#endif
