/* model.safetensors.index.json, beside two sound shards. */
#include <string.h>

#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void write_shard(const char *name, const char *header) {
    uint8_t bytes[256];
    uint64_t length = strlen(header);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    memset(bytes + 8 + length, 0, 8);
    fuzz_write(name, bytes, 16 + length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int ready;
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    json_t *files;
    if (!ready) {
        write_shard("a.safetensors", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
        write_shard("b.safetensors", "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
        ready = 1;
    }
    fuzz_write(HT_FILE_INDEX, data, size);
    ht_status status = ht_safetensors_open(&set, fuzz_path(HT_FILE_INDEX), &err);
    ht_safetensors_close(set);
    fuzz_judge(status, &err);
    status = ht_folder_model_files(&files, fuzz_path(""), &err);
    json_decref(files);
    fuzz_judge(status, &err);
    return 0;
}
