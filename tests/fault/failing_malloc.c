/*
 * failing_malloc: preloaded into a program, lets its N-th allocation fail once.
 *
 * HALTER_FAIL_ALLOCATION=N. Counted are allocations asked for by the program itself and by the libraries it
 * parses and stores data with; the others (OpenMP, oneDNN, the C++ library) end the process when they have no
 * memory, whatever Halter does. At the end the number of allocations goes to standard error as
 * "failing_malloc: M allocations".
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static atomic_long seen, chosen = -1;

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("HALTER_FAIL_ALLOCATION");
    atomic_store(&seen, 0);
    atomic_store(&chosen, text ? atol(text) : 0);
}

__attribute__((destructor)) static void end(void) {
    fprintf(stderr, "failing_malloc: %ld allocations\n", atomic_load(&seen));
}

/* 1 when this allocation is the one that fails. */
static int fails(const void *caller) {
    static const char *const counted[] = {"/halter-", "libjansson", "libsqlite3", "libyaml", "libcsv"};
    Dl_info info;
    if (atomic_load(&chosen) < 0 || !dladdr(caller, &info) || !info.dli_fname) return 0;
    for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
        if (!strstr(info.dli_fname, counted[i])) continue;
        if (atomic_fetch_add(&seen, 1) + 1 != atomic_load(&chosen)) return 0;
        errno = ENOMEM;
        return 1;
    }
    return 0;
}

void *malloc(size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}
