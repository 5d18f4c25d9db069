#include "annotations/panel.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* From careful to careless; one favours what it reads first, one what is longer. */
const ht_annotator ht_panel[HT_PANEL_COUNT] = {
    {"ann-1", 0.05, 0.00, 0.00, 0.01, 0.01}, {"ann-2", 0.08, 0.00, 0.00, 0.02, 0.02},
    {"ann-3", 0.10, 0.04, 0.00, 0.02, 0.02}, {"ann-4", 0.10, 0.00, 0.05, 0.03, 0.03},
    {"ann-5", 0.15, 0.00, 0.00, 0.04, 0.04}, {"ann-6", 0.25, 0.05, 0.03, 0.08, 0.06},
};

const ht_annotator *ht_panel_find(const char *name) {
    for (int i = 0; i < HT_PANEL_COUNT; i++)
        if (strcmp(ht_panel[i].name, name) == 0) return &ht_panel[i];
    return NULL;
}

const char *ht_bin_text(ht_bin bin) {
    static const char *const texts[] = {"", "chosen_safe", "both_safe", "both_unsafe", "rejected_safe"};
    return texts[bin];
}

static int rating_of(double distance) {
    return distance >= 0.5    ? HT_RATING_SIGNIFICANTLY
           : distance >= 0.25 ? HT_RATING_BETTER
           : distance >= 0.1  ? HT_RATING_SLIGHTLY
                              : HT_RATING_NEGLIGIBLY;
}

ht_opinion ht_panel_compare(const ht_annotator *annotator, ht_kind kind, const ht_candidate candidates[2],
                            ht_draw *draw) {
    double worth[2];
    int unsafe[2];
    for (int i = 0; i < 2; i++) {
        int misread = ht_draw_uniform(draw) < annotator->label_error;
        unsafe[i] = candidates[i].violation != misread;
        worth[i] = candidates[i].helpfulness;
        if (kind == HT_KIND_SAFETY) worth[i] = unsafe[i] ? 0 : 0.5 + 0.5 * worth[i];
    }
    double u = ht_draw_uniform(draw), lapse = ht_draw_uniform(draw), flip = ht_draw_uniform(draw);
    if (u < 0x1p-53) u = 0x1p-53; /* the logistic quantile of 0 is -infinity */
    double noise = annotator->taste * log(u / (1 - u));
    double longer = (candidates[0].words - candidates[1].words) / 10.0;
    double d = worth[0] - worth[1] + annotator->position_bias + annotator->length_bias * longer + noise;
    int chosen = d > 0 ? 0 : 1;
    if (lapse < annotator->lapse) chosen = flip < 0.5 ? 0 : 1;
    ht_opinion opinion = {chosen == 0 ? 'a' : 'b', rating_of(fabs(d)), HT_BIN_NONE};
    if (kind == HT_KIND_SAFETY)
        opinion.bin = unsafe[chosen] ? (unsafe[1 - chosen] ? HT_BIN_BOTH_UNSAFE : HT_BIN_REJECTED_SAFE)
                                     : (unsafe[1 - chosen] ? HT_BIN_CHOSEN_SAFE : HT_BIN_BOTH_SAFE);
    return opinion;
}
