#include "tests/unit/checkpoint/support.h"

#include "core/base/json.h"
#include "core/checkpoint/safetensors.h"

/* ---- reading ---- */

static void test_safetensors__reads_entries(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    const char *path = in_root("x.safetensors");
    write_safetensors(path,
                      "{\"__metadata__\":{\"format\":\"pt\"},"
                      "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
                      "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[10,12]},"
                      "\"empty\":{\"dtype\":\"F16\",\"shape\":[3,0],\"data_offsets\":[8,8]},"
                      "\"i\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[8,10]},"
                      "\"n\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[12,14]}}   ",
                      14);
    assert_ok(ht_safetensors_open(&set, path, &err), &err);
    assert_int_equal(ht_safetensors_count(set), 5);
    assert_string_equal(ht_safetensors_at(set, 0)->name, "a");
    assert_string_equal(ht_safetensors_at(set, 4)->name, "n");
    const ht_safetensors_entry *b = ht_safetensors_find(set, "b");
    assert_int_equal(b->dims, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 1);
    assert_int_equal(b->dtype, HT_F32);
    assert_true(b->supported);
    assert_int_equal(b->bytes, 8);
    assert_int_equal(b->data[5], 5);
    assert_string_equal(b->file, path);
    const ht_safetensors_entry *a = ht_safetensors_find(set, "a");
    assert_int_equal(a->dims, 0);
    assert_int_equal(a->dtype, HT_BF16);
    assert_int_equal(a->data[0], 10);
    assert_int_equal(ht_safetensors_find(set, "empty")->bytes, 0);
    assert_false(ht_safetensors_find(set, "i")->supported);
    assert_string_equal(ht_safetensors_find(set, "n")->dtype_name, "F4");
    assert_null(ht_safetensors_find(set, "c"));
    assert_null(ht_safetensors_find(set, "__metadata__"));
    ht_safetensors_forget(b);
    assert_int_equal(b->data[7], 7);
    ht_safetensors_close(set);
    ht_safetensors_close(NULL);
}

/* Every dtype of the format is known by name and width; only three are read. */
static void test_safetensors__knows_dtypes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int eight; /* bytes of 8 elements */
        int supported;
    } cases[] = {
        {"BOOL", 8, 0}, {"F4", 4, 0},          {"F6_E2M3", 6, 0}, {"F6_E3M2", 6, 0}, {"U8", 8, 1},
        {"I8", 8, 0},   {"F8_E5M2", 8, 0},     {"F8_E4M3", 8, 0}, {"F8_E8M0", 8, 0}, {"F8_E4M3FNUZ", 8, 0},
        {"I16", 16, 0}, {"F8_E5M2FNUZ", 8, 0}, {"U16", 16, 1},    {"F16", 16, 1},    {"BF16", 16, 1},
        {"I32", 32, 0}, {"U32", 32, 0},        {"F32", 32, 1},    {"C64", 64, 0},    {"F64", 64, 0},
        {"I64", 64, 0}, {"U64", 64, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_safetensors *set;
        char header[128];
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%d]}}",
                 cases[i].name, cases[i].eight);
        write_safetensors(in_root("x"), header, (size_t)cases[i].eight);
        assert_ok(ht_safetensors_open(&set, in_root("x"), &err), &err);
        assert_int_equal(ht_safetensors_at(set, 0)->supported, cases[i].supported);
        ht_safetensors_close(set);
    }
}

static void assert_refused(const char *path, const char *text) {
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set = (ht_safetensors *)(uintptr_t)1;
    assert_failed(ht_safetensors_open(&set, path, &err), HT_ERR_DATA, &err, text);
    assert_non_null(strstr(err.message, path));
    assert_null(set);
}

#define TENSOR(name, dtype, shape, offsets)                                                                  \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* Headers that lie, each with 8 bytes of data. */
static void test_safetensors__refuses_hostile_headers(void **state) {
    (void)state;
    static const struct {
        const char *header, *text;
    } cases[] = {
        {"", "does not begin with '{'"},
        {" {}", "does not begin with '{'"},
        {"[]", "does not begin with '{'"},
        {"{", "byte 1 of the header"},
        {"{}x", "end of file expected"},
        {"{}", "8 bytes at the end belong to no tensor"},
        {"{\"a\":NaN}", "of the header: invalid token"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[NaN],\"data_offsets\":[0,8]}}",
         "of the header: invalid token"},
        {"{\"a\":\"\\u0000\"}", "of the header"},
        {"{\"a\":1}", "tensor \"a\": not a JSON object"},
        {"{\"a\":{}}", "\"dtype\" is not a string"},
        {"{\"a\":{\"dtype\":\"F32\"}}", "\"shape\" is not an array"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", "\"data_offsets\" is not an array of two"},
        {"{" TENSOR("a", "Q4_K", "[2]", "[0,8]") "}", "dtype \"Q4_K\" is not one of the format"},
        {"{" TENSOR("a", "float32", "[2]", "[0,8]") "}", "dtype \"float32\" is not one of the format"},
        {"{" TENSOR("a", "F32", "[-2]", "[0,8]") "}", "size -2 in its shape is negative"},
        {"{" TENSOR("a", "F32", "[2.0]", "[0,8]") "}", "\"shape\" holds something else"},
        {"{" TENSOR("a", "F32", "[18446744073709551618]", "[0,8]") "}", "too big integer"},
        {"{" TENSOR("a", "F32", "[4611686018427387904,4]", "[0,8]") "}", "product of its shape overflows"},
        {"{" TENSOR("a", "F32", "[4611686018427387904]", "[0,8]") "}", "product of its shape overflows"},
        {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", "has 9 dimensions, at most 8"},
        {"{" TENSOR("a", "F32", "[3]", "[0,8]") "}",
         "data_offsets give 8 bytes, shape and dtype F32 need 12"},
        {"{" TENSOR("a", "F4", "[3]", "[0,1]") "}", "shape and dtype F4 need 1.5"},
        {"{" TENSOR("a", "F32", "[2]", "[0]") "}", "\"data_offsets\" is not an array of two"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8.0]") "}", "\"data_offsets\" is not an array of two"},
        {"{" TENSOR("a", "F32", "[2]", "[8,0]") "}", "data_offsets [8, 0] are not in [0, 8] in order"},
        {"{" TENSOR("a", "F32", "[2]", "[-8,0]") "}", "data_offsets [-8, 0] are not in"},
        {"{" TENSOR("a", "F32", "[2]", "[4,12]") "}", "data_offsets [4, 12] are not in [0, 8]"},
        {"{" TENSOR("a", "F32", "[2]", "[9223372036854775800,9223372036854775807]") "}", "are not in [0, 8]"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[0,4]") "}",
         "tensors \"a\" and \"b\" overlap"},
        {"{" TENSOR("b", "F32", "[2]", "[0,8]") "," TENSOR("a", "F16", "[1]", "[4,6]") "}",
         "tensors \"b\" and \"a\" overlap"},
        {"{" TENSOR("a", "F32", "[1]", "[4,8]") "}", "4 bytes before tensor \"a\" belong to no tensor"},
        {"{" TENSOR("a", "F16", "[1]", "[0,2]") "," TENSOR("b", "F32", "[1]", "[4,8]") "}",
         "2 bytes before tensor \"b\" belong to no tensor"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", "4 bytes at the end belong to no tensor"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("a", "F32", "[2]", "[0,8]") "}",
         "duplicate object key"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}",
         "duplicate object key"},
    };
    const char *path = in_root("x.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_safetensors(path, cases[i].header, 8);
        assert_refused(path, cases[i].text);
    }
}

/* Lengths that lie. */
static void test_safetensors__refuses_hostile_lengths(void **state) {
    (void)state;
    static const struct {
        uint64_t length;
        const char *text;
    } cases[] = {
        {0, "does not begin with '{'"},
        {3, "header of 3 bytes in a file of 10"},
        {100000000, "header of 100000000 bytes in a file of 10"},
        {100000001, "header of 100000001 bytes is above 100000000"},
        {UINT64_C(1) << 63, "header of 9223372036854775808 bytes is above"},
        {UINT64_MAX, "header of 18446744073709551615 bytes is above"},
        {UINT64_MAX - 7, "is above 100000000"},
    };
    const char *path = in_root("x.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bytes[10] = {0};
        memcpy(bytes, &cases[i].length, 8);
        memcpy(bytes + 8, "{}", 2);
        write_bytes(path, bytes, sizeof bytes);
        assert_refused(path, cases[i].text);
    }
    for (size_t size = 0; size < 8; size++) {
        write_bytes(path, "\0\0\0\0\0\0\0", size);
        assert_refused(path, "bytes, a safetensors file has at least 8");
    }
}

static void test_safetensors__refuses_deep_nesting(void **state) {
    (void)state;
    enum { DEPTH = 1000000 };
    char *header = malloc(DEPTH + 16);
    assert_non_null(header);
    strcpy(header, "{\"a\":");
    memset(header + 5, '[', DEPTH);
    header[5 + DEPTH] = '\0';
    write_safetensors(in_root("x"), header, 0);
    free(header);
    assert_refused(in_root("x"), "maximum parsing depth reached");
}

/* A file cut at any byte is refused: no header is believed that the rest does not bear out. */
static void test_safetensors__refuses_every_cut(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char *data;
    size_t size;
    write_safetensors(in_root("whole"), "{" TENSOR("a", "F32", "[2]", "[0,8]") "}", 8);
    assert_ok(ht_file_read(in_root("whole"), &data, &size, &err), &err);
    for (size_t cut = 0; cut < size; cut++) {
        write_bytes(in_root("cut"), data, cut);
        ht_error refusal = HT_ERROR_INIT;
        ht_safetensors *set;
        assert_int_equal(ht_safetensors_open(&set, in_root("cut"), &refusal), HT_ERR_DATA);
    }
    free(data);
}

static void test_safetensors__missing_file_is_io(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    assert_failed(ht_safetensors_open(&set, in_root("none"), &err), HT_ERR_IO, &err, "No such file");
}

/* ---- shards ---- */

static void test_safetensors__reads_shards(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    write_safetensors(in_root("s1"),
                      "{" TENSOR("b", "F32", "[1]", "[0,4]") "," TENSOR("d", "F32", "[1]", "[4,8]") "}", 8);
    write_safetensors(in_root("s2"), "{" TENSOR("c", "F16", "[1]", "[0,2]") "}", 2);
    write_text(in_root("m.index.json"), "{\"metadata\":{\"total_size\":10},"
                                        "\"weight_map\":{\"d\":\"s1\",\"c\":\"s2\",\"b\":\"s1\"}}");
    assert_ok(ht_safetensors_open(&set, in_root("m.index.json"), &err), &err);
    assert_int_equal(ht_safetensors_count(set), 3);
    assert_int_equal(ht_safetensors_find(set, "d")->data[0], 4);
    assert_string_equal(ht_safetensors_find(set, "c")->file, in_root("s2"));
    ht_safetensors_close(set);
}

static void test_safetensors__refuses_bad_indexes(void **state) {
    (void)state;
    static const struct {
        const char *index, *text;
    } cases[] = {
        {"{}", "\"weight_map\" is missing"},
        {"{\"weight_map\":[]}", "\"weight_map\" is missing or not an object"},
        {"{\"weight_map\":{\"a\":1}}", "shard \"(not a string)\" of \"a\""},
        {"{\"weight_map\":{\"a\":\"\"}}", "shard \"\" of \"a\" is no plain file name"},
        {"{\"weight_map\":{\"a\":\"../x/s1\"}}", "shard \"../x/s1\" of \"a\" is no plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "is no plain file name"},
        {"{\"weight_map\":{\"a\":\"d/s1\"}}", "is no plain file name"},
        {"{\"weight_map\":{\"a\":\"d\\\\s1\"}}", "is no plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "is no plain file name"},
        {"{\"weight_map\":{\"a\":\"s1\",\"z\":\"s1\"}}", "tensor \"z\" is missing in \"s1\""},
        {"{\"weight_map\":{\"a\":\"s2\",\"b\":\"s1\"}}", "tensor \"a\" is missing in \"s2\""},
        {"{\"weight_map\":{\"a\":\"s1\",\"c\":\"s2\",\"b\":\"s2\"}}", "tensor \"c\" is missing in \"s2\""},
        {"{\"weight_map\":{\"b\":\"s2\",\"c\":\"s3\"}}", "tensor \"d\" of \"s3\" is not in \"weight_map\""},
        {"{\"weight_map\":{\"a\":\"s1\",\"b\":\"s4\"}}", "tensor \"a\" is in both"},
        {"{\"weight_map\":{\"a\":\"s1\",\"a\":\"s1\"}}", "duplicate object key"},
    };
    const char *path = in_root("m.index.json");
    write_safetensors(in_root("s1"), "{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 4);
    write_safetensors(in_root("s2"), "{" TENSOR("b", "F32", "[1]", "[0,4]") "}", 4);
    write_safetensors(in_root("s3"),
                      "{" TENSOR("c", "F16", "[1]", "[0,2]") "," TENSOR("d", "F16", "[1]", "[2,4]") "}", 4);
    write_safetensors(in_root("s4"),
                      "{" TENSOR("a", "F16", "[1]", "[0,2]") "," TENSOR("b", "F16", "[1]", "[2,4]") "}", 4);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ht_error err = HT_ERROR_INIT;
        ht_safetensors *set;
        write_text(path, cases[i].index);
        assert_failed(ht_safetensors_open(&set, path, &err), HT_ERR_DATA, &err, cases[i].text);
    }
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    write_text(path, "{\"weight_map\":{\"a\":\"gone\"}}");
    assert_failed(ht_safetensors_open(&set, path, &err), HT_ERR_IO, &err, "m.index.json: cannot open");
}

/* ---- writing ---- */

static ht_status read_memory(void *context, void *host, size_t first, size_t bytes, ht_error *err) {
    (void)err;
    assert_true(bytes <= HT_SAFETENSORS_CHUNK);
    assert_int_equal(first % HT_SAFETENSORS_CHUNK, 0);
    memcpy(host, (const char *)context + first, bytes);
    return HT_OK;
}

static ht_status fail_to_read(void *context, void *host, size_t first, size_t bytes, ht_error *err) {
    (void)context, (void)host, (void)first, (void)bytes;
    return ht_fail(err, HT_ERR_RUN, "the device is gone");
}

static ht_safetensors_item item(const char *name, ht_dtype dtype, int64_t rows, int64_t cols, void *data) {
    return (ht_safetensors_item){
        .name = name, .dtype = dtype, .dims = 2, .shape = {rows, cols}, .read = read_memory, .context = data};
}

static void assert_holds(const ht_safetensors *set, const ht_safetensors_item *wanted, size_t bytes) {
    const ht_safetensors_entry *entry = ht_safetensors_find(set, wanted->name);
    assert_non_null(entry);
    assert_int_equal(entry->dtype, wanted->dtype);
    assert_int_equal(entry->dims, 2);
    assert_memory_equal(entry->shape, wanted->shape, 2 * sizeof(int64_t));
    assert_int_equal(entry->bytes, bytes);
    assert_memory_equal(entry->data, wanted->context, bytes);
}

static void test_safetensors__round_trip(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    size_t big = HT_SAFETENSORS_CHUNK + 12; /* more than one chunk */
    uint8_t *data = malloc(big);
    assert_non_null(data);
    for (size_t i = 0; i < big; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    ht_safetensors_item items[] = {
        item("z.\"quoted\" \xc3\xa9", HT_F32, 1, (int64_t)big / 4, data),
        item("half", HT_F16, 3, 5, data + 100),
        item("brain", HT_BF16, 1, 1, data + 200),
        item("none", HT_F32, 0, 4, data),
    };
    assert_ok(ht_safetensors_write(root, "model", items, 4, 0, &err), &err);
    assert_ok(ht_safetensors_open(&set, in_root("model.safetensors"), &err), &err);
    assert_int_equal(ht_safetensors_count(set), 4);
    assert_holds(set, &items[0], big);
    assert_holds(set, &items[1], 30);
    assert_holds(set, &items[2], 2);
    assert_holds(set, &items[3], 0);
    /* Maps begin at a page, so the file's alignment is the pointer's. */
    assert_int_equal((uintptr_t)ht_safetensors_find(set, items[0].name)->data % 8, 0);
    ht_safetensors_close(set);
    free(data);
}

static void test_safetensors__writes_shards(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    json_t *index;
    float data[64];
    for (int i = 0; i < 64; i++)
        data[i] = (float)i;
    /* 40 + 24 fill a shard of 64 exactly; 100 is above it and alone; 4 and 60 share the last. */
    ht_safetensors_item items[] = {
        item("e", HT_F32, 10, 1, data),     item("d", HT_F32, 6, 1, data + 1),
        item("c", HT_F32, 25, 1, data + 2), item("b", HT_F32, 1, 1, data + 3),
        item("a", HT_F32, 15, 1, data + 4),
    };
    assert_ok(ht_safetensors_write(root, "model", items, 5, 64, &err), &err);
    assert_false(ht_path_exists(in_root("model.safetensors")));
    assert_true(ht_path_exists(in_root("model-00003-of-00003.safetensors")));
    assert_ok(ht_json_read(in_root("model.safetensors.index.json"), &index, &err), &err);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")),
                     228);
    const json_t *map = json_object_get(index, "weight_map");
    assert_string_equal(ht_json_string(map, "d"), "model-00001-of-00003.safetensors");
    assert_string_equal(ht_json_string(map, "c"), "model-00002-of-00003.safetensors");
    assert_string_equal(ht_json_string(map, "b"), "model-00003-of-00003.safetensors");
    json_decref(index);
    assert_ok(ht_safetensors_open(&set, in_root("model.safetensors.index.json"), &err), &err);
    static const size_t sizes[] = {40, 24, 100, 4, 60};
    for (size_t i = 0; i < 5; i++)
        assert_holds(set, &items[i], sizes[i]);
    ht_safetensors_close(set);
    /* What fits is one file. */
    assert_ok(ht_safetensors_write(root, "whole", items, 5, 228, &err), &err);
    assert_true(ht_path_exists(in_root("whole.safetensors")));
}

static void test_safetensors__refuses_to_write(void **state) {
    (void)state;
    float data[4] = {0};
    ht_error err = HT_ERROR_INIT;
    ht_safetensors_item twins[] = {item("a", HT_F32, 1, 4, data), item("a", HT_F32, 1, 4, data)};
    assert_failed(ht_safetensors_write(root, "model", twins, 2, 0, &err), HT_ERR_USAGE, &err,
                  "two tensors are named \"a\"");
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_safetensors_write(root, "model", twins, 2, 16, &err), HT_ERR_USAGE, &err,
                  "two tensors are named \"a\"");
    err = (ht_error)HT_ERROR_INIT;
    ht_safetensors_item broken = item("b", HT_F32, 1, 4, data);
    broken.read = fail_to_read;
    assert_failed(ht_safetensors_write(root, "other", &broken, 1, 0, &err), HT_ERR_RUN, &err,
                  "the device is gone");
    assert_false(ht_path_exists(in_root("other.safetensors")));
    err = (ht_error)HT_ERROR_INIT;
    assert_failed(ht_safetensors_write(in_root("nowhere"), "m", twins, 1, 0, &err), HT_ERR_IO, &err,
                  "cannot create");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_safetensors__reads_entries),           TEST(test_safetensors__knows_dtypes),
        TEST(test_safetensors__refuses_hostile_headers), TEST(test_safetensors__refuses_hostile_lengths),
        TEST(test_safetensors__refuses_deep_nesting),    TEST(test_safetensors__refuses_every_cut),
        TEST(test_safetensors__missing_file_is_io),      TEST(test_safetensors__reads_shards),
        TEST(test_safetensors__refuses_bad_indexes),     TEST(test_safetensors__round_trip),
        TEST(test_safetensors__writes_shards),           TEST(test_safetensors__refuses_to_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
