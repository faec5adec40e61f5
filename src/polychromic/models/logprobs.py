"""The log-probability of every answer token under the model, with gradient: packed where possible, plain where not.

Packed: the answers to one prompt stand behind it in one row. A mask keeps them from seeing each other and positions
start again after the prompt, so every answer's log-probabilities are those of prompt + answer alone, while the
prompt's tokens (most of the work, with short answers) are computed once for the group and not once for each member.

Not every architecture can do that. `ForwardPath` names the plainer ways; `models.selfcheck` chooses the fastest one
that agrees with a plain forward pass on the model at hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from polychromic.models.loading import LanguageModel
from polychromic.objective.losses import LOGITS_AT_ONCE, chunked_token_logprobs

_PAD_SEGMENT = -1
_PROMPT_SEGMENT = 0
_MASKS_OF_FUNCTIONS = ("sdpa", "eager", "flex_attention")
"""Attention implementations whose masks follow a function of two positions; flash attention's do not."""


class UnsupportedPathError(RuntimeError):
    """A model that cannot be computed in the way asked for; a plainer one may do."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens of a prompt and its answer; the answer starts at `n_prompt` and includes the end token."""

    token_ids: tuple[int, ...]
    n_prompt: int

    @property
    def n_answer(self) -> int:
        """Returns the tokens in the loss."""
        return len(self.token_ids) - self.n_prompt

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Returns the tokens of the prompt."""
        return self.token_ids[: self.n_prompt]

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Returns the tokens of the answer."""
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
    """Yields the indices of `sequences` in batches of at most `size`; one prompt's stay together, and long ones."""
    order = sorted(range(len(sequences)), key=lambda index: (sequences[index].n_prompt, sequences[index].prompt_ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def answer_logprobs(
    language_model: LanguageModel, sequences: Sequence[TokenSequence], *, temperature: float = 1.0
) -> AnswerLogprobs:
    """Computes the log-probability of each answer token under the model at `temperature`, with gradient.

    The way is `language_model.path`'s; where it is packed, consecutive sequences with the same prompt share its
    computation. Raises UnsupportedPathError where the model cannot be computed that way.
    """
    layout, device = language_model.path.layout, language_model.device
    if layout == "packed":
        rows = [pack(list(members)) for _, members in groupby(sequences, key=lambda member: member.prompt_ids)]
    else:
        rows = [pack([sequence]) for sequence in sequences]
    batches = [[row] for row in rows] if layout == "single" else [rows]
    logprobs_M = torch.cat([_row_logprobs(language_model, batch, temperature) for batch in batches])
    longest = max(sequence.n_answer for sequence in sequences)
    mask_BT = _padded([[1] * sequence.n_answer for sequence in sequences], longest, device)
    logprobs_BT = logprobs_M.new_zeros(mask_BT.shape).masked_scatter(mask_BT.bool(), logprobs_M)
    return AnswerLogprobs(logprobs_BT, mask_BT.float())


def plain_logprobs(language_model: LanguageModel, sequence: TokenSequence, *, temperature: float = 1.0) -> torch.Tensor:
    """Computes [T]: log-probability of each answer token by a plain `model(input_ids, attention_mask)` of it alone.

    Every other path is compared with this. With gradient.
    """
    input_ids = torch.tensor([sequence.token_ids], device=language_model.device)
    logits_SV = language_model.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits[0]
    answer_MV = logits_SV[sequence.n_prompt - 1 : -1]
    return token_logprobs(answer_MV, input_ids[0, sequence.n_prompt :], temperature)


def token_logprobs(logits_MV: torch.Tensor, targets_M: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Computes [M], at least float32: log softmax(logits / temperature) at the targets."""
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)) / temperature
    return logits_MV.gather(-1, targets_M[:, None])[:, 0] - logits_MV.logsumexp(dim=-1)


def pack(members: Sequence[TokenSequence]) -> PackedRow:
    """Packs the row of sequences that share their prompt."""
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


def _row_logprobs(language_model: LanguageModel, rows: Sequence[PackedRow], temperature: float) -> torch.Tensor:
    """Computes [M]: the answer tokens of all rows one after another."""
    device = language_model.device
    # Only real answer tokens meet the output head: with a large vocabulary it is most of the work.
    row_of_M = [number for number, row in enumerate(rows) for answer in row.predictors for _ in answer]
    predictor_of_M = [position for row in rows for answer in row.predictors for position in answer]
    targets_M = torch.tensor(_answer_tokens(rows), device=device)
    head = language_model.path.head
    if head == "whole":
        logits_RSV = language_model.model(**_plain_inputs(language_model, rows)).logits
        return token_logprobs(logits_RSV[row_of_M, predictor_of_M], targets_M, temperature)
    output = _decoder_output(language_model, rows)
    hidden_MD = output.last_hidden_state[row_of_M, predictor_of_M]
    if head == "product":
        weight_VD = _plain_head_weight(language_model)
        return chunked_token_logprobs(hidden_MD[None], weight_VD, targets_M[None], temperature=temperature)[0]
    return _own_head_logprobs(language_model, output, hidden_MD, targets_M, temperature)


def _answer_tokens(rows: Sequence[PackedRow]) -> list[int]:
    return [
        token
        for row in rows
        for token, segment in zip(row.token_ids, row.segments, strict=True)
        if segment != _PROMPT_SEGMENT
    ]


def _plain_inputs(language_model: LanguageModel, rows: Sequence[PackedRow]) -> dict[str, torch.Tensor]:
    """Returns token ids and mask, padded on the right, where no token that counts can see the padding."""
    longest, device = max(len(row.token_ids) for row in rows), language_model.device
    return {
        "input_ids": _padded([row.token_ids for row in rows], longest, device, language_model.pad_id),
        "attention_mask": _padded([[1] * len(row.token_ids) for row in rows], longest, device),
    }


def _decoder_output(language_model: LanguageModel, rows: Sequence[PackedRow]) -> Any:
    """Runs the decoder on the rows, without logits: those are made for answer tokens only."""
    decoder = language_model.decoder
    inputs = _plain_inputs(language_model, rows)
    if language_model.path.layout != "packed":
        return decoder(**inputs, use_cache=False)
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        raise UnsupportedPathError("its decoder takes no positions, so that answers cannot share a prompt's row")
    longest, device = inputs["input_ids"].shape[1], language_model.device
    segments_RS = _padded([row.segments for row in rows], longest, device, _PAD_SEGMENT)
    positions_RS = _padded([row.positions for row in rows], longest, device)
    # Without a mask transformers would take a row for independent sequences, and hide the prompt from the answers.
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with _answers_apart(decoder.config, segments_RS, positions_RS):
        return decoder(**inputs, position_ids=positions_RS, use_cache=False)


@contextmanager
def _answers_apart(config: Any, segments_RS: torch.Tensor, positions_RS: torch.Tensor) -> Iterator[None]:
    """Makes the masks of a model also keep the answers of a row apart, within the block.

    A model asks transformers for one mask per kind of its layers (full, sliding window, chunked), in the form of its
    attention implementation. Each is a function of two indices; here it is asked at the tokens' positions instead,
    and only for tokens of the same answer or of the prompt. So windows and chunks are the model's own.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

    implementation = config._attn_implementation  # transformers has no public name for it
    if implementation not in _MASKS_OF_FUNCTIONS:
        raise UnsupportedPathError(f"attention {implementation!r} takes no masks that keep answers apart")
    make_mask: Callable[..., Any] = ALL_MASK_ATTENTION_FUNCTIONS[implementation]

    def make_packed_mask(*args: Any, mask_function: Any = causal_mask_function, **options: Any) -> Any:
        def may_look(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
            key_segment = segments_RS[batch, key]
            together = (segments_RS[batch, query] == key_segment) | (key_segment == _PROMPT_SEGMENT)
            return together & mask_function(batch, head, positions_RS[batch, query], positions_RS[batch, key])

        return make_mask(*args, mask_function=may_look, **options | {"allow_is_causal_skip": False})

    ALL_MASK_ATTENTION_FUNCTIONS[implementation] = make_packed_mask
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS[implementation] = make_mask


def _plain_head_weight(language_model: LanguageModel) -> torch.Tensor:
    """Returns [V, D] of an output head that is a matrix and nothing else."""
    head = language_model.causal_model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        raise UnsupportedPathError(f"its output head is a {type(head).__name__}, not a plain matrix")
    return head.weight


def head_disagreement(language_model: LanguageModel, sequence: TokenSequence) -> float:
    """Returns the largest difference between the logits of the output matrix alone and those of all that the model
    applies after its decoder, relative to the largest logit, which is brought to 30: capped logits show only where they
    are large.

    Raises UnsupportedPathError where the head is more than a matrix.
    """
    weight_VD = _plain_head_weight(language_model)
    input_ids = torch.tensor([sequence.token_ids], device=language_model.device)
    output = language_model.decoder(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False)
    hidden_MD = output.last_hidden_state[0].to(weight_VD.dtype)
    hidden_MD = hidden_MD * (30.0 / (hidden_MD @ weight_VD.T).abs().max())
    own_MV = _own_logits(language_model, output, hidden_MD).float()
    product_MV = (hidden_MD @ weight_VD.T).float()
    return float((own_MV - product_MV).abs().max() / own_MV.abs().max())


def _own_head_logprobs(
    language_model: LanguageModel, output: Any, hidden_MD: torch.Tensor, targets_M: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Computes [M]: through whatever the model applies after its decoder, logits of a part of the tokens at a time.

    The parts but one are computed again in the backward pass, so that [M, V] never exists whole.
    """
    vocabulary = language_model.causal_model.get_output_embeddings().weight.shape[0]
    chunk = max(1, LOGITS_AT_ONCE // vocabulary)

    def part_logprobs(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return token_logprobs(_own_logits(language_model, output, hidden), targets, temperature)

    if len(hidden_MD) <= chunk:
        return part_logprobs(hidden_MD, targets_M)
    parts = zip(hidden_MD.split(chunk), targets_M.split(chunk), strict=True)
    return torch.cat([checkpoint(part_logprobs, *part, use_reentrant=False) for part in parts])  # type: ignore[misc]


def _own_logits(language_model: LanguageModel, output: Any, hidden_MD: torch.Tensor) -> torch.Tensor:
    """Computes [M, V]: the model's own forward, its decoder answering with the given hidden states."""
    causal, decoder = language_model.causal_model, language_model.decoder
    answer = type(output)(**{**output, "last_hidden_state": hidden_MD[None]})
    replaced = decoder.__dict__.get("forward")  # there where a library has wrapped the module
    decoder.forward = lambda *_, **__: answer
    try:
        ids_1M = torch.zeros(1, len(hidden_MD), dtype=torch.long, device=hidden_MD.device)
        return causal(input_ids=ids_1M, attention_mask=torch.ones_like(ids_1M)).logits[0]
    finally:
        if replaced is None:
            del decoder.forward
        else:
            decoder.forward = replaced


def _padded(rows: Sequence[Sequence[int]], length: int, device: torch.device, fill: int = 0) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], device=device)
