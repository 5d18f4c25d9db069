/*
 * Completions of several ranks: each generates its part, and all get them all.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/generate/generate.h"

/* A completion as it travels: this, then tokens [length], then log-probabilities [length]. */
typedef struct head {
    int64_t length;
    int64_t finish;
} head;

static char *put(char *to, const void *from, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
    return to + bytes;
}

static const char *take(const char *from, void *to, size_t bytes) {
    if (bytes) memcpy(to, from, bytes);
    return from + bytes;
}

static size_t packed_size(const ht_completion *c) {
    return sizeof(head) + (size_t)c->length * (sizeof *c->tokens + sizeof *c->logp);
}

static ht_status pack(const ht_completion *completions, int64_t count, char **data, size_t *bytes, ht_error *err) {
    *bytes = 0;
    for (int64_t i = 0; i < count; i++)
        *bytes += packed_size(&completions[i]);
    ht_status status = ht_calloc(data, *bytes, 1, err);
    if (status != HT_OK) return status;
    char *to = *data;
    for (int64_t i = 0; i < count; i++) {
        const ht_completion *c = &completions[i];
        head h = {c->length, (int64_t)c->finish};
        to = put(to, &h, sizeof h);
        to = put(to, c->tokens, (size_t)c->length * sizeof *c->tokens);
        to = put(to, c->logp, (size_t)c->length * sizeof *c->logp);
    }
    return HT_OK;
}

/* From a completion's packed bytes; *from is set behind them. */
static ht_status unpack(const char **from, ht_completion *c, ht_error *err) {
    ht_status status = HT_OK;
    head h;
    *from = take(*from, &h, sizeof h);
    HT_TRY(ht_calloc(&c->tokens, (size_t)h.length, sizeof *c->tokens, err));
    HT_TRY(ht_calloc(&c->logp, (size_t)h.length, sizeof *c->logp, err));
    c->length = h.length;
    c->finish = (ht_stop_reason)h.finish;
    *from = take(*from, c->tokens, (size_t)h.length * sizeof *c->tokens);
    *from = take(*from, c->logp, (size_t)h.length * sizeof *c->logp);
done:
    return status;
}

ht_status ht_generate_shared(ht_engine *engine, ht_comm *comm, const ht_request *requests, int64_t count,
                             ht_completion *completions, ht_error *err) {
    ht_status status = HT_OK;
    ht_gathered all = {NULL, NULL};
    char *own = NULL;
    size_t bytes = 0;
    int64_t first, end;
    ht_comm_part(comm, count, &first, &end);
    memset(completions, 0, (size_t)count * sizeof *completions);
    HT_TRY(ht_generate(engine, requests + first, end - first, completions + first, NULL, NULL, err));
    if (!comm) return HT_OK;
    HT_TRY(pack(completions + first, end - first, &own, &bytes, err));
    HT_TRY(ht_comm_gather(comm, own, bytes, &all, err));
    const char *from = all.data;
    for (int64_t i = 0; i < count; i++) { /* own ones too: parts follow each other in the order of the ranks */
        if (i >= first && i < end)
            from += packed_size(&completions[i]);
        else
            HT_TRY(unpack(&from, &completions[i], err));
    }
done:
    if (status != HT_OK) ht_completions_free(completions, count);
    ht_gathered_free(&all);
    free(own);
    return status;
}
