/*
 * do.h: DO(call) makes a call that must go well; it gets `&err_`. After cmocka.h.
 */
#ifndef HT_TESTS_UNIT_DO_H
#define HT_TESTS_UNIT_DO_H

#include "core/base/error.h"

#define DO(call)                                                                                             \
    do {                                                                                                     \
        ht_error err_ = HT_ERROR_INIT;                                                                       \
        ht_status status_ = (call);                                                                          \
        assert_string_equal(err_.message, "");                                                               \
        assert_int_equal(status_, HT_OK);                                                                    \
    } while (0)

#endif
