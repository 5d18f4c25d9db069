/*
 * progress.h: one live line on a terminal, a line now and then otherwise.
 */
#ifndef HT_BASE_PROGRESS_H
#define HT_BASE_PROGRESS_H

#include <stdint.h>

typedef struct ht_progress {
    const char *label;          /* borrowed */
    int64_t total;              /* 0: unknown */
    double started, last_shown; /* ht_now */
    int64_t first_done;         /* at the first update, -1 before; a resumed run does not start at 0 */
    double first_time;          /* ht_now at the first update: time left is measured from there */
    int live;                   /* stderr is a terminal */
} ht_progress;

void ht_progress_start(ht_progress *progress, const char *label, int64_t total);

/* `note` (may be NULL) follows done/total, e.g. "loss 1.234  12,345 tok/s". Rate-limited: a terminal 10 a
 * second, otherwise one line every 10 seconds. Shown at level HT_LOG_INFO and below. */
void ht_progress_update(ht_progress *progress, int64_t done, const char *note);

/* Ends the live line; prints a last line with `note` and the time taken. */
void ht_progress_finish(ht_progress *progress, int64_t done, const char *note);

/* Seconds of the monotonic clock. */
double ht_now(void);

#endif
