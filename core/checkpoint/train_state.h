/*
 * train_state.h: everything a stopped run needs to go on with the same bits.
 *
 * FOLDER/step-NNNNNNNN/ holds state.json (step, stage's own values, resolved configuration, data hash, checksums of the
 * files) and one safetensors file a trained model with its weights, m and v in f32. It is written under a temporary
 * name, fsynced and renamed. The newest complete one counts; a damaged one is reported (a warning that names the file and
 * the checksum) and the one before it is used.
 */
#ifndef HT_CHECKPOINT_TRAIN_STATE_H
#define HT_CHECKPOINT_TRAIN_STATE_H

#include <jansson.h>

#include "core/model/layout.h"

/* One named group of tensors, e.g. "policy.weights", "policy.m". */
typedef struct ht_state_part {
    const char *name;
    ht_params *params; /* f32 */
} ht_state_part;

/* Saves under `folder`; removes all but the newest `keep_last` afterwards. `values` is borrowed. */
ht_status ht_train_state_save(const char *folder, int64_t step, json_t *values, const ht_state_part *parts,
                              int64_t part_count, ht_backend *be, int64_t keep_last, ht_error *err);

/* Finds the newest sound state: *step = -1 when there is none. *values is a new reference. */
ht_status ht_train_state_find(const char *folder, int64_t *step, json_t **values, ht_error *err);

/* Loads the tensors of that step into the parts. */
ht_status ht_train_state_load(const char *folder, int64_t step, const ht_state_part *parts, int64_t part_count,
                              ht_backend *be, ht_error *err);

#endif
