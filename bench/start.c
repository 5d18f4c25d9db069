/*
 * Everything that halter-sft does before its first step, but for reading the data.
 */
#include "bench/works.h"
#include "core/base/memory.h"
#include "core/checkpoint/model_folder.h"

typedef struct start {
    ht_llama model;
    ht_trainable trainable;
    ht_activations *acts;
} start;

static ht_status start_open(work *w, ht_error *err) {
    ht_status status = HT_OK;
    start *self = NULL;
    ht_llama_config config;
    int head_loaded;
    if (!w->folder) return ht_fail(err, HT_ERR_USAGE, "start: no folder is given");
    HT_TRY(ht_calloc(&self, 1, sizeof *self, err));
    w->self = self;
    HT_TRY(ht_model_folder_config_of(w->folder, HT_HEAD_LM, &config, err));
    HT_TRY(ht_llama_init(&self->model, w->be, &w->arena, &config, ht_backend_dtype(w->be), err));
    HT_TRY(ht_model_folder_load(w->folder, &self->model, &head_loaded, err));
    HT_TRY(ht_trainable_init(&self->trainable, &self->model, &(ht_trainable_options){.state = HT_ADAMW_F32}, &w->arena, err));
    HT_TRY(ht_activations_init(&self->acts, &self->model, &w->arena, HT_KEEP_ALL, w->amount.micro_tokens,
                               w->amount.sequences, err));
done:
    return status;
}

static void start_close(work *w) {
    start *self = w->self;
    ht_activations_free(self->acts);
    ht_trainable_free(&self->trainable);
    ht_llama_free(&self->model);
}

const work_kind work_start = {"start", start_open, NULL, NULL, start_close, NULL};
