/*
 * bench-worker: sets up one piece of work, then does it as often as it is told.
 *
 *   bench-worker THREADS SIZE WORK DTYPE [FOLDER]   DTYPE fp32 or bf16; FOLDER for the work "start"
 *   bench-worker THREADS SIZE write DTYPE FOLDER    writes a model folder
 * BENCH_BACKEND: cpu or cuda; cpu where it is not set.
 *
 * It prints "ready", or "unsupported" and the reason on stderr. Then it answers lines on stdin:
 *   run      does the work once: tokens a second. The first time sets things up, too, and is not to be counted.
 *   memory   the greatest resident size of this process so far, MB
 *   profile  does the work for half a second, at least once, and prints, separated by "|":
 *              peaks|product GFLOP/s|reading GB/s|copying GB/s|
 *              limit|tokens a second|          core|share of the time in products and attention|
 *              operation|name|calls|seconds|share|rate|GFLOP/s or GB/s|fraction of the peak|
 *            and an empty line
 * bench/peers answers the same, but for the last.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/works.h"
#include "core/backend/ops.h"
#include "core/base/log.h"
#include "core/base/progress.h"

/* BENCH_CLOCK=cpu counts this process's processor time: on one thread, a measure that a busy machine hardly moves. */
static double seconds(void) {
    const char *clock = getenv("BENCH_CLOCK");
    struct timespec now;
    clock_gettime(clock && strcmp(clock, "cpu") == 0 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static ht_status run(work *w, ht_error *err) {
    int64_t tokens = 0;
    if (!w->kind->run) return ht_fail(err, HT_ERR_USAGE, "%s: there is nothing to run", w->kind->name);
    double before = seconds();
    ht_status status = w->kind->run(w, &tokens, err);
    if (status == HT_OK && w->be->ops->finish) status = w->be->ops->finish(w->be, err); /* a device goes on by itself */
    if (status == HT_OK) printf("%.6g\n", (double)tokens / (seconds() - before));
    return status;
}

static void print_memory(void) {
    char line[256];
    double kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "VmHWM:", 6) == 0) kib = atof(line + 6);
    if (file) fclose(file);
    printf("%.1f\n", kib * 1024e-6);
}

static ht_status profile(work *w, ht_error *err) {
    ht_status status = HT_OK;
    int64_t tokens = 0;
    double core = 0, all;
    HT_TRY(ht_profile_start(w->be, err));
    const ht_profile *p = ht_backend_profile(w->be);
    printf("peaks|%.4g|%.4g|%.4g|\n", 1e-9 * p->product_peak, 1e-9 * p->read_peak, 1e-9 * p->copy_peak);
    if (w->kind->profile) {
        HT_TRY(w->kind->profile(w, err));
        puts("");
        goto done;
    }
    do {
        HT_TRY(w->kind->run(w, &tokens, err));
        all = ht_now() - p->started;
    } while (all < 0.5);
    if (w->kind->limit) printf("limit|%.6g|\n", w->kind->limit(w, p));
    for (int i = 0; i < HT_OPERATION_COUNT; i++) {
        work_print_operation(ht_operation_text((ht_operation)i), (ht_operation)i, &p->lines[i], p, all);
        if (ht_operation_is_core((ht_operation)i)) core += p->lines[i].seconds;
    }
    printf("core|%.4g|\n\n", core / all);
done:
    return status;
}

static ht_status answer(work *w, const char *request, ht_error *err) {
    if (strcmp(request, "run\n") == 0) return run(w, err);
    if (strcmp(request, "profile\n") == 0) return profile(w, err);
    if (strcmp(request, "memory\n") != 0)
        return ht_fail(err, HT_ERR_USAGE, "no request \"%s\": run, memory, profile", request);
    print_memory();
    return HT_OK;
}

static ht_status serve(ht_backend *be, char **argv, ht_error *err) {
    ht_status status = HT_OK;
    work w = {.folder = argv[5]};
    char line[64];
    HT_TRY(work_open(&w, be, argv[2], argv[3], err));
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        HT_TRY(answer(&w, line, err));
        fflush(stdout);
    }
done:
    work_close(&w);
    return status;
}

static ht_backend_kind wanted_backend(void) {
    const char *name = getenv("BENCH_BACKEND");
    return name && strcmp(name, "cuda") == 0 ? HT_BACKEND_CUDA : HT_BACKEND_CPU;
}

int main(int argc, char **argv) {
    ht_status status = HT_OK;
    ht_error error = HT_ERROR_INIT, *err = &error;
    ht_backend *be = NULL;
    int writes = argc > 3 && strcmp(argv[3], "write") == 0;
    if (argc < 5 + writes) {
        fprintf(stderr, "usage: bench-worker THREADS SIZE WORK DTYPE [FOLDER]\n");
        return HT_ERR_USAGE;
    }
    int is_bf16 = strcmp(argv[4], "bf16") == 0;
    ht_log_set_level(HT_LOG_WARN);
    HT_TRY(ht_backend_open(&be, wanted_backend(), atoi(argv[1]), err));
    HT_TRY(ht_backend_choose_dtype(be, is_bf16 ? HT_DTYPE_BF16 : HT_DTYPE_F32, err));
    if (writes)
        status = work_write_folder(be, argv[2], argv[5], err);
    else
        status = serve(be, argv, err);
done:
    if (status != HT_OK) {
        puts("unsupported");
        fprintf(stderr, "bench-worker: %s\n", error.message);
    }
    ht_backend_close(be);
    return (int)status;
}
