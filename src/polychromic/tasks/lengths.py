"""How many tokens prompts and references have, and how many are over a limit: nothing is cut silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.models.chat import encode_pair, encode_prompt
from polychromic.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts of some texts, and how many of the texts are longer than the limit."""

    n: int
    minimum: int
    median: float
    p95: float
    maximum: int
    limit: int | None
    """None where nothing bounds them."""
    n_over: int

    def __str__(self) -> str:
        found = f"{self.minimum} to {self.maximum} tokens (median {self.median:g}, 95 % up to {self.p95:g})"
        return found if self.limit is None else f"{found}; {self.n_over} of {self.n} over {self.limit}"


@dataclass(frozen=True, slots=True)
class LengthReport:
    """Lengths of prompts, of references with their turn end, and of both together (None without references)."""

    prompts: Lengths
    references: Lengths | None
    pairs: Lengths | None


def length_report(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_prompt: int | None,
    max_reference: int,
    max_length: int,
    **template_options: Any,
) -> LengthReport:
    """Measure every prompt and reference as training and sampling would encode them.

    `max_prompt` is what the context leaves beside the new tokens (None without a limit), `max_reference` the new tokens
    a generation may have, `max_length` the tokens of a training pair.
    """
    prompt_lengths = [len(encode_prompt(tokenizer, prompt, **template_options)) for prompt in prompts]
    reference_lengths, pair_lengths = [], []
    for prompt in prompts:
        for reference in prompt.references:
            mask = encode_pair(tokenizer, prompt, reference, **template_options).loss_mask
            reference_lengths.append(sum(mask))
            pair_lengths.append(len(mask))
    return LengthReport(
        _lengths(prompt_lengths, max_prompt),
        _lengths(reference_lengths, max_reference) if reference_lengths else None,
        _lengths(pair_lengths, max_length) if pair_lengths else None,
    )


def _lengths(tokens: Sequence[int], limit: int | None) -> Lengths:
    return Lengths(
        n=len(tokens),
        minimum=min(tokens),
        median=float(np.median(tokens)),
        p95=round(float(np.percentile(tokens, 95)), 1),
        maximum=max(tokens),
        limit=limit,
        n_over=0 if limit is None else sum(length > limit for length in tokens),
    )
