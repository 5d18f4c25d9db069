/*
 * Models in the database: a row a model folder, linked to its parent's.
 */
#include "core/train/internal.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"

#define GENERATIONS_MAX 64 /* parents followed; a longer chain is a forged one that leads in a circle */

/* "runs/demo/sft/" -> "sft"; "." and ".." and "/" name nothing and are kept as they are. */
static void folder_name(char out[HT_PATH_MAX], const char *folder) {
    size_t end = strlen(folder);
    while (end > 1 && folder[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && folder[start - 1] != '/')
        start--;
    if (start == end) start = 0;
    snprintf(out, HT_PATH_MAX, "%.*s", (int)(end - start), folder + start);
}

static ht_status register_folder(ht_store *store, const char *folder, int64_t parent_id, int generation,
                                 int64_t *id, ht_error *err);

/* *id = the row of the parent that halter.json names; 0 when it is neither in the database nor where it was.
 */
static ht_status find_parent(ht_store *store, const json_t *lineage, int generation, int64_t *id,
                             ht_error *err) {
    const json_t *parent = json_object_get(lineage, "parent");
    const char *path = ht_json_string(parent, "path"), *hash = ht_json_string(parent, "hash");
    char name[HT_PATH_MAX], now[HT_HASH_LEN];
    ht_model_row row;
    int found = 0;
    ht_status status = HT_OK;
    *id = 0;
    if (!path || !hash || generation >= GENERATIONS_MAX) return HT_OK;
    folder_name(name, path);
    HT_TRY(ht_store_find_model(store, name, &row, &found, err));
    if (found && row.hash && strcmp(row.hash, hash) == 0) {
        *id = row.id;
    } else if (ht_model_folder_complete(path)) {
        HT_TRY(ht_model_folder_hash(path, now, err));
        /* Another model may have taken its place. */
        if (strcmp(now, hash) == 0) HT_TRY(register_folder(store, path, 0, generation + 1, id, err));
    }
done:
    return status;
}

static ht_status register_folder(ht_store *store, const char *folder, int64_t parent_id, int generation,
                                 int64_t *id, ht_error *err) {
    ht_status status = HT_OK;
    json_t *lineage = NULL;
    char *config = NULL;
    char name[HT_PATH_MAX], path[HT_PATH_MAX], hash[HT_HASH_LEN], tokenizer_hash[HT_HASH_LEN];
    const char *stage = NULL;
    int64_t round = 0;
    int has_tokenizer = 0;
    *id = 0;
    folder_name(name, folder);
    HT_TRY(ht_model_folder_hash(folder, hash, err));
    HT_TRY(ht_path_join(path, folder, "tokenizer.model", err));
    has_tokenizer = ht_path_exists(path);
    if (has_tokenizer) HT_TRY(ht_file_hash(path, tokenizer_hash, err));
    HT_TRY(ht_path_join(path, folder, "halter.json", err));
    if (ht_path_exists(path)) {
        HT_TRY(ht_json_read(path, &lineage, err));
        stage = ht_json_string(lineage, "stage");
        HT_TRY(ht_json_get_int(lineage, (ht_json_field){path, "round", 0}, 0, INT64_MAX, &round, err));
        if (json_is_object(json_object_get(lineage, "config")))
            HT_TRY(ht_json_text(&config, json_object_get(lineage, "config"), JSON_COMPACT | JSON_PRESERVE_ORDER, err));
        if (parent_id == 0) HT_TRY(find_parent(store, lineage, generation, &parent_id, err));
    }
    HT_TRY(ht_store_add_model(store,
                              &(ht_model_row){.name = name,
                                              .path = folder,
                                              .hash = hash,
                                              .stage = stage ? stage : "base",
                                              .round = round,
                                              .parent_id = parent_id,
                                              .config = config,
                                              .tokenizer_hash = has_tokenizer ? tokenizer_hash : NULL},
                              id, err));
done:
    free(config);
    json_decref(lineage);
    return status;
}

ht_status ht_train_register_child(ht_store *store, const char *folder, int64_t parent_id, int64_t *id,
                                  ht_error *err) {
    return register_folder(store, folder, parent_id, 0, id, err);
}

ht_status ht_train_register_model(ht_store *store, const char *folder, int64_t *id, ht_error *err) {
    return register_folder(store, folder, 0, 0, id, err);
}
