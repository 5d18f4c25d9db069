/*
 * Passes that repeat, as CUDA graphs.  Contract: backend.h, ht_replay.
 *
 * A pass of decoding is some three hundred short kernels. Started one by one, the GPU waits between them; a graph has them
 * queued at once. What a launch is given, it keeps: addresses and sizes. So a graph is good as long as scratch memory, which
 * grows with the largest operation so far, has not moved; else it is made again.
 */
#include <stdlib.h>

#include "core/backend/cuda/device.h"

extern "C" {
#include "core/base/memory.h"
}

struct ht_recording {
    cudaGraphExec_t graph;
    int scratch_changes; /* until it was made */
};

void ht_cuda_forget(ht_recording *recording) {
    if (recording->graph) cudaGraphExecDestroy(recording->graph); /* one that runs ends first */
    free(recording);
}

/* The calls of `run` as a graph; nothing runs. */
static ht_status capture(ht_cuda *cuda, cudaGraph_t *graph, ht_status (*run)(void *, ht_error *), void *context,
                         ht_error *err) {
    HT_CUDA(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal));
    cuda->recording = 1;
    ht_status status = run(context, err);
    cuda->recording = 0;
    ht_status ended = ht_cuda_check(cudaStreamEndCapture(cuda->stream, graph), "cudaStreamEndCapture", err);
    return status != HT_OK ? status : ended;
}

static ht_status record(ht_cuda *cuda, ht_recording *to, ht_status (*run)(void *, ht_error *), void *context,
                        ht_error *err) {
    cudaGraph_t graph = NULL;
    ht_status status = capture(cuda, &graph, run, context, err);
    if (status == HT_OK)
        status = ht_cuda_check(cudaGraphInstantiateWithFlags(&to->graph, graph, 0), "cudaGraphInstantiateWithFlags", err);
    if (graph) cudaGraphDestroy(graph);
    to->scratch_changes = cuda->scratch_changes;
    return status;
}

ht_status ht_cuda_replay(ht_backend *be, ht_recording **recording, ht_status (*run)(void *, ht_error *), void *context,
                         ht_error *err) {
    ht_cuda *cuda = ht_cuda_of(be);
    if (!cuda->records) return run(context, err);
    if (*recording && (*recording)->scratch_changes != cuda->scratch_changes) {
        ht_cuda_forget(*recording);
        *recording = NULL;
    }
    if (!*recording) {
        ht_recording *made = NULL;
        HT_CHECK(ht_calloc(&made, 1, sizeof *made, err));
        ht_status status = record(cuda, made, run, context, err);
        if (status != HT_OK) {
            ht_cuda_forget(made);
            return status;
        }
        *recording = made;
    }
    HT_CUDA(cudaGraphLaunch((*recording)->graph, cuda->stream));
    return HT_OK;
}
