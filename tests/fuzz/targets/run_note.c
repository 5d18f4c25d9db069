/* run.json: a run's configuration, compared to the one that would go on with it. */
#include "core/base/json.h"
#include "core/config/config.h"
#include "tests/fuzz/fuzz.h"

static const ht_option options[] = {
    {.type = HT_OPTION_INT, .key = "seed", .fallback = "1", .max = 10},
    {.type = HT_OPTION_PATH, .key = "data.path", .properties = HT_OPTION_RESUME_SAFE},
};
static const ht_command command = {.parts = {{options, sizeof options / sizeof *options, 0}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_t *now;
    ht_error err = HT_ERROR_INIT;
    json_t *before;
    if (!now) now = json_pack("{s:i, s:s}", "seed", 1, "data.path", "corpus.txt");
    fuzz_write("run.json", data, size);
    ht_status status = ht_json_read(fuzz_path("run.json"), &before, &err);
    if (status == HT_OK) status = ht_config_check_same(&command, before, now, &err);
    json_decref(before);
    fuzz_judge(status, &err);
    return 0;
}
