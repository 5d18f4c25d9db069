#include "core/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The one process-wide state of the library: where people's messages go. */
static atomic_int threshold = HT_LOG_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*current_sink)(ht_log_level level, const char *line);
static char live_line[512];

void ht_log_set_level(ht_log_level level) {
    atomic_store(&threshold, (int)level);
}

ht_log_level ht_log_get_level(void) {
    return (ht_log_level)atomic_load(&threshold);
}

void ht_log_set_sink(void (*sink)(ht_log_level level, const char *line)) {
    pthread_mutex_lock(&lock);
    current_sink = sink;
    pthread_mutex_unlock(&lock);
}

static void write_stderr(ht_log_level level, const char *line) {
    const char *prefix = level == HT_LOG_ERROR ? "error: " : level == HT_LOG_WARN ? "warning: " : "";
    /* The live line is erased and drawn again below the message. */
    if (live_line[0]) fputs("\r\033[K", stderr);
    fprintf(stderr, "%s%s\n", prefix, line);
    if (live_line[0]) fputs(live_line, stderr);
    fflush(stderr);
}

void ht_log(ht_log_level level, const char *format, ...) {
    if ((int)level < atomic_load(&threshold)) return;
    char small[1024], *line = small, *large = NULL;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (length >= (int)sizeof small) {
        va_start(args, format);
        /* Without memory for the whole line its first kilobyte is still worth printing. */
        if (vasprintf(&large, format, args) >= 0) line = large;
        va_end(args);
    }
    pthread_mutex_lock(&lock);
    if (current_sink)
        current_sink(level, line);
    else
        write_stderr(level, line);
    pthread_mutex_unlock(&lock);
    if (line == large) free(large);
}

void ht_log_set_live_line(const char *line) {
    pthread_mutex_lock(&lock);
    if (line || live_line[0]) fputs("\r\033[K", stderr);
    snprintf(live_line, sizeof live_line, "%s", line ? line : "");
    fputs(live_line, stderr);
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}
