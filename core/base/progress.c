#include "core/base/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"

#define LIVE_SECONDS 0.1
#define LINE_SECONDS 10.0

double ht_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* "45s", "3m20s", "2h05m" */
static void format_seconds(char *out, size_t size, double seconds) {
    int64_t s = (int64_t)(seconds + 0.5);
    if (s < 60)
        snprintf(out, size, "%" PRId64 "s", s);
    else if (s < 3600)
        snprintf(out, size, "%" PRId64 "m%02" PRId64 "s", s / 60, s % 60);
    else
        snprintf(out, size, "%" PRId64 "h%02" PRId64 "m", s / 3600, s / 60 % 60);
}

static void format_line(char *out, size_t size, const ht_progress *progress, int64_t done, const char *note,
                        const char *time_text) {
    char total[32] = "";
    if (progress->total > 0) snprintf(total, sizeof total, "/%" PRId64, progress->total);
    int has_note = note && note[0];
    snprintf(out, size, "%s %" PRId64 "%s%s%s%s%s", progress->label, done, total, has_note ? "  " : "",
             has_note ? note : "", time_text[0] ? "  " : "", time_text);
}

void ht_progress_start(ht_progress *progress, const char *label, int64_t total) {
    double now = ht_now();
    *progress = (ht_progress){.label = label,
                              .total = total,
                              .started = now,
                              .last_shown = now,
                              .first_done = -1,
                              .live = isatty(STDERR_FILENO)};
}

void ht_progress_update(ht_progress *progress, int64_t done, const char *note) {
    double now = ht_now();
    if (progress->first_done < 0) {
        progress->first_done = done;
        progress->first_time = now;
    }
    if (ht_log_get_level() > HT_LOG_INFO) return;
    if (now - progress->last_shown < (progress->live ? LIVE_SECONDS : LINE_SECONDS)) return;
    progress->last_shown = now;

    char left[40] = "";
    int64_t measured = done - progress->first_done;
    if (progress->total > done && measured > 0) {
        double seconds = (now - progress->first_time) / (double)measured * (double)(progress->total - done);
        format_seconds(left, sizeof left, seconds);
        strcat(left, " left");
    }
    char line[400];
    format_line(line, sizeof line, progress, done, note, left);
    if (!progress->live) {
        ht_info("%s", line);
        return;
    }
    struct winsize window;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 && window.ws_col <= sizeof line)
        line[window.ws_col - 1] = '\0'; /* a live line that wraps could not be erased */
    ht_log_set_live_line(line);
}

void ht_progress_finish(ht_progress *progress, int64_t done, const char *note) {
    if (progress->live) ht_log_set_live_line(NULL);
    if (ht_log_get_level() > HT_LOG_INFO) return;
    char taken[40], line[400];
    format_seconds(taken, sizeof taken, ht_now() - progress->started);
    format_line(line, sizeof line, progress, done, note, taken);
    ht_info("%s", line);
}
