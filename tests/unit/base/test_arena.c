#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/arena.h"

static void test_arena__blocks_are_aligned_and_zeroed(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 64, 1000, (size_t)1 << 20, ((size_t)5 << 20) + 3, (size_t)16 << 20};
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    ht_arena_init(&arena, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *block;
        assert_int_equal(ht_arena_take(&arena, HT_MEMORY_WEIGHTS, sizes[i], &block, &err), HT_OK);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        for (size_t k = 0; k < sizes[i]; k++) {
            if (block[k]) fail_msg("byte %zu of %zu is not zero", k, sizes[i]);
            block[k] = 0xff; /* a block after this one must not overlap */
        }
    }
    ht_arena_clear(&arena);
}

static void test_arena__books_by_category(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    void *block;
    ht_arena_init(&arena, 0);
    ht_arena_take(&arena, HT_MEMORY_WEIGHTS, 100, &block, &err);
    ht_arena_take(&arena, HT_MEMORY_KV_CACHE, 30, &block, &err);
    ht_arena_take(&arena, HT_MEMORY_WEIGHTS, 1, &block, &err);
    assert_int_equal(arena.booked[HT_MEMORY_WEIGHTS], 101);
    assert_int_equal(arena.booked[HT_MEMORY_KV_CACHE], 30);
    assert_int_equal(ht_arena_total(&arena), 131);
    assert_string_equal(ht_memory_category_text(HT_MEMORY_KV_CACHE), "KV cache");
    ht_arena_clear(&arena);
    assert_int_equal(ht_arena_total(&arena), 0);
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_WEIGHTS, 8, &block, &err), HT_OK);
    ht_arena_clear(&arena);
}

/* Plans of machines far larger than this one. */
static void test_arena__planning_takes_no_memory(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    void *block = &arena;
    ht_arena_init(&arena, 1);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ht_arena_take(&arena, HT_MEMORY_OPTIMIZER, (size_t)1 << 50, &block, &err), HT_OK);
        assert_null(block);
    }
    assert_true(ht_arena_total(&arena) == (size_t)1 << 52);
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_OPTIMIZER, SIZE_MAX, &block, &err), HT_ERR_NOMEM);
    ht_arena_clear(&arena);
}

static void test_arena__sealed_refuses(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    void *block;
    ht_arena_init(&arena, 0);
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_WORKSPACE, 8, &block, &err), HT_OK);
    ht_arena_seal(&arena);
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_WORKSPACE, 8, &block, &err), HT_ERR_RUN);
    assert_string_equal(err.message, "cannot take 8 bytes for workspace: the arena is sealed");
    assert_null(block);
    assert_int_equal(ht_arena_total(&arena), 8);
    ht_arena_clear(&arena);
}

static void test_arena__more_than_the_machine_has(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_arena arena;
    void *block;
    ht_arena_init(&arena, 0);
    assert_int_equal(ht_arena_take(&arena, HT_MEMORY_GRADIENTS, (size_t)1 << 50, &block, &err), HT_ERR_NOMEM);
    assert_string_equal(err.message, "cannot take 1125899906842624 bytes (1048576.000 GiB) for gradients: "
                                     "0.000 GiB taken before, and this machine has no more");
    assert_null(block);
    assert_int_equal(ht_arena_total(&arena), 0);
    ht_arena_clear(&arena);
}

/* Takes `count` blocks of activations, by sizes; in planning mode the same is booked. */
static void take_turn(ht_arena *arena, const size_t *sizes, size_t count, void **blocks) {
    ht_error err = HT_ERROR_INIT;
    ht_arena_turn(arena);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ht_arena_take(arena, HT_MEMORY_ACTIVATIONS, sizes[i], &blocks[i], &err), HT_OK);
}

static void test_arena__turns_share_memory(void **state) {
    (void)state;
    for (int planning = 0; planning < 2; planning++) {
        ht_error err = HT_ERROR_INIT;
        ht_arena arena;
        void *before, *first[3], *second[3], *third[2], *cache, *after;
        ht_arena_init(&arena, planning);
        assert_int_equal(ht_arena_take(&arena, HT_MEMORY_ACTIVATIONS, 4096, &before, &err), HT_OK);
        take_turn(&arena, (size_t[]){1000, 500, 500}, 3, first);
        assert_int_equal(ht_arena_total(&arena), 4096 + 2000);
        take_turn(&arena, (size_t[]){500, 400, 2000}, 3, second); /* one is too large for what is there */
        assert_int_equal(ht_arena_take(&arena, HT_MEMORY_KV_CACHE, 10, &cache, &err), HT_OK);
        assert_int_equal(ht_arena_total(&arena), 4096 + 2000 + 2000 + 10);
        take_turn(&arena, (size_t[]){2000, 1000}, 2, third);
        ht_arena_turns_end(&arena);
        assert_int_equal(ht_arena_total(&arena), 4096 + 2000 + 2000 + 10);
        assert_int_equal(ht_arena_take(&arena, HT_MEMORY_ACTIVATIONS, 500, &after, &err), HT_OK);
        assert_int_equal(ht_arena_total(&arena), 4096 + 2000 + 2000 + 10 + 500);
        if (!planning) {
            void *all[] = {before, first[0], first[1], first[2], second[2], cache, after};
            for (size_t i = 0; i < 7; i++)
                for (size_t j = 0; j < i; j++)
                    assert_ptr_not_equal(all[i], all[j]);
            assert_true(second[0] == first[1] && second[1] == first[2]);
            assert_true(third[0] == second[2] && third[1] == first[0]);
        }
        ht_arena_clear(&arena);
        assert_int_equal(ht_arena_total(&arena), 0);
    }
}

typedef struct device {
    int live, allowed;
} device;

static void *device_allocate(void *owner, size_t bytes) {
    device *d = owner;
    if (d->allowed-- <= 0) return NULL;
    d->live++;
    return malloc(bytes);
}

static void device_release(void *owner, void *block, size_t bytes) {
    (void)bytes;
    ((device *)owner)->live--;
    free(block);
}

static void test_arena__device_memory_and_its_end(void **state) {
    (void)state;
    for (int allowed = 0; allowed < 3; allowed++) {
        ht_error err = HT_ERROR_INIT;
        device d = {0, allowed};
        ht_arena arena;
        void *block;
        ht_arena_init(&arena, 0);
        arena.allocate = device_allocate;
        arena.release = device_release;
        arena.owner = &d;
        for (int i = 0; i < allowed; i++)
            assert_int_equal(ht_arena_take(&arena, HT_MEMORY_ACTIVATIONS, 16, &block, &err), HT_OK);
        assert_int_equal(ht_arena_take(&arena, HT_MEMORY_ACTIVATIONS, 16, &block, &err), HT_ERR_NOMEM);
        assert_non_null(strstr(err.message, "for activations"));
        assert_non_null(strstr(err.message, "the device has no more"));
        assert_int_equal(d.live, allowed);
        ht_arena_clear(&arena);
        assert_int_equal(d.live, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena__blocks_are_aligned_and_zeroed),
        cmocka_unit_test(test_arena__books_by_category),
        cmocka_unit_test(test_arena__planning_takes_no_memory),
        cmocka_unit_test(test_arena__sealed_refuses),
        cmocka_unit_test(test_arena__more_than_the_machine_has),
        cmocka_unit_test(test_arena__turns_share_memory),
        cmocka_unit_test(test_arena__device_memory_and_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
