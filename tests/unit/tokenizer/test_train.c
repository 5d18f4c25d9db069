/*
 * Training a tokenizer: same bytes every time, clear limits, text it cannot take.
 */
#include "tests/unit/tokenizer/trained.h"

#include "core/base/log.h"

static char logged[4096];

static void keep_log(ht_log_level level, const char *line) {
    (void)level;
    size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%s\n", line);
}

/* Trains on one file of `text`; the log of it is in `logged`. */
static ht_status train_on(const fixture *f, const char *text, size_t size, int32_t vocab, size_t max_bytes,
                          const char *out, ht_error *err) {
    char path[128];
    const char *paths[] = {path};
    snprintf(path, sizeof path, "%s/other.txt", f->folder);
    write_file(path, text, size);
    logged[0] = '\0';
    ht_log_set_sink(keep_log);
    ht_status status = ht_tokenizer_train(paths, 1, vocab, out, max_bytes, err);
    ht_log_set_sink(NULL);
    return status;
}

static void out_path(const fixture *f, char path[128]) {
    snprintf(path, 128, "%s/out.model", f->folder);
}

static void test_train__same_text_same_bytes(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char path[128], first[HT_HASH_LEN], again[HT_HASH_LEN], other[HT_HASH_LEN];
    out_path(f, path);
    assert_ok(ht_file_hash(f->model_path, first, &err), &err);
    assert_ok(train_on(f, trained_text, sizeof trained_text - 1, TRAINED_VOCAB, 0, path, &err), &err);
    assert_ok(ht_file_hash(path, again, &err), &err);
    assert_string_equal(first, again); /* from a file of another name */
    assert_ok(train_on(f, trained_text, sizeof trained_text / 2, 300, 0, path, &err), &err);
    assert_ok(ht_file_hash(path, other, &err), &err);
    assert_string_not_equal(first, other);
}

static void test_train__vocabulary_above_what_the_text_gives(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char path[128];
    int largest = 0;
    snprintf(path, sizeof path, "%s/large.model", f->folder);
    ht_status status = train_on(f, trained_text, sizeof trained_text - 1, 32000, 0, path, &err);
    assert_error(status, HT_ERR_DATA, &err, "vocab_size = 32000 is too large");
    assert_false(ht_path_exists(path));
    const char *number = strstr(err.message, "largest possible is ");
    assert_non_null(number);
    assert_int_equal(sscanf(number, "largest possible is %d", &largest), 1);
    /* and it is true: that many can be had, one more cannot */
    err = (ht_error)HT_ERROR_INIT;
    assert_ok(train_on(f, trained_text, sizeof trained_text - 1, largest, 0, path, &err), &err);
    status = train_on(f, trained_text, sizeof trained_text - 1, largest + 1, 0, path, &err);
    assert_error(status, HT_ERR_DATA, &err, "too large");
}

static void test_train__refuses(void **state) {
    fixture *f = *state;
    char path[128];
    ht_error err = HT_ERROR_INIT;
    out_path(f, path);
    assert_error(train_on(f, "text", 4, 259, 0, path, &err), HT_ERR_USAGE, &err, "vocab_size = 259");
    err = (ht_error)HT_ERROR_INIT;
    assert_error(train_on(f, trained_text, sizeof trained_text - 1, 270, 0, path, &err), HT_ERR_DATA, &err,
                 "vocab_size = 270 is too small for this text: its characters, the 256 bytes and unk, bos "
                 "and eos need 3");
    err = (ht_error)HT_ERROR_INIT;
    assert_error(train_on(f, "", 0, 300, 0, path, &err), HT_ERR_DATA, &err, "no text");
    err = (ht_error)HT_ERROR_INIT;
    assert_error(train_on(f, "\n\r\n\n", 4, 300, 0, path, &err), HT_ERR_DATA, &err, "no text");
    err = (ht_error)HT_ERROR_INIT;
    assert_error(train_on(f, "ab\xFF", 3, 300, 0, path, &err), HT_ERR_DATA, &err, "not UTF-8 at byte 2");
    err = (ht_error)HT_ERROR_INIT;
    const char *missing[] = {"/nonexistent/text.txt"};
    assert_error(ht_tokenizer_train(missing, 1, 300, path, 0, &err), HT_ERR_IO, &err,
                 "/nonexistent/text.txt");
    err = (ht_error)HT_ERROR_INIT;
    assert_error(train_on(f, trained_text, sizeof trained_text - 1, 320, 0, "/nonexistent/t.model", &err),
                 HT_ERR_IO, &err, "/nonexistent");
}

static void test_train__samples_large_text_and_says_so(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char path[128], first[HT_HASH_LEN], again[HT_HASH_LEN];
    size_t size = sizeof trained_text - 1, copies = 50;
    char *text = malloc(size * copies);
    for (size_t i = 0; i < copies; i++)
        memcpy(text + i * size, trained_text, size);
    out_path(f, path);
    assert_ok(train_on(f, text, size * copies, 320, 10000, path, &err), &err);
    unsigned long taken = 0, total = 0;
    const char *line = strstr(logged, "sample, ");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "sample, %lu of %lu bytes", &taken, &total), 2);
    assert_int_equal(total, size * copies);
    /* 600 lines of 75 bytes, each taken with probability 0.22: three standard deviations are 2,300 bytes */
    assert_true(taken > 7000 && taken < 13000);
    assert_ok(ht_file_hash(path, first, &err), &err);
    assert_ok(train_on(f, text, size * copies, 320, 10000, path, &err), &err);
    assert_ok(ht_file_hash(path, again, &err), &err);
    assert_string_equal(first, again);
    assert_ok(train_on(f, text, size * copies, 320, 0, path, &err), &err);
    assert_null(strstr(logged, "sample"));
    assert_non_null(strstr(logged, "all 600 lines"));
    free(text);
}

static void test_train__text_that_sentencepiece_cannot_take(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char path[128];
    enum { LONG = 100000 }; /* a word above 65,535 characters would end the process */
    size_t size = sizeof trained_text - 1;
    char *text = malloc(size + LONG + 16);
    memcpy(text, trained_text, size);
    for (size_t i = 0; i < LONG; i++)
        text[size + i] = (char)('a' + i % 23);
    memcpy(text + size + LONG, "\nx\xE2\x96\x85y\n", 7);
    out_path(f, path);
    assert_ok(train_on(f, text, size + LONG + 7, TRAINED_VOCAB, 0, path, &err), &err);
    assert_non_null(strstr(logged, "24 cuts in words"));
    assert_non_null(strstr(logged, "1 times U+2585"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train__same_text_same_bytes),
        cmocka_unit_test(test_train__vocabulary_above_what_the_text_gives),
        cmocka_unit_test(test_train__refuses),
        cmocka_unit_test(test_train__samples_large_text_and_says_so),
        cmocka_unit_test(test_train__text_that_sentencepiece_cannot_take),
    };
    return cmocka_run_group_tests(tests, fixture_make, fixture_drop);
}
