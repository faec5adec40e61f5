"""The same answer between arms: by hand, of one partition, unbiased, and 1 where two models are one."""

import json
import math

import numpy as np
import pytest

from polychromic.diversity.equivalence import MISSING, Normalised, Partition
from polychromic.evaluation import Resampling
from polychromic.evaluation.counting.sameness import joint_labels, sameness_between
from polychromic.evaluation.measure import SameAnswers
from polychromic.experiment.external import ExternalExperiment, evaluate_external
from polychromic.records import GenerationRow, Prompt, SamplingParameters, as_messages
from polychromic.run_folder import RunFolder

RESAMPLING = Resampling(bootstraps=1000)


def rows(texts, *, cluster=None, sampling=None, prompt="p"):
    return [
        GenerationRow(
            prompt,
            i,
            text,
            1,
            "stop",
            sampling or SamplingParameters(),
            0,
            1.0,
            cluster=cluster and cluster[i],
        )
        for i, text in enumerate(texts)
    ]


def same(equivalence=None, prompts="p"):
    return SameAnswers(equivalence or Normalised(), {one: Prompt(one, as_messages("?")) for one in prompts})


def test_two_arms_by_hand():
    labels = {
        ("a", 0): {"p": np.array([0, 0, 1]), "q": np.array([0, 0, 0])},
        ("b", 0): {"p": np.array([0, 1, 1]), "q": np.array([1, 1, 2])},
    }

    [found] = sameness_between(labels, RESAMPLING)

    # p: 0 meets 0 twice and 1 meets 1 twice, of nine pairs; in q never. Within: a third of the pairs, or all.
    assert (found.arm, found.other, found.n_prompts) == ("a", "b", 2)
    assert found.between == pytest.approx((4 / 9 + 0) / 2)
    assert (found.within_arm, found.within_other) == pytest.approx(((1 / 3 + 1) / 2, 1 / 3))
    assert found.gap == pytest.approx(2 / 9 - 1 / 2)
    assert found.overlap == pytest.approx((2 / 9) / (1 / 2))
    assert 0.0 <= found.overlap_low <= found.overlap <= found.overlap_high


def test_seeds_of_two_arms_are_all_paired_and_an_arm_is_compared_within_one_seed():
    a, b = np.array([0, 0]), np.array([1, 1])
    labels = {("x", 0): {"p": a, "q": a}, ("x", 1): {"p": b, "q": b}, ("y", 7): {"p": a, "q": a}}

    [found] = sameness_between(labels, RESAMPLING)

    assert (found.between, found.within_arm, found.within_other) == (0.5, 1.0, 1.0)


def test_answers_without_a_label_and_prompts_without_answers_are_left_out():
    labels = {
        ("a", 0): {"p": np.array([0, MISSING, 0]), "q": np.array([0, MISSING]), "r": np.array([0, 0])},
        ("b", 0): {"p": np.array([0, 0]), "q": np.array([0, 0])},
        ("c", 0): {"z": np.array([0, 0])},
    }

    [found] = sameness_between(labels, RESAMPLING)

    assert (found.n_prompts, found.between, found.within_arm) == (1, 1.0, 1.0)


def test_arms_that_never_repeat_an_answer_have_no_overlap_to_speak_of():
    prompts = {str(i): np.array([0, 1]) for i in range(4)}
    others = {str(i): np.array([2, 3]) for i in range(4)}

    [found] = sameness_between({("a", 0): prompts, ("b", 0): others}, RESAMPLING)

    assert (found.between, found.gap) == (0.0, 0.0)
    assert math.isnan(found.overlap)


@pytest.mark.parametrize(("other", "is_one"), [([0.5, 0.3, 0.2], True), ([0.2, 0.3, 0.5], False)])
def test_one_model_under_two_names_overlaps_fully_and_two_models_do_not(other, is_one):
    """Σpq / Σp² is 1 for one distribution and 0.29 / 0.38 for the second; the interval holds it in each of 20 studies
    (it would fail by chance in about one of 20 each; the seed is fixed)."""
    rng = np.random.default_rng(1)
    truth = float(np.dot([0.5, 0.3, 0.2], other) / 0.38)
    held = 0
    for _ in range(20):
        labels = {
            (name, 0): {str(p): rng.choice(3, 8, p=shares) for p in range(40)}
            for name, shares in (("a", [0.5, 0.3, 0.2]), ("b", other))
        }
        [found] = sameness_between(labels, RESAMPLING)
        held += found.overlap_low <= truth <= found.overlap_high
        assert is_one or found.gap_high < 0.0
    assert held >= 18


class Grouped:
    """An equivalence that sees whole groups: a text is its first letter; `!` has no label."""

    name = "grouped"

    def __init__(self):
        self.asked = []

    def form(self, prompt, text):
        return None

    def partitions(self, groups):
        self.asked += [(prompt.id, list(texts)) for prompt, texts in groups]
        return [
            Partition(np.array([MISSING if text == "!" else ord(text[0]) for text in texts]), ("?",))
            for _, texts in groups
        ]


def test_all_arms_are_divided_together_and_only_at_the_stated_sampling():
    equivalence = Grouped()
    hot = SamplingParameters(temperature=2.0)
    by_arm = {
        ("a", 0): [*rows(["x1", "y1", "x2"]), *rows(["h"], sampling=hot)],
        ("b", 0): [*rows(["y2", "!"]), *rows(["z"], prompt="q")],
    }

    labels = joint_labels(by_arm, same(equivalence, "pq"), "T=1", most=2)

    assert equivalence.asked == [("p", ["x1", "y1", "y2", "!"]), ("q", ["z"])]
    assert labels["a", 0]["p"].tolist() == [ord("x"), ord("y")]
    assert labels["b", 0]["p"].tolist() == [ord("y"), MISSING]
    assert list(labels["a", 0]) == ["p"]


def test_forms_of_the_rows_are_not_asked_for_again():
    equivalence = Grouped()
    by_arm = {("a", 0): rows(["1", "2"], cluster="AB"), ("b", 0): rows(["3", "4"], cluster="BC")}

    labels = joint_labels(by_arm, same(equivalence), "T=1")

    assert not equivalence.asked
    assert labels["a", 0]["p"].tolist() == [0, 1]
    assert labels["b", 0]["p"].tolist() == [1, 2]


def test_a_comparison_of_files_tells_how_much_two_arms_are_one(tmp_path):
    """Two files with one model's answers under two names, and a third that answers something else."""
    answers = {"one": ["red", "Red."], "twin": ["red", "RED"], "other": ["blue", "blue"]}
    prompts = [{"id": f"p{i}", "prompt": "A colour?", "references": ["red", "blue"]} for i in range(3)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    (tmp_path / "e.yaml").write_text("name: e\ntask: {name: custom, test: prompts.jsonl, checker: contains}\n")
    files = {}
    for arm, texts in answers.items():
        lines = [{"prompt_id": one["id"], "text": text} for one in prompts for text in texts]
        files[arm] = [str(tmp_path / f"{arm}.jsonl")]
        (tmp_path / f"{arm}.jsonl").write_text("\n".join(map(json.dumps, lines)))

    folder = RunFolder(tmp_path / "out")
    comparison = evaluate_external(ExternalExperiment.from_file(tmp_path / "e.yaml", files), folder).comparison

    overlaps = {(one.arm, one.other): one.overlap for one in comparison.sameness}
    assert overlaps == {("one", "twin"): 1.0, ("one", "other"): 0.0, ("twin", "other"): 0.0}
    stored = json.loads(folder.comparison.read_text())["sameness"]
    assert [one["between"] for one in stored] == [1.0, 0.0, 0.0]
    for page in ("report.html", "report.md"):
        text = (folder.root / page).read_text()
        assert "one and twin" in text, page
        assert "Overlap is the first over the mean" in text, page
