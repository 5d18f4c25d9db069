/*
 * score.h: judging the responses of a run by a reward model.
 */
#ifndef HT_EVALUATE_SCORE_H
#define HT_EVALUATE_SCORE_H

#include "evaluate/evaluation.h"

typedef struct ht_score_model {
    const char *folder;
    int64_t id;
} ht_score_model;

/* Scores of those responses of the run that have none by this model. HT_ERR_RUN for a score that is not finite. */
ht_status ht_score_run(const ht_evaluator *evaluator, int64_t run_id, ht_score_model model, ht_error *err);

/* Appends the responses of evaluation->run_id with both scores. */
ht_status ht_score_read(ht_evaluation *evaluation, const ht_evaluator *evaluator, ht_error *err);

#endif
