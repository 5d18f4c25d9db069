/*
 * blocks.h: who holds which block of the paged cache, and what is in it.
 *
 * A block can be named by its content: the tokens in it and, through its parent's name, all tokens before it.
 * A sequence that begins with the same tokens finds the named blocks and shares them. A named block that
 * nobody holds any more is idle: it keeps its content until its place is needed (the one idle longest goes
 * first). Names are serial numbers that never come again, so the child of a block that is gone cannot be
 * found by chance. Contents are compared token by token, not by hash alone.
 */
#ifndef HT_GENERATE_BLOCKS_H
#define HT_GENERATE_BLOCKS_H

#include <stdint.h>

#include "core/base/error.h"

#define HT_CACHE_BLOCK 16 /* positions a block */

typedef struct ht_block {
    int32_t holders;
    int32_t ready;         /* its keys and values have been computed */
    uint64_t name, parent; /* name 0: content unknown; parent 0: the sequence begins here */
    int32_t chain;         /* next block of the hash bucket, -1: last */
    int32_t before, after; /* in the list of idle blocks, or `after` in that of free ones */
    int32_t tokens[HT_CACHE_BLOCK];
} ht_block;

typedef struct ht_block_pool {
    ht_block *blocks;
    int32_t *buckets;
    int64_t count, bucket_count;
    int64_t available; /* free or idle */
    int32_t first_free, idle_first, idle_last;
    uint64_t last_name;
} ht_block_pool;

ht_status ht_block_pool_init(ht_block_pool *pool, int64_t blocks, ht_error *err);
void ht_block_pool_release(ht_block_pool *pool);
/* Every block free, no content known. */
void ht_block_pool_clear(ht_block_pool *pool);

/* The block with these HT_CACHE_BLOCK tokens behind the content named `parent`; -1 when there is none. */
int32_t ht_block_find(const ht_block_pool *pool, uint64_t parent, const int32_t *tokens);

/* A block of unknown content with one holder: a free one, else the one idle longest; -1 when there is none.
 */
int32_t ht_block_take(ht_block_pool *pool);

/* One holder more. */
void ht_block_hold(ht_block_pool *pool, int32_t block);

/* One holder less. Without a holder, a block that is named and ready becomes idle, any other free. */
void ht_block_drop(ht_block_pool *pool, int32_t block);

/* Names a held block's content (to be computed, or ready); returns the name. */
uint64_t ht_block_name(ht_block_pool *pool, int32_t block, uint64_t parent, const int32_t *tokens);

#endif
