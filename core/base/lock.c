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

/* Opens and locks the file. *gone = 1: its name was removed meanwhile, by an owner that was just letting go.
 */
static ht_status try_acquire(ht_lock *lock, const char *folder, int *gone, ht_error *err) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat opened, named;
    *gone = 0;
    lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock->fd < 0) return fail_lock(lock, err);
    if (fcntl(lock->fd, F_SETLK, &whole) != 0) {
        if (errno == EACCES || errno == EAGAIN) return fail_taken(lock, folder, err);
        if (errno != ENOLCK && errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)
            return fail_lock(lock, err);
        ht_warn("the file system of \"%s\" has no locks: nothing keeps a second run out of it", folder);
    }
    if (fstat(lock->fd, &opened) != 0) return fail_lock(lock, err);
    *gone = stat(lock->path, &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev;
    return *gone ? HT_OK : write_owner(lock, err);
}

ht_status ht_lock_acquire(ht_lock *lock, const char *folder, ht_error *err) {
    int gone = 1;
    ht_status status = HT_OK;
    lock->path[0] = '\0';
    HT_TRY(ht_folder_create(folder, err));
    HT_TRY(ht_path_join(lock->path, folder, LOCK_FILE, err));
    while (gone) {
        status = try_acquire(lock, folder, &gone, err);
        if ((gone || status != HT_OK) && lock->fd >= 0) close(lock->fd);
        if (status != HT_OK) break;
    }
done:
    if (status != HT_OK) lock->path[0] = '\0';
    return status;
}

void ht_lock_release(ht_lock *lock) {
    if (!lock->path[0]) return;
    unlink(lock->path);
    close(lock->fd);
    lock->path[0] = '\0';
}
