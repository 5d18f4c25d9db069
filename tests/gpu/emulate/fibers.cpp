/*
 * The threads of a block as fibers: each runs until it waits for others (at the block's barrier, or at an operation of its
 * warp) or returns. A warp's fibers hand over to each other directly; between warps the scheduler does it.
 *
 * Where a thread has returned, the next one that has not begun goes on with its stack: so the threads of a kernel without
 * barriers run in a plain loop.
 */
#include <cuda_runtime.h>
#include <ht_emulated_mma.h>

#include <stdio.h>
#include <sys/mman.h>

#include <vector>

#include "tests/gpu/emulate/emulate.h"

/* This file itself is compiled without the sanitizers: its own accesses are many, and none of a kernel's. */
#ifdef HT_EMULATED_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
int ht_emulated_lane_id;

namespace {

enum { STACK_BYTES = HT_EMULATED_STACK_BYTES, GUARD_BYTES = 4096, COLOURS = 32, COLOUR_BYTES = 320 };

struct stack {
    char *memory; /* STACK_BYTES, above a guard page */
};

/* Bytes on their way to shared memory. */
struct async_copy {
    unsigned char *to, bytes[16];
    int size, group;
};

/* Why a fiber does not run, or READY (also: not begun). */
enum fiber_state { READY, AT_BARRIER, IN_WARP, RETURNED };

struct fiber {
    void *top; /* stack pointer while it does not run; NULL: not begun */
    stack own;
    uint3 index;
    fiber_state state;
    const char *file; /* where it waits */
    int line;
    bool begun; /* has waited for the kernel before, or need not */
    void *fake; /* AddressSanitizer's */
    std::vector<async_copy> copies;
    int groups; /* committed */
};

struct warp {
    unsigned ready;   /* lanes that can run */
    unsigned members; /* lanes that exist */
    unsigned arrived, mask;
    unsigned turn; /* which of the two buffers is being filled */
    uint32_t syncs; /* how many __syncwarp of all its lanes */
    ht_emulated_lane given[2][32];
};

struct shared_block {
    const void *key;
    unsigned char *memory;
    size_t bytes;
    bool taken; /* by the running block */
};

struct machine {
    const ht_emulated_launch *launch;
    size_t shared_limit;
    std::vector<fiber> fibers;
    std::vector<warp> warps;
    std::vector<stack> free_stacks;
    stack ended; /* of a fiber that has returned and not yet left it */
    std::vector<shared_block> shared;
    unsigned char *dynamic;
    int current; /* thread */
    bool descending, failed;
    int at_barrier, returned;
    const char *barrier_file;
    int barrier_line;
    void *scheduler; /* its stack pointer */
    void *scheduler_fake;
    const void *scheduler_bottom;
    size_t scheduler_bytes;
};
machine m;

} // namespace

extern "C" void ht_emulated_switch(void **save, void *load);

/* Keeps the registers that a function must keep (System V ABI) on the stack, and changes the stack. */
asm(".text\n"
    ".globl ht_emulated_switch\n"
    ".type ht_emulated_switch, @function\n"
    "ht_emulated_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size ht_emulated_switch, .-ht_emulated_switch\n");

/* AddressSanitizer must know which stack it is on. */
static void leave_for(void **fake, const void *bottom, size_t bytes) {
#ifdef HT_EMULATED_ASAN
    __sanitizer_start_switch_fiber(fake, bottom, bytes);
#else
    (void)fake, (void)bottom, (void)bytes;
#endif
}
static void arrived_on(void *fake, const void **from_bottom, size_t *from_bytes) {
    if (m.ended.memory) m.free_stacks.push_back(m.ended);
    m.ended.memory = NULL;
#ifdef HT_EMULATED_ASAN
    __sanitizer_finish_switch_fiber(fake, from_bottom, from_bytes);
#else
    (void)fake, (void)from_bottom, (void)from_bytes;
#endif
}

static stack take_stack(void) {
    if (!m.free_stacks.empty()) {
        stack s = m.free_stacks.back();
        m.free_stacks.pop_back();
        return s;
    }
    char *memory = (char *)mmap(NULL, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE)) {
        perror("emulated CUDA: the stack of a thread");
        abort();
    }
    return {memory + GUARD_BYTES};
}

static void begin(void);

/* A stack as ht_emulated_switch leaves it, from which `begin` is entered. Stacks begin at different distances from a page's
 * start: in the same places of each, all would share a few lines of the cache. */
static void prepare(fiber *f, int thread) {
    f->own = take_stack();
#ifdef HT_EMULATED_ASAN
    __asan_unpoison_memory_region(f->own.memory, STACK_BYTES);
#endif
    uintptr_t top = (uintptr_t)(f->own.memory + STACK_BYTES - (thread % COLOURS) * COLOUR_BYTES) / 16 * 16;
    void **word = (void **)top;
    *--word = NULL; /* what a return from `begin` would go to; alignment as after a call */
    *--word = (void *)begin;
    for (int i = 0; i < 6; i++)
        *--word = NULL;
    f->top = word;
    f->fake = NULL;
}

static void tell_races(int thread) {
    ht_emulated_race_thread(thread, m.fibers[(size_t)thread].own.memory, m.warps[(size_t)thread / 32].syncs);
}

static void run_as(int thread) {
    m.current = thread;
    tell_races(thread);
    ht_emulated_lane_id = thread % 32;
    threadIdx = m.fibers[(size_t)thread].index;
}

static void enter(int thread, void **save, void **fake) {
    fiber *f = &m.fibers[(size_t)thread];
    if (!f->top) prepare(f, thread);
    run_as(thread);
    leave_for(fake, f->own.memory, STACK_BYTES);
    ht_emulated_switch(save, f->top);
}

/* The next lane of the warp in the order of this launch, behind lane `after`, that is not of `except`; -1: none can run. */
static int next_ready(const warp *w, int after, unsigned except) {
    unsigned ready = w->ready & ~except;
    if (!ready) return -1;
    if (m.descending) {
        unsigned below = ready & ((1u << after) - 1);
        return 31 - __builtin_clz(below ? below : ready);
    }
    unsigned above = after == 31 ? 0 : ready & ~((2u << after) - 1);
    return __builtin_ctz(above ? above : ready);
}

/* The running fiber stops (it waits, or has returned: `last`); someone else goes on. */
static void hand_over(bool last) {
    int thread = m.current;
    fiber *f = &m.fibers[(size_t)thread];
    warp *w = &m.warps[(size_t)thread / 32];
    w->ready &= ~(1u << thread % 32);
    int lane = m.failed ? -1 : next_ready(w, thread % 32, 0);
    if (lane >= 0) {
        enter(thread / 32 * 32 + lane, &f->top, last ? NULL : &f->fake);
    } else {
        leave_for(last ? NULL : &f->fake, m.scheduler_bottom, m.scheduler_bytes);
        ht_emulated_switch(&f->top, m.scheduler);
    }
    arrived_on(f->fake, NULL, NULL); /* back again: whoever handed over has set m.current and threadIdx */
}

/* The first function of a fiber. */
static void begin(void) {
    const void *bottom = NULL;
    size_t bytes = 0;
    arrived_on(NULL, &bottom, &bytes);
    if (!m.scheduler_bottom) m.scheduler_bottom = bottom, m.scheduler_bytes = bytes; /* the first comes from there */
    for (;;) {
        m.launch->thread();
        if (!ht_emulated_begun())
            ht_emulated_fail("a kernel that is launched early ends and has not waited for the one before", NULL, 0);
        int thread = m.current;
        fiber *f = &m.fibers[(size_t)thread];
        warp *w = &m.warps[(size_t)thread / 32];
        f->state = RETURNED;
        m.returned++;
        int lane = next_ready(w, thread % 32, 1u << thread % 32);
        fiber *next = lane < 0 ? NULL : &m.fibers[(size_t)(thread / 32 * 32 + lane)];
        if (!next || next->top) {
            m.ended = f->own;
            hand_over(true);
            abort(); /* nobody comes back */
        }
        w->ready &= ~(1u << thread % 32);
        next->own = f->own;
        next->top = f->own.memory; /* until it first waits: only that it is not NULL matters */
        run_as(thread / 32 * 32 + lane);
    }
}

/* --- what threads wait for --------------------------------------------------------------------------------- */

void ht_begin(void) {
    m.fibers[(size_t)m.current].begun = true;
}
bool ht_emulated_begun(void) {
    return m.fibers[(size_t)m.current].begun;
}

static void wait_as(fiber_state state, const char *file, int line) {
    fiber *f = &m.fibers[(size_t)m.current];
    f->state = state;
    f->file = file;
    f->line = line;
    hand_over(false);
}

void ht_emulated_barrier(const char *file, int line) {
    if (m.at_barrier == 0) {
        m.barrier_file = file;
        m.barrier_line = line;
    } else if (m.barrier_file != file || m.barrier_line != line) {
        char what[256];
        snprintf(what, sizeof what, "this barrier is reached while other threads wait at the one of %s:%d",
                 m.barrier_file, m.barrier_line);
        ht_emulated_fail(what, file, line);
    }
    if (++m.at_barrier < (int)m.fibers.size()) {
        wait_as(AT_BARRIER, file, line);
        return;
    }
    m.at_barrier = 0;
    ht_emulated_race_barrier();
    for (fiber &f : m.fibers)
        f.state = READY;
    for (warp &w : m.warps)
        w.ready = w.members;
}

const ht_emulated_lane *ht_emulated_exchange(unsigned mask, const void *given, size_t bytes, const char *file,
                                             int line) {
    fiber *f = &m.fibers[(size_t)m.current];
    warp *w = &m.warps[(size_t)m.current / 32];
    unsigned lane = 1u << m.current % 32;
    if (!(mask & lane)) ht_emulated_fail("a lane is not in the mask of its own operation", file, line);
    if (mask & ~w->members) ht_emulated_fail("the mask names lanes that the block does not have", file, line);
    if (w->arrived && w->mask != mask) ht_emulated_fail("lanes of one warp give different masks", file, line);
    w->mask = mask;
    w->arrived |= lane;
    unsigned turn = w->turn;
    unsigned char *to = w->given[turn][m.current % 32];
    if (bytes == 4)
        memcpy(to, given, 4);
    else if (bytes == 8)
        memcpy(to, given, 8);
    else
        memcpy(to, given, bytes);
    if (w->arrived == mask) {
        w->arrived = 0;
        w->turn ^= 1;
        w->ready |= mask;
        if (bytes == 0 && mask == w->members) w->syncs++, tell_races(m.current); /* __syncwarp */
    } else {
        wait_as(IN_WARP, file, line);
        f->state = READY;
    }
    return w->given[turn];
}

void ht_emulated_fail(const char *what, const char *file, int line) {
    m.failed = true;
    fprintf(stderr, "emulated CUDA: %s: block (%u, %u, %u), thread (%u, %u, %u): ", m.launch->name, blockIdx.x,
            blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    if (file) fprintf(stderr, "%s:%d: ", file, line);
    fprintf(stderr, "%s\n", what);
    hand_over(false);
    abort(); /* a failed block is not run on */
}

/* --- asynchronous copies: done when they are waited for, so that a wait which is missing leaves NaN ----------- */

void ht_emulated_copy_begin(void *to, const unsigned char *bytes, int size) {
    fiber *f = &m.fibers[(size_t)m.current];
    async_copy copy = {(unsigned char *)to, {0}, size, f->groups};
    memcpy(copy.bytes, bytes, (size_t)size);
    ht_emulated_writes(to, (size_t)size);
    f->copies.push_back(copy);
}

void ht_emulated_copy_commit(void) {
    m.fibers[(size_t)m.current].groups++;
}

void ht_emulated_copy_wait(int under_way) {
    fiber *f = &m.fibers[(size_t)m.current];
    size_t kept = 0;
    for (const async_copy &copy : f->copies) {
        if (copy.group < f->groups - under_way) {
            ht_emulated_writes(copy.to, (size_t)copy.size);
            memcpy(copy.to, copy.bytes, (size_t)copy.size);
        } else {
            f->copies[kept++] = copy;
        }
    }
    f->copies.resize(kept);
}

/* --- shared memory ----------------------------------------------------------------------------------------- */

static void fill(unsigned char *memory, size_t bytes) {
    memset(memory, 0xff, bytes);
}

void *ht_emulated_shared(const void *key, size_t bytes) {
    size_t total = bytes + m.launch->shared;
    for (shared_block &b : m.shared) {
        if (b.key == key) {
            if (!b.taken) fill(b.memory, b.bytes);
            b.taken = true;
            return b.memory;
        }
        if (b.taken) total += b.bytes;
    }
    if (total > m.shared_limit || total - m.launch->shared > HT_EMULATED_STATIC_SHARED_LIMIT)
        ht_emulated_fail("more shared memory than a block can have", NULL, 0);
    unsigned char *memory = NULL;
    if (posix_memalign((void **)&memory, 16, bytes)) abort();
    fill(memory, bytes);
    ht_emulated_watch(memory, bytes, true);
    m.shared.push_back({key, memory, bytes, true});
    return memory;
}

void *ht_emulated_dynamic_shared(void) {
    return m.dynamic;
}

/* --- the scheduler ----------------------------------------------------------------------------------------- */

static void report_stuck(void) {
    int waiting[RETURNED + 1] = {0};
    const fiber *example[RETURNED + 1] = {NULL};
    for (const fiber &f : m.fibers) {
        waiting[f.state]++;
        example[f.state] = &f;
    }
    fprintf(stderr, "emulated CUDA: %s: block (%u, %u, %u) cannot go on:\n", m.launch->name, blockIdx.x, blockIdx.y,
            blockIdx.z);
    static const char *const names[] = {"can run", "wait at the barrier", "wait for their warp", "have returned"};
    for (int s = READY; s <= RETURNED; s++) {
        if (!waiting[s]) continue;
        const fiber *f = example[s];
        fprintf(stderr, "  %d threads %s, the last is (%u, %u, %u)", waiting[s], names[s], f->index.x, f->index.y,
                f->index.z);
        fprintf(stderr, s == AT_BARRIER || s == IN_WARP ? " at %s:%d\n" : "\n", f->file, f->line);
    }
    m.failed = true;
}

static void run_block(void) {
    m.at_barrier = m.returned = 0;
    for (fiber &f : m.fibers) {
        f.top = NULL;
        f.state = READY;
        f.file = "";
        f.line = 0;
        f.begun = !m.launch->early;
        f.copies.clear();
        f.groups = 0;
    }
    for (warp &w : m.warps) {
        w.ready = w.members;
        w.arrived = 0;
        w.syncs = 0;
    }
    ht_emulated_race_block();
    for (shared_block &b : m.shared)
        b.taken = false;
    if (m.dynamic) fill(m.dynamic, m.launch->shared);
    int warps = (int)m.warps.size();
    while (m.returned < (int)m.fibers.size() && !m.failed) {
        bool any = false;
        for (int i = 0; i < warps && !m.failed; i++) {
            int at = m.descending ? warps - 1 - i : i, lane;
            while (!m.failed && (lane = next_ready(&m.warps[(size_t)at], m.descending ? 0 : 31, 0)) >= 0) {
                any = true;
                enter(at * 32 + lane, &m.scheduler, &m.scheduler_fake);
                arrived_on(m.scheduler_fake, NULL, NULL);
            }
        }
        if (!any) report_stuck();
    }
    if (!m.failed) return;
    for (fiber &f : m.fibers) /* those that will not be run on give their stacks back */
        if (f.top && f.state != RETURNED) m.free_stacks.push_back(f.own);
}

static void set_up(const ht_emulated_launch *launch, size_t shared_limit) {
    static bool descending;
    m.launch = launch;
    m.shared_limit = shared_limit;
    m.failed = false;
    m.descending = descending;
    descending = !descending;
    m.scheduler_bottom = NULL;
    blockDim = launch->block;
    gridDim = launch->grid;
    unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    m.fibers.resize(threads);
    for (unsigned t = 0; t < threads; t++)
        m.fibers[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    m.warps.resize((threads + 31) / 32);
    for (unsigned w = 0; w < m.warps.size(); w++) {
        unsigned lanes = threads - 32 * w < 32 ? threads - 32 * w : 32;
        m.warps[w].members = lanes == 32 ? ~0u : (1u << lanes) - 1;
        m.warps[w].turn = 0;
    }
    m.dynamic = NULL;
    if (launch->shared && posix_memalign((void **)&m.dynamic, 16, launch->shared)) abort();
    ht_emulated_watch(m.dynamic, launch->shared, true);
}

bool ht_emulated_run_grid(const ht_emulated_launch *launch, size_t shared_limit) {
    set_up(launch, shared_limit);
    ht_emulated_race_launch(launch);
    uint64_t blocks = (uint64_t)gridDim.x * gridDim.y * gridDim.z;
    for (uint64_t i = 0; i < blocks && !m.failed; i++) {
        uint64_t b = m.descending ? blocks - 1 - i : i;
        blockIdx = {(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                    (unsigned)(b / gridDim.x / gridDim.y)};
        run_block();
    }
    ht_emulated_race_launch(NULL);
    ht_emulated_forget(m.dynamic);
    free(m.dynamic);
    for (shared_block &b : m.shared) {
        ht_emulated_forget(b.memory);
        free(b.memory);
    }
    m.shared.clear();
    return !m.failed;
}
