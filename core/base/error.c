#include "core/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *ht_status_text(ht_status status) {
    switch (status) {
#define HT_STATUS_CASE(name, code, text)                                                                      \
    case HT_##name:                                                                                           \
        return text;
        HT_STATUS_MAP(HT_STATUS_CASE)
#undef HT_STATUS_CASE
    }
    return "unknown status";
}

ht_status ht_fail(ht_error *err, ht_status status, const char *format, ...) {
    if (err->status != HT_OK) return err->status;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (length >= (int)sizeof err->message) memcpy(err->message + sizeof err->message - 4, "...", 4);
    err->status = status;
    return status;
}

ht_status ht_fail_in(ht_error *err, const char *format, ...) {
    char inner[sizeof err->message];
    memcpy(inner, err->message, sizeof inner);
    va_list args;
    va_start(args, format);
    int used = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof err->message - 3) {
        size_t room = sizeof err->message - (size_t)used - 3, length = strlen(inner);
        if (length > room) length = room;
        memcpy(err->message + used, ": ", 2);
        memcpy(err->message + used + 2, inner, length);
        err->message[(size_t)used + 2 + length] = '\0';
    }
    return err->status;
}
