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

typedef struct ht_trainable {
    ht_llama *model; /* borrowed */
    /* f32. Of a bf16 model, the master copy that updates accumulate in and that `model`'s weights are rounded from; of an
     * f32 model its weights themselves. */
    ht_params master;
    ht_params grads, m, v;
    int64_t updates; /* done so far */
} ht_trainable;

/* `model` has its weights, unless the arena is planning. */
ht_status ht_trainable_init(ht_trainable *trainable, ht_llama *model, ht_arena *arena, ht_error *err);
void ht_trainable_free(ht_trainable *trainable);

/* The model's weights from the master copy, after that was loaded. */
ht_status ht_trainable_refresh(ht_trainable *trainable, ht_error *err);

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
