/*
 * An iteration of PPO, by halter-ppo's own task: rollout, scoring, one optimizer step a mini-batch.
 */
#include "bench/works.h"
#include "core/base/memory.h"
#include "ppo/task.h"

enum { MINI_BATCHES = 4 };

typedef struct ppo {
    ht_ppo_config config;
    ht_ppo_models models;
    ht_ppo_task task;
    int64_t step;
} ppo;

/* Another model with the same weights. */
static ht_status copy_model(work *w, ht_llama *to, const ht_llama *from, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_llama_init(to, w->be, &w->arena, &from->config, from->weights.dtype, err));
    for (int64_t i = 0; i < from->layout.count; i++) {
        ht_tensor x = ht_params_tensor(&from->weights, i), y = ht_params_tensor(&to->weights, i);
        HT_TRY(ht_copy(w->be, &y, &x, err));
    }
done:
    return status;
}

/* The same weights under another name. */
static ht_status share_model(ht_llama *to, const ht_llama *from, ht_error *err) {
    ht_status status = HT_OK;
    *to = (ht_llama){.be = from->be, .config = from->config, .rope = from->rope};
    HT_TRY(ht_layout_init(&to->layout, &from->config, err));
    HT_TRY(ht_params_share(&to->weights, &from->weights, err));
done:
    return status;
}

/* As halter-ppo opens them (ppo/command.c), but for the folders. */
static ht_status open_models(work *w, ht_ppo_models *m, ht_error *err) {
    ht_status status = HT_OK;
    int64_t sequences = w->count < w->amount.together ? w->count : w->amount.together;
    const ht_engine_limits limits = {.max_sequences = sequences,
                                     .cache_tokens = sequences * (w->amount.prompt + w->amount.new_tokens),
                                     .prefill_tokens = w->amount.micro_tokens};
    HT_TRY(work_model(w, &m->policy, HT_HEAD_LM, err));
    HT_TRY(copy_model(w, &m->reference, &m->policy, err));
    HT_TRY(work_model(w, &m->helpful, HT_HEAD_SCALAR, err));
    HT_TRY(share_model(&m->safe, &m->helpful, err));
    HT_TRY(copy_model(w, &m->value, &m->helpful, err));
    ht_trainable_options training = {.state = w->amount.state};
    HT_TRY(ht_trainable_init(&m->policy_training, &m->policy, &training, &w->arena, err));
    training.lends = &m->policy_training;
    HT_TRY(ht_trainable_init(&m->value_training, &m->value, &training, &w->arena, err));
    HT_TRY(ht_ppo_models_init_passes(m, &w->arena, HT_KEEP_ALL, &limits, err));
done:
    return status;
}

static ht_status fill_prompts(const work *w, ht_prompt_set *set, ht_error *err) {
    ht_status status = HT_OK;
    size_t count = (size_t)w->count;
    HT_TRY(ht_calloc(&set->start, count + 1, sizeof *set->start, err));
    HT_TRY(ht_calloc(&set->dialog_ids, count, sizeof *set->dialog_ids, err));
    HT_TRY(ht_calloc(&set->is_safety, count, 1, err));
    for (int64_t i = 0; i < w->count; i++) {
        for (int64_t t = 0; t < w->amount.prompt; t++)
            HT_TRY(ht_ids_append(&set->tokens, &(int32_t){work_token(w, (uint64_t)i, t)}, 1, err));
        set->dialog_ids[i] = i + 1;
        set->start[++set->count] = (int64_t)set->tokens.count;
    }
done:
    return status;
}

static ht_status ppo_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    ppo *self = NULL;
    if (w->count % MINI_BATCHES)
        return ht_fail(err, HT_ERR_USAGE, "ppo-N: %d is no multiple of %d", (int)w->count, MINI_BATCHES);
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    w->config.eos_id = -1; /* no response ends early */
    self->config = (ht_ppo_config){.train = {.seed = 1, .micro_tokens = w->amount.micro_tokens},
                                   .iterations = 1,
                                   .batch = w->count,
                                   .mini_batch = w->count / MINI_BATCHES,
                                   .epochs = 1,
                                   .max_new_tokens = w->amount.new_tokens,
                                   .kl_coef = 0.01,
                                   .clip = 0.2,
                                   .value_clip = 0.2,
                                   .gamma = 1,
                                   .lambda = 0.95};
    HT_TRY(open_models(w, &self->models, err));
    HT_TRY(fill_prompts(w, &self->task.prompts, err));
    HT_TRY(ht_ppo_task_init(&self->task, &self->config, &self->models, err));
done:
    return status;
}

static ht_status ppo_run(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    ppo *self = w->self;
    ht_train_task task = ht_ppo_train_task(&self->task);
    double norm;
    for (int64_t i = 0; i < self->task.steps_per_iteration; i++) {
        ht_metrics metrics = {.count = 0};
        HT_TRY(task.accumulate(task.self, self->step, 0, &metrics, err));
        HT_TRY(ht_optimizer_step(&self->models.policy_training, &ht_optimizer_defaults, 1e-6, &norm, err));
        HT_TRY(task.accumulate(task.self, self->step++, 1, &metrics, err));
        HT_TRY(ht_optimizer_step(&self->models.value_training, &ht_optimizer_defaults, 9e-6, &norm, err));
    }
    *tokens = w->count * (w->amount.prompt + w->amount.new_tokens);
done:
    return status;
}

/* Decoding; a forward pass of five models over all tokens, with logits of policy and reference at the response's; a step of
 * policy and value, each three times a forward pass. The prompts' pass before decoding is left out. */
static double ppo_limit(const work *w, const ht_profile *peaks) {
    int64_t new_tokens = w->amount.new_tokens, length = w->amount.prompt + new_tokens;
    double tokens = (double)(w->count * length), responses = (double)(w->count * new_tokens);
    double flop = (5 + 2 * 3) * tokens * work_layers_flop(w, length) + (2 + 3) * responses * work_head_flop(w);
    double decoding = (double)new_tokens * work_decode_seconds(w, w->count, length - new_tokens / 2, peaks);
    return tokens / (flop / peaks->product_peak + decoding);
}

static void ppo_close(work *w) {
    ppo *self = w->self;
    ht_ppo_task_free(&self->task);
    ht_ppo_models_free(&self->models);
}

const work_kind work_ppo = {"ppo-", ppo_open, ppo_run, ppo_limit, ppo_close, NULL};
