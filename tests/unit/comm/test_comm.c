/*
 * The collectives: of a process that is alone, and of three ranks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/launch.h"
#include "core/comm/internal.h"
#include "tests/unit/comm/ranks.h"

/* --- alone ------------------------------------------------------------------------------------------------- */

static void test_comm__alone_there_is_nothing_to_do(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_comm *comm = (ht_comm *)1;
    double x[2] = {1.5, -2};
    float y = 3;
    ht_gathered all;
    int64_t first, end;
    assert_int_equal(ht_comm_open(&comm, &err), HT_OK);
    assert_null(comm);
    assert_int_equal(ht_comm_rank(comm), 0);
    assert_int_equal(ht_comm_size(comm), 1);
    assert_int_equal(ht_comm_local_rank(comm), 0);
    ht_comm_part(comm, 7, &first, &end);
    assert_int_equal(first, 0);
    assert_int_equal(end, 7);
    assert_int_equal(ht_comm_barrier(comm, &err), HT_OK);
    assert_int_equal(ht_comm_broadcast(comm, x, sizeof x, &err), HT_OK);
    assert_int_equal(ht_comm_sum(comm, x, 2, &err), HT_OK);
    assert_int_equal(ht_comm_max(comm, x, 2, &err), HT_OK);
    assert_int_equal(ht_comm_sum_f32(comm, &y, 1, &err), HT_OK);
    assert_true(x[0] == 1.5 && x[1] == -2 && y == 3);
    assert_int_equal(ht_comm_gather(comm, "abc", 3, &all, &err), HT_OK);
    assert_memory_equal(all.data, "abc", 3);
    assert_int_equal(all.start[0], 0);
    assert_int_equal(all.start[1], 3);
    ht_gathered_free(&all);
    assert_int_equal(ht_comm_close(comm, HT_ERR_DATA, &err), HT_ERR_DATA);
}

static void test_comm__parts_cover_all_and_differ_by_one(void **state) {
    (void)state;
    for (int size = 1; size <= 5; size++)
        for (int64_t count = 0; count <= 12; count++) {
            int64_t before = 0;
            for (int rank = 0; rank < size; rank++) {
                ht_comm comm = {.rank = rank, .size = size};
                int64_t first, end;
                ht_comm_part(&comm, count, &first, &end);
                assert_int_equal(first, before);
                assert_in_range(end - first, count / size, count / size + (count % size > 0));
                before = end;
            }
            assert_int_equal(before, count);
        }
}

/* A launcher that MPI knows nothing of: each of its processes would believe to be alone. */
static void test_comm__a_foreign_launcher_is_refused(void **state) {
    (void)state;
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            ht_error err = HT_ERROR_INIT;
            ht_comm *comm;
            setenv(names[i], "2", 1);
            int refused = ht_launched_processes() == 2 && ht_comm_open(&comm, &err) == HT_ERR_USAGE && !comm;
            exit(refused && strstr(err.message, "started as ") ? 7 : 8);
        }
        int result = 0;
        assert_int_equal(waitpid(child, &result, 0), child);
        assert_true(WIFEXITED(result));
        assert_int_equal(WEXITSTATUS(result), 7);
    }
}

/* --- three ranks: what each of them does --------------------------------------------------------------------- */

static ht_status sums_of_gradients(ht_comm *comm, ht_error *err) {
    const int64_t sizes[] = {0, 1, 2, 3, 1000, RANKS * HT_COMM_SLICE, 2 * RANKS * HT_COMM_SLICE + 5};
    int64_t other_order = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        float *x = malloc((size_t)(n + 1) * sizeof *x);
        CHECK(x);
        for (int64_t i = 0; i < n; i++)
            x[i] = ranks_value(comm->rank, i);
        x[n] = 42;
        OK(ht_comm_sum_f32(comm, x, n, err));
        for (int64_t i = 0; i < n; i++) {
            CHECK(x[i] == ranks_sum(i));
            other_order += x[i] != ranks_value(0, i) + (ranks_value(1, i) + ranks_value(2, i));
        }
        CHECK(x[n] == 42);
        free(x);
    }
    CHECK(other_order > 1000); /* the order is seen */
    return HT_OK;
}

static ht_status sums_of_numbers(ht_comm *comm, ht_error *err) {
    double x[] = {comm->rank, 1e16 * (comm->rank == 0) + (comm->rank > 0), -comm->rank}, y[] = {-comm->rank - 1, comm->rank};
    OK(ht_comm_sum(comm, x, 3, err));
    CHECK(x[0] == 3 && x[2] == -3);
    CHECK(x[1] == (1e16 + 1) + 1 && x[1] != 1e16 + (1.0 + 1.0)); /* in the order of the ranks */
    OK(ht_comm_max(comm, y, 2, err));
    CHECK(y[0] == -1 && y[1] == 2);
    return HT_OK;
}

static ht_status bytes(ht_comm *comm, ht_error *err) {
    static const char *const texts[RANKS] = {"first", "", "the last one"};
    char word[16] = "";
    ht_gathered all;
    snprintf(word, sizeof word, "from %d", comm->rank);
    OK(ht_comm_broadcast(comm, word, sizeof word, err));
    CHECK(strcmp(word, "from 0") == 0);
    OK(ht_comm_gather(comm, texts[comm->rank], strlen(texts[comm->rank]), &all, err));
    CHECK(all.start[0] == 0 && all.start[1] == 5 && all.start[2] == 5 && all.start[3] == 17);
    CHECK(memcmp(all.data, "firstthe last one", 17) == 0);
    ht_gathered_free(&all);
    OK(ht_comm_gather(comm, NULL, 0, &all, err));
    CHECK(all.start[RANKS] == 0);
    ht_gathered_free(&all);
    return ht_comm_barrier(comm, err);
}

static ht_status again(ht_comm *comm, ht_error *err) {
    OK(bytes(comm, err));
    OK(sums_of_numbers(comm, err));
    return sums_of_gradients(comm, err);
}

/* One fails while the others are in the middle of a sum with it. */
static ht_status one_fails(ht_comm *comm, ht_error *err) {
    int64_t n = RANKS * HT_COMM_SLICE;
    float *x = calloc((size_t)n, sizeof *x);
    CHECK(x);
    ht_status status = ht_comm_barrier(comm, err);
    if (status == HT_OK && comm->rank == 1) status = ht_fail(err, HT_ERR_NOMEM, "no memory for planted");
    if (status == HT_OK) status = ht_comm_sum_f32(comm, x, n, err);
    free(x);
    if (comm->rank != 1) {
        ht_error again = HT_ERROR_INIT;
        CHECK(status == HT_ERR_NOMEM && strcmp(err->message, "rank 1: no memory for planted") == 0);
        CHECK(ht_comm_barrier(comm, &again) == HT_ERR_NOMEM); /* and so does every later one */
    }
    return status;
}

/* Two fail by themselves: the first of them counts, everywhere. */
static ht_status two_fail(ht_comm *comm, ht_error *err) {
    if (comm->rank == 0) return ht_comm_barrier(comm, err);
    return ht_fail(err, comm->rank == 1 ? HT_ERR_DATA : HT_ERR_IO, "planted in %d", comm->rank);
}

static ht_status all_fail(ht_comm *comm, ht_error *err) {
    return ht_fail(err, HT_ERR_DATA, "planted in %d", comm->rank);
}

/* One fails as soon as it has what it wants; what it has sent before is not lost to one that waits for another still. */
static ht_status one_fails_after(ht_comm *comm, ht_error *err) {
    char own = (char)('a' + comm->rank), got[RANKS] = {0};
    ht_error failed = HT_ERROR_INIT;
    ht_comm_message out[RANKS] = {{NULL, 0}}, in[RANKS] = {{NULL, 0}};
    for (int k = 0; k < RANKS; k++)
        if (comm->rank == 0 || k == 0) out[k] = (ht_comm_message){&own, 1}, in[k] = (ht_comm_message){&got[k], 1};
    if (comm->rank == 2) {
        while (ht_comm_listen(comm, &failed) == HT_OK)
            usleep(1000);
        comm->failure = (ht_error)HT_ERROR_INIT;
        usleep(50000); /* for rank 0 to see it too */
    }
    ht_status exchanged = ht_comm_exchange(comm, out, in, "test", &failed);
    comm->has_learned = 0; /* that it failed would be this rank's own failure */
    CHECK(exchanged == HT_OK);
    if (comm->rank == 1) return ht_fail(err, HT_ERR_DATA, "planted in 1");
    CHECK(comm->rank == 2 || (got[1] == 'b' && got[2] == 'c'));
    return HT_OK;
}

/* One believes to be done; a collective with it cannot be completed. */
static ht_status one_leaves(ht_comm *comm, ht_error *err) {
    OK(ht_comm_barrier(comm, err));
    return comm->rank == 2 ? HT_OK : ht_comm_barrier(comm, err);
}

/* A rank that is waited for does not come until the first one has said so. */
static const char *said; /* a file that is there when it has */

static void note(ht_log_level level, const char *line) {
    (void)level;
    FILE *file = strstr(line, "waited") && strstr(line, "for rank 2 ") ? fopen(said, "w") : NULL;
    if (file) fclose(file);
}

static ht_status one_is_late(ht_comm *comm, ht_error *err) {
    said = getenv("HT_TEST_SAID");
    CHECK(said);
    comm->patience = 0.01;
    if (comm->rank == 0) ht_log_set_sink(note);
    while (comm->rank == 2 && access(said, F_OK) != 0)
        usleep(1000);
    OK(ht_comm_barrier(comm, err));
    remove(said);
    return HT_OK;
}

static const scenario scenarios[] = {{"sums_of_gradients", sums_of_gradients}, {"sums_of_numbers", sums_of_numbers}, {"bytes", bytes},
                 {"again", again}, {"one_fails", one_fails}, {"two_fail", two_fail}, {"all_fail", all_fail},
                 {"one_fails_after", one_fails_after}, {"one_leaves", one_leaves}, {"one_is_late", one_is_late}};

/* --- three ranks: how they end ------------------------------------------------------------------------------- */

static void test_comm__bytes_come_to_all(void **state) {
    (void)state;
    ranks_check("bytes", HT_OK, "well");
}

static void test_comm__numbers_are_added_in_the_order_of_the_ranks(void **state) {
    (void)state;
    ranks_check("sums_of_numbers", HT_OK, "well");
}

static void test_comm__gradients_are_added_in_the_order_of_the_ranks(void **state) {
    (void)state;
    ranks_check("sums_of_gradients", HT_OK, "well");
}

static void test_comm__collectives_follow_each_other(void **state) {
    (void)state;
    ranks_check("again", HT_OK, "well");
}

static void test_comm__a_failure_ends_all_with_its_message(void **state) {
    (void)state;
    ranks_check("one_fails", HT_ERR_NOMEM, "rank 1: no memory for planted");
}

static void test_comm__of_several_failures_the_first_rank_s_counts(void **state) {
    (void)state;
    ranks_check("two_fail", HT_ERR_DATA, "rank 1: planted in 1");
    ranks_check("all_fail", HT_ERR_DATA, "planted in 0");
}

static void test_comm__what_was_sent_before_a_failure_arrives(void **state) {
    (void)state;
    ranks_check("one_fails_after", HT_ERR_DATA, "rank 1: planted in 1");
}

static void test_comm__nobody_waits_for_a_rank_that_has_ended(void **state) {
    (void)state;
    ranks_check("one_leaves", HT_ERR_RUN, "rank 2 has ended, and rank 0 waits for it");
}

static void test_comm__a_long_wait_is_said(void **state) {
    (void)state;
    char path[] = "/tmp/halter-comm-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    remove(path);
    setenv("HT_TEST_SAID", path, 1);
    ranks_check("one_is_late", HT_OK, "well");
}

/* --- main ---------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv) {
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(test_comm__alone_there_is_nothing_to_do),
        cmocka_unit_test(test_comm__parts_cover_all_and_differ_by_one),
        cmocka_unit_test(test_comm__a_foreign_launcher_is_refused),
    };
    const struct CMUnitTest ranks[] = {
        cmocka_unit_test(test_comm__bytes_come_to_all),
        cmocka_unit_test(test_comm__numbers_are_added_in_the_order_of_the_ranks),
        cmocka_unit_test(test_comm__gradients_are_added_in_the_order_of_the_ranks),
        cmocka_unit_test(test_comm__collectives_follow_each_other),
        cmocka_unit_test(test_comm__a_failure_ends_all_with_its_message),
        cmocka_unit_test(test_comm__of_several_failures_the_first_rank_s_counts),
        cmocka_unit_test(test_comm__what_was_sent_before_a_failure_arrives),
        cmocka_unit_test(test_comm__nobody_waits_for_a_rank_that_has_ended),
        cmocka_unit_test(test_comm__a_long_wait_is_said),
    };
    if (argc > 1) return ranks_run(argv[1], scenarios, sizeof scenarios / sizeof *scenarios);
    int failed = cmocka_run_group_tests_name("alone", alone, NULL, NULL);
    if (failed) return failed;
    if (!ranks_possible()) {
        puts("skipped: mpirun is not here");
        return 77;
    }
    return cmocka_run_group_tests_name("ranks", ranks, NULL, NULL);
}
