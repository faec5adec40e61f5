"""Samples a code benchmark round after round at several temperatures, so that it can be stopped and continued.

    python benchmarks/code_samples.py --task humaneval --rounds 100 --minutes 60 --out samples
    polychromic evaluate experiments/humaneval.yaml --generations samples/humaneval.jsonl

A round draws one answer for each problem at each temperature; every answer has a seed of its own, so that rounds drawn
today and tomorrow are those of one longer run. Lines have the benchmark's own keys, `task_id` and `completion`.
Decoding of an answer ends with its first code block: what follows is never judged. `--rounds` is the number to reach.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from polychromic.models.chat import decode, encode_prompt
from polychromic.models.decoding import decode_rows, decoding, draw_tokens
from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.records import Prompt, SamplingParameters
from polychromic.seeding import child_seed, deterministic
from polychromic.tasks.code import CodeTask, load_benchmark

_BLOCK = re.compile(r"```[^\n]*\n.*?\n```", re.DOTALL)


def main() -> None:
    """Sample until the rounds are there or the time is over, and say what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="humaneval", choices=["humaneval", "mbpp", "mbpp_sanitized"])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.2, 0.6, 1.0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=384)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    language_model = load_language_model(ModelSettings(source=arguments.model))
    prompts = CodeTask(arguments.task, load_benchmark(arguments.task)).prompts("test")
    deadline = time.monotonic() + 60.0 * arguments.minutes
    tokens, started = 0, time.monotonic()
    file = arguments.out / f"{arguments.task}.jsonl"
    for number in range(arguments.rounds):
        for temperature in arguments.temperatures:
            parameters = SamplingParameters(temperature=temperature, max_new_tokens=arguments.max_new_tokens)
            for batch in missing(prompts, file, (number, temperature), arguments.batch):
                if time.monotonic() > deadline:
                    print(f"time is over in round {number + 1} at temperature {temperature:g}", flush=True)
                    return
                seeds = [
                    child_seed(arguments.task, f"{temperature:g}", number, prompt.id) for prompt in batch
                ]
                answers = sampled(language_model, batch, parameters, seeds)
                place = {"temperature": temperature, "round": number}
                with file.open("a", encoding="utf-8") as lines:
                    lines.writelines(
                        json.dumps({"task_id": prompt.id} | answer | place) + "\n"
                        for prompt, answer in zip(batch, answers, strict=True)
                    )
                tokens += sum(answer["n_tokens"] for answer in answers)
        seconds = time.monotonic() - started
        print(
            f"round {number + 1}: {tokens:,} tokens in {seconds:.0f} s, {tokens / seconds:.0f} a second",
            flush=True,
        )


def missing(
    prompts: Sequence[Prompt], file: Path, place: tuple[int, float], size: int
) -> Iterator[list[Prompt]]:
    """Yields batches of prompts of like length that have no answer of that round and temperature in the file yet."""
    there: set[str] = set()
    if file.exists():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        there = {row["task_id"] for row in rows if (row["round"], row["temperature"]) == place}
    left = sorted((p for p in prompts if p.id not in there), key=lambda p: len(p.text))
    for start in range(0, len(left), size):
        yield left[start : start + size]


def sampled(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    parameters: SamplingParameters,
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """Returns one answer for each prompt, up to the end of its first code block, with its tokens and how it ended."""
    tokenizer = language_model.tokenizer
    encoded = [encode_prompt(tokenizer, prompt, **language_model.chat_options) for prompt in prompts]
    language_model.require_room(prompts, encoded, parameters.max_new_tokens)
    uniforms_BT = torch.stack(
        [
            torch.rand(
                parameters.max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
            )
            for seed in seeds
        ]
    )
    stop_ids = frozenset(language_model.stop_ids)
    end = min(stop_ids)
    written: list[list[int]] = [[] for _ in prompts]

    def draw(logits_BV: torch.Tensor, rows_B: torch.Tensor, step: int) -> torch.Tensor:
        tokens_B = draw_tokens(logits_BV, parameters, uniforms_BT[rows_B, step])
        for place, row in enumerate(rows_B.tolist()):
            if _BLOCK.search(decode(tokenizer, written[row])):
                tokens_B[place] = end
            written[row].append(int(tokens_B[place]))
        return tokens_B

    with deterministic(), decoding(language_model):
        rows = decode_rows(
            language_model, encoded, 1, draw, parameters.max_new_tokens, stop_ids,
            temperature=parameters.temperature,
        )  # fmt: skip
    return [
        {
            "completion": decode(tokenizer, [token for token in row.token_ids if token not in stop_ids]),
            "n_tokens": len(row.token_ids),
            "finish": "stop" if row.token_ids[-1] in stop_ids else "length",
        }
        for row in rows
    ]


if __name__ == "__main__":
    main()
