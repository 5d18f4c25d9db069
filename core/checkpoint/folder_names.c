#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/checkpoint/folder_files.h"

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void ht_names_free(char **names, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

ht_status ht_folder_names(char ***names, size_t *count, const char *folder, ht_error *err) {
    char **list = NULL;
    size_t used = 0, capacity = 0;
    ht_status status = HT_OK;
    *names = NULL;
    *count = 0;
    DIR *stream = opendir(folder);
    if (!stream && errno == ENOENT) return HT_OK;
    if (!stream) return ht_fail(err, HT_ERR_IO, "cannot read folder \"%s\": %s", folder, strerror(errno));
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(stream);
        if (!entry) break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        HT_TRY(ht_grow(&list, &capacity, used + 1, sizeof *list, err));
        HT_TRY(ht_strdup(&list[used], entry->d_name, err));
        used++;
    }
    if (errno) {
        status = ht_fail(err, HT_ERR_IO, "cannot read folder \"%s\": %s", folder, strerror(errno));
        goto done;
    }
    if (used) qsort(list, used, sizeof *list, compare_names);
    *names = list;
    *count = used;
    list = NULL;
    used = 0;
done:
    ht_names_free(list, used);
    closedir(stream);
    return status;
}

int ht_name_is_temporary(const char *name) {
    static const char mark[] = ".tmp-";
    const char *digits = strrchr(name, '.');
    if (!digits || strncmp(digits, mark, sizeof mark - 1) != 0) return 0;
    digits += sizeof mark - 1;
    return digits[0] && digits[strspn(digits, "0123456789")] == '\0';
}
