#include "core/checkpoint/train_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/files.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/safetensors.h"

#define STATE_FILE   "state.json"
#define STATE_FORMAT 1
#define STAGED       ".next" /* suffix of a state that is about to replace another of its step */

static ht_status fail_memory(ht_error *err) {
    return ht_fail(err, HT_ERR_NOMEM, "cannot allocate a JSON value");
}

/* ---- names ---- */

static ht_status step_path(char out[HT_PATH_MAX], const char *folder, int64_t step, const char *suffix,
                           ht_error *err) {
    char name[64];
    snprintf(name, sizeof name, "step-%08" PRId64 "%s", step, suffix);
    return ht_path_join(out, folder, name, err);
}

/* Step of "step-NNNNNNNN", -1 for any other name. */
static int64_t step_of(const char *name) {
    int64_t step = -1;
    char again[64];
    if (sscanf(name, "step-%18" SCNd64, &step) != 1 || step < 0) return -1;
    snprintf(again, sizeof again, "step-%08" PRId64, step);
    return strcmp(name, again) == 0 ? step : -1;
}

/* Length of the model's name in a part's "MODEL.KIND". */
static size_t model_length(const ht_state_part *part) {
    return (size_t)(strrchr(part->name, '.') - part->name);
}

static int same_model(const ht_state_part *a, const ht_state_part *b) {
    return model_length(a) == model_length(b) && strncmp(a->name, b->name, model_length(a)) == 0;
}

/* 1 when no part before `index` is of its model. */
static int leads(const ht_state_part *parts, int64_t index) {
    for (int64_t i = 0; i < index; i++)
        if (same_model(&parts[i], &parts[index])) return 0;
    return 1;
}

static ht_status part_path(char out[HT_PATH_MAX], const char *folder, const ht_state_part *part,
                           ht_error *err) {
    char name[160];
    snprintf(name, sizeof name, "%.*s.safetensors", (int)model_length(part), part->name);
    return ht_path_join(out, folder, name, err);
}

static void tensor_name(char out[192], const ht_state_part *part, int64_t index) {
    snprintf(out, 192, "%.100s.%s", part->name + model_length(part) + 1,
             part->params->layout->params[index].name);
}

static ht_status check_parts(const ht_state_part *parts, int64_t count, ht_error *err) {
    for (int64_t i = 0; i < count; i++) {
        const char *dot = strrchr(parts[i].name, '.');
        if (!dot || dot == parts[i].name || !dot[1] || strchr(parts[i].name, '/') ||
            strlen(parts[i].name) > 100)
            return ht_fail(err, HT_ERR_USAGE, "state part \"%.100s\" is not named MODEL.KIND", parts[i].name);
    }
    return HT_OK;
}

/* ---- saving ---- */

typedef struct state_source {
    ht_backend *be;
    const char *data;
} state_source;

static ht_status read_state(void *context, void *host, size_t first_byte, size_t bytes, ht_error *err) {
    const state_source *source = context;
    return ht_download(source->be, host, source->data + first_byte, bytes, err);
}

/* Writes the file of one model: all parts of the model of parts[lead]. */
static ht_status write_model(const char *folder, const ht_state_part *parts, int64_t count, int64_t lead,
                             ht_backend *be, ht_error *err) {
    ht_safetensors_item *items = NULL;
    state_source *sources = NULL;
    char(*names)[192] = NULL;
    int64_t total = 0, used = 0;
    ht_status status = HT_OK;
    for (int64_t p = lead; p < count; p++)
        if (same_model(&parts[p], &parts[lead])) total += parts[p].params->layout->count;
    HT_TRY(ht_calloc(&items, (size_t)total, sizeof *items, err));
    HT_TRY(ht_calloc(&sources, (size_t)total, sizeof *sources, err));
    HT_TRY(ht_calloc(&names, (size_t)total, sizeof *names, err));
    for (int64_t p = lead; p < count; p++) {
        if (!same_model(&parts[p], &parts[lead])) continue;
        for (int64_t i = 0; i < parts[p].params->layout->count; i++, used++) {
            ht_tensor tensor = ht_params_tensor(parts[p].params, i);
            tensor_name(names[used], &parts[p], i);
            sources[used] = (state_source){be, tensor.data};
            items[used] = (ht_safetensors_item){.name = names[used],
                                                .dtype = tensor.dtype,
                                                .dims = 2,
                                                .shape = {tensor.rows, tensor.cols},
                                                .read = read_state,
                                                .context = &sources[used]};
        }
    }
    char stem[128];
    snprintf(stem, sizeof stem, "%.*s", (int)model_length(&parts[lead]), parts[lead].name);
    status = ht_safetensors_write(folder, stem, items, total, 0, err);
done:
    free(names);
    free(sources);
    free(items);
    return status;
}

/* Checksum of state.json: hash of its content without the checksum, in one canonical form. */
static ht_status checksum(const json_t *root, char out[HT_HASH_LEN], ht_error *err) {
    json_t *rest = json_copy((json_t *)(uintptr_t)root);
    if (rest) json_object_del(rest, "checksum");
    char *text;
    ht_status status = ht_json_text(&text, rest, JSON_COMPACT | JSON_SORT_KEYS, err);
    json_decref(rest);
    if (status != HT_OK) return status;
    ht_hash(text, strlen(text), out);
    free(text);
    return HT_OK;
}

static ht_status write_state_file(const char *folder, int64_t step, json_t *values,
                                  const ht_state_part *parts, int64_t count, ht_error *err) {
    char path[HT_PATH_MAX], hash[HT_HASH_LEN];
    struct stat info;
    json_t *files = json_object();
    json_t *root = json_pack("{s:i, s:I, s:O, s:o}", "format", STATE_FORMAT, "step", (json_int_t)step,
                             "values", values, "files", files);
    if (!root) return fail_memory(err);
    ht_status status = HT_OK;
    for (int64_t i = 0; i < count; i++) {
        if (!leads(parts, i)) continue;
        HT_TRY(part_path(path, folder, &parts[i], err));
        HT_TRY(ht_file_hash(path, hash, err));
        json_int_t bytes = stat(path, &info) == 0 ? (json_int_t)info.st_size : -1;
        if (json_object_set_new(files, strrchr(path, '/') + 1,
                                json_pack("{s:I, s:s}", "bytes", bytes, "hash", hash)))
            HT_TRY(fail_memory(err));
    }
    HT_TRY(checksum(root, hash, err));
    if (json_object_set_new(root, "checksum", json_string(hash)) != 0) HT_TRY(fail_memory(err));
    HT_TRY(ht_path_join(path, folder, STATE_FILE, err));
    HT_TRY(ht_json_write(path, root, err));
done:
    json_decref(root);
    return status;
}

/* Puts the staged state in the target's place; a sound state of that step exists at every moment where the
 * file system can exchange two names. */
static ht_status replace(const char *staged, const char *target, ht_error *err) {
    if (renameat2(AT_FDCWD, staged, AT_FDCWD, target, RENAME_EXCHANGE) == 0)
        return ht_folder_remove(staged, err);
    ht_status status = ht_folder_remove(target, err);
    if (status == HT_OK && rename(staged, target) != 0)
        status =
            ht_fail(err, HT_ERR_IO, "cannot rename \"%s\" to \"%s\": %s", staged, target, strerror(errno));
    return status;
}

/* Removes left-overs, later steps, and all but the newest keep_last. */
static ht_status prune(const char *folder, int64_t newest, int64_t keep_last, ht_error *err) {
    char path[HT_PATH_MAX], **names = NULL;
    size_t count = 0;
    int64_t kept = 0;
    ht_status status = ht_folder_names(&names, &count, folder, err);
    /* Names sort as their steps do: all have 8 digits. */
    for (size_t i = count; status == HT_OK && i-- > 0;) {
        int64_t step = step_of(names[i]);
        size_t length = strlen(names[i]), end = sizeof STAGED - 1;
        int staged = length > end && strcmp(names[i] + length - end, STAGED) == 0;
        int ours = strncmp(names[i], "step-", 5) == 0;
        if (!ours || (step < 0 && !staged && !ht_name_is_temporary(names[i]))) continue;
        if (step > newest)
            ht_warn("removing \"%s/%s\": step %" PRId64 " was saved after an earlier state was resumed",
                    folder, names[i], newest);
        if (step >= 0 && step <= newest && kept++ < keep_last) continue;
        status = ht_path_join(path, folder, names[i], err);
        if (status == HT_OK) status = ht_folder_remove(path, err);
    }
    ht_names_free(names, count);
    return status;
}

ht_status ht_train_state_save(const char *folder, int64_t step, json_t *values, const ht_state_part *parts,
                              int64_t part_count, ht_backend *be, int64_t keep_last, ht_error *err) {
    char target[HT_PATH_MAX], staged[HT_PATH_MAX], temporary[HT_PATH_MAX] = "";
    ht_status status = HT_OK;
    if (step < 0 || step > 99999999 || keep_last < 1)
        return ht_fail(err, HT_ERR_USAGE,
                       "training state of step %" PRId64 " (0 to 99999999), keeping %" PRId64 " (at least 1)",
                       step, keep_last);
    HT_TRY(check_parts(parts, part_count, err));
    HT_TRY(step_path(target, folder, step, "", err));
    HT_TRY(step_path(staged, folder, step, ht_path_exists(target) ? STAGED : "", err));
    int replaces = strcmp(staged, target) != 0;
    if (replaces) HT_TRY(ht_folder_remove(staged, err));
    HT_TRY(ht_folder_begin(temporary, staged, err));
    for (int64_t i = 0; i < part_count; i++)
        if (leads(parts, i)) HT_TRY(write_model(temporary, parts, part_count, i, be, err));
    HT_TRY(write_state_file(temporary, step, values, parts, part_count, err));
    HT_TRY(ht_folder_commit(temporary, staged, err));
    temporary[0] = '\0';
    if (replaces) HT_TRY(replace(staged, target, err));
    status = prune(folder, step, keep_last, err);
done:
    if (temporary[0]) {
        ht_error ignored = HT_ERROR_INIT;
        (void)ht_folder_remove(temporary, &ignored);
    }
    return status;
}

/* ---- finding ---- */

static ht_status check_file(const char *folder, const char *name, const json_t *noted, ht_error *err) {
    char path[HT_PATH_MAX], hash[HT_HASH_LEN];
    const char *wanted = ht_json_string(noted, "hash");
    if (!wanted || !ht_name_is_plain(name))
        return ht_fail(err, HT_ERR_DATA, "%s: \"files\" is malformed", folder);
    ht_status status = ht_path_join(path, folder, name, err);
    if (status == HT_OK) status = ht_file_hash(path, hash, err);
    if (status == HT_OK && strcmp(hash, wanted) != 0)
        status = ht_fail(err, HT_ERR_DATA, "%s: checksum %s, but %s when it was saved", path, hash, wanted);
    return status;
}

/* Checks the state in `folder` from end to end; *values is a new reference. */
static ht_status check_state(const char *folder, int64_t step, json_t **values, ht_error *err) {
    char path[HT_PATH_MAX], hash[HT_HASH_LEN];
    json_t *root = NULL, *noted;
    const char *name;
    int64_t number = -1;
    ht_status status = HT_OK;
    HT_TRY(ht_path_join(path, folder, STATE_FILE, err));
    HT_TRY(ht_json_read(path, &root, err));
    HT_TRY(
        ht_json_get_int(root, (ht_json_field){path, "format", 1}, STATE_FORMAT, STATE_FORMAT, &number, err));
    HT_TRY(ht_json_get_int(root, (ht_json_field){path, "step", 1}, step, step, &number, err));
    const char *wanted = ht_json_string(root, "checksum");
    HT_TRY(checksum(root, hash, err));
    if (!wanted || strcmp(hash, wanted) != 0) {
        status = ht_fail(err, HT_ERR_DATA, "%s: checksum %s, but %s when it was saved", path, hash,
                         wanted ? wanted : "none");
        goto done;
    }
    json_object_foreach(json_object_get(root, "files"), name, noted) {
        HT_TRY(check_file(folder, name, noted, err));
    }
    *values = json_incref(json_object_get(root, "values"));
done:
    json_decref(root);
    return status;
}

ht_status ht_train_state_find(const char *folder, int64_t *step, json_t **values, ht_error *err) {
    char path[HT_PATH_MAX], **names = NULL;
    size_t count = 0, damaged = 0;
    *step = -1;
    *values = NULL;
    ht_status status = ht_folder_names(&names, &count, folder, err);
    for (size_t i = count; status == HT_OK && *step < 0 && i-- > 0;) {
        ht_error problem = HT_ERROR_INIT;
        int64_t candidate = step_of(names[i]);
        if (candidate < 0) continue;
        status = ht_path_join(path, folder, names[i], err);
        if (status != HT_OK) break;
        ht_status found = check_state(path, candidate, values, &problem);
        if (found == HT_OK) {
            *step = candidate;
        } else if (found == HT_ERR_NOMEM) {
            status = ht_fail(err, found, "%s", problem.message);
        } else {
            damaged++;
            ht_warn("training state \"%s\" is damaged: %s", path, problem.message);
        }
    }
    if (status == HT_OK && *step < 0 && damaged)
        status = ht_fail(err, HT_ERR_DATA, "\"%s\": all %zu training states are damaged", folder, damaged);
    ht_names_free(names, count);
    return status;
}

/* ---- loading ---- */

/* Opens the file of every model and checks it against the parts; sets[i] belongs to the part that leads its
 * model. */
static ht_status open_models(const char *folder, const ht_state_part *parts, int64_t count,
                             ht_safetensors **sets, ht_error *err) {
    char path[HT_PATH_MAX], name[192];
    ht_status status = HT_OK;
    for (int64_t lead = 0; lead < count; lead++) {
        if (!leads(parts, lead)) continue;
        int64_t total = 0;
        HT_TRY(part_path(path, folder, &parts[lead], err));
        HT_TRY(ht_safetensors_open(&sets[lead], path, err));
        for (int64_t p = lead; p < count; p++) {
            if (!same_model(&parts[p], &parts[lead])) continue;
            const ht_layout *layout = parts[p].params->layout;
            ht_dtype dtype = parts[p].params->dtype;
            for (int64_t i = 0; i < layout->count; i++, total++) {
                const ht_param *param = &layout->params[i];
                tensor_name(name, &parts[p], i);
                const ht_safetensors_entry *entry = ht_safetensors_find(sets[lead], name);
                if (!entry) return ht_fail(err, HT_ERR_DATA, "%s: tensor \"%s\" is missing", path, name);
                if (!entry->supported || entry->dtype != dtype || entry->dims != 2 ||
                    entry->shape[0] != param->rows || entry->shape[1] != param->cols)
                    return ht_fail(err, HT_ERR_DATA,
                                   "%s: tensor \"%s\" is not %s [%" PRId64 ",%" PRId64
                                   "], as this model needs",
                                   path, name, ht_dtype_safetensors_name(dtype), param->rows, param->cols);
            }
        }
        if (ht_safetensors_count(sets[lead]) != total)
            return ht_fail(err, HT_ERR_DATA, "%s: %" PRId64 " tensors, this run has %" PRId64, path,
                           ht_safetensors_count(sets[lead]), total);
    }
done:
    return status;
}

ht_status ht_train_state_load(const char *folder, int64_t step, const ht_state_part *parts,
                              int64_t part_count, ht_backend *be, ht_error *err) {
    char path[HT_PATH_MAX], name[192];
    ht_safetensors **sets = NULL;
    ht_status status = HT_OK;
    HT_TRY(check_parts(parts, part_count, err));
    HT_TRY(step_path(path, folder, step, "", err));
    HT_TRY(ht_calloc(&sets, (size_t)part_count, sizeof(ht_safetensors *), err));
    HT_TRY(open_models(path, parts, part_count, sets, err));
    for (int64_t p = 0; p < part_count; p++) {
        int64_t lead = 0;
        while (!same_model(&parts[lead], &parts[p]))
            lead++;
        for (int64_t i = 0; i < parts[p].params->layout->count; i++) {
            tensor_name(name, &parts[p], i);
            const ht_safetensors_entry *entry = ht_safetensors_find(sets[lead], name);
            HT_TRY(ht_upload(be, ht_params_tensor(parts[p].params, i).data, entry->data, entry->bytes, err));
            ht_safetensors_forget(entry);
        }
    }
done:
    for (int64_t i = 0; sets && i < part_count; i++)
        ht_safetensors_close(sets[i]);
    free(sets);
    return status;
}
