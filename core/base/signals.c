#include "core/base/signals.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/base/progress.h"

static volatile sig_atomic_t requested; /* the first signal's number; 0: none */
static double time_up, reserve;         /* ht_now, 0: never; seconds before it */
static int held;

static void on_signal(int number) {
    if (requested) _exit(128 + number); /* HT_INTERRUPTED or HT_TERMINATED */
    requested = number;
    /* A step may take minutes: say that the request was heard. */
    static const char heard[] = "\nstopping at the next safe point; once more leaves at once\n";
    int saved = errno;
    ssize_t written = write(STDERR_FILENO, heard, sizeof heard - 1);
    (void)written; /* nobody to tell */
    errno = saved;
}

void ht_signals_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void ht_stop_at(double when) {
    time_up = when;
}

void ht_stop_reserve(double seconds) {
    reserve = seconds;
}

ht_status ht_stop_requested(void) {
    return ht_stop_within(0);
}

ht_status ht_stop_within(double seconds) {
    int number = requested;
    if (held) return HT_OK;
    if (number) return number == SIGINT ? HT_INTERRUPTED : HT_TERMINATED;
    return time_up > 0 && ht_now() + seconds + reserve >= time_up ? HT_TIME_UP : HT_OK;
}

void ht_stop_hold(void) {
    held = 1;
}

void ht_stop_unhold(void) {
    held = 0;
}

void ht_stop_forget(void) {
    requested = 0;
}
