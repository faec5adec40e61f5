"""Sampling, training, saving and plain PEFT agree on every architecture, or a sentence says why not."""

import warnings

import pytest
from tests.architectures.rows import examine
from tests.architectures.zoo import ARCHITECTURES

FEW = (
    "gemma2", "mistral", "granite, scaled", "cohere2", "gptj", "gpt_oss", "mpt", "falcon, ALiBi", "mamba", "qwen3_next",
)  # fmt: skip
"""One of each kind of past fault: eager masks, windows, scaled logits, biased heads, sinks, ALiBi, recurrent caches."""
REFUSED = {
    "bert": "is not causal",
    "electra": "is not causal",
    "roberta": "is not causal",
    "rwkv": "gradient",
}


def examined(name, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers' own code for an architecture
        return examine(name, folder, **options)


@pytest.mark.parametrize("name", FEW)
def test_what_is_sampled_is_trained_is_saved(name, tmp_path):
    row = examined(name, tmp_path)
    assert row.is_right, row


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(FEW) - set(REFUSED)))
def test_every_architecture(name, tmp_path):
    row = examined(name, tmp_path)
    assert row.is_right, row


@pytest.mark.parametrize("name", ["bert"])
def test_an_architecture_that_cannot_be_used_is_refused_by_a_sentence(name, tmp_path):
    row = examined(name, tmp_path)
    assert REFUSED[name] in row.refused
    assert "\n" not in row.refused


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"bert"}))
def test_every_refusal(name, tmp_path):
    row = examined(name, tmp_path)
    assert REFUSED[name] in row.refused
