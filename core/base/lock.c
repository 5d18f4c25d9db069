#include "core/base/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"

#define LOCK_FILE ".halter-lock"

static ht_status fail_lock(const ht_lock *lock, ht_error *err) {
    return ht_fail(err, HT_ERR_IO, "cannot lock \"%s\": %s", lock->path, strerror(errno));
}

/* "process 123 on node7", as the owner wrote it. */
static ht_status fail_taken(const ht_lock *lock, const char *folder, ht_error *err) {
    char owner[128] = "";
    ssize_t got = pread(lock->fd, owner, sizeof owner - 1, 0);
    if (got < 0) got = 0;
    owner[got] = '\0';
    owner[strcspn(owner, "\n")] = '\0';
    return ht_fail(err, HT_ERR_USAGE, "\"%s\" is in use by %s", folder, owner[0] ? owner : "another process");
}

static ht_status write_owner(const ht_lock *lock, ht_error *err) {
    char owner[128], host[64] = "";
    if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
    int length = snprintf(owner, sizeof owner, "process %ld on %s\n", (long)getpid(),
                          host[0] ? host : "an unknown host");
    if (ftruncate(lock->fd, 0) != 0 || pwrite(lock->fd, owner, (size_t)length, 0) != length)
        return fail_lock(lock, err);
    return HT_OK;
}

/* Opens and locks the file. *gone = 1: its name, or the folder, was removed meanwhile, by an owner that was just letting go.
 */
static ht_status try_acquire(ht_lock *lock, const char *folder, int *gone, ht_error *err) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat opened, named;
    lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    *gone = lock->fd < 0 && errno == ENOENT && !ht_path_exists(folder);
    if (*gone) return HT_OK;
    if (lock->fd < 0) return fail_lock(lock, err);
    if (fcntl(lock->fd, F_SETLK, &whole) != 0) {
        if (errno == EACCES || errno == EAGAIN) return fail_taken(lock, folder, err);
        if (errno != ENOLCK && errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)
            return fail_lock(lock, err);
        ht_warn("the file system of \"%s\" has no locks: nothing keeps a second run out of it", folder);
    }
    if (fstat(lock->fd, &opened) != 0) return fail_lock(lock, err);
    *gone = stat(lock->path, &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev;
    if (*gone) return HT_OK;
    ht_status status = write_owner(lock, err);
    if (status != HT_OK) unlink(lock->path);
    return status;
}

/* The bytes of lock->path up to the last folder that exists. */
static size_t existing_part(const ht_lock *lock) {
    char path[HT_PATH_MAX];
    memcpy(path, lock->path, sizeof path);
    for (char *slash = strrchr(path, '/'); slash && slash > path; slash = strrchr(path, '/')) {
        *slash = '\0';
        if (ht_path_exists(path)) return strlen(path);
    }
    return path[0] == '/';
}

/* Removes the folders behind that part, from the last one on, as far as they are empty. */
static void remove_made(const ht_lock *lock) {
    char path[HT_PATH_MAX];
    memcpy(path, lock->path, sizeof path);
    for (char *slash = strrchr(path, '/'); slash; slash = strrchr(path, '/')) {
        *slash = '\0';
        if (strlen(path) <= lock->existed || rmdir(path) != 0) return;
    }
}

ht_status ht_lock_acquire(ht_lock *lock, const char *folder, ht_error *err) {
    int gone = 1;
    ht_status status = HT_OK;
    lock->path[0] = '\0';
    HT_TRY(ht_path_join(lock->path, folder, LOCK_FILE, err));
    lock->existed = existing_part(lock);
    while (gone) {
        HT_TRY(ht_folder_create(folder, err));
        status = try_acquire(lock, folder, &gone, err);
        if ((gone || status != HT_OK) && lock->fd >= 0) close(lock->fd);
        if (status != HT_OK) break;
    }
done:
    if (status != HT_OK && lock->path[0]) remove_made(lock);
    if (status != HT_OK) lock->path[0] = '\0';
    return status;
}

void ht_lock_release(ht_lock *lock) {
    if (!lock->path[0]) return;
    unlink(lock->path);
    remove_made(lock);
    close(lock->fd);
    lock->path[0] = '\0';
}
