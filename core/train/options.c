#include "core/train/train.h"

const char *const ht_train_schedule_names[] = {"constant", "cosine", NULL};

_Static_assert(HT_SCHEDULE_CONSTANT == 0 && HT_SCHEDULE_COSINE == 1,
               "ht_train_schedule_names is in the order of ht_schedule_kind");
