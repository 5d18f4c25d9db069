#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/files.h"
#include "tests/unit/folder.h"

static void write_text(const char *path, const char *text) {
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_file_write(path, text, strlen(text), &err), HT_OK);
}

static void assert_content(const char *path, const char *text) {
    ht_error err = HT_ERROR_INIT;
    char *data;
    size_t size;
    assert_int_equal(ht_file_read(path, &data, &size, &err), HT_OK);
    assert_int_equal(size, strlen(text));
    assert_string_equal(data, text);
    free(data);
}

/* No "x.tmp-PID" of this process beside path. */
static void assert_no_temporary(const char *path) {
    char temporary[300];
    snprintf(temporary, sizeof temporary, "%s.tmp-%ld", path, (long)getpid());
    assert_false(ht_path_exists(temporary));
}

static void test_files__join(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char path[HT_PATH_MAX], long_name[HT_PATH_MAX];
    ht_path_join(path, "a", "b", &err);
    assert_string_equal(path, "a/b");
    ht_path_join(path, "a/", "b", &err);
    assert_string_equal(path, "a/b");
    ht_path_join(path, "", "b", &err);
    assert_string_equal(path, "b");
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_int_equal(ht_path_join(path, "", long_name, &err), HT_OK);
    assert_int_equal(ht_path_join(path, "a", long_name, &err), HT_ERR_USAGE);
    assert_non_null(strstr(err.message, "is longer than 4095 bytes"));
    assert_string_equal(path, "");
}

static void test_files__parent(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"a", "."}, {"a/b", "a"}, {"a//b", "a"}, {"/a", "/"}, {"//a", "/"}, {"/", "/"}, {"a/", "a"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[HT_PATH_MAX];
        ht_path_parent(out, cases[i][0]);
        assert_string_equal(out, cases[i][1]);
        strcpy(out, cases[i][0]);
        ht_path_parent(out, out);
        assert_string_equal(out, cases[i][1]);
    }
}

static void test_files__plain_names_stay_in_their_folder(void **state) {
    (void)state;
    assert_true(ht_name_is_plain("model-1.safetensors"));
    static const char *const others[] = {NULL, "", ".", "..", ".hidden", "/etc/passwd", "a/b", "..\\b"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(ht_name_is_plain(others[i]));
}

static void test_files__write_and_read(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    const char *path = in_root("a");
    char bytes[] = {1, 0, 2, 0}, *data;
    size_t size;
    assert_int_equal(ht_file_write(path, bytes, sizeof bytes, &err), HT_OK);
    assert_int_equal(ht_file_read(path, &data, &size, &err), HT_OK);
    assert_int_equal(size, sizeof bytes);
    assert_memory_equal(data, bytes, sizeof bytes);
    assert_int_equal(data[size], 0);
    free(data);
    assert_no_temporary(path);
    write_text(path, "second");
    assert_content(path, "second");
    write_text(path, "");
    assert_content(path, "");
}

static void test_files__reading_stops_at_the_limit(void **state) {
    (void)state;
    const char *path = in_root("a"), *pipe = in_root("pipe");
    char expected[300], *data;
    size_t size;
    write_text(path, "twelve bytes");
    for (size_t limit = 0; limit < 14; limit++) {
        ht_error err = HT_ERROR_INIT;
        ht_status status = ht_file_read_limited(path, limit, &data, &size, &err);
        assert_int_equal(status, limit < 12 ? HT_ERR_DATA : HT_OK);
        snprintf(expected, sizeof expected, "\"%s\" is above the limit of %zu bytes", path, limit);
        if (limit < 12) assert_string_equal(err.message, expected);
        assert_int_equal(data != NULL, limit >= 12);
        free(data);
    }
    /* what has no size is not read on without end */
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(symlink("/dev/zero", pipe), 0);
    assert_int_equal(ht_file_read_limited(pipe, 1000000, &data, &size, &err), HT_ERR_DATA);
}

static void test_files__nothing_is_seen_before_commit(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_file_writer writer;
    const char *path = in_root("b");
    write_text(path, "old");
    assert_int_equal(ht_file_create(&writer, path, &err), HT_OK);
    fputs("new", writer.stream);
    fflush(writer.stream);
    assert_content(path, "old");
    assert_int_equal(ht_file_commit(&writer, &err), HT_OK);
    assert_content(path, "new");
    ht_file_abandon(&writer); /* after a commit: nothing */
    assert_content(path, "new");
    assert_no_temporary(path);
}

static void test_files__abandon_leaves_the_old_file(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_file_writer writer, zeroed = {0};
    const char *path = in_root("c");
    write_text(path, "old");
    assert_int_equal(ht_file_create(&writer, path, &err), HT_OK);
    fputs("new", writer.stream);
    ht_file_abandon(&writer);
    ht_file_abandon(&writer);
    ht_file_abandon(&zeroed);
    assert_content(path, "old");
    assert_no_temporary(path);
}

/* A file-size limit stands for a full disk: the write fails with EFBIG instead of ENOSPC. */
static void test_files__failed_writes_are_seen_at_commit(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_file_writer writer;
    const char *path = in_root("full");
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 1000;
    write_text(path, "old");
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(ht_file_create(&writer, path, &err), HT_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 100000; i++)
        fputs("0123456789", writer.stream);
    ht_status status = ht_file_commit(&writer, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(status, HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot write \""));
    assert_non_null(strstr(err.message, "File too large"));
    assert_content(path, "old");
    assert_no_temporary(path);
}

static void test_files__devices_are_not_replaced(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_file_write("/dev/null", "x", 1, &err), HT_ERR_IO);
    assert_string_equal(err.message, "\"/dev/null\" exists and is not a regular file");
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_file_write(root, "x", 1, &err), HT_ERR_IO);
}

static void test_files__links_are_followed(void **state) {
    (void)state;
    const char *target = in_root("target"), *link = in_root("link");
    write_text(target, "old");
    assert_int_equal(symlink("target", link), 0);
    write_text(link, "new");
    struct stat info;
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_content(target, "new");
}

static void test_files__missing_file_names_path_and_reason(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char *data = root, hash[HT_HASH_LEN];
    size_t size = 5;
    assert_int_equal(ht_file_read("/nowhere/x", &data, &size, &err), HT_ERR_IO);
    assert_string_equal(err.message, "cannot open \"/nowhere/x\": No such file or directory");
    assert_null(data);
    assert_int_equal(size, 0);
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_file_read(root, &data, &size, &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "Is a directory"));
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_file_hash("/nowhere/x", hash, &err), HT_ERR_IO);
    assert_string_equal(hash, "");
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_file_copy("/nowhere/x", in_root("copy"), &err), HT_ERR_IO);
    assert_false(ht_path_exists(in_root("copy")));
    assert_no_temporary(in_root("copy"));
}

static void test_files__map(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_file_map map;
    write_text(in_root("m"), "hello");
    assert_int_equal(ht_file_map_open(&map, in_root("m"), &err), HT_OK);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    ht_file_map_close(&map);
    assert_null(map.data);
    ht_file_map_close(&map);
    write_text(in_root("m"), "");
    assert_int_equal(ht_file_map_open(&map, in_root("m"), &err), HT_OK);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    assert_int_equal(ht_file_map_open(&map, root, &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "is not a regular file"));
}

static void test_files__copy_beyond_one_piece(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    size_t size = 3 * ((size_t)1 << 20) + 17, got;
    char *data = malloc(size), *back;
    for (size_t i = 0; i < size; i++)
        data[i] = (char)(i * 31 >> 3);
    assert_int_equal(ht_file_write(in_root("big"), data, size, &err), HT_OK);
    assert_int_equal(ht_file_copy(in_root("big"), in_root("big2"), &err), HT_OK);
    assert_int_equal(ht_file_read(in_root("big2"), &back, &got, &err), HT_OK);
    assert_int_equal(got, size);
    assert_memory_equal(back, data, size);
    char whole[HT_HASH_LEN], pieces[HT_HASH_LEN];
    ht_hash(data, size, whole);
    assert_int_equal(ht_file_hash(in_root("big2"), pieces, &err), HT_OK);
    assert_string_equal(whole, pieces);
    free(data);
    free(back);
}

/* Known answers of xxh128sum 0.8. */
static void test_files__hash_known_answers(void **state) {
    (void)state;
    char hash[HT_HASH_LEN];
    ht_hash("", 0, hash);
    assert_string_equal(hash, "99aa06d3014798d86001c324468d497f");
    ht_hash("abc", 3, hash);
    assert_string_equal(hash, "06b05ab6733a618578af5f94892f3950");
    char other[HT_HASH_LEN];
    ht_hash("abd", 3, other);
    assert_string_not_equal(hash, other);
}

static void test_files__folder_create_and_remove(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_folder_create(in_root("x/y//z/"), &err), HT_OK);
    assert_int_equal(ht_folder_create(in_root("x/y/z"), &err), HT_OK);
    assert_true(ht_path_is_folder(in_root("x/y/z")));
    write_text(in_root("x/y/f"), "1");
    assert_int_equal(symlink(root, in_root("x/up")), 0); /* must not be followed */
    assert_int_equal(ht_folder_remove(in_root("x"), &err), HT_OK);
    assert_false(ht_path_exists(in_root("x")));
    assert_true(ht_path_exists(root));
    assert_int_equal(ht_folder_remove(in_root("x"), &err), HT_OK);
    write_text(in_root("file"), "1");
    assert_int_equal(ht_folder_create(in_root("file/y"), &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot create folder \""));
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_folder_create("", &err), HT_ERR_IO);
}

static void test_files__check_writable(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_folder_check_writable(root, &err), HT_OK);
    assert_int_equal(ht_folder_check_writable(in_root("not/yet/there"), &err), HT_OK);
    assert_false(ht_path_exists(in_root("not")));
    /* /proc refuses new files even to root. */
    assert_int_equal(ht_folder_check_writable("/proc/halter/out", &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot write in folder \"/proc\": "));
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_file_write("/proc/halter", "x", 1, &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot create \"/proc/halter\": "));
    err = (ht_error)HT_ERROR_INIT;
    write_text(in_root("plain"), "x");
    assert_int_equal(ht_folder_check_writable(in_root("plain/out"), &err), HT_ERR_IO);
    if (geteuid() != 0) {
        assert_int_equal(mkdir(in_root("locked"), 0500), 0);
        err = (ht_error)HT_ERROR_INIT;
        assert_int_equal(ht_folder_check_writable(in_root("locked"), &err), HT_ERR_IO);
        chmod(in_root("locked"), 0700);
    }
}

static void test_files__folder_is_whole_or_absent(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char temporary[HT_PATH_MAX], file[HT_PATH_MAX];
    const char *path = in_root("runs/model/");
    assert_int_equal(ht_folder_begin(temporary, path, &err), HT_OK);
    assert_true(ht_path_is_folder(temporary));
    assert_false(ht_path_exists(in_root("runs/model")));
    ht_path_join(file, temporary, "sub", &err);
    assert_int_equal(ht_folder_create(file, &err), HT_OK);
    ht_path_join(file, temporary, "sub/weights", &err);
    write_text(file, "w");
    assert_int_equal(ht_folder_commit(temporary, path, &err), HT_OK);
    assert_content(in_root("runs/model/sub/weights"), "w");
    assert_false(ht_path_exists(temporary));
    assert_int_equal(ht_folder_begin(temporary, path, &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "runs/model\" exists already"));
    assert_string_equal(temporary, "");
}

static void test_files__folder_commit_does_not_overwrite(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char temporary[HT_PATH_MAX];
    assert_int_equal(ht_folder_begin(temporary, in_root("out"), &err), HT_OK);
    assert_int_equal(mkdir(in_root("out"), 0777), 0);
    assert_int_equal(ht_folder_commit(temporary, in_root("out"), &err), HT_ERR_IO);
    assert_true(ht_path_is_folder(temporary));
    /* What a killed process of this number left is cleared. */
    char stale[HT_PATH_MAX];
    err = (ht_error)HT_ERROR_INIT;
    ht_path_join(stale, temporary, "stale", &err);
    write_text(stale, "x");
    assert_int_equal(rmdir(in_root("out")), 0);
    assert_int_equal(ht_folder_begin(temporary, in_root("out"), &err), HT_OK);
    assert_false(ht_path_exists(stale));
}

static void test_files__what_was_taken_away_meanwhile_is_named(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char temporary[HT_PATH_MAX];
    ht_file_writer writer;
    assert_int_equal(ht_folder_begin(temporary, in_root("gone"), &err), HT_OK);
    assert_int_equal(rmdir(temporary), 0);
    assert_int_equal(ht_folder_commit(temporary, in_root("gone"), &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot sync folder \""));
    assert_non_null(strstr(err.message, "/gone.tmp-"));
    /* a folder where the file was to be */
    err = (ht_error)HT_ERROR_INIT;
    assert_int_equal(ht_file_create(&writer, in_root("taken"), &err), HT_OK);
    assert_int_equal(mkdir(in_root("taken"), 0777), 0);
    assert_int_equal(ht_file_commit(&writer, &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot create \""));
    assert_non_null(strstr(err.message, "/taken\": Is a directory"));
    assert_no_temporary(in_root("taken"));
    err = (ht_error)HT_ERROR_INIT;
    write_text(in_root("plain-file"), "x");
    assert_int_equal(ht_folder_remove(in_root("plain-file/x"), &err), HT_ERR_IO);
    assert_non_null(strstr(err.message, "cannot remove folder \""));
}

static void test_files__a_folder_without_room_for_its_temporary_name(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    char path[HT_PATH_MAX], temporary[HT_PATH_MAX];
    snprintf(path, sizeof path, "%s", in_root("deep"));
    while (strlen(path) < HT_PATH_MAX - 4)
        strcat(path, strlen(path) % 2 ? "d" : "/");
    assert_int_equal(ht_folder_begin(temporary, path, &err), HT_ERR_USAGE);
    assert_non_null(strstr(err.message, "...\" is longer than 4095 bytes"));
    assert_string_equal(temporary, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files__join),
        cmocka_unit_test(test_files__parent),
        cmocka_unit_test(test_files__plain_names_stay_in_their_folder),
        cmocka_unit_test(test_files__write_and_read),
        cmocka_unit_test(test_files__reading_stops_at_the_limit),
        cmocka_unit_test(test_files__nothing_is_seen_before_commit),
        cmocka_unit_test(test_files__abandon_leaves_the_old_file),
        cmocka_unit_test(test_files__failed_writes_are_seen_at_commit),
        cmocka_unit_test(test_files__devices_are_not_replaced),
        cmocka_unit_test(test_files__links_are_followed),
        cmocka_unit_test(test_files__missing_file_names_path_and_reason),
        cmocka_unit_test(test_files__map),
        cmocka_unit_test(test_files__copy_beyond_one_piece),
        cmocka_unit_test(test_files__hash_known_answers),
        cmocka_unit_test(test_files__folder_create_and_remove),
        cmocka_unit_test(test_files__check_writable),
        cmocka_unit_test(test_files__folder_is_whole_or_absent),
        cmocka_unit_test(test_files__folder_commit_does_not_overwrite),
        cmocka_unit_test(test_files__what_was_taken_away_meanwhile_is_named),
        cmocka_unit_test(test_files__a_folder_without_room_for_its_temporary_name),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
