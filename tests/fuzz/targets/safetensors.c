/* model.safetensors: all that the header says is read, every tensor's bytes too. */
#include <string.h>

#include "core/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

static volatile uint64_t sum; /* of all bytes: so that they are read */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ht_error err = HT_ERROR_INIT;
    ht_safetensors *set;
    fuzz_write("model.safetensors", data, size);
    ht_status status = ht_safetensors_open(&set, fuzz_path("model.safetensors"), &err);
    for (int64_t i = 0; status == HT_OK && i < ht_safetensors_count(set); i++) {
        const ht_safetensors_entry *entry = ht_safetensors_at(set, i);
        if (ht_safetensors_find(set, entry->name) != entry) __builtin_trap();
        for (size_t k = 0; k < entry->bytes; k++)
            sum += entry->data[k];
    }
    ht_safetensors_close(set);
    fuzz_judge(status, &err);
    return 0;
}
