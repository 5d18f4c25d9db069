/*
 * A model into a folder. Weights are converted and written a chunk at a time; halter.json comes last, so its
 * presence means that everything else is there.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/model_folder.h"
#include "core/checkpoint/safetensors.h"

#define MAX_SHARD    ((size_t)5000000000) /* transformers 4's default */
#define WEIGHTS_STEM "model"

/* ---- weights ---- */

/* One parameter on its way to the file. */
typedef struct save_source {
    ht_backend *be;
    const char *name;
    ht_tensor from;
    ht_dtype dtype; /* of the file */
    void *staging;  /* elements of one chunk in the model's dtype */
} save_source;

static ht_status read_param(void *context, void *host, size_t first_byte, size_t bytes, ht_error *err) {
    const save_source *source = context;
    size_t to_size = ht_dtype_size(source->dtype), from_size = ht_dtype_size(source->from.dtype);
    size_t first = first_byte / to_size, n = bytes / to_size;
    const char *from = (const char *)source->from.data + first * from_size;
    if (source->dtype == source->from.dtype) return ht_download(source->be, host, from, bytes, err);
    ht_status status = ht_download(source->be, source->staging, from, n * from_size, err);
    if (status != HT_OK) return status;
    ht_convert(host, source->dtype, source->staging, source->from.dtype, n);
    if (source->dtype != HT_F16) return HT_OK;
    const uint16_t *halves = host;
    for (size_t i = 0; i < n; i++)
        if ((halves[i] & 0x7fff) == 0x7c00)
            return ht_fail(err, HT_ERR_DATA, "\"%s\": element %zu does not fit float16 (at most 65504)",
                           source->name, first + i);
    return HT_OK;
}

static ht_status write_weights(const char *folder, const ht_llama *model, ht_dtype dtype, ht_error *err) {
    const ht_layout *layout = &model->layout;
    ht_safetensors_item *items = NULL;
    save_source *sources = NULL;
    void *staging = NULL;
    ht_status status = HT_OK;
    HT_TRY(ht_calloc(&items, (size_t)layout->count, sizeof *items, err));
    HT_TRY(ht_calloc(&sources, (size_t)layout->count, sizeof *sources, err));
    HT_TRY(ht_calloc(&staging, HT_SAFETENSORS_CHUNK / ht_dtype_size(dtype),
                     ht_dtype_size(model->weights.dtype), err));
    for (int64_t i = 0; i < layout->count; i++) {
        const ht_param *param = &layout->params[i];
        sources[i] =
            (save_source){model->be, param->name, ht_params_tensor(&model->weights, i), dtype, staging};
        items[i] = (ht_safetensors_item){.name = param->name,
                                         .dtype = dtype,
                                         .dims = param->vector ? 1 : 2,
                                         .shape = {param->vector ? param->cols : param->rows, param->cols},
                                         .read = read_param,
                                         .context = &sources[i]};
    }
    status = ht_safetensors_write(folder, WEIGHTS_STEM, items, layout->count, MAX_SHARD, err);
done:
    free(staging);
    free(sources);
    free(items);
    return status;
}

/* ---- what stands beside them ---- */

/* Writes *value to folder/name and releases it. */
static ht_status write_json(const char *folder, const char *name, json_t **value, ht_error *err) {
    char path[HT_PATH_MAX];
    ht_status status = ht_path_join(path, folder, name, err);
    if (status == HT_OK) status = ht_json_write(path, *value, err);
    json_decref(*value);
    *value = NULL;
    return status;
}

static ht_status write_tokenizer(const char *folder, const ht_llama_config *config, const char *tokenizer,
                                 const ht_lineage *lineage, ht_error *err) {
    char path[HT_PATH_MAX];
    json_t *value = NULL;
    int pretrained = lineage->stage && strcmp(lineage->stage, "pretrain") == 0;
    ht_status status = HT_OK;
    HT_TRY(ht_folder_tokenizer_json(&value, tokenizer, config,
                                    pretrained ? HT_CHAT_TEMPLATE_NONE : HT_CHAT_TEMPLATE_LLAMA2, err));
    HT_TRY(write_json(folder, HT_FILE_TOKENIZER_CONFIG, &value, err));
    HT_TRY(ht_path_join(path, folder, HT_FILE_TOKENIZER, err));
    HT_TRY(ht_file_copy(tokenizer, path, err));
done:
    return status;
}

/* {"path", "hash"} of the parent, null without one. A parent that cannot be read any more costs its hash, not
 * the run. */
static json_t *parent_json(const ht_lineage *lineage) {
    char hash[HT_HASH_LEN];
    ht_error err = HT_ERROR_INIT;
    if (!lineage->parent) return json_null();
    int known = ht_model_folder_hash(lineage->parent, hash, &err) == HT_OK;
    if (!known) ht_warn("the parent model's hash is not recorded: %s", err.message);
    return json_pack("{s:s, s:s?}", "path", lineage->parent, "hash", known ? hash : NULL);
}

/* A borrowed value as a new reference; NULL gives null. */
static json_t *or_null(const json_t *value) {
    return value ? json_incref((json_t *)(uintptr_t)value) : json_null();
}

static ht_status write_lineage(const char *folder, const ht_lineage *lineage, ht_error *err) {
    char identity[HT_HASH_LEN], created[32];
    json_t *files = NULL;
    time_t now = time(NULL);
    struct tm utc;
    ht_status status = ht_folder_identity(folder, &files, identity, err);
    if (status != HT_OK) return status;
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    json_t *halter = json_pack("{s:s, s:s?, s:I, s:o, s:o, s:o, s:s, s:s, s:o}", "halter", HALTER_VERSION,
                               "stage", lineage->stage, "round", (json_int_t)lineage->round, "parent",
                               parent_json(lineage), "config", or_null(lineage->config), "data",
                               or_null(lineage->data), "created", created, "hash", identity, "files", files);
    if (!halter) return ht_fail(err, HT_ERR_NOMEM, "cannot allocate the content of \"%s\"", HT_FILE_HALTER);
    return write_json(folder, HT_FILE_HALTER, &halter, err);
}

static ht_status write_files(const char *folder, const ht_llama *model, ht_dtype dtype, const char *tokenizer,
                             const ht_lineage *lineage, ht_error *err) {
    json_t *value = NULL;
    ht_status status = HT_OK;
    HT_TRY(write_weights(folder, model, dtype, err));
    HT_TRY(ht_folder_config_json(&value, &model->config, dtype, err));
    HT_TRY(write_json(folder, HT_FILE_CONFIG, &value, err));
    if (model->config.head == HT_HEAD_LM) {
        HT_TRY(ht_folder_generation_json(&value, &model->config, err));
        HT_TRY(write_json(folder, HT_FILE_GENERATION, &value, err));
    }
    if (tokenizer) HT_TRY(write_tokenizer(folder, &model->config, tokenizer, lineage, err));
    status = write_lineage(folder, lineage, err);
done:
    return status;
}

/* ---- the folder ---- */

static int has(const char *folder, const char *name) {
    char path[HT_PATH_MAX];
    ht_error err = HT_ERROR_INIT;
    return ht_path_join(path, folder, name, &err) == HT_OK && ht_path_exists(path);
}

/* Removes what a save that was cut short has left: weights and temporary files. */
static ht_status sweep(const char *folder, ht_error *err) {
    char path[HT_PATH_MAX], **names = NULL;
    size_t count = 0;
    ht_status status = ht_folder_names(&names, &count, folder, err);
    for (size_t i = 0; status == HT_OK && i < count; i++) {
        int weights =
            strncmp(names[i], WEIGHTS_STEM, sizeof WEIGHTS_STEM - 1) == 0 && strstr(names[i], ".safetensors");
        if (!weights && !ht_name_is_temporary(names[i])) continue;
        status = ht_path_join(path, folder, names[i], err);
        if (status == HT_OK) status = ht_folder_remove(path, err);
    }
    ht_names_free(names, count);
    return status;
}

/* Fills a folder that exists. The mark stands in it from the first file to the last, so that a later save
 * knows whose half-written files these are. */
static ht_status fill(const char *folder, const ht_llama *model, ht_dtype dtype, const char *tokenizer,
                      const ht_lineage *lineage, ht_error *err) {
    static const char *const ours[] = {HT_FILE_CONFIG, HT_FILE_WEIGHTS, HT_FILE_INDEX, HT_FILE_TOKENIZER};
    char mark[HT_PATH_MAX];
    int marked = has(folder, HT_FILE_SAVING), holds = has(folder, HT_FILE_HALTER);
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        holds = holds || (!marked && has(folder, ours[i]));
    if (holds) return ht_fail(err, HT_ERR_USAGE, "\"%s\" holds a model already", folder);
    ht_status status = HT_OK;
    HT_TRY(ht_path_join(mark, folder, HT_FILE_SAVING, err));
    HT_TRY(ht_file_write(mark, "", 0, err));
    HT_TRY(sweep(folder, err));
    HT_TRY(write_files(folder, model, dtype, tokenizer, lineage, err));
    ht_model_folder_unmark(folder);
done:
    return status;
}

void ht_model_folder_unmark(const char *folder) {
    char mark[HT_PATH_MAX];
    ht_error ignored = HT_ERROR_INIT;
    if (ht_path_join(mark, folder, HT_FILE_SAVING, &ignored) == HT_OK && unlink(mark) != 0 && errno != ENOENT)
        ht_warn("cannot remove \"%s\"; the model is complete without that", mark);
}

ht_status ht_model_folder_save(const char *folder, const ht_llama *model, ht_dtype dtype,
                               const char *tokenizer, const ht_lineage *lineage, ht_error *err) {
    char temporary[HT_PATH_MAX] = "";
    ht_status status = HT_OK;
    if (ht_path_exists(folder)) return fill(folder, model, dtype, tokenizer, lineage, err);
    HT_TRY(ht_folder_begin(temporary, folder, err));
    HT_TRY(write_files(temporary, model, dtype, tokenizer, lineage, err));
    HT_TRY(ht_folder_commit(temporary, folder, err));
    temporary[0] = '\0';
done:
    if (temporary[0]) {
        ht_error ignored = HT_ERROR_INIT;
        (void)ht_folder_remove(temporary, &ignored);
    }
    return status;
}
