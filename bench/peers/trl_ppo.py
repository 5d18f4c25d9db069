"""The work "ppo-N" of bench/works.h with TRL's PPOTrainer: policy, reference, value and one reward model.

    python bench/peers/trl_ppo.py THREADS SIZE ppo-N SETTING

SETTING as in torch_works.py, but for "+compile": the trainer has none. TRL 0.29.1 is the last release with PPO; needs
trl==0.29.1 transformers==4.57.3 datasets==4.4.1. Its iteration is timed from the end of the one before.
"""

import copy
import logging
import sys
import tempfile

import shapes
import torch
from datasets import Dataset
from shapes import NEW, PROMPT
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback
from transformers.utils import logging as transformers_logging
from tokenizers import Tokenizer, models
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Iterations(TrainerCallback):
    """Waits for a request before each iteration, and answers it after."""

    def __init__(self, tokens):
        self.tokens, self.requests, self.started = tokens, shapes.requests(), None

    def wait(self):
        if next(self.requests, "end") == "end":
            sys.exit()
        self.started = shapes.clock()

    def on_train_begin(self, *_, **__):
        shapes.answer("ready")
        self.wait()

    def on_step_end(self, *_, **__):
        shapes.answer(self.tokens / (shapes.clock() - self.started))
        self.wait()


def main():
    threads, size, name, setting = sys.argv[1:5]
    count = int(name.removeprefix("ppo-"))
    torch.set_num_threads(int(threads))
    torch.manual_seed(1)
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    policy = LlamaForCausalLM(shapes.llama_config(size))
    scorer = LlamaForSequenceClassification(shapes.llama_config(size, num_labels=1))
    if setting == "bf16":
        policy, scorer = policy.to(torch.bfloat16), scorer.to(torch.bfloat16)
    vocab = policy.config.vocab_size
    prompts = Dataset.from_dict({"input_ids": torch.randint(3, vocab, (count, PROMPT)).tolist()})
    words = {str(i): i for i in range(vocab + 1)}  # the last one, padding, is an id that no model gives
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), eos_token="2", pad_token=str(vocab)
    )
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder,
            total_episodes=count * 1000,
            per_device_train_batch_size=count,  # an iteration; cut into mini-batches, each an optimizer step
            num_mini_batches=4,
            num_ppo_epochs=1,
            response_length=NEW,
            temperature=1.0,
            gradient_checkpointing=False,
            bf16=setting == "autocast",
            use_cpu=True,
            num_sample_generations=0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        PPOTrainer(
            args=config,
            processing_class=tokenizer,
            model=policy,
            ref_model=copy.deepcopy(policy),
            reward_model=scorer,
            value_model=copy.deepcopy(scorer),
            train_dataset=prompts,
            eval_dataset=prompts,
            data_collator=lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])},
            callbacks=[Iterations(count * (PROMPT + NEW))],
        ).train()


if __name__ == "__main__":
    main()
