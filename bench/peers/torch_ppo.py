"""The work "ppo-N" of bench/works.h with PyTorch and transformers, as a plain loop.

    python bench/peers/torch_ppo.py THREADS SIZE ppo-N SETTING

SETTING as in torch_works.py. Four models: policy, reference, value, and a reward model that scores as both. An iteration samples the
responses, scores them twice, computes log-probabilities of policy and reference and the values, and makes an optimizer step of policy
and value for each of four mini-batches. Of 7b activations are computed again in the backward pass. What torch.compile does is done
before "ready", in two iterations on as many prompts as are answered at once.
"""

import sys

import shapes
import torch
from shapes import MICRO, NEW, PROMPT, TOGETHER
from torch_works import build, compiled, precision, random_ids, responder, reward_model, updates
from transformers import LlamaForCausalLM
from transformers.utils import logging

MINI_BATCHES, KL_COEF, CLIP, LAMBDA = 4, 0.01, 0.2, 0.95
PART = max(1, MICRO // (PROMPT + NEW))  # sequences a pass


def whiten(x):
    return (x - x.mean()) / (x.std() + 1e-8)


def advantages_of(rewards, values):
    """Generalised advantage estimation, gamma 1, of [sequences, NEW] each."""
    advantages, last = torch.empty_like(rewards), 0
    for t in reversed(range(NEW)):
        following = values[:, t + 1] if t + 1 < NEW else 0
        last = rewards[:, t] + following - values[:, t] + LAMBDA * last
        advantages[:, t] = last
    return advantages


class Iteration:
    def __init__(self, size, setting):
        self.setting = setting
        self.policy, self.reference = build(LlamaForCausalLM, size, setting), build(LlamaForCausalLM, size, setting)
        self.scorer, self.value = reward_model(size, setting), reward_model(size, setting)
        self.reference.requires_grad_(False)
        self.scorer.requires_grad_(False)
        self.bodies = {m: compiled(m.model, setting) for m in (self.policy, self.reference, self.scorer, self.value)}
        if size == "7b":
            for model in (self.policy, self.value):
                model.gradient_checkpointing_enable({"use_reentrant": False})
        self.respond = responder(self.policy, setting, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        self.update_policy, self.update_value = updates(self.policy, setting), updates(self.value, setting)

    def hidden(self, model, ids):
        """At the places that see a response's tokens coming."""
        return self.bodies[model](input_ids=ids, use_cache=False).last_hidden_state[:, PROMPT - 1 : -1]

    def logps(self, model, ids):
        logits = model.lm_head(self.hidden(model, ids)).float()
        return logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None])[..., 0]

    def values(self, ids):
        return self.value.score(self.hidden(self.value, ids))[..., 0].float()

    def scores(self, ids):
        out = self.bodies[self.scorer](input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        return self.scorer.score(out)[:, 0].float()

    def over_parts(self, function, ids):
        with torch.no_grad(), precision(self.setting):
            return torch.cat([function(part) for part in ids.split(PART)])

    def policy_loss(self, part):
        ids, old, advantages = part[:3]
        ratio = (self.logps(self.policy, ids) - old).exp()
        return -torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()

    def value_loss(self, part):
        ids, _, _, old, returns = part
        values = self.values(ids)
        near = torch.clamp(values, old - CLIP, old + CLIP)
        return torch.max((values - returns) ** 2, (near - returns) ** 2).mean() / 2

    def run(self, prompts):
        for model in (self.policy, self.value):
            model.eval()
        ids = torch.cat([self.respond(some) for some in prompts.split(TOGETHER)])
        helpful, safe = self.over_parts(self.scores, ids), self.over_parts(self.scores, ids)
        old = self.over_parts(lambda part: self.logps(self.policy, part), ids)
        kl = old - self.over_parts(lambda part: self.logps(self.reference, part), ids)
        values = self.over_parts(self.values, ids)
        rewards = -KL_COEF * kl
        rewards[:, -1] += whiten(torch.where(safe < 0, safe, helpful))
        advantages = advantages_of(rewards, values)
        rows = (ids, old, whiten(advantages), values, advantages + values)
        for model in (self.policy, self.value):
            model.train()
        for batch in zip(*(x.chunk(MINI_BATCHES) for x in rows)):
            parts = list(zip(*(x.split(PART) for x in batch)))
            self.update_policy(self.policy_loss, parts)
            self.update_value(self.value_loss, parts)
        return ids.numel()


def main():
    threads, size, name, setting = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    logging.set_verbosity_error()
    iteration = Iteration(size, setting)
    prompts = random_ids(iteration.policy, int(name.removeprefix("ppo-")), PROMPT)
    for _ in range(2 if setting.endswith("+compile") else 0):
        iteration.run(prompts[:TOGETHER])
    shapes.serve(lambda: iteration.run(prompts))


if __name__ == "__main__":
    main()
