"""The work of bench/works.h with PyTorch and transformers: answers requests like bench-worker.

    python bench/peers/torch_train.py [THREADS]

Each work is tried eagerly and with torch.compile (training and the forward pass); after one warm round each, the faster
form is kept and measured. SDPA attention, fused AdamW. BENCH_COMPILE=0 leaves torch.compile out.
"""

import os
import sys
import time

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

SIZES = {  # dim, layers, heads, hidden, vocabulary
    "tiny": (128, 4, 4, 352, 1024),
    "small": (288, 6, 6, 768, 32000),
    "medium": (768, 12, 12, 2048, 32000),
}
SEQUENCES, LENGTH, PROMPT, NEW = 8, 512, 32, 128


def build(size):
    dim, layers, heads, hidden, vocab = SIZES[size]
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=LENGTH,
        rms_norm_eps=1e-5,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def training(model, compiled):
    run = torch.compile(model) if compiled else model
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
        lr=1e-4,
        betas=(0.9, 0.95),
        eps=1e-5,
        fused=True,
    )
    ids = torch.randint(3, model.config.vocab_size, (SEQUENCES, LENGTH))

    def step():
        loss = run(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return ids.numel()

    return step


def forward(model, compiled):
    run = torch.compile(model) if compiled else model
    ids = torch.randint(3, model.config.vocab_size, (SEQUENCES, LENGTH))

    def step():
        with torch.inference_mode():
            logits = run(input_ids=ids, use_cache=False).logits
            F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return ids.numel()

    return step


def generation(model, count):
    model.eval()
    ids = torch.randint(3, model.config.vocab_size, (count, PROMPT))
    mask = torch.ones_like(ids)

    def step():
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, do_sample=False, min_new_tokens=NEW, max_new_tokens=NEW, pad_token_id=0
            )
        return count * (out.shape[1] - PROMPT)

    return step


def timed(step):
    clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter
    start = clock()
    tokens = step()
    return tokens / (clock() - start)


def candidates(size, work):
    compile_too = os.environ.get("BENCH_COMPILE", "1") != "0"
    if work.startswith("generate-"):
        yield "eager", generation(build(size), int(work.removeprefix("generate-")))
        return
    make = {"sft": training, "forward": forward}[work]
    yield "eager", make(build(size), False)
    if compile_too:
        yield "torch.compile", make(build(size), True)


def fastest(size, work):
    best = None
    for name, step in candidates(size, work):
        try:
            step()
            speed = timed(step)
        except Exception as error:  # torch.compile may lack a compiler: say so, go on without
            print(f"torch: {size} {work} {name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        print(f"torch: {size} {work} {name}: {speed:.6g} tokens/s", file=sys.stderr)
        if best is None or speed > best[0]:
            best = (speed, step)
    return best[1]


def main():
    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    logging.set_verbosity_error()
    current, step = None, None
    for line in sys.stdin:
        request = line.split()
        if len(request) != 3 or request[0] not in SIZES or request[2] != "fp32":
            print("unsupported", flush=True)
            continue
        if request != current:
            step = None  # frees the model before the next one is built
            current, step = request, fastest(request[0], request[1])
        print(f"{timed(step):.6g}", flush=True)


if __name__ == "__main__":
    main()
