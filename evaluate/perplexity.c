/*
 * halter-evaluate perplexity.
 */
#include "evaluate/perplexity.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend/profile.h"
#include "core/base/arena.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/checkpoint/model_folder.h"

/* --- adding up -------------------------------------------------------------------------------------------- */

typedef struct adder {
    const ht_perplexity_task *task;
    ht_perplexity *result;
    ht_batch batch; /* windows that wait for a pass */
    int32_t *rows, *targets;
    float *logp;
    ht_ids ids;
} adder;

static ht_status run_batch(adder *a, ht_error *err) {
    ht_status status = HT_OK;
    const ht_batch *batch = &a->batch;
    int64_t count = 0;
    if (!batch->n_sequences) return HT_OK;
    for (int64_t s = 0; s < batch->n_sequences; s++)
        for (int32_t t = batch->seq_start[s]; t + 1 < batch->seq_start[s + 1]; t++, count++) {
            a->rows[count] = t;
            a->targets[count] = batch->tokens[t + 1];
        }
    HT_TRY(ht_llama_forward(a->task->model, a->task->acts, batch, err));
    ht_lm_rows rows = {.count = count, .rows = a->rows, .targets = a->targets, .logp = a->logp};
    HT_TRY(ht_lm_loss(a->task->model, a->task->acts, &rows, NULL, err));
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(a->logp[i]))
            HT_TRY(ht_fail(err, HT_ERR_RUN, "the log-probability of token %" PRId64 " is %g", a->result->tokens + i,
                           (double)a->logp[i]));
        a->result->nll -= (double)a->logp[i];
    }
    a->result->tokens += count;
    ht_batch_clear(&a->batch);
    status = ht_stop_requested();
    if (status != HT_OK) ht_fail(err, status, "stopped after %" PRId64 " tokens", a->result->tokens);
done:
    return status;
}

static ht_status add_document(adder *a, ht_span document, ht_error *err) {
    ht_status status = HT_OK;
    const ht_perplexity_task *task = a->task;
    int32_t bos = ht_tokenizer_bos(task->tokenizer), eos = ht_tokenizer_eos(task->tokenizer);
    a->ids.count = 0;
    HT_TRY(ht_ids_append(&a->ids, &bos, 1, err));
    HT_TRY(ht_tokenizer_encode(task->tokenizer, document.data, document.size, &a->ids, err));
    if (task->documents != HT_DOCUMENTS_WHOLE) HT_TRY(ht_ids_append(&a->ids, &eos, 1, err));
    int64_t length = (int64_t)a->ids.count;
    for (int64_t first = 0; first + 1 < length; first += task->seq_len - 1) {
        int64_t n = length - first < task->seq_len ? length - first : task->seq_len;
        if (!ht_batch_add(&a->batch, a->ids.data + first, n)) {
            HT_TRY(run_batch(a, err));
            ht_batch_add(&a->batch, a->ids.data + first, n);
        }
        a->result->windows++;
    }
    a->result->documents++;
done:
    return status;
}

static ht_status add_documents(adder *a, ht_span text, ht_error *err) {
    ht_status status = HT_OK;
    ht_span rest = text;
    ht_progress progress;
    ht_progress_start(&progress, "perplexity", (int64_t)(text.size >> 10));
    for (;;) {
        ht_span document = ht_document_next(&rest, a->task->documents);
        if (!document.size) break;
        status = add_document(a, document, err);
        /* Other failures are of a pass, which may be over documents before this one. */
        if (status == HT_ERR_DATA) ht_fail_in(err, "document at byte %zu", (size_t)(document.data - text.data));
        if (status != HT_OK) goto done;
        ht_progress_update(&progress, (int64_t)((text.size - rest.size) >> 10), "KiB");
    }
    HT_TRY(run_batch(a, err));
    if (!a->result->tokens) status = ht_fail(err, HT_ERR_DATA, "there is no token to predict");
done:
    return status;
}

ht_status ht_perplexity_of(ht_perplexity *result, const ht_perplexity_task *task, ht_span text, ht_error *err) {
    ht_status status = HT_OK;
    adder a = {.task = task, .result = result};
    size_t capacity = (size_t)task->pass_tokens;
    memset(result, 0, sizeof *result);
    HT_TRY(ht_batch_init(&a.batch, task->pass_tokens, task->pass_tokens / 2, err));
    HT_TRY(ht_calloc(&a.rows, capacity, sizeof *a.rows, err));
    HT_TRY(ht_calloc(&a.targets, capacity, sizeof *a.targets, err));
    HT_TRY(ht_calloc(&a.logp, capacity, sizeof *a.logp, err));
    HT_TRY(add_documents(&a, text, err));
done:
    ht_ids_release(&a.ids);
    free(a.logp);
    free(a.targets);
    free(a.rows);
    ht_batch_free(&a.batch);
    return status;
}

/* --- the command ------------------------------------------------------------------------------------------ */

typedef struct perplexity_session {
    ht_backend *be;
    ht_arena arena;
    ht_llama model;
    ht_activations *acts;
    ht_tokenizer *tokenizer;
    ht_file_map text;
} perplexity_session;

static ht_status open_model(perplexity_session *s, const ht_perplexity_config *config, int64_t *seq_len,
                            int64_t *pass_tokens, ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config shape;
    int head_loaded;
    HT_TRY(ht_model_folder_config_of(config->model, HT_HEAD_LM, &shape, err));
    *seq_len = config->seq_len ? config->seq_len : shape.max_positions;
    if (*seq_len < 2) HT_TRY(ht_fail(err, HT_ERR_USAGE, "seq_len = %" PRId64 " is below 2", *seq_len));
    if (*seq_len > shape.max_positions)
        HT_TRY(ht_fail(err, HT_ERR_USAGE, "seq_len = %" PRId64 " is above the %" PRId64 " positions of %s", *seq_len,
                       shape.max_positions, config->model));
    *pass_tokens = config->pass_tokens > *seq_len ? config->pass_tokens : *seq_len;
    HT_TRY(ht_model_folder_open_tokenizer(config->model, &shape, &s->tokenizer, err));
    HT_TRY(ht_backend_open(&s->be, (ht_backend_kind)config->backend, (int)config->threads, err));
    HT_TRY(ht_backend_choose_dtype(s->be, (ht_dtype_choice)config->dtype, err));
    if (config->profile) HT_TRY(ht_profile_start(s->be, err));
    ht_backend_arena(s->be, &s->arena);
    HT_TRY(ht_llama_init(&s->model, s->be, &s->arena, &shape, ht_backend_dtype(s->be), err));
    HT_TRY(ht_activations_init(&s->acts, &s->model, &s->arena, HT_KEEP_NOTHING, *pass_tokens, *pass_tokens / 2, err));
    HT_TRY(ht_model_folder_load(config->model, &s->model, &head_loaded, err));
    ht_arena_seal(&s->arena);
done:
    return status;
}

static void close_model(perplexity_session *s) {
    ht_file_map_close(&s->text);
    ht_activations_free(s->acts);
    ht_llama_free(&s->model);
    ht_arena_clear(&s->arena);
    if (s->be) ht_backend_close(s->be);
    ht_tokenizer_free(s->tokenizer);
}

static void print_result(const ht_perplexity *result, const ht_perplexity_task *task, int as_json) {
    double nll = result->nll / (double)result->tokens;
    if (as_json)
        printf("{\"nll\": %.9g, \"perplexity\": %.9g, \"tokens\": %" PRId64 ", \"documents\": %" PRId64
               ", \"windows\": %" PRId64 ", \"seq_len\": %" PRId64 "}\n",
               nll, exp(nll), result->tokens, result->documents, result->windows, task->seq_len);
    else
        printf("nll %.6f nats a token, perplexity %.4f, %" PRId64 " tokens in %" PRId64 " windows of at most %" PRId64
               "\n",
               nll, exp(nll), result->tokens, result->windows, task->seq_len);
}

ht_status ht_evaluate_perplexity(void *configuration, const ht_invocation *invocation, ht_error *err) {
    ht_status status = HT_OK;
    const ht_perplexity_config *config = configuration;
    perplexity_session s = {.be = NULL};
    ht_perplexity_task task = {.documents = (ht_documents)config->documents};
    ht_perplexity result;
    (void)invocation;
    ht_arena_init(&s.arena, 0);
    HT_TRY(ht_file_map_open(&s.text, config->text, err));
    HT_TRY(open_model(&s, config, &task.seq_len, &task.pass_tokens, err));
    task.model = &s.model;
    task.acts = s.acts;
    task.tokenizer = s.tokenizer;
    status = ht_perplexity_of(&result, &task, (ht_span){(const char *)s.text.data, s.text.size}, err);
    if (status != HT_OK) {
        ht_fail_in(err, "%s", config->text);
        goto done;
    }
    print_result(&result, &task, config->json);
done:
    close_model(&s);
    return status;
}
