"""Test prompts that training has seen, and test prompts that are there twice."""

import json

import pytest

from polychromic.evaluation.audits.checker import find_leakage
from polychromic.experiment.external import ExternalExperiment, evaluate_external
from polychromic.experiment.preflight.data import _warnings
from polychromic.records import Prompt, as_messages
from polychromic.run_folder import RunFolder

STORY = "A farmer has twelve sheep and sells four of them at the market"


def prompt(name, text, *references):
    return Prompt(name, as_messages(text), references)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (STORY, "exact"),
        (f"  {STORY.upper()}\n", "alike"),
        (STORY.replace("twelve", "eleven"), "near"),
        (f"{STORY}.", "near"),
        ("A farmer has twelve cows, and buys five goats from his neighbour", None),
        ("Something else altogether that nobody in training has asked about", None),
    ],
)
def test_a_test_prompt_that_training_has_seen_is_found(text, kind):
    found = find_leakage([prompt("t", text)], [prompt("a", "Hello?"), prompt("b", STORY)])
    assert {name: getattr(found, name) for name in ("exact", "alike", "near")} == {
        name: (("t",) if name == kind else ()) for name in ("exact", "alike", "near")
    }
    assert bool(found.sentences()) == (kind is not None)


def test_chinese_prompts_are_compared_too():
    found = find_leakage([prompt("t", "我昨天在北京的图书馆里看书。")], [prompt("a", "我昨天在北京的图书馆里看书")])
    assert found.near == ("t",)


def test_a_common_template_is_no_leakage():
    template = "Write a short and friendly reply to the following post of a user: {}"
    train = [prompt(f"a{i}", template.format(f"item{i}")) for i in range(100)]
    assert find_leakage([prompt("t", template.format("another"))], train).seen == ()


def test_short_prompts_that_differ_in_one_sign_are_different():
    """Arithmetic problems differ by a digit, and are different problems."""
    assert find_leakage([prompt("t", "1,4,6,8=24:")], [prompt("a", "1,4,6,8=23:")]).seen == ()
    assert find_leakage([prompt("t", "2+2")], [prompt("a", "2-2")]).seen == ()


def test_repeated_test_prompts_and_shared_references():
    long = "a reference that has no fewer than eight words"
    found = find_leakage(
        [
            prompt("t1", "One?", long),
            prompt("t2", "one?"),
            prompt("t3", "Two?", "yes"),
            prompt("t4", "Three?", "yes"),
        ],
        [prompt("a", "Four?", long)],
    )
    assert dict(found.repeated) == {"t2": "t1"}
    assert found.answered == ("t1",)  # a short reference is a label, which many prompts share
    assert found.repetition() == (
        "1 evaluated prompt repeats another, apart from case and white space, and is counted once "
        "(first: t2 repeats t1)"
    )


def test_preflight_says_the_same():
    test = [prompt("t1", STORY), prompt("t2", STORY)]
    said = _warnings([prompt("a", STORY), prompt("b", STORY)], test, 0)
    assert said[0] == "1 training prompts repeat another"
    assert said[1].startswith("1 of 1 evaluated prompt are also in training: 1 word for word")
    assert said[2].startswith("1 evaluated prompt repeats another")


@pytest.fixture
def compare(tmp_path):
    """A comparison of two files whose first two prompts are in training, and whose last repeats the first."""
    questions = [f"What is the capital of country number {i}, and where is it?" for i in range(8)]
    test = [{"id": f"p{i}", "prompt": text} for i, text in enumerate([*questions, questions[0].upper()])]
    train = [{"prompt": questions[0]}, {"prompt": questions[1] + "?"}, {"prompt": "Another question"}]
    for name, rows in (("test", test), ("train", train)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({**row, "references": ["x"]}) + "\n" for row in rows)
        )
    files = {}
    for arm in "ab":
        rows = [{"id": f"p{i}", "texts": ["x", "y"]} for i in range(9)]
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[arm] = [str(tmp_path / f"{arm}.jsonl")]

    def run(splits):
        (tmp_path / "e.yaml").write_text(f"name: mine\ntask: {{name: custom, checker: contains, {splits}}}\n")
        experiment = ExternalExperiment.from_file(tmp_path / "e.yaml", files)
        return evaluate_external(experiment, RunFolder(tmp_path / "mine")).comparison

    return run


def test_leakage_and_duplicates_stand_beside_the_verdict(compare, tmp_path):
    """Preflight mentioned overlap, the report never; duplicates nobody."""
    found = compare("train: train.jsonl, validation: train.jsonl, test: test.jsonl")
    texts = {one.kind: one.text for one in found.warnings}
    assert texts["leakage"].startswith("2 of 8 evaluated prompts are also in training: 1 word for word, 1 nearly (90 %")
    assert texts["duplicates"].startswith("1 evaluated prompt repeats another")
    assert f" But {texts['leakage']}." in found.verdict.sentence
    assert found.n_prompts == 8 and "p8" not in found.prompts
    for name in ("report.html", "report.md"):
        written = (tmp_path / "mine" / name).read_text()
        assert "of 8 evaluated prompts are also in training" in written
        assert "repeats another, apart from case" in written


@pytest.mark.parametrize("splits", ["test: test.jsonl", "train: gone.jsonl, validation: gone.jsonl, test: test.jsonl"])
def test_without_the_training_prompts_only_duplicates_are_said(compare, splits):
    kinds = {one.kind for one in compare(splits).warnings}
    assert "duplicates" in kinds and "leakage" not in kinds
