/* Demonstrations and texts as examples, their order, and the loss of a step. */
#include <inttypes.h>
#include <math.h>

#include "tests/unit/tokenizer/trained.h"

#include "core/base/log.h"
#include "core/generate/prompts.h"
#include "core/tokenizer/chat.h"
#include "sft/sft.h"
#include "tests/unit/do.h"
#include "tests/unit/small_llama.h"

static char *kinds[] = {"helpfulness", "safety"}, *origins[] = {"human", "rejection"};

/* The stage's defaults, but for the length of a sequence. */
static ht_data_config default_data(int64_t seq_len) {
    return (ht_data_config){.kinds = {kinds, 2},
                            .origins = {origins, 2},
                            .last_round = -1,
                            .rejection_round = -1,
                            .seq_len = seq_len,
                            .batch_size = 2,
                            .epochs = 2};
}

/* --- a database -------------------------------------------------------------------------------------------
 */

static const char turn_prompt[] = "[{\"role\":\"user\",\"content\":\"Hello llama\"}]";
static const char turns_prompt[] = "[{\"role\":\"user\",\"content\":\"How high do they live?\"},"
                                   "{\"role\":\"assistant\",\"content\":\"High in the mountains.\"},"
                                   "{\"role\":\"user\",\"content\":\"What is the wool?\"}]";

static ht_store *open_store(const fixture *f, const char *name) {
    char path[128];
    ht_store *store = NULL;
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    DO(ht_store_open(&store, path, HT_STORE_CREATE, &err_));
    return store;
}

typedef struct demo {
    const char *messages;
    ht_split split;
    ht_response_row response;
    int64_t round;
    ht_origin origin;
} demo;

static int64_t add_demo(ht_store *store, demo d) {
    int64_t dialog = 0, response = 0, id = 0;
    DO(ht_store_add_dialog(store, &(ht_dialog_row){.messages = d.messages, .split = d.split}, &dialog, NULL,
                           &err_));
    d.response.dialog_id = dialog;
    d.response.logprob = NAN;
    DO(ht_store_add_response(store, &d.response, &response, NULL, &err_));
    DO(ht_store_add_demonstration(
        store,
        &(ht_demonstration_row){.response_id = response, .origin = d.origin, .round = d.round, .weight = 1},
        &id, NULL, &err_));
    return id;
}

/* Text of the tokens that carry loss. */
static char *target_text(const fixture *f, ht_example e) {
    ht_ids ids = {0};
    ht_text text = {0};
    for (int64_t i = 0; i < e.length; i++)
        if (e.is_target[i]) DO(ht_ids_append(&ids, &e.tokens[i], 1, &err_));
    DO(ht_tokenizer_decode(f->tokenizer, ids.data, ids.count, &text, &err_));
    ht_ids_release(&ids);
    return text.data;
}

static void assert_target_text(const fixture *f, ht_example e, const char *wanted) {
    char *text = target_text(f, e);
    assert_string_equal(text, wanted);
    free(text);
}

static void test_sft__targets_are_the_answer_and_eos(void **state) {
    const fixture *f = *state;
    ht_store *store = open_store(f, "targets.db");
    add_demo(store, (demo){.messages = turn_prompt, .response = {.text = "The wool is warm."}});
    add_demo(store, (demo){.messages = turns_prompt, .response = {.text = "Light."}});
    add_demo(store, (demo){.messages = turns_prompt, .split = HT_SPLIT_TRAIN, .response = {.text = "Soft."}});
    ht_data_config config = default_data(256);
    ht_sft_data data;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    assert_int_equal(data.train.examples.count, 3);
    int32_t eos = ht_tokenizer_eos(f->tokenizer);
    ht_example one = ht_example_set_get(&data.train.examples, 0),
               two = ht_example_set_get(&data.train.examples, 1);
    assert_target_text(f, one, "The wool is warm. ");
    assert_target_text(f, two, "Light. ");
    assert_int_equal(one.tokens[one.length - 1], eos);
    assert_int_equal(one.is_target[one.length - 1], 1);
    assert_int_equal(one.is_target[0], 0);
    ht_sft_data_free(&data);

    config.train_on = HT_TRAIN_ON_ALL;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    two = ht_example_set_get(&data.train.examples, 1);
    int64_t ends = 0;
    for (int64_t i = 0; i < two.length; i++)
        ends += two.is_target[i] && two.tokens[i] == eos;
    assert_int_equal(ends, 2);
    char *text = target_text(f, two);
    assert_non_null(strstr(text, "High in the mountains."));
    assert_null(strstr(text, "INST"));
    free(text);
    ht_sft_data_free(&data);
    ht_store_close(store);
}

static void test_sft__sampled_ids_are_used_as_they_are(void **state) {
    const fixture *f = *state;
    ht_store *store = open_store(f, "sampled.db");
    int64_t ours = 0, other = 0;
    DO(ht_store_add_model(store,
                          &(ht_model_row){.name = "a",
                                          .path = "a",
                                          .hash = "1",
                                          .stage = "sft",
                                          .tokenizer_hash = ht_tokenizer_hash(f->tokenizer)},
                          &ours, &err_));
    DO(ht_store_add_model(
        store,
        &(ht_model_row){.name = "b", .path = "b", .hash = "2", .stage = "sft", .tokenizer_hash = "else"},
        &other, &err_));
    /* Bytes one by one: no encoding of this text gives these ids. */
    const int32_t cut[] = {60, 61, 62}, ended[] = {70, 71, 2};
    add_demo(store, (demo){.messages = turn_prompt,
                           .response = {.text = "cut",
                                        .tokens = cut,
                                        .token_count = 3,
                                        .model_id = ours,
                                        .finish = HT_FINISH_LENGTH,
                                        .temperature = 1,
                                        .top_p = 1}});
    add_demo(store, (demo){.messages = turn_prompt,
                           .response = {.text = "ended",
                                        .tokens = ended,
                                        .token_count = 3,
                                        .model_id = ours,
                                        .finish = HT_FINISH_EOS,
                                        .temperature = 1,
                                        .top_p = 1,
                                        .k = 1}});
    add_demo(store, (demo){.messages = turn_prompt,
                           .response = {.text = "Hello",
                                        .tokens = cut,
                                        .token_count = 3,
                                        .model_id = other,
                                        .finish = HT_FINISH_LENGTH,
                                        .temperature = 1,
                                        .top_p = 1}});
    ht_data_config config = default_data(256);
    ht_sft_data data;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    for (int i = 0; i < 2; i++) {
        ht_example e = ht_example_set_get(&data.train.examples, i);
        assert_memory_equal(e.tokens + e.length - 3, i ? ended : cut, sizeof cut);
        assert_memory_equal(e.is_target + e.length - 4, "\0\1\1\1", 4);
    }
    ht_example foreign = ht_example_set_get(&data.train.examples, 2);
    assert_target_text(f, foreign, "Hello");
    assert_int_not_equal(foreign.tokens[foreign.length - 1], ht_tokenizer_eos(f->tokenizer));
    assert_int_equal(json_integer_value(json_object_get(data.lineage, "encoded_again")), 1);
    ht_sft_data_free(&data);
    ht_store_close(store);
}

static const char long_answer[] =
    "A llama that is trained with a halter walks beside you; a llama that is not "
    "walks where it likes. It is better to ask and to listen than to guess.";

static void test_sft__too_long_is_an_error_or_counted(void **state) {
    const fixture *f = *state;
    ht_store *store = open_store(f, "long.db");
    add_demo(store, (demo){.messages = turn_prompt, .response = {.text = "Yes."}});
    int64_t id = add_demo(store, (demo){.messages = turn_prompt, .response = {.text = long_answer}});
    ht_data_config config = default_data(64);
    ht_sft_data data;
    ht_error err = HT_ERROR_INIT;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "demonstration %" PRId64 " ", id);
    assert_int_equal(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err), HT_ERR_DATA);
    assert_non_null(strstr(err.message, wanted));
    assert_non_null(strstr(err.message, "above data.seq_len = 64"));
    config.too_long = HT_TOO_LONG_SKIP;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    assert_int_equal(data.train.examples.count, 1);
    assert_int_equal(json_integer_value(json_object_get(data.lineage, "skipped_too_long")), 1);
    ht_sft_data_free(&data);
    config.seq_len = 8;
    FAILS(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_), HT_ERR_DATA,
          "long.db: no demonstration of split train fits the filter (data.kinds, data.origins");
    ht_store_close(store);
}

static void test_sft__a_weight_that_is_none_is_refused(void **state) {
    (void)state;
    static const double wrong[] = {0, -1, NAN, INFINITY, 1e39};
    int32_t tokens[] = {1, 2};
    uint8_t is_target[] = {0, 1};
    ht_example example = {.tokens = tokens, .is_target = is_target, .length = 2};
    ht_sft_set set = {.weights = NULL};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        FAILS(ht_sft_set_add(&set, &example, wrong[i], &err_), HT_ERR_DATA, "is not above 0 and finite in 32 bits");
    assert_int_equal(set.examples.count, 0);
    ht_sft_set_free(&set);
}

static void test_sft__filter_and_split_choose_rows(void **state) {
    const fixture *f = *state;
    ht_store *store = open_store(f, "filter.db");
    for (int64_t round = 0; round < 4; round++) {
        char text[16];
        snprintf(text, sizeof text, "Answer %d", (int)round);
        add_demo(store, (demo){.messages = turn_prompt, .response = {.text = text}, .round = round});
    }
    add_demo(
        store,
        (demo){.messages = turns_prompt, .split = HT_SPLIT_TEST, .response = {.text = "Held."}, .round = 1});
    ht_data_config config = default_data(256);
    config.first_round = 1;
    config.last_round = 2;
    ht_sft_data data;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    assert_int_equal(data.train.examples.count, 2);
    assert_int_equal(data.held_out.examples.count, 1);
    char hash[HT_HASH_LEN];
    strcpy(hash, data.hash);
    ht_sft_data_free(&data);
    config.last_round = 3;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    assert_string_not_equal(data.hash, hash);
    ht_sft_data_free(&data);

    /* The rejection-sampled ones of round 3 stand beside the others of rounds 0 to 1. */
    for (int64_t round = 2; round < 4; round++)
        add_demo(store, (demo){.messages = turns_prompt,
                               .response = {.text = "Best."},
                               .round = round,
                               .origin = HT_ORIGIN_REJECTION});
    config.first_round = 0;
    config.last_round = 1;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    assert_int_equal(data.train.examples.count, 2);
    ht_sft_data_free(&data);
    config.rejection_round = 3;
    DO(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err_));
    assert_int_equal(data.train.examples.count + data.held_out.examples.count, 4);
    ht_sft_data_free(&data);

    ht_error err = HT_ERROR_INIT;
    char *wrong[] = {"humans"};
    config.origins = (ht_strings){wrong, 1};
    assert_int_equal(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err), HT_ERR_USAGE);
    assert_non_null(strstr(err.message, "data.origins: \"humans\""));
    err = (ht_error)HT_ERROR_INIT;
    config = default_data(256);
    config.first_round = 9;
    assert_int_equal(ht_sft_load_demonstrations(&data, store, &config, f->tokenizer, &err), HT_ERR_DATA);
    ht_store_close(store);
}

/* --- text -------------------------------------------------------------------------------------------------
 */

static ht_sft_data load_text(const fixture *f, const char *text, const ht_data_config *config) {
    char path[128];
    char *paths[] = {path};
    ht_sft_data data;
    snprintf(path, sizeof path, "%s/plain.txt", f->folder);
    write_file(path, text, strlen(text));
    DO(ht_sft_load_text(&data, &(ht_strings){paths, 1}, config, f->tokenizer, &err_));
    return data;
}

static void test_sft__documents_are_separated_as_asked(void **state) {
    const fixture *f = *state;
    const char *text = "\n\nOne.\r\nStill one.\r\n\r\n\nTwo.\n\nThree.";
    ht_data_config config = default_data(256);
    ht_sft_data data = load_text(f, text, &config);
    assert_int_equal(data.train.examples.count, 3);
    assert_target_text(f, ht_example_set_get(&data.train.examples, 0), "One.\r\nStill one.");
    assert_target_text(f, ht_example_set_get(&data.train.examples, 2), "Three.");
    ht_sft_data_free(&data);
    config.documents = HT_DOCUMENTS_LINE;
    data = load_text(f, text, &config);
    assert_int_equal(data.train.examples.count, 4);
    assert_target_text(f, ht_example_set_get(&data.train.examples, 1), "Still one.");
    ht_sft_data_free(&data);
}

/* Windows of a long document: every token after BOS is a target once, in order; nothing is lost. */
static void test_sft__windows_lose_nothing(void **state) {
    const fixture *f = *state;
    char one_line[sizeof trained_text];
    strcpy(one_line, trained_text);
    ht_ids whole = {0};
    int32_t bos = ht_tokenizer_bos(f->tokenizer), eos = ht_tokenizer_eos(f->tokenizer);
    size_t size = strlen(one_line) - 1; /* the last newline ends the document */
    DO(ht_ids_append(&whole, &bos, 1, &err_));
    DO(ht_tokenizer_encode(f->tokenizer, one_line, size, &whole, &err_));
    DO(ht_ids_append(&whole, &eos, 1, &err_));
    for (int64_t seq_len = 8; seq_len < (int64_t)whole.count + 3; seq_len += 7) {
        ht_data_config config = default_data(seq_len);
        ht_sft_data data = load_text(f, one_line, &config);
        size_t at = 1;
        for (size_t i = 0; i < data.train.examples.count; i++) {
            ht_example e = ht_example_set_get(&data.train.examples, (int64_t)i);
            assert_true(e.length >= 2 && e.length <= seq_len);
            assert_int_equal(e.tokens[0], whole.data[at - 1]);
            for (int64_t t = 1; t < e.length; t++) {
                assert_int_equal(e.is_target[t], 1);
                assert_int_equal(e.tokens[t], whole.data[at++]);
            }
        }
        assert_int_equal(at, whole.count);
        ht_sft_data_free(&data);
    }
    ht_ids_release(&whole);
}

static void test_sft__holdout_depends_on_the_document_alone(void **state) {
    const fixture *f = *state;
    char text[8192] = "";
    for (int i = 0; i < 200; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "Document %d.\n", i % 100);
    ht_data_config config = default_data(64);
    config.documents = HT_DOCUMENTS_LINE;
    config.holdout = 0.3;
    ht_sft_data data = load_text(f, text, &config);
    size_t held_out = data.held_out.examples.count;
    assert_int_equal(data.train.examples.count + held_out, 200);
    assert_int_equal(held_out % 2, 0); /* each document comes twice, on one side */
    assert_in_range(held_out, 30, 100);
    ht_sft_data_free(&data);
}

/* --- order ------------------------------------------------------------------------------------------------
 */

static ht_sft_set numbered_set(int count) {
    ht_sft_set set = {.weights = NULL};
    int32_t tokens[64] = {1};
    for (int i = 0; i < count; i++) {
        ht_example e = {.id = i, .tokens = tokens, .length = 2 + i * 7 % 31};
        DO(ht_sft_set_add(&set, &e, 1, &err_));
    }
    return set;
}

static void test_sft__order_is_a_permutation_of_seed_and_epoch(void **state) {
    (void)state;
    enum { N = 50 };
    ht_sft_set set = numbered_set(N);
    ht_data_config config = default_data(40);
    config.epochs = 3;
    ht_sft_plan plan, again, other;
    DO(ht_sft_plan_init(&plan, &set, &config, 5, &err_));
    DO(ht_sft_plan_init(&again, &set, &config, 5, &err_));
    DO(ht_sft_plan_init(&other, &set, &config, 6, &err_));
    assert_memory_equal(plan.order, again.order, 3 * N * sizeof *plan.order);
    assert_memory_not_equal(plan.order, other.order, 3 * N * sizeof *plan.order);
    assert_memory_not_equal(plan.order, plan.order + N, N * sizeof *plan.order);
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[N] = {0};
        for (int i = 0; i < N; i++)
            seen[plan.order[epoch * N + i]]++;
        for (int i = 0; i < N; i++)
            assert_int_equal(seen[i], 1);
    }
    int64_t at = 0;
    for (int64_t step = 0; step < plan.steps; step++) {
        int64_t first, end;
        ht_sft_plan_step(&plan, step, NULL, &first, &end);
        assert_int_equal(first, at);
        assert_true(end > first);
        at = end;
    }
    assert_int_equal(at, 3 * N);
    for (int64_t b = 0; b < plan.bins; b++) {
        int64_t tokens = 0;
        for (int64_t i = plan.bin_start[b]; i < plan.bin_start[b + 1]; i++)
            tokens += ht_example_set_get(&set.examples, plan.order[i]).length;
        assert_in_range(tokens, 1, 40);
    }
    config.max_steps = 4;
    ht_sft_plan_free(&again);
    DO(ht_sft_plan_init(&again, &set, &config, 5, &err_));
    assert_int_equal(again.steps, 4);
    ht_sft_plan_free(&plan);
    ht_sft_plan_free(&again);
    ht_sft_plan_free(&other);
    ht_sft_set_free(&set);
}

/* --- loss -------------------------------------------------------------------------------------------------
 */

enum { VOCAB = 40, EXAMPLES = 14, SEQ_LEN = 32 };

typedef struct learner {
    ht_backend *be;
    ht_arena arena;
    ht_llama model;
    ht_trainable trainable;
    ht_sft_data data;
    ht_sft_plan plan;
    ht_sft_trainer trainer;
} learner;

static void fill_examples(ht_sft_set *set) {
    for (int i = 0; i < EXAMPLES; i++) {
        int32_t tokens[SEQ_LEN];
        uint8_t is_target[SEQ_LEN];
        int64_t length = 4 + i * 5 % 17;
        for (int64_t t = 0; t < length; t++) {
            tokens[t] = (int32_t)((7 * i + 3 * t + t * t) % VOCAB);
            is_target[t] = t > length / 2;
        }
        ht_example e = {.id = i, .tokens = tokens, .is_target = is_target, .length = length};
        DO(ht_sft_set_add(set, &e, i % 3 == 0 ? 2.5 : 1, &err_));
    }
}

static void learner_init(learner *l, int64_t micro_tokens) {
    const ht_llama_config shape = small_llama(VOCAB, 64);
    ht_sft_config config = {.data = default_data(SEQ_LEN), .train = {.micro_tokens = micro_tokens}};
    memset(l, 0, sizeof *l);
    config.data.batch_size = 4;
    DO(ht_backend_open(&l->be, HT_BACKEND_CPU, 1, &err_));
    ht_arena_init(&l->arena, 0);
    ht_backend_arena(l->be, &l->arena);
    DO(ht_llama_init(&l->model, l->be, &l->arena, &shape, HT_F32, &err_));
    DO(ht_llama_randomize(&l->model, 3, &err_));
    widen_logits(&l->model); /* losses that differ */
    DO(ht_trainable_init(&l->trainable, &l->model, &(ht_trainable_options){.state = HT_ADAMW_F32}, &l->arena, &err_));
    fill_examples(&l->data.train);
    fill_examples(&l->data.held_out);
    DO(ht_sft_plan_init(&l->plan, &l->data.train, &config.data, 1, &err_));
    DO(ht_sft_trainer_init(&l->trainer, &l->trainable, &l->data, &l->plan, &config, &l->arena, &err_));
    ht_arena_seal(&l->arena);
}

static void learner_free(learner *l) {
    ht_sft_trainer_free(&l->trainer);
    ht_sft_plan_free(&l->plan);
    ht_sft_data_free(&l->data);
    ht_trainable_free(&l->trainable);
    ht_llama_free(&l->model);
    ht_arena_clear(&l->arena);
    ht_backend_close(l->be);
}

/* Loss of one example alone: sum of -log-probability over its targets. */
static double example_nll(learner *l, int64_t index, int64_t *targets) {
    ht_example e = ht_example_set_get(&l->data.train.examples, index);
    int32_t rows[SEQ_LEN], ids[SEQ_LEN];
    float logp[SEQ_LEN];
    double sum = 0;
    *targets = 0;
    for (int32_t t = 1; t < e.length; t++)
        if (e.is_target[t]) {
            rows[*targets] = t - 1;
            ids[(*targets)++] = e.tokens[t];
        }
    ht_batch_clear(&l->trainer.batch);
    assert_int_equal(ht_batch_add(&l->trainer.batch, e.tokens, e.length), 1);
    DO(ht_llama_forward(&l->model, l->trainer.acts, &l->trainer.batch, &err_));
    DO(ht_lm_loss(&l->model, l->trainer.acts,
                  &(ht_lm_rows){.count = *targets, .rows = rows, .targets = ids, .logp = logp}, NULL, &err_));
    for (int64_t i = 0; i < *targets; i++)
        sum -= (double)logp[i];
    return sum;
}

static void test_sft__loss_is_the_mean_over_the_step(void **state) {
    (void)state;
    learner whole, cut;
    learner_init(&whole, 1024);
    learner_init(&cut, 21);
    for (int64_t step = 0; step < whole.plan.steps; step++) {
        ht_metrics a = {.count = 0}, b = {.count = 0};
        int64_t first, end, all = 0;
        double sum = 0, weight = 0, mean_of_means = 0;
        DO(ht_sft_accumulate(&whole.trainer, step, 0, &a, &err_));
        DO(ht_sft_accumulate(&cut.trainer, step, 0, &b, &err_));
        ht_sft_plan_step(&whole.plan, step, NULL, &first, &end);
        for (int64_t i = first; i < end; i++) {
            int64_t index = whole.plan.order[i], targets;
            double w = (double)whole.data.train.weights[index], nll = example_nll(&whole, index, &targets);
            sum += w * nll;
            weight += w * (double)targets;
            mean_of_means += nll / (double)targets / (double)(end - first);
            all += targets;
        }
        double loss = ht_metrics_get(&a, "loss");
        /* f32 log-probabilities of magnitude 6, each rounded a few times */
        assert_true(fabs(loss - sum / weight) < 1e-5 * loss);
        assert_true(fabs(loss - ht_metrics_get(&b, "loss")) < 1e-5 * loss);
        assert_true(fabs(loss - mean_of_means) > 1e-3 * loss); /* what a wrong normalisation would give */
        assert_int_equal(ht_metrics_get(&a, "targets"), all);
        assert_int_equal(ht_metrics_get(&a, "examples"), end - first);
        assert_true(ht_metrics_get(&a, "tokens") == ht_metrics_get(&b, "tokens"));
    }
    const ht_params *x = &whole.trainable.grads, *y = &cut.trainable.grads;
    for (int64_t u = 0; u < x->layout->units; u++) {
        double norm = 0, apart = 0;
        for (int64_t i = 0; i < x->layout->unit_size[u]; i++) {
            double p = ((float *)x->units[u])[i], q = ((float *)y->units[u])[i];
            norm += p * p;
            apart += (p - q) * (p - q);
        }
        assert_true(norm > 0);
        assert_true(sqrt(apart) < 1e-5 * sqrt(norm));
    }
    learner_free(&whole);
    learner_free(&cut);
}

static void test_sft__evaluation_changes_nothing(void **state) {
    (void)state;
    learner l;
    ht_metrics metrics = {.count = 0};
    int stop = 1;
    learner_init(&l, 50);
    DO(ht_sft_evaluate(&l.trainer, 0, &metrics, &stop, &err_));
    assert_int_equal(stop, 0);
    double sum = 0, weight = 0;
    for (int64_t i = 0; i < EXAMPLES; i++) {
        int64_t targets;
        double w = (double)l.data.held_out.weights[i];
        sum += w * example_nll(&l, i, &targets);
        weight += w * (double)targets;
    }
    assert_true(fabs(ht_metrics_get(&metrics, "eval_loss") - sum / weight) < 1e-5 * sum / weight);
    for (int64_t u = 0; u < l.trainable.grads.layout->units; u++)
        for (int64_t i = 0; i < l.trainable.grads.layout->unit_size[u]; i++)
            assert_true(((float *)l.trainable.grads.units[u])[i] == 0);
    learner_free(&l);
}

static void test_sft__an_example_above_micro_tokens_is_refused(void **state) {
    (void)state;
    learner l;
    learner_init(&l, 1024);
    ht_sft_trainer small;
    ht_sft_config config = {.data = default_data(SEQ_LEN), .train = {.micro_tokens = 19}};
    ht_error err = HT_ERROR_INIT;
    assert_int_equal(ht_sft_trainer_init(&small, &l.trainable, &l.data, &l.plan, &config, &l.arena, &err),
                     HT_ERR_USAGE);
    assert_non_null(strstr(err.message, "train.micro_tokens = 19"));
    learner_free(&l);
}

static int quiet(void **state) {
    ht_log_set_level(HT_LOG_SILENT);
    return fixture_make(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sft__targets_are_the_answer_and_eos),
        cmocka_unit_test(test_sft__sampled_ids_are_used_as_they_are),
        cmocka_unit_test(test_sft__too_long_is_an_error_or_counted),
        cmocka_unit_test(test_sft__a_weight_that_is_none_is_refused),
        cmocka_unit_test(test_sft__filter_and_split_choose_rows),
        cmocka_unit_test(test_sft__documents_are_separated_as_asked),
        cmocka_unit_test(test_sft__windows_lose_nothing),
        cmocka_unit_test(test_sft__holdout_depends_on_the_document_alone),
        cmocka_unit_test(test_sft__order_is_a_permutation_of_seed_and_epoch),
        cmocka_unit_test(test_sft__loss_is_the_mean_over_the_step),
        cmocka_unit_test(test_sft__evaluation_changes_nothing),
        cmocka_unit_test(test_sft__an_example_above_micro_tokens_is_refused),
    };
    return cmocka_run_group_tests_name("sft", tests, quiet, fixture_drop);
}
