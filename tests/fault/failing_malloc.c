/*
 * failing_malloc: preloaded into a program, lets an allocation fail once.
 *
 * HALTER_FAIL_ALLOCATION=N: the first one from the N-th place. A place is a chain of calls: what one allocates in a loop is one
 * place. Looked at, from main on, are allocations asked for by the program itself and by the
 * libraries it parses and stores data with; the others (OpenMP, oneDNN, the C++ library, what CUDA's runtime does
 * before main) end the process when they have no memory, whatever Halter does. All others go to whoever would have had them: the C library, or a
 * sanitizer, which is told to live with something before it (ASAN_OPTIONS=verify_asan_link_order=0). At the end
 * the number of places goes to standard error as "failing_malloc: M places". For programs on one thread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unwind.h>

enum { SLOTS = 1 << 16 };

static long seen, chosen = -1;     /* -1: nothing is counted yet */
static size_t places[SLOTS];       /* hashes of those seen, by their low bits; 0: none */
static int (*real_main)(int argc, char **argv, char **environment);

/* `real` = the next definition of a function; by way of its bytes, as ISO C makes no function of an object. */
#define FIND(real, name)                                                                                      \
    if (!(real)) {                                                                                            \
        void *found = dlsym(RTLD_NEXT, name);                                                                 \
        memcpy(&(real), &found, sizeof found);                                                                \
    }

static int counted_main(int argc, char **argv, char **environment) {
    const char *text = getenv("HALTER_FAIL_ALLOCATION");
    chosen = text ? atol(text) : 0;
    return real_main(argc, argv, environment);
}

/* What the C library's start-up code calls, with main as an argument. */
int __libc_start_main(int (*program)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end);
int __libc_start_main(int (*program)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end) {
    static int (*real)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void),
                       void (*)(void), void *);
    FIND(real, "__libc_start_main")
    real_main = program;
    return real(counted_main, argc, argv, init, fini, rtld_fini, stack_end);
}

__attribute__((destructor)) static void end(void) {
    fprintf(stderr, "failing_malloc: %ld places\n", seen);
}

static _Unwind_Reason_Code add_call(struct _Unwind_Context *context, void *hash) {
    size_t *sum = hash;
    *sum = (*sum ^ (size_t)_Unwind_GetIP(context)) * 1099511628211u;
    return _URC_NO_REASON;
}

/* 1 when nothing has been allocated by this chain of calls yet. */
static int is_new_place(void) {
    size_t hash = 1469598103934665603u; /* FNV-1a, of addresses */
    _Unwind_Backtrace(add_call, &hash);
    for (size_t slot = hash % SLOTS;; slot = (slot + 1) % SLOTS) {
        if (places[slot] == hash) return 0;
        if (places[slot]) continue;
        places[slot] = hash;
        return 1;
    }
}

/* 1 when this allocation is the one that fails. */
static int fails(const void *caller) {
    static const char *const counted[] = {"/halter-", "libjansson", "libsqlite3", "libyaml", "libcsv"};
    Dl_info info;
    if (chosen < 0 || !dladdr(caller, &info) || !info.dli_fname) return 0;
    for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
        if (!strstr(info.dli_fname, counted[i])) continue;
        if (!is_new_place() || ++seen != chosen) return 0;
        errno = ENOMEM;
        return 1;
    }
    return 0;
}

void *malloc(size_t size) {
    static void *(*real)(size_t);
    FIND(real, "malloc")
    return fails(__builtin_return_address(0)) ? NULL : real(size);
}

void *calloc(size_t count, size_t size) {
    static void *(*real)(size_t, size_t);
    FIND(real, "calloc")
    return fails(__builtin_return_address(0)) ? NULL : real(count, size);
}

void *realloc(void *memory, size_t size) {
    static void *(*real)(void *, size_t);
    FIND(real, "realloc")
    return fails(__builtin_return_address(0)) ? NULL : real(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    static void *(*real)(size_t, size_t);
    FIND(real, "aligned_alloc")
    return fails(__builtin_return_address(0)) ? NULL : real(alignment, size);
}
