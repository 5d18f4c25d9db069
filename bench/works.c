#include "bench/works.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/checkpoint/model_folder.h"

#define SMALL_AMOUNT {.sequences = 8, .length = 512, .prompt = 32, .new_tokens = 128, .micro_tokens = 4096, .together = 256}

static const struct {
    const char *name;
    int64_t dim, layers, heads, hidden, vocab;
    work_amount amount;
} sizes[] = {
    {"tiny", 128, 4, 4, 352, 1024, SMALL_AMOUNT},
    {"small", 288, 6, 6, 768, 32000, SMALL_AMOUNT},
    {"medium", 768, 12, 12, 2048, 32000, SMALL_AMOUNT},
    {"7b", 4096, 32, 32, 11008, 32000,
     {.sequences = 4,
      .length = 4096,
      .prompt = 256,
      .new_tokens = 256,
      .micro_tokens = 4096,
      .together = 64,
      .state = HT_ADAMW_8BIT}},
};

static const work_kind *const kinds[] = {&work_sft,            &work_reward, &work_score, &work_generate,  &work_summary_greedy,
                                         &work_summary_lookup, &work_ppo,    &work_start, &work_operations};

static ht_status size_of(const char *size, ht_llama_config *config, work_amount *amount, ht_error *err) {
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (strcmp(size, sizes[i].name) != 0) continue;
        *amount = sizes[i].amount;
        *config = (ht_llama_config){.vocab_size = sizes[i].vocab,
                                    .dim = sizes[i].dim,
                                    .n_layers = sizes[i].layers,
                                    .n_heads = sizes[i].heads,
                                    .n_kv_heads = sizes[i].heads,
                                    .head_dim = sizes[i].dim / sizes[i].heads,
                                    .ffn_dim = sizes[i].hidden,
                                    .max_positions = amount->length,
                                    .norm_eps = 1e-5,
                                    .rope_theta = 10000,
                                    .bos_id = 1,
                                    .eos_id = 2,
                                    .head = HT_HEAD_LM};
        return HT_OK;
    }
    return ht_fail(err, HT_ERR_USAGE, "no model size \"%s\": tiny, small, medium, 7b", size);
}

static ht_status find_kind(work *w, const char *name, ht_error *err) {
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t length = strlen(kinds[i]->name);
        int has_number = kinds[i]->name[length - 1] == '-';
        if (strncmp(name, kinds[i]->name, length) != 0 || (has_number ? atoi(name + length) < 1 : name[length] != '\0'))
            continue;
        w->kind = kinds[i];
        w->count = has_number ? atoi(name + length) : 1;
        return HT_OK;
    }
    return ht_fail(err, HT_ERR_USAGE, "no work \"%s\": bench/works.h lists them", name);
}

ht_status work_open(work *w, ht_backend *be, const char *size, const char *name, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(size_of(size, &w->config, &w->amount, err));
    HT_TRY(find_kind(w, name, err));
    w->be = be;
    ht_arena_init(&w->arena, 0);
    ht_backend_arena(be, &w->arena);
    HT_TRY(w->kind->open(w, err));
done:
    return status;
}

void work_close(work *w) {
    if (w->self) w->kind->close(w);
    free(w->self);
    ht_arena_clear(&w->arena);
}

int32_t work_token(const work *w, uint64_t stream, int64_t i) {
    return 3 + (int32_t)ht_rng_below(1, stream, (uint64_t)i, (uint64_t)w->config.vocab_size - 3);
}

/* --- models ----------------------------------------------------------------------------------------------- */

ht_status work_randomize(work *w, void *memory, ht_dtype dtype, int64_t n, double deviation, ht_error *err) {
    enum { STRETCH = 999983 }; /* a prime: rows of a matrix do not repeat */
    ht_status status = HT_OK;
    float *normals = NULL;
    HT_TRY(ht_calloc(&normals, STRETCH, sizeof *normals, err));
    for (int64_t i = 0; i < STRETCH; i++)
        normals[i] = (float)(deviation * ht_rng_normal(1, 7, (uint64_t)i));
    for (int64_t first = 0; first < n; first += STRETCH) {
        int64_t count = n - first < STRETCH ? n - first : STRETCH;
        ht_tensor to = ht_tensor_of((char *)memory + (size_t)first * ht_dtype_size(dtype), dtype, 1, count);
        HT_TRY(ht_upload_converted(w->be, &to, normals, HT_F32, err));
    }
done:
    free(normals);
    return status;
}

ht_status work_model(work *w, ht_llama *model, ht_head head, ht_error *err) {
    ht_status status = HT_OK;
    ht_llama_config config = w->config;
    float *ones = NULL;
    config.head = head;
    HT_TRY(ht_llama_init(model, w->be, &w->arena, &config, ht_backend_dtype(w->be), err));
    for (int64_t u = 0; u < model->layout.units; u++)
        HT_TRY(work_randomize(w, model->weights.units[u], model->weights.dtype, model->layout.unit_size[u], 0.02, err));
    HT_TRY(ht_calloc(&ones, (size_t)config.dim, sizeof *ones, err));
    for (int64_t i = 0; i < config.dim; i++)
        ones[i] = 1;
    for (int64_t p = 0; p < model->layout.count; p++) {
        ht_tensor gain = ht_params_tensor(&model->weights, p);
        if (model->layout.params[p].vector) HT_TRY(ht_upload_converted(w->be, &gain, ones, HT_F32, err));
    }
done:
    free(ones);
    return status;
}

ht_status work_training_init(work *w, work_training *t, ht_head head, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(work_model(w, &t->model, head, err));
    HT_TRY(ht_trainable_init(&t->trainable, &t->model, &(ht_trainable_options){.state = w->amount.state}, &w->arena, err));
done:
    return status;
}

ht_status work_training_update(work_training *t, ht_error *err) {
    double norm;
    return ht_optimizer_step(&t->trainable, &ht_optimizer_defaults, 1e-5, &norm, err);
}

void work_training_free(work_training *t) {
    ht_trainable_free(&t->trainable);
    ht_llama_free(&t->model);
}

ht_status work_write_folder(ht_backend *be, const char *size, const char *folder, ht_error *err) {
    ht_status status = HT_OK;
    work w = {.be = be};
    ht_llama model = {0};
    ht_arena_init(&w.arena, 0);
    ht_backend_arena(be, &w.arena);
    HT_TRY(size_of(size, &w.config, &w.amount, err));
    HT_TRY(work_model(&w, &model, HT_HEAD_LM, err));
    HT_TRY(ht_model_folder_save(folder, &model, model.weights.dtype, NULL, &(ht_lineage){.stage = "pretrain"}, err));
done:
    ht_llama_free(&model);
    ht_arena_clear(&w.arena);
    return status;
}

/* --- limits ----------------------------------------------------------------------------------------------- */

static double layers_parameters(const ht_llama_config *c) {
    int64_t attention = c->dim * c->head_dim * (2 * c->n_heads + 2 * c->n_kv_heads);
    return (double)c->n_layers * (double)(attention + 3 * c->dim * c->ffn_dim);
}

double work_layers_flop(const work *w, int64_t length) {
    const ht_llama_config *c = &w->config;
    return 2 * layers_parameters(c) + 2 * (double)(c->n_layers * c->dim * length);
}

double work_head_flop(const work *w) {
    return 2 * (double)(w->config.dim * w->config.vocab_size);
}

double work_decode_seconds(const work *w, int64_t count, int64_t positions, const ht_profile *peaks) {
    const ht_llama_config *c = &w->config;
    double parameters = layers_parameters(c) + work_head_flop(w) / 2;
    double cached = 2 * (double)(count * positions) * (double)(c->n_layers * c->n_kv_heads * c->head_dim);
    double reading = (parameters + cached) * (double)ht_dtype_size(ht_backend_dtype(w->be)) / peaks->read_peak;
    double products = 2 * parameters * (double)count / peaks->product_peak;
    return reading > products ? reading : products;
}

/* --- reports ---------------------------------------------------------------------------------------------- */

void work_print_operation(const char *name, ht_operation operation, const ht_profile_line *line, const ht_profile *peaks,
                          double all) {
    int moves = ht_operation_traffic(operation) != HT_TRAFFIC_NONE &&
                line->bytes / peaks->read_peak > line->flop / peaks->product_peak;
    double rate = 1e-9 * (moves ? line->bytes : line->flop) / line->seconds;
    if (line->calls)
        printf("operation|%s|%" PRId64 "|%.6g|%.4g|%.4g|%s|%.3g|\n", name, line->calls, line->seconds,
               all > 0 ? line->seconds / all : 0, rate, moves ? "GB/s" : "GFLOP/s", line->least / line->seconds);
}
