"""Token sequences under the model: batches of prompt + answer, and the log-probability of every answer token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from polychromic.models.loading import LanguageModel
from polychromic.objective.losses import chunked_token_logprobs


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens of a prompt and its answer; the answer starts at `n_prompt` and includes the end token."""

    token_ids: tuple[int, ...]
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """Tokens in the loss."""
        return len(self.token_ids) - self.n_prompt


@dataclass(frozen=True, slots=True)
class AnswerLogprobs:
    """Log-probabilities of the answer tokens of B sequences, padded to the longest answer: [B, T] with a 0/1 mask."""

    logprobs_BT: torch.Tensor
    mask_BT: torch.Tensor


def micro_batches(sequences: Sequence[TokenSequence], size: int) -> Iterator[list[int]]:
    """Indices of `sequences` in groups of at most `size`, sorted by length so that little padding is computed."""
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].token_ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def answer_logprobs(
    language_model: LanguageModel, sequences: Sequence[TokenSequence], *, temperature: float = 1.0
) -> AnswerLogprobs:
    """Log-probability of each answer token under the model at `temperature`, with gradient."""
    input_ids_BS, attention_BS = _pad(language_model, sequences)
    hidden_BSD = decoder_of(language_model)(
        input_ids=input_ids_BS, attention_mask=attention_BS, use_cache=False
    ).last_hidden_state
    targets_BT, positions_BT, mask_BT = _answer_positions(sequences, input_ids_BS.device)
    rows_B1 = torch.arange(len(sequences), device=input_ids_BS.device)[:, None]
    hidden_BTD = hidden_BSD[rows_B1, positions_BT]
    head = language_model.model.get_output_embeddings()
    logprobs_BT = chunked_token_logprobs(hidden_BTD, head.weight, targets_BT, temperature=temperature)
    return AnswerLogprobs(logprobs_BT, mask_BT)


def decoder_of(language_model: LanguageModel) -> torch.nn.Module:
    """The transformer without its output head, so that logits are only made for answer tokens."""
    model = language_model.model
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return causal.get_decoder()


def _pad(language_model: LanguageModel, sequences: Sequence[TokenSequence]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(sequence.token_ids) for sequence in sequences)
    pad = language_model.pad_id
    device = language_model.device
    ids = [list(row.token_ids) + [pad] * (longest - len(row.token_ids)) for row in sequences]
    mask = [[1] * len(row.token_ids) + [0] * (longest - len(row.token_ids)) for row in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _answer_positions(
    sequences: Sequence[TokenSequence], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Answer tokens, the positions whose hidden states predict them, and which of them are real; each [B, T]."""
    longest = max(sequence.n_answer for sequence in sequences)
    targets = [
        list(row.token_ids[row.n_prompt :]) + [0] * (longest - row.n_answer) for row in sequences
    ]
    positions = [
        [min(row.n_prompt - 1 + offset, len(row.token_ids) - 1) for offset in range(longest)] for row in sequences
    ]
    mask = [[1.0] * row.n_answer + [0.0] * (longest - row.n_answer) for row in sequences]
    return (
        torch.tensor(targets, device=device),
        torch.tensor(positions, device=device),
        torch.tensor(mask, device=device),
    )
