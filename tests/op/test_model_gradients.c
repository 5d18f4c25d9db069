/*
 * The whole transformer in f32 against the f64 reference: log-probabilities, values, and the gradient of
 * every parameter by differences of the reference; then what must not change a result: what is kept for the
 * backward pass, what else is in the batch, how a step is cut, and the cache.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/model/llama.h"
#include "tests/op/harness.h"
#include "tests/op/reference_llama.h"

/*
 * f32 roundings: a gradient goes through some 20 sums of up to 48 terms a layer, there and back, two layers:
 * 80 sums of SUM_ROUNDINGS / 6 = 7 roundings of size 2^-24, as a random walk sqrt(80) * 7 = 63, with a factor
 * of 4.
 */
#define MODEL_TOLERANCE (256 * 0x1p-24)

static ht_backend *backend;

typedef struct fixture {
    ht_arena arena;
    ht_llama model;
    ht_activations *acts;
    ht_params grads;
    ht_batch batch;
    ref_llama exact;
    ht_error err;
} fixture;

#define OK(f, call)                                                                                          \
    do {                                                                                                     \
        if ((call) != HT_OK) fail_msg("%s", (f)->err.message);                                               \
    } while (0)

/* Matrices N(0, 1 / sqrt(columns)) and gains around 1: activations of size one, softmaxes far from uniform.
 */
static void fill_weights(fixture *f, uint64_t seed) {
    for (int64_t p = 0; p < f->model.layout.count; p++) {
        const ht_param *param = &f->model.layout.params[p];
        int64_t n = param->rows * param->cols;
        float *host = calloc((size_t)n, sizeof *host);
        for (int64_t i = 0; i < n; i++) {
            double z = ht_rng_normal(seed, (uint64_t)p, (uint64_t)i);
            host[i] = (float)(param->vector ? 1 + 0.2 * z : z / sqrt((double)param->cols));
            f->exact.params[p][i] = (double)host[i];
        }
        ht_tensor t = ht_params_tensor(&f->model.weights, p);
        OK(f, ht_upload(backend, t.data, host, (size_t)n * sizeof *host, &f->err));
        free(host);
    }
}

enum { MAX_TOKENS = 480, MAX_SEQUENCES = 8 };

static void open_fixture(fixture *f, const ht_llama_config *config, ht_keep keep) {
    memset(f, 0, sizeof *f);
    ht_arena_init(&f->arena, 0);
    ht_backend_arena(backend, &f->arena);
    OK(f, ht_llama_init(&f->model, backend, &f->arena, config, HT_F32, &f->err));
    OK(f, ht_activations_init(&f->acts, &f->model, &f->arena, keep, MAX_TOKENS, MAX_SEQUENCES, &f->err));
    OK(f, ht_params_init(&f->grads, &f->model.layout, HT_F32, HT_MEMORY_GRADIENTS, &f->arena, &f->err));
    OK(f, ht_batch_init(&f->batch, MAX_TOKENS, MAX_SEQUENCES, &f->err));
    ref_llama_init(&f->exact, config, &f->model.layout);
    fill_weights(f, 1);
}

static void close_fixture(fixture *f) {
    ref_llama_free(&f->exact);
    ht_batch_free(&f->batch);
    ht_params_free(&f->grads);
    ht_activations_free(f->acts);
    ht_llama_free(&f->model);
    ht_arena_clear(&f->arena);
}

/* Sequences of these lengths, ended by 0; token i of sequence s does not depend on the others. */
static void fill_batch(fixture *f, const int64_t *lengths, int64_t first_sequence) {
    ht_batch_clear(&f->batch);
    for (int64_t s = 0; lengths[s] > 0; s++) {
        int32_t tokens[MAX_TOKENS];
        for (int64_t i = 0; i < lengths[s]; i++) {
            tokens[i] = (int32_t)ht_rng_below(2, (uint64_t)(first_sequence + s), (uint64_t)i,
                                              (uint64_t)f->model.config.vocab_size);
        }
        assert_int_equal(ht_batch_add(&f->batch, tokens, lengths[s]), 1);
    }
}

static ref_batch exact_batch(const fixture *f) {
    return (ref_batch){f->batch.tokens, f->batch.seq_start, f->batch.n_sequences};
}

/* --- objectives -------------------------------------------------------------------------------------------
 */

/* What is differentiated: a token loss over some rows, or (scalar head) a weighted sum of values. */
typedef struct objective {
    ht_token_loss_kind kind; /* NONE: the scalar head */
    int64_t count;
    int32_t rows[MAX_TOKENS], targets[MAX_TOKENS];
    float weight[MAX_TOKENS], old_logp[MAX_TOKENS], advantage[MAX_TOKENS], logp[MAX_TOKENS];
    double total;
} objective;

/* Every row but a sequence's last predicts its next token; every fifth is left out. Coefficients depend on
 * the sequence and the position alone. The scalar head is read at last rows and at some others. */
static void fill_objective(fixture *f, objective *o, ht_token_loss_kind kind, int64_t first_sequence) {
    memset(o, 0, sizeof *o);
    o->kind = kind;
    for (int64_t s = 0; s < f->batch.n_sequences; s++) {
        for (int32_t t = f->batch.seq_start[s]; t < f->batch.seq_start[s + 1]; t++) {
            int32_t position = t - f->batch.seq_start[s];
            int last = t + 1 == f->batch.seq_start[s + 1];
            if (kind == HT_TOKEN_LOSS_NONE ? !last && position % 3 != 1 : last || position % 5 == 3) continue;
            int64_t i = o->count++;
            uint64_t stream = (uint64_t)(100 + first_sequence + s), index = (uint64_t)position;
            o->rows[i] = t;
            o->targets[i] = last ? 0 : f->batch.tokens[t + 1];
            o->weight[i] = (float)(0.1 + 0.1 * ht_rng_uniform(3, stream, index));
            o->advantage[i] = (float)ht_rng_normal(4, stream, index);
            o->old_logp[i] = (float)ht_rng_normal(5, stream, index); /* an offset until the first forward */
        }
    }
}

static double exact_value(const fixture *f, const objective *o) {
    ref_batch batch = exact_batch(f);
    double *logits = ref_llama_logits(&f->exact, &batch), total = 0;
    int64_t V = f->model.config.vocab_size;
    for (int64_t i = 0; i < o->count; i++) {
        double weight = (double)o->weight[i];
        if (o->kind == HT_TOKEN_LOSS_NONE) {
            total += weight * logits[o->rows[i]];
            continue;
        }
        double logp;
        ref_token_logp(&logp, NULL, logits + o->rows[i] * V, &o->targets[i], 1, V);
        const ref_row_loss loss = {o->kind, weight, (double)o->old_logp[i], (double)o->advantage[i],
                                   (double)0.2f};
        total += ref_row_loss_value(&loss, logp);
    }
    free(logits);
    return total;
}

/* Forward, the head, backward: adds to f->grads. */
static void run_objective(fixture *f, objective *o) {
    if (o->count == 0) return; /* a lone token predicts nothing; a backward pass without a head is refused */
    OK(f, ht_llama_forward(&f->model, f->acts, &f->batch, &f->err));
    if (o->kind == HT_TOKEN_LOSS_NONE) {
        OK(f, ht_scalar_forward(&f->model, f->acts, o->rows, o->count, o->logp, &f->err));
        OK(f, ht_scalar_backward(&f->model, f->acts, o->rows, o->count, o->weight, &f->grads, &f->err));
        o->total = 0;
        for (int64_t i = 0; i < o->count; i++)
            o->total += (double)o->weight[i] * (double)o->logp[i];
    } else {
        const ht_token_loss loss = {.kind = o->kind,
                                    .weight = o->weight,
                                    .old_logp = o->old_logp,
                                    .advantage = o->advantage,
                                    .clip = 0.2f};
        const ht_lm_rows rows = {.count = o->count,
                                 .rows = o->rows,
                                 .targets = o->targets,
                                 .logp = o->logp,
                                 .loss = &loss,
                                 .total = &o->total};
        OK(f, ht_lm_loss(&f->model, f->acts, &rows, &f->grads, &f->err));
    }
    OK(f, ht_llama_backward(&f->model, f->acts, &f->grads, &f->err));
}

/* Old log-probabilities some way off the current ones, so that ratios fall below, inside and above the
 * interval; none within a difference step of a corner. */
static void place_old_logp(fixture *f, objective *o) {
    ref_batch batch = exact_batch(f);
    double *logits = ref_llama_logits(&f->exact, &batch);
    static const double offsets[] = {-0.7, -0.1, 0.0, 0.1, 0.7};
    for (int64_t i = 0; i < o->count; i++) {
        double logp;
        ref_token_logp(&logp, NULL, logits + o->rows[i] * f->model.config.vocab_size, &o->targets[i], 1,
                       f->model.config.vocab_size);
        int64_t which = (int64_t)(fabs((double)o->old_logp[i]) * 1000) % 5;
        o->old_logp[i] = (float)(logp - offsets[which]);
    }
    free(logits);
}

/* Gradients as one array by parameter; new memory. */
static float **download_grads(fixture *f) {
    float **grads = calloc((size_t)f->model.layout.count, sizeof *grads);
    for (int64_t p = 0; p < f->model.layout.count; p++) {
        ht_tensor t = ht_params_tensor(&f->grads, p);
        size_t bytes = (size_t)(t.rows * t.cols) * sizeof(float);
        grads[p] = calloc(1, bytes);
        OK(f, ht_download(backend, grads[p], t.data, bytes, &f->err));
    }
    return grads;
}

static void free_grads(const fixture *f, float **grads) {
    for (int64_t p = 0; p < f->model.layout.count; p++)
        free(grads[p]);
    free(grads);
}

/* --- against the reference --------------------------------------------------------------------------------
 */

/* The reference's slope along direction d [n] of parameter p. */
static double slope(fixture *f, const objective *o, int64_t p, const double *d, int64_t n) {
    const double step = 1e-5;
    double *x = f->exact.params[p], *keep = op_duplicate(x, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = keep[i] + step * d[i];
    double up = exact_value(f, o);
    for (int64_t i = 0; i < n; i++)
        x[i] = keep[i] - step * d[i];
    double down = exact_value(f, o);
    memcpy(x, keep, (size_t)n * sizeof *x);
    free(keep);
    return (up - down) / (2 * step);
}

/* Returns the number of disagreements of one parameter: two random directions over all elements, and eight
 * single elements. Slopes along a direction are of the size of the gradient's norm, elements at most its
 * largest. */
static int check_parameter(fixture *f, const objective *o, int64_t p, const float *grad) {
    const ht_param *param = &f->model.layout.params[p];
    int64_t n = param->rows * param->cols;
    int failures = 0;
    double norm = 0, largest = 0, *d = op_zeros(n);
    for (int64_t i = 0; i < n; i++) {
        norm += (double)grad[i] * (double)grad[i];
        largest = fmax(largest, fabs((double)grad[i]));
    }
    norm = sqrt(norm);
    assert_true(largest > 0);
    for (uint64_t k = 0; k < 10; k++) {
        double ours = 0, scale = k < 2 ? norm : largest;
        int64_t only = (int64_t)ht_rng_below(6, (uint64_t)p, k, (uint64_t)n);
        for (int64_t i = 0; i < n; i++) {
            d[i] = k < 2 ? ht_rng_normal(7 + k, (uint64_t)p, (uint64_t)i) : i == only;
            ours += d[i] * (double)grad[i];
        }
        double theirs = slope(f, o, p, d, n);
        if (fabs(ours - theirs) <= scale * MODEL_TOLERANCE + 1e-9) continue;
        print_error("%s, direction %d: %.9g, reference %.9g\n", param->name, (int)k, ours, theirs);
        failures++;
    }
    free(d);
    return failures;
}

static const int64_t short_batch[] = {1, 7, 12, 3, 0};

static int gradient_failures(const ht_llama_config *config, const int64_t *lengths, ht_token_loss_kind kind) {
    fixture f;
    objective o;
    int failures = 0;
    open_fixture(&f, config, HT_KEEP_ALL);
    fill_batch(&f, lengths, 0);
    fill_objective(&f, &o, kind, 0);
    assert_true(f.batch.n_tokens < 400 ||
                o.count > HT_LOGIT_ROWS); /* the long batch takes more than one chunk */
    if (kind == HT_TOKEN_LOSS_CLIP) place_old_logp(&f, &o);
    run_objective(&f, &o);
    double exact = exact_value(&f, &o);
    if (fabs(o.total - exact) > MODEL_TOLERANCE * (1 + fabs(exact))) {
        print_error("loss %.9g, reference %.9g\n", o.total, exact);
        failures++;
    }
    float **grads = download_grads(&f);
    for (int64_t p = 0; p < f.model.layout.count; p++)
        failures += check_parameter(&f, &o, p, grads[p]);
    free_grads(&f, grads);
    close_fixture(&f);
    return failures;
}

static ht_llama_config config_of(int64_t heads, int64_t kv_heads, int tied, ht_head head) {
    return (ht_llama_config){.vocab_size = 37,
                             .dim = 24,
                             .n_layers = 2,
                             .n_heads = heads,
                             .n_kv_heads = kv_heads,
                             .head_dim = 6,
                             .ffn_dim = 40,
                             .max_positions = MAX_TOKENS,
                             .norm_eps = 1e-5,
                             .rope_theta = 100, /* turns visibly within a dozen positions */
                             .bos_id = 1,
                             .eos_id = 2,
                             .tied = tied,
                             .head = head};
}

static void test_model__gradients_of_the_lm_loss(void **state) {
    (void)state;
    ht_llama_config gqa = config_of(4, 2, 0, HT_HEAD_LM), tied = config_of(4, 4, 1, HT_HEAD_LM);
    /* heads * head_dim is not dim, one key/value head */
    ht_llama_config wide = config_of(6, 1, 0, HT_HEAD_LM);
    assert_int_equal(gradient_failures(&gqa, short_batch, HT_TOKEN_LOSS_NLL), 0);
    assert_int_equal(gradient_failures(&tied, short_batch, HT_TOKEN_LOSS_NLL), 0);
    assert_int_equal(gradient_failures(&wide, short_batch, HT_TOKEN_LOSS_NLL), 0);
}

static void test_model__gradients_of_the_clipped_loss(void **state) {
    (void)state;
    ht_llama_config config = config_of(4, 2, 0, HT_HEAD_LM);
    assert_int_equal(gradient_failures(&config, short_batch, HT_TOKEN_LOSS_CLIP), 0);
}

static void test_model__gradients_of_the_scalar_head(void **state) {
    (void)state;
    ht_llama_config config = config_of(4, 2, 0, HT_HEAD_SCALAR);
    assert_int_equal(gradient_failures(&config, short_batch, HT_TOKEN_LOSS_NONE), 0);
}

/* More rows than one chunk of logits; sequences longer than any tile. */
static void test_model__gradients_over_chunks_of_rows(void **state) {
    (void)state;
    static const int64_t lengths[] = {130, 1, 300, 0};
    ht_llama_config config = config_of(2, 1, 0, HT_HEAD_LM);
    config.n_layers = 1;
    config.dim = 12;
    config.vocab_size = 11;
    config.ffn_dim = 8;
    assert_int_equal(gradient_failures(&config, lengths, HT_TOKEN_LOSS_NLL), 0);
}

/* Log-probability and entropy of every row; and the comparison finds a model with another eps. */
static void test_model__log_probabilities(void **state) {
    (void)state;
    fixture f;
    ht_llama_config config = config_of(4, 2, 0, HT_HEAD_LM);
    float logp[MAX_TOKENS], entropy[MAX_TOKENS];
    double exact[MAX_TOKENS], exact_entropy[MAX_TOKENS], other[MAX_TOKENS];
    int32_t rows[MAX_TOKENS], targets[MAX_TOKENS];
    open_fixture(&f, &config, HT_KEEP_NOTHING);
    fill_batch(&f, short_batch, 0);
    int64_t T = f.batch.n_tokens;
    for (int32_t t = 0; t < T; t++) {
        rows[t] = t;
        targets[t] = (t * 5) % 37;
    }
    const ht_lm_rows all = {.count = T, .rows = rows, .targets = targets, .logp = logp, .entropy = entropy};
    OK(&f, ht_llama_forward(&f.model, f.acts, &f.batch, &f.err));
    OK(&f, ht_lm_loss(&f.model, f.acts, &all, NULL, &f.err));
    ref_batch batch = exact_batch(&f);
    double *logits = ref_llama_logits(&f.exact, &batch);
    ref_token_logp(exact, exact_entropy, logits, targets, T, 37);
    free(logits);
    f.exact.config.norm_eps = 1e-2;
    logits = ref_llama_logits(&f.exact, &batch);
    ref_token_logp(other, NULL, logits, targets, T, 37);
    free(logits);
    int caught = 0;
    for (int64_t t = 0; t < T; t++) {
        assert_true(fabs((double)logp[t] - exact[t]) <= MODEL_TOLERANCE * (1 + fabs(exact[t])));
        assert_true(fabs((double)entropy[t] - exact_entropy[t]) <= MODEL_TOLERANCE * (1 + exact_entropy[t]));
        caught += fabs((double)logp[t] - other[t]) > MODEL_TOLERANCE * (1 + fabs(other[t]));
    }
    assert_true(caught > T / 2);
    close_fixture(&f);
}

/* --- what must not change a result ------------------------------------------------------------------------
 */

static void zero_grads(fixture *f) {
    OK(f, ht_params_zero(backend, &f->grads, &f->err));
}

static void test_model__recomputing_gives_the_same_bits(void **state) {
    (void)state;
    const ht_token_loss_kind kinds[] = {HT_TOKEN_LOSS_NLL, HT_TOKEN_LOSS_NONE};
    for (size_t k = 0; k < 2; k++) {
        ht_llama_config config = config_of(4, 2, 0, k ? HT_HEAD_SCALAR : HT_HEAD_LM);
        config.n_layers = 3;
        fixture all, again;
        objective o, other;
        open_fixture(&all, &config, HT_KEEP_ALL);
        open_fixture(&again, &config, HT_KEEP_RECOMPUTE);
        fill_batch(&all, short_batch, 0);
        fill_batch(&again, short_batch, 0);
        fill_objective(&all, &o, kinds[k], 0);
        other = o;
        run_objective(&all, &o);
        run_objective(&again, &other);
        run_objective(&again, &other); /* a second pass leaves nothing behind: the sum is twice the first */
        assert_memory_equal(o.logp, other.logp, (size_t)o.count * sizeof *o.logp);
        float **grads = download_grads(&all), **twice = download_grads(&again);
        zero_grads(&again);
        run_objective(&again, &other);
        float **regained = download_grads(&again);
        for (int64_t p = 0; p < all.model.layout.count; p++) {
            int64_t n = all.model.layout.params[p].rows * all.model.layout.params[p].cols;
            assert_memory_equal(grads[p], regained[p], (size_t)n * sizeof(float));
            for (int64_t i = 0; i < n; i++) {
                double error = fabs((double)twice[p][i] - 2 * (double)grads[p][i]);
                assert_true(error <= MODEL_TOLERANCE * (1 + fabs((double)grads[p][i])));
            }
        }
        free_grads(&all, grads);
        free_grads(&again, twice);
        free_grads(&again, regained);
        close_fixture(&again);
        close_fixture(&all);
    }
}

/*
 * Accumulates the objective of the sequences, in groups of `group`, with the weights of the whole step; *logp
 * gets every row's log-probability in order. Returns the gradients.
 */
static float **accumulate_in_groups(fixture *f, ht_token_loss_kind kind, int64_t group, float *logp,
                                    int64_t *count) {
    static const int64_t lengths[] = {5, 1, 9, 14, 2, 8};
    enum { SEQUENCES = 6 };
    zero_grads(f);
    *count = 0;
    for (int64_t first = 0; first < SEQUENCES; first += group) {
        int64_t cut[SEQUENCES + 1] = {0};
        objective o;
        for (int64_t i = 0; i < group && first + i < SEQUENCES; i++)
            cut[i] = lengths[first + i];
        fill_batch(f, cut, first);
        fill_objective(f, &o, kind, first);
        if (kind == HT_TOKEN_LOSS_CLIP) place_old_logp(f, &o);
        run_objective(f, &o);
        memcpy(logp + *count, o.logp, (size_t)o.count * sizeof *logp);
        *count += o.count;
    }
    return download_grads(f);
}

/* Packed together, in twos, or each alone: the same log-probabilities, values and gradients, to rounding. So
 * neither neighbours in a batch nor the micro-batch size matter. */
static void test_model__company_and_micro_batches_do_not_matter(void **state) {
    (void)state;
    const ht_token_loss_kind kinds[] = {HT_TOKEN_LOSS_NLL, HT_TOKEN_LOSS_CLIP, HT_TOKEN_LOSS_NONE};
    for (size_t k = 0; k < 3; k++) {
        ht_llama_config config =
            config_of(4, 2, 0, kinds[k] == HT_TOKEN_LOSS_NONE ? HT_HEAD_SCALAR : HT_HEAD_LM);
        fixture f;
        float whole[MAX_TOKENS], part[MAX_TOKENS];
        int64_t count, part_count;
        open_fixture(&f, &config, HT_KEEP_ALL);
        float **grads = accumulate_in_groups(&f, kinds[k], 6, whole, &count);
        for (int64_t group = 1; group <= 2; group++) {
            float **split = accumulate_in_groups(&f, kinds[k], group, part, &part_count);
            assert_int_equal(count, part_count);
            for (int64_t i = 0; i < count; i++) {
                assert_true(fabsf(whole[i] - part[i]) <= (float)MODEL_TOLERANCE * (1 + fabsf(whole[i])));
            }
            for (int64_t p = 0; p < f.model.layout.count; p++) {
                int64_t n = f.model.layout.params[p].rows * f.model.layout.params[p].cols;
                float largest = 0;
                for (int64_t i = 0; i < n; i++)
                    largest = fmaxf(largest, fabsf(grads[p][i]));
                for (int64_t i = 0; i < n; i++) {
                    if (fabsf(grads[p][i] - split[p][i]) > (float)MODEL_TOLERANCE * largest)
                        fail_msg("%s: %.9g alone, %.9g packed", f.model.layout.params[p].name,
                                 (double)split[p][i], (double)grads[p][i]);
                }
            }
            free_grads(&f, split);
        }
        free_grads(&f, grads);
        close_fixture(&f);
    }
}

/*
 * The cache: logits of every position, prefilled in pieces of `piece` tokens and read over the pages, equal
 * the reference's over the whole sequences. So the engine and the trainer are one forward.
 */
static void check_decoding(int64_t piece, int64_t block_size) {
    enum { S = 3, LENGTH = 35, BLOCKS = 64 };
    ht_llama_config config = config_of(4, 2, 0, HT_HEAD_LM);
    int64_t lengths[] = {LENGTH, LENGTH, LENGTH, 0};
    config.max_positions = LENGTH;
    fixture f;
    ht_kv_cache cache;
    open_fixture(&f, &config, HT_KEEP_NOTHING);
    fill_batch(&f, lengths, 0);
    OK(&f, ht_kv_cache_init(&cache, &f.model, &f.arena, BLOCKS, block_size, S, &f.err));
    ref_batch batch = exact_batch(&f);
    double *exact = ref_llama_logits(&f.exact, &batch);
    int32_t tables[S * LENGTH];
    for (int64_t i = 0; i < S * cache.max_blocks; i++)
        tables[i] = (int32_t)((i * 37 + 11) % BLOCKS); /* scattered, distinct */
    for (int64_t done = 0; done < LENGTH; done += piece) {
        int64_t now = piece < LENGTH - done ? piece : LENGTH - done;
        int32_t tokens[S * LENGTH], start[S + 1] = {0}, past[S], rows[S * LENGTH];
        for (int64_t s = 0; s < S; s++) {
            memcpy(tokens + s * now, f.batch.tokens + s * LENGTH + done, (size_t)now * sizeof *tokens);
            start[s + 1] = (int32_t)((s + 1) * now);
            past[s] = (int32_t)done;
        }
        for (int32_t r = 0; r < S * now; r++)
            rows[r] = r;
        const ht_decode_batch decode = {.tokens = tokens,
                                        .seq_start = start,
                                        .past = past,
                                        .block_tables = tables,
                                        .sequences = S,
                                        .logit_rows = rows,
                                        .logit_count = S * now};
        ht_tensor logits;
        OK(&f, ht_llama_decode(&f.model, f.acts, &cache, &decode, &logits, &f.err));
        assert_int_equal(logits.rows, S * now);
        float ours[37];
        for (int64_t r = 0; r < S * now; r++) {
            const double *theirs = exact + (r / now * LENGTH + done + r % now) * 37;
            ht_tensor row = ht_tensor_rows(logits, r, 1);
            OK(&f, ht_download(backend, ours, row.data, sizeof ours, &f.err));
            for (int64_t i = 0; i < 37; i++) {
                if (!(fabs((double)ours[i] - theirs[i]) <= MODEL_TOLERANCE * 4))
                    fail_msg("pieces of %d: position %d is %.9g, not %.9g", (int)piece, (int)(done + r % now),
                             (double)ours[i], theirs[i]);
            }
        }
    }
    free(exact);
    ht_kv_cache_free(&cache);
    close_fixture(&f);
}

static void test_model__decoding_equals_the_packed_forward(void **state) {
    (void)state;
    check_decoding(35, 48);
    check_decoding(1, 16);
    check_decoding(5, 16);
    check_decoding(4, 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model__log_probabilities),
        cmocka_unit_test(test_model__gradients_of_the_lm_loss),
        cmocka_unit_test(test_model__gradients_of_the_clipped_loss),
        cmocka_unit_test(test_model__gradients_of_the_scalar_head),
        cmocka_unit_test(test_model__gradients_over_chunks_of_rows),
        cmocka_unit_test(test_model__recomputing_gives_the_same_bits),
        cmocka_unit_test(test_model__company_and_micro_batches_do_not_matter),
        cmocka_unit_test(test_model__decoding_equals_the_packed_forward),
    };
    backend = op_backend_open(2);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ht_backend_close(backend);
    return failed;
}
