/*
 * A sequence's logits have the same bits whatever is decoded beside it, when it begins and ends, however it is cut into passes,
 * wherever its blocks lie and however many threads there are: so a sample is a function of its own prompt and random numbers.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/model/llama.h"
#include "tests/op/harness.h"

enum { SEQUENCES = 5, LENGTH = 263, VOCAB = 37, BLOCKS = 128, BLOCK = 16, TABLE = (LENGTH + BLOCK - 1) / BLOCK };

/* Beyond multiples of 128 positions, to which a repeated pass is sized, to their end, and within. */
static const int64_t lengths[SEQUENCES] = {LENGTH, 40, 128, 129, 20};

static ht_llama_config shape_of(int64_t head_dim) {
    return (ht_llama_config){.vocab_size = VOCAB,
                             .dim = 52,
                             .n_layers = 2,
                             .n_heads = 4,
                             .n_kv_heads = 2,
                             .head_dim = head_dim,
                             .ffn_dim = 70,
                             .max_positions = LENGTH,
                             .norm_eps = 1e-5,
                             .rope_theta = 10000,
                             .bos_id = 1,
                             .eos_id = 2};
}

/* How the sequences are run. */
typedef struct schedule {
    int64_t together; /* sequences a pass */
    int64_t prompt;   /* tokens of each in its first pass; 0: as in the others */
    int64_t piece;    /* tokens of each a pass; 0: now this many, now that */
    int64_t apart;    /* passes from the beginning of a sequence to that of the next */
    int threads;
    int32_t first_block;
} schedule;

typedef struct world {
    ht_backend *be;
    ht_arena arena;
    ht_llama model;
    ht_activations *acts;
    ht_kv_cache cache;
    ht_error err;
} world;

#define OK(call)                                                                                              \
    do {                                                                                                      \
        if ((call) != HT_OK) fail_msg("%s", w.err.message);                                                   \
    } while (0)

static int32_t token_of(int64_t sequence, int64_t position) {
    return (int32_t)ht_rng_below(9, (uint64_t)sequence, (uint64_t)position, VOCAB);
}

/* 1 to 9 tokens, other ones for each sequence and place. */
static int64_t piece_of(const schedule *s, int64_t sequence, int64_t done) {
    int64_t piece = s->piece ? s->piece : 1 + (sequence * 7 + done * 5) % 9;
    if (done == 0 && s->prompt) piece = s->prompt;
    return piece < lengths[sequence] - done ? piece : lengths[sequence] - done;
}

/* One pass over `count` sequences; logits of all its rows go to their places. */
static void run_pass(world *world_, const schedule *s, const int64_t *which, int64_t count, int64_t *done, float *logits) {
    world w = *world_;
    int32_t tokens[SEQUENCES * LENGTH], start[SEQUENCES + 1] = {0}, past[SEQUENCES], rows[SEQUENCES * LENGTH];
    int32_t tables[SEQUENCES * TABLE];
    int64_t n = 0;
    for (int64_t at = 0; at < count; at++) {
        int64_t q = which[at], now = piece_of(s, q, done[q]);
        past[at] = (int32_t)done[q];
        for (int64_t i = 0; i < now; i++, n++) {
            tokens[n] = token_of(q, done[q] + i);
            rows[n] = (int32_t)n;
        }
        start[at + 1] = (int32_t)n;
        for (int64_t b = 0; b < TABLE; b++)
            tables[at * TABLE + b] = (int32_t)((s->first_block + (q * TABLE + b) * 23) % BLOCKS);
    }
    for (int64_t at = 0; at < n;) { /* at most HT_LOGIT_ROWS rows of logits; whole passes are smaller */
        const ht_decode_batch batch = {.tokens = tokens,
                                       .seq_start = start,
                                       .past = past,
                                       .block_tables = tables,
                                       .sequences = count,
                                       .logit_rows = rows + at,
                                       .logit_count = n - at < HT_LOGIT_ROWS ? n - at : HT_LOGIT_ROWS};
        ht_tensor out;
        OK(ht_llama_decode(&w.model, w.acts, &w.cache, &batch, &out, &w.err));
        for (int64_t r = 0; r < batch.logit_count; r++) {
            int64_t of = 0, row = at + r;
            while (start[of + 1] <= row)
                of++;
            int64_t position = past[of] + row - start[of];
            ht_tensor one = ht_tensor_rows(out, r, 1);
            OK(ht_download(w.be, logits + (which[of] * LENGTH + position) * VOCAB, one.data, VOCAB * sizeof *logits, &w.err));
        }
        at += batch.logit_count;
    }
    for (int64_t at = 0; at < count; at++)
        done[which[at]] += start[at + 1] - start[at];
}

/* Runs sequences [first, end) to their ends. */
static void run_sequences(world *w, const schedule *s, int64_t first, int64_t end, float *logits) {
    int64_t done[SEQUENCES] = {0}, which[SEQUENCES], left = end - first;
    for (int64_t pass = 0; left > 0; pass++) {
        int64_t count = 0;
        for (int64_t q = first; q < end; q++)
            if (pass >= (q - first) * s->apart && done[q] < lengths[q]) which[count++] = q;
        if (count > 0) run_pass(w, s, which, count, done, logits);
        for (int64_t i = 0; i < count; i++)
            left -= done[which[i]] == lengths[which[i]];
    }
}

/* Logits of every position of every sequence, [SEQUENCES, LENGTH, VOCAB]; NULL: this device has no such dtype. */
static float *run(ht_dtype_choice dtype, int64_t head_dim, const schedule *s) {
    world w = {.err = HT_ERROR_INIT};
    const ht_llama_config shape = shape_of(head_dim);
    w.be = op_backend_open(s->threads);
    if (ht_backend_choose_dtype(w.be, dtype, &w.err) != HT_OK) {
        ht_backend_close(w.be);
        return NULL;
    }
    ht_arena_init(&w.arena, 0);
    ht_backend_arena(w.be, &w.arena);
    OK(ht_llama_init(&w.model, w.be, &w.arena, &shape, ht_backend_dtype(w.be), &w.err));
    OK(ht_llama_randomize(&w.model, 3, &w.err));
    OK(ht_activations_init(&w.acts, &w.model, &w.arena, HT_KEEP_NOTHING, SEQUENCES * LENGTH, SEQUENCES, &w.err));
    OK(ht_kv_cache_init(&w.cache, &w.model, &w.arena, BLOCKS, BLOCK, SEQUENCES, &w.err));
    float *logits = calloc(SEQUENCES * LENGTH * VOCAB, sizeof *logits);
    for (int64_t first = 0; first < SEQUENCES; first += s->together) {
        int64_t end = first + s->together < SEQUENCES ? first + s->together : SEQUENCES;
        run_sequences(&w, s, first, end, logits);
    }
    ht_kv_cache_free(&w.cache);
    ht_activations_free(w.acts);
    ht_llama_free(&w.model);
    ht_arena_clear(&w.arena);
    ht_backend_close(w.be);
    return logits;
}

static void check_same(ht_dtype_choice dtype, int64_t head_dim) {
    static const schedule first = {.together = 1, .piece = 17, .threads = 1, .first_block = 3};
    static const schedule others[] = {
        {.together = SEQUENCES, .prompt = 120, .piece = 1, .apart = 3, .threads = 2, .first_block = 40},
        {.together = SEQUENCES, .piece = LENGTH, .threads = 2, .first_block = 3},
        {.together = SEQUENCES, .piece = 0, .threads = 1, .first_block = 11},
        {.together = 2, .piece = 31, .threads = 2, .first_block = 60},
    };
    float *one = run(dtype, head_dim, &first);
    if (!one) skip();
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        float *other = run(dtype, head_dim, &others[i]);
        int64_t differ = 0;
        for (int64_t j = 0; j < SEQUENCES * LENGTH * VOCAB; j++)
            differ += memcmp(&one[j], &other[j], sizeof *one) != 0;
        if (differ) fail_msg("schedule %d: %d logits differ", (int)i, (int)differ);
        free(other);
    }
    free(one);
}

static void test_decoding__f32_bits_are_a_sequences_own(void **state) {
    (void)state;
    check_same(HT_DTYPE_F32, 20);
}

/* Heads of this width go to tensor cores, where there are some. */
static void test_decoding__bf16_bits_are_a_sequences_own(void **state) {
    (void)state;
    check_same(HT_DTYPE_BF16, 64);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoding__f32_bits_are_a_sequences_own),
        cmocka_unit_test(test_decoding__bf16_bits_are_a_sequences_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
