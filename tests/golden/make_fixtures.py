"""Writes the model folders that the checkpoint tests read, as transformers saves them.

Run it once with transformers 4 and once with transformers 5 (their config.json differ):

    python tests/golden/make_fixtures.py

Element i of a tensor holds ((7 i + sum of the bytes of its name) mod 61 - 30) / 32, which float16 and bfloat16
hold exactly; the tests compute the same.
"""

import pathlib
import shutil

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

SHAPE = dict(
    vocab_size=33,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
)

# folder, class, dtype, changes to the shape, arguments of save_pretrained
FOLDERS = [
    ("lm-bf16", LlamaForCausalLM, torch.bfloat16, dict(rope_theta=500000.0), {}),
    ("lm-f16-tied", LlamaForCausalLM, torch.float16, dict(tie_word_embeddings=True), {}),
    ("lm-f32-sharded", LlamaForCausalLM, torch.float32, dict(head_dim=4), dict(max_shard_size="3KB")),
    ("rm-f32", LlamaForSequenceClassification, torch.float32, dict(num_labels=1, num_key_value_heads=4), {}),
]


def fill(model):
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            start = sum(name.encode())
            i = torch.arange(tensor.numel(), dtype=torch.int64)
            values = ((7 * i + start) % 61 - 30).to(torch.float32) / 32
            tensor.copy_(values.reshape(tensor.shape).to(tensor.dtype))


def main():
    major = transformers.__version__.split(".")[0]
    root = pathlib.Path(__file__).parent / "fixtures" / f"transformers-{major}"
    for name, kind, dtype, changes, arguments in FOLDERS:
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        model = kind(LlamaConfig(**{**SHAPE, **changes})).to(dtype)
        fill(model)
        model.save_pretrained(folder, **arguments)


if __name__ == "__main__":
    main()
