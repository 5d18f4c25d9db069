/*
 * halter-ppo: options, and setting up the four models.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/base/log.h"
#include "ppo/task.h"

static const ht_option train_options[] = {HT_TRAIN_OPTIONS("1e-6", "constant", "1", "0", "0")};

#define S ht_ppo_config
static const ht_option ppo_options[] = {
    HT_OPT_PATH(S, db, "db", NULL, HT_OPTION_REQUIRED | HT_OPTION_RESUME_SAFE,
                "database with the prompts; metrics and samples go there"),
    HT_OPT_PATH(S, model, "model", NULL, HT_OPTION_REQUIRED, "model folder of the policy to start from"),
    HT_OPT_PATH(S, helpful, "helpful", NULL, HT_OPTION_REQUIRED, "helpfulness reward model's folder; the value model starts there"),
    HT_OPT_PATH(S, safe, "safe", NULL, HT_OPTION_REQUIRED, "safety reward model's folder"),
    HT_OPT_INT(S, iterations, "ppo.iterations", "300", 1, 1000000, 0, "iterations: rollout and updates"),
    HT_OPT_INT(S, batch, "ppo.batch", "512", 2, 1 << 20, 0, "responses an iteration"),
    HT_OPT_INT(S, mini_batch, "ppo.mini_batch", "64", 1, 1 << 20, 0, "responses an optimizer step; divides ppo.batch"),
    HT_OPT_INT(S, epochs, "ppo.epochs", "1", 1, 100, 0, "passes over an iteration's responses"),
    HT_OPT_FLOAT(S, kl_coef, "ppo.kl_coef", "0.01", 0, 100, 0, "weight of the KL divergence from the first policy (beta)"),
    HT_OPT_FLOAT(S, clip, "ppo.clip", "0.2", 1e-6, 10, 0, "clip of the probability ratio"),
    HT_OPT_FLOAT(S, value_clip, "ppo.value_clip", "0.2", 0, 1e6, 0, "clip of the value's change; 0: none"),
    HT_OPT_FLOAT(S, value_lr, "ppo.value_lr", "9e-6", 0, 1, 0, "peak learning rate of the value model"),
    HT_OPT_FLOAT(S, gamma, "ppo.gamma", "1", 0, 1, 0, "discount"),
    HT_OPT_FLOAT(S, lambda, "ppo.lambda", "0.95", 0, 1, 0, "lambda of generalised advantage estimation"),
    HT_OPT_FLOAT(S, truncation_penalty, "ppo.truncation_penalty", "0", 0, 1e6, 0,
                 "taken off the whitened score of a response cut at max_new_tokens"),
    HT_OPT_INT(S, max_new_tokens, "ppo.max_new_tokens", "512", 1, 1 << 20, 0, "longest response, tokens"),
    HT_OPT_INT(S, sequences, "ppo.sequences", "128", 1, HT_LOGIT_ROWS, 0, "responses sampled at once"),
    HT_OPT_INT(S, cache_tokens, "ppo.cache_tokens", "0", 0, 1e12, 0,
               "positions in the KV cache, shared by the responses sampled at once; 0: as many as they can need"),
    HT_OPT_INT(S, max_prompt_tokens, "data.max_prompt_tokens", "1024", 1, 1 << 20, 0, "longest prompt, tokens"),
    HT_OPT_CHOICE(S, too_long, "data.too_long", "error", ht_too_long_names, 0, "what to do with a longer prompt"),
    HT_OPT_INT(S, first_round, "data.first_round", "0", 0, 1000000, 0, "first round whose prompts are used"),
    HT_OPT_INT(S, last_round, "data.last_round", "-1", -1, 1000000, 0, "last round whose prompts are used; -1: no end"),
    HT_OPT_INT(S, eval_prompts, "ppo.eval_prompts", "256", 0, 1 << 20, 0, "held-out prompts an evaluation; 0: no evaluation"),
    HT_OPT_INT(S, patience, "ppo.patience", "0", 0, 1000000, 0,
               "evaluations without a better held-out reward before stopping early; 0: never"),
    HT_OPT_FLOAT(S, max_kl, "ppo.max_kl", "0", 0, 1e9, 0,
                 "held-out KL divergence, nats a response, at which to stop early; 0: never"),
    HT_OPT_INT(S, samples, "ppo.samples", "8", 0, 1 << 20, 0, "responses an iteration kept in the database with their scores"),
};
#undef S

/* --- models ----------------------------------------------------------------------------------------------- */

static ht_status open_models(ht_ppo_models *m, ht_train_setup *setup, const ht_ppo_config *config, ht_error *err) {
    ht_status status = HT_OK;
    const ht_train_config *train = &config->train;
    ht_keep keep = train->recompute ? HT_KEEP_RECOMPUTE : HT_KEEP_ALL;
    ht_model_request request = {.folder = config->model, .head = HT_HEAD_LM, .dtype = ht_backend_dtype(setup->be),
                                .seed = train->seed};
    HT_TRY(ht_train_load_model(setup, &request, &m->policy, err));
    HT_TRY(ht_train_load_model(setup, &request, &m->reference, err));
    request.head = HT_HEAD_SCALAR;
    request.folder = config->helpful;
    HT_TRY(ht_train_load_model(setup, &request, &m->helpful, err));
    HT_TRY(ht_train_load_model(setup, &request, &m->value, err));
    request.folder = config->safe;
    HT_TRY(ht_train_load_model(setup, &request, &m->safe, err));
    ht_trainable_options training = ht_train_trainable_options(train, 0);
    HT_TRY(ht_trainable_init(&m->policy_training, &m->policy, &training, &setup->arena, err));
    training = ht_train_trainable_options(train, 1);
    training.lends = &m->policy_training;
    HT_TRY(ht_trainable_init(&m->value_training, &m->value, &training, &setup->arena, err));
    int64_t longest = config->max_prompt_tokens + config->max_new_tokens;
    ht_engine_limits limits = {.max_sequences = config->sequences,
                               .cache_tokens = config->cache_tokens ? config->cache_tokens : config->sequences * longest,
                               .prefill_tokens = train->micro_tokens};
    HT_TRY(ht_ppo_models_init_passes(m, &setup->arena, keep, &limits, err));
done:
    return status;
}

/* --- checks ----------------------------------------------------------------------------------------------- */

static ht_status check_config(const ht_ppo_config *config, ht_error *err) {
    if (config->batch % config->mini_batch)
        return ht_fail(err, HT_ERR_USAGE, "ppo.batch = %" PRId64 " is not a multiple of ppo.mini_batch = %" PRId64,
                       config->batch, config->mini_batch);
    int64_t longest = config->max_prompt_tokens + config->max_new_tokens;
    if (longest > config->train.micro_tokens)
        return ht_fail(err, HT_ERR_USAGE,
                       "train.micro_tokens = %" PRId64 " is below data.max_prompt_tokens + ppo.max_new_tokens = %" PRId64,
                       config->train.micro_tokens, longest);
    if (config->cache_tokens && config->cache_tokens < longest)
        return ht_fail(err, HT_ERR_USAGE,
                       "ppo.cache_tokens = %" PRId64 " is below data.max_prompt_tokens + ppo.max_new_tokens = %" PRId64,
                       config->cache_tokens, longest);
    return HT_OK;
}

/* A trained reward model that reads the policy's own ids: decoding and encoding again could change them. */
static ht_status check_reward_model(const char *folder, const char *hash, ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config shape;
    char path[HT_PATH_MAX], other[HT_HASH_LEN];
    HT_TRY(ht_model_folder_config_of(folder, HT_HEAD_SCALAR, &shape, err));
    HT_TRY(ht_model_folder_tokenizer(folder, path, err));
    HT_TRY(ht_file_hash(path, other, err));
    if (strcmp(hash, other))
        status = ht_fail(err, HT_ERR_DATA, "%s: the tokenizer differs from the policy's; reward models must share it", path);
done:
    return status;
}

/* Prompt and longest response must fit every model. */
static ht_status check_positions(const ht_ppo_config *config, const ht_ppo_models *m, ht_error *err) {
    const ht_llama *models[] = {&m->policy, &m->helpful, &m->safe};
    const char *folders[] = {config->model, config->helpful, config->safe};
    int64_t longest = config->max_prompt_tokens + config->max_new_tokens;
    for (int i = 0; i < 3; i++)
        if (models[i]->config.max_positions < longest)
            return ht_fail(err, HT_ERR_USAGE,
                           "data.max_prompt_tokens + ppo.max_new_tokens = %" PRId64 " is above the %" PRId64
                           " positions of %s",
                           longest, models[i]->config.max_positions, folders[i]);
    return HT_OK;
}

/* --- prompts ---------------------------------------------------------------------------------------------- */

static ht_status read_prompts(ht_ppo_task *task, const ht_ppo_config *config, const ht_tokenizer *tokenizer,
                              ht_error *err) {
    ht_status status = HT_OK;
    ht_chat chat = {.tokenizer = tokenizer, .which = HT_TEMPLATE_LLAMA2};
    ht_prompt_limits limits = {.max_tokens = config->max_prompt_tokens, .too_long = (ht_too_long)config->too_long};
    ht_store_filter filter = {.splits = 1u << HT_SPLIT_TRAIN,
                              .first_round = config->first_round,
                              .end_round = config->last_round + 1};
    int64_t held_out = 0;
    HT_TRY(ht_prompt_set_load(&task->prompts, task->store, &filter, &chat, &limits, err));
    filter = (ht_store_filter){.splits = 1u << HT_SPLIT_TEST};
    HT_TRY(ht_store_count(task->store, HT_STORE_DIALOGS, &filter, &held_out, err));
    if (config->eval_prompts && !held_out)
        ht_warn("%s has no prompts of split test: no held-out evaluation", config->db);
    if (config->eval_prompts && held_out)
        HT_TRY(ht_prompt_set_load(&task->held_out, task->store, &filter, &chat, &limits, err));
done:
    return status;
}

/* Hash of prompts in their order: ids, tokens, and which are safety prompts. */
static void hash_prompts(const ht_prompt_set *prompts, char out[HT_HASH_LEN]) {
    char parts[4][HT_HASH_LEN];
    ht_hash(prompts->tokens.data, prompts->tokens.count * sizeof(int32_t), parts[0]);
    ht_hash(prompts->start, prompts->count ? (prompts->count + 1) * sizeof(int64_t) : 0, parts[1]);
    ht_hash(prompts->is_safety, prompts->count, parts[2]);
    ht_hash(prompts->dialog_ids, prompts->count * sizeof(int64_t), parts[3]);
    ht_hash(parts, sizeof parts, out);
}

/* Of all that a run reads besides the policy: prompts of both splits, reward models. */
static ht_status hash_data(const ht_ppo_task *task, const ht_ppo_config *config, char out[HT_HASH_LEN], ht_error *err) {
    ht_status status = HT_OK;
    char parts[4][HT_HASH_LEN];
    hash_prompts(&task->prompts, parts[0]);
    hash_prompts(&task->held_out, parts[1]);
    HT_TRY(ht_model_folder_hash(config->helpful, parts[2], err));
    HT_TRY(ht_model_folder_hash(config->safe, parts[3], err));
    ht_hash(parts, sizeof parts, out);
done:
    return status;
}

/* --- the command ------------------------------------------------------------------------------------------ */

/* Everything that is open while the command runs. */
typedef struct ppo_session {
    const ht_ppo_config *config;
    ht_comm *comm;
    ht_train_setup setup;
    ht_ppo_models models;
    ht_ppo_task task;
    ht_store *store;
    ht_tokenizer *tokenizer;
    json_t *data;
    ht_lock lock;
} ppo_session;

static ht_status register_models(ht_ppo_task *task, const ht_ppo_config *config, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_train_register_model(task->store, config->model, &task->policy_id, err));
    HT_TRY(ht_train_register_model(task->store, config->helpful, &task->helpful_id, err));
    HT_TRY(ht_train_register_model(task->store, config->safe, &task->safe_id, err));
done:
    return status;
}

static ht_status open_memory(void *self, ht_train_setup *setup, ht_error *err) {
    ppo_session *s = self;
    ht_status status = open_models(&s->models, setup, s->config, err);
    return status ? status : check_positions(s->config, &s->models, err);
}

static void close_memory(void *self) {
    ht_ppo_models_free(&((ppo_session *)self)->models);
}

static ht_status train(ppo_session *s, const ht_ppo_config *config, const ht_invocation *invocation, const char *tokenizer,
                       ht_error *err) {
    ht_status status = HT_OK;
    char hash[HT_HASH_LEN] = "";
    HT_TRY(read_prompts(&s->task, config, s->tokenizer, err));
    HT_TRY(ht_train_setup_take(&s->setup, &(ht_train_memory){s, open_memory, close_memory}, err));
    if (!config->train.dry_run && ht_comm_rank(s->comm) == 0) HT_TRY(register_models(&s->task, config, err));
    HT_TRY(ht_ppo_task_init(&s->task, config, &s->models, err));
    if (!config->train.dry_run) HT_TRY(hash_data(&s->task, config, hash, err)); /* a plan needs no weights */
    s->data = json_pack("{s:s, s:I, s:s, s:s, s:s}", "database", config->db, "prompts", (json_int_t)s->task.prompts.count,
                        "hash", hash, "helpful", config->helpful, "safe", config->safe);
    ht_train_run run = {.config = &config->train,
                        .invocation = invocation,
                        .setup = &s->setup,
                        .models = {{"policy", &s->models.policy_training, 1},
                                   {"value", &s->models.value_training, config->train.lr > 0 ? config->value_lr / config->train.lr : 0}},
                        .model_count = 2,
                        .store = s->store,
                        .tokenizer = tokenizer,
                        .data_hash = hash,
                        .lineage = {.stage = "ppo", .parent = config->model, .data = s->data}};
    s->task.run = &run;
    ht_train_task task = ht_ppo_train_task(&s->task);
    HT_TRY(ht_train_run_task(&run, &task, err));
done:
    return status;
}

static ht_status run_ppo(void *values, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    ht_ppo_config *config = values;
    ppo_session s = {.config = config};
    ht_llama_config shape;
    ht_train_out out;
    char tokenizer[HT_PATH_MAX];
    HT_TRY(ht_comm_open(&s.comm, err));
    HT_TRY(check_config(config, err));
    HT_TRY(ht_train_check_out(&config->train, s.comm, &out, &s.lock, err));
    if (out == HT_TRAIN_OUT_FINISHED) goto done;
    HT_TRY(ht_store_open(&s.store, config->db, HT_STORE_EXISTING, err));
    HT_TRY(ht_model_folder_config_of(config->model, HT_HEAD_LM, &shape, err));
    HT_TRY(ht_model_folder_tokenizer(config->model, tokenizer, err));
    HT_TRY(ht_model_folder_open_tokenizer(config->model, &shape, &s.tokenizer, err));
    HT_TRY(check_reward_model(config->helpful, ht_tokenizer_hash(s.tokenizer), err));
    HT_TRY(check_reward_model(config->safe, ht_tokenizer_hash(s.tokenizer), err));
    s.task.store = s.store;
    s.task.tokenizer = s.tokenizer;
    s.task.comm = s.comm;
    HT_TRY(ht_train_setup_open(&s.setup, &config->train, s.comm, err));
    HT_TRY(train(&s, config, invocation, tokenizer, err));
done:
    ht_ppo_task_free(&s.task);
    close_memory(&s);
    ht_train_setup_close(&s.setup);
    ht_tokenizer_free(s.tokenizer);
    ht_store_close(s.store);
    json_decref(s.data);
    ht_train_release_out(&config->train, &s.lock);
    return ht_comm_close(s.comm, status, err);
}

const ht_command ht_ppo_command = {
    .summary = "improve a policy by PPO against two reward models",
    .parts = {{ppo_options, sizeof ppo_options / sizeof *ppo_options, 0},
              {train_options, sizeof train_options / sizeof *train_options, offsetof(ht_ppo_config, train)}},
    .config_size = sizeof(ht_ppo_config),
    .parallel = 1,
    .run = run_ppo,
};
