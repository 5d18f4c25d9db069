#include "core/base/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "core/base/memory.h"

#define COPY_BYTES   ((size_t)1 << 20)
#define OPEN_FOLDERS 16 /* file descriptors nftw may hold */

/* HT_ERR_IO "cannot VERB "PATH": REASON", with errno's reason. */
static ht_status fail_io(ht_error *err, const char *verb, const char *path) {
    return ht_fail(err, HT_ERR_IO, "cannot %s \"%s\": %s", verb, path, strerror(errno));
}

/* ---- paths ---- */

ht_status ht_path_join(char out[HT_PATH_MAX], const char *folder, const char *name, ht_error *err) {
    size_t length = strlen(folder);
    const char *slash = length == 0 || folder[length - 1] == '/' ? "" : "/";
    int needed = snprintf(out, HT_PATH_MAX, "%s%s%s", folder, slash, name);
    if (needed >= 0 && needed < HT_PATH_MAX) return HT_OK;
    out[0] = '\0';
    return ht_fail(err, HT_ERR_USAGE, "path \"%.80s...\" is longer than %d bytes", folder[0] ? folder : name,
                   HT_PATH_MAX - 1);
}

/* Copies path without trailing slashes ("/" stays). */
static ht_status copy_path(char out[HT_PATH_MAX], const char *path, ht_error *err) {
    if (!path[0]) {
        out[0] = '\0';
        return ht_fail(err, HT_ERR_IO, "empty path");
    }
    ht_status status = ht_path_join(out, "", path, err);
    if (status != HT_OK) return status;
    for (size_t length = strlen(out); length > 1 && out[length - 1] == '/'; length--)
        out[length - 1] = '\0';
    return HT_OK;
}

void ht_path_parent(char out[HT_PATH_MAX], const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) {
        memcpy(out, ".", 2);
        return;
    }
    while (slash > path && slash[-1] == '/')
        slash--;
    size_t length = slash == path ? 1 : (size_t)(slash - path);
    memmove(out, path, length);
    out[length] = '\0';
}

int ht_name_is_plain(const char *name) {
    return name && name[0] && name[0] != '.' && !strpbrk(name, "/\\");
}

int ht_path_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

int ht_path_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* fsync of a file or folder by name. */
static ht_status sync_path(const char *path, ht_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_io(err, "open", path);
    ht_status status = HT_OK;
    /* Some file systems cannot fsync a folder and say EINVAL; there is nothing to wait for then. */
    if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS) status = fail_io(err, "sync", path);
    close(fd);
    return status;
}

/* ---- folders ---- */

ht_status ht_folder_create(const char *path, ht_error *err) {
    char partial[HT_PATH_MAX];
    ht_status status = copy_path(partial, path, err);
    if (status != HT_OK) return status;
    for (char *end = partial + 1;; end++) {
        if (*end != '/' && *end != '\0') continue;
        char kept = *end;
        *end = '\0';
        if (mkdir(partial, 0777) != 0 && !ht_path_is_folder(partial))
            return fail_io(err, "create folder", partial);
        if (!kept) return HT_OK;
        *end = kept;
    }
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

ht_status ht_folder_remove(const char *path, ht_error *err) {
    if (nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT) return HT_OK;
    return fail_io(err, "remove folder", path);
}

ht_status ht_folder_check_writable(const char *path, ht_error *err) {
    char folder[HT_PATH_MAX], probe[HT_PATH_MAX];
    ht_status status = copy_path(folder, path, err);
    if (status != HT_OK) return status;
    while (!ht_path_exists(folder) && strcmp(folder, "/") != 0 && strcmp(folder, ".") != 0)
        ht_path_parent(folder, folder);
    status = ht_path_join(probe, folder, ".halter-probe-XXXXXX", err);
    if (status != HT_OK) return status;
    int fd = mkostemp(probe, O_CLOEXEC);
    if (fd < 0) return ht_fail(err, HT_ERR_IO, "cannot write in folder \"%s\": %s", folder, strerror(errno));
    close(fd);
    if (unlink(probe) != 0) return fail_io(err, "remove", probe);
    return HT_OK;
}

ht_status ht_folder_begin(char temporary[HT_PATH_MAX], const char *path, ht_error *err) {
    char target[HT_PATH_MAX], parent[HT_PATH_MAX];
    temporary[0] = '\0';
    ht_status status = copy_path(target, path, err);
    if (status != HT_OK) return status;
    if (ht_path_exists(target)) return ht_fail(err, HT_ERR_IO, "\"%s\" exists already", target);
    ht_path_parent(parent, target);
    status = ht_folder_create(parent, err);
    if (status != HT_OK) return status;
    if (snprintf(temporary, HT_PATH_MAX, "%s.tmp-%ld", target, (long)getpid()) >= HT_PATH_MAX) {
        temporary[0] = '\0';
        return ht_fail(err, HT_ERR_USAGE, "path \"%.80s...\" is longer than %d bytes", target,
                       HT_PATH_MAX - 1);
    }
    status = ht_folder_remove(temporary, err); /* left by a process that had this number before */
    if (status == HT_OK && mkdir(temporary, 0777) != 0) status = fail_io(err, "create folder", temporary);
    if (status != HT_OK) temporary[0] = '\0';
    return status;
}

static int sync_entry(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info, (void)walk;
    if (kind != FTW_F && kind != FTW_DP) return 0; /* links hold no data of ours */
    ht_error err = HT_ERROR_INIT;
    return sync_path(path, &err) == HT_OK ? 0 : -1;
}

ht_status ht_folder_commit(const char *temporary, const char *path, ht_error *err) {
    char target[HT_PATH_MAX], parent[HT_PATH_MAX];
    ht_status status = copy_path(target, path, err);
    if (status != HT_OK) return status;
    if (nftw(temporary, sync_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) != 0)
        return fail_io(err, "sync folder", temporary);
    if (ht_path_exists(target)) return ht_fail(err, HT_ERR_IO, "\"%s\" exists already", target);
    if (rename(temporary, target) != 0)
        return ht_fail(err, HT_ERR_IO, "cannot rename \"%s\" to \"%s\": %s", temporary, target,
                       strerror(errno));
    ht_path_parent(parent, target);
    return sync_path(parent, err);
}

/* ---- reading ---- */

ht_status ht_file_read_limited(const char *path, size_t limit, char **data, size_t *size, ht_error *err) {
    char *bytes = NULL;
    size_t capacity = 0, used = 0;
    struct stat info;
    ht_status status = HT_OK;
    *data = NULL;
    *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_io(err, "open", path);
    if (fstat(fd, &info) != 0) {
        status = fail_io(err, "read", path);
        goto done;
    }
    /* The size is a hint: pipes have none, and a file may grow. */
    size_t hint = S_ISREG(info.st_mode) ? (size_t)info.st_size : COPY_BYTES;
    hint = (hint < limit ? hint : limit) + 2;
    for (;;) {
        HT_TRY(ht_grow(&bytes, &capacity, used + 2 > hint ? used + 2 : hint, 1, err));
        ssize_t got = read(fd, bytes + used, capacity - used - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = fail_io(err, "read", path);
            goto done;
        }
        if (got == 0) break;
        used += (size_t)got;
        if (used > limit) {
            status = ht_fail(err, HT_ERR_DATA, "\"%s\" is above the limit of %zu bytes", path, limit);
            goto done;
        }
    }
    bytes[used] = '\0';
    *data = bytes;
    *size = used;
    bytes = NULL;
done:
    free(bytes);
    close(fd);
    return status;
}

ht_status ht_file_read(const char *path, char **data, size_t *size, ht_error *err) {
    return ht_file_read_limited(path, SIZE_MAX, data, size, err);
}

ht_status ht_file_map_open(ht_file_map *map, const char *path, ht_error *err) {
    struct stat info;
    ht_status status = HT_OK;
    *map = (ht_file_map){NULL, 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_io(err, "open", path);
    if (fstat(fd, &info) != 0) {
        status = fail_io(err, "read", path);
    } else if (!S_ISREG(info.st_mode)) {
        status = ht_fail(err, HT_ERR_IO, "\"%s\" is not a regular file", path);
    } else if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = fail_io(err, "map", path);
        else
            *map = (ht_file_map){data, (size_t)info.st_size};
    }
    close(fd);
    return status;
}

void ht_file_map_close(ht_file_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (ht_file_map){NULL, 0};
}

/* ---- writing ---- */

ht_status ht_file_create(ht_file_writer *writer, const char *path, ht_error *err) {
    struct stat info;
    writer->stream = NULL;
    writer->path[0] = writer->temporary[0] = '\0';
    ht_status status = ht_path_join(writer->path, "", path, err);
    if (status != HT_OK) return status;
    if (lstat(path, &info) == 0) {
        /* A link keeps pointing where it does: the file behind it is replaced. */
        if (S_ISLNK(info.st_mode)) {
            char real[PATH_MAX];
            if (!realpath(path, real) || stat(real, &info) != 0) return fail_io(err, "create", path);
            status = ht_path_join(writer->path, "", real, err);
            if (status != HT_OK) return status;
        }
        /* Renaming over /dev/null or a pipe would destroy it. */
        if (!S_ISREG(info.st_mode))
            return ht_fail(err, HT_ERR_IO, "\"%s\" exists and is not a regular file", path);
    }
    snprintf(writer->temporary, sizeof writer->temporary, "%s.tmp-%ld", writer->path, (long)getpid());
    int fd = open(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0) writer->stream = fdopen(fd, "w");
    if (writer->stream) return HT_OK;
    status = fail_io(err, "create", path);
    if (fd >= 0) {
        close(fd);
        unlink(writer->temporary);
    }
    writer->temporary[0] = '\0';
    return status;
}

ht_status ht_file_commit(ht_file_writer *writer, ht_error *err) {
    ht_status status = HT_OK;
    char parent[HT_PATH_MAX];
    errno = 0;
    if (fflush(writer->stream) != 0 || ferror(writer->stream))
        status = errno
                     ? fail_io(err, "write", writer->path)
                     : ht_fail(err, HT_ERR_IO, "cannot write \"%s\": an earlier write failed", writer->path);
    if (status == HT_OK && fsync(fileno(writer->stream)) != 0) status = fail_io(err, "sync", writer->path);
    if (fclose(writer->stream) != 0 && status == HT_OK) status = fail_io(err, "close", writer->path);
    writer->stream = NULL;
    if (status == HT_OK && rename(writer->temporary, writer->path) != 0)
        status = fail_io(err, "create", writer->path);
    if (status == HT_OK) {
        writer->temporary[0] = '\0';
        ht_path_parent(parent, writer->path);
        status = sync_path(parent, err);
    }
    ht_file_abandon(writer);
    return status;
}

void ht_file_abandon(ht_file_writer *writer) {
    if (writer->stream) fclose(writer->stream);
    writer->stream = NULL;
    if (writer->temporary[0]) unlink(writer->temporary);
    writer->temporary[0] = '\0';
}

ht_status ht_file_write(const char *path, const void *data, size_t size, ht_error *err) {
    ht_file_writer writer;
    ht_status status = ht_file_create(&writer, path, err);
    if (status != HT_OK) return status;
    fwrite(data, 1, size, writer.stream); /* errors are seen at commit */
    return ht_file_commit(&writer, err);
}

/* Hands the file to `take` in pieces. */
static ht_status read_pieces(const char *path, int (*take)(void *state, const void *data, size_t size),
                             void *state, ht_error *err) {
    char *buffer = NULL;
    ht_status status = HT_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_io(err, "open", path);
    HT_TRY(ht_calloc(&buffer, COPY_BYTES, 1, err));
    for (;;) {
        ssize_t got = read(fd, buffer, COPY_BYTES);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = fail_io(err, "read", path);
            goto done;
        }
        if (got == 0 || take(state, buffer, (size_t)got) != 0) break;
    }
done:
    free(buffer);
    close(fd);
    return status;
}

static int take_copy(void *stream, const void *data, size_t size) {
    return fwrite(data, 1, size, stream) == size ? 0 : -1; /* the stream remembers its error for the commit */
}

ht_status ht_file_copy(const char *from, const char *to, ht_error *err) {
    ht_file_writer writer;
    ht_status status = ht_file_create(&writer, to, err);
    if (status != HT_OK) return status;
    status = read_pieces(from, take_copy, writer.stream, err);
    if (status == HT_OK) status = ht_file_commit(&writer, err);
    ht_file_abandon(&writer);
    return status;
}

/* ---- hashes ---- */

static void format_hash(XXH128_hash_t hash, char out[HT_HASH_LEN]) {
    XXH128_canonical_t
        canonical; /* big-endian bytes: the same text on every machine, as xxh128sum prints it */
    XXH128_canonicalFromHash(&canonical, hash);
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        snprintf(out + 2 * i, 3, "%02x", canonical.digest[i]);
}

void ht_hash(const void *data, size_t size, char out[HT_HASH_LEN]) {
    format_hash(XXH3_128bits(data, size), out);
}

static int take_hash(void *state, const void *data, size_t size) {
    return XXH3_128bits_update(state, data, size) == XXH_OK ? 0 : -1;
}

ht_status ht_file_hash(const char *path, char out[HT_HASH_LEN], ht_error *err) {
    out[0] = '\0';
    XXH3_state_t *state = XXH3_createState();
    if (!state) return ht_fail(err, HT_ERR_NOMEM, "cannot allocate the state of a hash");
    XXH3_128bits_reset(state);
    ht_status status = read_pieces(path, take_hash, state, err);
    if (status == HT_OK) format_hash(XXH3_128bits_digest(state), out);
    XXH3_freeState(state);
    return status;
}
