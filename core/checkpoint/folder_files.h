/*
 * folder_files.h: the files of a model folder, for the files of this module only.
 */
#ifndef HT_CHECKPOINT_FOLDER_FILES_H
#define HT_CHECKPOINT_FOLDER_FILES_H

#include <jansson.h>

#include "core/base/files.h"
#include "core/model/config.h"
#include "core/tensor/dtype.h"

#define HT_FILE_CONFIG           "config.json"
#define HT_FILE_GENERATION       "generation_config.json"
#define HT_FILE_TOKENIZER        "tokenizer.model"
#define HT_FILE_TOKENIZER_CONFIG "tokenizer_config.json"
#define HT_FILE_WEIGHTS          "model.safetensors"
#define HT_FILE_INDEX            "model.safetensors.index.json"
#define HT_FILE_HALTER           "halter.json"
/* Stands in a folder that a save has begun to fill and not finished. */
#define HT_FILE_SAVING ".halter-saving"

/* *out (a new reference) = config.json's content, for transformers 4 and 5. */
ht_status ht_folder_config_json(json_t **out, const ht_llama_config *config, ht_dtype dtype, ht_error *err);

/* *out (a new reference) = generation_config.json's content: the ids, and the sampling of Llama 2's model
 * card. */
ht_status ht_folder_generation_json(json_t **out, const ht_llama_config *config, ht_error *err);

typedef enum ht_chat_template { HT_CHAT_TEMPLATE_NONE, HT_CHAT_TEMPLATE_LLAMA2 } ht_chat_template;

/*
 * *out (a new reference) = tokenizer_config.json's content for the file `tokenizer`, so that transformers
 * gives the ids that Halter trains on. Warns when the tokenizer does not fit the config (ids of BOS and EOS,
 * size).
 */
ht_status ht_folder_tokenizer_json(json_t **out, const char *tokenizer, const ht_llama_config *config,
                                   ht_chat_template chat, ht_error *err);

/* HT_ERR_DATA when a save into the folder was cut short. */
ht_status ht_folder_check_finished(const char *folder, ht_error *err);

/* Path of the weights: the single file before the index, as transformers. HT_ERR_DATA when there are none
 * (naming folders that hold PyTorch files only as such). */
ht_status ht_folder_weights_path(char path[HT_PATH_MAX], const char *folder, ht_error *err);

/* *files (a new reference) = object whose keys are config.json and the weight files; its values are null. */
ht_status ht_folder_model_files(json_t **files, const char *folder, ht_error *err);

/*
 * *files (a new reference) = {file: {"bytes", "hash"}} of config.json and the weight files, *identity = hash
 * over them. Reads all weights.
 */
ht_status ht_folder_identity(const char *folder, json_t **files, char identity[HT_HASH_LEN], ht_error *err);

/* *names (sorted, *count of them) = what the folder holds; released with ht_names_free. None when it does not
 * exist. */
ht_status ht_folder_names(char ***names, size_t *count, const char *folder, ht_error *err);
void ht_names_free(char **names, size_t count);

/* 1 when the name ends in ".tmp-DIGITS": left behind by a save that was cut short. */
int ht_name_is_temporary(const char *name);

#endif
