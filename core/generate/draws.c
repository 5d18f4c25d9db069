#include "core/generate/draws.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/generate/samples.h"

/* --- what is there ----------------------------------------------------------------------------------------
 */

/* First draw of a prompt whose dialogue is `dialog` or a later one, from position `from` on. */
static int64_t seek(const ht_draw_list *list, int64_t from, int64_t dialog) {
    while (from < list->count && list->prompts->dialog_ids[list->draws[from].prompt] < dialog)
        from++;
    return from;
}

/* Longest response the list allows to a prompt. */
static int64_t longest_response(const ht_draw_list *list, int64_t prompt) {
    int64_t length, room;
    ht_prompt_tokens(list->prompts, prompt, &length);
    room = list->max_positions - length;
    return room < list->max_new_tokens ? room : list->max_new_tokens;
}

static ht_status match(ht_draw_entry *draw, const ht_draw_list *list, const ht_response_row *row,
                       ht_error *err) {
    int64_t longest = longest_response(list, draw->prompt);
    if (row->token_count > longest || (row->finish == HT_FINISH_LENGTH && row->token_count != longest))
        return ht_fail(err, HT_ERR_DATA,
                       "response %" PRId64 " has %" PRId64 " tokens%s, but this command's longest is %" PRId64
                       ": it was drawn with another max_new_tokens; take that one, or another seed",
                       row->id, row->token_count, row->finish == HT_FINISH_LENGTH ? " and was cut there" : "",
                       longest);
    draw->response_id = row->id;
    return HT_OK;
}

ht_status ht_draws_find(ht_draw_list *list, ht_store *store, int64_t *missing, ht_error *err) {
    ht_status status = HT_OK;
    ht_store_cursor *cursor = NULL;
    ht_scored_row row;
    int64_t at = 0, known = 0;
    int found;
    ht_store_filter filter = {
        .model_id = list->model_id, .first_round = list->round, .end_round = list->round + 1};
    *missing = list->count;
    HT_TRY(ht_store_read(store, HT_STORE_RESPONSES, &filter, &cursor, err));
    for (;;) {
        HT_TRY(ht_store_next_response(cursor, &row, &found, err));
        if (!found) break;
        const ht_response_row *r = &row.response;
        at = seek(list, at, r->dialog_id);
        if (r->run_id || r->step || r->seed != list->seed || r->top_p != list->top_p) continue;
        for (int64_t i = at;
             i < list->count && list->prompts->dialog_ids[list->draws[i].prompt] == r->dialog_id; i++) {
            ht_draw_entry *draw = &list->draws[i];
            if (draw->k != r->k || draw->temperature != r->temperature) continue;
            HT_TRY(match(draw, list, r, err));
            known++;
        }
    }
    *missing = list->count - known;
done:
    ht_store_cursor_free(cursor);
    return status;
}

/* --- drawing ----------------------------------------------------------------------------------------------
 */

static ht_request make_request(const ht_draw_list *list, const ht_draw_entry *draw) {
    int64_t length;
    const int32_t *tokens = ht_prompt_tokens(list->prompts, draw->prompt, &length);
    int64_t dialog = list->prompts->dialog_ids[draw->prompt];
    return (ht_request){
        .prompt = tokens,
        .prompt_length = length,
        .max_new_tokens = list->max_new_tokens,
        .temperature = (float)draw->temperature,
        .top_p = (float)list->top_p,
        .seed = (uint64_t)list->seed,
        .stream = ht_rng_stream(HT_RNG_SAMPLE, (uint64_t)dialog, (uint64_t)draw->k),
    };
}

static ht_status store_chunk(const ht_draw_list *list, ht_store *store, const ht_policy *policy,
                             ht_draw_entry *const *draws, const ht_completion *completions, int64_t count,
                             ht_error *err) {
    ht_status status = HT_OK;
    HT_TRY(ht_store_begin(store, err));
    for (int64_t i = 0; i < count; i++) {
        ht_response_row settings = {
            .dialog_id = list->prompts->dialog_ids[draws[i]->prompt],
            .model_id = list->model_id,
            .round = list->round,
            .temperature = draws[i]->temperature,
            .top_p = list->top_p,
            .seed = list->seed,
            .k = draws[i]->k,
        };
        HT_TRY(ht_store_sample(store, policy->tokenizer, &settings, &completions[i], &draws[i]->response_id,
                               err));
    }
    HT_TRY(ht_store_commit(store, err));
done:
    if (status != HT_OK) ht_store_rollback(store);
    return status;
}

/* What a chunk is drawn with, and room for those of its draws that are not in the database. */
typedef struct chunk_work {
    ht_draw_list *list;
    ht_store *store;
    ht_policy *policy;
    ht_comm *comm;
    ht_draw_entry **draws;
    ht_request *requests;
    ht_completion *completions;
    int64_t tokens; /* drawn so far */
} chunk_work;

static ht_status sample_chunk(chunk_work *w, int64_t first, ht_error *err) {
    ht_status status = HT_OK;
    ht_draw_list *list = w->list;
    int64_t end = list->count - first < list->chunk ? list->count : first + list->chunk, count = 0;
    for (int64_t i = first; i < end; i++) {
        if (list->draws[i].response_id) continue;
        w->draws[count] = &list->draws[i];
        w->requests[count++] = make_request(list, &list->draws[i]);
    }
    if (!count) return HT_OK;
    HT_TRY(ht_generate_shared(w->policy->engine, w->comm, w->requests, count, w->completions, err));
    for (int64_t i = 0; i < count; i++)
        w->tokens += w->completions[i].length;
    if (ht_comm_rank(w->comm) == 0)
        status = store_chunk(list, w->store, w->policy, w->draws, w->completions, count, err);
    ht_completions_free(w->completions, count);
    if (status == HT_OK)
        status = ht_comm_broadcast(w->comm, list->draws + first, (size_t)(end - first) * sizeof *list->draws, err);
done:
    return status;
}

ht_status ht_draws_sample(ht_draw_list *list, ht_store *store, ht_policy *policy, ht_comm *comm, ht_error *err) {
    ht_status status = HT_OK;
    ht_progress progress;
    chunk_work w = {.list = list, .store = store, .policy = policy, .comm = comm};
    char note[64];
    size_t most = (size_t)(list->chunk < list->count ? list->chunk : list->count);
    HT_TRY(ht_calloc(&w.draws, most, sizeof *w.draws, err));
    HT_TRY(ht_calloc(&w.requests, most, sizeof *w.requests, err));
    HT_TRY(ht_calloc(&w.completions, most, sizeof *w.completions, err));
    ht_progress_start(&progress, "sample", list->count);
    double started = ht_now();
    for (int64_t first = 0; first < list->count; first += list->chunk) {
        HT_TRY(sample_chunk(&w, first, err));
        double seconds = ht_now() - started;
        snprintf(note, sizeof note, "responses, %.0f tok/s", seconds > 0 ? (double)w.tokens / seconds : 0.0);
        ht_progress_update(&progress, list->count - first < list->chunk ? list->count : first + list->chunk,
                           note);
    }
    ht_progress_finish(&progress, list->count, "responses");
done:
    free(w.completions);
    free(w.requests);
    free(w.draws);
    return status;
}

/* --- choosing prompts -------------------------------------------------------------------------------------
 */

typedef struct lot {
    uint64_t key;
    size_t index;
} lot;

static int by_key(const void *a, const void *b) {
    const lot *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int by_index(const void *a, const void *b) {
    const lot *x = a, *y = b;
    return x->index < y->index ? -1 : x->index > y->index;
}

ht_status ht_prompt_set_choose(ht_prompt_set *set, int64_t count, uint64_t seed, uint64_t stream,
                               ht_error *err) {
    ht_status status = HT_OK;
    lot *lots = NULL;
    size_t kept = (size_t)count;
    if (kept >= set->count) return HT_OK;
    HT_TRY(ht_calloc(&lots, set->count, sizeof *lots, err));
    for (size_t i = 0; i < set->count; i++)
        lots[i] = (lot){ht_rng_u64(seed, stream, (uint64_t)set->dialog_ids[i]), i};
    qsort(lots, set->count, sizeof *lots, by_key);
    qsort(lots, kept, sizeof *lots, by_index);
    set->longest = 0;
    set->tokens.count = 0;
    for (size_t i = 0; i < kept; i++) {
        size_t from = lots[i].index; /* >= i, so nothing is written over that is still to be read */
        int64_t start = set->start[from], length = set->start[from + 1] - start;
        memmove(set->tokens.data + set->tokens.count, set->tokens.data + start,
                (size_t)length * sizeof(int32_t));
        set->dialog_ids[i] = set->dialog_ids[from];
        set->is_safety[i] = set->is_safety[from];
        set->start[i] = (int64_t)set->tokens.count;
        set->tokens.count += (size_t)length;
        if (length > set->longest) set->longest = length;
    }
    set->start[kept] = (int64_t)set->tokens.count;
    set->count = kept;
done:
    free(lots);
    return status;
}
