"""How well each trained arm still predicts the reference answers: their perplexity, prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polychromic.files import append_jsonl, read_jsonl
from polychromic.records import Prompt

if TYPE_CHECKING:
    from polychromic.models.loading import LanguageModel
    from polychromic.models.logprobs import TokenSequence

METRIC = "reference_perplexity"
_PROMPTS_AT_ONCE = 16


def score_references(path: Path, prompts: Sequence[Prompt], load_model: Callable[[], LanguageModel]) -> bool:
    """Append the cross-entropy of each prompt's references to `path`; whether anything was left to do.

    A row holds the prompt's id, the tokens of its references (turn ends included) and minus their summed
    log-probability in nats. References longer than the model's context are left out; a prompt without any has 0
    tokens. Prompts are scored one by one, so that a continued file is the same as an uninterrupted one.
    """
    from polychromic.training.references import fitting_references

    done = {row["prompt_id"] for row in read_jsonl(path)}
    left = [prompt for prompt in prompts if prompt.references and prompt.id not in done]
    if not left:
        return False
    language_model = load_model()
    sequences = fitting_references(language_model, left, language_model.context_length).by_prompt
    for start in range(0, len(left), _PROMPTS_AT_ONCE):
        chunk = left[start : start + _PROMPTS_AT_ONCE]
        append_jsonl(path, [_score(language_model, one.id, sequences.get(one.id, [])) for one in chunk])
    return True


def read_perplexities(path: Path) -> dict[str, float]:
    """Perplexity of the references by prompt id: exp of the mean cross-entropy over all their tokens."""
    rows = [row for row in read_jsonl(path) if row["n_tokens"]]
    return {row["prompt_id"]: math.exp(row["cross_entropy"] / row["n_tokens"]) for row in rows}


def _score(
    language_model: LanguageModel, prompt_id: str, sequences: Sequence[TokenSequence]
) -> dict[str, Any]:
    import torch

    from polychromic.models.logprobs import answer_logprobs

    nats = 0.0
    if sequences:
        with torch.inference_mode():
            scored = answer_logprobs(language_model, sequences)
        nats = -float((scored.logprobs_BT * scored.mask_BT).double().sum())
    return {
        "prompt_id": prompt_id,
        "n_tokens": sum(sequence.n_answer for sequence in sequences),
        "cross_entropy": nats,
    }
