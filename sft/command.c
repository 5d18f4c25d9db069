/*
 * The command: from options to a trained model folder.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "sft/sft.h"

typedef struct session {
    const ht_sft_config *config;
    const ht_invocation *invocation;
    ht_comm *comm;
    ht_train_out out;
    ht_lock lock;
    char tokenizer_path[HT_PATH_MAX];
    char temporary[HT_PATH_MAX]; /* folder of a dry run's tokenizer, to be removed; "" none */
    int made_tokenizer, begun;   /* by this process: the tokenizer, and the run it belongs to */
    ht_tokenizer *tokenizer;
    ht_store *store;
    ht_sft_data data;
    ht_sft_plan plan;
    ht_train_setup setup;
    ht_llama model;
    ht_trainable trainable;
    ht_sft_trainer trainer;
} session;

static int is_given(const char *text) {
    return text && text[0];
}

static ht_status check_sources(const ht_sft_config *c, ht_error *err) {
    if (c->text.count > 0) return HT_OK;
    if (!is_given(c->db))
        return ht_fail(err, HT_ERR_USAGE, "no data: give --db (demonstrations) or --text (plain text)");
    if (!is_given(c->model))
        return ht_fail(err, HT_ERR_USAGE, "no model: give --model, or --text to train a new one");
    return HT_OK;
}

/* --- tokenizer --------------------------------------------------------------------------------------------
 */

/* Where a tokenizer trained on the text goes: with the run's state, or, as a dry run writes nothing, to /tmp.
 */
static ht_status place_for_tokenizer(session *s, ht_error *err) {
    ht_status status = HT_OK;
    char folder[HT_PATH_MAX];
    if (s->config->train.dry_run) {
        const char *tmp = is_given(getenv("TMPDIR")) ? getenv("TMPDIR") : "/tmp";
        snprintf(folder, sizeof folder, "%s/halter-sft-XXXXXX", tmp);
        if (!mkdtemp(folder)) return ht_fail(err, HT_ERR_IO, "cannot create a folder in \"%s\": %s", tmp, strerror(errno));
        snprintf(s->temporary, sizeof s->temporary, "%s", folder);
    } else {
        HT_TRY(ht_path_join(folder, s->config->train.out, "state", err));
        HT_TRY(ht_folder_create(folder, err));
    }
    status = ht_path_join(s->tokenizer_path, folder, "tokenizer.model", err);
done:
    return status;
}

/* Trains the tokenizer of a new model where that is still to be done. */
static ht_status make_tokenizer(session *s, ht_error *err) {
    const ht_sft_config *c = s->config;
    ht_status status = HT_OK;
    HT_TRY(place_for_tokenizer(s, err));
    if (s->out != HT_TRAIN_OUT_FRESH && ht_path_exists(s->tokenizer_path)) goto done;
    ht_info("training a tokenizer of %" PRId64 " pieces on the text", c->init.vocab_size);
    HT_TRY(ht_tokenizer_train((const char *const *)c->text.values, c->text.count, (int32_t)c->init.vocab_size,
                              s->tokenizer_path, 0, err));
    s->made_tokenizer = 1;
done:
    return status;
}

static ht_status open_tokenizer(session *s, ht_error *err) {
    const ht_sft_config *c = s->config;
    ht_status status = HT_OK;
    if (is_given(c->model)) {
        ht_llama_config shape;
        HT_TRY(ht_model_folder_config_of(c->model, HT_HEAD_LM, &shape, err));
        HT_TRY(ht_model_folder_tokenizer(c->model, s->tokenizer_path, err));
        status = ht_model_folder_open_tokenizer(c->model, &shape, &s->tokenizer, err);
        goto done;
    }
    if (is_given(c->init.tokenizer)) {
        snprintf(s->tokenizer_path, sizeof s->tokenizer_path, "%s", c->init.tokenizer);
    } else {
        if (ht_comm_rank(s->comm) == 0) HT_TRY(make_tokenizer(s, err));
        HT_TRY(ht_comm_broadcast(s->comm, s->tokenizer_path, sizeof s->tokenizer_path, err));
    }
    status = ht_tokenizer_open(&s->tokenizer, s->tokenizer_path, err);
done:
    return status;
}

/* --- model ------------------------------------------------------------------------------------------------
 */

static ht_status new_model(session *s, ht_error *err) {
    const ht_init_config *init = &s->config->init;
    ht_status status = HT_OK;
    if (init->dim % init->heads != 0)
        return ht_fail(err, HT_ERR_USAGE, "init.dim = %" PRId64 " is not a multiple of init.heads = %" PRId64,
                       init->dim, init->heads);
    if (init->dim / init->heads % 2 != 0)
        return ht_fail(err, HT_ERR_USAGE,
                       "init.dim = %" PRId64 " and init.heads = %" PRId64 " make heads of %" PRId64
                       " numbers; rotary positions need an even one",
                       init->dim, init->heads, init->dim / init->heads);
    if (init->kv_heads && init->heads % init->kv_heads != 0)
        return ht_fail(err, HT_ERR_USAGE, "init.heads = %" PRId64 " is not a multiple of init.kv_heads = %" PRId64,
                       init->heads, init->kv_heads);
    ht_llama_config config = {
        .vocab_size = ht_tokenizer_size(s->tokenizer),
        .dim = init->dim,
        .n_layers = init->layers,
        .n_heads = init->heads,
        .n_kv_heads = init->kv_heads ? init->kv_heads : init->heads,
        .head_dim = init->dim / init->heads,
        .ffn_dim = init->ffn_dim ? init->ffn_dim : (8 * init->dim / 3 + 31) / 32 * 32,
        .max_positions = init->max_positions,
        .norm_eps = 1e-5, /* Llama 2's; METHOD.md section 1.2 */
        .rope_theta = 10000.0,
        .bos_id = ht_tokenizer_bos(s->tokenizer),
        .eos_id = ht_tokenizer_eos(s->tokenizer),
        .tied = init->tied,
        .head = HT_HEAD_LM,
    };
    HT_TRY(ht_llama_init(&s->model, s->setup.be, &s->setup.arena, &config, ht_backend_dtype(s->setup.be), err));
    if (!s->setup.arena.planning) HT_TRY(ht_llama_randomize(&s->model, (uint64_t)s->config->train.seed, err));
done:
    return status;
}

/* The model must begin and end where the tokenizer does. */
static ht_status check_fit(const session *s, ht_error *err) {
    const ht_llama_config *m = &s->model.config;
    if (ht_tokenizer_bos(s->tokenizer) != m->bos_id || ht_tokenizer_eos(s->tokenizer) != m->eos_id)
        return ht_fail(err, HT_ERR_DATA,
                       "\"%s\" has BOS %" PRId32 " and EOS %" PRId32 ", the model's config.json %" PRId32
                       " and %" PRId32,
                       s->tokenizer_path, ht_tokenizer_bos(s->tokenizer), ht_tokenizer_eos(s->tokenizer),
                       m->bos_id, m->eos_id);
    if (s->config->data.seq_len > m->max_positions)
        return ht_fail(err, HT_ERR_USAGE,
                       "data.seq_len = %" PRId64 " is above the model's %" PRId64 " positions",
                       s->config->data.seq_len, m->max_positions);
    return HT_OK;
}

static ht_status open_model(session *s, ht_error *err) {
    const ht_sft_config *c = s->config;
    ht_status status = HT_OK;
    if (is_given(c->model))
        HT_TRY(ht_train_load_model(&s->setup,
                                   &(ht_model_request){.folder = c->model,
                                                       .head = HT_HEAD_LM,
                                                       .dtype = ht_backend_dtype(s->setup.be),
                                                       .seed = c->train.seed},
                                   &s->model, err));
    else
        HT_TRY(new_model(s, err));
    HT_TRY(check_fit(s, err));
done:
    return status;
}

static ht_status open_memory(void *self, ht_train_setup *setup, ht_error *err) {
    session *s = self;
    const ht_sft_config *c = s->config;
    const ht_trainable_options options = ht_train_trainable_options(&c->train, 0);
    ht_status status = HT_OK;
    HT_TRY(open_model(s, err));
    HT_TRY(ht_trainable_init(&s->trainable, &s->model, &options, &setup->arena, err));
    HT_TRY(ht_sft_trainer_init(&s->trainer, &s->trainable, &s->data, &s->plan, c, &setup->arena, err));
done:
    return status;
}

static void close_memory(void *self) {
    session *s = self;
    ht_sft_trainer_free(&s->trainer);
    ht_trainable_free(&s->trainable);
    ht_llama_free(&s->model);
}

/* --- data, training ---------------------------------------------------------------------------------------
 */

static ht_status load_data(session *s, ht_error *err) {
    const ht_sft_config *c = s->config;
    ht_status status = HT_OK;
    if (is_given(c->db)) HT_TRY(ht_store_open(&s->store, c->db, HT_STORE_EXISTING, err));
    if (c->text.count > 0)
        HT_TRY(ht_sft_load_text(&s->data, &c->text, &c->data, s->tokenizer, err));
    else
        HT_TRY(ht_sft_load_demonstrations(&s->data, s->store, &c->data, s->tokenizer, err));
    if (c->train.eval_every > 0 && s->data.held_out.examples.count == 0)
        ht_warn("nothing is held out: there will be no evaluation");
    status = ht_sft_plan_init(&s->plan, &s->data.train, &c->data, c->train.seed, err);
done:
    return status;
}

static ht_status train(session *s, ht_error *err) {
    const ht_sft_config *c = s->config;
    ht_status status = HT_OK;
    HT_TRY(ht_train_setup_open(&s->setup, &c->train, s->comm, err));
    HT_TRY(ht_train_setup_take(&s->setup, &(ht_train_memory){s, open_memory, close_memory}, err));
    s->trainer.comm = s->comm;
    ht_train_task task = {.self = &s->trainer,
                          .steps = s->plan.steps,
                          .accumulate = ht_sft_accumulate,
                          .rows = c->text.count > 0 ? "document" : "demonstration",
                          .row = ht_sft_row,
                          .evaluate = s->data.held_out.examples.count ? ht_sft_evaluate : NULL};
    ht_train_run run = {.config = &c->train,
                        .invocation = s->invocation,
                        .setup = &s->setup,
                        .models = {{.name = "model", .trainable = &s->trainable, .lr_scale = 1}},
                        .model_count = 1,
                        .store = s->store,
                        .tokenizer = s->tokenizer_path,
                        .data_hash = s->data.hash,
                        .lineage = {.stage = c->text.count > 0 ? "pretrain" : "sft",
                                    .parent = is_given(c->model) ? c->model : NULL,
                                    .data = s->data.lineage}};
    status = ht_train_run_task(&run, &task, err);
    s->begun = run.begun;
done:
    return status;
}

ht_status ht_sft_run(void *config, const ht_invocation *invocation, ht_error *err) {
    session s = {.config = config, .invocation = invocation};
    ht_status status = HT_OK;
    HT_TRY(ht_comm_open(&s.comm, err));
    HT_TRY(check_sources(s.config, err));
    HT_TRY(ht_train_check_out(&s.config->train, s.comm, &s.out, &s.lock, err));
    if (s.out == HT_TRAIN_OUT_FINISHED) goto done;
    HT_TRY(open_tokenizer(&s, err));
    HT_TRY(load_data(&s, err));
    HT_TRY(train(&s, err));
done:
    close_memory(&s);
    ht_train_setup_close(&s.setup);
    ht_sft_plan_free(&s.plan);
    ht_sft_data_free(&s.data);
    ht_store_close(s.store);
    ht_tokenizer_free(s.tokenizer);
    status = ht_comm_close(s.comm, status, err);
    /* All ranks have read the tokenizer. */
    if (s.made_tokenizer && !s.begun) unlink(s.tokenizer_path);
    ht_train_release_out(&s.config->train, &s.lock);
    if (s.temporary[0]) {
        ht_error ignored = HT_ERROR_INIT;
        if (ht_folder_remove(s.temporary, &ignored) != HT_OK) ht_warn("%s", ignored.message);
    }
    return status;
}
