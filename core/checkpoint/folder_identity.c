/*
 * Which model a folder holds: a hash over config.json and the weights, so that lineage survives moves and
 * copies.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/json.h"
#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/model_folder.h"

static ht_status fail_memory(ht_error *err) {
    return ht_fail(err, HT_ERR_NOMEM, "cannot allocate a JSON value");
}

ht_status ht_folder_model_files(json_t **files, const char *folder, ht_error *err) {
    char path[HT_PATH_MAX];
    json_t *index = NULL, *list = json_object(), *shard;
    const char *tensor;
    ht_status status = HT_OK;
    *files = NULL;
    if (json_object_set_new(list, HT_FILE_CONFIG, json_null()) != 0) HT_TRY(fail_memory(err));
    HT_TRY(ht_folder_weights_path(path, folder, err));
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (strcmp(name, HT_FILE_INDEX) != 0) {
        if (json_object_set_new(list, name, json_null()) != 0) status = fail_memory(err);
    } else {
        HT_TRY(ht_json_read(path, &index, err));
        json_object_foreach(json_object_get(index, "weight_map"), tensor, shard) {
            const char *file = json_string_value(shard);
            if (!ht_name_is_plain(file))
                status =
                    ht_fail(err, HT_ERR_DATA, "%s: shard of \"%.200s\" is no plain file name", path, tensor);
            else if (json_object_set_new(list, file, json_null()) != 0)
                status = fail_memory(err);
            if (status != HT_OK) goto done;
        }
    }
    if (status == HT_OK) {
        *files = list;
        list = NULL;
    }
done:
    json_decref(index);
    json_decref(list);
    return status;
}

/* The identity: hash of the compact JSON object {file: hash of its content}, keys sorted. */
static ht_status combine(const json_t *files, char identity[HT_HASH_LEN], ht_error *err) {
    const char *name;
    json_t *value;
    json_t *hashes = json_object();
    json_object_foreach((json_t *)(uintptr_t)files, name, value) {
        json_object_set(hashes, name, json_object_get(value, "hash"));
    }
    char *text;
    ht_status status = ht_json_text(&text, hashes, JSON_COMPACT | JSON_SORT_KEYS, err);
    json_decref(hashes);
    if (status != HT_OK) return status;
    ht_hash(text, strlen(text), identity);
    free(text);
    return HT_OK;
}

ht_status ht_folder_identity(const char *folder, json_t **files, char identity[HT_HASH_LEN], ht_error *err) {
    char path[HT_PATH_MAX], hash[HT_HASH_LEN];
    json_t *list = NULL, *found = json_object(), *value;
    const char *name;
    struct stat info;
    ht_status status = HT_OK;
    *files = NULL;
    identity[0] = '\0';
    HT_TRY(ht_folder_model_files(&list, folder, err));
    json_object_foreach(list, name, value) {
        HT_TRY(ht_path_join(path, folder, name, err));
        HT_TRY(ht_file_hash(path, hash, err));
        json_int_t bytes = stat(path, &info) == 0 ? (json_int_t)info.st_size : -1;
        if (json_object_set_new(found, name, json_pack("{s:I, s:s}", "bytes", bytes, "hash", hash)) != 0) {
            status = fail_memory(err);
            goto done;
        }
    }
    HT_TRY(combine(found, identity, err));
    *files = found;
    found = NULL;
done:
    json_decref(list);
    json_decref(found);
    return status;
}

/* 1 when halter.json's "files" are those that the folder has now: names, sizes and the content of
 * config.json. */
static int cache_holds(const char *folder, const json_t *cached, ht_error *err) {
    char path[HT_PATH_MAX], hash[HT_HASH_LEN];
    json_t *list = NULL, *value;
    const char *name;
    struct stat info;
    int holds = ht_folder_model_files(&list, folder, err) == HT_OK &&
                json_object_size(list) == json_object_size(cached);
    json_object_foreach(list, name, value) {
        const json_t *entry = json_object_get(cached, name);
        holds = holds && ht_path_join(path, folder, name, err) == HT_OK && stat(path, &info) == 0 &&
                json_is_integer(json_object_get(entry, "bytes")) &&
                json_integer_value(json_object_get(entry, "bytes")) == (json_int_t)info.st_size;
        if (holds && strcmp(name, HT_FILE_CONFIG) == 0) {
            const char *noted = ht_json_string(entry, "hash");
            holds = noted && ht_file_hash(path, hash, err) == HT_OK && strcmp(noted, hash) == 0;
        }
    }
    json_decref(list);
    return holds;
}

ht_status ht_model_folder_hash(const char *folder, char out[HT_HASH_LEN], ht_error *err) {
    char path[HT_PATH_MAX];
    json_t *halter = NULL, *files = NULL;
    ht_status status = HT_OK;
    out[0] = '\0';
    HT_TRY(ht_folder_check_finished(folder, err));
    HT_TRY(ht_path_join(path, folder, HT_FILE_HALTER, err));
    if (ht_path_exists(path)) {
        HT_TRY(ht_json_read(path, &halter, err));
        const char *hash = ht_json_string(halter, "hash");
        if (hash && strlen(hash) == HT_HASH_LEN - 1 &&
            cache_holds(folder, json_object_get(halter, "files"), err)) {
            memcpy(out, hash, HT_HASH_LEN);
            goto done;
        }
        if (err->status != HT_OK) {
            status = err->status;
            goto done;
        }
    }
    status = ht_folder_identity(folder, &files, out, err);
done:
    json_decref(halter);
    json_decref(files);
    return status;
}

int ht_model_folder_complete(const char *folder) {
    char path[HT_PATH_MAX];
    ht_error err = HT_ERROR_INIT;
    json_t *files = NULL, *value;
    const char *name;
    int complete = ht_folder_check_finished(folder, &err) == HT_OK &&
                   ht_folder_model_files(&files, folder, &err) == HT_OK;
    json_object_foreach(files, name, value) {
        (void)value;
        complete = complete && ht_path_join(path, folder, name, &err) == HT_OK && ht_path_exists(path);
    }
    json_decref(files);
    return complete;
}
