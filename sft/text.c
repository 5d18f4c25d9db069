/*
 * Plain text as examples.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/progress.h"
#include "sft/internal.h"

typedef struct reader {
    ht_sft_data *data;
    const ht_data_config *config;
    const ht_tokenizer *tokenizer;
    ht_ids ids;
    int64_t documents, held_out, windows;
} reader;

static int is_held_out(ht_span document, double share) {
    char hash[HT_HASH_LEN], head[17];
    ht_hash(document.data, document.size, hash);
    memcpy(head, hash, 16);
    head[16] = '\0';
    return (double)strtoull(head, NULL, 16) * 0x1p-64 < share;
}

static ht_status add_document(reader *r, ht_span document, ht_error *err) {
    ht_status status = HT_OK;
    int32_t bos = ht_tokenizer_bos(r->tokenizer), eos = ht_tokenizer_eos(r->tokenizer);
    int64_t seq_len = r->config->seq_len, id = r->documents;
    int held_out = is_held_out(document, r->config->holdout);
    ht_sft_set *set = held_out ? &r->data->held_out : &r->data->train;
    r->ids.count = 0;
    HT_TRY(ht_ids_append(&r->ids, &bos, 1, err));
    HT_TRY(ht_tokenizer_encode(r->tokenizer, document.data, document.size, &r->ids, err));
    HT_TRY(ht_ids_append(&r->ids, &eos, 1, err));
    int64_t length = (int64_t)r->ids.count, first = 0;
    for (;;) {
        int64_t n = length - first < seq_len ? length - first : seq_len;
        ht_example window = {.id = id, .tokens = r->ids.data + first, .length = n};
        HT_TRY(ht_sft_set_add(set, &window, 1.0, err));
        r->windows++;
        if (first + n == length) break;
        /* The last token of a window was a target; as the first of the next one it is only looked back at. */
        first += n - 1;
    }
    r->documents++;
    r->held_out += held_out;
done:
    return status;
}

static ht_status read_file(reader *r, const char *path, ht_error *err) {
    ht_status status = HT_OK;
    ht_file_map map = {NULL, 0};
    ht_progress progress;
    HT_TRY(ht_file_map_open(&map, path, err));
    ht_span rest = {(const char *)map.data, map.size};
    ht_progress_start(&progress, path, (int64_t)(map.size >> 10));
    for (;;) {
        ht_span document = ht_document_next(&rest, (ht_documents)r->config->documents);
        if (document.size == 0) break;
        HT_TRY(ht_sft_check_stop(err));
        status = add_document(r, document, err);
        if (status != HT_OK) {
            ht_fail_in(err, "%s: document at byte %zu", path,
                       (size_t)(document.data - (const char *)map.data));
            goto done;
        }
        ht_progress_update(&progress, (int64_t)((map.size - rest.size) >> 10), "KiB");
    }
done:
    ht_file_map_close(&map);
    return status;
}

/* {"text": [{"path", "hash"}, ...], "documents", "windows"} */
static ht_status describe(const reader *r, const ht_strings *paths, ht_error *err) {
    ht_status status = HT_OK;
    json_t *files = json_array();
    for (size_t i = 0; i < paths->count; i++) {
        char hash[HT_HASH_LEN];
        HT_TRY(ht_file_hash(paths->values[i], hash, err));
        json_array_append_new(files, json_pack("{s:s, s:s}", "path", paths->values[i], "hash", hash));
    }
    r->data->lineage =
        json_pack("{s:O, s:I, s:I, s:I}", "text", files, "documents", (json_int_t)r->documents,
                  "documents_held_out", (json_int_t)r->held_out, "windows", (json_int_t)r->windows);
    if (!r->data->lineage) status = ht_fail(err, HT_ERR_NOMEM, "out of memory for the data's description");
done:
    json_decref(files);
    return status;
}

ht_status ht_sft_load_text(ht_sft_data *data, const ht_strings *paths, const ht_data_config *config,
                           const ht_tokenizer *tokenizer, ht_error *err) {
    ht_status status = HT_OK;
    reader r = {.data = data, .config = config, .tokenizer = tokenizer};
    memset(data, 0, sizeof *data);
    for (size_t i = 0; i < paths->count; i++)
        HT_TRY(read_file(&r, paths->values[i], err));
    if (data->train.examples.count == 0) {
        status = ht_fail(err, HT_ERR_DATA, "%s: there is no document to train on%s", paths->values[0],
                         r.documents ? " (all are held out: data.holdout)" : "");
        goto done;
    }
    HT_TRY(describe(&r, paths, err));
    ht_info("%" PRId64 " documents in %" PRId64 " windows of at most %" PRId64 " tokens; %" PRId64
            " documents held out",
            r.documents, r.windows, config->seq_len, r.held_out);
    status = ht_sft_data_finish(data, err);
done:
    ht_ids_release(&r.ids);
    if (status != HT_OK) ht_sft_data_free(data);
    return status;
}
