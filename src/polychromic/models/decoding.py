"""Tokens from the model, one after another: one prefill a prompt for all its copies; finished rows leave the batch.

Each token is drawn by inverting the cumulative distribution at a uniform number fixed beforehand, so what one row draws
does not depend on which rows share its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from polychromic.models.adapters import merged_adapter
from polychromic.models.loading import LanguageModel
from polychromic.records import SamplingParameters

# Below this share of unfinished rows the batch is repacked; repacking copies the cache, so not after every row.
_REPACK_BELOW = 0.75

DrawTokens = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(logits [B, V], the rows' numbers [B], step) → one token per row [B]."""


@dataclass(slots=True)
class DecodedRow:
    """Tokens with the log-probability of each under the tempered policy; the last is a stop token if one was drawn."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@contextmanager
def decoding(language_model: LanguageModel) -> Iterator[None]:
    """Makes the model ready to decode within the block: with its adapter folded in where its path says so."""
    with torch.inference_mode():
        if language_model.path.decoding == "merged":
            with merged_adapter(language_model.model):
                yield
        else:
            yield


def decode_samples(
    language_model: LanguageModel,
    encoded: Sequence[Sequence[int]],
    n: int,
    parameters: SamplingParameters,
    uniforms_BT: torch.Tensor,
    stop_ids: frozenset[int] | None = None,
) -> list[DecodedRow]:
    """Draws n rows for each of P encoded prompts at `uniforms_BT` [P·n, max_new_tokens] in [0, 1).

    Each ends with a stop token (the model's, unless `stop_ids` are others) or at the length limit. Call within
    `decoding`.
    """
    stop_ids = language_model.stop_ids if stop_ids is None else stop_ids

    def draw(logits_BV: torch.Tensor, rows_B: torch.Tensor, step: int) -> torch.Tensor:
        return draw_tokens(logits_BV, parameters, uniforms_BT[rows_B, step])

    return decode_rows(
        language_model, encoded, n, draw, parameters.max_new_tokens, stop_ids, temperature=parameters.temperature
    )


def decode_rows(
    language_model: LanguageModel,
    encoded: Sequence[Sequence[int]],
    n: int,
    draw: DrawTokens,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    *,
    temperature: float = 1.0,
) -> list[DecodedRow]:
    """Decodes n rows for each encoded prompt, in order, in the way of `language_model.path.decoding`."""
    together = language_model.path.decoding in ("merged", "unmerged")
    # Copies of one prompt need no padding, which not every architecture can leave out of account.
    batches = [encoded] if together else [[prompt] for prompt in encoded]
    drawn: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for number, batch in enumerate(batches):
        state = _Decoding(language_model, batch, n, first_row=number * n)
        stop_tensor = torch.tensor(sorted(stop_ids), device=state.rows_B.device)
        for step in range(max_new_tokens):
            tokens_B = draw(state.logits_BV, state.rows_B, step)
            drawn.append((state.rows_B, tokens_B, _logprobs(state.logits_BV, tokens_B, temperature)))
            going_B = ~torch.isin(tokens_B, stop_tensor)
            n_going = int(going_B.sum())
            if n_going == 0 or step + 1 == max_new_tokens:
                break
            state.advance(tokens_B, going_B, n_going)
    return _collect_rows(drawn, len(encoded) * n, stop_ids)


def _collect_rows(
    drawn: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], n_rows: int, stop_ids: frozenset[int]
) -> list[DecodedRow]:
    """Returns the tokens and log-probabilities by row, cut after the first stop token (finished rows decode on until
    they are repacked)."""
    rows = [DecodedRow() for _ in range(n_rows)]
    for indices, tokens, logprobs in drawn:
        for index, token, logprob in zip(indices.tolist(), tokens.tolist(), logprobs.tolist(), strict=True):
            row = rows[index]
            if not row.token_ids or row.token_ids[-1] not in stop_ids:
                row.token_ids.append(token)
                row.logprobs.append(logprob)
    return rows


class _Decoding:
    """Rows that are being decoded: the logits of their next tokens, and what the model remembers of them."""

    def __init__(self, language_model: LanguageModel, encoded: Sequence[Sequence[int]], n: int, first_row: int) -> None:
        self.language_model = language_model
        self.kind = language_model.path.decoding
        self._accepts = inspect.signature(language_model.causal_model.forward).parameters
        self._cache_name = "past_key_values"
        self._cache: Any = None
        device = language_model.device
        longest, pad = max(map(len, encoded)), language_model.pad_id
        self.ids_BT = torch.tensor([[pad] * (longest - len(ids)) + list(ids) for ids in encoded], device=device)
        self.mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in encoded], device=device)
        copies = torch.arange(len(encoded), device=device).repeat_interleave(n)
        self.rows_B = first_row + torch.arange(len(copies), device=device)
        if self.kind in ("merged", "unmerged"):  # each prompt is read once, then copied
            self.logits_BV = self._forward(self.ids_BT)[copies]
            self._keep(copies)
        else:
            self._keep(copies)
            self.logits_BV = self._forward(self.ids_BT)

    def advance(self, tokens_B: torch.Tensor, going_B: torch.Tensor, n_going: int) -> None:
        """Appends a token to each row and computes the logits of the next; rows that have ended leave now and then."""
        if n_going < _REPACK_BELOW * len(going_B) and self.kind != "by_prompt":
            kept = going_B.nonzero()[:, 0]
            tokens_B = tokens_B[kept]
            self._keep(kept)
            self.rows_B = self.rows_B[kept]
        self.mask_BT = torch.nn.functional.pad(self.mask_BT, (0, 1), value=1)
        if self.kind == "uncached":
            self.ids_BT = torch.cat([self.ids_BT, tokens_B[:, None]], dim=1)
            self.logits_BV = self._forward(self.ids_BT)
        else:
            self.logits_BV = self._forward(tokens_B[:, None])

    def _keep(self, rows: torch.Tensor) -> None:
        """Takes these rows, which may name one several times."""
        self.ids_BT, self.mask_BT = self.ids_BT[rows], self.mask_BT[rows]
        if self._cache is not None:
            # Unlike its other methods, this one is there for attention, convolutions and recurrent states.
            self._cache.reorder_cache(rows)

    def _forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Returns the logits of the token after the last, [B, V] in float32."""
        inputs: dict[str, Any] = {"input_ids": ids_BT}
        recurrent = self._cache is not None and self._cache_name == "cache_params"
        if not recurrent:  # a recurrent state has taken the padding into account already
            inputs["attention_mask"] = self.mask_BT
        if "position_ids" in self._accepts:
            positions_BT = (self.mask_BT.cumsum(dim=1) - 1).clamp(min=0)
            inputs["position_ids"] = positions_BT[:, -ids_BT.shape[1] :]
        if "logits_to_keep" in self._accepts:
            inputs["logits_to_keep"] = 1
        if self.kind == "uncached":
            inputs["use_cache"] = False
            return self.language_model.model(**inputs).logits[:, -1].float()
        if self._cache is not None:
            inputs[self._cache_name] = self._cache
        output = self.language_model.model(**inputs, use_cache=True)
        # The model makes the cache that fits it: of keys and values, of recurrent states, or of both.
        self._cache_name = "cache_params" if "cache_params" in self._accepts else "past_key_values"
        self._cache = getattr(output, self._cache_name)
        return output.logits[:, -1].float()


def draw_tokens(logits_BV: torch.Tensor, parameters: SamplingParameters, uniforms_B: torch.Tensor) -> torch.Tensor:
    """Draws one token per row by inverse transform sampling at `uniforms_B` in [0, 1).

    Temperature first, then min-p (Nguyen et al., 2024, arXiv:2407.01082) and nucleus (Holtzman et al., 2019,
    arXiv:1904.09751) filters on the tempered distribution, as Hugging Face and vLLM order them.
    """
    probabilities_BV = torch.softmax(logits_BV / parameters.temperature, dim=-1)
    if parameters.min_p > 0.0:
        floor_B1 = parameters.min_p * probabilities_BV.amax(dim=-1, keepdim=True)
        probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < floor_B1, 0.0)
    if parameters.top_p < 1.0:
        probabilities_BV = _keep_nucleus(probabilities_BV, parameters.top_p)
    cumulative_BV = probabilities_BV.cumsum(dim=-1, dtype=torch.float64)
    thresholds_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
    # right=True skips tokens of probability zero; the clamp guards the last bin against rounding.
    tokens_B = torch.searchsorted(cumulative_BV, thresholds_B1, right=True)[:, 0]
    return tokens_B.clamp(max=logits_BV.shape[-1] - 1)


def _keep_nucleus(probabilities_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zeroes all but the smallest set of tokens whose probability reaches top_p."""
    ordered_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
    before_BV = ordered_BV.cumsum(dim=-1) - ordered_BV
    total_B1 = ordered_BV.sum(dim=-1, keepdim=True)
    ordered_BV = ordered_BV.masked_fill(before_BV >= top_p * total_B1, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, order_BV, ordered_BV)


def _logprobs(logits_BV: torch.Tensor, tokens_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns the log-probability [B] of the drawn tokens under the tempered policy, whose tail is whole."""
    tempered_BV = logits_BV / temperature
    return tempered_BV.gather(1, tokens_B[:, None])[:, 0] - tempered_BV.logsumexp(dim=1)
