"""Prints randomly chosen prompts of a run with the right answers of its arms side by side, as Markdown.

    python benchmarks/side_by_side.py runs/code --prompts 10 --seed 0 [--training-seed 0]

Prompts are drawn before any answer is looked at; of each form one answer is shown, the most frequent first, with the
number of samples that have it. What does not pass is counted.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from pathlib import Path

from polychromic.experiment.config import Experiment
from polychromic.generations import read_generations
from polychromic.records import GenerationRow
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import build_task

_SHOWN = 6


def main() -> None:
    """Draw the prompts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--training-seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = RunFolder(arguments.run)
    experiment = Experiment.from_file(folder.experiment)
    task = build_task(experiment.task)
    prompts = {prompt.id: prompt for prompt in task.prompts(experiment.evaluation.split)}
    rows: dict[str, dict[str, list[GenerationRow]]] = defaultdict(lambda: defaultdict(list))
    for arm in experiment.arms:
        for row in read_generations(folder.arm(arm, arguments.training_seed).generations):
            rows[row.prompt_id][arm].append(row)
    for prompt_id in random.Random(arguments.seed).sample(sorted(rows), arguments.prompts):
        print(f"**{prompts[prompt_id].text.strip()}**\n")
        for arm in experiment.arms:
            print(of_arm(arm, rows[prompt_id][arm], task.pass_threshold))


def of_arm(arm: str, rows: list[GenerationRow], threshold: float) -> str:
    """Returns the right answers of an arm to one prompt, one of each form."""
    right = [row for row in rows if row.reward is not None and row.reward >= threshold]
    counts = Counter(row.cluster for row in right)
    lines = [f"{arm}: {len(right)} of {len(rows)} pass, {len(counts)} different\n"]
    for form, count in counts.most_common(_SHOWN):
        text = next(row.text for row in right if row.cluster == form).strip()
        lines.append(f"```python\n{text}  # × {count}\n```\n")
    if len(counts) > _SHOWN:
        lines.append(f"and {len(counts) - _SHOWN} more\n")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
