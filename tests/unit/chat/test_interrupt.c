/* SIGINT and SIGTERM in the middle of an answer; a stream that fails. */
#include "tests/unit/chat/support.h"

#include <errno.h>
#include <signal.h>

#include "core/base/signals.h"

/* A stream that sends this process a signal, or fails, at its n-th write. */
typedef struct tripwire {
    int writes, at, signal; /* signal 0: fail */
    char text[4096];
    size_t size;
} tripwire;

static ssize_t trip(void *cookie, const char *data, size_t size) {
    tripwire *wire = cookie;
    if (++wire->writes == wire->at) {
        if (!wire->signal) {
            errno = ENOSPC;
            return 0;
        }
        raise(wire->signal);
    }
    memcpy(wire->text + wire->size, data, size);
    wire->size += size;
    return (ssize_t)size;
}

static outcome run_tripped(const world *w, tripwire *wire, const char *input, const char *const *words) {
    FILE *out = fopencookie(wire, "w", (cookie_io_functions_t){.write = trip});
    ht_signals_install();
    outcome o = run_chat_to(w, input, words, out);
    fclose(out);
    ht_stop_forget();
    return o;
}

static int count(const char *text, const char *part) {
    int n = 0;
    for (; (text = strstr(text, part)); text++)
        n++;
    return n;
}

static void test_interrupt__sigint_stops_the_answer_not_the_dialogue(void **state) {
    const world *w = *state;
    tripwire wire = {.at = 3, .signal = SIGINT};
    outcome o = run_tripped(w, &wire, "Hello\nHello\n",
                            (const char *const[]){"--max-new-tokens", "20", "--ignore-eos", NULL});
    assert_run(&o);
    assert_int_equal(count(said, "ended by interrupt"), 1);
    assert_int_equal(count(said, "20 tokens, ended by length"), 1);
}

static void test_interrupt__sigterm_ends_the_dialogue(void **state) {
    const world *w = *state;
    tripwire wire = {.at = 3, .signal = SIGTERM};
    outcome o = run_tripped(w, &wire, "Hello\nHello\n",
                            (const char *const[]){"--max-new-tokens", "20", "--ignore-eos", NULL});
    assert_int_equal(o.status, HT_TERMINATED);
    assert_int_equal(count(said, "ended by"), 1);
}

static void test_interrupt__one_prompt_keeps_what_was_written(void **state) {
    const world *w = *state;
    tripwire wire = {.at = 3, .signal = SIGINT}, whole = {.at = -1};
    const char *const words[] = {"--prompt", "Hello", "--max-new-tokens", "20", "--ignore-eos", NULL};
    outcome all = run_tripped(w, &whole, "", words);
    assert_run(&all);
    outcome o = run_tripped(w, &wire, "", words);
    assert_int_equal(o.status, HT_INTERRUPTED);
    assert_true(wire.size > 1 && wire.size < whole.size);
    assert_memory_equal(wire.text, whole.text, wire.size - 1); /* then its newline */
}

static void test_interrupt__a_stream_that_fails_is_an_error(void **state) {
    const world *w = *state;
    tripwire wire = {.at = 2};
    outcome o = run_tripped(w, &wire, "", (const char *const[]){"--prompt", "Hello", NULL});
    assert_int_equal(o.status, HT_ERR_IO);
    assert_non_null(strstr(o.message, "cannot write the answer"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interrupt__sigint_stops_the_answer_not_the_dialogue),
        cmocka_unit_test(test_interrupt__sigterm_ends_the_dialogue),
        cmocka_unit_test(test_interrupt__one_prompt_keeps_what_was_written),
        cmocka_unit_test(test_interrupt__a_stream_that_fails_is_an_error),
    };
    return cmocka_run_group_tests(tests, world_make, world_drop);
}
