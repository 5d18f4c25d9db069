/*
 * Rollouts: sampling, scoring, and the quantities of every response token before the iteration's first update.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/model/score.h"
#include "ppo/advantage.h"
#include "ppo/ppo.h"

ht_status ht_rollout_init(ht_rollout *r, int64_t count, ht_error *err) {
    memset(r, 0, sizeof *r);
    ht_status status = HT_OK;
    size_t n = (size_t)count;
    HT_TRY(ht_calloc(&r->prompt, n, sizeof *r->prompt, err));
    HT_TRY(ht_calloc(&r->completions, n, sizeof *r->completions, err));
    HT_TRY(ht_calloc(&r->sequence_start, n + 1, sizeof *r->sequence_start, err));
    HT_TRY(ht_calloc(&r->start, n + 1, sizeof *r->start, err));
    HT_TRY(ht_calloc(&r->helpful, n, sizeof *r->helpful, err));
    HT_TRY(ht_calloc(&r->safe, n, sizeof *r->safe, err));
    HT_TRY(ht_calloc(&r->combined, n, sizeof *r->combined, err));
    HT_TRY(ht_calloc(&r->score, n, sizeof *r->score, err));
done:
    if (status) ht_rollout_free(r);
    return status;
}

void ht_rollout_free(ht_rollout *r) {
    if (r->completions) ht_completions_free(r->completions, r->count);
    free(r->completions);
    ht_ids_release(&r->sequences);
    void *arrays[] = {r->prompt, r->sequence_start, r->start,     r->logp,    r->reference, r->entropy, r->value,
                      r->reward, r->advantage,      r->returns,   r->helpful, r->safe,      r->combined, r->score};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    memset(r, 0, sizeof *r);
}

/* --- ranks ------------------------------------------------------------------------------------------------ */

/* values [count]: this rank has filled those from `first` to before `end`, and gets the others. */
static ht_status share(ht_comm *comm, float *values, int64_t first, int64_t end, ht_error *err) {
    ht_gathered all;
    if (!comm) return HT_OK;
    ht_status status = ht_comm_gather(comm, values + first, (size_t)(end - first) * sizeof *values, &all, err);
    if (status != HT_OK) return status;
    memcpy(values, all.data, all.start[ht_comm_size(comm)]);
    ht_gathered_free(&all);
    return HT_OK;
}

/* --- sampling and scoring --------------------------------------------------------------------------------- */

static ht_status sample(ht_rollout *r, const ht_rollout_plan *plan, uint64_t first_sample, ht_error *err) {
    ht_status status = HT_OK;
    ht_request *requests = NULL;
    HT_TRY(ht_calloc(&requests, (size_t)r->count, sizeof *requests, err));
    for (int64_t i = 0; i < r->count; i++) {
        int64_t prompt = r->prompt[i], length;
        const int32_t *tokens = ht_prompt_tokens(plan->prompts, prompt, &length);
        requests[i] = (ht_request){
            .prompt = tokens,
            .prompt_length = length,
            .max_new_tokens = plan->config->max_new_tokens,
            .temperature = 1, /* nothing but the policy itself: a filter would not be in the log-probabilities */
            .top_p = 1,
            .seed = (uint64_t)plan->config->train.seed,
            .stream = ht_rng_stream(HT_RNG_SAMPLE, (uint64_t)plan->prompts->dialog_ids[prompt],
                                    first_sample + (uint64_t)i),
        };
    }
    HT_TRY(ht_generate_shared(plan->models->engine, plan->comm, requests, r->count, r->completions, err));
done:
    free(requests);
    return status;
}

/* Prompt and response ids end to end, exactly as sampled. */
static ht_status join(ht_rollout *r, const ht_rollout_plan *plan, ht_error *err) {
    ht_status status = HT_OK;
    r->sequences.count = 0;
    for (int64_t i = 0; i < r->count; i++) {
        int64_t length;
        const int32_t *prompt = ht_prompt_tokens(plan->prompts, r->prompt[i], &length);
        const ht_completion *completion = &r->completions[i];
        HT_TRY(ht_ids_append(&r->sequences, prompt, (size_t)length, err));
        HT_TRY(ht_ids_append(&r->sequences, completion->tokens, (size_t)completion->length, err));
        r->sequence_start[i + 1] = (int64_t)r->sequences.count;
        r->start[i + 1] = r->start[i] + completion->length;
    }
done:
    return status;
}

static ht_status score(ht_rollout *r, const ht_rollout_plan *plan, ht_error *err) {
    ht_status status = HT_OK;
    ht_ppo_models *m = plan->models;
    const int32_t **tokens = NULL;
    int64_t *lengths = NULL, first, end;
    ht_comm_part(plan->comm, r->count, &first, &end);
    HT_TRY(ht_calloc(&tokens, (size_t)r->count, sizeof *tokens, err));
    HT_TRY(ht_calloc(&lengths, (size_t)r->count, sizeof *lengths, err));
    for (int64_t i = first; i < end; i++) {
        tokens[i] = r->sequences.data + r->sequence_start[i];
        lengths[i] = r->sequence_start[i + 1] - r->sequence_start[i];
    }
    HT_TRY(ht_score_sequences(&m->helpful, m->value_acts, tokens + first, lengths + first, end - first, r->helpful + first,
                              err));
    HT_TRY(ht_score_sequences(&m->safe, m->safe_acts, tokens + first, lengths + first, end - first, r->safe + first, err));
    HT_TRY(share(plan->comm, r->helpful, first, end, err));
    HT_TRY(share(plan->comm, r->safe, first, end, err));
    for (int64_t i = 0; i < r->count; i++)
        r->combined[i] = ht_combined_reward((double)r->helpful[i], (double)r->safe[i],
                                            plan->prompts->is_safety[r->prompt[i]]);
done:
    free(tokens);
    free(lengths);
    return status;
}

ht_status ht_rollout_sample(ht_rollout *r, const ht_rollout_plan *plan, const int64_t *index, int64_t count,
                            uint64_t first_sample, ht_error *err) {
    ht_status status = HT_OK;
    ht_completions_free(r->completions, r->count);
    r->count = count;
    memcpy(r->prompt, index, (size_t)count * sizeof *index);
    HT_TRY(sample(r, plan, first_sample, err));
    HT_TRY(join(r, plan, err));
    HT_TRY(score(r, plan, err));
done:
    return status;
}

/* --- tokens ----------------------------------------------------------------------------------------------- */

/* Room for `tokens` in the arrays of one value a token; their contents are not kept. */
static ht_status reserve_tokens(ht_rollout *r, int64_t tokens, ht_error *err) {
    ht_status status = HT_OK;
    if ((size_t)tokens <= r->token_capacity) return HT_OK;
    float **singles[] = {&r->logp, &r->reference, &r->entropy, &r->value};
    double **doubles[] = {&r->reward, &r->advantage, &r->returns};
    size_t capacity = (size_t)tokens + (size_t)tokens / 4;
    r->token_capacity = 0;
    for (size_t i = 0; i < sizeof singles / sizeof singles[0]; i++) {
        free(*singles[i]);
        HT_TRY(ht_calloc(singles[i], capacity, sizeof(float), err));
    }
    for (size_t i = 0; i < sizeof doubles / sizeof doubles[0]; i++) {
        free(*doubles[i]);
        HT_TRY(ht_calloc(doubles[i], capacity, sizeof(double), err));
    }
    r->token_capacity = capacity;
done:
    return status;
}

/* The batch's packed sequences are responses [first, end) of the rollout; their tokens follow each other. */
static ht_status evaluate_batch(ht_rollout *r, const ht_rollout_plan *plan, int64_t first, int64_t end,
                                int32_t *rows, int32_t *targets, ht_error *err) {
    ht_status status = HT_OK;
    ht_ppo_models *m = plan->models;
    int64_t count = 0, token = r->start[first];
    for (int64_t i = first; i < end; i++) {
        int64_t base = plan->batch->seq_start[i - first];
        int64_t prompt = r->sequence_start[i + 1] - r->sequence_start[i] - r->completions[i].length;
        for (int64_t t = 0; t < r->completions[i].length; t++, count++) {
            rows[count] = (int32_t)(base + prompt + t - 1);
            targets[count] = r->completions[i].tokens[t];
        }
    }
    ht_lm_rows lm = {.count = count, .rows = rows, .targets = targets};
    lm.logp = r->reference + token;
    HT_TRY(ht_llama_forward(&m->reference, m->policy_acts, plan->batch, err));
    HT_TRY(ht_lm_loss(&m->reference, m->policy_acts, &lm, NULL, err));
    lm.logp = r->logp + token;
    lm.entropy = r->entropy + token;
    HT_TRY(ht_llama_forward(&m->policy, m->policy_acts, plan->batch, err));
    HT_TRY(ht_lm_loss(&m->policy, m->policy_acts, &lm, NULL, err));
    HT_TRY(ht_llama_forward(&m->value, m->value_acts, plan->batch, err));
    HT_TRY(ht_scalar_forward(&m->value, m->value_acts, rows, count, r->value + token, err));
done:
    return status;
}

ht_status ht_rollout_evaluate(ht_rollout *r, const ht_rollout_plan *plan, ht_error *err) {
    ht_status status = HT_OK;
    int32_t *rows = NULL, *targets = NULL;
    int64_t first, end;
    HT_TRY(reserve_tokens(r, r->start[r->count], err));
    HT_TRY(ht_calloc(&rows, (size_t)plan->batch->max_tokens, sizeof *rows, err));
    HT_TRY(ht_calloc(&targets, (size_t)plan->batch->max_tokens, sizeof *targets, err));
    ht_comm_part(plan->comm, r->count, &first, &end);
    for (int64_t from = first; from < end;) {
        int64_t to = from;
        ht_batch_clear(plan->batch);
        while (to < end && ht_batch_add(plan->batch, r->sequences.data + r->sequence_start[to],
                                        r->sequence_start[to + 1] - r->sequence_start[to]))
            to++;
        HT_TRY(evaluate_batch(r, plan, from, to, rows, targets, err));
        from = to;
    }
    float *arrays[] = {r->logp, r->reference, r->entropy, r->value};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        HT_TRY(share(plan->comm, arrays[i], r->start[first], r->start[end], err));
done:
    free(rows);
    free(targets);
    return status;
}

void ht_rollout_credit(ht_rollout *r, const ht_ppo_config *config) {
    memcpy(r->score, r->combined, (size_t)r->count * sizeof *r->score);
    ht_whiten(r->score, r->count);
    for (int64_t i = 0; i < r->count; i++)
        if (r->completions[i].finish == HT_STOP_LENGTH) r->score[i] -= config->truncation_penalty;
    ht_ppo_rewards(r->reward, r->logp, r->reference, r->score, r->start, r->count, config->kl_coef);
    ht_gae gae = {.gamma = config->gamma, .lambda = config->lambda};
    ht_ppo_advantages(r->advantage, r->returns, r->reward, r->value, r->start, r->count, gae);
    ht_whiten(r->advantage, r->start[r->count]);
}

static double mean_of(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    return sum / (double)n;
}

void ht_rollout_metrics(const ht_rollout *r, ht_metrics *metrics) {
    int64_t tokens = r->start[r->count], finished = 0, unsafe = 0;
    double combined = 0, kl = 0, gap = 0, worst = 0, n = (double)r->count;
    for (int64_t i = 0; i < r->count; i++) {
        combined += r->combined[i] / n;
        finished += r->completions[i].finish == HT_STOP_EOS;
        unsafe += ht_sigmoid((double)r->safe[i]) < HT_SAFETY_THRESHOLD;
        for (int64_t t = r->start[i]; t < r->start[i + 1]; t++) {
            double difference = fabs((double)r->completions[i].logp[t - r->start[i]] - (double)r->logp[t]);
            gap += difference / (double)tokens;
            worst = fmax(worst, difference);
            kl += (double)r->logp[t] - (double)r->reference[t];
        }
    }
    ht_metrics_set(metrics, "reward_helpful", mean_of(r->helpful, r->count));
    ht_metrics_set(metrics, "reward_safe", mean_of(r->safe, r->count));
    ht_metrics_set(metrics, "reward_combined", combined);
    ht_metrics_set(metrics, "unsafe_share", (double)unsafe / n);
    ht_metrics_set(metrics, "kl", kl / n);
    ht_metrics_set(metrics, "kl_per_token", kl / (double)tokens);
    ht_metrics_set(metrics, "entropy", mean_of(r->entropy, tokens));
    ht_metrics_set(metrics, "response_length", (double)tokens / n);
    ht_metrics_set(metrics, "finished_share", (double)finished / n);
    ht_metrics_set(metrics, "explained_variance", ht_ppo_explained_variance(r->value, r->returns, tokens));
    ht_metrics_set(metrics, "sampler_gap_mean", gap);
    ht_metrics_set(metrics, "sampler_gap_max", worst);
}
