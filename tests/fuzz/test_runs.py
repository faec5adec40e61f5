"""Whole runs of settings drawn at random: each ends with a page, or with one error for people, and ends so again.

RUNS=200 pytest tests/fuzz/test_runs.py -m slow    tries as many, 10 s each; RUNS_SEED begins elsewhere.
"""

import json
import os
import random
import re

import pytest

from polychromic import run
from polychromic.errors import PolychromicError
from polychromic.experiment.config import Experiment
from polychromic.objective import OBJECTIVES

RUNS, SEED = int(os.environ.get("RUNS", "12")), int(os.environ.get("RUNS_SEED", "0"))
CHECKS = """
def good(prompt, text):
    return min(1.0, sum(c.isdigit() for c in text) / 4)

def same(prompt, text):
    return text[:1]
"""
CRITERIA = (
    {"metric": "distinct_2", "direction": "higher", "relative_change": 0.12},
    {"metric": "self_bleu", "direction": "lower", "relative_change": 0.1},
    {"metric": "distinct_correct", "direction": "higher", "relative_change": 0.1},
    {"metric": "pass@1", "direction": "not_worse", "margin": 0.03},
    {"metric": "clusters", "direction": "higher", "relative_change": 0},
)
SAMPLING = (
    [{"temperature": 1.0}],
    [{"temperature": 0.5}, {"temperature": 1.0}],
    [{"temperature": 1.0, "top_p": 0.9}, {"temperature": 0.7, "min_p": 0.1}, {"temperature": 1.3}],
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with prompts whose references differ in number, and a checker."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "checks.py").write_text(CHECKS)
    for split, n in (("train", 12), ("validation", 5), ("test", 6)):
        prompts = [f"{i + 1},{i % 5 + 1},3,4={i + 5}:" for i in range(n)]
        rows = [
            {"id": f"{split}{i}", "prompt": prompt, "references": ["1+2*3", f"{i}*2"][: 1 + i % 2]}
            for i, prompt in enumerate(prompts)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def drawn(draw, folder):
    """Settings of a run: most of them fit together."""

    def any_of(**values):
        return {key: draw.choice(options) for key, options in values.items()}

    loss = draw.choice(["rl", "rl", "sft"])
    task = {"name": "arithmetic", "train_problems": 16, "validation_problems": 5, "test_problems": 6}
    if loss == "sft" or draw.random() < 0.5:
        task = {
            "name": "custom",
            **{split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
        }
        task["same_answer"] = draw.choice(["exact", "normalised", f"{folder}/checks.py:same"])
        if loss == "rl" or draw.random() < 0.6:
            task["checker"] = f"{folder}/checks.py:good"
    adapter = any_of(
        rank=[1, 2, 4], alpha=[1, 8, 32], dropout=[0, 0.1], use_rslora=[False, True], use_dora=[False, False, True],
        rank_pattern=[{}, {}, {"q_proj": 3}], target_modules=["all-linear", ["q_proj", "v_proj"], ["down_proj"]],
    )  # fmt: skip
    model = any_of(gradient_checkpointing=[False, True], dtype=["float32", "float32", "bfloat16", "float16"])
    training = any_of(
        prompts_per_step=[1, 2, 5], num_samples=[3, 4, 6], micro_batch_size=[1, 7, 256], max_decode_batch=[None, 1, 5],
        learning_rate=[1e-5, 1e-3, 0.1], schedule=["constant", "cosine", "linear"], warmup_steps=[0, 1, 5],
        temperature=[0.3, 1.0, 1.7], max_new_tokens=[1, 4, 12], truncation_reward=["checker", "zero"],
        kl_weight=[0, 0.1] if loss == "rl" else [0],
        quality_baseline=["none", "leave_one_out", "leave_one_out_minus_one"],
        checkpoint_every=[1, 2, 50], gradient_share_every=[1, 25], validation_every=[1, 3], max_length=[30, 512],
        early_stopping=[None, None, {"check_every": 1, "num_prompts": 2, "num_samples": 2, "patience": 1}],
    )  # fmt: skip
    length = draw.choice([{"steps": 1}, {"steps": 3}, {"epochs": 0.3}])
    diversity = any_of(
        objective=list(OBJECTIVES), set_size=[1, 2, 3], gate=["product", "passing", "none"], num_samples=[3, 5],
        baseline=["none", "leave_one_out", "leave_one_out_minus_one", "fitted"], num_prompts=[1, 8],
        sample_every=[1, 2],
    )  # fmt: skip
    arms = {"baseline": {}, "more": {"diversity": {"weight": draw.choice([0.3, 2.0])}}}
    if draw.random() < 0.4:
        floor = draw.choice([{"mode": "share"}, {"mode": "floor", "floor_margin": 0.05}])
        arms["auto"] = {"diversity": {"weight": "auto", **floor}}
    if draw.random() < 0.2:
        arms["plain"] = {"untrained": True}
    return {
        "name": "drawn", "seeds": draw.choice([[0], [0, 1], [0, 1, 2]]), "task": task, "arms": arms,
        "model": {"source": "polychromic:arithmetic-tiny", "adapter": adapter, **model},
        "training": {"loss": loss, **training, **length}, "diversity": diversity,
        "evaluation": any_of(
            num_prompts=[2, 6], num_samples=[2, 5], max_new_tokens=[1, 6, 12], untrained=[True, False],
            tokens=["auto", "characters", "model"], embedder=[None, "hash"], sampling=SAMPLING,
        ),
        "comparison": {"if_impossible": "report", "minimum": draw.choice([None, [draw.choice(CRITERIA)]])},
        "run": {"executor": "local", "preflight": draw.random() < 0.25}, "preflight": {"minutes": 0.1},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", range(SEED, SEED + RUNS))
def test_a_run_ends_with_a_page_or_with_one_error_for_people(files, tmp_path, number):
    content = drawn(random.Random(number), files)
    try:
        experiment = Experiment.from_mapping(content)
        result = run(experiment, out=tmp_path)
    except PolychromicError as error:
        assert str(error)
        return
    page, files_there = result.folder.report.read_bytes(), sorted(tmp_path.rglob("*"))
    assert not re.search(r"\b(nan|None|inf)\b", (tmp_path / "drawn" / "report.md").read_text())
    run(experiment, out=tmp_path)
    assert sorted(tmp_path.rglob("*")) == files_there
    assert result.folder.report.read_bytes() == page
