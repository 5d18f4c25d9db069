/*
 * lock.h: one process at a time in a folder.
 *
 * The lock is a record lock (fcntl) on FOLDER/.halter-lock, which holds the owner's process id and host. The
 * kernel lets go of it when the owner ends, however it ends; NFS carries it to other machines. What a killed
 * owner leaves is an unlocked file, which the next owner takes over. An owner that puts nothing into a folder it
 * has made leaves no folder.
 */
#ifndef HT_BASE_LOCK_H
#define HT_BASE_LOCK_H

#include "core/base/files.h"

typedef struct ht_lock {
    int fd;
    char path[HT_PATH_MAX]; /* "": not held */
    size_t existed;         /* bytes of path up to the last folder that was there before */
} ht_lock;

/*
 * Takes the lock of a folder, which is created when it does not exist. HT_ERR_USAGE, naming the process and
 * its host, when another process has it. A file system without locks gives a warning, and the lock counts as
 * taken. A process that takes a lock it has gets it.
 */
ht_status ht_lock_acquire(ht_lock *lock, const char *folder, ht_error *err);

/* Removes the file, and the folders that ht_lock_acquire has made and nobody has used, and lets go; of a zeroed
 * one: does nothing. */
void ht_lock_release(ht_lock *lock);

#endif
