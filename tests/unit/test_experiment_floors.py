"""A quality floor relative to the baseline arm: order of the jobs, where the floor comes from, what is refused."""

import json
import math

import pytest

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.jobs import baseline_quality, in_order_of_need
from polychromic.run_folder import RunFolder

FLOOR = {"weight": "auto", "mode": "floor", "floor_margin": 0.02}


def experiment(**arms):
    return Experiment.from_mapping(
        {
            "name": "floors",
            "task": {"name": "arithmetic"},
            "model": {"source": "polychromic:arithmetic-tiny"},
            "training": {"loss": "rl", "steps": 3, "num_samples": 8},
            "arms": {"floor": {"diversity": FLOOR}, "baseline": {"diversity": {"weight": 0.0}}, **arms},
        }
    )


def test_the_baseline_is_trained_before_the_arms_that_follow_it():
    assert in_order_of_need(experiment(), ["floor", "baseline"]) == [["baseline"], ["floor"]]
    assert in_order_of_need(experiment(), ["floor"]) == [["floor"]]


def test_the_floor_is_the_baselines_own_trace(tmp_path):
    folder = RunFolder(tmp_path)
    job = folder.arm("baseline", 0).root
    (job / "adapter").mkdir(parents=True)
    (job / "training.json").write_text("{}")
    rows = [{"step": step, "train/quality_loss": -0.1 * step} for step in (1, 2, 3)]
    rows.append({"step": 4, "train/quality_loss": None})  # the checker failed on every generation
    (job / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert baseline_quality(experiment(), "floor", 0, folder) == pytest.approx((0.1, 0.2, 0.3, math.nan), nan_ok=True)
    assert baseline_quality(experiment(), "baseline", 0, folder) == ()
    with pytest.raises(ConfigError, match=r"--arm baseline --seed 1"):
        baseline_quality(experiment(), "floor", 1, folder)


def test_steps_that_see_other_prompts_cannot_be_compared():
    other = {"training": {"prompts_per_step": 4}, "diversity": FLOOR}
    with pytest.raises(ConfigError, match=r"arms\.other\.diversity\.floor_margin is measured from the arm 'baseline'"):
        experiment(other=other)


def test_a_floor_is_stated_once():
    with pytest.raises(ConfigError, match=r"either quality_floor .* or floor_margin .* got neither"):
        experiment(other={"diversity": {"weight": "auto", "mode": "floor"}})
    with pytest.raises(ConfigError, match="got quality_floor and floor_margin"):
        experiment(other={"diversity": {**FLOOR, "quality_floor": 0.5}})
