/* config.json of a model folder. */
#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/model_folder.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ht_error err = HT_ERROR_INIT;
    ht_llama_config config;
    fuzz_write(HT_FILE_CONFIG, data, size);
    ht_status status = ht_model_folder_config(fuzz_path(""), &config, &err);
    /* what was let through must be fit for the sizes that a model is planned with */
    if (status == HT_OK && ht_llama_parameter_count(&config) <= 0) __builtin_trap();
    fuzz_judge(status, &err);
    return 0;
}
