/*
 * The tokenizer on models trained here: files that are none, text there and back, streams.
 */
#include "tests/unit/tokenizer/trained.h"

#include <pthread.h>
#include <unistd.h>

#include "core/base/rng.h"

/* ---- text ---- */

static void test_text__utf8_validity(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size, valid;
    } cases[] = {
        {"", 0, 0},
        {"plain ascii of more than eight bytes", 36, 36},
        {"caf\xC3\xA9 \xE4\xBD\xA0 \xF0\x9F\x98\x80", 14, 14},
        {"\xC0\x80", 2, 0},         /* overlong */
        {"a\xE0\x9F\xBF", 4, 1},    /* overlong */
        {"a\xED\xA0\x80", 4, 1},    /* surrogate */
        {"\xED\x9F\xBF", 3, 3},     /* U+D7FF */
        {"\xF0\x8F\xBF\xBF", 4, 0}, /* overlong */
        {"\xF4\x8F\xBF\xBF", 4, 4}, /* U+10FFFF */
        {"\xF4\x90\x80\x80", 4, 0}, /* above */
        {"12345678\xFF", 9, 8},
        {"12345678\xE4\xBD", 10, 8}, /* cut short */
        {"\x80", 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(ht_utf8_valid(cases[i].bytes, cases[i].size), cases[i].valid);
}

static void assert_stripped(const char *text, ht_strip edges, const char *wanted) {
    size_t size = strlen(text);
    ht_text_strip(&text, &size, edges);
    assert_int_equal(size, strlen(wanted));
    assert_memory_equal(text, wanted, size);
}

static void test_text__strip_is_pythons(void **state) {
    (void)state;
    assert_stripped("", HT_STRIP_BOTH, "");
    assert_stripped(" \t\r\n\v\f ", HT_STRIP_BOTH, "");
    assert_stripped("  a  b \n", HT_STRIP_BOTH, "a  b");
    assert_stripped("  a  b \n", HT_STRIP_LEFT, "a  b \n");
    /* U+001C, U+0085, U+00A0, U+1680, U+2003, U+2028, U+202F, U+205F, U+3000 are white space */
    assert_stripped(
        "\x1C\xC2\x85\xC2\xA0\xE1\x9A\x80\xE2\x80\x83x\xE2\x80\xA8\xE2\x80\xAF\xE2\x81\x9F\xE3\x80\x80",
        HT_STRIP_BOTH, "x");
    /* U+200B, U+FEFF and U+2581 are not */
    assert_stripped(" \xE2\x80\x8Bx\xEF\xBB\xBF ", HT_STRIP_BOTH, "\xE2\x80\x8Bx\xEF\xBB\xBF");
    assert_stripped(" \xE2\x96\x81 ", HT_STRIP_BOTH, "\xE2\x96\x81");
}

/* ---- files ---- */

static void assert_refused(const char *path, ht_status wanted, const char *part) {
    ht_error err = HT_ERROR_INIT;
    ht_tokenizer *tokenizer = (ht_tokenizer *)&err;
    ht_status status = ht_tokenizer_open(&tokenizer, path, &err);
    assert_error(status, wanted, &err, part);
    assert_error(status, wanted, &err, path);
    assert_null(tokenizer);
}

static void test_open__refuses_what_is_no_model(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char path[128];
    char *model;
    size_t size;
    snprintf(path, sizeof path, "%s/broken.model", f->folder);
    assert_refused(path, HT_ERR_IO, "No such file");
    write_file(path, "", 0);
    assert_refused(path, HT_ERR_DATA, "empty");
    write_file(path, "this is text, not a model", 25);
    assert_refused(path, HT_ERR_DATA, "not a sentencepiece model");
    assert_refused(f->folder, HT_ERR_IO, "");
    assert_int_equal(truncate(path, ((off_t)64 << 20) + 1), 0);
    assert_refused(path, HT_ERR_DATA, "is above the limit of 67108864 bytes");

    assert_ok(ht_file_read(f->model_path, &model, &size, &err), &err);
    /* Every cut is seen, also one between two fields of the file. */
    for (size_t cut = 1; cut < size; cut += cut + 200 < size ? 97 : 1) {
        write_file(path, model, cut);
        assert_refused(path, HT_ERR_DATA, "cut short");
    }
    free(model);
}

/* Fields behind the end of a protocol buffer add to its lists and take the place of its values. */
static void test_open__refuses_models_that_it_cannot_follow(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char path[128], *model;
    size_t size;
#define PIECE  "\x0A"
#define TRAINER "\x12"
    static const struct {
        const char *name;
        const char *bytes;
        size_t size;
        const char *says;
    } cases[] = {
        {"treat_whitespace_as_suffix", TRAINER "\x03\xC0\x01\x01", 5, "models that treat white space as a suffix"},
        {"denormalizer", "\x2A\x03\x12\x01\x00", 5, "models with a denormalizer are not supported"},
        {"unk_surface", TRAINER "\x04\xE2\x02\x01\xFF", 6, "the surface of unk is not UTF-8"},
        {"bos_piece", TRAINER "\x07\xF2\x02\x04none", 9, "the tokenizer has no bos piece"},
        {"eos_piece", TRAINER "\x07\xFA\x02\x04none", 9, "the tokenizer has no eos piece"},
        {"unk_piece", TRAINER "\x06\xEA\x02\x03<s>", 8, "the tokenizer has no unk piece"},
        {"a piece that is not UTF-8", PIECE "\x04\x0A\x02\xFF\xFE", 6, "piece 400 is empty or not UTF-8"},
        {"a piece with a NUL", PIECE "\x05\x0A\x03z\x00z", 7, "piece 400 is empty or not UTF-8"},
        {"a byte that is none", PIECE "\x0A\x0A\x06<0xGG>\x18\x06", 12, "<0xGG>"},
    };
    snprintf(path, sizeof path, "%s/odd.model", f->folder);
    assert_ok(ht_file_read(f->model_path, &model, &size, &err), &err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *odd = malloc(size + cases[i].size);
        memcpy(odd, model, size);
        memcpy(odd + size, cases[i].bytes, cases[i].size);
        write_file(path, odd, size + cases[i].size);
        assert_refused(path, HT_ERR_DATA, cases[i].says);
        free(odd);
    }
    free(model);
    write_file(path, TRAINER "\x00\x1A\x00", 4);
    assert_refused(path, HT_ERR_DATA, "not a sentencepiece model: it has no pieces");
}

static void test_open__survives_any_bytes(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char path[128], *model;
    size_t size, opened = 0, refused = 0;
    snprintf(path, sizeof path, "%s/bytes.model", f->folder);
    assert_ok(ht_file_read(f->model_path, &model, &size, &err), &err);
    for (uint64_t round = 0; round < 300; round++) {
        uint64_t stream = ht_rng_stream(HT_RNG_CHOICE, 99, round);
        ht_tokenizer *tokenizer;
        ht_error why = HT_ERROR_INIT;
        size_t length = round % 3 == 0 ? (size_t)ht_rng_below(1, stream, 100, 400) : size;
        char *bytes = malloc(length + 1);
        if (length == size) memcpy(bytes, model, size);
        /* a third random bytes, two thirds a model with a few of them changed */
        for (uint64_t i = 0; i < (length == size ? 1 + round % 4 : length); i++) {
            size_t at = length == size ? (size_t)ht_rng_below(1, stream, 2 * i, size) : (size_t)i;
            bytes[at] = (char)ht_rng_below(1, stream, 2 * i + 1, 256);
        }
        write_file(path, bytes, length);
        if (ht_tokenizer_open(&tokenizer, path, &why) == HT_OK) {
            ht_ids ids = {0};
            ht_text text = {0};
            const char *sample = "Hello, llama 42 \xF0\x9F\x98\x80\n";
            opened++;
            /* any status will do: what matters is that the process lives and reads nothing it should not */
            if (ht_tokenizer_encode(tokenizer, sample, strlen(sample), &ids, &why) == HT_OK)
                assert_ok(ht_tokenizer_decode(tokenizer, ids.data, ids.count, &text, &why), &why);
            ht_ids_release(&ids);
            ht_text_release(&text);
            ht_tokenizer_free(tokenizer);
        } else {
            assert_string_not_equal(why.message, "");
            refused++;
        }
        free(bytes);
    }
    free(model);
    assert_true(opened > 10 && refused > 50);
}

static void test_open__says_what_the_model_is(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    char hash[HT_HASH_LEN];
    assert_int_equal(ht_tokenizer_size(f->tokenizer), TRAINED_VOCAB);
    assert_int_equal(ht_tokenizer_unk(f->tokenizer), 0);
    assert_int_equal(ht_tokenizer_bos(f->tokenizer), 1);
    assert_int_equal(ht_tokenizer_eos(f->tokenizer), 2);
    assert_string_equal(ht_tokenizer_piece(f->tokenizer, 1), "<s>");
    assert_string_equal(ht_tokenizer_piece(f->tokenizer, 2), "</s>");
    assert_string_equal(ht_tokenizer_piece(f->tokenizer, 3 + 0x0A), "<0x0A>");
    assert_null(ht_tokenizer_piece(f->tokenizer, -1));
    assert_null(ht_tokenizer_piece(f->tokenizer, TRAINED_VOCAB));
    assert_ok(ht_file_hash(f->model_path, hash, &err), &err);
    assert_string_equal(ht_tokenizer_hash(f->tokenizer), hash);
}

/* ---- ids ---- */

static void test_encode__digits_bytes_and_dummy_prefix(void **state) {
    fixture *f = *state;
    ht_ids ids = {0};
    append_encoded(f->tokenizer, "2023", &ids); /* the space put in front, then four digits */
    assert_int_equal(ids.count, 5);
    assert_string_equal(ht_tokenizer_piece(f->tokenizer, ids.data[0]), "\xE2\x96\x81");
    assert_string_equal(ht_tokenizer_piece(f->tokenizer, ids.data[1]), "2");
    assert_int_equal(ids.data[1], ids.data[3]);
    ids.count = 0;
    append_encoded(f->tokenizer, "\n\xE4\xBD\xA0", &ids); /* not in the training text: bytes */
    const int32_t *end = ids.data + ids.count;
    assert_int_equal(end[-4], 3 + 0x0A);
    assert_int_equal(end[-3], 3 + 0xE4);
    assert_int_equal(end[-2], 3 + 0xBD);
    assert_int_equal(end[-1], 3 + 0xA0);
    ids.count = 0;
    append_encoded(f->tokenizer, "", &ids);
    assert_int_equal(ids.count, 0);
    append_encoded(f->tokenizer, "<s></s>", &ids); /* text, not control pieces */
    for (size_t i = 0; i < ids.count; i++)
        assert_true(ids.data[i] > 2);
    ht_ids_release(&ids);
}

static void test_encode__refuses_what_is_not_utf8_or_too_long(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_ids ids = {0};
    append_id(&ids, 7);
    ht_status status = ht_tokenizer_encode(f->tokenizer, "ab\xFFz", 4, &ids, &err);
    assert_error(status, HT_ERR_DATA, &err, "not UTF-8 at byte 2 of 4");
    assert_int_equal(ids.count, 1);
    err = (ht_error)HT_ERROR_INIT;
    status = ht_tokenizer_encode(f->tokenizer, "a", ((size_t)1 << 30) + 1, &ids, &err); /* none of it is read */
    assert_error(status, HT_ERR_DATA, &err, "text of 1073741825 bytes is above the limit of 1073741824");
    assert_int_equal(ids.count, 1);
    ht_ids_release(&ids);
}

static const char *const texts[] = {
    "",
    " ",
    "   ",
    "Hello, llama!",
    " Hello",
    "  two spaces before and after  ",
    "a\n\n b\tc\r\n",
    "\n",
    "\xF0\x9F\x98\x80\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7 caf\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD",
    "<s> </s> <unk> <0x41> [INST] 12,345",
};

static void test_decode__gives_the_text_back(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_ids ids = {0};
    ht_text text = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ids.count = 0;
        ht_text_clear(&text);
        append_id(&ids, 1);
        append_encoded(f->tokenizer, texts[i], &ids);
        append_id(&ids, 2);
        assert_ok(ht_tokenizer_decode(f->tokenizer, ids.data, ids.count, &text, &err), &err);
        assert_string_equal(text.data, texts[i]);
    }
    ht_ids_release(&ids);
    ht_text_release(&text);
}

static void assert_decodes(const fixture *f, const int32_t *ids, size_t count, const char *wanted) {
    ht_error err = HT_ERROR_INIT;
    ht_text text = {0};
    assert_ok(ht_tokenizer_decode(f->tokenizer, ids, count, &text, &err), &err);
    assert_string_equal(text.data, wanted);
    ht_text_release(&text);
}

#define BYTE(b) (3 + (b))
#define DECODES(f, wanted, ...)                                                                              \
    assert_decodes(f, (const int32_t[]){__VA_ARGS__},                                                        \
                   sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t), wanted)

static void test_decode__bytes_control_and_unknown(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_text text = {0};
    DECODES(f, "A\xC3\xA9", BYTE('A'), BYTE(0xC3), BYTE(0xA9));
    DECODES(f, "\xEF\xBF\xBD", BYTE(0xC3));
    DECODES(f,
            "\xEF\xBF\xBD"
            "A",
            BYTE(0xC3), BYTE('A'));
    /* a control piece ends a run of bytes */
    DECODES(f, "\xEF\xBF\xBD\xEF\xBF\xBD", BYTE(0xC3), 2, BYTE(0xA9));
    /* four bytes of which the last spoils the character: one U+FFFD a byte */
    DECODES(f, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz", BYTE(0xF0), BYTE(0x9F), BYTE(0x98), BYTE('z'));
    DECODES(f, " ", BYTE(' '));
    DECODES(f, " \xE2\x81\x87 ", 1, 0, 2);
    DECODES(f, "", 1, 2, 1);
    const int32_t outside[] = {5, TRAINED_VOCAB};
    assert_error(ht_tokenizer_decode(f->tokenizer, outside, 2, &text, &err), HT_ERR_DATA, &err,
                 "token 1 has id 400, outside [0, 400)");
    ht_text_release(&text);
}

static void test_decode__takes_one_space_off_the_beginning_only(void **state) {
    fixture *f = *state;
    ht_ids llama = {0};
    append_encoded(f->tokenizer, "llama", &llama);
    assert_int_equal(llama.count, 1); /* the space put in front is inside the piece */
    const int32_t id = llama.data[0];
    DECODES(f, "llama", id);
    DECODES(f, "llama", 1, id);
    DECODES(f, "llama llama", id, id);
    DECODES(f, "A llama", BYTE('A'), id);
    DECODES(f, "\xEF\xBF\xBD llama", BYTE(0xC3), id);
    ht_ids_release(&llama);
}

static void test_stream__equals_decode_and_is_utf8(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    int32_t ids[40];
    for (uint64_t round = 0; round < 500; round++) {
        uint64_t stream_id = ht_rng_stream(HT_RNG_SAMPLE, 3, round);
        ht_text whole = {0}, pieces = {0};
        ht_text_stream stream;
        /* a third of the ids from the bytes of one emoji, so that characters are often begun and sometimes
         * ended */
        static const int32_t emoji[] = {BYTE(0xF0), BYTE(0x9F), BYTE(0x98), BYTE(0x80)};
        for (uint64_t i = 0; i < 40; i++) {
            uint64_t pick = ht_rng_below(2, stream_id, 2 * i, 3);
            ids[i] = pick == 0 ? emoji[i % 4] : (int32_t)ht_rng_below(2, stream_id, 2 * i + 1, TRAINED_VOCAB);
        }
        assert_ok(ht_tokenizer_decode(f->tokenizer, ids, 40, &whole, &err), &err);
        ht_text_stream_init(&stream, f->tokenizer, HT_TEXT_BEGINS);
        for (size_t i = 0; i < 40; i++) {
            size_t before = pieces.size;
            assert_ok(ht_text_stream_push(&stream, &ids[i], 1, &pieces, &err), &err);
            if (pieces.size > before)
                assert_int_equal(ht_utf8_valid(pieces.data + before, pieces.size - before),
                                 pieces.size - before);
        }
        assert_ok(ht_text_stream_finish(&stream, &pieces, &err), &err);
        assert_int_equal(whole.size, pieces.size);
        assert_memory_equal(whole.data, pieces.data, whole.size);
        ht_text_release(&whole);
        ht_text_release(&pieces);
    }
}

static void test_stream__holds_back_an_unfinished_character(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_text text = {0};
    ht_text_stream stream;
    const int32_t ids[] = {BYTE(0xF0), BYTE(0x9F), BYTE(0x98), BYTE(0x80)};
    ht_text_stream_init(&stream, f->tokenizer, HT_TEXT_BEGINS);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(text.size, 0);
        assert_ok(ht_text_stream_push(&stream, &ids[i], 1, &text, &err), &err);
    }
    assert_string_equal(text.data, "\xF0\x9F\x98\x80");
    ht_text_release(&text);
}

static void test_stream__keeps_the_space_when_text_continues(void **state) {
    fixture *f = *state;
    ht_error err = HT_ERROR_INIT;
    ht_ids ids = {0};
    append_encoded(f->tokenizer, "llama", &ids); /* a space is put in front */
    for (int place = HT_TEXT_BEGINS; place <= HT_TEXT_CONTINUES; place++) {
        ht_text text = {0};
        ht_text_stream stream;
        ht_text_stream_init(&stream, f->tokenizer, (ht_text_place)place);
        assert_ok(ht_text_stream_push(&stream, ids.data, ids.count, &text, &err), &err);
        assert_string_equal(text.data, place == HT_TEXT_BEGINS ? "llama" : " llama");
        ht_text_release(&text);
    }
    ht_ids_release(&ids);
}

/* ---- threads ---- */

typedef struct job {
    const ht_tokenizer *tokenizer;
    ht_ids ids;
} job;

static void *encode_often(void *argument) {
    job *j = argument;
    ht_error err = HT_ERROR_INIT;
    for (int round = 0; round < 200; round++)
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
            if (ht_tokenizer_encode(j->tokenizer, texts[i], strlen(texts[i]), &j->ids, &err) != HT_OK)
                return j;
    return NULL;
}

static void test_encode__many_threads_at_once(void **state) {
    fixture *f = *state;
    pthread_t threads[4];
    job jobs[4] = {{0}};
    for (int i = 0; i < 4; i++) {
        jobs[i].tokenizer = f->tokenizer;
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    for (int i = 1; i < 4; i++)
        assert_ids(&jobs[i].ids, jobs[0].ids.data, jobs[0].ids.count);
    for (int i = 0; i < 4; i++)
        ht_ids_release(&jobs[i].ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text__utf8_validity),
        cmocka_unit_test(test_text__strip_is_pythons),
        cmocka_unit_test(test_open__refuses_what_is_no_model),
        cmocka_unit_test(test_open__refuses_models_that_it_cannot_follow),
        cmocka_unit_test(test_open__survives_any_bytes),
        cmocka_unit_test(test_open__says_what_the_model_is),
        cmocka_unit_test(test_encode__digits_bytes_and_dummy_prefix),
        cmocka_unit_test(test_encode__refuses_what_is_not_utf8_or_too_long),
        cmocka_unit_test(test_decode__gives_the_text_back),
        cmocka_unit_test(test_decode__bytes_control_and_unknown),
        cmocka_unit_test(test_decode__takes_one_space_off_the_beginning_only),
        cmocka_unit_test(test_stream__equals_decode_and_is_utf8),
        cmocka_unit_test(test_stream__holds_back_an_unfinished_character),
        cmocka_unit_test(test_stream__keeps_the_space_when_text_continues),
        cmocka_unit_test(test_encode__many_threads_at_once),
    };
    return cmocka_run_group_tests(tests, fixture_make, fixture_drop);
}
