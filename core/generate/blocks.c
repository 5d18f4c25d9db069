#include "core/generate/blocks.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

static int64_t bucket_of(const ht_block_pool *pool, uint64_t parent, const int32_t *tokens) {
    uint64_t hash = parent * 0x9E3779B97F4A7C15u;
    for (int i = 0; i < HT_CACHE_BLOCK; i++)
        hash = (hash ^ (uint64_t)(uint32_t)tokens[i]) * 0x100000001B3u;
    return (int64_t)((hash ^ hash >> 32) & (uint64_t)(pool->bucket_count - 1));
}

ht_status ht_block_pool_init(ht_block_pool *pool, int64_t blocks, ht_error *err) {
    ht_status status = HT_OK;
    memset(pool, 0, sizeof *pool);
    if (blocks < 1 || blocks > INT32_MAX / HT_CACHE_BLOCK)
        return ht_fail(err, HT_ERR_USAGE, "cache of %" PRId64 " blocks: allowed are 1 to %d", blocks,
                       INT32_MAX / HT_CACHE_BLOCK);
    pool->count = blocks;
    for (pool->bucket_count = 1; pool->bucket_count < 2 * blocks;)
        pool->bucket_count *= 2;
    HT_TRY(ht_calloc(&pool->blocks, (size_t)blocks, sizeof *pool->blocks, err));
    HT_TRY(ht_calloc(&pool->buckets, (size_t)pool->bucket_count, sizeof *pool->buckets, err));
    ht_block_pool_clear(pool);
done:
    if (status != HT_OK) ht_block_pool_release(pool);
    return status;
}

void ht_block_pool_release(ht_block_pool *pool) {
    free(pool->blocks);
    free(pool->buckets);
    memset(pool, 0, sizeof *pool);
}

void ht_block_pool_clear(ht_block_pool *pool) {
    for (int64_t i = 0; i < pool->bucket_count; i++)
        pool->buckets[i] = -1;
    for (int64_t i = 0; i < pool->count; i++) {
        memset(&pool->blocks[i], 0, sizeof pool->blocks[i]);
        pool->blocks[i].after = i + 1 < pool->count ? (int32_t)(i + 1) : -1;
    }
    pool->first_free = 0;
    pool->idle_first = pool->idle_last = -1;
    pool->available = pool->count;
}

int32_t ht_block_find(const ht_block_pool *pool, uint64_t parent, const int32_t *tokens) {
    int32_t found = pool->buckets[bucket_of(pool, parent, tokens)];
    while (found >= 0) {
        const ht_block *block = &pool->blocks[found];
        if (block->parent == parent && memcmp(block->tokens, tokens, sizeof block->tokens) == 0) break;
        found = block->chain;
    }
    return found;
}

static void forget(ht_block_pool *pool, int32_t index) {
    ht_block *block = &pool->blocks[index];
    if (!block->name) return;
    int32_t *link = &pool->buckets[bucket_of(pool, block->parent, block->tokens)];
    while (*link != index)
        link = &pool->blocks[*link].chain;
    *link = block->chain;
    block->name = block->parent = 0;
    block->ready = 0;
}

static void leave_idle(ht_block_pool *pool, int32_t index) {
    const ht_block *block = &pool->blocks[index];
    *(block->before >= 0 ? &pool->blocks[block->before].after : &pool->idle_first) = block->after;
    *(block->after >= 0 ? &pool->blocks[block->after].before : &pool->idle_last) = block->before;
}

int32_t ht_block_take(ht_block_pool *pool) {
    int32_t taken = pool->first_free;
    if (taken >= 0) {
        pool->first_free = pool->blocks[taken].after;
    } else {
        taken = pool->idle_first;
        if (taken < 0) return -1;
        leave_idle(pool, taken);
        forget(pool, taken);
    }
    pool->blocks[taken].holders = 1;
    pool->blocks[taken].ready = 0;
    pool->available--;
    return taken;
}

void ht_block_hold(ht_block_pool *pool, int32_t index) {
    if (pool->blocks[index].holders++ > 0) return;
    leave_idle(pool, index);
    pool->available--;
}

void ht_block_drop(ht_block_pool *pool, int32_t index) {
    ht_block *block = &pool->blocks[index];
    if (--block->holders > 0) return;
    pool->available++;
    if (block->name && block->ready) {
        block->before = pool->idle_last;
        block->after = -1;
        *(pool->idle_last >= 0 ? &pool->blocks[pool->idle_last].after : &pool->idle_first) = index;
        pool->idle_last = index;
        return;
    }
    forget(pool, index);
    block->after = pool->first_free;
    pool->first_free = index;
}

uint64_t ht_block_name(ht_block_pool *pool, int32_t index, uint64_t parent, const int32_t *tokens) {
    ht_block *block = &pool->blocks[index];
    int32_t *bucket = &pool->buckets[bucket_of(pool, parent, tokens)];
    memcpy(block->tokens, tokens, sizeof block->tokens);
    block->parent = parent;
    block->name = ++pool->last_name;
    block->chain = *bucket;
    *bucket = index;
    return block->name;
}
