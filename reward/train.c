/*
 * halter-reward train: a task for the training loop.
 *
 * Step s trains on pairs [b batch, ...) of epoch e's order, where e = s / steps an epoch: the last step of an
 * epoch may have fewer pairs than the others, and its means are over those it has.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/model/score.h"
#include "reward/mix.h"
#include "reward/reward.h"
#include "reward/step.h"
#include "reward/tally.h"

#define HELD_OUT_SET   2  /* second coordinate of the stream that draws held-out pairs */
#define SCORED_AT_ONCE 64 /* held-out pairs between two looks at the clock */

typedef struct trainer {
    const ht_reward_config *config;
    ht_comm *comm;
    ht_lock lock;
    ht_train_setup setup;
    ht_llama model;
    ht_trainable trainable;
    ht_activations *acts;
    ht_tokenizer *tokenizer;
    char tokenizer_path[HT_PATH_MAX];
    ht_chat chat;
    ht_store *store;
    ht_reward_loss loss;
    double own_share; /* as configured */
    ht_pair_set pairs, held_out;
    ht_mix mix;
    int64_t *order, order_epoch; /* [ht_mix_count] of epoch order_epoch; -1: none yet */
    int64_t *held_order, held_count;
    int64_t epoch_steps;
    ht_reward_pass pass;
    char data_hash[HT_HASH_LEN];
} trainer;

ht_status ht_reward_settle(const ht_reward_config *config, double *weight, double *share, ht_error *err) {
    int is_safety = config->kind == HT_KIND_SAFETY;
    *weight = config->aux_weight;
    *share = config->own_share;
    if (*weight == HT_REWARD_BY_KIND) *weight = is_safety ? 1 : 0;
    if (*share == HT_REWARD_BY_KIND) *share = is_safety ? 0.9 : 0.5;
    if (*weight < 0)
        return ht_fail(err, HT_ERR_USAGE, "reward.aux_weight = %g is below 0, and not -1 (by kind)", *weight);
    if (*share <= 0)
        return ht_fail(err, HT_ERR_USAGE, "reward.own_share = %g is not above 0, and not -1 (by kind)",
                       *share);
    return HT_OK;
}

/* --- data -------------------------------------------------------------------------------------------------
 */

static ht_status load_split(trainer *t, ht_split split, int64_t max_tokens, ht_pair_set *set, ht_error *err) {
    const ht_reward_config *c = t->config;
    const ht_pair_query query = {.filter = {.splits = 1U << split,
                                            /* the other kind is not evaluated */
                                            .kinds = split == HT_SPLIT_TEST ? 1U << c->kind : 0,
                                            .first_round = c->rounds.first,
                                            .end_round = c->rounds.last + 1},
                                 .sources = c->sources,
                                 .own_kind = (ht_kind)c->kind,
                                 .own_sources = c->own_sources,
                                 .max_tokens = max_tokens,
                                 .too_long = (ht_too_long)c->too_long};
    ht_status status = ht_pair_set_load(set, t->store, &query, &t->chat, err);
    if (status == HT_OK && set->longest > c->train.micro_tokens)
        status = ht_fail(err, HT_ERR_USAGE,
                         "train.micro_tokens = %" PRId64 " is below the %" PRId64
                         " tokens of comparison %" PRId64 "; raise it, or limit data.max_tokens",
                         c->train.micro_tokens, set->longest, set->longest_id);
    return status;
}

/* Own pairs of the test split, or a part of them: the same for every run with this seed and data. */
static ht_status draw_held_out(trainer *t, ht_error *err) {
    ht_status status = HT_OK;
    int64_t *own = NULL, count = 0, limit = t->config->eval_pairs;
    HT_TRY(ht_calloc(&own, t->held_out.count, sizeof(int64_t), err));
    HT_TRY(ht_calloc(&t->held_order, t->held_out.count, sizeof(int64_t), err));
    for (size_t i = 0; i < t->held_out.count; i++)
        if (t->held_out.pairs[i].own) own[count++] = (int64_t)i;
    ht_rng_permutation((uint64_t)t->config->train.seed, ht_rng_stream(HT_RNG_CHOICE, 0, HELD_OUT_SET), count,
                       t->held_order);
    for (int64_t i = 0; i < count; i++)
        t->held_order[i] = own[t->held_order[i]];
    t->held_count = limit > 0 && limit < count ? limit : count;
    if (!count)
        ht_warn("no own comparison is in the test split: nothing is evaluated during training");
    else
        ht_info("evaluating on %" PRId64 " of %" PRId64 " held-out comparisons", t->held_count, count);
done:
    free(own);
    return status;
}

/* Of the pairs trained and evaluated on. */
static void hash_data(trainer *t) {
    char parts[2][HT_HASH_LEN];
    ht_pair_set_hash(&t->pairs, parts[0]);
    ht_pair_set_hash(&t->held_out, parts[1]);
    ht_hash(parts, sizeof parts, t->data_hash);
}

static ht_status load_data(trainer *t, ht_error *err) {
    ht_status status = HT_OK;
    const ht_reward_config *c = t->config;
    ht_llama_config shape;
    HT_TRY(ht_model_folder_config(c->model, &shape, err));
    int64_t limit =
        c->max_tokens > 0 && c->max_tokens < shape.max_positions ? c->max_tokens : shape.max_positions;
    HT_TRY(ht_model_folder_tokenizer(c->model, t->tokenizer_path, err));
    HT_TRY(ht_model_folder_open_tokenizer(c->model, &shape, &t->tokenizer, err));
    t->chat = (ht_chat){t->tokenizer, HT_TEMPLATE_LLAMA2};
    HT_TRY(ht_store_open(&t->store, c->db, HT_STORE_EXISTING, err));
    HT_TRY(load_split(t, HT_SPLIT_TRAIN, limit, &t->pairs, err));
    HT_TRY(ht_mix_init(&t->mix, &t->pairs, t->own_share, c->train.seed, err));
    HT_TRY(ht_calloc(&t->order, (size_t)ht_mix_count(&t->mix), sizeof(int64_t), err));
    t->order_epoch = -1;
    t->epoch_steps = (ht_mix_count(&t->mix) + c->batch_size - 1) / c->batch_size;
    if (c->train.eval_every > 0) {
        HT_TRY(load_split(t, HT_SPLIT_TEST, limit, &t->held_out, err));
        HT_TRY(draw_held_out(t, err));
    }
    hash_data(t);
    ht_info("%" PRId64 " own comparisons and %" PRId64 " of %" PRId64
            " others an epoch, longest sequence %" PRId64 " tokens",
            t->mix.own_count, t->mix.drawn, t->mix.rest_count, t->pairs.longest);
done:
    return status;
}

/* --- the task ---------------------------------------------------------------------------------------------
 */

/* The pairs of a step: order[*first .. *first + *count) of *epoch. */
static void find_step(const trainer *t, int64_t step, int64_t *epoch, int64_t *first, int64_t *count) {
    *epoch = step / t->epoch_steps;
    *first = step % t->epoch_steps * t->config->batch_size;
    int64_t left = ht_mix_count(&t->mix) - *first;
    *count = left < t->config->batch_size ? left : t->config->batch_size;
}

static int64_t row(void *self, int64_t step, int64_t index) {
    const trainer *t = self;
    int64_t epoch, first, count;
    find_step(t, step, &epoch, &first, &count);
    return index < count ? t->pairs.pairs[t->order[first + index]].id : -1;
}

static ht_status accumulate(void *self, int64_t step, int model, ht_metrics *metrics, ht_error *err) {
    trainer *t = self;
    (void)model;
    int64_t epoch, first, count;
    ht_reward_result result;
    find_step(t, step, &epoch, &first, &count);
    if (t->order_epoch != epoch) {
        ht_mix_order(&t->mix, epoch, t->order);
        t->order_epoch = epoch;
    }
    ht_status status = ht_reward_step(&t->pass, &t->loss, &t->pairs, t->order + first, count,
                                      &t->trainable.grads, &result, err);
    if (status != HT_OK) return status;
    ht_metrics_set(metrics, "loss", result.loss);
    ht_metrics_set(metrics, "ranking_loss", result.ranking_loss);
    if (t->loss.aux_weight != 0) {
        ht_metrics_set(metrics, "aux_loss", result.aux_loss);
        ht_metrics_set(metrics, "labelled", (double)result.labelled);
    }
    ht_metrics_set(metrics, "accuracy", result.accuracy);
    ht_metrics_set(metrics, "chosen_score", result.chosen_score);
    ht_metrics_set(metrics, "rejected_score", result.rejected_score);
    ht_metrics_set(metrics, "pairs", (double)count);
    ht_metrics_set(metrics, "tokens", (double)result.tokens);
    return HT_OK;
}

static ht_status evaluate(void *self, int64_t updates, ht_metrics *metrics, int *stop, ht_error *err) {
    trainer *t = self;
    ht_status status = HT_OK;
    ht_tally tally;
    const ht_tally_scorer scorer = {&t->model, t->acts, t->comm};
    int64_t together = (int64_t)ht_comm_size(t->comm) * SCORED_AT_ONCE;
    (void)updates;
    (void)stop;
    HT_TRY(ht_tally_init(&tally, err));
    for (int64_t first = 0; first < t->held_count; first += together) {
        int64_t count = t->held_count - first < together ? t->held_count - first : together;
        HT_TRY(ht_tally_score(&tally, &scorer, &t->held_out, t->held_order + first, count, err));
    }
    double pairs = (double)t->held_count;
    ht_accuracy accuracy = ht_accuracy_of(tally.credit, tally.credit_squares, t->held_count);
    ht_metrics_set(metrics, "eval_accuracy", accuracy.value);
    ht_metrics_set(metrics, "eval_accuracy_se", accuracy.error);
    ht_metrics_set(metrics, "eval_loss", tally.loss / pairs);
    ht_metrics_set(metrics, "eval_chosen_score", tally.chosen / pairs);
    ht_metrics_set(metrics, "eval_rejected_score", tally.rejected / pairs);
done:
    ht_tally_release(&tally);
    return status;
}

static ht_status open_memory(void *self, ht_train_setup *setup, ht_error *err) {
    trainer *t = self;
    ht_status status = HT_OK;
    const ht_train_config *c = &t->config->train;
    const ht_trainable_options options = ht_train_trainable_options(c, 0);
    int64_t sequences =
        2 * t->config->batch_size < c->micro_tokens ? 2 * t->config->batch_size : c->micro_tokens;
    HT_TRY(ht_train_load_model(setup,
                               &(ht_model_request){.folder = t->config->model,
                                                   .head = HT_HEAD_SCALAR,
                                                   .dtype = ht_backend_dtype(setup->be),
                                                   .seed = c->seed},
                               &t->model, err));
    HT_TRY(ht_trainable_init(&t->trainable, &t->model, &options, &setup->arena, err));
    HT_TRY(ht_activations_init(&t->acts, &t->model, &setup->arena, c->recompute ? HT_KEEP_RECOMPUTE : HT_KEEP_ALL,
                               c->micro_tokens, sequences, err));
    HT_TRY(ht_reward_pass_init(&t->pass, &t->model, t->acts, c->micro_tokens, sequences, err));
    t->pass.comm = t->comm;
done:
    return status;
}

static void close_memory(void *self) {
    trainer *t = self;
    ht_reward_pass_free(&t->pass);
    ht_activations_free(t->acts);
    t->acts = NULL;
    ht_trainable_free(&t->trainable);
    ht_llama_free(&t->model);
}

/* What halter.json says of the data. */
static ht_status describe_data(const trainer *t, json_t **data, ht_error *err) {
    const ht_reward_config *c = t->config;
    *data =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:s}", "database", c->db, "kind",
                  ht_kind_text((ht_kind)c->kind), "own_comparisons", (json_int_t)t->mix.own_count,
                  "other_comparisons", (json_int_t)t->mix.rest_count, "others_an_epoch",
                  (json_int_t)t->mix.drawn, "own_share", t->mix.own_share, "epochs", (json_int_t)c->epochs,
                  "too_long_left_out", (json_int_t)t->pairs.skipped, "hash", t->data_hash);
    return *data ? HT_OK : ht_fail(err, HT_ERR_NOMEM, "no memory for the description of the data");
}

static ht_status run(trainer *t, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    json_t *data = NULL;
    HT_TRY(describe_data(t, &data, err));
    const ht_train_task task = {.self = t,
                                .steps = t->epoch_steps * t->config->epochs,
                                .accumulate = accumulate,
                                .rows = "comparison",
                                .row = row,
                                .evaluate = t->held_count ? evaluate : NULL};
    ht_train_run run = {
        .config = &t->config->train,
        .invocation = invocation,
        .setup = &t->setup,
        .models = {{.name = "reward", .trainable = &t->trainable, .lr_scale = 1}},
        .model_count = 1,
        .store = t->store,
        .tokenizer = t->tokenizer_path,
        .data_hash = t->data_hash,
        .lineage = {.stage = t->config->kind == HT_KIND_SAFETY ? "reward-safe" : "reward-helpful",
                    .parent = t->config->model,
                    .data = data}};
    status = ht_train_run_task(&run, &task, err);
done:
    json_decref(data);
    return status;
}

static void release(trainer *t) {
    close_memory(t);
    ht_train_setup_close(&t->setup);
    ht_mix_free(&t->mix);
    ht_pair_set_free(&t->pairs);
    ht_pair_set_free(&t->held_out);
    free(t->order);
    free(t->held_order);
    ht_store_close(t->store);
    ht_tokenizer_free(t->tokenizer);
    ht_train_release_out(&t->config->train, &t->lock);
}

ht_status ht_reward_train(void *config, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    ht_train_out state;
    trainer t = {.config = config};
    HT_TRY(ht_comm_open(&t.comm, err));
    HT_TRY(ht_reward_settle(t.config, &t.loss.aux_weight, &t.own_share, err));
    HT_TRY(ht_reward_margins(&t.loss, (ht_margin_kind)t.config->margin, &t.config->margin_table, err));
    HT_TRY(ht_train_check_out(&t.config->train, t.comm, &state, &t.lock, err));
    if (state == HT_TRAIN_OUT_FINISHED) goto done;
    HT_TRY(load_data(&t, err));
    HT_TRY(ht_train_setup_open(&t.setup, &t.config->train, t.comm, err));
    HT_TRY(ht_train_setup_take(&t.setup, &(ht_train_memory){&t, open_memory, close_memory}, err));
    HT_TRY(run(&t, invocation, err));
done:
    release(&t);
    return ht_comm_close(t.comm, status, err);
}
