/*
 * scoring.h: scores by a reward model for the database's responses: reward apply, rejection, evaluate.
 */
#ifndef HT_GENERATE_SCORING_H
#define HT_GENERATE_SCORING_H

#include "core/comm/comm.h"
#include "core/generate/scorer.h"
#include "core/store/store.h"

/* What is to be scored by whom. Pointers are borrowed. */
typedef struct ht_scoring {
    ht_store *store;
    ht_backend *be;
    ht_comm *comm;      /* of each chunk every rank scores its part, and rank 0 stores the scores; NULL: there is one rank */
    const char *folder; /* of the reward model */
    int64_t model_id;   /* its row in the database */
    int64_t pass_tokens;    /* as ht_scorer_open */
    ht_store_filter filter; /* of the responses; whose scores they carry is set by ht_score_responses */
    /* NULL: all that fit the filter; else 1 for a row that counts. It is asked about every row, in the order of the
     * dialogues, twice. */
    int (*counts)(void *context, const ht_scored_row *row);
    void *context;
    const char *label; /* of the progress line */
} ht_scoring;

typedef struct ht_scoring_result {
    int64_t scored, present; /* now; before */
    double sum, squares;     /* of the scores given now */
} ht_scoring_result;

/*
 * Scores every response that the model has not scored; when there is none, the model is not loaded. Rows are taken in
 * chunks, cut by their number whether scored or not, and a chunk's scores are one transaction: a command that is
 * stopped and repeated runs the batches it would have run at first. How many responses were sampled with another
 * tokenizer, and so are encoded from their text, is said in the log.
 *
 * Errors: HT_ERR_DATA for a language model, or a prompt and response above the model's positions or pass_tokens, naming
 * response, length and limit; HT_ERR_RUN for a score that is not finite; a signal's status, after a chunk.
 */
ht_status ht_score_responses(const ht_scoring *scoring, ht_scoring_result *result, ht_error *err);

#endif
