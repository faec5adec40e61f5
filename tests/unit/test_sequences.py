"""Packed groups: every answer's log-probabilities are those of prompt + answer alone, and so are the gradients."""

from itertools import pairwise

import pytest
import torch

from polychromic.models.logprobs import TokenSequence, answer_logprobs, micro_batches

LENGTHS = [(5, 3), (5, 1), (5, 7), (9, 4), (2, 2), (2, 6)]


@pytest.fixture
def sequences():
    generator = torch.Generator().manual_seed(0)
    prompts = {n: torch.randint(3, 22, (n,), generator=generator).tolist() for n, _ in LENGTHS}
    return [
        TokenSequence((*prompts[n], *torch.randint(3, 22, (t,), generator=generator).tolist()), n) for n, t in LENGTHS
    ]


def plain_logprobs(language_model, sequence, temperature):
    ids = torch.tensor([sequence.token_ids])
    logits = language_model.model(input_ids=ids).logits[0, sequence.n_prompt - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, ids[0, sequence.n_prompt :, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packing_changes_no_log_probability(tiny_model, sequences, temperature):
    answers = answer_logprobs(tiny_model, sequences, temperature=temperature)
    for row, sequence in enumerate(sequences):
        found = answers.logprobs_BT[row][answers.mask_BT[row].bool()]
        torch.testing.assert_close(found, plain_logprobs(tiny_model, sequence, temperature), atol=1e-5, rtol=1e-5)


def test_packing_changes_no_gradient(tiny_model, sequences):
    weights = torch.linspace(-1, 1, len(sequences))
    parameters = [p for p in tiny_model.model.parameters() if p.requires_grad]
    answers = answer_logprobs(tiny_model, sequences)
    packed = torch.autograd.grad((answers.logprobs_BT * answers.mask_BT).sum(1) @ weights, parameters)
    total = sum(w * plain_logprobs(tiny_model, one, 1.0).sum() for w, one in zip(weights, sequences, strict=True))
    plain = torch.autograd.grad(total, parameters)
    for one, other in zip(packed, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_micro_batches_hold_every_sequence_once_and_keep_prompts_together(sequences):
    shuffled = [sequences[index] for index in (3, 0, 5, 1, 4, 2)]
    batches = list(micro_batches(shuffled, 3))
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    order = [shuffled[index].prompt_ids for batch in batches for index in batch]
    assert sum(one != other for one, other in pairwise(order)) == 2
