/*
 * core/comm/nccl over emulated streams and an emulated NCCL.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime.h>

extern "C" {
#include <cmocka.h>

#include "tests/unit/comm/ranks.h"
}

#include <vector>

enum { SLICE = 1 << 20 }; /* of nccl.cu */

/* The device's memory is the sum over the ranks, in their order; also of what the stream still has to write. */
static ht_status sum_of(ht_comm *comm, cudaStream_t stream, int64_t n, ht_error *err) {
    float *x = NULL;
    std::vector<float> host((size_t)n + 1);
    size_t bytes = host.size() * sizeof(float);
    CHECK(cudaMalloc(&x, bytes) == cudaSuccess);
    for (int64_t i = 0; i < n; i++)
        host[(size_t)i] = ranks_value(ht_comm_rank(comm), i);
    host[(size_t)n] = 42;
    CHECK(cudaMemcpyAsync(x, host.data(), bytes, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    OK(ht_comm_sum_f32(comm, x, n, err));
    CHECK(cudaMemcpyAsync(host.data(), x, bytes, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    for (int64_t i = 0; i < n; i++)
        CHECK(host[(size_t)i] == ranks_sum(i));
    CHECK(host[(size_t)n] == 42);
    cudaFree(x);
    return HT_OK;
}

static ht_status open_stream(ht_comm *comm, cudaStream_t *stream, ht_error *err) {
    CHECK(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking) == cudaSuccess);
    return ht_comm_use_device(comm, *stream, err);
}

static ht_status sums(ht_comm *comm, ht_error *err) {
    cudaStream_t stream;
    OK(open_stream(comm, &stream, err));
    for (int64_t n : {0, 1, 2, 3, 1000, RANKS * SLICE + 5})
        OK(sum_of(comm, stream, n, err));
    return HT_OK;
}

static ht_status one_fails(ht_comm *comm, ht_error *err) {
    cudaStream_t stream;
    OK(open_stream(comm, &stream, err));
    if (ht_comm_rank(comm) == 1) return ht_fail(err, HT_ERR_NOMEM, "planted");
    return sum_of(comm, stream, 1000, err);
}

static const scenario scenarios[] = {{"sums", sums}, {"one_fails", one_fails}};

static void test_nccl__gradients_are_added_in_the_order_of_the_ranks(void **state) {
    (void)state;
    ranks_check("sums", HT_OK, "well");
}

static void test_nccl__a_failure_ends_all_with_its_message(void **state) {
    (void)state;
    ranks_check("one_fails", HT_ERR_NOMEM, "rank 1: planted");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nccl__gradients_are_added_in_the_order_of_the_ranks),
        cmocka_unit_test(test_nccl__a_failure_ends_all_with_its_message),
    };
    if (argc > 1) return ranks_run(argv[1], scenarios, sizeof scenarios / sizeof *scenarios);
    if (!ranks_possible()) {
        puts("skipped: mpirun is not here");
        return 77;
    }
    return cmocka_run_group_tests_name("nccl", tests, NULL, NULL);
}
