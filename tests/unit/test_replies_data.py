from pathlib import Path

import pytest

from polychromic.tasks.data.prompts import load_prompts
from polychromic.tasks.replies import RepliesTask

DATA = Path(__file__).parents[2] / "data" / "replies"


def test_the_shipped_splits_are_whole_and_share_no_text():
    splits = {split: load_prompts(DATA / f"{split}.jsonl") for split in ("train", "validation", "test")}
    assert {split: len(prompts) for split, prompts in splits.items()} == {
        "train": 6000,
        "validation": 300,
        "test": 500,
    }
    posts = [prompt.text for prompts in splits.values() for prompt in prompts]
    assert len(set(posts)) == len(posts)
    seen = {prompt.references for prompt in splits["train"]}
    assert not any(prompt.references in seen for prompt in splits["validation"] + splits["test"])


@pytest.mark.network
@pytest.mark.filterwarnings("default")  # loading third-party weights may warn; the values below decide
def test_the_shipped_replies_are_judged_as_documented():
    report = RepliesTask(*(DATA / f"{split}.jsonl" for split in ("train", "validation", "test"))).report()
    assert report["checker"]["auc"] == pytest.approx(0.82, abs=0.02)
    assert report["judge"]["auc"] == pytest.approx(0.72, abs=0.02)
    assert report["checker"]["pass_rates"]["references"] > 0.5
    assert report["checker"]["pass_rates"]["stock"] < 0.2
    assert report["checker"]["pass_rates"]["echo"] < 0.1
