"""Perplexity of reference answers under an arm: by hand, resumable, and in the comparison."""

import math

import pytest
import torch

from polychromic.experiment.references import read_perplexities, score_references
from polychromic.files import read_jsonl
from polychromic.models.chat import encode_pair
from polychromic.records import Prompt, as_messages

PROMPTS = [
    Prompt("p0", as_messages("1,4,6,8=24:"), ("(8-6)*(1*4)", "1+2")),
    Prompt("p1", as_messages("1,2,3,4=10:")),
    *(Prompt(f"p{i}", as_messages(f"{i},2,3,4=10:"), (f"{i}+2",)) for i in range(2, 20)),
]


def test_perplexity_is_that_of_all_reference_tokens_of_a_prompt(tiny_model, tmp_path):
    path = tmp_path / "references.jsonl"
    assert score_references(path, PROMPTS, lambda: tiny_model)
    found = read_perplexities(path)
    nats, tokens = 0.0, 0
    for reference in PROMPTS[0].references:
        example = encode_pair(tiny_model.tokenizer, PROMPTS[0], reference)
        with torch.inference_mode():
            logits = tiny_model.model(torch.tensor([example.input_ids])).logits[0].double()
        logprobs = logits[:-1].log_softmax(-1).gather(1, torch.tensor(example.input_ids[1:])[:, None])[:, 0]
        mask = torch.tensor(example.loss_mask[1:], dtype=torch.bool)
        nats -= float(logprobs[mask].sum())
        tokens += int(mask.sum())
    assert found["p0"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert set(found) == {prompt.id for prompt in PROMPTS if prompt.references}


def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(tiny_model, tmp_path):
    path = tmp_path / "references.jsonl"
    score_references(path, PROMPTS, lambda: tiny_model)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert score_references(path, PROMPTS, lambda: tiny_model)
    assert path.read_bytes() == whole


def test_nothing_left_to_do_loads_no_model(tiny_model, tmp_path):
    def no_model():
        raise AssertionError("nothing is left to score")

    path = tmp_path / "references.jsonl"
    assert not score_references(path, PROMPTS[1:2], no_model)
    score_references(path, PROMPTS, lambda: tiny_model)
    assert not score_references(path, PROMPTS, no_model)
    assert len(read_jsonl(path)) == 19
