"""The tree of shared prefixes draws for every answer the tokens that the local engine draws for it alone."""

import importlib.util
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from polychromic.models.decoding import draw_tokens
from polychromic.records import SamplingParameters

spec = importlib.util.spec_from_file_location("prefix_tree", "benchmarks/prefix_tree.py")
prefix_tree = importlib.util.module_from_spec(spec)
sys.modules["prefix_tree"] = prefix_tree
spec.loader.exec_module(prefix_tree)

STOP, LENGTH = 7, 40
PROMPTS = ([3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9])


@pytest.fixture(scope="module")
def llama():
    config = LlamaConfig(
        vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(6.0)  # far from uniform, so that answers share prefixes
    return model


def drawn(temperatures, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        prefix_tree.Answer(t, torch.rand(LENGTH, dtype=torch.float64, generator=generator))
        for t in temperatures
        for _ in range(6)
    ]


def alone(model, prompt, answer):
    """Returns the tokens of one answer, the model reading the whole sequence for each."""
    token_ids = []
    while len(token_ids) < LENGTH and STOP not in token_ids:
        logits = model(torch.tensor([prompt + token_ids])).logits[:, -1]
        parameters = SamplingParameters(temperature=answer.temperature)
        token_ids += draw_tokens(logits, parameters, answer.uniforms_T[len(token_ids)][None]).tolist()
    return token_ids


@pytest.mark.parametrize("nodes_at_once", [1, 4, 100])
def test_answers_are_those_that_each_would_be_alone(llama, nodes_at_once):
    answers = [drawn([0.3, 1.0], seed) for seed in range(3)]
    with torch.inference_mode():
        trees = list(
            prefix_tree.sample_trees(
                llama, zip(PROMPTS, answers, strict=True), LENGTH, lambda ids: ids[-1] == STOP, nodes_at_once
            )
        )
        expected = [
            [alone(llama, prompt, answer) for answer in group] for prompt, group in zip(PROMPTS, answers, strict=True)
        ]
    assert sorted(map(id, (tree.answers[0] for tree in trees))) == sorted(id(group[0]) for group in answers)
    assert [[answer.token_ids for answer in group] for group in answers] == expected
    assert [[answer.ended for answer in group] for group in answers] == [
        [ids[-1] == STOP for ids in group] for group in expected
    ]
    lengths = [len(ids) for group in expected for ids in group]
    assert min(lengths) < LENGTH == max(lengths)


def test_a_shared_prefix_is_read_once(llama):
    answers = drawn([0.001], seed=0)
    with torch.inference_mode():
        (tree,) = prefix_tree.sample_trees(llama, [(PROMPTS[0], answers)], 12, lambda ids: False)
    assert len({tuple(answer.token_ids) for answer in answers}) == 1
    assert tree.n_read == 11  # the prompt gives the first token; the last is not read
