"""A quality floor where arithmetic is learnt from references, beside the arm without diversity it is measured from.

    python benchmarks/floor_references.py --out DIR [KEY=VALUE ...]

Makes 400 training, 60 validation and 60 test problems with one reference each, runs the experiment (it continues where
it was stopped), and prints the table of docs/results/floor-references.md.
"""

from __future__ import annotations

import argparse
import json
import re
from itertools import islice
from pathlib import Path

import numpy as np

from polychromic.diagnosis.traces import measured
from polychromic.experiment.config import Experiment
from polychromic.experiment.run import run
from polychromic.files import read_jsonl
from polychromic.records import Prompt
from polychromic.tasks.arithmetic import Split, random_problems

SIZES: dict[Split, int] = {"train": 400, "validation": 60, "test": 60}
EXPERIMENT = f"""
name: floor-references
seeds: [0, 1, 2]
task:
  {{name: custom, train: train.jsonl, validation: validation.jsonl, test: test.jsonl, checker: "{__file__}:balanced"}}
model: {{source: "polychromic:arithmetic-tiny", adapter: {{rank: 16, alpha: 32}}}}
training:
  loss: sft
  steps: 150
  prompts_per_step: 16
  learning_rate: 1.0e-3
  max_new_tokens: 24
  validation_every: 5
diversity: {{objective: coverage, set_size: 4, num_samples: 8, num_prompts: 8, sample_every: 3}}
arms:
  baseline: {{diversity: {{weight: 0.0}}}}
  floor: {{diversity: {{weight: auto, mode: floor, floor_margin: 0.03}}}}
evaluation: {{num_prompts: 60, num_samples: 8, max_new_tokens: 24, sampling: [{{temperature: 1.0}}]}}
"""


def balanced(prompt: Prompt, text: str) -> float:
    """The checker: 1 for digits and operators with as many opening as closing parentheses."""
    return float(bool(re.fullmatch(r"[0-9+*/()\- ]+", text)) and text.count("(") == text.count(")"))


def main() -> None:
    """Run the experiment and print what the floor held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_problems(options.out)
    path = options.out / "floor-references.yaml"
    path.write_text(EXPERIMENT)
    experiment = Experiment.from_file(path, options.overrides)
    root = run(experiment, out=options.out).folder.root
    for seed in experiment.seeds:
        print(f"seed {seed}")
        for name, figure in figures(root, seed).items():
            print(f"  {name}: {figure}")


def write_problems(folder: Path) -> None:
    """One JSON line a problem, in a file a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in SIZES.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for i, (problem, solution) in enumerate(islice(random_problems(split, "references"), size)):
                row = {"id": f"{split}-{i}", "prompt": problem.text, "references": [solution]}
                file.write(json.dumps(row) + "\n")


def figures(root: Path, seed: int) -> dict[str, str]:
    """Returns what the two arms of a seed say of each other; cross-entropy in nats a token."""
    rows = {arm: read_jsonl(root / arm / f"seed-{seed}" / "metrics.jsonl") for arm in ("baseline", "floor")}
    baseline, floor = (measured(rows[arm], "validation/cross_entropy") for arm in ("baseline", "floor"))
    differences = [floor[step] - baseline[step] for step in floor]
    training = {arm: float(np.mean([row["train/quality_loss"] for row in found[-20:]])) for arm, found in rows.items()}
    first, last = min(floor), max(floor)
    return {
        f"baseline, validation, step {first} → {last}": f"{baseline[first]:.3f} → {baseline[last]:.3f}",
        f"floor, validation, step {last}": f"{floor[last]:.3f}",
        f"floor minus baseline, validation, largest of {len(differences)}": f"{max(differences):+.3f}",
        "floor minus baseline, training batches, last 20 steps": f"{training['floor'] - training['baseline']:+.3f}",
        "λ at the end": f"{rows['floor'][-1]['train/diversity_weight']:,.0f}",
    }


if __name__ == "__main__":
    main()
