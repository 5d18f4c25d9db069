/*
 * One token a row.  Contract: backend.h, ht_sample.
 *
 * The tokens that pass top-k and top-p are a prefix of the order (logit descending, id ascending), so they
 * are told by one logit and a number of ties (struct cut). That logit is found digit by digit, most
 * significant first, over counts and masses of an order-preserving integer image of the logits: exact, no
 * sort, no memory. The inverse of the cumulated distribution then runs over the kept tokens in the order of
 * their ids, so that a filter which drops nothing changes nothing.
 */
#include <math.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/exp.h"
#include "core/backend/cpu/rows.h"

#define CHUNK    256 /* logits weighed at a time */
#define DIGITS   3   /* 11 + 11 + 10 bits */
#define BUCKETS  2048
#define SEGMENTS 512 /* parts of a row whose masses are kept while drawing */

/* A row at a temperature: token i weighs e^((z[i] - largest) / temperature). */
typedef struct row {
    const float *z; /* [size] */
    int64_t size;
    float largest, inverse_temperature;
} row;

/* Kept: every token whose image is above `least`, and the tokens of image `least` up to id `last_tie`. */
typedef struct cut {
    uint32_t least;
    int64_t last_tie;
} cut;

/* Larger logit, larger image; +0 and -0 share one. */
static uint32_t image(float z) {
    union {
        float f;
        uint32_t u;
    } pun = {z + 0.0f};
    return pun.u & 0x80000000u ? ~pun.u : pun.u | 0x80000000u;
}

static float weight(const row *r, float z) {
    return ht_expf((z - r->largest) * r->inverse_temperature);
}

/* w[i] = the weight of token first + i, i < n <= CHUNK. */
static void weigh(const row *r, int64_t first, int64_t n, float *w) {
    int64_t i = 0;
    for (; i + HT_LANES <= n; i += HT_LANES)
        *(ht_lanes *)(w + i) =
            ht_exp_lanes((*(const ht_lanes *)(r->z + first + i) - r->largest) * r->inverse_temperature);
    for (; i < n; i++)
        w[i] = weight(r, r->z[first + i]);
}

/* 0 when a logit is not finite. *id = the lowest id of the largest logit. */
static int find_largest(const float *z, int64_t size, int64_t *id) {
    float largest = -INFINITY, poison = 0;
    int64_t first = 0; /* its chunk, then itself */
    for (int64_t start = 0; start < size; start += CHUNK) {
        int64_t n = size - start < CHUNK ? size - start : CHUNK;
        float most = -INFINITY;
#pragma omp simd reduction(max : most) reduction(+ : poison)
        for (int64_t i = 0; i < n; i++) {
            most = z[start + i] > most ? z[start + i] : most;
            poison += z[start + i] * 0.0f; /* NaN as soon as one is infinite or NaN */
        }
        if (most > largest) {
            largest = most;
            first = start;
        }
    }
    if (poison != 0.0f) return 0;
    while (z[first] != largest)
        first++;
    *id = first;
    return 1;
}

/* Mass of tokens [from, to) that the cut keeps (NULL: all), in f64. */
static double mass_of(const row *r, int64_t from, int64_t to, const cut *kept) {
    enum { LANES = 32 }; /* sums: additions need not wait for each other */
    double lanes[LANES] = {0}, mass = 0;
    float w[CHUNK];
    for (int64_t start = from; start < to; start += CHUNK) {
        int64_t n = to - start < CHUNK ? to - start : CHUNK;
        weigh(r, start, n, w);
        for (int64_t i = 0; kept && i < n; i++) {
            uint32_t u = image(r->z[start + i]);
            if (u < kept->least || (u == kept->least && start + i > kept->last_tie)) w[i] = 0;
        }
        memset(w + n, 0, (size_t)(CHUNK - n) * sizeof *w);
        for (int64_t i = 0; i < CHUNK; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                lanes[lane] += (double)w[i + lane];
    }
    for (int lane = 0; lane < LANES; lane++)
        mass += lanes[lane];
    return mass;
}

/* Counts and masses of the tokens whose image begins with `prefix`, by their next digit. */
static void fill_buckets(const row *r, int digit, uint32_t prefix, int64_t count[BUCKETS],
                         double mass[BUCKETS]) {
    static const int shifts[DIGITS + 1] = {32, 21, 10, 0};
    uint32_t mask = (1u << (shifts[digit] - shifts[digit + 1])) - 1;
    memset(count, 0, BUCKETS * sizeof *count);
    memset(mass, 0, BUCKETS * sizeof *mass);
    for (int64_t start = 0; start < r->size; start += CHUNK) {
        int64_t n = r->size - start < CHUNK ? r->size - start : CHUNK;
        float w[CHUNK];
        if (digit == 0) weigh(r, start, n, w);
        for (int64_t i = 0; i < n; i++) {
            uint32_t u = image(r->z[start + i]);
            if (digit > 0 && u >> shifts[digit] != prefix) continue;
            uint32_t bucket = u >> shifts[digit + 1] & mask;
            count[bucket]++;
            mass[bucket] += (double)(digit == 0 ? w[i] : weight(r, r->z[start + i]));
        }
    }
}

/*
 * The shortest prefix of the order that has `tokens` tokens or a mass of at least share * mass of all;
 * *kept_mass = its mass (may be NULL). whole: the mass that `share` is of; 0: the row's.
 */
static cut find_cut(const row *r, int64_t tokens, double share, double whole, double *kept_mass) {
    int64_t count[BUCKETS], count_before = 0;
    double mass[BUCKETS], mass_before = 0, wanted = 0;
    uint32_t prefix = 0;
    static const int widths[DIGITS] = {11, 11, 10};
    for (int digit = 0; digit < DIGITS; digit++) {
        fill_buckets(r, digit, prefix, count, mass);
        int buckets = 1 << widths[digit], found = -1;
        if (digit == 0) {
            for (int b = buckets - 1; b >= 0 && whole == 0; b--)
                wanted += mass[b];
            wanted = share * (whole > 0 ? whole : wanted);
        }
        /* Where rounding lets the digits of one bucket fall short of its mass, its last token is the end. */
        int64_t count_at = 0;
        double mass_at = 0;
        for (int b = buckets - 1; b >= 0; b--) {
            if (!count[b]) continue;
            count_at = count_before;
            mass_at = mass_before;
            found = b;
            count_before += count[b];
            mass_before += mass[b];
            if (count_before >= tokens || mass_before >= wanted) break;
        }
        count_before = count_at;
        mass_before = mass_at;
        prefix = prefix << widths[digit] | (uint32_t)found;
    }
    /* Ties enter in the order of their ids. */
    cut kept = {.least = prefix, .last_tie = -1};
    for (int64_t i = 0; i < r->size; i++) {
        if (image(r->z[i]) != prefix) continue;
        kept.last_tie = i;
        count_before++;
        mass_before += (double)weight(r, r->z[i]);
        if (count_before >= tokens || mass_before >= wanted) break;
    }
    if (kept_mass) *kept_mass = mass_before;
    return kept;
}

/* The first token at which the cumulated mass of the kept ones passes u times their whole, u in [0, 1); *whole = that. */
static int32_t draw(const row *r, const cut *kept, double u, double *whole) {
    double masses[SEGMENTS], total = 0, before = 0;
    int64_t chunks = (r->size + CHUNK - 1) / CHUNK, length = (chunks + SEGMENTS - 1) / SEGMENTS * CHUNK;
    int segments = (int)((r->size + length - 1) / length), segment = -1;
    for (int s = 0; s < segments; s++) {
        int64_t from = s * length, to = from + length < r->size ? from + length : r->size;
        masses[s] = mass_of(r, from, to, kept);
        total += masses[s];
    }
    *whole = total;
    double target = u * total, passed = 0;
    for (int s = 0; s < segments; s++) {
        if (masses[s] <= 0) continue;
        segment = s; /* the last one with mass stands in where rounding leaves the target unpassed */
        before = passed;
        passed += masses[s];
        if (passed > target) break;
    }
    int64_t from = segment * length, to = from + length < r->size ? from + length : r->size, chosen = -1;
    for (int64_t i = from; i < to; i++) {
        uint32_t bits = image(r->z[i]);
        if (kept && (bits < kept->least || (bits == kept->least && i > kept->last_tie))) continue;
        float w = weight(r, r->z[i]);
        if (w <= 0) continue;
        chosen = i;
        before += (double)w;
        if (before > target) break;
    }
    return (int32_t)chosen;
}

/* -1: a logit is not finite. */
static int32_t sample_row(const float *z, int64_t size, const ht_sampling *s, float *logp) {
    int64_t top = 0;
    if (!find_largest(z, size, &top)) return -1;
    int32_t token = (int32_t)top;
    row plain = {z, size, z[top], 1.0f};
    double mass = 0; /* of all tokens at temperature 1; 0: not known yet */
    if (s->temperature > 0) {
        row r = {z, size, z[top], 1.0f / s->temperature};
        double u = ht_rng_uniform(s->seed, s->stream, s->index), whole = 0, drawn_from;
        cut kept;
        int limited = s->top_k > 0 && s->top_k < size;
        if (limited) kept = find_cut(&r, s->top_k, INFINITY, 1, &whole);
        int filtered = limited || s->top_p < 1;
        if (s->top_p < 1) kept = find_cut(&r, limited ? s->top_k : size, (double)s->top_p, whole, NULL);
        token = draw(&r, filtered ? &kept : NULL, u, &drawn_from);
        if (!filtered && s->temperature == 1.0f) mass = drawn_from;
    }
    if (logp && mass == 0) mass = mass_of(&plain, 0, size, NULL);
    if (logp) *logp = (float)((double)z[token] - (double)z[top] - log(mass));
    return token;
}

ht_status HT_CPU(sample)(ht_backend *be, const ht_tensor *logits, const ht_sampling *settings, int32_t *tokens,
                        float *logp, ht_error *err) {
    (void)err;
#pragma omp parallel for schedule(static)                                                                    \
    num_threads(be->threads) if (logits->rows > 1 && logits->rows * logits->cols > 4096)
    for (int64_t r = 0; r < logits->rows; r++)
        tokens[r] = sample_row(ht_row(logits, r), logits->cols, &settings[r], logp ? &logp[r] : NULL);
    return HT_OK;
}
