/*
 * Weights of a model folder into a model. All names, shapes and dtypes are checked before the first byte is
 * copied; then tensors are read in the order of the file, straight from the map, while the disk is at the next one.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/model_folder.h"
#include "core/checkpoint/safetensors.h"

ht_status ht_folder_check_finished(const char *folder, ht_error *err) {
    char mark[HT_PATH_MAX], last[HT_PATH_MAX];
    ht_status status = HT_OK;
    HT_TRY(ht_path_join(mark, folder, HT_FILE_SAVING, err));
    HT_TRY(ht_path_join(last, folder, HT_FILE_HALTER, err));
    if (ht_path_exists(mark) && !ht_path_exists(last))
        status = ht_fail(err, HT_ERR_DATA, "\"%s\" is incomplete: saving into it was cut short", folder);
done:
    return status;
}

ht_status ht_folder_weights_path(char path[HT_PATH_MAX], const char *folder, ht_error *err) {
    static const char *const pytorch[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                          "consolidated.00.pth"};
    char other[HT_PATH_MAX];
    ht_status status = HT_OK;
    HT_TRY(ht_path_join(path, folder, HT_FILE_WEIGHTS, err));
    if (ht_path_exists(path)) return HT_OK;
    HT_TRY(ht_path_join(path, folder, HT_FILE_INDEX, err));
    if (ht_path_exists(path)) return HT_OK;
    path[0] = '\0';
    for (size_t i = 0; i < sizeof pytorch / sizeof pytorch[0]; i++) {
        HT_TRY(ht_path_join(other, folder, pytorch[i], err));
        if (ht_path_exists(other))
            return ht_fail(err, HT_ERR_DATA, "\"%s\" has its weights in \"%s\": convert them to safetensors",
                           folder, pytorch[i]);
    }
    status =
        ht_fail(err, HT_ERR_DATA, "\"%s\" has neither %s nor %s", folder, HT_FILE_WEIGHTS, HT_FILE_INDEX);
done:
    return status;
}

/* The model must compute what the folder describes; only the head may differ. */
static ht_status check_config(const char *folder, const ht_llama_config *f, const ht_llama_config *m,
                              ht_error *err) {
    const struct {
        const char *name;
        double folder, model;
    } fields[] = {
        {"vocab_size", (double)f->vocab_size, (double)m->vocab_size},
        {"hidden_size", (double)f->dim, (double)m->dim},
        {"num_hidden_layers", (double)f->n_layers, (double)m->n_layers},
        {"num_attention_heads", (double)f->n_heads, (double)m->n_heads},
        {"num_key_value_heads", (double)f->n_kv_heads, (double)m->n_kv_heads},
        {"head_dim", (double)f->head_dim, (double)m->head_dim},
        {"intermediate_size", (double)f->ffn_dim, (double)m->ffn_dim},
        {"rms_norm_eps", f->norm_eps, m->norm_eps},
        {"rope_theta", f->rope_theta, m->rope_theta},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].folder != fields[i].model)
            return ht_fail(err, HT_ERR_USAGE, "\"%s\" has %s = %.17g, the model to load it into %.17g",
                           folder, fields[i].name, fields[i].folder, fields[i].model);
    if (f->head == HT_HEAD_SCALAR && m->head == HT_HEAD_LM)
        return ht_fail(err, HT_ERR_DATA,
                       "\"%s\" is a reward model (LlamaForSequenceClassification); a language model "
                       "is wanted",
                       folder);
    if (m->head == HT_HEAD_LM && f->tied != m->tied)
        return ht_fail(err, HT_ERR_USAGE, "\"%s\" has tie_word_embeddings = %s, the model to load it into %s",
                       folder, f->tied ? "true" : "false", m->tied ? "true" : "false");
    return HT_OK;
}

/* "16,64" of a shape. */
static void shape_text(char out[160], const int64_t *shape, int dims) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < dims; i++) /* 8 sizes of at most 19 digits fit */
        used += (size_t)snprintf(out + used, 160 - used, "%s%" PRId64, i ? "," : "", shape[i]);
}

static ht_status check_entry(const ht_param *param, const ht_safetensors_entry *entry, const char *where,
                             ht_error *err) {
    if (!entry) return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%s\" is missing", where, param->name);
    int dims = param->vector ? 1 : 2;
    int64_t matrix[2] = {param->rows, param->cols}, *shape = param->vector ? matrix + 1 : matrix;
    if (entry->dims != dims || memcmp(entry->shape, shape, (size_t)dims * sizeof *shape) != 0) {
        char found[160], wanted[160];
        shape_text(found, entry->shape, entry->dims);
        shape_text(wanted, shape, dims);
        return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%s\" has shape [%s], config.json says [%s]",
                       entry->file, param->name, found, wanted);
    }
    if (!entry->supported || entry->dtype == HT_U8 || entry->dtype == HT_U16)
        return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%s\" has dtype %s, allowed are F32, BF16 and F16",
                       entry->file, param->name, entry->dtype_name);
    return HT_OK;
}

/* Old checkpoints carry "model.layers.N.self_attn.rotary_emb.inv_freq", which follows from the config. */
static int is_rotary_table(const char *name) {
    static const char prefix[] = "model.layers.", suffix[] = ".self_attn.rotary_emb.inv_freq";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return 0;
    const char *digits = name + sizeof prefix - 1;
    size_t count = strspn(digits, "0123456789");
    return count > 0 && strcmp(digits + count, suffix) == 0;
}

/* What the layout does not name is refused, but for the tensors that follow from others or belong to the head
 * that is not wanted. */
static ht_status check_surplus(const ht_safetensors *set, const ht_llama *model, ht_head folder_head,
                               const uint8_t *used, const char *where, ht_error *err) {
    const ht_safetensors_entry *embedding =
        ht_safetensors_find(set, model->layout.params[ht_layout_embedding(&model->layout)].name);
    for (int64_t i = 0; i < ht_safetensors_count(set); i++) {
        const ht_safetensors_entry *entry = ht_safetensors_at(set, i);
        if (used[i] || is_rotary_table(entry->name)) continue;
        if (strcmp(entry->name, "lm_head.weight") == 0 && folder_head == HT_HEAD_LM) {
            if (model->config.head == HT_HEAD_SCALAR) continue;
            /* Tied. transformers 4 drops a head that differs, transformers 5 keeps it: neither is what was
             * said. */
            if (entry->supported && entry->dtype == embedding->dtype && entry->bytes == embedding->bytes &&
                memcmp(entry->data, embedding->data, entry->bytes) == 0)
                continue;
            return ht_fail(
                err, HT_ERR_DATA,
                "%s: tie_word_embeddings is true, but \"lm_head.weight\" differs from the embedding; set it "
                "to false in config.json to use both",
                where);
        }
        return ht_fail(err, HT_ERR_DATA,
                       "%s: tensor \"%.200s\" is not one of the model that config.json describes", where,
                       entry->name);
    }
    return HT_OK;
}

/* A tensor of the file and the parameter it becomes. */
typedef struct load_item {
    const ht_safetensors_entry *entry;
    int64_t param;
} load_item;

static int compare_place(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)((const load_item *)a)->entry->data, y = (uintptr_t)((const load_item *)b)->entry->data;
    return x < y ? -1 : x > y;
}

static ht_status load_tensors(ht_llama *model, load_item *items, int64_t count, ht_error *err) {
    ht_status status = HT_OK;
    qsort(items, (size_t)count, sizeof *items, compare_place);
    for (int64_t i = 0; i < count; i++) {
        const ht_safetensors_entry *entry = items[i].entry;
        ht_tensor to = ht_params_tensor(&model->weights, items[i].param);
        if (i + 1 < count) ht_safetensors_expect(items[i + 1].entry);
        HT_TRY(ht_upload_converted(model->be, &to, entry->data, entry->dtype, err));
        ht_safetensors_forget(entry);
    }
done:
    return status;
}

ht_status ht_model_folder_load(const char *folder, ht_llama *model, int *head_loaded, ht_error *err) {
    char path[HT_PATH_MAX];
    ht_llama_config config;
    ht_safetensors *set = NULL;
    load_item *items = NULL;
    int64_t count = 0;
    uint8_t *used = NULL;
    const ht_layout *layout = &model->layout;
    ht_status status = HT_OK;
    *head_loaded = 0;
    HT_TRY(ht_folder_check_finished(folder, err));
    HT_TRY(ht_model_folder_config(folder, &config, err));
    HT_TRY(check_config(folder, &config, &model->config, err));
    HT_TRY(ht_folder_weights_path(path, folder, err));
    HT_TRY(ht_safetensors_open(&set, path, err));
    HT_TRY(ht_calloc(&items, (size_t)layout->count, sizeof *items, err));
    HT_TRY(ht_calloc(&used, (size_t)ht_safetensors_count(set), 1, err));
    int headless = model->config.head == HT_HEAD_SCALAR && config.head == HT_HEAD_LM;
    for (int64_t i = 0; i < layout->count; i++) {
        if (headless && i == ht_layout_output(layout)) continue;
        const ht_safetensors_entry *entry = ht_safetensors_find(set, layout->params[i].name);
        HT_TRY(check_entry(&layout->params[i], entry, path, err));
        used[entry - ht_safetensors_at(set, 0)] = 1;
        items[count++] = (load_item){entry, i};
    }
    HT_TRY(check_surplus(set, model, config.head, used, path, err));
    HT_TRY(load_tensors(model, items, count, err));
    *head_loaded = !headless;
done:
    free(used);
    free(items);
    ht_safetensors_close(set);
    return status;
}
