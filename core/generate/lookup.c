#include "core/generate/lookup.h"

#include <string.h>

int64_t ht_lookup(const int32_t *context, int64_t length, int64_t wanted, int32_t stop_id,
                  int32_t *proposal) {
    for (int64_t n = length <= HT_LOOKUP_NGRAM ? length - 1 : HT_LOOKUP_NGRAM; n >= 1; n--) {
        const int32_t *last = context + length - n;
        /* A match must have a continuation; the last n tokens themselves have none. */
        for (int64_t start = 0; start + n < length; start++) {
            if (memcmp(context + start, last, (size_t)n * sizeof *context) != 0) continue;
            int64_t count = 0;
            for (int64_t i = start + n; i < length && count < wanted && context[i] != stop_id; i++)
                proposal[count++] = context[i];
            return count;
        }
    }
    return 0;
}
