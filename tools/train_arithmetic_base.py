"""Train the tiny arithmetic model that ships with the package.

    python tools/train_arithmetic_base.py --steps 2600

A Llama of 0.86 M parameters learns to answer `1,4,6,8=24:` with one random solution, by plain cross-entropy on
random solved problems of the training split (validation and test problems are never drawn). It is left far from
perfect on purpose: it is the starting point of the diversity experiments.
"""

import argparse
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from polychromic.seeding import child_seed
from polychromic.tasks.arithmetic import random_problems

CHARACTERS = "0123456789+-*/()=,:"
SPECIAL = ["<pad>", "<eos>", "<unk>"]
OUT = Path(__file__).parents[1] / "src/polychromic/models/packaged/arithmetic_tiny"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=64,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A four-layer Llama, 128 wide."""
    torch.manual_seed(child_seed("arithmetic-base", "weights"))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batches(tokenizer: PreTrainedTokenizerFast, size: int):
    """Endless (input ids, labels), right-padded; only the answer and its end are in the loss."""
    problems = random_problems("train", "base-model")
    while True:
        rows = []
        for problem, solution in (next(problems) for _ in range(size)):
            prompt, answer = tokenizer.encode(problem.text), tokenizer.encode(solution)
            answer.append(tokenizer.eos_token_id)
            rows.append((prompt + answer, [-100] * len(prompt) + answer))
        longest = max(len(ids) for ids, _ in rows)
        pad = tokenizer.pad_token_id
        yield (
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
        )


def main() -> None:
    """Train, report the loss as it falls, and save model and tokenizer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    arguments = parser.parse_args()

    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=arguments.learning_rate, total_steps=arguments.steps, pct_start=0.05
    )
    started = time.monotonic()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    for step, (input_ids, labels) in zip(
        range(arguments.steps), batches(tokenizer, arguments.batch), strict=False
    ):
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)
    model.save_pretrained(OUT)
    tokenizer.save_pretrained(OUT)


if __name__ == "__main__":
    main()
