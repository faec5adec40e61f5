"""Scores references under a trained model: the perplexity of what it was taught, or might have been."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polychromic.errors import DataError
from polychromic.files import append_jsonl, scan_jsonl, sealed, strict_json, write_text
from polychromic.records import Prompt

if TYPE_CHECKING:
    from polychromic.models.loading import LanguageModel
    from polychromic.models.logprobs import TokenSequence

logger = logging.getLogger(__name__)

METRIC = "reference_perplexity"
_PROMPTS_AT_ONCE = 16


def score_references(
    path: Path, prompts: Sequence[Prompt], load_model: Callable[[], LanguageModel], adapter: str | None = None
) -> bool:
    """Appends the cross-entropy of each prompt's references to `path`; returns whether anything was left to do.

    A row holds the prompt's id, the tokens of its references (turn ends included) and minus their summed
    log-probability in nats. References longer than the model's context are left out; a prompt without any has 0
    tokens. Prompts are scored one by one, so that a continued file is the same as an uninterrupted one. Rows that are
    damaged, or of another adapter than `adapter` begins the hash of, are scored again, with a warning.
    """
    from polychromic.training.rollouts import fitting_references

    done = _kept(path, adapter)
    left = [prompt for prompt in prompts if prompt.references and prompt.id not in done]
    if not left:
        return False
    language_model = load_model()
    sequences = fitting_references(language_model, left, language_model.context_length).by_prompt
    for start in range(0, len(left), _PROMPTS_AT_ONCE):
        chunk = left[start : start + _PROMPTS_AT_ONCE]
        scores = (_score(language_model, prompt.id, sequences.get(prompt.id, [])) for prompt in chunk)
        append_jsonl(path, [sealed({**score, "adapter": adapter}) for score in scores])
    return True


def read_perplexities(path: Path) -> dict[str, float]:
    """Reads the perplexity of the references by prompt id: exp of the mean cross-entropy over all their tokens.

    Raises DataError where a row is damaged.
    """
    scan = scan_jsonl(path)
    if scan.faults:
        raise DataError(f"{path}: {scan.faults[0]}; `polychromic run` or `evaluate` scores it again")
    rows = [row for _, row in scan.rows if row["n_tokens"]]
    return {row["prompt_id"]: math.exp(row["cross_entropy"] / row["n_tokens"]) for row in rows}


def _kept(path: Path, adapter: str | None) -> set[str]:
    """Takes damaged rows off the file, and returns the ids of the prompts whose rows are kept."""
    scan = scan_jsonl(path)
    kept = {row["prompt_id"]: row for _, row in scan.rows if row.get("adapter") in (None, adapter)}
    if len(kept) < len(scan.rows) or scan.faults:
        logger.warning("%s: rows damaged, doubled or of another adapter are scored again", path)
        write_text(path, "".join(strict_json(sealed(row)) + "\n" for row in kept.values()))
    return set(kept)


def _score(language_model: LanguageModel, prompt_id: str, sequences: Sequence[TokenSequence]) -> dict[str, Any]:
    import torch

    from polychromic.models.logprobs import answer_logprobs

    nats = 0.0
    if sequences:
        with torch.inference_mode():
            scored = answer_logprobs(language_model, sequences)
        nats = -float((scored.logprobs_BT * scored.mask_BT).double().sum())
    return {"prompt_id": prompt_id, "n_tokens": sum(sequence.n_answer for sequence in sequences), "cross_entropy": nats}
