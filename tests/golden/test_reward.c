/*
 * The reward stage's losses and gradients against PyTorch: margins of table 27 by rating, labels by bin.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "reward/step.h"
#include "tests/golden/golden.h"

/* The file's margins and labels as this project's ratings and bins. */
static void add_pair(ht_pair_set *set, const json_t *pair, int64_t id) {
    static const double small[] = {0, 0, 1 / 3.0, 2 / 3.0, 1}; /* table 27 */
    ht_error err = HT_ERROR_INIT;
    ht_batch ids;
    double margin = golden_number(pair, "margin");
    int chosen_safe = (int)golden_number(pair, "chosen_safe"),
        rejected_safe = (int)golden_number(pair, "rejected_safe");
    ht_pair *out = &set->pairs[set->count++];
    *out = (ht_pair){.id = id, .batch = -1, .source = -1};
    for (int rating = HT_RATING_NEGLIGIBLY; rating <= HT_RATING_SIGNIFICANTLY; rating++)
        if (small[rating] == margin) out->rating = rating;
    assert_int_not_equal(out->rating, HT_RATING_NONE);
    assert_true(chosen_safe >= rejected_safe);
    out->safety = !chosen_safe    ? HT_SAFETY_BOTH_UNSAFE
                  : rejected_safe ? HT_SAFETY_BOTH_SAFE
                                  : HT_SAFETY_CHOSEN_SAFE;
    golden_check(ht_batch_init(&ids, GOLDEN_MAX_TOKENS, 2, &err), &err);
    golden_add_sequence(&ids, json_object_get(pair, "chosen"));
    golden_add_sequence(&ids, json_object_get(pair, "rejected"));
    for (int s = 0; s < 2; s++)
        golden_check(ht_example_set_add(&set->sequences, id, ids.tokens + ids.seq_start[s], NULL,
                                        ids.seq_start[s + 1] - ids.seq_start[s], &err),
                     &err);
    ht_batch_free(&ids);
}

static void test_golden__reward_losses(void **state) {
    (void)state;
    static const struct {
        const char *name;
        ht_margin_kind margin;
        double aux_weight;
    } kinds[] = {{"ranking", HT_MARGIN_NONE, 0},
                 {"margin", HT_MARGIN_SMALL, 0},
                 {"margin+auxiliary", HT_MARGIN_SMALL, 1}};
    golden_model m;
    ht_error err = HT_ERROR_INIT;
    golden_values values = golden_values_open("reward.golden");
    golden_model_open(&m, "reward");
    const json_t *pairs = json_object_get(values.json, "pairs");
    int64_t order[16], count = (int64_t)json_array_size(pairs);
    ht_pair_set set = {.pairs = calloc((size_t)count, sizeof(ht_pair))};
    for (int64_t i = 0; i < count; i++) {
        add_pair(&set, json_array_get(pairs, (size_t)i), i);
        order[i] = i;
    }
    ht_reward_pass pass;
    /* two pairs a pass, so that the mean over the step is seen */
    golden_check(ht_reward_pass_init(&pass, &m.model, m.acts, GOLDEN_MAX_TOKENS, 4, &err), &err);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        ht_reward_loss loss = {.aux_weight = kinds[k].aux_weight};
        ht_reward_result result;
        char name[64];
        golden_check(ht_reward_margins(&loss, kinds[k].margin, &(ht_floats){NULL, 0}, &err), &err);
        golden_check(ht_params_zero(m.be, &m.grads, &err), &err);
        golden_check(ht_reward_step(&pass, &loss, &set, order, count, &m.grads, &result, &err), &err);
        golden_compare_number(kinds[k].name, result.loss,
                              golden_number(json_object_get(values.json, "loss"), kinds[k].name),
                              GOLDEN_TOLERANCE);
        if (loss.aux_weight > 0)
            golden_compare_number("auxiliary", result.aux_loss,
                                  golden_number(json_object_get(values.json, "loss"), "auxiliary"),
                                  GOLDEN_TOLERANCE);
        snprintf(name, sizeof name, "grad.%s", kinds[k].name);
        golden_compare_params(&m, &m.grads, &values, name, GOLDEN_TOLERANCE);
    }
    ht_reward_pass_free(&pass);
    ht_pair_set_free(&set);
    golden_model_close(&m);
    golden_values_close(&values);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden__reward_losses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
