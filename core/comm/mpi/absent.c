/*
 * In place of MPI where there was none to build with.
 */
#include "core/comm/internal.h"

ht_status ht_comm_link_open(ht_comm *comm, ht_error *err) {
    (void)comm;
    return ht_fail(err, HT_ERR_USAGE,
                   "started as one of several processes, but MPI is not built into this program (HALTER_MPI); "
                   "start it once, without the launcher");
}

void ht_comm_link_close(ht_comm *comm) {
    (void)comm;
}

ht_status ht_comm_exchange(ht_comm *comm, const ht_comm_message *out, const ht_comm_message *in, const char *what,
                           ht_error *err) {
    (void)out;
    (void)in;
    (void)what;
    return ht_comm_listen(comm, err);
}

ht_status ht_comm_listen(ht_comm *comm, ht_error *err) {
    return ht_comm_link_open(comm, err);
}

const ht_comm_ending *ht_comm_end(ht_comm *comm, const ht_comm_ending *own) {
    (void)comm;
    return own;
}
