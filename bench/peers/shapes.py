"""What the scripts of this folder share: the shapes of bench/works.h, and the requests that they answer.

A script is started as `python SCRIPT THREADS SIZE WORK SETTING ...`, prints "ready", or "unsupported" and the reason on
stderr, and then answers lines: "run" does the work once and gives its tokens a second, "memory" the greatest resident size
so far in MB. BENCH_CLOCK=cpu counts processor time instead of the clock's. BENCH_BACKEND: cpu or cuda.
"""

import os
import sys
import time

SIZES = {  # dim, layers, heads, hidden, vocabulary
    "tiny": (128, 4, 4, 352, 1024),
    "small": (288, 6, 6, 768, 32000),
    "medium": (768, 12, 12, 2048, 32000),
    "7b": (4096, 32, 32, 11008, 32000),
}
# sequences and their length, tokens a forward and backward pass, of a prompt, of a response; responses of PPO generated at once
SEQUENCES, LENGTH, MICRO, PROMPT, NEW, TOGETHER = (4, 4096, 4096, 256, 256, 64) if "7b" in sys.argv else (8, 512, 4096, 32, 128, 256)
DEVICE = os.environ.get("BENCH_BACKEND", "cpu")
clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter

# Libraries print where they please: answers keep the stdout of the start to themselves.
_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(value):
    print(value if isinstance(value, str) else f"{value:.6g}", file=_answers, flush=True)


def memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024e-6 for line in status if line.startswith("VmHWM:"))


def requests():
    """Yields at each "run"."""
    for line in sys.stdin:
        if line == "memory\n":
            answer(memory())
        elif line == "run\n":
            yield
        else:
            sys.exit(f"no request {line!r}: run, memory")


def serve(step):
    """`step` does the work once and returns its tokens; None: there is nothing to run."""
    answer("ready")
    for _ in requests():
        start = clock()
        tokens = step()
        answer(tokens / (clock() - start))


def llama_config(size, **more):
    from transformers import LlamaConfig

    dim, layers, heads, hidden, vocab = SIZES[size]
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=LENGTH,
        rms_norm_eps=1e-5,
        attn_implementation="sdpa",
        **more,
    )


def summary_prompt():
    """That of bench/generation.c; the summary is the ids from FIRST on."""
    span, period, first = 12, 16, 20
    prompt = [512 + i * 37 % 400 for i in range(384)]
    spans = NEW // period
    stride = len(prompt) // spans
    for s in range(spans):
        for i in range(span):
            prompt[(spans - 1 - s) * stride + i] = first + s * period + i
    prompt[-1] = first - 1
    return prompt, first
