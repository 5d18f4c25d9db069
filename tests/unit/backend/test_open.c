/*
 * What opening a backend gives where there is no GPU, and on processors with less than this one has. oneDNN finds out once a process:
 * each case is a process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/backend/backend.h"
#include "core/base/log.h"

static int to_parent;

static void tell(const char *text) {
    if (write(to_parent, text, strlen(text)) < 0) exit(2);
}

static void tell_line(ht_log_level level, const char *line) {
    (void)level;
    tell(line);
}

/* The child's part: what opening a backend and choosing say. */
static void choose(ht_dtype_choice choice) {
    ht_error err = HT_ERROR_INIT;
    ht_backend *be = NULL;
    ht_log_set_sink(tell_line);
    if (ht_backend_open(&be, HT_BACKEND_CPU, 1, &err) == HT_OK && ht_backend_choose_dtype(be, choice, &err) == HT_OK)
        tell(ht_backend_dtype(be) == HT_BF16 ? " [bf16]" : " [f32]");
    tell(err.message);
    ht_backend_close(be);
    exit((int)err.status);
}

/* With an environment variable set, the status and what was said. */
static int run(const char *variable, const char *value, ht_dtype_choice choice, char *said, size_t size) {
    int ends[2], ended;
    size_t used = 0;
    ssize_t got;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL); /* or the child would write it again */
    pid_t child = fork();
    if (child == 0) {
        to_parent = ends[1];
        setenv(variable, value, 1);
        choose(choice);
    }
    close(ends[1]);
    while ((got = read(ends[0], said + used, size - 1 - used)) > 0)
        used += (size_t)got;
    said[used] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFEXITED(ended));
    return WEXITSTATUS(ended);
}

#ifdef __x86_64__
static int any(void) {
    return 1;
}
static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}
static int has_bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16") && !__builtin_cpu_is("amd");
}

static void test_open__dtype_follows_the_processor(void **state) {
    (void)state;
    static const struct {
        const char *isa;
        int (*present)(void);
        ht_dtype_choice choice;
        ht_status status;
        const char *says;
    } cases[] = {
        {"AVX2", any, HT_DTYPE_BF16, HT_ERR_USAGE, "dtype = bf16: this processor does not multiply bf16; use f32"},
        {"AVX2", any, HT_DTYPE_AUTO, HT_OK, "computing in f32: this processor does not multiply bf16 [f32]"},
        {"AVX2", any, HT_DTYPE_F32, HT_OK, " [f32]"},
        {"AVX512_CORE", has_avx512, HT_DTYPE_AUTO, HT_OK, "computing in f32: this processor has no bf16 instructions [f32]"},
        {"AVX512_CORE", has_avx512, HT_DTYPE_BF16, HT_OK, " [bf16]"},
        {"AVX512_CORE_BF16", has_bf16, HT_DTYPE_AUTO, HT_OK,
         "computing in f32: without AMX this processor multiplies bf16 no faster than f32 [f32]"},
        {"AVX512_CORE_BF16", has_bf16, HT_DTYPE_BF16, HT_OK, " [bf16]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char said[1024];
        if (!cases[i].present()) continue;
        assert_int_equal(run("ONEDNN_MAX_CPU_ISA", cases[i].isa, cases[i].choice, said, sizeof said), cases[i].status);
        assert_string_equal(said, cases[i].says);
    }
}
#endif

static void test_open__an_instruction_set_that_is_not_there_is_refused(void **state) {
    (void)state;
    char said[1024];
    assert_int_equal(run("HALTER_CPU_ISA", "avx3", HT_DTYPE_F32, said, sizeof said), HT_ERR_USAGE);
    assert_non_null(strstr(said, "HALTER_CPU_ISA = \"avx3\" is not one that this processor has: "));
    assert_string_equal(said + strlen(said) - strlen("generic"), "generic");
    assert_int_equal(run("HALTER_CPU_ISA", "generic", HT_DTYPE_F32, said, sizeof said), HT_OK);
    assert_string_equal(said, " [f32]");
}

static void test_open__cuda_without_a_gpu_is_refused(void **state) {
    (void)state;
    ht_error err = HT_ERROR_INIT;
    ht_backend *be;
    if (ht_backend_open(&be, HT_BACKEND_CUDA, 1, &err) == HT_OK) { /* there is one */
        ht_backend_close(be);
        skip();
    }
    assert_null(be);
    assert_int_equal(err.status, HT_ERR_USAGE);
    assert_memory_equal(err.message, "backend \"cuda\"", 14);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#ifdef __x86_64__
        cmocka_unit_test(test_open__dtype_follows_the_processor),
#endif
        cmocka_unit_test(test_open__cuda_without_a_gpu_is_refused),
        cmocka_unit_test(test_open__an_instruction_set_that_is_not_there_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
