/* What a model under training keeps in each state, and gradients that lie in another model's memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/optim/adamw.h"
#include "tests/unit/do.h"
#include "tests/unit/small_llama.h"

static ht_backend *be;
static ht_arena arena;

static int set_up(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    if (ht_backend_open(&be, HT_BACKEND_CPU, 1, &err) != HT_OK) return -1;
    ht_arena_init(&arena, 0);
    ht_backend_arena(be, &arena);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    ht_arena_clear(&arena);
    ht_backend_close(be);
    return 0;
}

static void open_model(ht_llama *model, ht_dtype dtype, ht_head head, int64_t dim) {
    ht_llama_config shape = small_llama(33, 16);
    shape.dim = dim;
    shape.head = head;
    DO(ht_llama_init(model, be, &arena, &shape, dtype, &err_));
    DO(ht_llama_randomize(model, 3, &err_));
}

static int64_t elements(const ht_layout *layout) {
    int64_t n = 0;
    for (int64_t u = 0; u < layout->units; u++)
        n += layout->unit_size[u];
    return n;
}

/* The bytes of docs/training.md: 10 a parameter of a bf16 model (8 of an f32 one), 4, and 2 and two scales a block. */
static void test_trainable__bytes_of_each_state(void **state) {
    (void)state;
    static const ht_dtype moments[] = {HT_F32, HT_BF16, HT_U8};
    for (int kind = HT_ADAMW_F32; kind <= HT_ADAMW_8BIT; kind++) {
        for (ht_dtype dtype = HT_F32; dtype <= HT_BF16; dtype++) {
            ht_llama model;
            ht_trainable t;
            ht_trainable_part parts[HT_TRAINABLE_PARTS];
            open_model(&model, dtype, HT_HEAD_LM, 16);
            size_t gradients = arena.booked[HT_MEMORY_GRADIENTS], optimizer = arena.booked[HT_MEMORY_OPTIMIZER];
            DO(ht_trainable_init(&t, &model, &(ht_trainable_options){.state = (ht_adamw_state)kind}, &arena, &err_));
            size_t n = (size_t)elements(&model.layout), blocks = 0;
            for (int64_t i = 0; i < model.layout.count; i++)
                blocks += (size_t)(model.layout.params[i].rows * model.layout.params[i].cols + 255) / 256;
            size_t wanted = 2 * n * ht_dtype_size(moments[kind]);
            int halved = kind == HT_ADAMW_F32 && dtype == HT_BF16, scaled = kind == HT_ADAMW_8BIT;
            wanted += (halved ? 2 * n : 0) + (scaled ? 8 * blocks : 0);
            assert_int_equal(arena.booked[HT_MEMORY_GRADIENTS] - gradients, 4 * n);
            assert_int_equal(arena.booked[HT_MEMORY_OPTIMIZER] - optimizer, wanted);
            assert_int_equal(ht_trainable_parts(&t, parts), scaled ? 5 : halved ? 4 : 3);
            assert_ptr_equal(parts[0].params, &model.weights);
            assert_int_equal(parts[1].params->dtype, halved ? HT_U16 : moments[kind]);
            assert_int_equal(parts[2].params->dtype, moments[kind]);
            ht_trainable_free(&t);
            ht_llama_free(&model);
        }
    }
}

/* A value model's layers lie in the policy's, and its head, which is smaller, in the policy's head. */
static void test_trainable__gradients_of_one_shape_share_memory(void **state) {
    (void)state;
    ht_llama policy, value, other;
    ht_trainable a, b, c;
    open_model(&policy, HT_F32, HT_HEAD_LM, 16);
    open_model(&value, HT_F32, HT_HEAD_SCALAR, 16);
    open_model(&other, HT_F32, HT_HEAD_SCALAR, 24);
    DO(ht_trainable_init(&a, &policy, &(ht_trainable_options){.state = HT_ADAMW_F32}, &arena, &err_));
    size_t taken = arena.booked[HT_MEMORY_GRADIENTS];
    DO(ht_trainable_init(&b, &value, &(ht_trainable_options){.lends = &a}, &arena, &err_));
    assert_int_equal(arena.booked[HT_MEMORY_GRADIENTS], taken);
    for (int64_t u = 0; u < value.layout.units; u++)
        assert_ptr_equal(a.grads.units[u], b.grads.units[u]);
    /* Of a larger one only the head fits. */
    DO(ht_trainable_init(&c, &other, &(ht_trainable_options){.lends = &a}, &arena, &err_));
    for (int64_t u = 0; u < other.layout.units; u++)
        assert_int_equal(a.grads.units[u] == c.grads.units[u], u == other.layout.units - 1);
    ht_trainable_free(&c);
    ht_trainable_free(&b);
    ht_trainable_free(&a);
    ht_llama_free(&other);
    ht_llama_free(&value);
    ht_llama_free(&policy);
}

/* The codes of m after one update by the same gradient. */
static void update(uint64_t seed, int number, int64_t updates_before, uint8_t codes[16 * 16]) {
    ht_llama model;
    ht_trainable t;
    double norm;
    open_model(&model, HT_F32, HT_HEAD_LM, 16);
    DO(ht_trainable_init(&t, &model,
                         &(ht_trainable_options){.state = HT_ADAMW_8BIT, .seed = seed, .number = number}, &arena, &err_));
    int64_t q = ht_layout_layer(&model.layout, 1, HT_LAYER_Q);
    float *grad = ht_params_tensor(&t.grads, q).data;
    for (int i = 0; i < 16 * 16; i++)
        grad[i] = 0.01f * (float)(i % 37 + 1);
    t.updates = updates_before;
    DO(ht_optimizer_step(&t, &ht_optimizer_defaults, 1e-3, &norm, &err_));
    assert_int_equal(t.updates, updates_before + 1);
    memcpy(codes, ht_params_tensor(&t.m, q).data, 16 * 16);
    ht_trainable_free(&t);
    ht_llama_free(&model);
}

/* Rounding is a function of seed, model, parameter, element and update. */
static void test_trainable__what_rounding_depends_on(void **state) {
    (void)state;
    uint8_t first[256], again[256], other[256];
    update(1, 0, 0, first);
    update(1, 0, 0, again);
    assert_memory_equal(first, again, sizeof first);
    update(2, 0, 0, other);
    assert_memory_not_equal(first, other, sizeof first);
    update(1, 1, 0, other);
    assert_memory_not_equal(first, other, sizeof first);
    update(1, 0, 1, other);
    assert_memory_not_equal(first, other, sizeof first);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_trainable__bytes_of_each_state),
        TEST(test_trainable__gradients_of_one_shape_share_memory),
        TEST(test_trainable__what_rounding_depends_on),
    };
    return cmocka_run_group_tests_name("trainable", tests, NULL, NULL);
}
