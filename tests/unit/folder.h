/*
 * folder.h: a folder of the test's own, `root`: made before the test, removed after it with all that is in it.
 */
#ifndef HT_TESTS_UNIT_FOLDER_H
#define HT_TESTS_UNIT_FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/files.h"

static char root[32];

static inline int make_root(void **state) {
    (void)state;
    strcpy(root, "/tmp/halter-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static inline int remove_root(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    return ht_folder_remove(root, &err) == HT_OK && !ht_path_exists(root) ? 0 : -1;
}

/* A path below root; valid for the next 15 calls. */
static inline const char *in_root(const char *name) {
    static char paths[16][512];
    static int turn;
    char *path = paths[turn++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

#endif
