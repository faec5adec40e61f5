"""Does a long run grow? Memory and file handles over thousands of training steps, and what a failing tracker costs.

    python benchmarks/soak.py growth [--steps 2000]     # resident memory and open files while training
    python benchmarks/soak.py outage [--steps 300]      # steps with trackers that hang or fail, in turn with none

Trains a small arithmetic arm of the packaged model on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch

from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.loop import ArmRun, Trainer
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.tracking import BackgroundTracker

SETTLED_AFTER = 200


class Hanging:
    """A tracker whose server accepts and never answers."""

    def log(self, metrics: object, step: int) -> None:
        """Wait for ever."""
        threading.Event().wait()

    def close(self) -> None:
        """Never reached."""


class Failing(Hanging):
    """A tracker whose server answers 500."""

    def log(self, metrics: object, step: int) -> None:
        """Fail."""
        raise ConnectionError("500 Internal Server Error")


def main() -> None:
    """Run the chosen measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["growth", "outage"])
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "growth":
            growth(Path(folder), options.steps or 2000)
        else:
            outage(Path(folder), options.steps or 300)


def trainer(folder: Path, steps: int) -> Trainer:
    """A small reward arm with a diversity term."""
    run = ArmRun(
        experiment="soak",
        arm="coverage",
        seed=0,
        folder=folder,
        task=ArithmeticTask(512, 16, 16),
        model=ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=8)),
        training=TrainingSettings(
            signal="reward",
            steps=steps,
            prompts_per_step=4,
            generations=6,
            max_new_tokens=16,
            learning_rate=2e-4,
        ),
        diversity=DiversitySettings(weight=1.0, set_size=3, stop_after_silent_steps=10**9),
    )
    return Trainer(run)


def growth(folder: Path, steps: int) -> None:
    """Print resident memory and open files now and then, and the growth since things have settled."""
    process, training = psutil.Process(), trainer(folder, steps)
    memory: dict[int, int] = {}
    files: set[int] = set()
    while not training.finished:
        training.step()
        if training.steps_done % 100 == 0:
            memory[training.steps_done] = process.memory_info().rss
            files.add(process.num_fds())
        if training.steps_done % 400 == 0:
            print(
                f"step {training.steps_done}: {memory[training.steps_done] / 2**20:.1f} MiB, {process.num_fds()} files"
            )
    settled = memory[SETTLED_AFTER]
    print(f"growth from step {SETTLED_AFTER} to {steps}: {100 * (memory[max(memory)] / settled - 1):+.2f} %")
    print(
        f"most in between: {100 * (max(memory.values()) / settled - 1):+.2f} %; open files: {sorted(files)}"
    )


def outage(folder: Path, steps: int) -> None:
    """Print the median step of three equal runs that differ in their tracker, in turn step by step."""
    kinds = {"no tracker": None, "hanging": Hanging, "failing": Failing}
    runs = {name: trainer(folder / name.replace(" ", "-"), steps) for name in kinds}
    trackers = {name: BackgroundTracker(name, build) if build else None for name, build in kinds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for step in range(steps):
        for name, training in runs.items():
            started = time.process_time()
            metrics = training.step()
            tracker = trackers[name]
            if tracker is not None:
                tracker.log(metrics, step)
            seconds[name].append(time.process_time() - started)
    plain = statistics.median(seconds["no tracker"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name}: {1000 * median:.1f} ms CPU a step, {100 * (median / plain - 1):+.1f} %")


if __name__ == "__main__":
    main()
