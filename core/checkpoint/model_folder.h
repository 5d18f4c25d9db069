/*
 * model_folder.h: Hugging Face Llama folders in and out, and halter.json beside them.
 *
 * A folder has config.json, model.safetensors (or shards with an index), tokenizer.model,
 * generation_config.json; ours also tokenizer_config.json and halter.json. What is not a Llama 2 shape is
 * refused: another model_type, rope scaling, attention or MLP bias, another activation, quantization, several
 * end ids, a missing, surplus or misshapen tensor, more than one label: HT_ERR_DATA with file, field or
 * tensor, value, and what is allowed.
 *
 * Read as transformers does: model.safetensors before an index; null where it means absent; "rope_theta" or
 * "rope_parameters"; "torch_dtype" and "dtype" alike are not looked at (each tensor says its own). Tensors
 * that may be surplus: "model.layers.N.self_attn.rotary_emb.inv_freq" of old checkpoints; lm_head.weight of a
 * tied model, when it equals the embedding byte for byte (transformers 4 would drop another one, transformers
 * 5 keep it: refused).
 */
#ifndef HT_CHECKPOINT_MODEL_FOLDER_H
#define HT_CHECKPOINT_MODEL_FOLDER_H

#include <jansson.h>

#include "core/base/files.h"
#include "core/model/llama.h"
#include "core/tokenizer/tokenizer.h"

/* Reads and checks config.json (both architectures), with transformers' defaults for absent fields. */
ht_status ht_model_folder_config(const char *folder, ht_llama_config *config, ht_error *err);

/* The same of a folder that must hold a model with this head: HT_ERR_DATA for a reward model where a language model is
 * wanted, and the other way round. */
ht_status ht_model_folder_config_of(const char *folder, ht_head head, ht_llama_config *config, ht_error *err);

/*
 * Loads weights into `model`, already initialised with the folder's config or with one that differs only in
 * its head, max_positions or ids: converted from f32, f16 or bf16 to the model's dtype. Wanting a scalar head
 * from a language model's folder leaves the head as it is (the caller randomizes it) and sets *head_loaded =
 * 0; a language model from a reward model's folder is HT_ERR_DATA. Everything is checked before the first
 * tensor is touched; host memory beyond the model is a few MB.
 */
ht_status ht_model_folder_load(const char *folder, ht_llama *model, int *head_loaded, ht_error *err);

/*
 * Where a model comes from: halter.json. Borrowed strings; NULL where not known.
 *   {"halter": version, "stage", "round", "parent": {"path", "hash"}, "config": resolved, "data": {...},
 * "created"}
 */
typedef struct ht_lineage {
    const char *stage; /* "pretrain", "sft", "reward-helpful", "reward-safe", "ppo" */
    int64_t round;
    const char *parent;   /* folder of the model it started from; its identity hash is read from there */
    const json_t *config; /* resolved configuration */
    const json_t *data;   /* what it was trained on: database, filters, counts, hash */
} ht_lineage;

/*
 * Writes a complete folder through a temporary one (ht_folder_begin): the weights in `dtype`, the tokenizer
 * copied from the file `tokenizer` (NULL: none) with a tokenizer_config.json that carries Llama 2's chat
 * template unless the stage is "pretrain". Replaces nothing: HT_ERR_USAGE when `folder` holds a model
 * already. A folder that exists (training state, metrics) is filled file by file, with halter.json renamed
 * into place last: its presence means complete. Until then ".halter-saving" stands in it: such a folder is
 * not loaded, and a later save begins again. HT_ERR_DATA: a weight that does not fit float16. Shards above 5
 * GB. A parent that cannot be read gives a warning and a null hash.
 */
ht_status ht_model_folder_save(const char *folder, const ht_llama *model, ht_dtype dtype,
                               const char *tokenizer, const ht_lineage *lineage, ht_error *err);

/* Removes the mark of a save that was cut short behind its last file; of a folder without one: does nothing. */
void ht_model_folder_unmark(const char *folder);

/* 1 when the folder holds a complete model (config.json, weights; halter.json when we wrote it). */
int ht_model_folder_complete(const char *folder);

/*
 * Identity of a model: ht_hash of the compact JSON object {file: ht_file_hash}, keys sorted, over config.json
 * and the weight files. Cached in halter.json by save; the cache counts while names, sizes and config.json's
 * content agree. Otherwise reads all weights.
 */
ht_status ht_model_folder_hash(const char *folder, char out[HT_HASH_LEN], ht_error *err);

/* Path of the folder's tokenizer.model; HT_ERR_DATA when absent (naming tokenizer.json-only folders as such).
 */
ht_status ht_model_folder_tokenizer(const char *folder, char path[HT_PATH_MAX], ht_error *err);

/* Opens that tokenizer: HT_ERR_DATA when it has more pieces than `config`, the folder's, has a vocabulary. */
ht_status ht_model_folder_open_tokenizer(const char *folder, const ht_llama_config *config, ht_tokenizer **tokenizer,
                                         ht_error *err);

#endif
