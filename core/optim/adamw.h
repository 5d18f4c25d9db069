/*
 * adamw.h: a model's gradients and optimizer state, clipping and updates; learning-rate schedules.
 */
#ifndef HT_OPTIM_ADAMW_H
#define HT_OPTIM_ADAMW_H

#include "core/model/llama.h"

typedef struct ht_optimizer_config {
    double beta1, beta2, eps, decay, clip; /* clip 0: off */
} ht_optimizer_config;

/* Llama 2 section 2.2: 0.9, 0.95, 1e-5, 0.1, 1.0. */
extern const ht_optimizer_config ht_optimizer_defaults;

typedef struct ht_trainable ht_trainable;

/* How a model is trained; zeroed: f32 state. */
typedef struct ht_trainable_options {
    ht_adamw_state state;
    uint64_t seed; /* of stochastic rounding */
    int number;    /* of this model among those that are trained together: each is rounded by its own random bits */
    const ht_trainable *lends; /* NULL, or a model whose gradients' memory serves this one too: the two are accumulated and
                                  updated in turn */
} ht_trainable_options;

struct ht_trainable {
    ht_llama *model; /* borrowed */
    ht_trainable_options options;
    ht_params low;   /* of a bf16 model with f32 state: what its f32 weights have beyond the model's (ht_adamw); else empty */
    ht_params grads; /* f32 */
    ht_params m, v;  /* f32, bf16, or codes of 8 bits with their scales */
    ht_layout scale_layout;
    ht_params m_scale, v_scale; /* 8-bit state; else empty */
    int64_t updates;            /* done so far */
};

/* `model` has its weights, unless the arena is planning. */
ht_status ht_trainable_init(ht_trainable *trainable, ht_llama *model, const ht_trainable_options *options,
                            ht_arena *arena, ht_error *err);
void ht_trainable_free(ht_trainable *trainable);

/* The parts of a training state, for checkpoints: what an update reads and writes besides gradients. */
#define HT_TRAINABLE_PARTS 5
typedef struct ht_trainable_part {
    const char *name; /* "weights", "m", ... */
    ht_params *params;
} ht_trainable_part;
/* Returns their number. */
int ht_trainable_parts(ht_trainable *trainable, ht_trainable_part parts[HT_TRAINABLE_PARTS]);

/*
 * One update from the accumulated gradients: *norm = their global 2-norm (before clipping), scaled to at most
 * config->clip; decay on matrices only. Then gradients are zero again.
 * HT_ERR_RUN when the norm is not finite: names the first parameter with a non-finite gradient; nothing is changed.
 */
ht_status ht_optimizer_step(ht_trainable *trainable, const ht_optimizer_config *config, double lr, double *norm,
                            ht_error *err);

typedef enum ht_schedule_kind { HT_SCHEDULE_CONSTANT, HT_SCHEDULE_COSINE } ht_schedule_kind;

/* Linear warm-up over `warmup` steps (from lr/warmup), then constant, or cosine to lr * final at the last step. */
typedef struct ht_schedule {
    ht_schedule_kind kind;
    double lr, final;
    int64_t warmup, steps;
} ht_schedule;

/* Rate of step 0 .. steps-1. */
double ht_schedule_rate(const ht_schedule *schedule, int64_t step);

#endif
