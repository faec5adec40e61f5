"""Trains the tiny models that ship with the package: a Llama of four layers, from scratch, by plain cross-entropy."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from polychromic.seeding import child_seed

PACKAGED = Path(__file__).parents[1] / "src/polychromic/models/packaged"


def build_model(tokenizer: PreTrainedTokenizerFast, seed: str, positions: int) -> LlamaForCausalLM:
    """A four-layer Llama, 128 wide."""
    torch.manual_seed(child_seed(seed, "weights"))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, solved: Iterator[tuple[str, str]], size: int, pool: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (input ids, labels), right-padded; only the answer and its end are in the loss.

    Of `pool` batches at once, each takes pairs of like length, so that little is padded.
    """
    order = random.Random(0)
    while True:
        rows = []
        for prompt_text, solution in (next(solved) for _ in range(size * pool)):
            prompt, answer = tokenizer.encode(prompt_text), tokenizer.encode(solution)
            answer.append(tokenizer.eos_token_id)
            rows.append((prompt + answer, [-100] * len(prompt) + answer))
        if pool > 1:
            rows.sort(key=lambda row: len(row[0]))
        starts = [*range(0, len(rows), size)]
        order.shuffle(starts)
        for start in starts:
            yield _padded(rows[start : start + size], tokenizer.pad_token_id)


def _padded(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    return (
        torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
    )


def train(
    model: LlamaForCausalLM,
    data: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    learning_rate: float,
) -> None:
    """Trains with AdamW and one cycle of the learning rate; prints the loss as it falls."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.05)
    started = time.monotonic()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    for step, (input_ids, labels) in zip(range(steps), data, strict=False):
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)
