"""The partition in training: when it is asked, beside what, what it costs, and when it stops the run."""

import threading

import numpy as np
import pytest
from chat_endpoint import Endpoint

from polychromic.diversity.equivalence import MISSING, Normalised, Partition
from polychromic.errors import CheckerError, ConfigError
from polychromic.experiment.progress import Ledger
from polychromic.files import read_jsonl
from polychromic.ledger import BudgetSettings, Calls, money
from polychromic.objective import OBJECTIVES, FittedBaseline, objective
from polychromic.records import Check, Generation, Prompt, SamplingParameters, as_messages
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import Task
from polychromic.tasks.jsonl_task import CustomTask
from polychromic.tasks.partitions.settings import SameAnswer
from polychromic.training.advantages import Division, group_advantages
from polychromic.training.base import ArmRun
from polychromic.training.rollouts import GroupSignals, diversity_advantages, sample_groups
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import train_arm

PROMPTS = [Prompt(f"p{i}", as_messages(f"Name {i}.")) for i in range(4)]
GROUPS = [(prompt, ["a", "b"]) for prompt in PROMPTS]


class Costly:
    """An equivalence that notes the groups of each call."""

    name = "costly"

    def __init__(self, waits=False):
        self.waits, self.calls = waits, []

    def form(self, prompt, text):
        return None

    def partitions(self, groups):
        self.calls.append([prompt.id for prompt, _ in groups])
        return [Partition(np.arange(len(texts))) for _, texts in groups]


def divide(equivalence, reads_clusters=True):
    with Division(equivalence, reads_clusters=reads_clusters) as division:
        division.add(GROUPS[:3])
        division.add(GROUPS[3:])
        return division.partitions(), division.metrics()


def test_all_groups_of_a_step_are_divided_together():
    equivalence = Costly()
    found, metrics = divide(equivalence)
    assert equivalence.calls == [["p0", "p1", "p2", "p3"]]
    assert [one.labels_N.tolist() for one in found] == [[0, 1]] * 4
    assert set(metrics) == {"time/partition_seconds"}


def test_where_no_clusters_are_read_only_spelling_and_forms_are_asked():
    """Past cost: every arm paid for the partition, the baseline too."""
    equivalence = Costly()
    assert divide(equivalence, reads_clusters=False) == (None, {}) and not equivalence.calls
    found, _ = divide(Normalised(), reads_clusters=False)
    assert [one.labels_N.tolist() for one in found] == [[0, 1]] * 4


def test_a_service_is_asked_while_the_next_prompts_are_sampled():
    """The answer about the first prompts comes once the second ones are sampled: one after the other would hang."""
    sampled_again = threading.Event()

    class Waiting(Costly):
        def partitions(self, groups):
            assert groups[0][0].id != "p0" or sampled_again.wait(20.0)
            return super().partitions(groups)

    class Sampler:
        def sample(self, prompts, n, parameters, seeds):
            assert [*seeds] == [int(prompt.id[1:]) for prompt in prompts]
            if prompts[0].id != "p0":
                sampled_again.set()
            return [[Generation(text, (1,), "stop", 0.0) for text in "ab"] for _ in prompts]

    class Checked(Task):
        def check(self, prompts, texts):
            return [Check(1.0)] * len(texts)

    equivalence = Waiting(waits=True)
    with Division(equivalence, reads_clusters=True) as division:
        groups = sample_groups(
            Sampler(), Checked(), PROMPTS, 2, SamplingParameters(), range(4),
            prompts_at_once=2, on_sampled=division.add,
        )  # type: ignore[abstract]  # fmt: skip
        found = division.partitions()
    assert [group.prompt.id for group in groups] == ["p0", "p1", "p2", "p3"]
    assert len(found) == 4 and sorted(equivalence.calls) == [["p0", "p1"], ["p2", "p3"]]


def test_what_goes_wrong_in_a_thread_is_raised_by_the_step():
    class Broken(Costly):
        def partitions(self, groups):
            raise CheckerError("no")

    with pytest.raises(CheckerError, match="no"):
        divide(Broken(waits=True))


# Training.

FUNCTIONS = """
def half(prompt, text):
    return None if sum(map(ord, text)) % 2 else text

def fails(prompt, text):
    return [][1]
"""


@pytest.fixture
def run(tmp_path, tiny_settings):
    file, mine = tmp_path / "prompts.jsonl", tmp_path / "mine.py"
    file.write_text('{"id": "p", "prompt": "1+1=", "references": ["Mars"]}\n')
    mine.write_text(FUNCTIONS)

    def build(same, max_unlabelled=0.2, **diversity):
        training = TrainingSettings(
            loss="rl", steps=2, prompts_per_step=1, num_samples=4, max_new_tokens=8, checkpoint_every=1,
            max_unlabelled=max_unlabelled,
        )  # fmt: skip
        same = {**same, "kind": same["kind"].replace("mine.py", str(mine))}
        task = CustomTask(file, file, file, checker="contains", embedder="hash", same=SameAnswer(**same))
        return ArmRun(
            experiment="test", arm="arm", seed=0, folder=tmp_path / "run", task=task, model=tiny_settings,
            training=training, diversity=DiversitySettings(set_size=2, **diversity),
        )  # fmt: skip

    return build


@pytest.mark.parametrize("diversity", [{"weight": 0.0}, {"weight": 1.0, "objective": "distance"}])
def test_an_arm_that_reads_no_clusters_does_not_ask_for_them(run, diversity):
    arm = run({"kind": "mine.py:fails"}, **diversity)
    train_arm(arm)
    assert all("groups/clusters" not in row for row in read_jsonl(arm.folder / "metrics.jsonl"))


def test_the_share_without_a_label_that_stops_training_is_a_setting(run):
    with pytest.raises(CheckerError, match=r"training.max_unlabelled allows 20%\): its? returned None|IndexError"):
        train_arm(run({"kind": "mine.py:fails"}, weight=1.0))
    arm = run({"kind": "mine.py:half"}, max_unlabelled=1.0, weight=1.0)
    train_arm(arm)
    failed = [row["generation/checker_failures"] for row in read_jsonl(arm.folder / "metrics.jsonl")]
    assert len(failed) == 2 and 0.0 < sum(failed) < 2.0


def test_training_by_a_judge_counts_what_it_was_paid(run, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCHROMIC_CACHE", str(tmp_path / "cache"))
    endpoint = Endpoint()
    with endpoint.serving() as url:
        keys = {"model": "m", "base_url": url, "input_dollars": 2.0, "output_dollars": 0.0}
        arm = run({"kind": "judge", **keys}, weight=1.0)
        train_arm(arm)
    metrics = read_jsonl(arm.folder / "metrics.jsonl")
    calls = sum((Calls.of_metrics(row) for row in metrics), Calls())
    assert calls.n == len(endpoint.requests) > 0
    assert calls.tokens == 102 * calls.n and calls.dollars == pytest.approx(calls.n * 100 * 2.0 / 1e6)
    assert all(row["time/partition_seconds"] > 0 for row in metrics)


def test_calls_stand_in_the_ledger_and_count_as_money_also_after_a_kill(tmp_path):
    from polychromic.experiment.jobs import JobEvent

    folder, budget = RunFolder(tmp_path), BudgetSettings(dollars_per_hour=3600.0, max_dollars=100.0)
    now = [0.0]
    ledger = Ledger(folder, budget, lambda: now[0])
    for step in (1, 2):
        now[0] += 1.0
        cost = {"cost/calls": 3.0, "cost/call_tokens": 300.0, "cost/call_dollars": 5.0}
        ledger.on_event(JobEvent("ours", 0, "train", step, 4, cost))
    assert ledger.dollars == pytest.approx(1.0 + 10.0)
    ledger.close()
    [row] = read_jsonl(folder.ledger)
    assert (row["calls"], row["call_tokens"], row["call_dollars"]) == (6, 600, 10.0)
    assert money([row]).dollars == pytest.approx(11.0)
    assert money([{**row, "dollars": None}]).unpriced_seconds == pytest.approx(1.0)


def test_labels_that_are_missing_are_no_clusters():
    assert MISSING not in {label for one in divide(Costly())[0] for label in one.labels_N.tolist()}


def test_an_answer_without_a_label_is_not_paid_by_an_objective_that_reads_clusters_alone():
    # It counted as a cluster of its own, and had the highest advantage of its group.
    @objective()
    def kinds(clusters):
        return len(set(clusters.tolist())) / len(clusters)

    rewards = np.array([[1.0, 1.0, np.nan, 0.0, 1.0]])
    signals = GroupSignals(rewards, rewards, np.array([[0, 0, MISSING, 0, 1]]), np.zeros((1, 5, 5)))
    try:
        advantages, score = diversity_advantages(signals, DiversitySettings(weight=1.0, objective="kinds", set_size=2))
    finally:
        del OBJECTIVES["kinds"]
    assert advantages[0, 2] == 0.0 and advantages[0].argmax() == 4
    assert score == pytest.approx((3 * 0.5 + 3 * 1.0) / 6)


def test_an_objective_that_leaves_its_bounds_is_said_in_one_message():
    # It ended `train` and `run` in a traceback.
    @objective()
    def many(clusters):
        return float(len(clusters))

    rewards = np.ones((1, 3))
    signals = GroupSignals(rewards, rewards, np.array([[0, 1, 2]]), np.zeros((1, 3, 3)))
    settings = DiversitySettings(weight=1.0, objective="many", set_size=2)
    try:
        with pytest.raises(
            ConfigError, match=r"^diversity.objective many: objective many returned 2, expected a number"
        ):
            group_advantages([], signals, settings, "leave_one_out", FittedBaseline(), np.random.default_rng(0))
    finally:
        del OBJECTIVES["many"]
