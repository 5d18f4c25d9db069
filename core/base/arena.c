#include "core/base/arena.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/memory.h"

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)

/* From this size on a block is a mapping of its own: zeroed by the kernel as pages are first touched (by the
 * threads that use them), in huge pages. AddressSanitizer watches only the heap, so there everything stays on
 * it. */
#ifdef __SANITIZE_ADDRESS__
#define MAPPED_FROM SIZE_MAX
#else
#define MAPPED_FROM (2 * HUGE_PAGE)
#endif

static size_t round_up(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

/* Maps one huge page too much and returns what lies outside the aligned block. */
static void *map_block(size_t bytes) {
    size_t mapped = bytes + HUGE_PAGE;
    char *start = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)start % HUGE_PAGE) % HUGE_PAGE;
    char *block = start + before;
    if (before) munmap(start, before);
    if (mapped - before > bytes) munmap(block + bytes, mapped - before - bytes);
    madvise(block, bytes, MADV_HUGEPAGE); /* advice: without it the block is only slower */
    return block;
}

static void *host_allocate(void *owner, size_t bytes) {
    (void)owner;
    if (bytes > SIZE_MAX / 2) return NULL;
    if (bytes >= MAPPED_FROM) return map_block(round_up(bytes, HUGE_PAGE));
    size_t size = round_up(bytes ? bytes : 1, ALIGNMENT);
    void *block = aligned_alloc(ALIGNMENT, size);
    if (block) memset(block, 0, size);
    return block;
}

static void host_release(void *owner, void *block, size_t bytes) {
    (void)owner;
    if (bytes >= MAPPED_FROM)
        munmap(block, round_up(bytes, HUGE_PAGE));
    else
        free(block);
}

void ht_arena_init(ht_arena *arena, int planning) {
    memset(arena, 0, sizeof *arena);
    arena->planning = planning;
}

void ht_arena_seal(ht_arena *arena) {
    arena->sealed = 1;
}

void ht_arena_clear(ht_arena *arena) {
    for (size_t i = arena->count; i-- > 0;) {
        const ht_arena_block *block = &arena->blocks[i];
        if (!block->memory) continue;
        if (arena->allocate)
            arena->release(arena->owner, block->memory, block->bytes);
        else
            host_release(NULL, block->memory, block->bytes);
    }
    free(arena->blocks);
    arena->blocks = NULL;
    arena->count = arena->capacity = arena->turns = 0;
    memset(arena->booked, 0, sizeof arena->booked);
    arena->sealed = arena->in_turn = 0;
}

static ht_status no_memory(const ht_arena *arena, ht_memory_category category, size_t bytes, ht_error *err) {
    const double gib = 1.0 / ((size_t)1 << 30);
    return ht_fail(err, HT_ERR_NOMEM, "cannot take %zu bytes (%.3f GiB) for %s: %.3f GiB taken before, %s",
                   bytes, (double)bytes * gib, ht_memory_category_text(category),
                   (double)ht_arena_total(arena) * gib,
                   arena->allocate ? "and the device has no more" : "and this machine has no more");
}

/* The smallest block that waits for this turn and is large enough, or NULL. */
static ht_arena_block *waiting_block(const ht_arena *arena, ht_memory_category category, size_t bytes) {
    ht_arena_block *best = NULL;
    for (size_t i = arena->count - arena->turns; i < arena->count; i++) {
        ht_arena_block *block = &arena->blocks[i];
        if (block->waits && block->category == category && block->bytes >= bytes && (!best || block->bytes < best->bytes))
            best = block;
    }
    return best;
}

static ht_status take_block(ht_arena *arena, ht_memory_category category, size_t bytes, void **out, ht_error *err) {
    size_t total = ht_arena_total(arena);
    void *memory = NULL;
    if (bytes > SIZE_MAX - total) return no_memory(arena, category, bytes, err);
    ht_status status = ht_grow(&arena->blocks, &arena->capacity, arena->count + 1, sizeof *arena->blocks, err);
    if (status) return status;
    if (!arena->planning) {
        if (!arena->allocate && total + bytes > ht_memory_limit()) return no_memory(arena, category, bytes, err);
        memory = arena->allocate ? arena->allocate(arena->owner, bytes) : host_allocate(NULL, bytes);
        if (!memory) return no_memory(arena, category, bytes, err);
    }
    arena->blocks[arena->count++] = (ht_arena_block){.memory = memory, .bytes = bytes, .category = category};
    if (arena->in_turn) arena->turns++;
    arena->booked[category] += bytes;
    *out = memory;
    return HT_OK;
}

ht_status ht_arena_take(ht_arena *arena, ht_memory_category category, size_t bytes, void *out,
                        ht_error *err) {
    *(void **)out = NULL;
    if (arena->sealed)
        return ht_fail(err, HT_ERR_RUN, "cannot take %zu bytes for %s: the arena is sealed", bytes,
                       ht_memory_category_text(category));
    ht_arena_block *waiting = arena->in_turn ? waiting_block(arena, category, bytes) : NULL;
    if (!waiting) return take_block(arena, category, bytes, out, err);
    waiting->waits = 0;
    *(void **)out = waiting->memory;
    return HT_OK;
}

void ht_arena_turn(ht_arena *arena) {
    if (!arena->in_turn) arena->turns = 0;
    arena->in_turn = 1;
    for (size_t i = arena->count - arena->turns; i < arena->count; i++)
        arena->blocks[i].waits = 1;
}

void ht_arena_turns_end(ht_arena *arena) {
    arena->in_turn = 0;
}

const char *ht_memory_category_text(ht_memory_category category) {
    static const char *const texts[] = {
#define HT_MEMORY_TEXT(name, text) text,
        HT_MEMORY_MAP(HT_MEMORY_TEXT)
#undef HT_MEMORY_TEXT
    };
    return (size_t)category < HT_MEMORY_COUNT ? texts[category] : "unknown";
}

size_t ht_arena_total(const ht_arena *arena) {
    size_t total = 0;
    for (int i = 0; i < HT_MEMORY_COUNT; i++)
        total += arena->booked[i];
    return total;
}
