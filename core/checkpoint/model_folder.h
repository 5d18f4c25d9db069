/*
 * model_folder.h: Hugging Face Llama folders in and out, and halter.json beside them.
 *
 * A folder has config.json, model.safetensors (or shards with an index), tokenizer.model, generation_config.json; ours
 * also halter.json. What is not a Llama 2 shape is refused: another model_type, rope scaling, attention or MLP bias,
 * another activation, a missing, surplus or misshapen tensor, more than one label: HT_ERR_DATA with file, field or
 * tensor, value, and what is allowed.
 */
#ifndef HT_CHECKPOINT_MODEL_FOLDER_H
#define HT_CHECKPOINT_MODEL_FOLDER_H

#include <jansson.h>

#include "core/base/files.h"
#include "core/model/llama.h"

/* Reads and checks config.json (both architectures), with transformers' defaults for absent fields. */
ht_status ht_model_folder_config(const char *folder, ht_llama_config *config, ht_error *err);

/*
 * Loads weights into `model`, already initialised with the folder's config or with one that differs only in its head:
 * converted from f32, f16 or bf16 to the model's dtype. Wanting a scalar head from a language model's folder leaves the
 * head as it is (the caller randomizes it) and sets *head_loaded = 0.
 */
ht_status ht_model_folder_load(const char *folder, ht_llama *model, int *head_loaded, ht_error *err);

/*
 * Where a model comes from: halter.json. Borrowed strings; NULL where not known.
 *   {"halter": version, "stage", "round", "parent": {"path", "hash"}, "config": resolved, "data": {...}, "created"}
 */
typedef struct ht_lineage {
    const char *stage;  /* "pretrain", "sft", "reward", "rejection", "ppo" */
    int64_t round;
    const char *parent; /* folder of the model it started from; its identity hash is read from there */
    const json_t *config; /* resolved configuration */
    const json_t *data;   /* what it was trained on: database, filters, counts, hash */
} ht_lineage;

/*
 * Writes a complete folder through a temporary one (ht_folder_begin): the weights in `dtype`, the tokenizer copied
 * from the file `tokenizer` (NULL: none). Replaces nothing: HT_ERR_USAGE when `folder` holds a model already.
 * A folder that exists and holds only training state and metrics (state/, metrics.jsonl) is filled file by file, with
 * halter.json renamed into place last: its presence means complete.
 */
ht_status ht_model_folder_save(const char *folder, const ht_llama *model, ht_dtype dtype, const char *tokenizer,
                               const ht_lineage *lineage, ht_error *err);

/* 1 when the folder holds a complete model (config.json, weights; halter.json when we wrote it). */
int ht_model_folder_complete(const char *folder);

/* Identity of a model: hash over config.json and the weight files' content hashes; cached in halter.json by save. */
ht_status ht_model_folder_hash(const char *folder, char out[HT_HASH_LEN], ht_error *err);

/* Path of the folder's tokenizer.model; HT_ERR_DATA when absent (naming tokenizer.json-only folders as such). */
ht_status ht_model_folder_tokenizer(const char *folder, char path[HT_PATH_MAX], ht_error *err);

#endif
