/* The clock is kept out: a case sets the times of the progress itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/progress.h"

static char heard[512];
static int heard_count;

static void hear(ht_log_level level, const char *line) {
    (void)level;
    heard_count++;
    snprintf(heard, sizeof heard, "%s", line);
}

static int use_sink(void **state) {
    (void)state;
    heard_count = 0;
    ht_log_set_sink(hear);
    return 0;
}

static int restore_sink(void **state) {
    (void)state;
    ht_log_set_sink(NULL);
    ht_log_set_level(HT_LOG_INFO);
    return 0;
}

static void test_progress__a_line_now_and_then(void **state) {
    (void)state;
    ht_progress p;
    ht_progress_start(&p, "training", 100);
    p.live = 0;
    ht_progress_update(&p, 1, "loss 2.5");
    assert_int_equal(heard_count, 0); /* ten seconds have not passed */
    p.last_shown -= 11;
    ht_progress_update(&p, 1, "loss 2.5");
    assert_int_equal(heard_count, 1);
    assert_string_equal(heard, "training 1/100  loss 2.5"); /* one update says nothing about the speed */
    ht_progress_update(&p, 2, "loss 2.4");
    assert_int_equal(heard_count, 1);
    ht_progress_finish(&p, 100, NULL);
    assert_string_equal(heard, "training 100/100  0s");
}

/* Resumed at 50 of 100: 25 more took 100 s, so 25 more will; what came before the resume counts for nothing.
 */
static void test_progress__time_left_since_the_first_update(void **state) {
    (void)state;
    ht_progress p;
    ht_progress_start(&p, "training", 100);
    p.live = 0;
    ht_progress_update(&p, 50, NULL);
    p.first_time -= 100;
    p.last_shown -= 100;
    ht_progress_update(&p, 75, NULL);
    assert_string_equal(heard, "training 75/100  1m40s left");
    p.first_time -= 36000;
    p.last_shown -= 36000;
    ht_progress_update(&p, 76, "n");
    assert_string_equal(heard, "training 76/100  n  9h15m left");
}

static void test_progress__unknown_total(void **state) {
    (void)state;
    ht_progress p;
    ht_progress_start(&p, "reading", 0);
    p.live = 0;
    p.last_shown -= 11;
    ht_progress_update(&p, 5, "");
    assert_string_equal(heard, "reading 5");
}

static void test_progress__quiet_says_nothing(void **state) {
    (void)state;
    ht_progress p;
    ht_log_set_level(HT_LOG_WARN);
    ht_progress_start(&p, "training", 10);
    p.live = 0;
    p.last_shown -= 11;
    ht_progress_update(&p, 5, NULL);
    ht_progress_finish(&p, 10, NULL);
    assert_int_equal(heard_count, 0);
}

/* A message goes above the live line, which is drawn again. */
static void test_progress__live_line_stays_last(void **state) {
    (void)state;
    char text[512] = "";
    int kept = dup(STDERR_FILENO);
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    ht_log_set_sink(NULL);
    ht_progress p;
    ht_progress_start(&p, "training", 10);
    p.live = 1;
    p.last_shown -= 1;
    ht_progress_update(&p, 5, NULL);
    ht_warn("careful");
    ht_progress_finish(&p, 10, "done");
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(file);
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = '\0';
    assert_string_equal(text, "\r\033[Ktraining 5/10"
                              "\r\033[Kwarning: careful\ntraining 5/10"
                              "\r\033[K"
                              "training 10/10  done  0s\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_progress__a_line_now_and_then, use_sink, restore_sink),
        cmocka_unit_test_setup_teardown(test_progress__time_left_since_the_first_update, use_sink,
                                        restore_sink),
        cmocka_unit_test_setup_teardown(test_progress__unknown_total, use_sink, restore_sink),
        cmocka_unit_test_setup_teardown(test_progress__quiet_says_nothing, use_sink, restore_sink),
        cmocka_unit_test_setup_teardown(test_progress__live_line_stays_last, use_sink, restore_sink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
