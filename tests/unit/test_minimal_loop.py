"""The example for other people's trainers runs as it stands and computes the log-probabilities it claims."""

import importlib.util
from pathlib import Path

import pytest
import torch

spec = importlib.util.spec_from_file_location("minimal_loop", Path("examples/minimal_loop.py"))
minimal_loop = importlib.util.module_from_spec(spec)
spec.loader.exec_module(minimal_loop)


def test_it_trains_and_prints_both_ends(capsys):
    minimal_loop.main(["--steps", "2", "--evaluated", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("before: pass@1 0.")
    assert lines[-1].startswith("after:  pass@1 0.")


def test_it_is_as_long_as_the_pages_say():
    """Two pages and its own first line say about a hundred lines."""
    assert 80 <= len(Path("examples/minimal_loop.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_padding_and_what_follows_the_end_count_for_nothing():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minimal_loop.MODEL)
    model = AutoModelForCausalLM.from_pretrained(minimal_loop.MODEL).eval()
    prompts = minimal_loop.TASK.prompts("train")[:6]  # of different lengths
    torch.manual_seed(0)
    ids, start = minimal_loop.sample(model, tokenizer, prompts, 2)
    with torch.no_grad():
        together = minimal_loop.answer_logprobs(model, tokenizer, ids, start)
        for row, expected in zip(ids, together, strict=True):
            alone = row[row != tokenizer.pad_token_id]
            n_prompt = int((row[:start] != tokenizer.pad_token_id).sum())
            logprobs = model(input_ids=alone[None]).logits[0, :-1].log_softmax(-1)
            each = logprobs.gather(-1, alone[1:, None])[:, 0]
            assert float(each[n_prompt - 1 :].sum()) == pytest.approx(float(expected), abs=1e-4)
