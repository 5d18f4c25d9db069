"""The work of bench/works.h with PyTorch and transformers, but for PPO (torch_ppo.py, trl_ppo.py).

    python bench/peers/torch_works.py THREADS SIZE WORK SETTING [FOLDER]

SETTING is fp32, bf16 (weights and optimizer state too) or autocast (fp32 weights, products in bf16), with "+compile" for
torch.compile. SDPA attention, fused AdamW. FOLDER is the model of the work "start".
"""

import contextlib
import sys

import shapes
import torch
import torch.nn.functional as F
from shapes import DEVICE, LENGTH, MICRO, NEW, PROMPT, SEQUENCES
from transformers import CompileConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers.utils import logging


def build(kind, size, setting, **more):
    torch.manual_seed(1)
    dtype = torch.bfloat16 if setting.startswith("bf16") else torch.float32
    with torch.device(DEVICE):
        return kind(shapes.llama_config(size, **more)).to(dtype)


def reward_model(size, setting):
    return build(LlamaForSequenceClassification, size, setting, num_labels=1, pad_token_id=0)


def precision(setting):
    return torch.autocast(DEVICE, torch.bfloat16) if setting.startswith("autocast") else contextlib.nullcontext()


def random_ids(model, rows, columns):
    return torch.randint(3, model.config.vocab_size, (rows, columns), device=DEVICE)


def compiled(model, setting):
    return torch.compile(model) if setting.endswith("+compile") else model


def updates(model, setting):
    """A function that does an optimizer step: of the mean of `loss` over `parts`, a forward and backward pass each."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
        lr=1e-5,
        betas=(0.9, 0.95),
        eps=1e-5,
        fused=True,
    )

    def update(loss, parts):
        for part in parts:
            with precision(setting):
                value = loss(part) / len(parts)
            value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value.item()  # waits for the device

    return update


def training(model, loss, parts, setting):
    update = updates(model, setting)

    def step():
        update(loss, parts)
        return SEQUENCES * LENGTH

    return step


def sft(size, setting):
    model = build(LlamaForCausalLM, size, setting)
    run, ids = compiled(model, setting), random_ids(model, SEQUENCES, LENGTH)
    parts = ids.split(max(1, MICRO // LENGTH))
    return training(model, lambda part: run(input_ids=part, labels=part, use_cache=False).loss, parts, setting)


def reward(size, setting):
    model = reward_model(size, setting)
    run, ids = compiled(model, setting), random_ids(model, SEQUENCES, LENGTH)

    def loss(part):
        scores = run(input_ids=part, use_cache=False).logits.float().view(2, -1)
        return -F.logsigmoid(scores[0] - scores[1] - 1 / 3).mean()

    return training(model, loss, ids.split(max(2, MICRO // LENGTH)), setting)


def score(size, setting):
    model = reward_model(size, setting).eval()
    run, parts = compiled(model, setting), random_ids(model, SEQUENCES, LENGTH).split(max(1, MICRO // LENGTH))

    def step():
        with torch.inference_mode(), precision(setting):
            for part in parts:
                run(input_ids=part, use_cache=False).logits.tolist()
        return SEQUENCES * LENGTH

    return step


def responder(model, setting, **more):
    """A function that appends NEW tokens to each prompt: the likeliest ones, unless `more` says otherwise."""
    more = {"do_sample": False} | more
    if setting.endswith("+compile"):
        config = CompileConfig(mode="default")
        config._compile_all_devices = True  # generate() leaves it out on CPUs otherwise
        more |= {"cache_implementation": "static", "compile_config": config}

    def respond(ids):
        mask = torch.ones_like(ids)
        with torch.no_grad(), precision(setting):
            return model.generate(ids, attention_mask=mask, min_new_tokens=NEW, max_new_tokens=NEW, pad_token_id=0, **more)

    return respond


def generation(model, ids, setting, **more):
    model.eval()
    respond = responder(model, setting, **more)

    def step():
        new = respond(ids)[:, ids.shape[1] :].cpu()  # waits for the device
        return new.numel()

    return step


def generate(size, setting, count):
    model = build(LlamaForCausalLM, size, setting)
    return generation(model, random_ids(model, count, PROMPT), setting)


def summary(size, setting, **more):
    """The successor model of bench/generation.c."""
    model = build(LlamaForCausalLM, size, setting)
    prompt, first = shapes.summary_prompt()
    with torch.no_grad():
        model.lm_head.weight[1:] = model.model.embed_tokens.weight[:-1]
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        ids = torch.tensor([prompt], device=DEVICE)
        assert model(ids).logits[0, -1].argmax() == first
    return generation(model, ids, setting, **more)


def start(folder):
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.optim.AdamW(model.parameters(), fused=True)


def work(size, name, setting, folder):
    if name == "sft":
        return sft(size, setting)
    if name == "reward":
        return reward(size, setting)
    if name == "score":
        return score(size, setting)
    if name == "summary-greedy":
        return summary(size, setting)
    if name == "summary-lookup":
        return summary(size, setting, prompt_lookup_num_tokens=10)
    if name.startswith("generate-"):
        return generate(size, setting, int(name.removeprefix("generate-")))
    return start(folder)


def main():
    threads, size, name, setting = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    logging.set_verbosity_error()
    shapes.serve(work(size, name, setting, *(sys.argv[5:] or [None])))


if __name__ == "__main__":
    main()
