/*
 * signals.h: SIGINT and SIGTERM ask a program to stop at the next safe point; a second one leaves at once.
 */
#ifndef HT_BASE_SIGNALS_H
#define HT_BASE_SIGNALS_H

#include "core/base/error.h"

/*
 * Installs the handlers; calling it again is fine. System calls go on after the signal (SA_RESTART), so that
 * no write is cut; a program that waits for a person waits in poll(), which returns EINTR all the same.
 * SIGPIPE keeps its default: a closed pipe ends the program quietly.
 */
void ht_signals_install(void);

/* HT_OK while nothing was asked; else HT_INTERRUPTED or HT_TERMINATED. Long loops look at it between steps.
 */
ht_status ht_stop_requested(void);

/* The request has been met, and the program goes on: a dialogue whose answer was stopped. */
void ht_stop_forget(void);

#endif
