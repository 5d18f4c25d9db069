/* state.json of a saved training state. Its checksum is put right first: what is behind it is to be reached.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"
#include "core/checkpoint/train_state.h"
#include "tests/fuzz/fuzz.h"

#define STATE   "state/step-00000001"
#define WEIGHTS "\2\0\0\0\0\0\0\0{}" /* a sound file without tensors */

static void write_sealed(const uint8_t *data, size_t size) {
    char hash[HT_HASH_LEN];
    json_t *root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    json_object_del(root, "checksum");
    char *rest = json_is_object(root) ? json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (rest) {
        ht_hash(rest, strlen(rest), hash);
        json_object_set_new(root, "checksum", json_string(hash));
        free(rest);
        rest = json_dumps(root, JSON_COMPACT);
    }
    fuzz_write(STATE "/state.json", rest ? (const void *)rest : data, rest ? strlen(rest) : size);
    free(rest);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int ready;
    ht_error err = HT_ERROR_INIT;
    json_t *values;
    int64_t step;
    if (!ready) {
        fuzz_must(ht_folder_create(fuzz_path(STATE), &err), &err);
        fuzz_write(STATE "/policy.safetensors", WEIGHTS, sizeof WEIGHTS - 1);
        ready = 1;
    }
    write_sealed(data, size);
    ht_status status = ht_train_state_find(fuzz_path("state"), &step, &values, &err);
    json_decref(values);
    fuzz_judge(status, &err);
    return 0;
}
