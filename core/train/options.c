#include "core/train/train.h"

const char *const ht_train_schedule_names[] = {"constant", "cosine", NULL};

const char *const ht_on_nonfinite_names[] = {"stop", "skip", NULL};

_Static_assert(HT_SCHEDULE_CONSTANT == 0 && HT_SCHEDULE_COSINE == 1,
               "ht_train_schedule_names is in the order of ht_schedule_kind");

ht_trainable_options ht_train_trainable_options(const ht_train_config *config, int number) {
    return (ht_trainable_options){
        .state = (ht_adamw_state)config->state, .seed = (uint64_t)config->seed, .number = number};
}
