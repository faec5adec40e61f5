"""Samples a code benchmark problem after problem at several temperatures; can be stopped and continued.

    python benchmarks/code_samples.py --task humaneval --minutes 60 --out samples
    cat samples/humaneval/*.jsonl > humaneval.jsonl
    polychromic evaluate experiments/humaneval.yaml --generations smollm2=humaneval.jsonl

Problems come in an order drawn from `--seed`, each with all its answers at all temperatures in a file of its own, so
that what is there at any time is a random part of the benchmark, sampled in full. `--part 0/2` and `--part 1/2` are two
processes that share the problems. Every problem and temperature has a seed of its own.

The model reads the task's prompt in its chat template and the opening of its own answer: "```python" and, for
HumanEval, the function's head, its docstring and the indentation of the next line (without that it copies the end of
the prompt's block and answers nothing to some problems). HumanEval's answer ends before the first line that is not
indented; others where the block ends or one of the words of bigcode-evaluation-harness begins a line (class, assert,
\"\"\", print, if).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from polychromic.files import write_text
from polychromic.models.chat import decode, encode_prompt
from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.seeding import child_seed
from polychromic.tasks.code import CodeTask, Problem, load_benchmark
from polychromic.tasks.code.functions import make_problems
from prefix_tree import Answer, PrefixTree, sample_trees

_ENDS = {
    "humaneval": re.compile(r"\n(?=\S)"),
    "others": re.compile(r'\n```|(?<=\S)\n+(?:class|assert|"""|print|if)'),
}
_TASKS = ("humaneval", "mbpp", "mbpp_sanitized", "functions")
_INDENTATION = "\n   "  # the fourth space is a part of the next word's token
_LATEST = 12  # tokens that are looked at for an end: each pattern is shorter


def main() -> None:
    """Sample until all problems are there or the time is over, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="humaneval", choices=_TASKS)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of weights and arithmetic")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.2, 0.5, 0.8])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--max-new-tokens", type=int, default=192)
    parser.add_argument("--nodes", type=int, default=128, help="fewer than this many: begin a further problem")
    parser.add_argument("--trees", type=int, default=4, help="problems at once, 1 GiB each or less")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the problems")
    parser.add_argument("--problems", type=int, help="the first so many of that order; else all")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    folder = arguments.out / arguments.task
    folder.mkdir(parents=True, exist_ok=True)
    language_model = load_language_model(ModelSettings(source=arguments.model, dtype=arguments.dtype))
    benchmark = Benchmark(
        arguments.task, language_model, arguments.samples, arguments.temperatures, arguments.max_new_tokens
    )
    part, n_parts = map(int, arguments.part.split("/"))
    order = sorted(benchmark.problems)
    random.Random(arguments.seed).shuffle(order)
    order = order[: arguments.problems]
    left = [name for name in order[part::n_parts] if not _file(folder, name).exists()]
    deadline = time.monotonic() + 60.0 * arguments.minutes
    waiting = (benchmark.prompted(name) for name in left if time.monotonic() < deadline)
    started, started_cpu = time.monotonic(), time.process_time()
    n_answers = n_tokens = n_read = 0
    with torch.inference_mode():
        for tree in sample_trees(
            language_model.model,
            waiting,
            arguments.max_new_tokens,
            benchmark.ends,
            arguments.nodes,
            arguments.trees,
        ):
            rows = list(benchmark.rows(tree))
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            write_text(_file(folder, rows[0]["task_id"]), lines)
            n_answers += len(rows)
            n_tokens += sum(row["n_tokens"] for row in rows)
            n_read += tree.n_read
            seconds, of_processor = time.monotonic() - started, time.process_time() - started_cpu
            print(
                f"{len(list(folder.iterdir()))} of {len(order)} problems; here {n_answers:,} answers of {n_tokens:,} "
                f"tokens, {n_read:,} of them read, {seconds:.0f} s, {of_processor:.0f} s of the processor",
                flush=True,
            )


def _file(folder: Path, problem_id: str) -> Path:
    return folder / f"{problem_id.replace('/', '-')}.jsonl"


class Benchmark:
    """The problems of a benchmark, their prompts as tokens, and where an answer ends."""

    def __init__(
        self,
        name: str,
        language_model: LanguageModel,
        samples: int,
        temperatures: Sequence[float],
        max_new_tokens: int,
    ) -> None:
        made = name == "functions"  # as in experiments/code.yaml
        problems = {"test": make_problems("test", 100, seed=0)} if made else load_benchmark(name)
        self.name = name
        self.problems: dict[str, Problem] = {problem.id: problem for problem in problems["test"]}
        self._prompts = {prompt.id: prompt for prompt in CodeTask(name, problems).prompts("test")}
        self._language_model = language_model
        self._samples, self._temperatures, self._max_new_tokens = samples, temperatures, max_new_tokens
        self._end = _ENDS["humaneval" if name == "humaneval" else "others"]
        self._begun = _INDENTATION if name == "humaneval" else ""
        self._of_tree: dict[int, str] = {}

    def prompted(self, problem_id: str) -> tuple[list[int], list[Answer]]:
        """Returns the tokens that the model reads first, and answers to fill in: all of the first temperature, of the
        second, …"""
        tokenizer = self._language_model.tokenizer
        opening = f"```python\n{self.problems[problem_id].opening}".rstrip() + self._begun
        prompt_ids = [
            *encode_prompt(tokenizer, self._prompts[problem_id], **self._language_model.chat_options),
            *tokenizer(opening, add_special_tokens=False)["input_ids"],
        ]
        answers: list[Answer] = []
        for temperature in self._temperatures:
            seed = child_seed(self.name, f"{temperature:g}", problem_id)
            generator = torch.Generator().manual_seed(seed)
            uniforms = torch.rand(self._samples, self._max_new_tokens, dtype=torch.float64, generator=generator)
            answers += [Answer(temperature, row) for row in uniforms]
        self._of_tree[id(answers[0])] = problem_id
        return prompt_ids, answers

    def ends(self, token_ids: list[int]) -> bool:
        """Tells whether an answer is over: by a stop token, or by a line that begins something else."""
        latest = decode(self._language_model.tokenizer, token_ids[-_LATEST:])
        return token_ids[-1] in self._language_model.stop_ids or self._end.search(latest) is not None

    def rows(self, tree: PrefixTree) -> Iterator[dict[str, Any]]:
        """Yields the lines of a complete tree, with the benchmark's own keys `task_id` and `completion`."""
        problem_id = self._of_tree.pop(id(tree.answers[0]))
        stop_ids = self._language_model.stop_ids
        for answer in tree.answers:
            text = decode(self._language_model.tokenizer, [t for t in answer.token_ids if t not in stop_ids])
            text = self._begun + text
            over = self._end.search(text)
            yield {
                "task_id": problem_id,
                "completion": text[: over.start()] if over else text,
                "temperature": answer.temperature,
                "n_tokens": len(answer.token_ids),
                "finish": "stop" if answer.ended else "length",
            }


if __name__ == "__main__":
    main()
