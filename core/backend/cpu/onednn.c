#include "core/backend/cpu/onednn.h"

#include <dnnl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

/* --- oneDNN 2 and 3 --------------------------------------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t description;
typedef const_dnnl_memory_desc_t description_ref;
#define REF(d) (d)
static dnnl_status_t describe(description *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides) {
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}
static void forget(description *d) {
    if (*d) dnnl_memory_desc_destroy(*d);
}
static dnnl_status_t create_matmul(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, description_ref a, description_ref b,
                                   description_ref c, dnnl_primitive_attr_t attr) {
    return dnnl_matmul_primitive_desc_create(pd, engine, a, b, NULL, c, attr);
}
static dnnl_status_t append_sum(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}
#else
typedef dnnl_memory_desc_t description;
typedef const dnnl_memory_desc_t *description_ref;
#define REF(d) (&(d))
static dnnl_status_t describe(description *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}
static void forget(description *d) {
    (void)d;
}
static dnnl_status_t create_matmul(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, description_ref a, description_ref b,
                                   description_ref c, dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t matmul;
    dnnl_status_t result = dnnl_matmul_desc_init(&matmul, a, b, NULL, c);
    return result == dnnl_success ? dnnl_primitive_desc_create(pd, &matmul, attr, engine, NULL) : result;
}
static dnnl_status_t append_sum(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0f);
}
#endif

/* --- primitives ------------------------------------------------------------------------------------------- */

/* What tells one primitive from another; m or k is 0 where any will do. */
typedef struct product_key {
    int64_t m, n, k, a_row, a_col, b_row, b_col, c_row;
    int64_t c_is_f32, accumulate;
} product_key;

typedef struct entry {
    product_key key;
    dnnl_primitive_t primitive;
} entry;

struct ht_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    entry *entries; /* open addressing; capacity is a power of two */
    size_t count, capacity;
};

static ht_status say(dnnl_status_t result, const char *what, ht_error *err) {
    if (result == dnnl_out_of_memory) return ht_fail(err, HT_ERR_NOMEM, "%s: oneDNN ran out of memory", what);
    if (result == dnnl_unimplemented)
        return ht_fail(err, HT_ERR_USAGE, "%s: oneDNN has no bfloat16 products for this processor; use float32", what);
    return ht_fail(err, HT_ERR_RUN, "%s: oneDNN failed with status %d", what, (int)result);
}

ht_status ht_onednn_open(ht_onednn **library, ht_error *err) {
    ht_onednn *opened = NULL;
    ht_status status = ht_calloc(&opened, 1, sizeof *opened, err);
    if (status) return status;
    dnnl_status_t result = dnnl_engine_create(&opened->engine, dnnl_cpu, 0);
    if (result == dnnl_success)
        result = dnnl_stream_create(&opened->stream, opened->engine, dnnl_stream_default_flags);
    if (result != dnnl_success) {
        ht_onednn_close(opened);
        return say(result, "matmul", err);
    }
    *library = opened;
    return HT_OK;
}

void ht_onednn_close(ht_onednn *library) {
    if (!library) return;
    for (size_t i = 0; i < library->capacity; i++)
        if (library->entries[i].primitive) dnnl_primitive_destroy(library->entries[i].primitive);
    if (library->stream) dnnl_stream_destroy(library->stream);
    if (library->engine) dnnl_engine_destroy(library->engine);
    free(library->entries);
    free(library);
}

/* The three matrices' shapes; m and k as given, which may be DNNL_RUNTIME_DIM_VAL. */
typedef struct shapes {
    description a, b, c;
} shapes;

static void forget_shapes(shapes *s) {
    forget(&s->a);
    forget(&s->b);
    forget(&s->c);
}

static dnnl_status_t describe_all(shapes *s, const product_key *key, dnnl_dim_t m, dnnl_dim_t k) {
    memset(s, 0, sizeof *s);
    dnnl_status_t result = describe(&s->a, (dnnl_dims_t){m, k}, dnnl_bf16, (dnnl_dims_t){key->a_row, key->a_col});
    if (result == dnnl_success)
        result = describe(&s->b, (dnnl_dims_t){k, key->n}, dnnl_bf16, (dnnl_dims_t){key->b_row, key->b_col});
    if (result == dnnl_success)
        result = describe(&s->c, (dnnl_dims_t){m, key->n}, key->c_is_f32 ? dnnl_f32 : dnnl_bf16,
                          (dnnl_dims_t){key->c_row, 1});
    return result;
}

static dnnl_status_t make_attributes(dnnl_primitive_attr_t *attr, int accumulate) {
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t result = dnnl_primitive_attr_create(attr);
    if (result == dnnl_success) result = dnnl_post_ops_create(&ops);
    if (result == dnnl_success && accumulate) result = append_sum(ops);
    if (result == dnnl_success) result = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops) dnnl_post_ops_destroy(ops);
    return result;
}

static ht_status create(ht_onednn *library, entry *to, const product_key *key, ht_error *err) {
    shapes s;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t result = describe_all(&s, key, key->m ? key->m : DNNL_RUNTIME_DIM_VAL, key->k ? key->k : DNNL_RUNTIME_DIM_VAL);
    if (result == dnnl_success) result = make_attributes(&attr, (int)key->accumulate);
    if (result == dnnl_success) result = create_matmul(&pd, library->engine, REF(s.a), REF(s.b), REF(s.c), attr);
    if (result == dnnl_success) result = dnnl_primitive_create(&to->primitive, pd);
    to->key = *key;
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    forget_shapes(&s);
    return result == dnnl_success ? HT_OK : say(result, "matmul", err);
}

/* The slot of a key: its own, or the empty one where it belongs. */
static entry *find(entry *entries, size_t capacity, const product_key *key) {
    uint64_t hash = 1469598103934665603u;
    const int64_t *words = (const int64_t *)(const void *)key;
    for (size_t i = 0; i < sizeof *key / sizeof *words; i++)
        hash = (hash ^ (uint64_t)words[i]) * 1099511628211u;
    for (size_t i = (size_t)(hash >> 20) & (capacity - 1);; i = (i + 1) & (capacity - 1))
        if (!entries[i].primitive || memcmp(&entries[i].key, key, sizeof *key) == 0) return &entries[i];
}

static ht_status grow(ht_onednn *library, ht_error *err) {
    size_t capacity = library->capacity ? 2 * library->capacity : 64;
    entry *entries = NULL;
    ht_status status = ht_calloc(&entries, capacity, sizeof *entries, err);
    if (status) return status;
    for (size_t i = 0; i < library->capacity; i++)
        if (library->entries[i].primitive) *find(entries, capacity, &library->entries[i].key) = library->entries[i];
    free(library->entries);
    library->entries = entries;
    library->capacity = capacity;
    return HT_OK;
}

static ht_status execute(ht_onednn *library, dnnl_primitive_t primitive, const product_key *key,
                         const ht_onednn_product *p, ht_error *err) {
    shapes s;
    dnnl_memory_t a = NULL, b = NULL, c = NULL;
    dnnl_status_t result = describe_all(&s, key, p->m, p->k);
    if (result == dnnl_success) result = dnnl_memory_create(&a, REF(s.a), library->engine, (void *)(uintptr_t)p->a.data);
    if (result == dnnl_success) result = dnnl_memory_create(&b, REF(s.b), library->engine, (void *)(uintptr_t)p->b.data);
    if (result == dnnl_success) result = dnnl_memory_create(&c, REF(s.c), library->engine, (void *)(uintptr_t)p->c.data);
    if (result == dnnl_success) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}};
        result = dnnl_primitive_execute(primitive, library->stream, 3, args);
    }
    if (result == dnnl_success) result = dnnl_stream_wait(library->stream);
    if (a) dnnl_memory_destroy(a);
    if (b) dnnl_memory_destroy(b);
    if (c) dnnl_memory_destroy(c);
    forget_shapes(&s);
    return result == dnnl_success ? HT_OK : say(result, "matmul", err);
}

ht_status ht_onednn_matmul(ht_onednn *library, const ht_onednn_product *p, ht_error *err) {
    ht_status status = HT_OK;
    const product_key key = {.m = p->any_rows ? 0 : p->m,
                     .n = p->n,
                     .k = p->any_depth ? 0 : p->k,
                     .a_row = p->a.row,
                     .a_col = p->a.col,
                     .b_row = p->b.row,
                     .b_col = p->b.col,
                     .c_row = p->c.row,
                     .c_is_f32 = p->c_is_f32,
                     .accumulate = p->accumulate};
    if (2 * (library->count + 1) > library->capacity) HT_TRY(grow(library, err));
    entry *slot = find(library->entries, library->capacity, &key);
    if (!slot->primitive) {
        HT_TRY(create(library, slot, &key, err));
        library->count++;
    }
    HT_TRY(execute(library, slot->primitive, &key, p, err));
done:
    return status;
}

ht_bf16_speed ht_onednn_bf16_speed(const char **why) {
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    int amx = (isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
    int bf16 = (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
    int core = (isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core, amd = 0;
#ifdef __x86_64__
    amd = __builtin_cpu_is("amd");
#endif
    *why = amx           ? "AMX multiplies bf16 several times as fast as f32"
           : bf16 && amd ? "AVX512_BF16 multiplies bf16 about twice as fast as f32"
           : bf16        ? "without AMX this processor multiplies bf16 no faster than f32"
           : core        ? "this processor has no bf16 instructions"
                         : "this processor does not multiply bf16";
    return amx || (bf16 && amd) ? HT_BF16_FAST : core ? HT_BF16_SLOW : HT_BF16_NONE;
}
