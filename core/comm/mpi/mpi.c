/*
 * Bytes between ranks by MPI: sends and receives only, so that the order of sums is comm.c's.
 *
 * MPI has no word for "the other side has failed": a blocking call would wait for ever. So every wait asks whether
 * its messages have come, and whether a rank has said how it ended, in turn. Endings have a tag of their own, and
 * their receives are posted from the start.
 *
 * What is left of a failed exchange: receives are taken back, which MPI allows; a send cannot be, and a rank that has
 * not heard of the failure yet may still fetch it. So what is sent is a copy, in memory that then stays.
 */
#include <mpi.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/comm/internal.h"

enum { TAG_DATA = 1, TAG_END = 2 };
enum { PIECE_BYTES = HT_COMM_SLICE * sizeof(float) }; /* longer messages go in pieces */

#define EAGER_SECONDS  0.002 /* waits this long without sleeping */
#define SLEEP_NANO     20000

struct ht_comm_link {
    MPI_Request *requests;                 /* [2 size] of an exchange: sends, then receives */
    char *copies;                          /* [size, PIECE_BYTES] of what is being sent */
    MPI_Request *end_sends, *end_receives; /* [size] */
    ht_comm_ending *endings;               /* [size]; of another rank k: once end_receives[k] is MPI_REQUEST_NULL */
};

/* --- life -------------------------------------------------------------------------------------------------- */

/* After the program's last word: a launcher ends the other processes when the first has ended badly. */
static void finalize(void) {
    MPI_Finalize();
}

static ht_status initialize(ht_error *err) {
    int provided = 0, begun = 0;
    MPI_Initialized(&begun);
    if (begun) return HT_OK;
    /* Threads compute, the main one alone talks. */
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return ht_fail(err, HT_ERR_RUN, "MPI cannot be started");
    atexit(finalize);
    if (provided < MPI_THREAD_FUNNELED) return ht_fail(err, HT_ERR_RUN, "this MPI does not allow threads");
    return HT_OK;
}

static ht_status post_endings(const ht_comm *comm, ht_error *err) {
    ht_status status = HT_OK;
    ht_comm_link *link = comm->link;
    size_t size = (size_t)comm->size;
    HT_TRY(ht_calloc(&link->requests, 2 * size, sizeof *link->requests, err));
    HT_TRY(ht_calloc(&link->copies, size, PIECE_BYTES, err));
    HT_TRY(ht_calloc(&link->endings, size, sizeof *link->endings, err));
    HT_TRY(ht_calloc(&link->end_sends, size, sizeof *link->end_sends, err));
    HT_TRY(ht_calloc(&link->end_receives, size, sizeof *link->end_receives, err));
    for (int k = 0; k < comm->size; k++) {
        link->end_sends[k] = link->end_receives[k] = MPI_REQUEST_NULL;
        if (k != comm->rank)
            MPI_Irecv(&link->endings[k], (int)sizeof *link->endings, MPI_BYTE, k, TAG_END, MPI_COMM_WORLD,
                      &link->end_receives[k]);
    }
done:
    return status;
}

ht_status ht_comm_link_open(ht_comm *comm, ht_error *err) {
    ht_status status = HT_OK;
    MPI_Comm machine;
    HT_TRY(initialize(err));
    MPI_Comm_rank(MPI_COMM_WORLD, &comm->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &comm->size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    MPI_Comm_rank(machine, &comm->local_rank);
    MPI_Comm_free(&machine);
    HT_TRY(ht_calloc(&comm->link, 1, sizeof *comm->link, err));
    HT_TRY(post_endings(comm, err));
done:
    return status;
}

/* A receive that will never be met. */
static void cancel(MPI_Request *request) {
    if (*request == MPI_REQUEST_NULL) return;
    MPI_Cancel(request);
    MPI_Wait(request, MPI_STATUS_IGNORE);
}

void ht_comm_link_close(ht_comm *comm) {
    ht_comm_link *link = comm->link;
    for (int k = 0; k < comm->size && link->end_receives; k++)
        cancel(&link->end_receives[k]);
    free(link->end_receives);
    free(link->end_sends);
    free(link->endings);
    free(link->requests);
    if (comm->failure.status == HT_OK) free(link->copies);
    free(link);
    comm->link = NULL;
}

/* --- waiting ------------------------------------------------------------------------------------------------ */

typedef struct wait {
    double started, notice; /* ht_now; when to speak next */
} wait;

static wait wait_start(const ht_comm *comm) {
    double now = ht_now();
    return (wait){now, now + comm->patience};
}

/* The rank whose request is the first not done. */
static int first_pending(MPI_Request *requests, int count, int size) {
    for (int i = 0; i < count; i++) {
        int done = 1;
        MPI_Request_get_status(requests[i], &done, MPI_STATUS_IGNORE);
        if (!done) return i % size;
    }
    return 0;
}

/* Between two looks: on a machine with fewer cores than ranks the other one needs this core. */
static void wait_pause(wait *w, const ht_comm *comm, MPI_Request *requests, int count, const char *what) {
    double now = ht_now();
    if (now - w->started < EAGER_SECONDS) {
        sched_yield();
        return;
    }
    if (now >= w->notice) {
        ht_info("rank %d has waited %.0f s for rank %d (%s)", comm->rank, now - w->started,
                first_pending(requests, count, comm->size), what);
        w->notice = now + (now - w->started);
    }
    nanosleep(&(struct timespec){.tv_nsec = SLEEP_NANO}, NULL);
}

/* 1 when rank k has said how it ended. */
static int has_ended(ht_comm_link *link, int k) {
    int done = 1;
    if (link->end_receives[k] != MPI_REQUEST_NULL) MPI_Test(&link->end_receives[k], &done, MPI_STATUS_IGNORE);
    return done;
}

/* Records why no collective can be completed any more, unless something else is. */
static ht_status fail_with(ht_comm *comm, int k, ht_error *err) {
    const ht_comm_ending *ending = &comm->link->endings[k];
    comm->has_learned = ending->status != HT_OK;
    if (comm->has_learned)
        ht_fail(&comm->failure, (ht_status)ending->status, "rank %d: %s", k, ending->message);
    else
        ht_fail(&comm->failure, HT_ERR_RUN, "rank %d has ended, and rank %d waits for it", k, comm->rank);
    return ht_fail(err, comm->failure.status, "%s", comm->failure.message);
}

ht_status ht_comm_listen(ht_comm *comm, ht_error *err) {
    for (int k = 0; k < comm->size; k++)
        if (k != comm->rank && has_ended(comm->link, k) && comm->link->endings[k].status != HT_OK)
            return fail_with(comm, k, err);
    return HT_OK;
}

/* --- exchange ----------------------------------------------------------------------------------------------- */

/* The part of a message that goes in round `round`. */
static ht_comm_message piece_of(const ht_comm_message *message, size_t round) {
    size_t first = round * PIECE_BYTES;
    if (first >= message->bytes) return (ht_comm_message){NULL, 0};
    size_t left = message->bytes - first;
    return (ht_comm_message){(char *)message->data + first, left < PIECE_BYTES ? left : PIECE_BYTES};
}

/* Posts the round's sends and receives; 0 when there is nothing left to send or receive. */
static int post_round(ht_comm *comm, const ht_comm_message *out, const ht_comm_message *in, size_t round) {
    MPI_Request *sends = comm->link->requests, *receives = sends + comm->size;
    int posted = 0;
    for (int k = 0; k < comm->size; k++) {
        char *copy = comm->link->copies + (size_t)k * PIECE_BYTES;
        sends[k] = receives[k] = MPI_REQUEST_NULL;
        if (k == comm->rank) continue;
        ht_comm_message to = piece_of(&out[k], round), from = piece_of(&in[k], round);
        if (from.bytes)
            MPI_Irecv(from.data, (int)from.bytes, MPI_BYTE, k, TAG_DATA, MPI_COMM_WORLD, &receives[k]);
        if (to.bytes) {
            memcpy(copy, to.data, to.bytes);
            MPI_Isend(copy, (int)to.bytes, MPI_BYTE, k, TAG_DATA, MPI_COMM_WORLD, &sends[k]);
        }
        posted += from.bytes || to.bytes;
    }
    return posted;
}

/* Nothing may be written into the caller's memory when it has been told of a failure. */
static void abandon(ht_comm *comm) {
    MPI_Request *sends = comm->link->requests, *receives = sends + comm->size;
    for (int k = 0; k < comm->size; k++) {
        cancel(&receives[k]);
        if (sends[k] != MPI_REQUEST_NULL) MPI_Request_free(&sends[k]);
    }
}

/*
 * A rank that has ended sends nothing any more; what it has sent before its ending has come before that. So a collective that
 * all have joined is completed by all, also when some of them fail right after it: what each then finds in its sum is the same,
 * and all say it.
 */
static ht_status check_pending(ht_comm *comm, ht_error *err) {
    MPI_Request *sends = comm->link->requests, *receives = sends + comm->size;
    for (int k = 0; k < comm->size; k++) {
        int sent = 1, received = 1;
        if (k == comm->rank || !has_ended(comm->link, k)) continue;
        MPI_Test(&sends[k], &sent, MPI_STATUS_IGNORE);
        MPI_Test(&receives[k], &received, MPI_STATUS_IGNORE);
        if (!sent || !received) return fail_with(comm, k, err);
    }
    return HT_OK;
}

/* Waits for the messages of a round. */
static ht_status finish_round(ht_comm *comm, const char *what, ht_error *err) {
    MPI_Request *requests = comm->link->requests;
    int count = 2 * comm->size;
    for (wait w = wait_start(comm);;) {
        int done = 0;
        MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
        if (done) return HT_OK;
        ht_status status = check_pending(comm, err);
        if (status != HT_OK) return status;
        wait_pause(&w, comm, requests, count, what);
    }
}

ht_status ht_comm_exchange(ht_comm *comm, const ht_comm_message *out, const ht_comm_message *in, const char *what,
                           ht_error *err) {
    if (comm->failure.status != HT_OK) return ht_fail(err, comm->failure.status, "%s", comm->failure.message);
    for (size_t round = 0; post_round(comm, out, in, round); round++) {
        ht_status status = finish_round(comm, what, err);
        if (status != HT_OK) {
            abandon(comm);
            return status;
        }
    }
    return HT_OK;
}

/* --- the end ------------------------------------------------------------------------------------------------ */

const ht_comm_ending *ht_comm_end(ht_comm *comm, const ht_comm_ending *own) {
    ht_comm_link *link = comm->link;
    int size = (int)sizeof *own, sent = 0, received = 0;
    link->endings[comm->rank] = *own;
    for (int k = 0; k < comm->size; k++)
        if (k != comm->rank)
            MPI_Isend(&link->endings[comm->rank], size, MPI_BYTE, k, TAG_END, MPI_COMM_WORLD, &link->end_sends[k]);
    for (wait w = wait_start(comm); !sent || !received;) {
        MPI_Testall(comm->size, link->end_sends, &sent, MPI_STATUSES_IGNORE);
        MPI_Testall(comm->size, link->end_receives, &received, MPI_STATUSES_IGNORE);
        if (!sent || !received) wait_pause(&w, comm, link->end_receives, comm->size, "end");
    }
    return link->endings;
}
