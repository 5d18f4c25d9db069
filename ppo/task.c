/*
 * The training task: rollouts at the first step of an iteration, then one optimizer step a mini-batch.
 */
#include "ppo/task.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/generate/samples.h"
#include "ppo/advantage.h"

static ht_rollout_plan plan_for(ht_ppo_task *task, const ht_prompt_set *prompts) {
    return (ht_rollout_plan){
        .config = task->config, .models = task->models, .prompts = prompts, .batch = &task->batch, .comm = task->comm};
}

/* Prompts of samples [first, first + count): the set is walked through in a new random order an epoch. */
static void choose_prompts(ht_ppo_task *task, int64_t first, int64_t count) {
    int64_t n = (int64_t)task->prompts.count;
    for (int64_t i = 0; i < count; i++) {
        int64_t epoch = (first + i) / n;
        if (epoch != task->order_epoch) {
            uint64_t stream = ht_rng_stream(HT_RNG_ORDER, (uint64_t)epoch, 0);
            ht_rng_permutation((uint64_t)task->config->train.seed, stream, n, task->order);
            task->order_epoch = epoch;
        }
        task->chosen[i] = task->order[(first + i) % n];
    }
}

/* --- rollout ---------------------------------------------------------------------------------------------- */

/* A table of the iteration's first samples with their scores, so that one can see why a reward moved. */
static ht_status store_samples(ht_ppo_task *task, int64_t step, ht_error *err) {
    ht_status status = HT_OK;
    const ht_rollout *r = &task->rollout;
    int64_t count = task->config->samples < r->count ? task->config->samples : r->count;
    if (!task->store || count == 0 || ht_comm_rank(task->comm) > 0) return HT_OK;
    HT_TRY(ht_store_begin(task->store, err));
    for (int64_t i = 0; i < count; i++) {
        ht_response_row row = {.dialog_id = task->prompts.dialog_ids[r->prompt[i]],
                               .model_id = task->policy_id,
                               .run_id = task->run->run_id,
                               .round = task->config->train.round,
                               .step = step,
                               .temperature = 1,
                               .top_p = 1,
                               .seed = task->config->train.seed,
                               .k = i};
        int64_t id;
        HT_TRY(ht_store_sample(task->store, task->tokenizer, &row, &r->completions[i], &id, err));
        if (!isfinite(r->combined[i])) continue; /* said already */
        HT_TRY(ht_store_add_score(task->store, id, task->helpful_id, (double)r->helpful[i], err));
        HT_TRY(ht_store_add_score(task->store, id, task->safe_id, (double)r->safe[i], err));
    }
    HT_TRY(ht_store_commit(task->store, err));
done:
    if (status) ht_store_rollback(task->store);
    return status;
}

/* One bad reward makes every whitened one of the iteration bad, and so the loss, which the training loop looks at. */
static void say_bad_rewards(const ht_rollout *r, const ht_prompt_set *prompts, int64_t updates) {
    for (int64_t i = 0; i < r->count; i++)
        if (!isfinite(r->combined[i]))
            ht_warn("after %" PRId64 " updates the response to dialog %" PRId64 " has rewards %g (helpful) and %g (safe)",
                    updates, prompts->dialog_ids[r->prompt[i]], (double)r->helpful[i], (double)r->safe[i]);
}

static ht_status begin_iteration(ht_ppo_task *task, int64_t step, ht_error *err) {
    ht_status status = HT_OK;
    int64_t batch = task->config->batch, first = step / task->steps_per_iteration * batch;
    ht_rollout_plan plan = plan_for(task, &task->prompts);
    choose_prompts(task, first, batch);
    HT_TRY(ht_rollout_sample(&task->rollout, &plan, task->chosen, batch, (uint64_t)first, err));
    HT_TRY(ht_rollout_evaluate(&task->rollout, &plan, err));
    say_bad_rewards(&task->rollout, &task->prompts, step);
    ht_rollout_credit(&task->rollout, task->config);
    HT_TRY(store_samples(task, step, err));
done:
    return status;
}

/* --- one mini-batch --------------------------------------------------------------------------------------- */

/* Sums over the tokens of one optimizer step. */
typedef struct step_sums {
    int64_t tokens;
    double policy_loss, value_loss, ratio, log_ratio_worst, clipped, value_clipped, k3;
} step_sums;

/* Coefficients of the packed responses' tokens, from the rollout. */
static int64_t fill_rows(ht_ppo_task *task, const int64_t *members, int64_t count, double weight) {
    const ht_rollout *r = &task->rollout;
    int64_t rows = 0;
    for (int64_t s = 0; s < count; s++) {
        int64_t i = members[s], length = r->completions[i].length;
        int64_t prompt = r->sequence_start[i + 1] - r->sequence_start[i] - length;
        for (int64_t t = 0; t < length; t++, rows++) {
            int64_t token = r->start[i] + t;
            task->rows[rows] = (int32_t)(task->batch.seq_start[s] + prompt + t - 1);
            task->targets[rows] = r->completions[i].tokens[t];
            task->token[rows] = token;
            task->weight[rows] = (float)weight;
            task->old_logp[rows] = r->logp[token];
            task->advantage[rows] = (float)r->advantage[token];
        }
    }
    return rows;
}

static ht_status policy_pass(ht_ppo_task *task, int64_t rows, step_sums *sums, ht_error *err) {
    ht_status status = HT_OK;
    ht_ppo_models *m = task->models;
    ht_token_loss loss = {.kind = HT_TOKEN_LOSS_CLIP,
                          .weight = task->weight,
                          .old_logp = task->old_logp,
                          .advantage = task->advantage,
                          .clip = (float)task->config->clip};
    double total = 0;
    ht_lm_rows lm = {.count = rows,
                     .rows = task->rows,
                     .targets = task->targets,
                     .logp = task->logp,
                     .loss = &loss,
                     .total = &total};
    HT_TRY(ht_llama_forward(&m->policy, m->policy_acts, &task->batch, err));
    HT_TRY(ht_lm_loss(&m->policy, m->policy_acts, &lm, &m->policy_training.grads, err));
    HT_TRY(ht_llama_backward(&m->policy, m->policy_acts, &m->policy_training.grads, err));
    sums->policy_loss += total;
    for (int64_t i = 0; i < rows; i++) {
        double log_ratio = (double)task->logp[i] - (double)task->old_logp[i], ratio = exp(log_ratio);
        sums->ratio += ratio;
        sums->log_ratio_worst = fmax(sums->log_ratio_worst, fabs(log_ratio));
        sums->clipped += fabs(ratio - 1) > task->config->clip;
        sums->k3 += ratio - 1 - log_ratio; /* Schulman's low-variance KL estimator */
    }
done:
    return status;
}

static ht_status value_pass(ht_ppo_task *task, int64_t rows, step_sums *sums, ht_error *err) {
    ht_status status = HT_OK;
    ht_ppo_models *m = task->models;
    HT_TRY(ht_llama_forward(&m->value, m->value_acts, &task->batch, err));
    HT_TRY(ht_scalar_forward(&m->value, m->value_acts, task->rows, rows, task->logp, err));
    for (int64_t i = 0; i < rows; i++) {
        int64_t token = task->token[i];
        double slope, weight = (double)task->weight[i];
        int clipped;
        sums->value_loss += weight * ht_ppo_value_loss((double)task->logp[i], (double)task->rollout.value[token],
                                                       task->rollout.returns[token], task->config->value_clip, &slope,
                                                       &clipped);
        sums->value_clipped += clipped;
        task->advantage[i] = (float)(weight * slope);
    }
    HT_TRY(ht_scalar_backward(&m->value, m->value_acts, task->rows, rows, task->advantage, &m->value_training.grads,
                              err));
    HT_TRY(ht_llama_backward(&m->value, m->value_acts, &m->value_training.grads, err));
done:
    return status;
}

/* The sums of all ranks; `tokens` are those of the whole step on each. */
static ht_status add_ranks(ht_comm *comm, step_sums *sums, ht_error *err) {
    ht_status status = HT_OK;
    double v[] = {sums->policy_loss, sums->value_loss,    sums->ratio,
                  sums->clipped,     sums->value_clipped, sums->k3};
    HT_TRY(ht_comm_sum(comm, v, sizeof v / sizeof *v, err));
    HT_TRY(ht_comm_max(comm, &sums->log_ratio_worst, 1, err));
    *sums = (step_sums){.tokens = sums->tokens,
                        .policy_loss = v[0],
                        .value_loss = v[1],
                        .ratio = v[2],
                        .log_ratio_worst = sums->log_ratio_worst,
                        .clipped = v[3],
                        .value_clipped = v[4],
                        .k3 = v[5]};
done:
    return status;
}

typedef ht_status batch_pass(ht_ppo_task *task, int64_t rows, step_sums *sums, ht_error *err);

/* Gradients of this rank's part of the mini-batch for one model: of means over all its response tokens, however many passes
 * they take. */
static ht_status mini_batch(ht_ppo_task *task, batch_pass *pass, const int64_t *members, int64_t count, step_sums *sums,
                            ht_error *err) {
    ht_status status = HT_OK;
    const ht_rollout *r = &task->rollout;
    int64_t first, last;
    memset(sums, 0, sizeof *sums);
    for (int64_t i = 0; i < count; i++)
        sums->tokens += r->completions[members[i]].length;
    for (ht_comm_part(task->comm, count, &first, &last); first < last;) {
        int64_t end = first;
        ht_batch_clear(&task->batch);
        while (end < last) {
            int64_t i = members[end], start = r->sequence_start[i];
            if (!ht_batch_add(&task->batch, r->sequences.data + start, r->sequence_start[i + 1] - start)) break;
            end++;
        }
        int64_t rows = fill_rows(task, members + first, end - first, 1.0 / (double)sums->tokens);
        HT_TRY(pass(task, rows, sums, err));
        first = end;
    }
    HT_TRY(add_ranks(task->comm, sums, err));
done:
    return status;
}

/* What a step begins with: the rollout that its iteration goes on from, and the mini-batches' order. */
static ht_status begin_step(ht_ppo_task *task, int64_t step, ht_error *err) {
    ht_status status = HT_OK;
    const ht_ppo_config *config = task->config;
    int64_t within = step % task->steps_per_iteration, per_epoch = config->batch / config->mini_batch;
    if (within == 0) HT_TRY(begin_iteration(task, step, err));
    if (within % per_epoch == 0) {
        uint64_t stream = ht_rng_stream(HT_RNG_ORDER, (uint64_t)(step / per_epoch), 1);
        ht_rng_permutation((uint64_t)config->train.seed, stream, config->batch, task->members);
    }
done:
    return status;
}

/* The mini-batch of a step. */
static const int64_t *members_of(const ht_ppo_task *task, int64_t step) {
    int64_t per_epoch = task->config->batch / task->config->mini_batch;
    return task->members + step % task->steps_per_iteration % per_epoch * task->config->mini_batch;
}

static int64_t row(void *self, int64_t step, int64_t index) {
    const ht_ppo_task *task = self;
    if (index >= task->config->mini_batch) return -1;
    return task->prompts.dialog_ids[task->rollout.prompt[members_of(task, step)[index]]];
}

/* Models are the policy and the value model; what they learn from is the rollout's, so that neither sees the other's update. */
static ht_status accumulate(void *self, int64_t step, int model, ht_metrics *metrics, ht_error *err) {
    ht_status status = HT_OK;
    ht_ppo_task *task = self;
    step_sums sums;
    if (model == 0) HT_TRY(begin_step(task, step, err));
    HT_TRY(mini_batch(task, model == 0 ? policy_pass : value_pass, members_of(task, step), task->config->mini_batch, &sums,
                      err));
    double n = (double)sums.tokens;
    if (model > 0) {
        ht_metrics_set(metrics, "value_loss", sums.value_loss);
        ht_metrics_set(metrics, "value_clip_fraction", sums.value_clipped / n);
        goto done;
    }
    ht_metrics_set(metrics, "loss", sums.policy_loss);
    ht_metrics_set(metrics, "tokens", n);
    ht_metrics_set(metrics, "ratio_mean", sums.ratio / n);
    ht_metrics_set(metrics, "log_ratio_max", sums.log_ratio_worst);
    ht_metrics_set(metrics, "clip_fraction", sums.clipped / n);
    ht_metrics_set(metrics, "update_kl", sums.k3 / n);
    ht_rollout_metrics(&task->rollout, metrics);
done:
    return status;
}

/* --- held-out evaluation and early stopping --------------------------------------------------------------- */

static ht_status evaluate(void *self, int64_t updates, ht_metrics *metrics, int *stop, ht_error *err) {
    ht_status status = HT_OK;
    ht_ppo_task *task = self;
    const ht_ppo_config *config = task->config;
    ht_rollout *r = &task->held_out_rollout;
    ht_rollout_plan plan = plan_for(task, &task->held_out);
    HT_TRY(ht_rollout_sample(r, &plan, task->held_out_index, task->held_out_count, 0, err));
    HT_TRY(ht_rollout_evaluate(r, &plan, err));
    say_bad_rewards(r, &task->held_out, updates);
    double reward = 0, helpful = 0, safe = 0, kl = 0, finished = 0, n = (double)r->count;
    for (int64_t i = 0; i < r->count; i++) {
        reward += r->combined[i] / n;
        helpful += (double)r->helpful[i] / n;
        safe += (double)r->safe[i] / n;
        finished += (r->completions[i].finish == HT_STOP_EOS) / n;
        for (int64_t t = r->start[i]; t < r->start[i + 1]; t++)
            kl += ((double)r->logp[t] - (double)r->reference[t]) / n;
    }
    ht_metrics_set(metrics, "eval_reward_combined", reward);
    ht_metrics_set(metrics, "eval_reward_helpful", helpful);
    ht_metrics_set(metrics, "eval_reward_safe", safe);
    ht_metrics_set(metrics, "eval_kl", kl);
    ht_metrics_set(metrics, "eval_finished_share", finished);
    if (updates == 0 || reward > task->best_reward) {
        task->best_reward = reward;
        task->worse = 0;
    } else {
        task->worse++;
    }
    if (config->patience > 0 && task->worse >= config->patience) {
        ht_info("stopping after %" PRId64 " updates: the held-out reward %.4f has not passed %.4f for %" PRId64
                " evaluations",
                updates, reward, task->best_reward, task->worse);
        *stop = 1;
    }
    if (config->max_kl > 0 && kl > config->max_kl) {
        ht_info("stopping after %" PRId64 " updates: the KL divergence %.3f from the first policy is above %.3f", updates,
                kl, config->max_kl);
        *stop = 1;
    }
done:
    return status;
}

static ht_status save(void *self, json_t *values, ht_error *err) {
    const ht_ppo_task *task = self;
    if (json_object_set_new(values, "best_reward", json_real(task->best_reward)) ||
        json_object_set_new(values, "worse", json_integer(task->worse)))
        return ht_fail(err, HT_ERR_NOMEM, "no memory for the state of early stopping");
    return HT_OK;
}

static ht_status load(void *self, const json_t *values, ht_error *err) {
    ht_ppo_task *task = self;
    const json_t *best = json_object_get(values, "best_reward"), *worse = json_object_get(values, "worse");
    if (!json_is_number(best) || !json_is_integer(worse))
        return ht_fail(err, HT_ERR_DATA, "the training state has no \"best_reward\" and \"worse\"");
    task->best_reward = json_number_value(best);
    task->worse = json_integer_value(worse);
    return HT_OK;
}

ht_train_task ht_ppo_train_task(ht_ppo_task *task) {
    const ht_ppo_config *config = task->config;
    return (ht_train_task){
        .self = task,
        .steps = config->iterations * task->steps_per_iteration,
        .checkpoint_stride = task->steps_per_iteration,
        .accumulate = accumulate,
        .rows = "dialog",
        .row = row,
        .evaluate = task->held_out_count ? evaluate : NULL,
        .save = save,
        .load = load,
    };
}

ht_status ht_ppo_models_init_passes(ht_ppo_models *m, ht_arena *arena, ht_keep keep, const ht_engine_limits *limits,
                                    ht_error *err) {
    ht_status status = HT_OK;
    int64_t tokens = limits->prefill_tokens;
    ht_arena_turn(arena);
    HT_TRY(ht_activations_init(&m->policy_acts, &m->policy, arena, keep, tokens, tokens, err));
    ht_arena_turn(arena);
    HT_TRY(ht_activations_init(&m->value_acts, &m->value, arena, keep, tokens, tokens, err));
    ht_arena_turn(arena);
    HT_TRY(ht_activations_init(&m->safe_acts, &m->safe, arena, HT_KEEP_NOTHING, tokens, tokens, err));
    ht_arena_turn(arena);
    HT_TRY(ht_engine_init(&m->engine, &m->policy, arena, limits, err));
    ht_arena_turns_end(arena);
done:
    return status;
}

void ht_ppo_models_free(ht_ppo_models *m) {
    ht_engine_free(m->engine);
    ht_activations_free(m->safe_acts);
    ht_activations_free(m->value_acts);
    ht_activations_free(m->policy_acts);
    ht_trainable_free(&m->value_training);
    ht_trainable_free(&m->policy_training);
    ht_llama_free(&m->value);
    ht_llama_free(&m->safe);
    ht_llama_free(&m->helpful);
    ht_llama_free(&m->reference);
    ht_llama_free(&m->policy);
    memset(m, 0, sizeof *m);
}

ht_status ht_ppo_task_init(ht_ppo_task *task, const ht_ppo_config *config, ht_ppo_models *models, ht_error *err) {
    ht_status status = HT_OK;
    size_t tokens = (size_t)config->train.micro_tokens;
    task->config = config;
    task->models = models;
    task->steps_per_iteration = config->epochs * (config->batch / config->mini_batch);
    task->order_epoch = -1;
    HT_TRY(ht_rollout_init(&task->rollout, config->batch, err));
    HT_TRY(ht_batch_init(&task->batch, config->train.micro_tokens, config->train.micro_tokens, err));
    HT_TRY(ht_calloc(&task->chosen, (size_t)config->batch, sizeof(int64_t), err));
    HT_TRY(ht_calloc(&task->members, (size_t)config->batch, sizeof(int64_t), err));
    HT_TRY(ht_calloc(&task->order, task->prompts.count, sizeof(int64_t), err));
    HT_TRY(ht_calloc(&task->rows, tokens, sizeof(int32_t), err));
    HT_TRY(ht_calloc(&task->targets, tokens, sizeof(int32_t), err));
    HT_TRY(ht_calloc(&task->token, tokens, sizeof(int64_t), err));
    HT_TRY(ht_calloc(&task->weight, tokens, sizeof(float), err));
    HT_TRY(ht_calloc(&task->old_logp, tokens, sizeof(float), err));
    HT_TRY(ht_calloc(&task->advantage, tokens, sizeof(float), err));
    HT_TRY(ht_calloc(&task->logp, tokens, sizeof(float), err));
    task->held_out_count = (int64_t)task->held_out.count < config->eval_prompts ? (int64_t)task->held_out.count
                                                                                 : config->eval_prompts;
    HT_TRY(ht_calloc(&task->held_out_index, (size_t)task->held_out_count, sizeof(int64_t), err));
    for (int64_t i = 0; i < task->held_out_count; i++)
        task->held_out_index[i] = i * (int64_t)task->held_out.count / task->held_out_count;
    HT_TRY(ht_rollout_init(&task->held_out_rollout, task->held_out_count, err));
done:
    return status;
}

void ht_ppo_task_free(ht_ppo_task *task) {
    ht_rollout_free(&task->rollout);
    ht_rollout_free(&task->held_out_rollout);
    ht_batch_free(&task->batch);
    ht_prompt_set_free(&task->prompts);
    ht_prompt_set_free(&task->held_out);
    void *arrays[] = {task->chosen, task->members, task->order,    task->rows,      task->targets,
                      task->token,  task->weight,  task->old_logp, task->advantage, task->logp,
                      task->held_out_index};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    memset(task, 0, sizeof *task);
}
