/*
 * error.h: status codes and the error a call reports.
 *
 * Every function that can fail returns an ht_status and takes an `ht_error *` as its last argument (never NULL).
 * The first failure is kept: a later ht_fail on the same error changes nothing. Messages are lower case, quote
 * their subject, and say the value and what is allowed.
 */
#ifndef HT_BASE_ERROR_H
#define HT_BASE_ERROR_H

/* One table: enum, exit codes and texts cannot drift apart. */
#define HT_STATUS_MAP(X)                                                                                      \
    X(OK, 0, "success")                                                                                       \
    X(ERR_RUN, 1, "failed")                                                                                   \
    X(ERR_USAGE, 2, "invalid option or config")                                                               \
    X(ERR_DATA, 3, "malformed or unfit data")                                                                 \
    X(ERR_IO, 4, "input/output error")                                                                        \
    X(ERR_NOMEM, 5, "out of host or device memory")                                                           \
    X(TIME_UP, 75, "out of time (max_minutes) after saving")                                                  \
    X(INTERRUPTED, 130, "interrupted (SIGINT) after saving")                                                  \
    X(TERMINATED, 143, "terminated (SIGTERM) after saving")

typedef enum ht_status {
#define HT_STATUS_ENUM(name, code, text) HT_##name = code,
    HT_STATUS_MAP(HT_STATUS_ENUM)
#undef HT_STATUS_ENUM
} ht_status;

typedef struct ht_error {
    ht_status status; /* HT_OK: no failure yet */
    char message[1024];
} ht_error;

#define HT_ERROR_INIT {HT_OK, ""}

/* Text of a status from the table. */
const char *ht_status_text(ht_status status);

/* 1 for the statuses of a program that did as it was asked and stopped (signals.h): no failure. */
static inline int ht_status_is_stop(ht_status status) {
    return status == HT_INTERRUPTED || status == HT_TERMINATED || status == HT_TIME_UP;
}

/* Records the first failure (format as printf) and returns `status`. */
ht_status ht_fail(ht_error *err, ht_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Puts context in front of the message: "FORMAT: message". Returns err->status. */
ht_status ht_fail_in(ht_error *err, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* Returns to the `done:` label of the calling function with its variable `status` set, unless `call` succeeds. */
#define HT_TRY(call)                                                                                          \
    do {                                                                                                      \
        status = (call);                                                                                      \
        if (status != HT_OK) goto done;                                                                       \
    } while (0)

#endif
