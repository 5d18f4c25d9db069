"""Writes tests/golden/data: what PyTorch and transformers compute, for the tests to compare with.

    python tests/golden/make_golden.py        (needs torch, transformers, safetensors; the tests need none of them)

README.md beside this file states the layout. Everything is a function of the seeds below; a new version of the
libraries may change last bits, never more.
"""

import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

ROOT = pathlib.Path(__file__).parent / "data"

SHAPE = dict(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
    attn_implementation="eager",
)
LENGTHS = [9, 1, 17, 5]


def randomize(model, seed):
    """Weights large enough that softmaxes are far from uniform and every gain matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            z = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * z if parameter.dim() == 1 else z / parameter.shape[1] ** 0.5)
    return model


def random_tokens(length, generator):
    return [1] + torch.randint(3, SHAPE["vocab_size"], (length - 1,), generator=generator).tolist()


def gradients(model, loss):
    """{name: gradient}; a tied head has no entry of its own."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.detach().clone() for name, parameter in model.named_parameters()}


def save(name, tensors, values):
    save_file({key: tensor.detach().contiguous().float() for key, tensor in tensors.items()}, ROOT / f"{name}.safetensors")
    (ROOT / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")


def prefixed(prefix, tensors):
    return {f"{prefix}.{key}": tensor for key, tensor in tensors.items()}


# --- language models --------------------------------------------------------------------------------------------------


def row_logp(model, tokens):
    """Log-probability of each token given those before it, [length - 1], and the logits [length, vocab]."""
    ids = torch.tensor([tokens])
    logits = model(ids).logits[0].float()
    logp = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    return logp, logits


def is_target(tokens):
    """Every token but the first and each fourth one carries loss."""
    return [0 if i == 0 or i % 4 == 3 else 1 for i in range(len(tokens))]


def sft_loss(model, sequences):
    """Mean negative log-likelihood over the target tokens of all sequences."""
    total, count = 0.0, 0
    for tokens in sequences:
        if len(tokens) < 2:
            continue
        mask = torch.tensor(is_target(tokens)[1:], dtype=torch.float32)
        total = total - (row_logp(model, tokens)[0] * mask).sum()
        count += int(mask.sum())
    return total / count


def greedy(model, prompt, count):
    """transformers' own greedy continuation; refuses a near tie, which rounding could turn."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, do_sample=False, max_new_tokens=count, attention_mask=torch.ones_like(ids), pad_token_id=0)
    tokens = out[0, len(prompt) :].tolist()
    top = row_logp(model, prompt + tokens)[1][len(prompt) - 1 : -1].topk(2).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-3, "near tie: choose another seed"
    return tokens


def language_model(name, seed, dtype=torch.float32, save_arguments=None, **changes):
    model = randomize(LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})), seed).to(dtype)
    model.save_pretrained(ROOT / name, **(save_arguments or {}))
    # What is on disk, computed in f32. (Casting the model back would keep rotary frequencies that bfloat16 has rounded.)
    model = LlamaForCausalLM.from_pretrained(ROOT / name, dtype=torch.float32, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed + 100)
    sequences = [random_tokens(length, generator) for length in LENGTHS]
    tensors = {}
    for i, tokens in enumerate(sequences):
        logp, logits = row_logp(model, tokens)
        tensors[f"logits.{i}"] = logits
        if len(tokens) > 1:
            tensors[f"logp.{i}"] = logp
    loss = sft_loss(model, sequences)
    tensors.update(prefixed("grad", gradients(model, loss)))
    prompts = [random_tokens(length, generator) for length in (1, 4, 11)]
    values = {
        "sequences": sequences,
        "is_target": [is_target(tokens) for tokens in sequences],
        "loss": loss.item(),
        "greedy": [{"prompt": prompt, "tokens": greedy(model, prompt, 16)} for prompt in prompts],
    }
    save(f"{name}.golden", tensors, values)
    return model, sequences


# --- optimizer --------------------------------------------------------------------------------------------------------


def optimizer(model, sequences):
    """Five AdamW steps on the loss above: decay on matrices only, clipping by the global norm."""
    config = dict(beta1=0.9, beta2=0.95, eps=1e-5, decay=0.1, clip=1.0)
    rates = [1e-2, 5e-3, 1e-2, 2e-3, 1e-3]
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config["decay"]}, {"params": gains, "weight_decay": 0.0}],
        betas=(config["beta1"], config["beta2"]),
        eps=config["eps"],
    )
    tensors, losses, norms = {}, [], []
    for step, rate in enumerate(rates):
        for group in adamw.param_groups:
            group["lr"] = rate
        loss = sft_loss(model, sequences)
        gradients(model, loss)
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), config["clip"]).item())
        adamw.step()
        losses.append(loss.item())
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        tensors.update(prefixed(f"step{step + 1}", weights))
    save("optimizer.golden", tensors, {**config, "lr": rates, "loss": losses, "norm": norms, "model": "gqa"})


# --- reward model -----------------------------------------------------------------------------------------------------


def reward(name, seed):
    """Ranking loss with and without margins, the auxiliary cross-entropy, and gradients."""
    config = LlamaConfig(**{**SHAPE, "num_labels": 1})
    model = randomize(LlamaForSequenceClassification(config), seed)
    model.save_pretrained(ROOT / name)
    generator = torch.Generator().manual_seed(seed + 100)
    pairs = []
    for length, other, margin, safe, other_safe in [
        (7, 12, 1.0, 1, 0),
        (15, 4, 2 / 3, 1, 1),
        (6, 6, 1 / 3, 0, 0),
        (9, 20, 0.0, 1, 0),
    ]:
        prompt = random_tokens(3, generator)
        pairs.append(
            {
                "chosen": prompt + random_tokens(length, generator)[1:] + [2],
                "rejected": prompt + random_tokens(other, generator)[1:] + [2],
                "margin": margin,
                "chosen_safe": safe,
                "rejected_safe": other_safe,
            }
        )
    score = lambda tokens: model(torch.tensor([tokens])).logits[0, 0].float()
    margins = torch.tensor([pair["margin"] for pair in pairs])
    labels = torch.tensor([[pair["chosen_safe"], pair["rejected_safe"]] for pair in pairs], dtype=torch.float32)

    def losses():
        scores = torch.stack([torch.stack([score(pair["chosen"]), score(pair["rejected"])]) for pair in pairs])
        scores.retain_grad()
        difference = scores[:, 0] - scores[:, 1]
        return scores, {
            "ranking": -F.logsigmoid(difference).mean(),
            "margin": -F.logsigmoid(difference - margins).mean(),
            "auxiliary": F.binary_cross_entropy_with_logits(scores, labels),
        }

    tensors, values = {}, {"pairs": pairs, "loss": {}}
    for kind in ["ranking", "margin", "auxiliary", "margin+auxiliary"]:
        scores, parts = losses()
        loss = sum(parts[part] for part in kind.split("+"))
        tensors.update(prefixed(f"grad.{kind}", gradients(model, loss)))
        tensors[f"dscores.{kind}"] = scores.grad
        values["loss"][kind] = loss.item()
        tensors["scores"] = scores
    save(f"{name}.golden", tensors, values)
    return model


# --- ppo --------------------------------------------------------------------------------------------------------------


def whiten(x):
    return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-8)


def advantages(rewards, values, gamma, lam):
    """GAE over one finished response: the value after its last token is 0."""
    result, following = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1] if t + 1 < len(rewards) else 0.0
        following = rewards[t] + gamma * next_value - values[t] + gamma * lam * following
        result[t] = following
    return result


def ppo(policy, value_model):
    """From scores and log-probabilities to the two losses and their gradients; all but the models' passes in f64."""
    settings = dict(beta=0.05, gamma=1.0, **{"lambda": 0.95}, clip=0.2, value_clip=0.2, safety_threshold=0.15)
    generator = torch.Generator().manual_seed(77)
    shapes = [(3, 8), (5, 1), (2, 13), (7, 6)]
    sequences, tensors = [], {}
    for prompt, response in shapes:
        sequences.append(random_tokens(prompt + response, generator))
    rollouts = [
        {"tokens": tokens, "prompt_length": prompt, "is_safety": int(i % 2), "rows": list(range(prompt - 1, prompt + response - 1))}
        for i, ((prompt, response), tokens) in enumerate(zip(shapes, sequences))
    ]
    normal = lambda n, scale: scale * torch.randn(n, generator=generator, dtype=torch.float64)

    def policy_logp():
        return [row_logp(policy, r["tokens"])[0][r["prompt_length"] - 1 :] for r in rollouts]

    def values_now():
        out = []
        for r in rollouts:
            hidden = value_model.model(torch.tensor([r["tokens"]])).last_hidden_state[0]
            out.append(value_model.score(hidden)[r["rows"], 0].float())
        return out

    # Old log-probabilities and values lie around the present ones, so that both clips cut some tokens and not others.
    now, present = policy_logp(), values_now()
    old = [(x.detach().double() + normal(len(x), 0.3)).float().double() for x in now]
    reference = [(x + normal(len(x), 0.2)).float().double() for x in old]
    old_values = [(x.detach().double() + normal(len(x), 0.3)).float().double() for x in present]
    helpful, safe = normal(len(shapes), 1.5).float().double(), normal(len(shapes), 1.5).float().double()
    safe[2] = -2.5  # sigmoid 0.076: below the threshold although no safety prompt

    is_safety = torch.tensor([bool(r["is_safety"]) for r in rollouts])
    unsafe = torch.sigmoid(safe) < settings["safety_threshold"]
    combined = torch.where(is_safety | unsafe, safe, helpful)
    whitened = whiten(combined)

    rewards, raw, returns = [], [], []
    for i in range(len(shapes)):
        token_rewards = -settings["beta"] * (old[i] - reference[i])
        token_rewards[-1] += whitened[i]
        rewards.append(token_rewards)
        raw.append(advantages(token_rewards, old_values[i], settings["gamma"], settings["lambda"]))
        returns.append(raw[i] + old_values[i])
    flat = lambda parts: torch.cat(list(parts))
    whitened_advantages = whiten(flat(raw))

    # The policy's surrogate: mean over all tokens of the step.
    logp = flat(now)
    logp.retain_grad()
    ratio = (logp.double() - flat(old)).exp()
    clipped = ratio.clamp(1 - settings["clip"], 1 + settings["clip"])
    surrogate = -torch.min(ratio * whitened_advantages, clipped * whitened_advantages)
    policy_loss = surrogate.mean()
    policy_gradients = gradients(policy, policy_loss)
    tensors["dlogp"] = logp.grad

    # The value loss: half the larger of the two squared errors, mean over all tokens of the step.
    value = flat(present)
    value.retain_grad()
    near = flat(old_values) + (value.double() - flat(old_values)).clamp(-settings["value_clip"], settings["value_clip"])
    errors = torch.max((value.double() - flat(returns)) ** 2, (near - flat(returns)) ** 2)
    value_loss = 0.5 * errors.mean()
    value_gradients = gradients(value_model, value_loss)
    tensors["dvalues"] = value.grad

    tensors.update(prefixed("grad.policy", policy_gradients))
    tensors.update(prefixed("grad.value", value_gradients))
    tensors.update(old_logp=flat(old), ref_logp=flat(reference), old_values=flat(old_values), logp=logp, values=value)
    tensors.update(helpful=helpful, safe=safe, combined=combined, whitened_scores=whitened, rewards=flat(rewards))
    tensors.update(advantages=flat(raw), returns=flat(returns), whitened_advantages=whitened_advantages, ratio=ratio)
    cut = (surrogate.detach() > -(ratio * whitened_advantages).detach() + 1e-12).double().mean().item()
    values = {
        **settings,
        "policy": "gqa",
        "value": "reward",
        "rollouts": rollouts,
        "policy_loss": policy_loss.item(),
        "value_loss": value_loss.item(),
        "kl_k1": (flat(old) - flat(reference)).mean().item(),
        "clip_fraction": cut,
    }
    assert 0.1 < cut < 0.9
    save("ppo.golden", tensors, values)


def main():
    torch.set_num_threads(1)
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    model, sequences = language_model("gqa", seed=1)
    language_model("tied", seed=2, tie_word_embeddings=True, num_key_value_heads=4)
    language_model("bf16", seed=3, dtype=torch.bfloat16, num_key_value_heads=1, rope_theta=500000.0)
    language_model("sharded", seed=4, save_arguments=dict(max_shard_size="10KB"), head_dim=8)
    value_model = reward("reward", seed=5)
    ppo(model, value_model)
    optimizer(model, sequences)  # last: it changes the model


if __name__ == "__main__":
    main()
