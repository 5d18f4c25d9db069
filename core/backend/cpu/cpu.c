#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/onednn.h"

#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/base/memory.h"

#define HUGE_PAGE ((size_t)2 << 20)

typedef struct cpu_state {
    ht_backend_ops ops; /* those of the instruction set, and the ones below */
    struct ht_onednn *onednn;
    void **scratch;
    size_t scratch_bytes; /* of each */
} cpu_state;

static void cpu_close(ht_backend *be) {
    cpu_state *state = be->state;
    if (!state) return;
    for (int thread = 0; state->scratch && thread < be->threads; thread++)
        free(state->scratch[thread]);
    free(state->scratch);
    ht_onednn_close(state->onednn);
    free(state);
    be->state = NULL;
    be->ops = NULL;
}

ht_status ht_cpu_scratch_all(ht_backend *be, size_t bytes, ht_error *err) {
    cpu_state *state = be->state;
    if (state->scratch_bytes >= bytes) return HT_OK;
    size_t page = bytes < HUGE_PAGE ? 4096 : HUGE_PAGE, rounded = (bytes + page - 1) / page * page;
    state->scratch_bytes = 0;
    for (int thread = 0; thread < be->threads; thread++) {
        free(state->scratch[thread]);
        state->scratch[thread] = aligned_alloc(page, rounded);
        if (!state->scratch[thread])
            return ht_fail(err, HT_ERR_NOMEM, "no memory for %zu bytes of scratch a thread", rounded);
        if (page == HUGE_PAGE) madvise(state->scratch[thread], rounded, MADV_HUGEPAGE);
    }
    state->scratch_bytes = rounded;
    return HT_OK;
}

void *ht_cpu_scratch(ht_backend *be, int thread) {
    return ((cpu_state *)be->state)->scratch[thread];
}

struct ht_onednn *ht_cpu_onednn(const ht_backend *be) {
    return ((cpu_state *)be->state)->onednn;
}

static ht_status cpu_copy_bytes(ht_backend *be, void *to, const void *from, size_t bytes, ht_error *err) {
    (void)be;
    (void)err;
    memcpy(to, from, bytes);
    return HT_OK;
}

static ht_status cpu_upload_converted(ht_backend *be, ht_tensor *y, const void *from, ht_dtype dtype, ht_error *err) {
    (void)err;
    ht_host_convert(be, y->data, y->dtype, from, dtype, y->rows * y->cols);
    return HT_OK;
}

static ht_status cpu_zero(ht_backend *be, void *memory, size_t bytes, ht_error *err) {
    (void)be;
    (void)err;
    memset(memory, 0, bytes);
    return HT_OK;
}

static ht_status cpu_memory(ht_backend *be, size_t *available, size_t *total, ht_error *err) {
    (void)be;
    (void)err;
    *available = ht_memory_available();
    *total = ht_memory_limit();
    return HT_OK;
}

/* --- instruction sets ------------------------------------------------------------------------------------- */

/* One table of operations each, best first; CMakeLists.txt compiles them. */
typedef struct instruction_set {
    const char *name;
    const ht_backend_ops *ops;
    int (*present)(void);
} instruction_set;

static int always(void) {
    return 1;
}

#ifdef __x86_64__
static int has_v3(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
static int has_v4(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512cd");
}
static int has_v4_bf16(void) {
    return has_v4() && __builtin_cpu_supports("avx512bf16");
}
/* AMX needs the system's leave for a process to use its registers (Linux 5.16). */
static int has_v4_amx(void) {
    enum { LEAF = 7, TILE = 1 << 24, BF16 = 1 << 22, REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    return has_v4_bf16() && __get_cpuid_count(LEAF, 0, &a, &b, &c, &d) && (d & TILE) && (d & BF16) &&
           syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
extern const ht_backend_ops ht_cpu_v4_amx_ops, ht_cpu_v4_bf16_ops, ht_cpu_v4_ops, ht_cpu_v3_ops;
#endif
extern const ht_backend_ops ht_cpu_generic_ops;

static const instruction_set sets[] = {
#ifdef __x86_64__
    {"amx", &ht_cpu_v4_amx_ops, has_v4_amx},
    {"avx512_bf16", &ht_cpu_v4_bf16_ops, has_v4_bf16},
    {"avx512", &ht_cpu_v4_ops, has_v4},
    {"avx2", &ht_cpu_v3_ops, has_v3},
#endif
    {"generic", &ht_cpu_generic_ops, always},
};

/* The best the processor has, or the one that HALTER_CPU_ISA names. */
static ht_status choose_set(const instruction_set **chosen, ht_error *err) {
    const char *wanted = getenv("HALTER_CPU_ISA");
    char names[128] = "";
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (!sets[i].present()) continue;
        if (!wanted || strcmp(wanted, sets[i].name) == 0) {
            *chosen = &sets[i];
            return HT_OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", sets[i].name);
    }
    return ht_fail(err, HT_ERR_USAGE, "HALTER_CPU_ISA = \"%s\" is not one that this processor has: %s", wanted, names);
}

ht_status ht_cpu_open(ht_backend *be, int threads, ht_error *err) {
    ht_status status = HT_OK;
    const instruction_set *set = NULL;
    cpu_state *state = NULL;
    HT_TRY(choose_set(&set, err));
    HT_TRY(ht_calloc(&state, 1, sizeof *state, err));
    be->state = state;
    be->threads = ht_host_threads(threads);
    omp_set_num_threads(be->threads); /* oneDNN's products follow it too */
    state->ops = *set->ops;
    state->ops.name = "cpu";
    state->ops.close = cpu_close;
    state->ops.upload = state->ops.download = cpu_copy_bytes;
    state->ops.upload_converted = cpu_upload_converted;
    state->ops.zero = cpu_zero;
    state->ops.memory = cpu_memory;
    state->ops.bf16_speed = ht_onednn_bf16_speed;
    be->ops = &state->ops;
    HT_TRY(ht_calloc(&state->scratch, (size_t)be->threads, sizeof(void *), err));
    HT_TRY(ht_onednn_open(&state->onednn, err));
done:
    if (status) cpu_close(be);
    return status;
}
