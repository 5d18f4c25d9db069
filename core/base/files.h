/*
 * files.h: reading and writing files so that nothing is ever half-written.
 *
 * A file is written to a temporary name beside its place, fsynced, and renamed; a folder likewise. All errors are
 * HT_ERR_IO and name the path and the system's reason.
 */
#ifndef HT_BASE_FILES_H
#define HT_BASE_FILES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/error.h"

/* Joined path "folder/name" in a fixed buffer; HT_ERR_USAGE when too long. */
#define HT_PATH_MAX 4096
ht_status ht_path_join(char out[HT_PATH_MAX], const char *folder, const char *name, ht_error *err);

/* out = the folder that holds path, which is shorter than HT_PATH_MAX and may be `out`: "." for a bare name, "/" for "/". */
void ht_path_parent(char out[HT_PATH_MAX], const char *path);

/* 1 for the name of a file that stays in its folder and is not hidden, whatever file it comes from; NULL is none. */
int ht_name_is_plain(const char *name);

/* 1 when the path exists (file or folder), else 0. */
int ht_path_exists(const char *path);
int ht_path_is_folder(const char *path);

/* mkdir -p. */
ht_status ht_folder_create(const char *path, ht_error *err);

/* rm -r; a path that does not exist is fine. */
ht_status ht_folder_remove(const char *path, ht_error *err);

/* Fails (HT_ERR_IO) unless files can be created in the folder, or in the nearest existing parent when it does not
 * exist yet. Called before long work, so that a read-only output is found first. */
ht_status ht_folder_check_writable(const char *path, ht_error *err);

/* Whole file in memory, NUL-terminated beyond *size; released with free(). */
ht_status ht_file_read(const char *path, char **data, size_t *size, ht_error *err);
/* The same for a file that someone else may have written: HT_ERR_DATA as soon as it is above `limit` bytes. */
ht_status ht_file_read_limited(const char *path, size_t limit, char **data, size_t *size, ht_error *err);

/* Read-only memory map of a whole file. Empty files give data NULL, size 0. */
typedef struct ht_file_map {
    const uint8_t *data;
    size_t size;
} ht_file_map;
ht_status ht_file_map_open(ht_file_map *map, const char *path, ht_error *err);
void ht_file_map_close(ht_file_map *map);

/*
 * A file being written. Bytes go to "PATH.tmp-PID"; ht_file_commit fsyncs and renames it to PATH;
 * ht_file_abandon (also on a committed or zeroed one) removes what is left.
 */
typedef struct ht_file_writer {
    FILE *stream; /* for fprintf and fwrite; errors are seen at commit */
    char path[HT_PATH_MAX];
    char temporary[HT_PATH_MAX + 32];
} ht_file_writer;
ht_status ht_file_create(ht_file_writer *writer, const char *path, ht_error *err);
ht_status ht_file_commit(ht_file_writer *writer, ht_error *err);
void ht_file_abandon(ht_file_writer *writer);

/* All at once: create, write, commit. */
ht_status ht_file_write(const char *path, const void *data, size_t size, ht_error *err);

/* Copies a file's bytes, atomically. */
ht_status ht_file_copy(const char *from, const char *to, ht_error *err);

/*
 * A folder being written: ht_folder_begin makes "PATH.tmp-PID" and returns its name in `temporary`;
 * ht_folder_commit fsyncs its files and renames it to PATH (which must not exist).
 */
ht_status ht_folder_begin(char temporary[HT_PATH_MAX], const char *path, ht_error *err);
ht_status ht_folder_commit(const char *temporary, const char *path, ht_error *err);

/* 128-bit XXH3 of bytes or of a file's content, as 32 hex digits and NUL. */
#define HT_HASH_LEN 33
void ht_hash(const void *data, size_t size, char out[HT_HASH_LEN]);
ht_status ht_file_hash(const char *path, char out[HT_HASH_LEN], ht_error *err);

#endif
