#include "core/backend/profile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/backend/ops.h"
#include "core/base/arena.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"

/* --- the table of operations ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    ht_traffic traffic;
} operations[] = {
#define ROW(id, name, traffic) {name, traffic},
    HT_OPERATION_MAP(ROW)
#undef ROW
};

static const char *const stretch_names[] = {
#define NAME(id, name) name,
    HT_STRETCH_MAP(NAME)
#undef NAME
};

const char *ht_operation_text(ht_operation operation) {
    return operations[operation].name;
}

ht_traffic ht_operation_traffic(ht_operation operation) {
    return operations[operation].traffic;
}

int ht_operation_is_core(ht_operation operation) {
    return operation <= HT_OPERATION_ATTENTION_CACHED;
}

/* --- peaks ------------------------------------------------------------------------------------------------ */

/*
 * A product that is large enough for the device's best, and memory that no cache holds. A GPU needs larger ones, and several at
 * a time: to start and wait for one, as each sum does, takes as long as a hundred megabytes.
 */
typedef struct measure {
    ht_backend *be;
    void *memory; /* [bytes] backend */
    int64_t bytes, rows, cols, depth;
    int together; /* runs that are timed as one */
} measure;

static const measure for_host = {.bytes = 128 << 20, .rows = 1024, .cols = 2048, .depth = 1024, .together = 1};
static const measure for_device = {.bytes = (int64_t)4 << 30, .rows = 4096, .cols = 8192, .depth = 4096, .together = 8};
#define MEASURE_SECONDS 0.05 /* of repeating each, after a first time that sets things up */

static void *at(const measure *m, int64_t bytes) {
    return (char *)m->memory + bytes;
}

/* Operands lie one after the other, as f32 and, from the middle on, in the backend's dtype. */
static ht_tensor operand(const measure *m, ht_dtype dtype, int64_t begin, int64_t rows, int64_t cols) {
    int64_t base = dtype == HT_F32 ? 0 : m->bytes / 2;
    return ht_tensor_of(at(m, base + begin * (int64_t)ht_dtype_size(dtype)), dtype, rows, cols);
}

static ht_status multiply(const measure *m, ht_error *err) {
    ht_dtype dtype = ht_backend_dtype(m->be);
    ht_tensor x = operand(m, dtype, 0, m->rows, m->depth), w = operand(m, dtype, m->rows * m->depth, m->cols, m->depth);
    ht_tensor y = operand(m, dtype, (m->rows + m->cols) * m->depth, m->rows, m->cols);
    return ht_matmul_forward(m->be, &y, &x, &w, NULL, err);
}

static ht_status read_all(const measure *m, ht_error *err) {
    double sum;
    return ht_sum_squares(m->be, m->memory, m->bytes / 4, &sum, err);
}

static ht_status copy_half(const measure *m, ht_error *err) {
    ht_tensor x = ht_tensor_of(m->memory, HT_F32, m->rows, m->bytes / 8 / m->rows), y = x;
    y.data = at(m, m->bytes / 2);
    return ht_copy(m->be, &y, &x, err);
}

/* Numbers of usual size: a processor may be faster with zeros. */
static ht_status fill(const measure *m, ht_error *err) {
    ht_status status = HT_OK;
    float *host = NULL;
    int64_t count = (m->rows + m->cols) * m->depth;
    HT_TRY(ht_calloc(&host, (size_t)count, sizeof *host, err));
    for (int64_t i = 0; i < count; i++)
        host[i] = (float)((uint32_t)i * 2654435761u >> 8) * 0x1p-23f - 1;
    HT_TRY(ht_upload(m->be, m->memory, host, (size_t)count * sizeof *host, err));
    ht_tensor x = operand(m, HT_F32, 0, m->rows + m->cols, m->depth);
    ht_tensor y = operand(m, ht_backend_dtype(m->be), 0, m->rows + m->cols, m->depth);
    if (y.dtype != HT_F32) HT_TRY(ht_copy(m->be, &y, &x, err));
done:
    free(host);
    return status;
}

static ht_status finished(const measure *m, ht_status (*run)(const measure *, ht_error *), ht_error *err) {
    ht_status status = HT_OK;
    for (int i = 0; i < m->together && status == HT_OK; i++)
        status = run(m, err);
    return status == HT_OK && m->be->ops->finish ? m->be->ops->finish(m->be, err) : status;
}

/* *rate = `amount` a second of the fastest runs. */
static ht_status fastest(const measure *m, ht_status (*run)(const measure *, ht_error *), double amount, double *rate,
                         ht_error *err) {
    ht_status status = HT_OK;
    double least = 0, begin, now;
    int runs = 0;
    HT_TRY(finished(m, run, err));
    begin = ht_now();
    for (now = begin; runs < 2 || now - begin < MEASURE_SECONDS; runs++) {
        double before = now;
        HT_TRY(finished(m, run, err));
        now = ht_now();
        if (!runs || now - before < least) least = now - before;
    }
    *rate = m->together * amount / least;
done:
    return status;
}

static ht_status measure_peaks(ht_backend *be, ht_profile *profile, ht_error *err) {
    ht_status status = HT_OK;
    measure m = be->ops->allocate ? for_device : for_host;
    ht_arena arena;
    m.be = be;
    ht_arena_init(&arena, 0);
    ht_backend_arena(be, &arena);
    HT_TRY(ht_arena_take(&arena, HT_MEMORY_WORKSPACE, (size_t)m.bytes, &m.memory, err));
    HT_TRY(fill(&m, err));
    HT_TRY(fastest(&m, multiply, 2.0 * (double)(m.rows * m.cols * m.depth), &profile->product_peak, err));
    HT_TRY(fastest(&m, read_all, (double)m.bytes, &profile->read_peak, err));
    HT_TRY(fastest(&m, copy_half, (double)m.bytes, &profile->copy_peak, err));
done:
    ht_arena_clear(&arena);
    return status;
}

/* --- counting --------------------------------------------------------------------------------------------- */

ht_status ht_profile_start(ht_backend *be, ht_error *err) {
    ht_status status = HT_OK;
    ht_profile *profile = NULL;
    free(be->profile);
    be->profile = NULL;
    HT_TRY(ht_calloc(&profile, 1, sizeof *profile, err));
    HT_TRY(measure_peaks(be, profile, err));
    profile->started = ht_now();
    be->profile = profile;
    profile = NULL;
done:
    free(profile);
    return status;
}

const ht_profile *ht_backend_profile(const ht_backend *be) {
    return be->profile;
}

void ht_profile_begin(ht_profile *profile) {
    if (profile->depth++ == 0 && !profile->together) profile->call_started = ht_now();
}

void ht_profile_end(ht_profile *profile, ht_operation operation, ht_work work) {
    if (--profile->depth > 0) return;
    ht_profile_add(profile, operation, 1, profile->together ? 0 : ht_now() - profile->call_started, work);
}

ht_status ht_profile_together(ht_backend *be, ht_error *err) {
    ht_status status = be->ops->finish ? be->ops->finish(be, err) : HT_OK;
    be->profile->together = 1;
    be->profile->call_started = ht_now();
    return status;
}

ht_status ht_profile_apart(ht_backend *be, ht_operation operation, ht_error *err) {
    ht_status status = be->ops->finish ? be->ops->finish(be, err) : HT_OK;
    be->profile->together = 0;
    be->profile->lines[operation].seconds += ht_now() - be->profile->call_started;
    return status;
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

void ht_profile_add(ht_profile *profile, ht_operation operation, int64_t calls, double seconds, ht_work work) {
    ht_profile_line *line = &profile->lines[operation];
    ht_traffic traffic = operations[operation].traffic;
    double bandwidth = traffic == HT_TRAFFIC_READ ? profile->read_peak : profile->copy_peak;
    line->calls += calls;
    line->seconds += seconds;
    line->flop += work.flop;
    line->bytes += work.bytes;
    line->least += larger(work.flop / profile->product_peak, traffic == HT_TRAFFIC_NONE ? 0 : work.bytes / bandwidth);
}

/* --- stretches -------------------------------------------------------------------------------------------- */

/* Seconds of everything up to now. */
static ht_profile_stretch sums(const ht_profile *profile) {
    ht_profile_stretch sum = {.seconds = ht_now()};
    for (int i = 0; i < HT_OPERATION_COUNT; i++) {
        sum.operations += profile->lines[i].seconds;
        if (ht_operation_is_core((ht_operation)i)) sum.core += profile->lines[i].seconds;
    }
    return sum;
}

void ht_profile_enter(ht_backend *be) {
    ht_profile *profile = be->profile;
    if (profile && profile->stretch_depth++ == 0) profile->before = sums(profile);
}

void ht_profile_leave(ht_backend *be, ht_stretch stretch) {
    ht_profile *profile = be->profile;
    if (!profile || --profile->stretch_depth > 0) return;
    ht_profile_stretch now = sums(profile), *s = &profile->stretches[stretch];
    s->count++;
    s->seconds += now.seconds - profile->before.seconds;
    s->operations += now.operations - profile->before.operations;
    s->core += now.core - profile->before.core;
}

/* --- the report ------------------------------------------------------------------------------------------- */

/* A right-aligned number, or a dash. */
static const char *column(char text[24], double value, const char *format) {
    snprintf(text, 24, value > 0 ? format : "-", value);
    return text;
}

static void report_line(const ht_profile *profile, ht_operation operation, double all) {
    const ht_profile_line *line = &profile->lines[operation];
    char flop[24], bytes[24], peak[24];
    int has_bytes = operations[operation].traffic != HT_TRAFFIC_NONE;
    if (!line->calls) return;
    ht_info("%-24s %10" PRId64 " %10.4f %6.1f %% %9s %9s %8s", operations[operation].name, line->calls, line->seconds,
            100 * line->seconds / all, column(flop, 1e-9 * line->flop / line->seconds, "%.1f"),
            column(bytes, has_bytes ? 1e-9 * line->bytes / line->seconds : 0, "%.1f"),
            column(peak, 100 * line->least / line->seconds, "%.0f %%"));
}

static void report_stretch(const char *name, const ht_profile_stretch *s) {
    char each[64] = "";
    if (!(s->seconds > 0)) return;
    if (s->count) snprintf(each, sizeof each, ", %" PRId64 " x %.4g s", s->count, s->seconds / (double)s->count);
    ht_info("%s%s: %.1f %% in products and attention, %.1f %% outside of operations", name, each,
            100 * s->core / s->seconds, 100 * (1 - s->operations / s->seconds));
}

void ht_profile_report(const ht_backend *be) {
    const ht_profile *profile = be->profile;
    ht_profile_stretch all = sums(profile);
    all.seconds -= profile->started;
    ht_info("profile: %s on %s, threads %d; peaks: products %.1f GFLOP/s, reading %.1f GB/s, copying %.1f GB/s",
            ht_backend_dtype(be) == HT_BF16 ? "bf16" : "f32", ht_backend_name(be), be->threads,
            1e-9 * profile->product_peak, 1e-9 * profile->read_peak, 1e-9 * profile->copy_peak);
    ht_info("%-24s %10s %10s %8s %9s %9s %8s", "operation", "calls", "seconds", "share", "GFLOP/s", "GB/s", "of peak");
    for (int i = 0; i < HT_OPERATION_COUNT; i++)
        report_line(profile, (ht_operation)i, all.seconds);
    ht_info("%-24s %10s %10.4f %6.1f %%", "outside of operations", "", all.seconds - all.operations,
            100 * (1 - all.operations / all.seconds));
    ht_info("%-24s %10s %10.4f", "all", "", all.seconds);
    for (int i = 0; i < HT_STRETCH_COUNT; i++)
        report_stretch(stretch_names[i], &profile->stretches[i]);
    report_stretch("all", &all);
}
