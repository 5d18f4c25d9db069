/*
 * arena.h: large buffers, planned by category before the first step.
 *
 * Every large buffer of a program is taken from one arena while it is being set up; ht_arena_seal then forbids
 * further allocation, so that no step allocates. In planning mode (--dry-run) sizes are booked and no memory is
 * taken: pointers returned are NULL. "backend's own" is what a backend takes for itself (ht_backend_arena). Buffers are
 * 64-byte aligned, zeroed when their memory is taken, and live until the arena is cleared.
 */
#ifndef HT_BASE_ARENA_H
#define HT_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/error.h"

#define HT_MEMORY_MAP(X)                                                                                      \
    X(WEIGHTS, "weights")                                                                                     \
    X(GRADIENTS, "gradients")                                                                                 \
    X(OPTIMIZER, "optimizer state")                                                                           \
    X(ACTIVATIONS, "activations")                                                                             \
    X(KV_CACHE, "KV cache")                                                                                   \
    X(WORKSPACE, "workspace")                                                                                 \
    X(BACKEND, "backend's own")

typedef enum ht_memory_category {
#define HT_MEMORY_ENUM(name, text) HT_MEMORY_##name,
    HT_MEMORY_MAP(HT_MEMORY_ENUM)
#undef HT_MEMORY_ENUM
        HT_MEMORY_COUNT
} ht_memory_category;

typedef struct ht_arena_block {
    void *memory; /* NULL: booked only */
    size_t bytes;
    ht_memory_category category;
    int waits; /* serves the turn at hand, which has not asked for it yet */
} ht_arena_block;

typedef struct ht_arena {
    int planning; /* 1: book only */
    int sealed;
    size_t booked[HT_MEMORY_COUNT];
    ht_arena_block *blocks;
    size_t count, capacity;
    size_t turns; /* how many of the last blocks are used by turns */
    int in_turn;
    void *(*allocate)(void *owner, size_t bytes);          /* NULL: host memory */
    void (*release)(void *owner, void *block, size_t bytes);
    void *owner;
} ht_arena;

void ht_arena_init(ht_arena *arena, int planning);
void ht_arena_seal(ht_arena *arena);
/* Releases every block; the arena may be used again. */
void ht_arena_clear(ht_arena *arena);

/* *out = `bytes` zeroed bytes, or NULL in planning mode. HT_ERR_NOMEM names category and size; HT_ERR_RUN when the
 * arena is sealed. */
ht_status ht_arena_take(ht_arena *arena, ht_memory_category category, size_t bytes, void *out, ht_error *err);

/*
 * Buffers that are never in use at the same time, such as those of passes that follow each other, share memory: what is taken
 * after ht_arena_turn lies where earlier turns lay, as far as there is a large enough block of its category, until the next
 * ht_arena_turn or ht_arena_turns_end.
 */
void ht_arena_turn(ht_arena *arena);
void ht_arena_turns_end(ht_arena *arena);

const char *ht_memory_category_text(ht_memory_category category);
size_t ht_arena_total(const ht_arena *arena);

#endif
