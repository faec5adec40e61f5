"""The cost of measuring the gradient share: steps with and without it, in turn, in one process.

    python benchmarks/gradient_share.py [KEY=VALUE ...] [--experiment experiments/quickstart.yaml] [--arm coverage]
                                        [--pairs 20]

Both kinds of step see the same prompts and draw the same generations; CPU seconds, so that other work on the machine
counts little. The last line is the share of training time at the experiment's `gradient_share_every`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from polychromic.experiment.config import Experiment
from polychromic.models.loading import load_language_model
from polychromic.tasks.base import build_task
from polychromic.training.base import ArmRun
from polychromic.training.steps import Step, build_step


def main() -> None:
    """Print seconds a step of both kinds and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--experiment", default="experiments/quickstart.yaml")
    parser.add_argument("--arm", default="coverage")
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    experiment = Experiment.from_file(options.experiment, options.overrides)
    makers = {measured: step_maker(experiment, options.arm, measured) for measured in (False, True)}
    prompts = makers[False].prompts
    size = experiment.arm(options.arm).training.prompts_per_step
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step in range(options.pairs + 1):
        for measured, maker in makers.items():
            started = time.process_time()
            maker.make(step, prompts[step * size : (step + 1) * size], 1.0)
            seconds[measured].append(time.process_time() - started)
    plain, measuring = (statistics.fmean(seconds[measured][1:]) for measured in (False, True))
    # Beside references only every m-th step samples, and only such a step can measure.
    arm = experiment.arm(options.arm)
    sampling = arm.loss.sample_every
    rounds = max(1, arm.training.gradient_share_every // sampling)
    print(f"plain step {plain:.3f} s, measured step {measuring:.3f} s: {measuring / plain:.2f} times as long")
    print(f"every {sampling * rounds} steps: {100 * (measuring / plain - 1) / rounds:.1f} % of training time")


def step_maker(experiment: Experiment, arm_name: str, measured: bool) -> Step:
    """A maker whose every step measures, or none does (the odd step 0 is thrown away by the caller)."""
    arm = experiment.arm(arm_name)
    training = arm.training.model_copy(update={"gradient_share_every": 1 if measured else 10**9})
    run = ArmRun(
        experiment=experiment.name,
        arm=arm_name,
        seed=0,
        folder=Path("never-written"),
        task=build_task(experiment.task),
        model=arm.model,
        training=training,
        diversity=arm.diversity,
    )
    return build_step(run, load_language_model(arm.model, seed=0))


if __name__ == "__main__":
    main()
