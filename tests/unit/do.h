/*
 * do.h: DO(call) makes a call that must go well, FAILS(call, status, part) one that must fail with this status and a message that says
 * `part`; they get `&err_`. After cmocka.h.
 */
#ifndef HT_TESTS_UNIT_DO_H
#define HT_TESTS_UNIT_DO_H

#include <string.h>

#include "core/base/error.h"

#define DO(call)                                                                                             \
    do {                                                                                                     \
        ht_error err_ = HT_ERROR_INIT;                                                                       \
        ht_status status_ = (call);                                                                          \
        assert_string_equal(err_.message, "");                                                               \
        assert_int_equal(status_, HT_OK);                                                                    \
    } while (0)

#define FAILS(call, wanted, part)                                                                            \
    do {                                                                                                     \
        ht_error err_ = HT_ERROR_INIT;                                                                       \
        ht_status status_ = (call);                                                                          \
        if (!strstr(err_.message, part)) fail_msg("\"%s\" does not say \"%s\"", err_.message, part);         \
        assert_int_equal(status_, wanted);                                                                   \
        assert_int_equal(err_.status, wanted);                                                               \
    } while (0)

#endif
