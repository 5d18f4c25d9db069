/* Each case runs in a child process: the request is for good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/progress.h"
#include "core/base/signals.h"

/* Exit code of a child that raises `first`, then `second` unless 0, and returns what was requested. */
static int exit_code(int first, int second) {
    pid_t child = fork();
    if (child == 0) {
        dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        ht_signals_install();
        if (ht_stop_requested() != HT_OK) _exit(1);
        raise(first);
        if (second) raise(second);
        _exit((int)ht_stop_requested() - 100); /* unlike the codes of leaving at once */
    }
    int result = -1;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    return WEXITSTATUS(result);
}

static void test_signals__first_one_asks(void **state) {
    (void)state;
    assert_int_equal(exit_code(SIGINT, 0), HT_INTERRUPTED - 100);
    assert_int_equal(exit_code(SIGTERM, 0), HT_TERMINATED - 100);
}

static void test_signals__second_one_leaves_at_once(void **state) {
    (void)state;
    assert_int_equal(exit_code(SIGINT, SIGINT), 130);
    assert_int_equal(exit_code(SIGINT, SIGTERM), 143);
    assert_int_equal(exit_code(SIGTERM, SIGINT), 130);
}

static void test_signals__a_request_that_was_met_is_forgotten(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        ht_signals_install();
        for (int i = 0; i < 2; i++) { /* the second is a first one again */
            raise(SIGINT);
            if (ht_stop_requested() != HT_INTERRUPTED) _exit(1);
            ht_stop_forget();
            if (ht_stop_requested() != HT_OK) _exit(2);
        }
        _exit(7);
    }
    int result = -1;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 7);
}

static void test_signals__end_of_the_time_is_foreseen(void **state) {
    (void)state;
    assert_int_equal(ht_stop_within(1e9), HT_OK);
    ht_stop_at(ht_now() + 1000);
    assert_int_equal(ht_stop_requested(), HT_OK);
    assert_int_equal(ht_stop_within(500), HT_OK);
    assert_int_equal(ht_stop_within(1500), HT_TIME_UP);
    ht_stop_reserve(700);
    assert_int_equal(ht_stop_within(500), HT_TIME_UP);
    assert_int_equal(ht_stop_requested(), HT_OK);
    ht_stop_at(ht_now());
    assert_int_equal(ht_stop_requested(), HT_TIME_UP);
    ht_stop_hold();
    assert_int_equal(ht_stop_requested(), HT_OK);
    ht_stop_unhold();
    assert_int_equal(ht_stop_requested(), HT_TIME_UP);
    ht_stop_at(0);
    ht_stop_reserve(0);
    assert_int_equal(ht_stop_within(1e9), HT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals__first_one_asks),
        cmocka_unit_test(test_signals__second_one_leaves_at_once),
        cmocka_unit_test(test_signals__end_of_the_time_is_foreseen),
        cmocka_unit_test(test_signals__a_request_that_was_met_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
