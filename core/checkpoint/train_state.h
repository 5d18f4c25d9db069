/*
 * train_state.h: everything a stopped run needs to go on with the same bits.
 *
 * FOLDER/step-NNNNNNNN/ holds state.json (step, the stage's own values, the checksum of each file, and one of
 * itself) and one safetensors file a trained model with its weights and optimizer state. It is written under a
 * temporary name, fsynced and renamed. The newest sound one counts; a damaged one is reported (a warning that
 * names the file and the checksum) and the one before it is used.
 */
#ifndef HT_CHECKPOINT_TRAIN_STATE_H
#define HT_CHECKPOINT_TRAIN_STATE_H

#include <jansson.h>

#include "core/model/layout.h"

/* One named group of tensors, "MODEL.KIND", e.g. "policy.weights", "policy.m": tensors KIND.NAME of
 * MODEL.safetensors. */
typedef struct ht_state_part {
    const char *name;
    ht_params *params;
} ht_state_part;

/*
 * Saves under `folder`, replacing a state of the same step. Afterwards removes what saves that were cut short
 * have left, states of later steps (they belong to a line that this run has left: a damaged newest one it
 * resumed before), and all but the newest `keep_last` (at least 1). `values` is borrowed: numbers come back
 * exactly.
 */
ht_status ht_train_state_save(const char *folder, int64_t step, json_t *values, const ht_state_part *parts,
                              int64_t part_count, ht_backend *be, int64_t keep_last, ht_error *err);

/*
 * Finds the newest sound state: *step = -1 and *values = NULL when the folder holds none at all. *values is a
 * new reference. Reads every byte of it. HT_ERR_DATA when there are states and every one is damaged: starting
 * over would silently lose the run.
 */
ht_status ht_train_state_find(const char *folder, int64_t *step, json_t **values, ht_error *err);

/* Loads the tensors of that step, which ht_train_state_find has found sound, into the parts. HT_ERR_DATA when
 * names, shapes or dtypes differ from the parts' (another model or optimizer); nothing is loaded then. */
ht_status ht_train_state_load(const char *folder, int64_t step, const ht_state_part *parts,
                              int64_t part_count, ht_backend *be, ht_error *err);

#endif
