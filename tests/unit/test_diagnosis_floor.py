"""Arms that had to keep a quality floor: they end above it or are named."""

import json
import math

import pytest

from polychromic.diagnosis import ArmEvidence, ArmFacts, ArmTrace
from polychromic.diagnosis.rules import below_floor
from polychromic.diagnosis.traces import Floor, floor_record
from polychromic.experiment.config import Experiment
from polychromic.experiment.progress.watch import diagnose_run
from polychromic.files import write_text
from polychromic.run_folder import RunFolder

LOSS = "train/quality_loss"
BESIDE_BASELINE = Floor(-0.03, of_baseline=True, key=LOSS)


def trace(*seeds):
    """Of the losses of each seed, nan where a step did not measure it."""
    return ArmTrace(
        "arm",
        {
            seed: [{"step": step, LOSS: loss} for step, loss in enumerate(losses, start=1)]
            for seed, losses in enumerate(seeds)
        },
    )


def evidence(record):
    return ArmEvidence(
        facts=ArmFacts("arm", "rl", 1.0, 1.0, 24), trace=trace([0.0]), is_baseline=False, weight=1.0, floor=record,
    )  # fmt: skip


def test_the_end_is_the_last_third_paired_by_step():
    ours, baseline = [9.0] * 20 + [0.50, 0.54] * 5, [5.0] * 20 + [0.50] * 10
    record = floor_record(BESIDE_BASELINE, trace(ours), trace(baseline))
    assert record.measurements == 10
    assert record.seeds[0].mean == pytest.approx(-0.02)
    # sd of ±0.02 around the mean, ten values, n − 1.
    assert record.seeds[0].standard_error == pytest.approx(0.02 * math.sqrt(10 / 9) / math.sqrt(10))
    assert below_floor(evidence(record)) is None


def test_steps_that_one_of_the_two_did_not_measure_are_left_out():
    nan = math.nan
    ours, baseline = [0.5, 0.6, nan, 0.8, nan, 0.9], [0.5, nan, 0.7, 0.7, nan, 0.7]
    record = floor_record(BESIDE_BASELINE, trace(ours), trace(baseline))
    assert record.measurements == 1
    assert record.seeds[0].mean == pytest.approx(-0.2)
    # One measurement is no verdict.
    assert below_floor(evidence(record)) is None


def test_at_most_a_hundred_measurements_are_the_end():
    record = floor_record(Floor(0.4, of_baseline=False, key=LOSS), trace([-0.1] * 800 + [-0.5] * 100), trace())
    assert record.measurements == 100
    assert record.seeds[0].mean == pytest.approx(0.5)


def test_a_floor_that_was_not_kept_is_named():
    kept, missed, baseline = [0.51] * 30, [0.55] * 30, [0.5] * 30
    record = floor_record(BESIDE_BASELINE, trace(kept, missed), trace(baseline, baseline))
    found = below_floor(evidence(record))
    assert found is not None
    assert found.kind == "below-floor"
    assert "-0.010, -0.050 (floor -0.030" in found.sentence
    assert "1 of 2 seeds ended below it" in found.sentence
    assert "standard errors" not in found.sentence

    noisy = [0.5, 0.568] * 15
    within_noise = below_floor(evidence(floor_record(BESIDE_BASELINE, trace(noisy), trace(baseline))))
    assert within_noise is not None
    assert "not by more than two standard errors" in within_noise.sentence


def test_without_a_step_of_both_arms_nothing_is_claimed():
    record = floor_record(BESIDE_BASELINE, trace([0.5] * 9), trace())
    assert record.seeds == {}
    assert "not known" in record.sentence
    assert below_floor(evidence(record)) is None


def test_a_run_says_what_became_of_its_floor(tmp_path):
    floor = {"weight": "auto", "mode": "floor", "floor_margin": 0.03}
    experiment = Experiment.from_mapping({
        "name": "floors", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {"loss": "rl", "steps": 30},
        "arms": {"baseline": {}, "floor": {"diversity": floor}}, "seeds": [0],
    })  # fmt: skip
    folder = RunFolder(tmp_path)
    for arm, loss in (("baseline", -0.5), ("floor", -0.44)):
        rows = [{"step": step, LOSS: loss} for step in range(1, 31)]
        write_text(folder.arm(arm, 0).root / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    arms = diagnose_run(experiment, folder).arms
    assert [finding.kind for finding in arms[1].findings] == ["below-floor"]
    written = json.loads(folder.diagnosis.read_text())["arms"]
    assert written[0]["floor"] is None
    assert written[1]["floor"]["seeds"]["0"]["mean"] == pytest.approx(-0.06)
