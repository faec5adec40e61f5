"""An objective from a file outside the package: unbiased by exact enumeration, audited, and trained through a file."""

import math
import os

import numpy as np
import pytest
import yaml
from enumeration import gradient_estimates, random_policy

from polychromic import Experiment
from polychromic.experiment.jobs import Job, carry_out
from polychromic.experiment.resuming.inputs import changed_inputs, record_inputs
from polychromic.files import read_jsonl
from polychromic.objective import find_objective, kernel_scores, sampled_subsets, set_advantages, subset_mean
from polychromic.objective.audit import audit

CODE = '''
from polychromic.objective import objective


@objective(smallest_set=2)
def widest_pair(rewards, distances, gates):
    """Largest gated distance in the set, times its lowest reward's distance from one."""
    gated = distances * gates[:, None] * gates[None, :]
    return float(gated.max()) * (1.0 - rewards.min())


@objective()
def correct_kinds(passing, clusters):
    """Clusters that hold a passing generation, over the size of the set."""
    return len(set(clusters[passing > 0].tolist())) / len(clusters)


@objective()
def too_large(rewards):
    """A value outside of its bounds."""
    return 2.0


def plain(rewards):
    return 0.5
'''
BASELINES = ["none", "leave_one_out", "leave_one_out_minus_one", "fitted"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(CODE)
    return path


def widest_pair(members, policy):
    if len(members) < 2:
        return 0.0
    gates = policy.gates_M
    pairs = [
        gates[a] * gates[b] * policy.distances_MM[a, b]
        for position, a in enumerate(members)
        for b in members[position + 1 :]
    ]
    return max(pairs) * (1.0 - policy.rewards_M[list(members)].min())


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("baseline", BASELINES)
def test_its_expected_estimator_is_the_gradient(mine, baseline, sampled, monkeypatch):
    """Two sampled subsets in place of all six are as unbiased."""
    if sampled:
        monkeypatch.setattr(kernel_scores, "MAX_SUBSETS", 3)
        monkeypatch.setattr(kernel_scores, "SAMPLED_SUBSETS", 2)
    name, policy, n = f"{mine}:widest_pair", random_policy(4, seed=5), 4
    sets, set_weights = policy.tuples(2)
    scores = np.array([widest_pair(tuple(row), policy) for row in sets])
    expected = (set_weights * scores) @ policy.scores_MM[sets].sum(axis=1)
    outcomes, weights = policy.tuples(n)
    options = {"coefficients": {0: 0.3, 2: -1.5, 3: 0.7}} if baseline == "fitted" else {}
    advantages = np.concatenate(
        [
            set_advantages(
                name, 2, baseline=baseline, generator=np.random.default_rng(0), **policy.arrays(row[None]),
                **options,
            )
            for row in outcomes
        ]
    )  # fmt: skip
    found = weights @ gradient_estimates(advantages, outcomes, policy)
    np.testing.assert_allclose(found, expected, atol=1e-10, rtol=0)
    assert np.abs(expected).max() > 1e-3


def test_it_agrees_with_the_closed_form_of_the_same_score(mine):
    rng = np.random.default_rng(0)
    arrays = {"rewards": rng.integers(0, 2, (5, 7)) * 1.0, "clusters": rng.integers(0, 4, (5, 7))}
    arrays["rewards"][0, 2] = np.nan
    for baseline in BASELINES:
        np.testing.assert_allclose(
            set_advantages(f"{mine}:correct_kinds", 3, baseline=baseline, **arrays),
            set_advantages("coverage", 3, baseline=baseline, **arrays),
            atol=1e-14,
        )


def test_it_states_its_facts_and_is_known_by_name(mine):
    entry = find_objective(f"{mine}:correct_kinds")
    assert entry.reads == ("passing", "clusters")
    assert entry.rewards == "binary"
    assert entry.sentence == "Clusters that hold a passing generation, over the size of the set."
    assert find_objective("correct_kinds") is entry
    assert sampled_subsets(entry, 4, 24) == 2048
    assert subset_mean(entry, 2, rewards=[1, 0, 1], clusters=["a", "a", "b"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"rewards has 0.5 at \(0, 0\), but correct_kinds takes 0 and 1 alone"):
        subset_mean(entry, 2, rewards=[0.5, 0, 1], clusters=["a", "a", "b"])


def test_it_is_audited(mine):
    ours, theirs = (
        audit(f"{mine}:correct_kinds", 4, 3, correct_modes=2),
        audit("coverage", 4, 3, correct_modes=2),
    )
    assert ours.p_correct == pytest.approx(theirs.p_correct, abs=1e-6) == pytest.approx(1.0)
    assert ours.effective_modes == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_large", r"objective too_large returned 2, expected a number in \[0, 1\]"),
        ("plain", "is not decorated with @objective"),
        ("missing", "does not define missing"),
    ],
)
def test_what_cannot_be_used_is_refused(mine, name, message):
    with pytest.raises(ValueError, match=message):
        set_advantages(f"{mine}:{name}", 1, rewards=[0.0, 1.0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def f(rewards, colour): ...",
            "f reads rewards, colour, expected parameters out of rewards, passing",
        ),
        ("def f(rewards, passing): ...", "one of rewards and passing at most"),
        ("def coverage(rewards): ...", "coverage is built in; give yours another name"),
    ],
)
def test_a_score_that_cannot_be_registered_is_refused(tmp_path, source, message):
    file = tmp_path / "wrong.py"
    file.write_text(f"from polychromic.objective import objective\n@objective()\n{source}\n")
    with pytest.raises(ValueError, match=message):
        find_objective(f"{file}:f")


def test_an_experiment_file_trains_with_it(mine):
    file = mine.parent / "experiment.yaml"
    content = {
        "name": "own", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {
            "loss": "rl", "steps": 2, "prompts_per_step": 8, "num_samples": 8, "max_new_tokens": 16,
            "gradient_share_every": 1,
        },
        "arms": {"baseline": {}, "own": {"diversity": {"weight": 1.0, "objective": "mine.py:correct_kinds"}}},
        "diversity": {"set_size": 2},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    experiment = Experiment.from_file(file)
    assert experiment.arm("own").diversity.objective == f"{mine}:correct_kinds"

    root = mine.parent / "run"
    carry_out(Job(experiment, "own", 0, root, ("train",)), lambda event: None)
    rows = read_jsonl(root / "own" / "seed-0" / "metrics.jsonl")
    assert len(rows) == 2
    assert all(math.isfinite(row["train/diversity_score"]) for row in rows)
    assert any((row["train/diversity_gradient_share"] or 0.0) > 0 for row in rows)


def test_its_code_is_recorded_and_a_change_is_named(mine):
    experiment = Experiment.from_file(mine.parent / "experiment.yaml")
    recorded = record_inputs(experiment, models=False)
    assert list(recorded["training_code"]) == ["objective correct_kinds"]
    mine.write_text(CODE + "# changed\n")
    os.utime(mine)
    now = record_inputs(experiment, models=False)
    recorded, now = ({**one, "models": {}, "embedders": {}} for one in (recorded, now))
    assert changed_inputs(experiment, experiment, recorded, now) == ["the objective correct_kinds (mine.py)"]
