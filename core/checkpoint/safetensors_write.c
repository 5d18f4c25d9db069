#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/base/json.h"
#include "core/base/memory.h"
#include "core/checkpoint/safetensors.h"

static ht_status fail_memory(ht_error *err) {
    return ht_fail(err, HT_ERR_NOMEM, "cannot allocate a JSON value");
}

static size_t item_bytes(const ht_safetensors_item *item) {
    size_t bytes = ht_dtype_size(item->dtype);
    for (int i = 0; i < item->dims; i++)
        bytes *= (size_t)item->shape[i];
    return bytes;
}

/* Adds the item, whose bytes begin at `offset` of the data, to a header. */
static ht_status describe(json_t *header, const ht_safetensors_item *item, size_t offset, ht_error *err) {
    if (json_object_get(header, item->name))
        return ht_fail(err, HT_ERR_USAGE, "two tensors are named \"%.200s\"", item->name);
    json_t *shape = json_array();
    for (int i = 0; i < item->dims; i++)
        json_array_append_new(shape, json_integer(item->shape[i]));
    json_t *info =
        json_pack("{s:s, s:o, s:[I,I]}", "dtype", ht_dtype_safetensors_name(item->dtype), "shape", shape,
                  "data_offsets", (json_int_t)offset, (json_int_t)(offset + item_bytes(item)));
    if (!info || json_object_set_new(header, item->name, info) != 0) return fail_memory(err);
    return HT_OK;
}

/* Length and header, padded with spaces so that the data begin at a multiple of 8. */
static ht_status write_header(FILE *stream, const ht_safetensors_item *items, int64_t count, ht_error *err) {
    ht_status status = HT_OK;
    char *text = NULL;
    size_t offset = 0;
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    if (!header) return fail_memory(err);
    for (int64_t i = 0; i < count; i++) {
        HT_TRY(describe(header, &items[i], offset, err));
        offset += item_bytes(&items[i]);
    }
    HT_TRY(ht_json_text(&text, header, JSON_COMPACT, err));
    size_t used = strlen(text), padding = (8 - used % 8) % 8;
    uint64_t length = used + padding;
    /* Errors stay in the stream and are seen at commit. */
    fwrite(&length, sizeof length, 1, stream);
    fwrite(text, 1, used, stream);
    fwrite("       ", 1, padding, stream);
done:
    free(text);
    json_decref(header);
    return status;
}

static ht_status write_item(FILE *stream, const char *path, const ht_safetensors_item *item, char *chunk,
                            ht_error *err) {
    size_t total = item_bytes(item);
    for (size_t first = 0; first < total; first += HT_SAFETENSORS_CHUNK) {
        size_t bytes = total - first < HT_SAFETENSORS_CHUNK ? total - first : HT_SAFETENSORS_CHUNK;
        ht_status status = item->read(item->context, chunk, first, bytes, err);
        if (status != HT_OK) return status;
        /* A full disk is not worth reading the rest of the model for. */
        if (fwrite(chunk, 1, bytes, stream) != bytes)
            return ht_fail(err, HT_ERR_IO, "cannot write \"%s\": %s", path, strerror(errno));
    }
    return HT_OK;
}

static ht_status write_file(const char *path, const ht_safetensors_item *items, int64_t count,
                            ht_error *err) {
    ht_file_writer writer;
    char *chunk = NULL;
    ht_status status = ht_file_create(&writer, path, err);
    if (status != HT_OK) return status;
    HT_TRY(ht_calloc(&chunk, HT_SAFETENSORS_CHUNK, 1, err));
    HT_TRY(write_header(writer.stream, items, count, err));
    for (int64_t i = 0; i < count; i++)
        HT_TRY(write_item(writer.stream, path, &items[i], chunk, err));
    HT_TRY(ht_file_commit(&writer, err));
done:
    free(chunk);
    ht_file_abandon(&writer);
    return status;
}

/* ends[i] = index behind the last item of shard i; returns the number of shards. `ends` holds `count`
 * elements. */
static int64_t plan_shards(const ht_safetensors_item *items, int64_t count, size_t max_shard, int64_t *ends) {
    int64_t shards = 0;
    size_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        size_t bytes = item_bytes(&items[i]);
        if (max_shard && used > 0 && bytes > max_shard - (used < max_shard ? used : max_shard)) {
            ends[shards++] = i;
            used = 0;
        }
        used += bytes;
    }
    ends[shards++] = count;
    return shards;
}

static ht_status write_shards(const char *folder, const char *stem, const ht_safetensors_item *items,
                              const int64_t *ends, int64_t shards, ht_error *err) {
    char name[320], path[HT_PATH_MAX];
    json_int_t total = 0;
    ht_status status = HT_OK;
    json_t *weight_map = json_object(), *index = NULL;
    if (!weight_map) return fail_memory(err);
    for (int64_t shard = 0, first = 0; shard < shards; first = ends[shard++]) {
        snprintf(name, sizeof name, "%.200s-%05" PRId64 "-of-%05" PRId64 ".safetensors", stem, shard + 1,
                 shards);
        for (int64_t i = first; i < ends[shard]; i++) {
            if (json_object_get(weight_map, items[i].name)) {
                status = ht_fail(err, HT_ERR_USAGE, "two tensors are named \"%.200s\"", items[i].name);
                goto done;
            }
            total += (json_int_t)item_bytes(&items[i]);
            if (json_object_set_new(weight_map, items[i].name, json_string(name)) != 0) {
                status = fail_memory(err);
                goto done;
            }
        }
        HT_TRY(ht_path_join(path, folder, name, err));
        HT_TRY(write_file(path, items + first, ends[shard] - first, err));
    }
    index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", total, "weight_map", weight_map);
    if (!index) {
        status = fail_memory(err);
        goto done;
    }
    snprintf(name, sizeof name, "%.200s.safetensors.index.json", stem);
    HT_TRY(ht_path_join(path, folder, name, err));
    HT_TRY(ht_json_write(path, index, err));
done:
    json_decref(weight_map);
    json_decref(index);
    return status;
}

ht_status ht_safetensors_write(const char *folder, const char *stem, const ht_safetensors_item *items,
                               int64_t count, size_t max_shard, ht_error *err) {
    char name[320], path[HT_PATH_MAX];
    int64_t *ends = NULL;
    ht_status status = ht_calloc(&ends, (size_t)count + 1, sizeof *ends, err);
    if (status != HT_OK) return status;
    int64_t shards = plan_shards(items, count, max_shard, ends);
    if (shards > 1) {
        status = write_shards(folder, stem, items, ends, shards, err);
    } else {
        snprintf(name, sizeof name, "%.200s.safetensors", stem);
        HT_TRY(ht_path_join(path, folder, name, err));
        status = write_file(path, items, count, err);
    }
done:
    free(ends);
    return status;
}
