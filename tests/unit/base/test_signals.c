/* Each case runs in a child process: the request is for good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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

/* A process that may be sent signals once the pipe has said so; it ends with 7 when it is asked to stop and then left alone. */
static void wait_to_be_stopped(int ready) {
    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
    ht_signals_install();
    if (write(ready, "", 1) != 1) _exit(1);
    while (ht_stop_requested() == HT_OK)
        poll(NULL, 0, 1);
    if (write(ready, "", 1) != 1) _exit(1);
    while (poll(&(struct pollfd){.fd = STDIN_FILENO, .events = POLLIN}, 1, 1) <= 0) /* a read would hold signals up under TSan */
        ;
    _exit(7);
}

/* Starts it; its standard input is `hold`, and *ready gets a byte when it listens, and when it has heard. */
static pid_t start_listener(int hold[2], int *ready) {
    int said[2];
    char byte;
    assert_int_equal(pipe(hold), 0);
    assert_int_equal(pipe(said), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(hold[0], STDIN_FILENO);
        close(hold[1]);
        wait_to_be_stopped(said[1]);
    }
    close(said[1]);
    close(hold[0]);
    assert_int_equal(read(said[0], &byte, 1), 1);
    *ready = said[0];
    return child;
}

static int end_of(pid_t child) {
    int result = -1;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    return WEXITSTATUS(result);
}

/* A signal to all processes reaches a child twice, when its parent passes it on: that is one request. */
static void test_signals__the_parents_counts_apart(void **state) {
    (void)state;
    char byte, command[64];
    int hold[2], ready;
    pid_t child = start_listener(hold, &ready);
    snprintf(command, sizeof command, "kill -TERM %d", (int)child);
    assert_int_equal(system(command), 0); /* not its parent */
    assert_int_equal(read(ready, &byte, 1), 1);
    assert_int_equal(kill(child, SIGTERM), 0);
    close(hold[1]);
    assert_int_equal(end_of(child), 7);
    child = start_listener(hold, &ready);
    assert_int_equal(kill(child, SIGTERM), 0);
    assert_int_equal(read(ready, &byte, 1), 1);
    assert_int_equal(kill(child, SIGTERM), 0);
    assert_int_equal(end_of(child), 143);
    close(hold[1]);
}

/* A process between: what it is sent reaches its child, before and after it knows of it. */
static void test_signals__are_passed_on(void **state) {
    (void)state;
    for (int late = 0; late < 2; late++) {
        pid_t middle = fork();
        if (middle == 0) {
            char byte;
            int hold[2], ready;
            pid_t child = start_listener(hold, &ready);
            dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
            ht_signals_install();
            if (!late) raise(SIGINT);
            ht_signals_pass_to(child);
            if (late) raise(SIGINT);
            if (read(ready, &byte, 1) != 1) _exit(1);
            ht_signals_pass_to(0);
            close(hold[1]);
            _exit(end_of(child) == 7 && ht_stop_requested() == HT_INTERRUPTED ? 9 : 2);
        }
        assert_int_equal(end_of(middle), 9);
    }
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
        cmocka_unit_test(test_signals__the_parents_counts_apart),
        cmocka_unit_test(test_signals__are_passed_on),
        cmocka_unit_test(test_signals__end_of_the_time_is_foreseen),
        cmocka_unit_test(test_signals__a_request_that_was_met_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
