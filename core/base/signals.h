/*
 * signals.h: SIGINT and SIGTERM ask a program to stop at the next safe point; a second one leaves at once. So
 * does the end of the time it was given.
 */
#ifndef HT_BASE_SIGNALS_H
#define HT_BASE_SIGNALS_H

#include <sys/types.h>

#include "core/base/error.h"

/*
 * Installs the handlers; calling it again is fine. What the parent process sends and what comes from elsewhere count
 * apart: make, mpirun and halter-rounds pass on a signal that a terminal or a batch system may have sent to all
 * processes anyway, and that is one request, not two. System calls go on after the signal (SA_RESTART), so that
 * no write is cut; a program that waits for a person waits in poll(), which returns EINTR all the same.
 * SIGPIPE keeps its default: a closed pipe ends the program quietly.
 */
void ht_signals_install(void);

/* The end of the time (ht_now), and how many seconds before it a stop counts as asked for, as saving takes
 * time. At first: never, and 0. */
void ht_stop_at(double when);
void ht_stop_reserve(double seconds);

/* HT_OK while nothing was asked; else HT_INTERRUPTED, HT_TERMINATED or, at the end of the time, HT_TIME_UP.
 * Long loops look at it between steps. */
ht_status ht_stop_requested(void);

/* What ht_stop_requested will say `seconds` from now: signals are not foreseen, the end of the time is. For
 * work that takes that long and cannot be left half done. */
ht_status ht_stop_within(double seconds);

/* Between these two ht_stop_requested and ht_stop_within give HT_OK: work that has begun is to be finished.
 */
void ht_stop_hold(void);
void ht_stop_unhold(void);

/*
 * Passes every signal on to the process `child`, also one that came before; 0: to none any more. For a program that
 * only waits for another one; it forgets the child before it takes its exit status, as the number may then be
 * another's.
 */
void ht_signals_pass_to(pid_t child);

/* The request has been met, and the program goes on: a dialogue whose answer was stopped. */
void ht_stop_forget(void);

#endif
