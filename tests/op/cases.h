/*
 * cases.h: the shapes every backend is run on. Ones, odd tails, 63 (a reduction of 63 in bf16 crashes one
 * library's matmul), and the real models' widths. A case with an odd index runs on strided views.
 */
#ifndef HT_TESTS_OP_CASES_H
#define HT_TESTS_OP_CASES_H

#include "core/backend/backend.h"

#define OP_COUNT(table) ((int64_t)(sizeof(table) / sizeof((table)[0])))

typedef struct op_matrix_case {
    int64_t rows, cols;
} op_matrix_case;

/* Row-wise operations: norm, gather, scatter, copy, SwiGLU (cols: F). */
static const op_matrix_case op_matrix_cases[] = {
    {1, 1},   {1, 2},     {3, 7},    {5, 63},   {63, 64},   {64, 65},
    {7, 288}, {130, 127}, {33, 768}, {2, 4096}, {3, 11008},
};

/* What forward products add: nothing, another tensor, or the output itself. */
typedef enum op_add { ADD_NOTHING, ADD_OTHER, ADD_SELF } op_add;

typedef struct op_product_case {
    int64_t M, N, K;
    op_add add;
} op_product_case;

static const op_product_case op_product_cases[] = {
    {1, 1, 1, ADD_NOTHING},      {1, 5, 7, ADD_SELF},        {3, 2, 63, ADD_NOTHING},
    {63, 63, 63, ADD_OTHER},     {63, 64, 32, ADD_NOTHING},  {64, 63, 32, ADD_NOTHING},
    {64, 64, 64, ADD_SELF},      {65, 17, 129, ADD_NOTHING}, {2, 1000, 288, ADD_NOTHING},
    {128, 96, 63, ADD_OTHER},    {300, 33, 1, ADD_NOTHING},  {1, 768, 300, ADD_OTHER},
    {1, 32000, 16, ADD_NOTHING}, {257, 200, 130, ADD_SELF},  {16, 256, 1024, ADD_NOTHING},
    {520, 40, 24, ADD_OTHER},    {1300, 24, 40, ADD_OTHER},
};

typedef struct op_embedding_case {
    int64_t tokens, dim, vocab;
} op_embedding_case;

static const op_embedding_case op_embedding_cases[] = {
    {1, 1, 1}, {1, 63, 5}, {40, 7, 5}, {63, 64, 1000}, {130, 65, 1000}, {17, 128, 32000},
};

typedef struct op_rope_case {
    int64_t tokens, heads, head_dim;
} op_rope_case;

static const op_rope_case op_rope_cases[] = {
    {1, 1, 2}, {1, 1, 16}, {5, 3, 32}, {63, 4, 64}, {130, 2, 128}, {9, 8, 48},
};

/* How a packed batch is cut: `sequences` of lengths 1 + (first + step * i) % cycle. */
typedef struct op_cut {
    int64_t sequences, first, step, cycle;
} op_cut;

typedef struct op_attention_case {
    int64_t heads, kv_heads, head_dim;
    op_cut cut;
} op_attention_case;

#define OP_CUT_ONE                                                                                           \
    { 1, 0, 0, 1 } /* a single token */
#define OP_CUT_SHORT                                                                                         \
    { 24, 0, 3, 7 } /* many short ones */
#define OP_CUT_LONG(n)                                                                                       \
    { 1, (n)-1, 0, (n) } /* one long one */
#define OP_CUT_MIXED                                                                                         \
    { 5, 0, 29, 63 } /* 1, 30, 59, 25, 54 */
#define OP_CUT_AROUND(n)                                                                                     \
    { 3, (n)-2, 1, 1000 } /* n - 1, n, n + 1 */

static const op_attention_case op_attention_cases[] = {
    {1, 1, 16, OP_CUT_ONE},       {2, 1, 2, OP_CUT_SHORT},      {4, 4, 16, OP_CUT_SHORT},
    {4, 2, 32, OP_CUT_MIXED},     {8, 2, 64, OP_CUT_SHORT},     {8, 1, 16, OP_CUT_MIXED},
    {2, 2, 128, OP_CUT_MIXED},    {8, 8, 48, OP_CUT_LONG(63)},  {4, 1, 64, OP_CUT_LONG(64)},
    {2, 1, 128, OP_CUT_LONG(65)}, {2, 2, 32, OP_CUT_LONG(301)}, {4, 2, 128, OP_CUT_LONG(130)},
    {2, 2, 64, OP_CUT_AROUND(16)}, {2, 1, 160, OP_CUT_SHORT},   {4, 1, 128, OP_CUT_AROUND(64)},
    {4, 2, 64, OP_CUT_AROUND(32)}, {8, 1, 64, OP_CUT_AROUND(128)}, {3, 1, 128, OP_CUT_MIXED},
    {2, 2, 128, OP_CUT_AROUND(128)},
};

/* New rows over a cache, of sequences that have different numbers of positions behind them. */
typedef struct op_cached_case {
    int64_t heads, kv_heads, head_dim, block_size;
    op_cut rows, past; /* past: one less than the cut's lengths, so that 0 occurs */
} op_cached_case;

static const op_cached_case op_cached_cases[] = {
    {1, 1, 16, 16, {1, 0, 0, 1}, {1, 0, 0, 1}},    /* one token, nothing before it */
    {4, 2, 32, 16, {5, 0, 29, 63}, {5, 0, 0, 1}},  /* prefill */
    {8, 2, 64, 16, {7, 0, 0, 1}, {7, 0, 13, 70}},  /* decoding */
    {8, 1, 10, 48, {6, 4, 0, 5}, {6, 2, 31, 90}},  /* checking proposals of five; heads of no whole vectors */
    {8, 8, 48, 16, {9, 0, 5, 11}, {9, 0, 17, 40}}, /* prefill and decoding mixed */
    {4, 1, 128, 32, {3, 1, 0, 2}, {3, 0, 63, 200}},
    {8, 1, 64, 16, {5, 0, 1, 1000}, {5, 119, 3, 1000}},   /* proposals across a chunk's end, and a block's */
    {4, 4, 128, 32, {3, 62, 1, 1000}, {3, 63, 64, 1000}}, /* 63, 64, 65 rows */
    {8, 2, 64, 16, {4, 0, 40, 100}, {4, 250, 1, 1000}},   /* a row, and dozens, over long pasts */
    {2, 1, 128, 48, {3, 0, 0, 1}, {3, 127, 128, 1000}},   /* decoding at the ends of chunks */
};

typedef struct op_loss_case {
    int64_t rows, vocab;
    ht_token_loss_kind kind;
    double deviation; /* of the logits */
} op_loss_case;

static const op_loss_case op_loss_cases[] = {
    {1, 5, HT_TOKEN_LOSS_NONE, 1},      {1, 5, HT_TOKEN_LOSS_NLL, 1},       {3, 5, HT_TOKEN_LOSS_CLIP, 1},
    {63, 63, HT_TOKEN_LOSS_NLL, 3},     {40, 1000, HT_TOKEN_LOSS_NONE, 3},  {40, 1000, HT_TOKEN_LOSS_NLL, 3},
    {60, 1000, HT_TOKEN_LOSS_CLIP, 3},  {24, 32000, HT_TOKEN_LOSS_CLIP, 2}, {9, 32000, HT_TOKEN_LOSS_NLL, 8},
    {5, 32001, HT_TOKEN_LOSS_NONE, 20},
};

typedef struct op_vector_case {
    int64_t n, step;
} op_vector_case;

/* Optimizer updates: n elements, the step, how state is kept. */
typedef struct op_adamw_case {
    int64_t n, step;
    ht_adamw_state state;
} op_adamw_case;

static const op_adamw_case op_adamw_cases[] = {
    {1, 1, HT_ADAMW_F32},      {7, 2, HT_ADAMW_F32},    {63, 1, HT_ADAMW_F32},   {1000, 1000, HT_ADAMW_F32},
    {100003, 3, HT_ADAMW_F32}, {1, 1, HT_ADAMW_BF16},   {7, 2, HT_ADAMW_BF16},   {1024, 1, HT_ADAMW_BF16},
    {70001, 3, HT_ADAMW_BF16}, {1, 1, HT_ADAMW_8BIT},   {257, 2, HT_ADAMW_8BIT}, {1024, 1, HT_ADAMW_8BIT},
    {70001, 3, HT_ADAMW_8BIT},
};

static const op_vector_case op_vector_cases[] = {{1, 1}, {7, 2}, {63, 1}, {1000, 1000}, {100003, 3}};

#endif
