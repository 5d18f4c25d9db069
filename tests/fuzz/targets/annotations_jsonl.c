/* A JSON-lines file of annotations. */
#include "tests/fuzz/annotations.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_annotations(HT_ROWS_JSONL, data, size);
}
