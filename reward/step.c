#include "reward/step.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

ht_status ht_reward_pass_init(ht_reward_pass *pass, const ht_llama *model, ht_activations *acts,
                              int64_t max_tokens, int64_t max_sequences, ht_error *err) {
    ht_status status = HT_OK;
    *pass = (ht_reward_pass){
        .model = model, .acts = acts, .max_tokens = max_tokens, .max_sequences = max_sequences};
    HT_TRY(ht_batch_init(&pass->batch, max_tokens, max_sequences, err));
    HT_TRY(ht_calloc(&pass->rows, (size_t)max_sequences, sizeof(int32_t), err));
    HT_TRY(ht_calloc(&pass->scores, (size_t)max_sequences, sizeof(float), err));
    HT_TRY(ht_calloc(&pass->gradients, (size_t)max_sequences, sizeof(float), err));
    HT_TRY(ht_calloc(&pass->members, (size_t)max_sequences / 2 + 1, sizeof(int64_t), err));
done:
    if (status != HT_OK) ht_reward_pass_free(pass);
    return status;
}

void ht_reward_pass_free(ht_reward_pass *pass) {
    ht_batch_free(&pass->batch);
    free(pass->rows);
    free(pass->scores);
    free(pass->gradients);
    free(pass->members);
    memset(pass, 0, sizeof *pass);
}

/* What the pieces of a step share. */
typedef struct step_context {
    const ht_reward_loss *loss;
    const ht_pair_set *set;
    ht_reward_denominators denominators;
    ht_reward_sums sums;
    ht_params *grads;
} step_context;

/* Scores of the batch's sequences, each read at its last token. */
static ht_status forward(ht_reward_pass *pass, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t s = 0; s < pass->batch.n_sequences; s++)
        pass->rows[s] = pass->batch.seq_start[s + 1] - 1;
    HT_TRY(ht_llama_forward(pass->model, pass->acts, &pass->batch, err));
    HT_TRY(
        ht_scalar_forward(pass->model, pass->acts, pass->rows, pass->batch.n_sequences, pass->scores, err));
done:
    return status;
}

/* From pass->gradients of the batch that was last run forward. */
static ht_status backward(ht_reward_pass *pass, ht_params *grads, ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_scalar_backward(pass->model, pass->acts, pass->rows, pass->batch.n_sequences, pass->gradients,
                              grads, err));
    HT_TRY(ht_llama_backward(pass->model, pass->acts, grads, err));
done:
    return status;
}

static ht_pair_scores pair_loss(step_context *step, int64_t pair, double chosen, double rejected) {
    const ht_pair *p = &step->set->pairs[pair];
    return ht_reward_pair_loss(step->loss, &step->denominators, p->rating, (ht_safety)p->safety,
                               (ht_pair_scores){chosen, rejected}, &step->sums);
}

/* Runs the collected pairs and empties the batch. */
static ht_status run_batch(ht_reward_pass *pass, step_context *step, ht_error *err) {
    ht_status status = HT_OK;
    if (!pass->batch.n_sequences) return HT_OK;
    HT_TRY(forward(pass, err));
    for (int64_t i = 0; i < pass->batch.n_sequences / 2; i++) {
        ht_pair_scores gradient =
            pair_loss(step, pass->members[i], (double)pass->scores[2 * i], (double)pass->scores[2 * i + 1]);
        pass->gradients[2 * i] = (float)gradient.chosen;
        pass->gradients[2 * i + 1] = (float)gradient.rejected;
    }
    HT_TRY(backward(pass, step->grads, err));
    ht_batch_clear(&pass->batch);
done:
    return status;
}

static ht_status forward_alone(ht_reward_pass *pass, ht_example sequence, ht_error *err) {
    ht_batch_clear(&pass->batch);
    if (!ht_batch_add(&pass->batch, sequence.tokens, sequence.length))
        return ht_fail(err, HT_ERR_USAGE,
                       "comparison %" PRId64 ": a sequence of %" PRId64
                       " tokens is above train.micro_tokens = %" PRId64,
                       sequence.id, sequence.length, pass->max_tokens);
    return forward(pass, err);
}

/* A pair that is larger than a pass: three forward passes instead of two. */
static ht_status run_in_pieces(ht_reward_pass *pass, step_context *step, int64_t pair, ht_error *err) {
    ht_status status = HT_OK;
    ht_example chosen = ht_pair_chosen(step->set, pair), rejected = ht_pair_rejected(step->set, pair);
    HT_TRY(forward_alone(pass, chosen, err));
    double chosen_score = (double)pass->scores[0];
    HT_TRY(forward_alone(pass, rejected, err));
    ht_pair_scores gradient = pair_loss(step, pair, chosen_score, (double)pass->scores[0]);
    pass->gradients[0] = (float)gradient.rejected;
    HT_TRY(backward(pass, step->grads, err));
    HT_TRY(forward_alone(pass, chosen, err));
    pass->gradients[0] = (float)gradient.chosen;
    HT_TRY(backward(pass, step->grads, err));
    ht_batch_clear(&pass->batch);
done:
    return status;
}

static ht_status add_pair(ht_reward_pass *pass, step_context *step, int64_t pair, ht_error *err) {
    ht_status status = HT_OK;
    ht_example chosen = ht_pair_chosen(step->set, pair), rejected = ht_pair_rejected(step->set, pair);
    int64_t both = chosen.length + rejected.length;
    if (pass->batch.n_tokens + both > pass->max_tokens || pass->batch.n_sequences + 2 > pass->max_sequences)
        HT_TRY(run_batch(pass, step, err));
    if (both > pass->max_tokens) {
        HT_TRY(run_in_pieces(pass, step, pair, err));
    } else {
        pass->members[pass->batch.n_sequences / 2] = pair;
        ht_batch_add(&pass->batch, chosen.tokens, chosen.length);
        ht_batch_add(&pass->batch, rejected.tokens, rejected.length);
    }
done:
    return status;
}

/* The sums of all ranks. */
static ht_status add_ranks(ht_comm *comm, ht_reward_sums *sums, int64_t *tokens, ht_error *err) {
    double values[] = {sums->ranking, sums->auxiliary, sums->correct, sums->chosen, sums->rejected, (double)*tokens};
    ht_status status = ht_comm_sum(comm, values, sizeof values / sizeof *values, err);
    *sums = (ht_reward_sums){values[0], values[1], values[2], values[3], values[4]};
    *tokens = (int64_t)values[5];
    return status;
}

ht_status ht_reward_step(ht_reward_pass *pass, const ht_reward_loss *loss, const ht_pair_set *set,
                         const int64_t *order, int64_t count, ht_params *grads, ht_reward_result *result,
                         ht_error *err) {
    ht_status status = HT_OK;
    step_context step = {.loss = loss, .set = set, .grads = grads, .denominators.pairs = count};
    ht_safety_labels labels;
    int64_t first, end;
    memset(result, 0, sizeof *result);
    ht_batch_clear(&pass->batch);
    for (int64_t i = 0; i < count; i++)
        step.denominators.labelled += ht_reward_labels((ht_safety)set->pairs[order[i]].safety, &labels);
    ht_comm_part(pass->comm, count, &first, &end);
    for (int64_t i = first; i < end; i++) {
        HT_TRY(add_pair(pass, &step, order[i], err));
        result->tokens += ht_pair_chosen(set, order[i]).length + ht_pair_rejected(set, order[i]).length;
    }
    HT_TRY(run_batch(pass, &step, err));
    HT_TRY(add_ranks(pass->comm, &step.sums, &result->tokens, err));
    double pairs = (double)count;
    result->labelled = step.denominators.labelled;
    result->ranking_loss = step.sums.ranking / pairs;
    result->aux_loss = result->labelled ? step.sums.auxiliary / (double)result->labelled : 0;
    result->loss = result->ranking_loss + loss->aux_weight * result->aux_loss;
    result->accuracy = step.sums.correct / pairs;
    result->chosen_score = step.sums.chosen / pairs;
    result->rejected_score = step.sums.rejected / pairs;
done:
    return status;
}
