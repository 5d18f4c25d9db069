/*
 * ranks.h: tests that start themselves under mpirun. The program is started again with a scenario's name; each rank runs it
 * and checks what it has; the test looks at the exit code and at what was said. Include after cmocka.h.
 */
#ifndef HT_TEST_RANKS_H
#define HT_TEST_RANKS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/rng.h"
#include "core/comm/comm.h"

#define RANKS 3

/* Ends the rank: a wrong result is a failure that names its line. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) return ht_fail(err, HT_ERR_RUN, "line %d: %s", __LINE__, #condition);                       \
    } while (0)
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        ht_status status_ = (call);                                                                                    \
        if (status_ != HT_OK) return status_;                                                                          \
    } while (0)

typedef struct scenario {
    const char *name;
    ht_status (*run)(ht_comm *comm, ht_error *err);
} scenario;

/* Element i of rank's vector: of magnitudes so different that a sum over ranks in another order has other bits. */
static inline float ranks_value(int rank, int64_t i) {
    return ldexpf((float)ht_rng_uniform(1, (uint64_t)rank, (uint64_t)i) - 0.5f, (int)((i + 7 * rank) % 24));
}

static inline float ranks_sum(int64_t i) {
    return (ranks_value(0, i) + ranks_value(1, i)) + ranks_value(2, i);
}

/* The body of a rank's main: what is said by rank 0 alone, and the exit code of all. */
static inline int ranks_run(const char *name, const scenario *scenarios, size_t count) {
    ht_error err = HT_ERROR_INIT;
    ht_comm *comm = NULL;
    ht_status status = ht_comm_open(&comm, &err);
    for (size_t i = 0; status == HT_OK && i < count; i++)
        if (strcmp(name, scenarios[i].name) == 0) status = scenarios[i].run(comm, &err);
    status = ht_comm_close(comm, status, &err);
    if (ht_log_get_level() != HT_LOG_SILENT) printf("%s: %s\n", name, status ? err.message : "well");
    return (int)status;
}

/* 1 when ranks can be started. */
static inline int ranks_possible(void) {
    return system("command -v mpirun > /dev/null") == 0;
}

/* Runs a scenario under mpirun: its exit code must be `code`, and rank 0 must have said "NAME: TEXT" once. */
static inline void ranks_check(const char *name, int code, const char *text) {
    char program[1024] = "", command[1280], output[65536], wanted[256];
    assert_true(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    snprintf(command, sizeof command, "mpirun -n %d '%s' %s 2>&1", RANKS, program, name);
    snprintf(wanted, sizeof wanted, "%s: %s\n", name, text);
    FILE *said = popen(command, "r");
    assert_non_null(said);
    size_t size = fread(output, 1, sizeof output - 1, said);
    output[size] = '\0';
    int result = pclose(said);
    const char *found = strstr(output, wanted);
    if (!WIFEXITED(result) || WEXITSTATUS(result) != code || !found || strstr(found + 1, wanted))
        fail_msg("%s: wanted exit code %d and once \"%s\", got %d and: %s", name, code, text,
                 WIFEXITED(result) ? WEXITSTATUS(result) : -1, output);
}

#endif
