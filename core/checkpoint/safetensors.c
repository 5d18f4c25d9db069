/*
 * Reading safetensors. A file is: the header's length (8 bytes, little-endian), the header (JSON), the
 * tensors' bytes back to back. What the header says is believed only after all of it has been checked.
 */
#include "core/checkpoint/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <jansson.h>

#include "core/base/json.h"
#include "core/base/memory.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensors are read and written as they lie in memory");

#define MAX_HEADER 100000000u /* the safetensors library's limit */
#define METADATA   "__metadata__"

/* Every dtype of the format and its width; those that ht_dtype_from_name does not know are not read. */
static const struct {
    const char *name;
    unsigned bits;
} dtypes[] = {
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
};

typedef struct source {
    char *path;
    ht_file_map map;
    json_t *header; /* owns the entries' names */
} source;

struct ht_safetensors {
    source *sources;
    size_t source_count, source_capacity;
    ht_safetensors_entry *entries;
    size_t count, capacity;
};

/* ---- one tensor of a header ---- */

static ht_status fail_tensor(ht_error *err, const ht_safetensors_entry *entry, const char *text) {
    return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%.200s\": %s", entry->file, entry->name, text);
}

static ht_status parse_dtype(const json_t *info, ht_safetensors_entry *entry, unsigned *bits, ht_error *err) {
    const char *name = ht_json_string(info, "dtype");
    if (!name) return fail_tensor(err, entry, "\"dtype\" is not a string");
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        int known = ht_dtype_from_name(name);
        entry->dtype_name = dtypes[i].name;
        entry->supported = known >= 0;
        entry->dtype = known >= 0 ? (ht_dtype)known : HT_F32;
        *bits = dtypes[i].bits;
        return HT_OK;
    }
    return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%.200s\": dtype \"%.40s\" is not one of the format",
                   entry->file, entry->name, name);
}

/* Shape, and the number of bits it takes. */
static ht_status parse_shape(const json_t *info, ht_safetensors_entry *entry, uint64_t *bits, ht_error *err) {
    const json_t *shape = json_object_get(info, "shape");
    if (!json_is_array(shape)) return fail_tensor(err, entry, "\"shape\" is not an array");
    if (json_array_size(shape) > HT_SAFETENSORS_DIMS)
        return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%.200s\" has %zu dimensions, at most %d are read",
                       entry->file, entry->name, json_array_size(shape), HT_SAFETENSORS_DIMS);
    entry->dims = (int)json_array_size(shape);
    for (int i = 0; i < entry->dims; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size))
            return fail_tensor(err, entry, "\"shape\" holds something else than integers");
        entry->shape[i] = json_integer_value(size);
        if (entry->shape[i] < 0)
            return ht_fail(err, HT_ERR_DATA,
                           "%s: tensor \"%.200s\": size %" PRId64 " in its shape is negative", entry->file,
                           entry->name, entry->shape[i]);
        if (__builtin_mul_overflow(*bits, (uint64_t)entry->shape[i], bits))
            return fail_tensor(err, entry, "the product of its shape overflows 64 bits");
    }
    return HT_OK;
}

/* Appends the tensor `name` to the set after checking it against the `size` bytes of data at `data`. */
static ht_status parse_tensor(ht_safetensors *set, const source *file, const char *name, const json_t *info,
                              const uint8_t *data, size_t size, ht_error *err) {
    ht_safetensors_entry entry = {.name = name, .file = file->path};
    if (!json_is_object(info)) return fail_tensor(err, &entry, "not a JSON object");
    unsigned width = 0;
    ht_status status = parse_dtype(info, &entry, &width, err);
    if (status != HT_OK) return status;
    uint64_t bits = width;
    status = parse_shape(info, &entry, &bits, err);
    if (status != HT_OK) return status;
    const json_t *offsets = json_object_get(info, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return fail_tensor(err, &entry, "\"data_offsets\" is not an array of two integers");
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > size)
        return ht_fail(err, HT_ERR_DATA,
                       "%s: tensor \"%.200s\": data_offsets [%" PRId64 ", %" PRId64
                       "] are not in [0, %zu] in order",
                       entry.file, name, begin, end, size);
    if (bits % 8 || bits / 8 != (uint64_t)(end - begin))
        return ht_fail(err, HT_ERR_DATA,
                       "%s: tensor \"%.200s\": data_offsets give %" PRId64
                       " bytes, shape and dtype %s need %.17g",
                       entry.file, name, end - begin, entry.dtype_name, (double)bits / 8);
    entry.data = data + begin;
    entry.bytes = (size_t)(end - begin);
    status = ht_grow(&set->entries, &set->capacity, set->count + 1, sizeof *set->entries, err);
    if (status == HT_OK) set->entries[set->count++] = entry;
    return status;
}

/* ---- one file ---- */

static int compare_data(const void *a, const void *b) {
    const ht_safetensors_entry *x = a, *y = b;
    uintptr_t begin_x = (uintptr_t)x->data, begin_y = (uintptr_t)y->data;
    if (begin_x != begin_y) return begin_x < begin_y ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ones first */
}

/* The tensors of a file must cover its data from the first byte to the last, each byte once. */
static ht_status check_cover(const char *path, ht_safetensors_entry *entries, size_t count,
                             const uint8_t *data, size_t size, ht_error *err) {
    if (count) qsort(entries, count, sizeof *entries, compare_data);
    const uint8_t *next = data;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].data < next)
            return ht_fail(err, HT_ERR_DATA, "%s: tensors \"%.200s\" and \"%.200s\" overlap", path,
                           entries[i - 1].name, entries[i].name);
        if (entries[i].data > next)
            return ht_fail(err, HT_ERR_DATA, "%s: %td bytes before tensor \"%.200s\" belong to no tensor",
                           path, entries[i].data - next, entries[i].name);
        next = entries[i].data + entries[i].bytes;
    }
    if (next != data + size)
        return ht_fail(err, HT_ERR_DATA, "%s: %td bytes at the end belong to no tensor", path,
                       data + size - next);
    return HT_OK;
}

static ht_status parse_header(source *file, size_t *length, ht_error *err) {
    const ht_file_map *map = &file->map;
    uint64_t announced = 0;
    if (map->size < sizeof announced)
        return ht_fail(err, HT_ERR_DATA, "%s: %zu bytes, a safetensors file has at least 8", file->path,
                       map->size);
    memcpy(&announced, map->data, sizeof announced);
    if (announced > MAX_HEADER)
        return ht_fail(err, HT_ERR_DATA,
                       "%s: header of %" PRIu64 " bytes is above %u: not a safetensors file?", file->path,
                       announced, MAX_HEADER);
    if (announced > map->size - sizeof announced)
        return ht_fail(err, HT_ERR_DATA, "%s: header of %" PRIu64 " bytes in a file of %zu: cut short?",
                       file->path, announced, map->size);
    *length = (size_t)announced;
    const char *text = (const char *)map->data + sizeof announced;
    if (*length == 0 || text[0] != '{')
        return ht_fail(err, HT_ERR_DATA, "%s: the header does not begin with '{'", file->path);
    json_error_t problem;
    ht_status status = ht_json_parse(&file->header, text, *length, &problem, err);
    if (status == HT_ERR_DATA)
        ht_fail(err, status, "%s: byte %d of the header: %s", file->path, problem.position, problem.text);
    else if (status != HT_OK)
        ht_fail_in(err, "%s", file->path);
    return status;
}

/* Maps and checks the file and appends its tensors to the set. */
static ht_status add_file(ht_safetensors *set, const char *path, ht_error *err) {
    size_t length = 0, first = set->count;
    ht_status status =
        ht_grow(&set->sources, &set->source_capacity, set->source_count + 1, sizeof *set->sources, err);
    if (status != HT_OK) return status;
    source *file = &set->sources[set->source_count++];
    HT_TRY(ht_strdup(&file->path, path, err));
    HT_TRY(ht_file_map_open(&file->map, path, err));
    HT_TRY(parse_header(file, &length, err));
    const uint8_t *data = file->map.data + sizeof(uint64_t) + length;
    size_t size = file->map.size - sizeof(uint64_t) - length;
    const char *name;
    json_t *info;
    json_object_foreach(file->header, name, info) {
        if (strcmp(name, METADATA) != 0) HT_TRY(parse_tensor(set, file, name, info, data, size, err));
    }
    size_t added = set->count - first;
    status = check_cover(path, added ? set->entries + first : NULL, added, data, size, err);
done:
    return status;
}

/* ---- sets ---- */

static int compare_name(const void *a, const void *b) {
    return strcmp(((const ht_safetensors_entry *)a)->name, ((const ht_safetensors_entry *)b)->name);
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Maps every shard that weight_map names, in the order of its first mention. */
static ht_status add_shards(ht_safetensors *set, const char *index, const json_t *weight_map, ht_error *err) {
    char folder[HT_PATH_MAX], path[HT_PATH_MAX];
    ht_status status = HT_OK;
    json_t *seen = json_object();
    if (!seen) return ht_fail(err, HT_ERR_NOMEM, "cannot allocate a JSON object");
    HT_TRY(ht_path_join(folder, "", index, err));
    size_t folder_length = (size_t)(file_name(folder) - folder);
    folder[folder_length] = '\0';
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)weight_map, tensor, value) {
        const char *shard = json_string_value(value);
        if (!ht_name_is_plain(shard)) {
            status = ht_fail(err, HT_ERR_DATA,
                             "%s: \"weight_map\": shard \"%.200s\" of \"%.200s\" is no plain file name",
                             index, shard ? shard : "(not a string)", tensor);
            goto done;
        }
        if (json_object_get(seen, shard)) continue;
        if (json_object_set_new(seen, shard, json_true()) != 0) {
            status = ht_fail(err, HT_ERR_NOMEM, "cannot grow a JSON object");
            goto done;
        }
        HT_TRY(ht_path_join(path, folder, shard, err));
        status = add_file(set, path, err);
        if (status != HT_OK) {
            ht_fail_in(err, "%s", index);
            goto done;
        }
    }
done:
    json_decref(seen);
    return status;
}

/* Index and shards must name the same tensors, in the same files. */
static ht_status check_index(const ht_safetensors *set, const char *index, const json_t *weight_map,
                             ht_error *err) {
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)weight_map, tensor, value) {
        const ht_safetensors_entry *entry = ht_safetensors_find(set, tensor);
        if (!entry || strcmp(file_name(entry->file), json_string_value(value)) != 0)
            return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%.200s\" is missing in \"%s\"", index, tensor,
                           json_string_value(value));
    }
    for (size_t i = 0; i < set->count; i++)
        if (!json_object_get(weight_map, set->entries[i].name))
            return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%.200s\" of \"%s\" is not in \"weight_map\"",
                           index, set->entries[i].name, file_name(set->entries[i].file));
    return HT_OK;
}

static ht_status sort_entries(ht_safetensors *set, ht_error *err) {
    if (set->count) qsort(set->entries, set->count, sizeof *set->entries, compare_name);
    for (size_t i = 1; i < set->count; i++)
        if (strcmp(set->entries[i - 1].name, set->entries[i].name) == 0)
            return ht_fail(err, HT_ERR_DATA, "tensor \"%.200s\" is in both \"%s\" and \"%s\"",
                           set->entries[i].name, set->entries[i - 1].file, set->entries[i].file);
    return HT_OK;
}

ht_status ht_safetensors_open(ht_safetensors **set, const char *path, ht_error *err) {
    static const char suffix[] = ".index.json";
    json_t *index = NULL;
    ht_safetensors *opened = NULL;
    size_t length = strlen(path), end = sizeof suffix - 1;
    ht_status status = ht_calloc(&opened, 1, sizeof *opened, err);
    *set = NULL;
    if (status != HT_OK) return status;
    if (length > end && strcmp(path + length - end, suffix) == 0) {
        HT_TRY(ht_json_read(path, &index, err));
        const json_t *weight_map = json_object_get(index, "weight_map");
        if (!json_is_object(weight_map)) {
            status = ht_fail(err, HT_ERR_DATA, "%s: \"weight_map\" is missing or not an object", path);
            goto done;
        }
        HT_TRY(add_shards(opened, path, weight_map, err));
        HT_TRY(sort_entries(opened, err));
        HT_TRY(check_index(opened, path, weight_map, err));
    } else {
        HT_TRY(add_file(opened, path, err));
        HT_TRY(sort_entries(opened, err));
    }
    *set = opened;
    opened = NULL;
done:
    json_decref(index);
    ht_safetensors_close(opened);
    return status;
}

void ht_safetensors_close(ht_safetensors *set) {
    if (!set) return;
    for (size_t i = 0; i < set->source_count; i++) {
        json_decref(set->sources[i].header);
        ht_file_map_close(&set->sources[i].map);
        free(set->sources[i].path);
    }
    free(set->sources);
    free(set->entries);
    free(set);
}

int64_t ht_safetensors_count(const ht_safetensors *set) {
    return (int64_t)set->count;
}

const ht_safetensors_entry *ht_safetensors_at(const ht_safetensors *set, int64_t index) {
    return &set->entries[index];
}

const ht_safetensors_entry *ht_safetensors_find(const ht_safetensors *set, const char *name) {
    ht_safetensors_entry key = {.name = name};
    return set->count ? bsearch(&key, set->entries, set->count, sizeof key, compare_name) : NULL;
}

/* Advice only, on the whole pages inside the entry: a refusal changes nothing. */
static void advise(const ht_safetensors_entry *entry, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)entry->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)entry->data + entry->bytes) / page * page;
    if (end > begin) (void)madvise((void *)begin, end - begin, advice);
}

void ht_safetensors_expect(const ht_safetensors_entry *entry) {
    advise(entry, MADV_WILLNEED);
}

void ht_safetensors_forget(const ht_safetensors_entry *entry) {
    advise(entry, MADV_DONTNEED);
}
