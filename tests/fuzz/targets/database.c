/* A project database: opened, checked, counted, every set of it read. What is written to it goes with it. */
#include <unistd.h>

#include "core/store/store.h"
#include "tests/fuzz/fuzz.h"

static ht_status ignore_finding(void *context, const char *finding, ht_error *err) {
    (void)context, (void)finding, (void)err;
    return HT_OK;
}

static ht_status ignore_stat(void *context, const ht_store_stat *stat, ht_error *err) {
    (void)context, (void)stat, (void)err;
    return HT_OK;
}

/* Reads rows of a set; each set has a row type and a function of its own. */
#define READ(set, row_type, next)                                                                            \
    static void read_##set(ht_store *store) {                                                                \
        ht_store_filter filter = {.limit = 64};                                                              \
        ht_error err = HT_ERROR_INIT;                                                                        \
        ht_store_cursor *cursor;                                                                             \
        row_type row;                                                                                        \
        int found = 1;                                                                                       \
        ht_status status = ht_store_read(store, HT_STORE_##set, &filter, &cursor, &err);                     \
        while (status == HT_OK && found)                                                                     \
            status = next(cursor, &row, &found, &err);                                                       \
        ht_store_cursor_free(cursor);                                                                        \
        fuzz_judge(status, &err);                                                                            \
    }
READ(DIALOGS, ht_dialog_row, ht_store_next_dialog)
READ(RESPONSES, ht_scored_row, ht_store_next_response)
READ(COMPARISONS, ht_comparison_row, ht_store_next_comparison)
READ(DEMONSTRATIONS, ht_demonstration_row, ht_store_next_demonstration)
READ(EVALUATIONS, ht_evaluation_row, ht_store_next_evaluation)
READ(MODELS, ht_model_row, ht_store_next_model)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ht_error err = HT_ERROR_INIT;
    ht_store *store;
    int64_t findings, id;
    unlink(fuzz_path("p.db-wal"));
    unlink(fuzz_path("p.db-shm"));
    fuzz_write("p.db", data, size);
    ht_status status = ht_store_open(&store, fuzz_path("p.db"), HT_STORE_EXISTING, &err);
    fuzz_judge(status, &err);
    if (status != HT_OK) return 0;
    fuzz_judge(ht_store_check(store, ignore_finding, NULL, &findings, &err), &err);
    fuzz_judge(ht_store_stats(store, ignore_stat, NULL, &err), &err);
    read_DIALOGS(store);
    read_RESPONSES(store);
    read_COMPARISONS(store);
    read_DEMONSTRATIONS(store);
    read_EVALUATIONS(store);
    read_MODELS(store);
    ht_dialog_row dialog = {.messages = "[{\"role\":\"user\",\"content\":\"hello\"}]",
                            .kind = HT_KIND_HELPFULNESS};
    fuzz_judge(ht_store_add_dialog(store, &dialog, &id, NULL, &err), &err);
    ht_store_close(store);
    return 0;
}
