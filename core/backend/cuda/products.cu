/*
 * Products by cuBLASLt.  Contract: backend.h, ht_matmul_*.
 *
 * bf16 products accumulate in f32; f32 products are true f32 (no TF32). A sum with what is there is the product's own C with
 * beta 1, rounded once. The algorithm of a shape is asked for once and kept; it is the library's first choice among those
 * whose split sums are added in f32 in a fixed order, never the fastest of a race: the same bits every run.
 *
 * cuBLASLt is opened when the backend is, not linked: programs start without its 0.2 GB, and run where it is missing.
 */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend/cuda/device.h"

extern "C" {
#include "core/base/memory.h"
}

enum { WORKSPACE_BYTES = 32 << 20, PLANS = 4096 };

#define FUNCTIONS(X)                                                                                                   \
    X(cublasLtCreate)                                                                                                  \
    X(cublasLtDestroy)                                                                                                 \
    X(cublasLtGetStatusString)                                                                                         \
    X(cublasLtMatmul)                                                                                                  \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                                  \
    X(cublasLtMatmulDescInit_internal)                                                                                 \
    X(cublasLtMatmulDescSetAttribute)                                                                                  \
    X(cublasLtMatmulPreferenceInit_internal)                                                                           \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                            \
    X(cublasLtMatrixLayoutInit_internal)

struct functions {
#define MEMBER(name) decltype(&::name) name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

/* D = op(A) op(B) + C, column-major as cuBLASLt has it; all that the choice of an algorithm depends on. No padding. */
struct product {
    int64_t m, n, k, lda, ldb, ldc, ldd;
    int32_t transpose_a, transpose_b, in, out, add; /* in, out: cudaDataType_t; add: C is used */
    int32_t align_a, align_b, align_c, align_d, zero;
};

struct plan {
    product of;
    int known;
    size_t workspace;
    cublasLtMatmulAlgo_t algorithm;
};

struct ht_cuda_products {
    void *library;
    functions lt;
    cublasLtHandle_t handle;
    void *workspace;
    plan plans[PLANS]; /* by hash; a newcomer takes the place */
};

/* --- life -------------------------------------------------------------------------------------------------- */

static ht_status open_library(ht_cuda_products *p, ht_error *err) {
#define TEXT(x)        #x
#define VERSION(major) "libcublasLt.so." TEXT(major)
    const char *name = VERSION(CUBLAS_VER_MAJOR);
    const int how = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE; /* a backend that is opened again finds it there */
    p->library = dlopen(name, how);
#ifdef HALTER_CUBLASLT /* where the build found it */
    if (!p->library) p->library = dlopen(HALTER_CUBLASLT, how);
#endif
    if (!p->library) return ht_fail(err, HT_ERR_RUN, "backend \"cuda\": %s (a part of the CUDA toolkit)", dlerror());
#define LOAD(function)                                                                                                 \
    p->lt.function = (decltype(p->lt.function))dlsym(p->library, #function);                                           \
    if (!p->lt.function) return ht_fail(err, HT_ERR_RUN, "backend \"cuda\": %s has no %s", name, #function);
    FUNCTIONS(LOAD)
#undef LOAD
    return HT_OK;
}

static ht_status check(const ht_cuda_products *p, cublasStatus_t result, const char *call, ht_error *err) {
    if (result == CUBLAS_STATUS_SUCCESS) return HT_OK;
    return ht_fail(err, result == CUBLAS_STATUS_ALLOC_FAILED ? HT_ERR_NOMEM : HT_ERR_RUN, "%s: %s", call,
                   p->lt.cublasLtGetStatusString(result));
}

#define HT_LT(call) HT_CHECK(check(p, p->lt.call, #call, err))

static ht_status set_up(ht_cuda_products *p, ht_error *err) {
    HT_CHECK(open_library(p, err));
    HT_LT(cublasLtCreate(&p->handle));
    HT_CUDA(cudaMalloc(&p->workspace, WORKSPACE_BYTES));
    return HT_OK;
}

ht_status ht_cuda_products_open(ht_cuda_products **products, ht_error *err) {
    *products = NULL;
    HT_CHECK(ht_calloc(products, 1, sizeof **products, err));
    ht_status status = set_up(*products, err);
    if (status == HT_OK) return HT_OK;
    ht_cuda_products_close(*products);
    *products = NULL;
    return status;
}

void ht_cuda_products_close(ht_cuda_products *p) {
    if (!p) return;
    if (p->handle) p->lt.cublasLtDestroy(p->handle);
    cudaFree(p->workspace);
    if (p->library) dlclose(p->library);
    free(p);
}

/* --- plans ------------------------------------------------------------------------------------------------- */

/* What cuBLASLt is told of a product. */
struct description {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t a, b, c, d;
};

static ht_status layout(const ht_cuda_products *p, cublasLtMatrixLayoutOpaque_t *to, int32_t type, int64_t rows,
                        int64_t cols, int64_t stride, ht_error *err) {
    HT_LT(cublasLtMatrixLayoutInit_internal(to, sizeof *to, (cudaDataType_t)type, (uint64_t)rows, (uint64_t)cols,
                                            stride));
    return HT_OK;
}

static ht_status describe(const ht_cuda_products *p, const product *s, description *d, ht_error *err) {
    cublasOperation_t a = s->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, b = s->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    HT_LT(cublasLtMatmulDescInit_internal(&d->product, sizeof d->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    HT_LT(cublasLtMatmulDescSetAttribute(&d->product, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a));
    HT_LT(cublasLtMatmulDescSetAttribute(&d->product, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b));
    HT_CHECK(layout(p, &d->a, s->in, s->transpose_a ? s->k : s->m, s->transpose_a ? s->m : s->k, s->lda, err));
    HT_CHECK(layout(p, &d->b, s->in, s->transpose_b ? s->n : s->k, s->transpose_b ? s->k : s->n, s->ldb, err));
    HT_CHECK(layout(p, &d->c, s->out, s->m, s->n, s->ldc, err));
    return layout(p, &d->d, s->out, s->m, s->n, s->ldd, err);
}

static ht_status choose(const ht_cuda_products *p, const product *s, description *d, plan *to, ht_error *err) {
    cublasLtMatmulPreferenceOpaque_t wish;
    size_t workspace = WORKSPACE_BYTES;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t a = (uint32_t)s->align_a, b = (uint32_t)s->align_b, c = (uint32_t)s->align_c, out = (uint32_t)s->align_d;
    HT_LT(cublasLtMatmulPreferenceInit_internal(&wish, sizeof wish));
    HT_LT(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                               sizeof workspace));
    HT_LT(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                               sizeof reductions));
    HT_LT(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a));
    HT_LT(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b));
    HT_LT(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c));
    HT_LT(cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out, sizeof out));
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    HT_LT(cublasLtMatmulAlgoGetHeuristic(p->handle, &d->product, &d->a, &d->b, &d->c, &d->d, &wish, 1, &found, &count));
    if (count < 1 || found.state != CUBLAS_STATUS_SUCCESS)
        return ht_fail(err, HT_ERR_RUN, "cuBLASLt has no algorithm for this product");
    to->of = *s;
    to->known = 1;
    to->workspace = found.workspaceSize;
    to->algorithm = found.algo;
    return HT_OK;
}

/* FNV-1a over the words of a product. */
static size_t hash_of(const product *s) {
    const unsigned char *bytes = (const unsigned char *)s;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof *s; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return (size_t)(hash ^ hash >> 32) % PLANS;
}

static ht_status run(ht_backend *be, const product *s, const void *a, const void *b, const void *c, void *d,
                     ht_error *err) {
    const ht_cuda *cuda = ht_cuda_of(be);
    ht_cuda_products *p = cuda->products;
    plan *plan_of = &p->plans[hash_of(s)];
    description described;
    HT_CHECK(describe(p, s, &described, err));
    if (!plan_of->known || memcmp(&plan_of->of, s, sizeof *s) != 0) HT_CHECK(choose(p, s, &described, plan_of, err));
    const float alpha = 1, beta = s->add ? 1.0f : 0.0f;
    HT_LT(cublasLtMatmul(p->handle, &described.product, &alpha, a, &described.a, b, &described.b, &beta, c,
                         &described.c, d, &described.d, &plan_of->algorithm, p->workspace, plan_of->workspace,
                         cuda->stream));
    return HT_OK;
}

/* --- the operations: row-major matrices are column-major ones, transposed ------------------------------------ */

static int32_t type_of(const ht_tensor *t) {
    return t->dtype == HT_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

/* The largest power of two, at most 256, that divides the place of a matrix and of its rows. */
static int32_t alignment_of(const ht_tensor *t) {
    uintptr_t places = (uintptr_t)t->data | (uintptr_t)t->stride * ht_dtype_size(t->dtype) | 256;
    return (int32_t)(places & -places);
}

/* d^T = op(a) op(b) + c^T in cuBLASLt's terms, of m x n elements over k. */
static ht_status multiply(ht_backend *be, const char *op, ht_tensor *d, const ht_tensor *a, int transpose_a,
                          const ht_tensor *b, int transpose_b, const ht_tensor *c, int64_t k, ht_error *err) {
    HT_CHECK(ht_cuda_need_float(op, a, err));
    if (d->rows == 0 || d->cols == 0) return HT_OK;
    const ht_tensor *from = c ? c : d;
    product s = {};
    s.m = d->cols, s.n = d->rows, s.k = k;
    s.lda = a->stride, s.ldb = b->stride, s.ldc = from->stride, s.ldd = d->stride;
    s.transpose_a = transpose_a, s.transpose_b = transpose_b;
    s.in = type_of(a), s.out = type_of(d), s.add = c != NULL;
    s.align_a = alignment_of(a), s.align_b = alignment_of(b), s.align_c = alignment_of(from),
    s.align_d = alignment_of(d);
    ht_status status = run(be, &s, a->data, b->data, from->data, d->data, err);
    if (status != HT_OK)
        return ht_fail_in(err, "%s of %lld x %lld elements over %lld in %s", op, (long long)d->rows, (long long)d->cols,
                          (long long)k, ht_dtype_torch_name(a->dtype));
    return HT_OK;
}

ht_status ht_cuda_matmul_forward(ht_backend *be, ht_tensor *y, const ht_tensor *x, const ht_tensor *w,
                                 const ht_tensor *add, ht_error *err) {
    return multiply(be, "matmul_forward", y, w, 1, x, 0, add, x->cols, err);
}

ht_status ht_cuda_matmul_backward_data(ht_backend *be, ht_tensor *dx, const ht_tensor *dy, const ht_tensor *w,
                                       ht_error *err) {
    return multiply(be, "matmul_backward_data", dx, w, 0, dy, 0, NULL, dy->cols, err);
}

ht_status ht_cuda_matmul_backward_weight(ht_backend *be, ht_tensor *dw, const ht_tensor *dy, const ht_tensor *x,
                                         ht_error *err) {
    if (dy->rows == 0) return HT_OK;
    return multiply(be, "matmul_backward_weight", dw, x, 0, dy, 1, dw, dy->rows, err);
}
