/*
 * Generation, plain and with prompt lookup.
 *
 * Random weights do not repeat a prompt, so the model of summary-greedy and summary-lookup is made to: its layers are
 * computed as they are, but what they would add to the residual stream is zero, and the row of token t + 1 in the output
 * head is the embedding of t. It always goes on with the next id. Its "summary" is the ids 20, 21, 22 ...; the prompt
 * holds of every 16 of them the first 12 as one run, the runs scattered between other tokens. So three quarters of what
 * is generated is copied in spans of 12, as an extractive summary would, and the rest is not in the prompt.
 */
#include <stdlib.h>

#include "bench/works.h"
#include "core/base/memory.h"
#include "core/generate/generate.h"

typedef struct generation {
    ht_llama model;
    ht_engine *engine;
    int32_t *prompts; /* [count, length] */
    int64_t length;
    int32_t lookup_tokens;
    int32_t expected; /* last token of the first sequence; -1: any */
} generation;

enum { MOST_PREFILL = 16384 };

/* A model, an engine and `count` prompts of `length` random tokens. */
static ht_status open_generation(work *w, int64_t length, ht_error *err) {
    ht_status status = HT_OK;
    generation *self = NULL;
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    const ht_engine_limits limits = {.max_sequences = w->count,
                                     .cache_tokens = w->count * (length + w->amount.new_tokens + 16),
                                     .prefill_tokens = w->count * length < MOST_PREFILL ? w->count * length : MOST_PREFILL};
    self->length = length;
    self->expected = -1;
    HT_TRY(work_model(w, &self->model, HT_HEAD_LM, err));
    HT_TRY(ht_engine_init(&self->engine, &self->model, &w->arena, &limits, err));
    HT_TRY(ht_calloc(&self->prompts, (size_t)(w->count * length), sizeof *self->prompts, err));
    for (int64_t i = 0; i < w->count * length; i++)
        self->prompts[i] = work_token(w, 99, i);
done:
    return status;
}

static ht_status generate_open(work *w, ht_error *err) {
    return open_generation(w, w->amount.prompt, err);
}

static ht_status generate_run(work *w, int64_t *tokens, ht_error *err) {
    ht_status status = HT_OK;
    const generation *self = w->self;
    ht_request *requests = NULL;
    ht_completion *done = NULL;
    HT_TRY(ht_calloc(&requests, (size_t)w->count, sizeof *requests, err));
    HT_TRY(ht_calloc(&done, (size_t)w->count, sizeof *done, err));
    for (int64_t i = 0; i < w->count; i++) {
        requests[i] = (ht_request){.prompt = self->prompts + i * self->length,
                                   .prompt_length = self->length,
                                   .max_new_tokens = w->amount.new_tokens,
                                   .top_p = 1,
                                   .ignore_eos = 1,
                                   .lookup_tokens = self->lookup_tokens};
    }
    HT_TRY(ht_generate(self->engine, requests, w->count, done, NULL, NULL, err));
    for (int64_t i = 0; i < w->count; i++)
        *tokens += done[i].length;
    if (self->expected >= 0 && done[0].tokens[w->amount.new_tokens - 1] != self->expected)
        status = ht_fail(err, HT_ERR_RUN, "the summary ends with token %d, not %d", done[0].tokens[w->amount.new_tokens - 1],
                         self->expected);
    ht_completions_free(done, w->count);
done:
    free(done);
    free(requests);
    return status;
}

static double generate_limit(const work *w, const ht_profile *peaks) {
    const generation *self = w->self;
    return (double)w->count / work_decode_seconds(w, w->count, self->length + w->amount.new_tokens / 2, peaks);
}

static void generate_close(work *w) {
    generation *self = w->self;
    free(self->prompts);
    ht_engine_free(self->engine);
    ht_llama_free(&self->model);
}

const work_kind work_generate = {"generate-", generate_open, generate_run, generate_limit, generate_close, NULL};

/* --- a summary -------------------------------------------------------------------------------------------- */

enum { SUMMARY_PROMPT = 384, SUMMARY_NEW = 128, FIRST = 20, SPAN = 12, PERIOD = 16, OTHERS = 512, LOOKUP_TOKENS = 10 };

static ht_status zero(ht_llama *model, int64_t layer, ht_layer_param p, ht_error *err) {
    ht_tensor t = ht_params_tensor(&model->weights, ht_layout_layer(&model->layout, layer, p));
    return ht_zero(model->be, t.data, (size_t)(t.rows * t.cols) * ht_dtype_size(t.dtype), err);
}

/* Token t is followed by t + 1. */
static ht_status make_successor_model(ht_llama *model, ht_error *err) {
    ht_status status = HT_OK;
    ht_tensor embedding = ht_params_tensor(&model->weights, ht_layout_embedding(&model->layout));
    ht_tensor head = ht_params_tensor(&model->weights, ht_layout_output(&model->layout));
    ht_tensor from = ht_tensor_rows(embedding, 0, embedding.rows - 1), to = ht_tensor_rows(head, 1, head.rows - 1);
    HT_TRY(ht_copy(model->be, &to, &from, err));
    for (int64_t layer = 0; layer < model->config.n_layers; layer++) {
        HT_TRY(zero(model, layer, HT_LAYER_O, err));
        HT_TRY(zero(model, layer, HT_LAYER_DOWN, err));
    }
done:
    return status;
}

/* Tokens of another range of ids, with the summary's spans among them, last span first; at the end, FIRST - 1. */
static void fill_summary_prompt(int32_t *prompt) {
    enum { SPANS = SUMMARY_NEW / PERIOD, STRIDE = SUMMARY_PROMPT / SPANS };
    for (int i = 0; i < SUMMARY_PROMPT; i++)
        prompt[i] = OTHERS + i * 37 % 400;
    for (int span = 0; span < SPANS; span++)
        for (int i = 0; i < SPAN; i++)
            prompt[(SPANS - 1 - span) * STRIDE + i] = FIRST + span * PERIOD + i;
    prompt[SUMMARY_PROMPT - 1] = FIRST - 1;
}

static ht_status summary_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    if (w->amount.new_tokens != SUMMARY_NEW)
        return ht_fail(err, HT_ERR_USAGE, "%s: of sizes whose responses have %d tokens", w->kind->name, SUMMARY_NEW);
    HT_TRY(open_generation(w, SUMMARY_PROMPT, err));
    generation *self = w->self;
    self->lookup_tokens = w->kind == &work_summary_lookup ? LOOKUP_TOKENS : 0;
    self->expected = FIRST + SUMMARY_NEW - 1;
    fill_summary_prompt(self->prompts);
    HT_TRY(make_successor_model(&self->model, err));
done:
    return status;
}

const work_kind work_summary_greedy = {"summary-greedy", summary_open, generate_run, generate_limit, generate_close, NULL};
const work_kind work_summary_lookup = {"summary-lookup", summary_open, generate_run, NULL, generate_close, NULL};
