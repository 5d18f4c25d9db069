/* The owner is another process: a lock is a process's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/lock.h"
#include "tests/unit/folder.h"

static char folder[96];

static int set_up(void **state) {
    if (make_root(state) != 0) return -1;
    snprintf(folder, sizeof folder, "%s/a/b", root);
    return 0;
}

/* A process that has the lock, and waits to be killed or, when `to_end` is closed, releases it and ends. */
typedef struct owner {
    pid_t pid;
    int to_end;
} owner;

static owner start_owner(void) {
    int ready[2], end[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(end), 0);
    owner o = {.pid = fork(), .to_end = end[1]};
    if (o.pid == 0) {
        ht_lock lock;
        ht_error err = HT_ERROR_INIT;
        close(end[1]);
        if (ht_lock_acquire(&lock, folder, &err) != HT_OK) _exit(1);
        close(ready[1]);
        if (read(end[0], &byte, 1) != 0) _exit(2);
        ht_lock_release(&lock);
        _exit(0);
    }
    close(ready[1]);
    close(end[0]);
    assert_int_equal(read(ready[0], &byte, 1), 0);
    close(ready[0]);
    return o;
}

static void test_lock__second_is_refused_with_the_first_ones_number(void **state) {
    (void)state;
    ht_lock lock;
    ht_error err = HT_ERROR_INIT;
    char expected[64];
    int result;
    owner o = start_owner();
    snprintf(expected, sizeof expected, "in use by process %d on ", (int)o.pid);
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_ERR_USAGE);
    assert_non_null(strstr(err.message, expected));
    ht_lock_release(&lock); /* not held: the owner keeps it */
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_ERR_USAGE);
    close(o.to_end);
    assert_int_equal(waitpid(o.pid, &result, 0), o.pid);
    assert_int_equal(result, 0);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_OK);
    ht_lock_release(&lock);
    ht_lock_release(&lock);
}

static void test_lock__ends_with_a_killed_owner(void **state) {
    (void)state;
    ht_lock lock;
    ht_error err = HT_ERROR_INIT;
    char path[128];
    owner o = start_owner();
    snprintf(path, sizeof path, "%s/.halter-lock", folder);
    assert_int_equal(kill(o.pid, SIGKILL), 0);
    assert_int_equal(waitpid(o.pid, NULL, 0), o.pid);
    close(o.to_end);
    assert_int_equal(ht_path_exists(path), 1);
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_OK);
    ht_lock_release(&lock);
    assert_int_equal(ht_path_exists(path), 0);
}

static void test_lock__unused_folders_that_it_made_go(void **state) {
    (void)state;
    ht_lock lock;
    ht_error err = HT_ERROR_INIT;
    char file[128], parent[96];
    snprintf(parent, sizeof parent, "%s/a", root);
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_OK);
    ht_lock_release(&lock);
    assert_int_equal(ht_path_exists(parent), 0);
    assert_int_equal(ht_path_exists(root), 1);
    /* one that was there stays, and so does one that is used */
    assert_int_equal(ht_folder_create(parent, &err), HT_OK);
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_OK);
    ht_lock_release(&lock);
    assert_int_equal(ht_path_exists(folder), 0);
    assert_int_equal(ht_path_exists(parent), 1);
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_OK);
    snprintf(file, sizeof file, "%s/file", folder);
    assert_int_equal(ht_file_write(file, "x", 1, &err), HT_OK);
    ht_lock_release(&lock);
    assert_int_equal(ht_path_exists(file), 1);
}

static void test_lock__folder_that_cannot_be_made(void **state) {
    (void)state;
    ht_lock lock;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_lock_acquire(&lock, "/proc/halter/x", &err), HT_ERR_IO);
    ht_lock_release(&lock);
}

static void test_lock__file_that_cannot_be_opened_is_named(void **state) {
    (void)state;
    ht_lock lock;
    ht_error err = HT_ERROR_INIT;
    char path[128];
    snprintf(path, sizeof path, "%s/.halter-lock", folder);
    assert_int_equal(ht_folder_create(path, &err), HT_OK);
    assert_int_equal(ht_lock_acquire(&lock, folder, &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot lock \""));
    assert_non_null(strstr(err.message, "/a/b/.halter-lock\": Is a directory"));
    ht_lock_release(&lock); /* not held: the folder is someone's */
    assert_int_equal(ht_path_is_folder(path), 1);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, remove_root)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_lock__second_is_refused_with_the_first_ones_number),
        TEST(test_lock__ends_with_a_killed_owner),
        TEST(test_lock__unused_folders_that_it_made_go),
        TEST(test_lock__folder_that_cannot_be_made),
        TEST(test_lock__file_that_cannot_be_opened_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
