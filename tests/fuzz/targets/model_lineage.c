/* halter.json of a model folder: its cached identity is taken only when it fits the files. */
#include <string.h>

#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/model_folder.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int ready;
    ht_error err = HT_ERROR_INIT;
    char hash[HT_HASH_LEN];
    if (!ready) {
        fuzz_write_text(HT_FILE_CONFIG, "{}");
        fuzz_write(HT_FILE_WEIGHTS, "\2\0\0\0\0\0\0\0{}", 10);
        ready = 1;
    }
    fuzz_write(HT_FILE_HALTER, data, size);
    ht_status status = ht_model_folder_hash(fuzz_path(""), hash, &err);
    if (status == HT_OK && strlen(hash) != HT_HASH_LEN - 1) __builtin_trap();
    fuzz_judge(status, &err);
    return 0;
}
