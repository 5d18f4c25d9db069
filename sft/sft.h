/*
 * sft.h: halter-sft, supervised fine-tuning on demonstrations, and pretraining on plain text.
 *
 * Source: Llama 2 section 3.1: loss on answer tokens only, sequences filled by concatenation, 64 of 4,096
 * tokens a step, 2 epochs, rate 2e-5 with a cosine, decay 0.1. What the paper does not say is decided in
 * DESIGN section 4 and docs/sft.md.
 */
#ifndef SFT_SFT_H
#define SFT_SFT_H

#include "core/batch/batch.h"
#include "core/batch/documents.h"
#include "core/tokenizer/tokenizer.h"
#include "core/train/train.h"

/* --- configuration ----------------------------------------------------------------------------------------
 */

typedef enum ht_train_on {
    HT_TRAIN_ON_LAST, /* the demonstration's own answer */
    HT_TRAIN_ON_ALL   /* the earlier assistant turns of its dialogue too */
} ht_train_on;

/* Shape of a new model. */
typedef struct ht_init_config {
    int64_t dim, layers, heads, kv_heads, ffn_dim, max_positions,
        vocab_size; /* kv_heads, ffn_dim 0: derived */
    int tied;
    char *tokenizer; /* tokenizer.model; NULL or empty: train one on the text */
} ht_init_config;

typedef struct ht_data_config {
    ht_strings kinds, origins;       /* demonstrations */
    int64_t first_round, last_round; /* last -1: no end */
    int64_t rejection_round;         /* of those chosen by rejection sampling; -1: as the others */
    char *batch;
    int64_t seq_len, batch_size, epochs, max_steps;
    int train_on;   /* ht_train_on */
    int too_long;   /* ht_too_long of core/generate/prompts.h */
    int documents;  /* ht_documents */
    double holdout; /* share of a text's documents */
    int64_t eval_examples;
} ht_data_config;

typedef struct ht_sft_config {
    ht_train_config train;
    char *db, *model;
    ht_strings text;
    ht_data_config data;
    ht_init_config init;
} ht_sft_config;

extern const ht_command ht_sft_command;

/* The command: reads data, trains, writes the model folder. */
ht_status ht_sft_run(void *config, const ht_invocation *invocation, ht_error *err);

/* --- data -------------------------------------------------------------------------------------------------
 */

/* Tokenised examples with the weight of each in the loss. {0} is empty. */
typedef struct ht_sft_set {
    ht_example_set examples;
    float *weights; /* [count] */
    size_t weight_capacity;
    int64_t longest, shortest, targets; /* tokens */
} ht_sft_set;
void ht_sft_set_free(ht_sft_set *set);
ht_status ht_sft_set_add(ht_sft_set *set, const ht_example *example, double weight, ht_error *err);

typedef struct ht_sft_data {
    ht_sft_set train, held_out;
    json_t *lineage;        /* where it is from: for halter.json */
    char hash[HT_HASH_LEN]; /* of every id, token, target and weight of both sets in their order */
} ht_sft_data;
void ht_sft_data_free(ht_sft_data *data); /* of a zeroed one: does nothing */

/*
 * Demonstrations of the store, in the order of their ids, in template llama2; dialogues of split test are
 * held out. An answer that a model with the same tokenizer sampled is taken as its ids, so an answer that was
 * cut has no EOS; any other is encoded from its text. HT_ERR_DATA: none is left; one is malformed, or longer
 * than data.seq_len while data.too_long is error (names row and length).
 */
ht_status ht_sft_load_demonstrations(ht_sft_data *data, ht_store *store, const ht_data_config *config,
                                     const ht_tokenizer *tokenizer, ht_error *err);

/*
 * Documents of text files: BOS, ids, EOS, loss on all but BOS. One longer than seq_len tokens becomes windows
 * of seq_len that overlap by one token, so that every token is a target exactly once. A document is held out
 * when the hash of its text, as a fraction of [0, 1), is below data.holdout: equal documents are on one side.
 */
ht_status ht_sft_load_text(ht_sft_data *data, const ht_strings *paths, const ht_data_config *config,
                           const ht_tokenizer *tokenizer, ht_error *err);

/*
 * The order of training: a Philox permutation of the examples an epoch (HT_RNG_ORDER), packed in that order
 * into bins of at most seq_len tokens; batch_size bins are a step. The bins of all epochs are one sequence,
 * and only the last step may have fewer.
 */
typedef struct ht_sft_plan {
    int64_t *order;     /* examples */
    int64_t *bin_start; /* [bins + 1] positions in `order` */
    int64_t bins, batch_size, steps;
} ht_sft_plan;
ht_status ht_sft_plan_init(ht_sft_plan *plan, const ht_sft_set *set, const ht_data_config *config,
                           int64_t seed, ht_error *err);
void ht_sft_plan_free(ht_sft_plan *plan);
/* Positions [*first, *end) in `order` of the examples in this rank's part of a step's bins; `comm` NULL: of them all. */
void ht_sft_plan_step(const ht_sft_plan *plan, int64_t step, const ht_comm *comm, int64_t *first, int64_t *end);

/* --- training ---------------------------------------------------------------------------------------------
 */

/* Accumulates the mean loss of a step and its gradient; micro-batches and ranks change nothing but rounding. */
typedef struct ht_sft_trainer {
    const ht_llama *model; /* borrowed, as what follows */
    ht_params *grads;
    const ht_sft_data *data;
    const ht_sft_plan *plan;
    int64_t eval_examples; /* 0: all */
    ht_comm *comm;         /* set after ht_sft_trainer_init; NULL: alone */
    ht_activations *acts;
    ht_batch batch;
    int32_t *rows, *targets; /* [capacity] of the batch being run */
    float *weights, *logp;
    int64_t row_count;
} ht_sft_trainer;

/* Buffers for `micro_tokens` tokens a pass (fewer when no step has as many). HT_ERR_USAGE when an example is
 * longer. */
ht_status ht_sft_trainer_init(ht_sft_trainer *trainer, ht_trainable *trainable, const ht_sft_data *data,
                              const ht_sft_plan *plan, const ht_sft_config *config, ht_arena *arena,
                              ht_error *err);
void ht_sft_trainer_free(ht_sft_trainer *trainer);

/* accumulate, row and evaluate of an ht_train_task; self is the trainer. */
ht_status ht_sft_accumulate(void *self, int64_t step, int model, ht_metrics *metrics, ht_error *err);
int64_t ht_sft_row(void *self, int64_t step, int64_t index);
ht_status ht_sft_evaluate(void *self, int64_t updates, ht_metrics *metrics, int *stop, ht_error *err);

#endif
