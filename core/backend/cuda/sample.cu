/*
 * One token a row on CUDA.  Contract: backend.h, ht_sample.
 *
 * The algorithm is the CPU's (core/backend/cpu/sample.c): the tokens that pass top-k and top-p are a prefix of the order
 * (logit descending, id ascending), so they are told by one logit and a number of ties; the inverse of the cumulated
 * distribution then runs over the kept tokens in the order of their ids. Here that logit is found by halving the
 * interval of its integer image, counting and weighing the tokens above it: sums by a fixed tree, no atomics, no sort.
 * The uniform number is the host's, so that every backend draws with the same one; masses are f64 sums of f32 weights.
 *
 * Launch   a block a row, a thread for every 32 tokens (32 to 1024 threads); the row stays in shared memory where it
 *          fits.
 * Traffic  logits once: 4 R V bytes; then shared memory or the caches. Latency: four passes over a row, and up to 32
 *          more for each filter.
 * Fused    greedy choice, filters, draw, log-probability.
 * Measured not yet.
 */
#include <float.h>
#include <inttypes.h>
#include <string.h>

#include "core/backend/cuda/device.h"

extern "C" {
#include "core/base/rng.h"
}

enum { MOST_THREADS = 1024, SETTINGS_TOGETHER = 64 };

/* ht_sampling as the kernel needs it. */
struct sample_settings {
    float inverse_temperature; /* 0: the largest logit */
    float top_p;
    int32_t top_k;
    double uniform;
};

/* The row of a block: token i weighs e^((z[i] - largest) / temperature). */
struct sample_row {
    const float *z;
    int size;
    float largest, inverse_temperature;
};

/* Kept: every token whose image is above `least`, and the tokens of image `least` up to id `last_tie`. */
struct sample_cut {
    uint32_t least;
    int last_tie;
};

struct sample_memory {
    float floats[32];
    int ints[32];
    double doubles[32];
    int token;
};

/* Larger logit, larger image; +0 and -0 share one. */
static __device__ __forceinline__ uint32_t image_of(float z) {
    uint32_t bits = __float_as_uint(z + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float logit_of(uint32_t image) {
    return __uint_as_float(image & 0x80000000u ? image & 0x7fffffffu : ~image);
}

static __device__ __forceinline__ float weight(const sample_row &r, float z) {
    return expf((z - r.largest) * r.inverse_temperature);
}

/* Number and mass of the tokens whose image is at least `image`. */
struct sample_measure {
    int count;
    double mass;
};
static __device__ sample_measure above(const sample_row &r, uint32_t image, bool weighed, sample_memory &memory) {
    sample_measure m = {0, 0};
    for (int i = (int)threadIdx.x; i < r.size; i += (int)blockDim.x) {
        if (image_of(r.z[i]) < image) continue;
        m.count++;
        if (weighed) m.mass += (double)weight(r, r.z[i]);
    }
    m.count = ht_block_sum(m.count, memory.ints);
    if (weighed) m.mass = ht_block_sum(m.mass, memory.doubles);
    return m;
}

/* The id of the n-th token of this image in the order of ids, n at least 1 and at most their number. */
static __device__ int nth_tie(const sample_row &r, uint32_t image, int n, sample_memory &memory) {
    int low = -1, high = r.size - 1; /* ids up to low have fewer than n, up to high enough */
    while (high - low > 1) {
        int middle = low + (high - low) / 2, count = 0;
        for (int i = (int)threadIdx.x; i <= middle; i += (int)blockDim.x)
            count += image_of(r.z[i]) == image;
        count = ht_block_sum(count, memory.ints);
        if (count >= n)
            high = middle;
        else
            low = middle;
    }
    return high;
}

/*
 * The shortest prefix of the order that has `tokens` tokens or, where it is weighed, a mass of at least `wanted`.
 * smallest: the row's least image.
 */
static __device__ sample_cut find_cut(const sample_row &r, uint32_t smallest, int tokens, bool weighed, double wanted,
                                      sample_memory &memory) {
    /* The tokens from image `high` on are not enough, those from `low` on are (or are all there is). */
    uint32_t low = smallest, high = image_of(r.largest) + 1;
    sample_measure before = {0, 0};
    int count_low = r.size;
    while (high - low > 1 && count_low - before.count > 1) {
        uint32_t middle = low + (high - low) / 2;
        sample_measure m = above(r, middle, weighed, memory);
        if (m.count >= tokens || (weighed && m.mass >= wanted)) {
            low = middle;
            count_low = m.count;
        } else {
            high = middle;
            before = m;
        }
    }
    if (high - low > 1) { /* one token is left between them: the largest below `high` */
        uint32_t found = 0;
        for (int i = (int)threadIdx.x; i < r.size; i += (int)blockDim.x) {
            uint32_t image = image_of(r.z[i]);
            if (image < high && image > found) found = image;
        }
        low = ht_block_reduce(found, 0u, (uint32_t *)memory.ints, ht_larger());
    }
    /* Ties enter in the order of their ids, as many as are needed. */
    int ties = count_low - before.count, enter = tokens - before.count;
    double w = (double)weight(r, logit_of(low)), needed = weighed ? (wanted - before.mass) / w : (double)enter;
    if (needed < (double)enter) enter = needed > 1 ? (int)ceil(needed) : 1;
    sample_cut kept = {low, enter < ties ? nth_tie(r, low, enter, memory) : r.size};
    return kept;
}

static __device__ __forceinline__ float kept_weight(const sample_row &r, const sample_cut &kept, int i) {
    uint32_t image = image_of(r.z[i]);
    bool in = image > kept.least || (image == kept.least && i <= kept.last_tie);
    return in ? weight(r, r.z[i]) : 0.0f;
}

/* Mass of the kept tokens among the ids from `from` on, every `step`-th. */
static __device__ __forceinline__ double mass_of(const sample_row &r, const sample_cut &kept, int from, int end,
                                                 int step) {
    double mass = 0;
    for (int i = from; i < end; i += step)
        mass += (double)kept_weight(r, kept, i);
    return mass;
}

/*
 * The first token at which the cumulated mass of the kept ones passes u times their whole, u in [0, 1). The ids are cut into
 * a run for each warp; the run in which it happens into a run for each lane; that lane walks. Where rounding leaves the
 * target unpassed, the last run with mass, or its last token with mass, stands in.
 */
static __device__ int draw(const sample_row &r, const sample_cut &kept, double u, sample_memory &memory) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    int length = (r.size + warps - 1) / warps, from = warp * length;
    int end = from + length < r.size ? from + length : r.size;
    double mass = ht_warp_sum(mass_of(r, kept, from + lane, end, 32));
    if (lane == 0) memory.doubles[warp] = mass;
    __syncthreads();
    double total = 0, before = 0, passed = 0;
    for (int w = 0; w < warps; w++)
        total += memory.doubles[w];
    double target = u * total;
    int chosen = -1;
    for (int w = 0; w < warps; w++) {
        if (memory.doubles[w] <= 0) continue;
        chosen = w;
        before = passed;
        passed += memory.doubles[w];
        if (passed > target) break;
    }
    if (warp == chosen) {
        length = (length + 31) / 32 | 1; /* odd: the lanes' places lie in different banks of shared memory */
        from += lane * length;
        end = from + length < end ? from + length : end;
        mass = mass_of(r, kept, from, end, 1);
        passed = mass; /* up to this lane */
        for (int distance = 1; distance < 32; distance *= 2) {
            double left = __shfl_up_sync(HT_ALL_LANES, passed, distance);
            passed += lane >= distance ? left : 0.0;
        }
        unsigned has_mass = __ballot_sync(HT_ALL_LANES, mass > 0);
        unsigned passes = __ballot_sync(HT_ALL_LANES, mass > 0 && before + passed > target);
        chosen = passes ? __ffs((int)passes) - 1 : 31 - __clz((int)has_mass);
        if (lane == chosen) {
            before += passed - mass;
            for (int i = from; i < end; i++) {
                float w = kept_weight(r, kept, i);
                if (w <= 0) continue;
                memory.token = i;
                before += (double)w;
                if (before > target) break;
            }
        }
    }
    __syncthreads();
    return memory.token;
}

/* -1: a logit is not finite. */
static __device__ int choose(sample_row &r, const sample_settings &s, sample_memory &memory) {
    float largest = -INFINITY, smallest = INFINITY;
    int poison = 0, first = r.size;
    for (int i = (int)threadIdx.x; i < r.size; i += (int)blockDim.x) {
        float z = r.z[i];
        largest = fmaxf(largest, z);
        smallest = fminf(smallest, z);
        poison |= !(fabsf(z) <= FLT_MAX);
    }
    if (ht_block_sum(poison, memory.ints)) return -1;
    r.largest = ht_block_max(largest, memory.floats);
    r.inverse_temperature = s.inverse_temperature;
    if (s.inverse_temperature == 0) { /* the lowest id among the largest */
        for (int i = (int)threadIdx.x; i < r.size && first == r.size; i += (int)blockDim.x)
            if (r.z[i] == r.largest) first = i;
        return -ht_block_reduce(-first, INT32_MIN, memory.ints, ht_larger());
    }
    sample_cut kept = {0, r.size}; /* everything */
    bool limited = s.top_k > 0 && s.top_k < r.size;
    if (limited || s.top_p < 1) {
        uint32_t least = image_of(-ht_block_max(-smallest, memory.floats));
        if (limited) kept = find_cut(r, least, s.top_k, false, 0, memory);
        if (s.top_p < 1) {
            double whole = mass_of(r, kept, (int)threadIdx.x, r.size, (int)blockDim.x);
            whole = ht_block_sum(whole, memory.doubles);
            kept = find_cut(r, least, limited ? s.top_k : r.size, true, (double)s.top_p * whole, memory);
        }
    }
    return draw(r, kept, s.uniform, memory);
}

/* KEPT: the row is read once, into shared memory. */
template <bool KEPT>
static __global__ void __launch_bounds__(MOST_THREADS, 1)
    sample(int32_t *__restrict__ tokens, float *__restrict__ logp, const float *__restrict__ logits, int64_t stride,
           const sample_settings *__restrict__ settings, int vocab) {
    HT_SHARED(sample_memory, memory, [1]);
    HT_DYNAMIC_SHARED(float, kept);
    const float *z = logits + blockIdx.x * stride;
    if (KEPT) {
        for (int i = (int)threadIdx.x; i < vocab; i += (int)blockDim.x)
            kept[i] = z[i];
        __syncthreads();
    }
    sample_row r = {KEPT ? kept : z, vocab, 0, 0};
    int token = choose(r, settings[blockIdx.x], memory[0]);
    if (threadIdx.x == 0) tokens[blockIdx.x] = token;
    if (!logp || token < 0) return;
    double mass = 0;
    for (int i = (int)threadIdx.x; i < vocab; i += (int)blockDim.x)
        mass += (double)expf(r.z[i] - r.largest);
    mass = ht_block_sum(mass, memory[0].doubles);
    if (threadIdx.x == 0) logp[blockIdx.x] = (float)((double)r.z[token] - (double)r.largest - log(mass));
}

static ht_status upload_settings(ht_backend *be, sample_settings *to, const ht_sampling *settings, int64_t rows,
                                 ht_error *err) {
    sample_settings some[SETTINGS_TOGETHER];
    for (int64_t first = 0; first < rows; first += SETTINGS_TOGETHER) {
        int64_t n = ht_least(rows - first, SETTINGS_TOGETHER);
        for (int64_t i = 0; i < n; i++) {
            const ht_sampling *s = &settings[first + i];
            some[i].inverse_temperature = s->temperature > 0 ? 1.0f / s->temperature : 0.0f;
            some[i].top_p = s->top_p;
            some[i].top_k = s->top_k;
            some[i].uniform = s->temperature > 0 ? ht_rng_uniform(s->seed, s->stream, s->index) : 0.0;
        }
        HT_CHECK(ht_cuda_upload(be, to + first, some, (size_t)n * sizeof *some, err));
    }
    return HT_OK;
}

template <bool KEPT>
static ht_status launch(const ht_cuda *cuda, int32_t *tokens, float *logp, const ht_tensor *logits,
                        const sample_settings *settings, ht_error *err) {
    int64_t shared = KEPT ? logits->cols * (int64_t)sizeof(float) : 0;
    HT_CHECK(ht_cuda_allow_shared((const void *)sample<KEPT>, shared, err));
    HT_LAUNCH(sample<KEPT>, dim3((unsigned)logits->rows), dim3(ht_row_threads(logits->cols, 32, MOST_THREADS)), shared,
              cuda->stream, tokens, logp, (const float *)logits->data, logits->stride, settings, (int)logits->cols);
    return ht_cuda_launched("sample", err);
}

/* Rows that one launch does: their results come back in one piece of staging memory. */
enum { ROWS_TOGETHER = 65536 };

static ht_status sample_rows(ht_backend *be, const ht_tensor *logits, const ht_sampling *settings, int32_t *tokens,
                             float *logp, ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    size_t rows = (size_t)logits->rows;
    void *scratch = NULL;
    HT_CHECK(ht_cuda_scratch(be, rows * (sizeof(sample_settings) + 8), &scratch, err));
    sample_settings *device_settings = (sample_settings *)scratch;
    int32_t *device_tokens = (int32_t *)(device_settings + rows);
    float *device_logp = logp ? (float *)(device_tokens + rows) : NULL;
    HT_CHECK(upload_settings(be, device_settings, settings, logits->rows, err));
    int64_t room = (cuda->shared_limit - 2048) / (int64_t)sizeof(float);
    HT_CHECK(logits->cols <= room ? launch<true>(cuda, device_tokens, device_logp, logits, device_settings, err)
                                  : launch<false>(cuda, device_tokens, device_logp, logits, device_settings, err));
    const void *host;
    HT_CHECK(ht_cuda_fetch(be, device_tokens, rows * (logp ? 8 : 4), &host, err));
    memcpy(tokens, host, rows * sizeof *tokens);
    if (logp) memcpy(logp, (const int32_t *)host + rows, rows * sizeof *logp);
    return HT_OK;
}

ht_status ht_cuda_sample(ht_backend *be, const ht_tensor *logits, const ht_sampling *settings, int32_t *tokens,
                         float *logp, ht_error *err) {
    if (logits->cols < 1 || logits->cols > INT32_MAX - MOST_THREADS)
        return ht_fail(err, HT_ERR_USAGE, "sample: %" PRId64 " columns of logits", logits->cols);
    for (int64_t first = 0; first < logits->rows; first += ROWS_TOGETHER) {
        int64_t n = ht_least(logits->rows - first, ROWS_TOGETHER);
        ht_tensor some = ht_tensor_rows(*logits, first, n);
        HT_CHECK(sample_rows(be, &some, settings + first, tokens + first, logp ? logp + first : NULL, err));
    }
    return HT_OK;
}
