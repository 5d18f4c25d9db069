/*
 * synth.c: the command halter-annotations synth.
 */
#include "annotations/synth.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "annotations/panel.h"
#include "annotations/synth_corpus.h"
#include "core/base/json.h"
#include "core/base/log.h"

typedef struct synth_config {
    char *db, *out, *input, *model;
    int64_t seed, documents, demonstrations, train_prompts, test_prompts;
    int make, split, json;
} synth_config;

enum { MAKE_CORPUS, MAKE_ANNOTATIONS, MAKE_SCORES };
static const char *const makes[] = {"corpus", "annotations", "scores", NULL};

static const ht_option options[] = {
    HT_OPT_CHOICE(
        synth_config, make, "make", NULL, makes, HT_OPTION_REQUIRED,
        "corpus: files to begin with; annotations: fill a file of pairs; scores: true worth of responses"),
    HT_OPT_PATH(synth_config, db, "db", NULL, 0, "project database (scores only)"),
    HT_OPT_PATH(synth_config, out, "out", NULL, 0, "folder to write (corpus), file to write (annotations)"),
    HT_OPT_PATH(synth_config, input, "input", NULL, 0,
                "CSV of pairs to annotate; - is standard input (annotations)"),
    HT_OPT_INT(synth_config, seed, "seed", "1", 0, 9e18, 0, "seed of everything drawn"),
    HT_OPT_INT(synth_config, documents, "documents", "40000", 1, 1e9, 0, "lines of pretrain.txt"),
    HT_OPT_INT(synth_config, demonstrations, "demonstrations", "3000", 1, 1e9, 0,
               "rows of demonstrations.csv"),
    HT_OPT_INT(synth_config, train_prompts, "train_prompts", "3000", 0, 1e9, 0,
               "training prompts in prompts.csv"),
    HT_OPT_INT(synth_config, test_prompts, "test_prompts", "400", 0, 1e9, 0, "test prompts in prompts.csv"),
    HT_OPT_STRING(synth_config, model, "model", NULL, 0,
                  "score this model's responses only, by name (scores)"),
    HT_OPT_CHOICE(synth_config, split, "split", "all", ht_split_choices, 0,
                  "score responses of this split only (scores)"),
    HT_OPT_FLAG(synth_config, json, "json", 0, "print the summary as JSON"),
};

static ht_status need(const char *value, const char *option, int make, ht_error *err) {
    if (value[0] != '\0') return HT_OK;
    return ht_fail(err, HT_ERR_USAGE, "--make %s needs --%s", makes[make], option);
}

/* Prints the summary as one JSON line or as "name value" lines; takes the reference. */
static ht_status print_summary(json_t *summary, int as_json, ht_error *err) {
    const char *key;
    json_t *value;
    ht_status status = HT_OK;
    if (as_json) {
        status = ht_json_print(summary, JSON_COMPACT | JSON_REAL_PRECISION(6), stdout, err);
    } else {
        json_object_foreach(summary, key, value) {
            if (json_is_real(value))
                printf("%-22s %.4f\n", key, json_real_value(value));
            else if (json_is_integer(value))
                printf("%-22s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
            else
                printf("%-22s %s\n", key, json_is_null(value) ? "-" : json_string_value(value));
        }
    }
    json_decref(summary);
    if (status == HT_OK && fflush(stdout) != 0) status = ht_fail(err, HT_ERR_IO, "cannot write to stdout");
    return status;
}

static ht_status make_corpus(const synth_config *config, ht_error *err) {
    ht_status status;
    HT_TRY(need(config->out, "out", config->make, err));
    const ht_corpus_request request = {.seed = (uint64_t)config->seed,
                                       .folder = config->out,
                                       .documents = config->documents,
                                       .demonstrations = config->demonstrations,
                                       .train_prompts = config->train_prompts,
                                       .test_prompts = config->test_prompts};
    HT_TRY(ht_corpus_write(&request, err));
    HT_TRY(print_summary(json_pack("{s:s, s:I, s:I, s:I, s:I}", "folder", config->out, "documents",
                                   (json_int_t)config->documents, "demonstrations",
                                   (json_int_t)config->demonstrations, "train_prompts",
                                   (json_int_t)config->train_prompts, "test_prompts",
                                   (json_int_t)config->test_prompts),
                         config->json, err));
done:
    return status;
}

static ht_status make_annotations(const synth_config *config, ht_error *err) {
    ht_synth_annotate_result result;
    ht_status status;
    HT_TRY(need(config->input, "input", config->make, err));
    HT_TRY(need(config->out, "out", config->make, err));
    HT_TRY(ht_synth_annotate(config->input, config->out, (uint64_t)config->seed, &result, err));
    json_t *summary = json_pack("{s:I, s:I, s:I, s:I, s:I}", "rows", (json_int_t)result.rows, "annotated",
                                (json_int_t)result.annotated, "kept", (json_int_t)result.kept, "identical",
                                (json_int_t)result.identical, "chosen_a", (json_int_t)result.chosen_a);
    for (int rating = HT_RATING_NEGLIGIBLY; rating <= HT_RATING_SIGNIFICANTLY; rating++) {
        char key[32];
        snprintf(key, sizeof key, "rated_%s", ht_rating_text(rating));
        json_object_set_new(summary, key, json_integer(result.ratings[rating]));
    }
    for (int bin = HT_BIN_CHOSEN_SAFE; bin <= HT_BIN_REJECTED_SAFE; bin++)
        json_object_set_new(summary, ht_bin_text((ht_bin)bin), json_integer(result.bins[bin]));
    HT_TRY(print_summary(summary, config->json, err));
done:
    return status;
}

/* Mean over responses; null when there are none. */
static json_t *mean(double sum, int64_t count) {
    return count > 0 ? json_real(sum / (double)count) : json_null();
}

static ht_status make_scores(const synth_config *config, ht_error *err) {
    ht_store *store = NULL;
    ht_store_filter filter = {.splits = ht_choice_mask(config->split)};
    ht_synth_score_result result;
    ht_status status;
    HT_TRY(need(config->db, "db", config->make, err));
    HT_TRY(ht_store_open(&store, config->db, HT_STORE_EXISTING, err));
    if (config->model[0] != '\0') {
        ht_model_row model;
        int found;
        HT_TRY(ht_store_find_model(store, config->model, &model, &found, err));
        if (!found) {
            status = ht_fail(err, HT_ERR_DATA, "%s: there is no model \"%s\"", config->db, config->model);
            goto done;
        }
        filter.model_id = model.id;
    }
    HT_TRY(ht_synth_score(store, &filter, &result, err));
    if (result.unknown > 0)
        ht_warn("%" PRId64 " responses to prompts that are not of the synthetic world were left alone",
                result.unknown);
    const ht_synth_tally *helpful = &result.kinds[HT_KIND_HELPFULNESS], *safe = &result.kinds[HT_KIND_SAFETY];
    HT_TRY(print_summary(json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:I, s:o, s:o}", "scored",
                                   (json_int_t)result.scored, "existing", (json_int_t)result.existing,
                                   "unknown", (json_int_t)result.unknown, "helpfulness_responses",
                                   (json_int_t)helpful->responses, "helpfulness_mean",
                                   mean(helpful->helpfulness, helpful->responses), "helpfulness_violations",
                                   mean((double)helpful->violations, helpful->responses), "safety_responses",
                                   (json_int_t)safe->responses, "safety_helpfulness_mean",
                                   mean(safe->helpfulness, safe->responses), "safety_violations",
                                   mean((double)safe->violations, safe->responses)),
                         config->json, err));
done:
    ht_store_close(store);
    return status;
}

static ht_status run(void *configuration, const ht_invocation *invocation, ht_error *err) {
    const synth_config *config = configuration;
    (void)invocation;
    if (config->make == MAKE_CORPUS) return make_corpus(config, err);
    if (config->make == MAKE_ANNOTATIONS) return make_annotations(config, err);
    return make_scores(config, err);
}

const ht_command ht_annotations_synth_command = {
    .name = "synth",
    .summary =
        "Make the synthetic world's texts, annotate pairs as its noisy panel, or score responses truly.",
    .parts = {{options, sizeof options / sizeof *options, 0}},
    .config_size = sizeof(synth_config),
    .run = run,
};
