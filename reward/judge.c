/*
 * What evaluate and apply share: a reward model opened for scoring.
 */
#include <string.h>

#include "reward/reward.h"

ht_status ht_reward_judge_open(ht_reward_judge *judge, const ht_reward_place *place, ht_comm *comm, ht_error *err) {
    ht_status status = HT_OK;
    *judge = (ht_reward_judge){.comm = comm};
    HT_TRY(ht_backend_open_device(&judge->be, (ht_backend_kind)place->backend, ht_comm_local_rank(comm),
                                  (int)place->threads, err));
    HT_TRY(ht_backend_choose_dtype(judge->be, (ht_dtype_choice)place->dtype, err));
    HT_TRY(ht_scorer_open(&judge->scorer, judge->be, place->model, ht_backend_dtype(judge->be), place->pass_tokens,
                          err));
    judge->chat = (ht_chat){judge->scorer.tokenizer, HT_TEMPLATE_LLAMA2};
done:
    if (status != HT_OK) ht_reward_judge_close(judge);
    return status;
}

void ht_reward_judge_close(ht_reward_judge *judge) {
    ht_scorer_free(&judge->scorer);
    if (judge->be) ht_backend_close(judge->be);
    memset(judge, 0, sizeof *judge);
}
