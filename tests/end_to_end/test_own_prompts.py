"""A run on one's own prompts with references: lengths said, perplexity of references measured, chat demanded."""

import json
import logging
import math

import pytest

from polychromic import Experiment, run
from polychromic.errors import ModelError

PROMPTS = 12


@pytest.fixture
def experiment_file(tmp_path):
    for split, first in (("train", 0), ("validation", 40), ("test", 60)):
        rows = [
            {
                "id": f"{split}-{i}",
                "prompt": f"{i % 9 + 1},{i // 9 + 2},3,4=24:",
                "references": [f"{i % 9 + 1}*2*3*4"],
            }
            for i in range(first, first + PROMPTS)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.yaml").write_text(
        "name: own\n"
        "task: {name: custom, train: train.jsonl, validation: validation.jsonl, test: test.jsonl,"
        " checker: contains, embedder: hash}\n"
        "model: {source: 'polychromic:arithmetic-tiny', adapter: {rank: 4, alpha: 8}}\n"
        "training: {loss: sft, steps: 12, prompts_per_step: 8, max_new_tokens: 8, learning_rate: 1.0e-2}\n"
        "arms: {baseline: {untrained: true}, taught: {}}\n"
        f"evaluation: {{num_prompts: {PROMPTS}, num_samples: 4, max_new_tokens: 8}}\n"
        "comparison: {minimum: [{metric: reference_perplexity, direction: lower, relative_change: 0.0}]}\n"
        "run: {preflight: false}\n"
    )
    return tmp_path / "own.yaml"


def test_references_are_scored_under_every_arm_and_lengths_are_said(experiment_file, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)  # as --verbose does
    result = run(experiment_file, out=tmp_path)
    said = capsys.readouterr().out
    assert "training prompts: 11 to 11 tokens" in said
    assert "references: 8 to 8 tokens (median 8, 95 % up to 8); 0 of 12 over 8" in said
    before, after = (result.comparison.mean(arm, "reference_perplexity") for arm in ("baseline", "taught"))
    assert before.n_prompts == PROMPTS
    assert after.mean < before.mean
    rows = (result.folder.root / "taught" / "seed-0" / "references.jsonl").read_text().splitlines()
    perplexities = [math.exp(row["cross_entropy"] / row["n_tokens"]) for row in map(json.loads, rows)]
    assert after.mean == pytest.approx(sum(perplexities) / PROMPTS)
    assert result.comparison.checker.controls["references"].pass_rate == 1.0


def test_a_verbalised_arm_of_a_model_without_chat_is_refused_before_anything_is_trained(experiment_file, tmp_path):
    content = Experiment.from_file(experiment_file).model_dump(mode="json")
    arms = content["arms"] | {"asked": {"untrained": True, "verbalized": 4}}
    experiment = Experiment.from_mapping(content | {"arms": arms})
    with pytest.raises(ModelError, match="this model has no chat template"):
        run(experiment, out=tmp_path)
    assert not list((tmp_path / "own").rglob("adapter"))
