/*
 * bench-worker: answers requests on stdin, one a line, "SIZE WORK DTYPE": does that work once and prints its
 * tokens a second, or "unsupported". The first request of a work also sets it up and warms it, outside of the
 * measured time. One work is kept ready, so that a caller can interleave rounds with another program's.
 *
 *   bench-worker [THREADS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/works.h"

/* BENCH_CLOCK=cpu counts this process's processor time: on one thread, a measure that a busy machine hardly moves. */
static double seconds(void) {
    const char *clock = getenv("BENCH_CLOCK");
    struct timespec now;
    clock_gettime(clock && strcmp(clock, "cpu") == 0 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Sets up and warms. */
static ht_status prepare(work *w, ht_backend *be, char *const request[3], ht_error *err) {
    int64_t tokens;
    ht_status status = work_open(w, be, request[0], request[1], request[2], err);
    if (status == HT_OK) status = work_run(w, &tokens, err);
    return status;
}

static void answer(work *w, ht_backend *be, char *const request[3], int is_new) {
    ht_error err = HT_ERROR_INIT;
    int64_t tokens = 0;
    ht_status status = HT_OK;
    if (is_new) {
        work_close(w);
        status = prepare(w, be, request, &err);
    }
    double start = seconds();
    if (status == HT_OK) status = work_run(w, &tokens, &err);
    if (status == HT_OK) {
        printf("%.6g\n", (double)tokens / (seconds() - start));
    } else {
        fprintf(stderr, "bench-worker: %s\n", err.message);
        printf("unsupported\n");
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    ht_error err = HT_ERROR_INIT;
    ht_backend *be = NULL;
    work w = {0};
    char line[256], current[256] = "";
    if (ht_backend_open(&be, HT_BACKEND_CPU, argc > 1 ? atoi(argv[1]) : 0, &err) != HT_OK) {
        fprintf(stderr, "bench-worker: %s\n", err.message);
        return (int)err.status;
    }
    while (fgets(line, sizeof line, stdin)) {
        char words[3][64], *const request[3] = {words[0], words[1], words[2]};
        int is_new = strcmp(line, current) != 0;
        strcpy(current, line);
        if (sscanf(line, "%63s %63s %63s", words[0], words[1], words[2]) != 3) {
            fprintf(stderr, "bench-worker: \"%s\" is not SIZE WORK DTYPE\n", line);
            printf("unsupported\n");
            fflush(stdout);
            continue;
        }
        answer(&w, be, request, is_new);
    }
    work_close(&w);
    ht_backend_close(be);
    return 0;
}
