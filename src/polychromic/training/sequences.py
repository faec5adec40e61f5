"""Token sequences under the model: the log-probability of every answer token, with each prompt computed once.

The answers to one prompt stand behind it in one row. A mask keeps them from seeing each other and positions start
again after the prompt, so every answer's log-probabilities are those of prompt + answer alone, while the prompt's
tokens (most of the work, with short answers) are computed once for the group and not once for each member.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from polychromic.models.loading import LanguageModel
from polychromic.objective.losses import chunked_token_logprobs

_PAD_SEGMENT = -1
_PROMPT_SEGMENT = 0


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens of a prompt and its answer; the answer starts at `n_prompt` and includes the end token."""

    token_ids: tuple[int, ...]
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """Tokens in the loss."""
        return len(self.token_ids) - self.n_prompt

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Tokens of the prompt."""
        return self.token_ids[: self.n_prompt]

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Tokens of the answer."""
        return self.token_ids[self.n_prompt :]


@dataclass(frozen=True, slots=True)
class AnswerLogprobs:
    """Log-probabilities of the answer tokens of B sequences, padded to the longest answer: [B, T] with a 0/1 mask."""

    logprobs_BT: torch.Tensor
    mask_BT: torch.Tensor


@dataclass(slots=True)
class PackedRow:
    """One prompt with its answers behind it. `segments` number them; `predictors` are, for each answer, the
    positions in the row whose hidden states predict its tokens."""

    token_ids: list[int]
    positions: list[int]
    segments: list[int]
    predictors: list[list[int]]


def micro_batches(sequences: Sequence[TokenSequence], size: int) -> Iterator[list[int]]:
    """Indices of `sequences` in batches of at most `size`; those of one prompt stay together, long ones too."""
    order = sorted(
        range(len(sequences)), key=lambda index: (sequences[index].n_prompt, sequences[index].prompt_ids)
    )
    for start in range(0, len(order), size):
        yield order[start : start + size]


def answer_logprobs(
    language_model: LanguageModel, sequences: Sequence[TokenSequence], *, temperature: float = 1.0
) -> AnswerLogprobs:
    """Log-probability of each answer token under the model at `temperature`, with gradient.

    Consecutive sequences with the same prompt share its computation.
    """
    device = language_model.device
    rows = [pack(list(members)) for _, members in groupby(sequences, key=lambda one: one.prompt_ids)]
    hidden_RSD = _hidden_states(language_model, rows)
    # Only real answer tokens meet the output head: with a large vocabulary it is most of the work. [1, M] each.
    row_of_M = [number for number, row in enumerate(rows) for one in row.predictors for _ in one]
    predictor_of_M = [position for row in rows for one in row.predictors for position in one]
    targets_1M = torch.tensor([[token for one in sequences for token in one.answer_ids]], device=device)
    head: Any = language_model.model.get_output_embeddings()
    logprobs_1M = chunked_token_logprobs(
        hidden_RSD[row_of_M, predictor_of_M][None], head.weight, targets_1M, temperature=temperature
    )
    longest = max(sequence.n_answer for sequence in sequences)
    mask_BT = _padded([[1] * sequence.n_answer for sequence in sequences], longest, device)
    logprobs_BT = logprobs_1M.new_zeros(mask_BT.shape).masked_scatter(mask_BT.bool(), logprobs_1M)
    return AnswerLogprobs(logprobs_BT, mask_BT.float())


def pack(members: Sequence[TokenSequence]) -> PackedRow:
    """The row of sequences that share their prompt."""
    prompt = members[0].prompt_ids
    n = len(prompt)
    row = PackedRow(list(prompt), list(range(n)), [_PROMPT_SEGMENT] * n, [])
    for segment, member in enumerate(members, start=1):
        start, answer = len(row.token_ids), member.answer_ids
        row.token_ids += answer
        row.positions += range(n, n + len(answer))
        row.segments += [segment] * len(answer)
        # The prompt's last token predicts the answer's first.
        row.predictors.append([n - 1, *range(start, start + len(answer) - 1)])
    return row


def attention_mask(segments_RS: torch.Tensor) -> torch.Tensor:
    """[R, 1, S, S], True where a query may look at a key: not ahead, and only at the prompt and its own answer."""
    length = segments_RS.shape[1]
    causal_SS = torch.ones(length, length, dtype=torch.bool, device=segments_RS.device).tril()
    same_RSS = segments_RS[:, :, None] == segments_RS[:, None, :]
    prompt_RSS = (segments_RS == _PROMPT_SEGMENT)[:, None, :]
    # Padding looks at itself (its segment), so that no row of the softmax is empty.
    return (causal_SS & (same_RSS | prompt_RSS))[:, None]


def _hidden_states(language_model: LanguageModel, rows: Sequence[PackedRow]) -> torch.Tensor:
    """Last hidden states [R, S, D] of packed rows, without logits: those are made for answer tokens only."""
    device = language_model.device
    longest = max(len(row.token_ids) for row in rows)
    model: Any = language_model.model
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return (
        causal.get_decoder()(
            input_ids=_padded([row.token_ids for row in rows], longest, device, language_model.pad_id),
            position_ids=_padded([row.positions for row in rows], longest, device),
            attention_mask=attention_mask(
                _padded([row.segments for row in rows], longest, device, _PAD_SEGMENT)
            ),
            use_cache=False,
        )
    ).last_hidden_state


def _padded(rows: Sequence[Sequence[int]], length: int, device: torch.device, fill: int = 0) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], device=device)
