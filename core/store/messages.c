/*
 * messages.c: names of enumerated columns, canonical dialogues, content hashes.
 */
#include "core/store/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* its state on the stack is only safe when the code is compiled here, whatever version the shared library has
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/json.h"

#define HT_NAME(name, text) text,
static const char *const kind_names[] = {HT_KIND_MAP(HT_NAME)};
static const char *const split_names[] = {HT_SPLIT_MAP(HT_NAME)};
static const char *const origin_names[] = {HT_ORIGIN_MAP(HT_NAME)};
static const char *const safety_names[] = {HT_SAFETY_MAP(HT_NAME)};
static const char *const finish_names[] = {HT_FINISH_MAP(HT_NAME)};
static const char *const rating_names[] = {NULL, "negligibly", "slightly", "better", "significantly"};

const char *const ht_kind_choices[] = {"all", HT_KIND_MAP(HT_NAME) NULL};
const char *const ht_split_choices[] = {"all", HT_SPLIT_MAP(HT_NAME) NULL};

static int find(const char *const *names, int count, const char *text) {
    for (int i = 0; i < count; i++) {
        if (text ? names[i] && strcmp(names[i], text) == 0 : names[i] == NULL) return i;
    }
    return -1;
}

const char *ht_kind_text(ht_kind kind) {
    return kind_names[kind];
}
const char *ht_split_text(ht_split split) {
    return split_names[split];
}
const char *ht_origin_text(ht_origin origin) {
    return origin_names[origin];
}
const char *ht_safety_text(ht_safety safety) {
    return safety_names[safety];
}
const char *ht_finish_text(ht_finish finish) {
    return finish_names[finish];
}
const char *ht_rating_text(int rating) {
    return rating_names[rating];
}
int ht_kind_find(const char *text) {
    return find(kind_names, HT_KIND_COUNT, text);
}
int ht_split_find(const char *text) {
    return find(split_names, HT_SPLIT_COUNT, text);
}
int ht_origin_find(const char *text) {
    return find(origin_names, HT_ORIGIN_COUNT, text);
}
int ht_safety_find(const char *text) {
    return find(safety_names, HT_SAFETY_COUNT, text);
}
int ht_finish_find(const char *text) {
    return find(finish_names, HT_FINISH_COUNT, text);
}
unsigned ht_choice_mask(int choice) {
    return choice ? 1u << (choice - 1) : 0;
}

static int is_blank(const char *text) {
    return text[strspn(text, " \t\r\n\f\v")] == '\0';
}

/* One message in canonical form, a new reference; `turn` counts the messages after the system one. */
static ht_status canonical_message(const json_t *message, size_t index, size_t turn, json_t **out,
                                   ht_error *err) {
    const char *role = json_string_value(json_object_get(message, "role"));
    const char *content = json_string_value(json_object_get(message, "content"));
    if (!role || !content || json_object_size(message) != 2)
        return ht_fail(err, HT_ERR_DATA,
                       "message %zu is not an object of two strings, \"role\" and \"content\"", index + 1);
    int is_system = index == 0 && strcmp(role, "system") == 0;
    const char *expected = turn % 2 ? "assistant" : "user";
    if (!is_system && strcmp(role, expected) != 0)
        return ht_fail(err, HT_ERR_DATA, "message %zu has role \"%.32s\" where \"%s\" is due", index + 1,
                       role, expected);
    if (is_blank(content)) return ht_fail(err, HT_ERR_DATA, "message %zu (%s) is empty", index + 1, role);
    *out = json_pack("{s:s, s:s}", "role", role, "content", content);
    if (!*out) return ht_fail(err, HT_ERR_NOMEM, "cannot copy a message of %zu bytes", strlen(content));
    return HT_OK;
}

ht_status ht_messages_canonical_json(char **out, const json_t *messages, ht_error *err) {
    ht_status status = HT_OK;
    size_t count = json_array_size(messages), system = 0; /* size of anything but an array: 0 */
    json_t *canonical = json_array();
    *out = NULL;
    if (!canonical || count == 0) {
        status = canonical ? ht_fail(err, HT_ERR_DATA, "messages are not a JSON array of messages")
                           : ht_fail(err, HT_ERR_NOMEM, "cannot allocate a list of messages");
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        json_t *message = NULL;
        HT_TRY(canonical_message(json_array_get(messages, i), i, i - system, &message, err));
        if (i == 0 && strcmp(json_string_value(json_object_get(message, "role")), "system") == 0) system = 1;
        if (json_array_append_new(canonical, message) != 0) {
            status = ht_fail(err, HT_ERR_NOMEM, "cannot grow a list of %zu messages", i);
            goto done;
        }
    }
    if ((count - system) % 2 == 0) {
        status = ht_fail(err, HT_ERR_DATA, "the last of %zu messages is not a user turn", count);
        goto done;
    }
    status = ht_json_text(out, canonical, JSON_COMPACT, err);
done:
    json_decref(canonical);
    return status;
}

ht_status ht_messages_canonical(char **out, const char *messages, ht_error *err) {
    json_error_t error;
    json_t *parsed;
    *out = NULL;
    ht_status status = ht_json_parse(&parsed, messages, strlen(messages), &error, err);
    if (status == HT_ERR_DATA)
        return ht_fail(err, status, "messages are not JSON: column %d: %s", error.column, error.text);
    if (status == HT_OK) status = ht_messages_canonical_json(out, parsed, err);
    json_decref(parsed);
    return status;
}

ht_split ht_messages_split(const char *canonical, double holdout) {
    XXH128_hash_t hash = XXH3_128bits(canonical, strlen(canonical));
    /* 53 bits: what a double holds exactly */
    return ldexp((double)(hash.high64 >> 11), -53) < holdout ? HT_SPLIT_TEST : HT_SPLIT_TRAIN;
}

static void finish_hash(uint8_t out[HT_STORE_HASH], XXH3_state_t *state) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(out, canonical.digest, HT_STORE_HASH);
}

void ht_dialog_hash(uint8_t hash[HT_STORE_HASH], const char *kind, const char *canonical) {
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, kind, strlen(kind));
    XXH3_128bits_update(&state, "\n", 1);
    XXH3_128bits_update(&state, canonical, strlen(canonical));
    finish_hash(hash, &state);
}

void ht_response_hash(uint8_t hash[HT_STORE_HASH], const ht_response_row *r) {
    char key[512];
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    if (r->model_id) {
        int length = snprintf(key, sizeof key, "sampled %lld %lld %lld %lld %lld %.17g %.17g %lld %lld",
                              (long long)r->dialog_id, (long long)r->model_id, (long long)r->run_id,
                              (long long)r->round, (long long)r->step, r->temperature, r->top_p,
                              (long long)r->seed, (long long)r->k);
        XXH3_128bits_update(&state, key, (size_t)length);
    } else {
        int length = snprintf(key, sizeof key, "text %lld ", (long long)r->dialog_id);
        XXH3_128bits_update(&state, key, (size_t)length);
        XXH3_128bits_update(&state, r->text, strlen(r->text));
    }
    finish_hash(hash, &state);
}
