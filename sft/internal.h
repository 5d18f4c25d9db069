/*
 * internal.h: what the files of sft/ share.
 */
#ifndef SFT_INTERNAL_H
#define SFT_INTERNAL_H

#include "sft/sft.h"

/* Fills data->hash from both sets, and says how much there is. HT_ERR_DATA when nothing is there to train on.
 */
ht_status ht_sft_data_finish(ht_sft_data *data, ht_error *err);

/* HT_INTERRUPTED or HT_TERMINATED, with a message, when the program was asked to stop while reading data. */
ht_status ht_sft_check_stop(ht_error *err);

#endif
