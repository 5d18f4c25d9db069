/*
 * works.h: the pieces of work that are measured, on random weights and random tokens.
 *
 * Of the sizes tiny, small and medium, and in brackets of 7b:
 *   sft             one optimizer step of halter-sft on 8 sequences of 512 tokens (4 of 4096), every token a target
 *   reward          one of halter-reward train on pairs of such sequences
 *   score           scores of these sequences by a reward model
 *   generate-N      N sequences at once, greedy: 32 prompt tokens and 128 new ones each (256 and 256), end of sequence
 *                   ignored
 *   summary-greedy  one sequence, 384 prompt tokens and 128 new ones, three quarters of them copied (generation.c); not
 *                   of 7b
 *   summary-lookup  the same with prompt lookup, 10 tokens proposed a pass
 *   ppo-N           one iteration of halter-ppo: N responses to prompts of such lengths, scored by two reward models (of
 *                   the same weights, so that four models are in memory), one epoch in four mini-batches
 *   start           no work: a model folder is loaded, for training
 *   operations      no work: each operation by itself, on one such sequence (operations.c), for its profile
 *
 * bench/peers does the same with other toolkits.
 */
#ifndef HT_BENCH_WORKS_H
#define HT_BENCH_WORKS_H

#include "core/backend/profile.h"
#include "core/base/arena.h"
#include "core/model/llama.h"
#include "core/optim/adamw.h"

typedef struct work work;

/* How much a size has to do. */
typedef struct work_amount {
    int64_t sequences, length;      /* trained on or scored at once; tokens of each */
    int64_t prompt, new_tokens;     /* of a response */
    int64_t micro_tokens;           /* a forward and backward pass */
    int64_t together;               /* responses of ppo generated at once */
    ht_adamw_state state;
} work_amount;

typedef struct work_kind {
    const char *name; /* "generate-": a number follows */
    ht_status (*open)(work *w, ht_error *err);
    /* Does it once; *tokens = those that count: trained on, scored, newly generated, or prompt and response of ppo. NULL:
     * there is nothing but to open it. */
    ht_status (*run)(work *w, int64_t *tokens, ht_error *err);
    /* Tokens a second at the peaks (docs/benchmarks.md); NULL: none is stated. */
    double (*limit)(const work *w, const ht_profile *peaks);
    void (*close)(work *w); /* frees self */
    /* In place of `run` when a profile counts; NULL: `run` */
    ht_status (*profile)(work *w, ht_error *err);
} work_kind;

extern const work_kind work_sft, work_reward, work_score, work_generate, work_summary_greedy, work_summary_lookup,
    work_ppo, work_start, work_operations;

struct work {
    const work_kind *kind;
    ht_backend *be; /* borrowed */
    ht_arena arena;
    ht_llama_config config; /* of the size, with a language-model head */
    work_amount amount;
    int64_t count;          /* the number in the name */
    const char *folder;     /* work_start; borrowed */
    void *self;             /* the kind's own */
};

/* Sets up `name` on a model of a size ("tiny", "small", "medium", "7b") in the backend's dtype. HT_ERR_USAGE: no such work or
 * size. work_close in any case. */
ht_status work_open(work *w, ht_backend *be, const char *size, const char *name, ht_error *err);
void work_close(work *w);

/* Writes a folder with random weights of this size, for work_start. */
ht_status work_write_folder(ht_backend *be, const char *size, const char *folder, ht_error *err);

/* --- for the files of works ------------------------------------------------------------------------------- */

ht_status work_model(work *w, ht_llama *model, ht_head head, ht_error *err); /* random weights */
/* n normal numbers of this deviation; a stretch of them comes again and again, so that 7b takes seconds. */
ht_status work_randomize(work *w, void *memory, ht_dtype dtype, int64_t n, double deviation, ht_error *err);
int32_t work_token(const work *w, uint64_t stream, int64_t i);                /* a random one */

/* A model under training. */
typedef struct work_training {
    ht_llama model;
    ht_trainable trainable;
} work_training;
ht_status work_training_init(work *w, work_training *t, ht_head head, ht_error *err);
ht_status work_training_update(work_training *t, ht_error *err);
void work_training_free(work_training *t);

/* FLOP of a token's forward pass: products of the layers and of attention in a sequence of this length; of its logits. */
double work_layers_flop(const work *w, int64_t length);
double work_head_flop(const work *w);
/* Prints a line "operation|..." (worker.c), where the operation was called; share: of `all` seconds. Its rate is of FLOP, or
 * of bytes where these are what takes the longer at the peaks. */
void work_print_operation(const char *name, ht_operation operation, const ht_profile_line *line, const ht_profile *peaks,
                          double all);
/* Seconds of one new token of each of `count` sequences: the weights are read once, and the keys and values of `positions`
 * tokens of each; or the products are computed. */
double work_decode_seconds(const work *w, int64_t count, int64_t positions, const ht_profile *peaks);

#endif
