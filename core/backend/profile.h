/*
 * profile.h: where the time goes, by operation: --profile.
 *
 * ht_profile_start measures what this device can do and begins to count. From then on backend.c tells each call it passes
 * on: ht_profile_begin before, ht_profile_end with the call's work after. ht_backend_close prints the table. Off, it costs
 * one branch a call.
 *
 * The peaks, of this backend, threads and dtype, are the fastest of a few runs: a large product (FLOP/s), reading memory,
 * and copying it (bytes read and written a second). A call's least time is the larger of its FLOP at the products' peak
 * and its bytes at memory's; the fraction of the peak is the least time over the one it took. An operation whose data lies
 * in a cache can be faster than memory: above 1.
 *
 * Times are the host's: a backend that only enqueues its work is made to finish it (ops.h) before ht_profile_end.
 */
#ifndef HT_BACKEND_PROFILE_H
#define HT_BACKEND_PROFILE_H

#include "core/backend/backend.h"

/* What an operation's bytes are held against: nothing but FLOP counts, reading, or reading and writing. */
typedef enum ht_traffic { HT_TRAFFIC_NONE, HT_TRAFFIC_READ, HT_TRAFFIC_COPY } ht_traffic;

/* X(id, name in the table, traffic) */
#define HT_OPERATION_MAP(X)                                            \
    X(MATMUL_FORWARD, "product, forward", HT_TRAFFIC_NONE)             \
    X(MATMUL_ROWS, "product, rows", HT_TRAFFIC_READ)                   \
    X(MATMUL_BACKWARD_DATA, "product, backward data", HT_TRAFFIC_NONE) \
    X(MATMUL_BACKWARD_WEIGHT, "product, backward weight", HT_TRAFFIC_NONE) \
    X(ATTENTION_FORWARD, "attention, forward", HT_TRAFFIC_NONE)        \
    X(ATTENTION_BACKWARD, "attention, backward", HT_TRAFFIC_NONE)      \
    X(ATTENTION_CACHED, "attention, cached", HT_TRAFFIC_READ)          \
    X(EMBEDDING_FORWARD, "embedding, forward", HT_TRAFFIC_COPY)        \
    X(EMBEDDING_BACKWARD, "embedding, backward", HT_TRAFFIC_COPY)      \
    X(RMS_NORM_FORWARD, "norm, forward", HT_TRAFFIC_COPY)              \
    X(RMS_NORM_BACKWARD, "norm, backward", HT_TRAFFIC_COPY)            \
    X(ROPE, "rotary position", HT_TRAFFIC_COPY)                        \
    X(SWIGLU_FORWARD, "swiglu, forward", HT_TRAFFIC_COPY)              \
    X(SWIGLU_BACKWARD, "swiglu, backward", HT_TRAFFIC_COPY)            \
    X(TOKEN_LOSS, "token loss", HT_TRAFFIC_COPY)                       \
    X(ADAMW, "adamw", HT_TRAFFIC_COPY)                                 \
    X(SUM_SQUARES, "norm of gradients", HT_TRAFFIC_READ)               \
    X(SAMPLE, "sample", HT_TRAFFIC_READ)                               \
    X(GATHER_ROWS, "gather rows", HT_TRAFFIC_COPY)                     \
    X(SCATTER_ROWS, "scatter rows", HT_TRAFFIC_COPY)                   \
    X(COPY, "copy", HT_TRAFFIC_COPY)                                   \
    X(UPLOAD, "copy from host", HT_TRAFFIC_COPY)                       \
    X(DOWNLOAD, "copy to host", HT_TRAFFIC_COPY)                       \
    X(ZERO, "zero", HT_TRAFFIC_COPY)

typedef enum ht_operation {
#define HT_OPERATION_ENUM(id, name, traffic) HT_OPERATION_##id,
    HT_OPERATION_MAP(HT_OPERATION_ENUM)
#undef HT_OPERATION_ENUM
        HT_OPERATION_COUNT
} ht_operation;

/* Of a call: multiplications and additions of its products (0 elsewhere), and bytes of its operands, each once. */
typedef struct ht_work {
    double flop, bytes;
} ht_work;

/* Sums over the calls of an operation. */
typedef struct ht_profile_line {
    int64_t calls;
    double seconds, least; /* taken; at the peaks */
    double flop, bytes;
} ht_profile_line;

/* Stretches of a command that are of one kind, so that loading and saving are not taken for a part of them. */
#define HT_STRETCH_MAP(X)          \
    X(STEP, "training step")       \
    X(GENERATION, "generation")

typedef enum ht_stretch {
#define HT_STRETCH_ENUM(id, name) HT_STRETCH_##id,
    HT_STRETCH_MAP(HT_STRETCH_ENUM)
#undef HT_STRETCH_ENUM
        HT_STRETCH_COUNT
} ht_stretch;

typedef struct ht_profile_stretch {
    int64_t count;
    double seconds, operations, core; /* all; in operations; in products and attention */
} ht_profile_stretch;

typedef struct ht_profile {
    double product_peak, read_peak, copy_peak; /* FLOP/s, bytes/s, bytes read and written/s */
    double started;                            /* ht_now */
    ht_profile_line lines[HT_OPERATION_COUNT];
    ht_profile_stretch stretches[HT_STRETCH_COUNT];
    int depth, stretch_depth;                /* calls inside of others belong to the outermost */
    double call_started;                     /* ht_now */
    int together;                            /* calls are timed together; since call_started */
    ht_profile_stretch before;               /* sums when the outermost stretch began; its seconds are ht_now */
} ht_profile;

/* The row of a command's table; the configuration has an int `profile`. */
#define HT_PROFILE_OPTION(S) \
    HT_OPT_FLAG(S, profile, "profile", HT_OPTION_RESUME_SAFE, "print at the end, on stderr, how long each operation took")

/* Measures the peaks in the backend's dtype (about 0.2 s; 128 MiB, on a device 4 GiB) and starts counting, from
 * zero. HT_ERR_NOMEM: no memory to measure with. */
ht_status ht_profile_start(ht_backend *be, ht_error *err);
/* What has been counted, valid until the backend is closed; NULL: not started. */
const ht_profile *ht_backend_profile(const ht_backend *be);

/* Around a stretch; nothing when there is no profile. A stretch inside of another is a part of that one. */
void ht_profile_enter(ht_backend *be);
void ht_profile_leave(ht_backend *be, ht_stretch stretch);

/*
 * Between these, the calls of one operation are timed as one stretch: what starting and waiting for each takes is not in it,
 * as the host goes on while a device works. All that was asked for before is waited for, and all in between.
 */
ht_status ht_profile_together(ht_backend *be, ht_error *err);
ht_status ht_profile_apart(ht_backend *be, ht_operation operation, ht_error *err);

/* For backend.c. */
void ht_profile_begin(ht_profile *profile);
void ht_profile_end(ht_profile *profile, ht_operation operation, ht_work work);
/* Adds `calls` calls that took `seconds` together. */
void ht_profile_add(ht_profile *profile, ht_operation operation, int64_t calls, double seconds, ht_work work);

const char *ht_operation_text(ht_operation operation);
ht_traffic ht_operation_traffic(ht_operation operation);
int ht_operation_is_core(ht_operation operation); /* a product or attention */

/* Logs the table: a line an operation that was called, time outside of operations, and each kind of stretch. */
void ht_profile_report(const ht_backend *be);

#endif
