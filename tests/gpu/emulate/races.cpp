/*
 * Races between the threads of a launch: two accesses to the same byte, one of them a write, of different
 * threads, with nothing between them that orders them on a GPU, whatever order the emulation runs them in.
 * Kernels are compiled with -fsanitize=thread; the calls that it puts before each access end here, not in its
 * own library.
 *
 * What orders: in a block, __syncthreads; in a warp, __syncwarp of all its lanes (a shuffle or a vote does
 * not); between blocks, an atomic operation on the same word, where a fence and a barrier lie between it and
 * the accesses, as the memory model's causality order has it. Each word of 4 bytes keeps its last write, and
 * of its reads those that no barrier has put an end to; a launch ends them all. Of threads that share a word,
 * each with bytes of its own, only the last is kept: what is told is a race, but there it can be missed.
 *
 * Watched are the first 32 launches of a kernel on one grid: training repeats the same ones for minutes.
 */
#include <cuda_runtime.h>

#include <dlfcn.h>
#include <stdio.h>
#include <sys/mman.h>

#include <map>
#include <tuple>

#include "tests/gpu/emulate/emulate.h"

namespace {

enum { WORD = 4, FOUND = 256, LAUNCHES = 32 };
enum kind { READ, WRITE, ATOMIC };

/* An access. Blocks are numbered from the program's first on, so that none of an earlier launch has a number
 * of this one. */
struct stamp {
    uint32_t block, barriers, syncs; /* how many of each the block, the warp had behind it */
    uint16_t thread;
    uint8_t bytes;   /* of the word: a bit each */
    bool atomic : 1; /* of a write */
    bool many : 1;   /* of reads: other lanes of this warp as well, since its last __syncwarp */
};

struct word {
    stamp write, read;
    uint32_t read_elsewhere; /* the last other block that read it; 0: none */
    bool read_by_warps;      /* more than one, since the block's last barrier */
    const void *writer;      /* its code */
};

struct memory {
    uintptr_t start;
    size_t bytes;
    word *shadow; /* zeros until touched */
    bool shared;  /* another one for each block */
};

static size_t words_of(size_t bytes) {
    return (bytes + WORD - 1) / WORD;
}

/* Blocks whose accesses are ordered: for each, those with fewer barriers behind them than this. */
typedef std::map<uint32_t, uint32_t> clock_of_blocks;

struct detector {
    std::map<uintptr_t, memory> all; /* by address */
    const memory *found[FOUND];      /* by some bits of the address: where an access was */
    const memory *at;                /* where the last one was */
    bool running;                    /* a launch that is watched */
    uint32_t first_block;            /* of it */
    stamp now;
    uintptr_t stack; /* of the running thread */
    int fenced;      /* thread that has made a fence since the last barrier; -1: none */
    int acquirer;    /* thread that made the last atomic operation */
    std::map<const void *, clock_of_blocks> released; /* by the word of the atomic operations */
    clock_of_blocks seen;                             /* of the running block, */
    clock_of_blocks to_come;                          /* and what its next barrier adds, */
    clock_of_blocks acquired;                         /* to which the next fence of `acquirer` adds */
};
detector d;

} // namespace

/* --- what is watched, and what orders ----------------------------------------------------------------- */

void ht_emulated_watch(const void *start, size_t bytes, bool shared) {
    if (bytes == 0) return;
    void *shadow = mmap(NULL, words_of(bytes) * sizeof(word), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shadow == MAP_FAILED) {
        perror("emulated CUDA: what is kept of accesses");
        abort();
    }
    d.all[(uintptr_t)start] = {(uintptr_t)start, bytes, (word *)shadow, shared};
}

void ht_emulated_forget(const void *start) {
    std::map<uintptr_t, memory>::iterator it = d.all.find((uintptr_t)start);
    if (it == d.all.end()) return;
    munmap(it->second.shadow, words_of(it->second.bytes) * sizeof(word));
    d.all.erase(it);
    memset(d.found, 0, sizeof d.found);
}

void ht_emulated_race_launch(const ht_emulated_launch *launch) {
    typedef std::tuple<const void *, unsigned, unsigned, unsigned> kernel_on_grid;
    static std::map<kernel_on_grid, int> launches;
    d.running = launch && launches[{launch->kernel, launch->grid.x, launch->grid.y, launch->grid.z}]++ < LAUNCHES;
    d.first_block = d.now.block + 1;
    d.released.clear();
}

void ht_emulated_race_block(void) {
    d.now.block++;
    d.now.barriers = d.now.syncs = 0;
    d.seen.clear();
    d.acquired.clear();
    d.to_come.clear();
    d.fenced = -1;
}

void ht_emulated_race_thread(int thread, const void *stack, uint32_t syncs) {
    d.stack = (uintptr_t)stack;
    d.now.thread = (uint16_t)thread;
    d.now.syncs = syncs;
}

static void join(clock_of_blocks *to, const clock_of_blocks &from) {
    for (const std::pair<const uint32_t, uint32_t> &one : from) {
        uint32_t &barriers = (*to)[one.first];
        if (one.second > barriers) barriers = one.second;
    }
}

void ht_emulated_race_barrier(void) {
    d.now.barriers++;
    join(&d.seen, d.to_come);
    d.to_come.clear();
    d.fenced = -1;
}

void ht_emulated_fence(void) {
    d.fenced = d.now.thread;
    if (d.acquirer == d.now.thread) join(&d.to_come, d.acquired);
}

/* --- accesses ----------------------------------------------------------------------------------------- */

/* What is kept of the bytes from `at` on, NULL for what is not watched (a thread's own memory, the host's);
 * sets d.at. */
static word *shadow_of(uintptr_t at, size_t bytes) {
    if (at - d.stack < HT_EMULATED_STACK_BYTES) return NULL;
    const memory **found = &d.found[at / 4096 % FOUND];
    if (!*found || at - (*found)->start >= (*found)->bytes) {
        std::map<uintptr_t, memory>::const_iterator next = d.all.upper_bound(at);
        if (next == d.all.begin()) return NULL;
        --next;
        if (at - next->first >= next->second.bytes) return NULL;
        *found = &next->second;
    }
    d.at = *found;
    return bytes <= d.at->bytes - (at - d.at->start) ? d.at->shadow + (at - d.at->start) / WORD : NULL;
}

/* Whether `before`, an access to the same word, is known to lie before what the running thread does now. */
static bool ordered(const stamp &before) {
    if (before.block < d.first_block) return true;
    if (before.block == d.now.block) {
        if (before.barriers != d.now.barriers) return true;
        if (before.thread == d.now.thread && !before.many) return true;
        return before.thread / 32 == d.now.thread / 32 && before.syncs != d.now.syncs;
    }
    if (d.at->shared) return true;
    clock_of_blocks::const_iterator seen = d.seen.find(before.block);
    return seen != d.seen.end() && before.barriers < seen->second;
}

/* Where machine code lies, as addr2line takes it: inside of the call, not behind it. */
static unsigned long long place(const void *code) {
    Dl_info info;
    uintptr_t base = dladdr(code, &info) ? (uintptr_t)info.dli_fbase : 0;
    return code ? (unsigned long long)((uintptr_t)code - base - 1) : 0;
}

static void report(const word *w, const stamp &before, kind was, kind is, const void *code) {
    char what[320], writer[32] = "";
    if (was == WRITE) snprintf(writer, sizeof writer, " 0x%llx", place(w->writer));
    snprintf(what, sizeof what,
             "a race: it %s in word %zu of %zu, where thread %u of block %u of the launch (this is %u) has %s with "
             "nothing between: addr2line -ife PROGRAM 0x%llx%s",
             is == READ ? "reads" : "writes", (size_t)(w - d.at->shadow), words_of(d.at->bytes),
             before.thread, before.block - d.first_block, d.now.block - d.first_block,
             was == READ ? "read" : "written", place(code), writer);
    ht_emulated_fail(what, NULL, 0);
}

static void note_read(word *w) {
    stamp *read = &w->read;
    bool same_bytes = read->bytes & d.now.bytes;
    bool together = same_bytes && read->block == d.now.block && read->barriers == d.now.barriers;
    if (together && read->thread / 32 == d.now.thread / 32 && read->syncs == d.now.syncs &&
        (read->many || read->thread != d.now.thread)) {
        read->many = true;
        return;
    }
    if (same_bytes && read->block != d.now.block && read->block >= d.first_block)
        w->read_elsewhere = read->block;
    w->read_by_warps = together && (w->read_by_warps || read->thread / 32 != d.now.thread / 32);
    *read = d.now;
}

static void note_write(word *w, kind is, const void *code) {
    stamp elsewhere = w->read;
    elsewhere.block = w->read_elsewhere;
    bool same = w->read.block == d.now.block && w->read.barriers == d.now.barriers;
    if (w->read.bytes & d.now.bytes) {
        if ((same && w->read_by_warps) || !ordered(w->read)) report(w, w->read, READ, is, code);
        if (w->read_elsewhere != d.now.block && !ordered(elsewhere)) report(w, elsewhere, READ, is, code);
    }
    w->write = d.now;
    w->write.atomic = is == ATOMIC;
    w->writer = code;
}

static void access(const void *start, size_t bytes, kind is, const void *code) {
    uintptr_t at = (uintptr_t)start;
    word *w = d.running ? shadow_of(at, bytes) : NULL;
    if (!w) return;
    if (!d.at->shared && !ht_emulated_begun())
        ht_emulated_fail("a kernel that is launched early touches memory and has not waited for the one before", NULL, 0);
    for (uintptr_t end = at + bytes, next; at < end; at = next, w++) {
        next = (at / WORD + 1) * WORD;
        if (next > end) next = end;
        d.now.bytes = (uint8_t)(((1u << (next - at)) - 1) << at % WORD);
        if ((w->write.bytes & d.now.bytes) && !ordered(w->write) && !(is == ATOMIC && w->write.atomic))
            report(w, w->write, WRITE, is, code);
        if (is == READ)
            note_read(w);
        else
            note_write(w, is, code);
    }
}

void ht_emulated_reads(const void *at, size_t bytes) {
    access(at, bytes, READ, __builtin_return_address(0));
}
void ht_emulated_writes(const void *at, size_t bytes) {
    access(at, bytes, WRITE, __builtin_return_address(0));
}

/* Releases what the block did before its last barrier, if this thread has made a fence since; and takes what
 * others have released, for a fence and a barrier to come. */
void ht_emulated_atomic(const void *word, size_t bytes) {
    access(word, bytes, ATOMIC, __builtin_return_address(0));
    clock_of_blocks &released = d.released[word];
    d.acquirer = d.now.thread;
    d.acquired = released;
    if (d.fenced != d.now.thread) return;
    join(&released, d.seen);
    released[d.now.block] = d.now.barriers;
}

/* --- what -fsanitize=thread calls --------------------------------------------------------------------- */

extern "C" {
void __tsan_init(void);
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void __tsan_vptr_update(void **at, void *value);
void __tsan_vptr_read(void **at);
void __tsan_read_range(void *at, unsigned long bytes);
void __tsan_write_range(void *at, unsigned long bytes);

void __tsan_init(void) {
}
void __tsan_func_entry(void *caller) {
    (void)caller;
}
void __tsan_func_exit(void) {
}
void __tsan_vptr_update(void **at, void *value) {
    (void)at, (void)value;
}
void __tsan_vptr_read(void **at) {
    (void)at;
}
void __tsan_read_range(void *at, unsigned long bytes) {
    access(at, bytes, READ, __builtin_return_address(0));
}
void __tsan_write_range(void *at, unsigned long bytes) {
    access(at, bytes, WRITE, __builtin_return_address(0));
}
#define ACCESSES(bytes)                                                                                      \
    void __tsan_read##bytes(void *at);                                                                       \
    void __tsan_write##bytes(void *at);                                                                      \
    void __tsan_unaligned_read##bytes(void *at);                                                             \
    void __tsan_unaligned_write##bytes(void *at);                                                            \
    void __tsan_read##bytes(void *at) {                                                                      \
        access(at, bytes, READ, __builtin_return_address(0));                                                \
    }                                                                                                        \
    void __tsan_write##bytes(void *at) {                                                                     \
        access(at, bytes, WRITE, __builtin_return_address(0));                                               \
    }                                                                                                        \
    void __tsan_unaligned_read##bytes(void *at) {                                                            \
        access(at, bytes, READ, __builtin_return_address(0));                                                \
    }                                                                                                        \
    void __tsan_unaligned_write##bytes(void *at) {                                                           \
        access(at, bytes, WRITE, __builtin_return_address(0));                                               \
    }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
}
