#include "core/base/signals.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/base/progress.h"

static volatile sig_atomic_t requested; /* the first signal's number; 0: none */
static volatile sig_atomic_t heard[2];  /* a signal came from elsewhere; from the parent */
static volatile sig_atomic_t passed_to; /* a process; 0: none */
static double time_up, reserve;         /* ht_now, 0: never; seconds before it */
static int held;

static void on_signal(int number, siginfo_t *info, void *context) {
    int from_parent = info->si_code <= 0 && info->si_pid == getppid(); /* <= 0: sent by a process */
    (void)context;
    if (passed_to) kill((pid_t)passed_to, number);
    if (heard[from_parent]) _exit(128 + number); /* HT_INTERRUPTED or HT_TERMINATED */
    heard[from_parent] = 1;
    if (requested) return;
    requested = number;
    /* A step may take minutes: say that the request was heard. */
    static const char answer[] = "\nstopping at the next safe point; once more leaves at once\n";
    int saved = errno;
    ssize_t written = write(STDERR_FILENO, answer, sizeof answer - 1);
    (void)written; /* nobody to tell */
    errno = saved;
}

static void ours(sigset_t *signals) {
    sigemptyset(signals);
    sigaddset(signals, SIGINT);
    sigaddset(signals, SIGTERM);
}

void ht_signals_install(void) {
    /* oneDNN's generated code computes with the stack pointer in a block of the heap that has no room for a signal's
     * frame, 11 KiB with AMX. Signals of a process go to its first thread. */
    static char stack[1 << 16];
    struct sigaction action;
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_RESTART | SA_SIGINFO | SA_ONSTACK;
    ours(&action.sa_mask); /* one at a time */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void ht_signals_pass_to(pid_t child) {
    sigset_t signals, before;
    ours(&signals);
    sigprocmask(SIG_BLOCK, &signals, &before);
    passed_to = child;
    if (child && requested) kill(child, requested);
    sigprocmask(SIG_SETMASK, &before, NULL);
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
    requested = heard[0] = heard[1] = 0;
}
