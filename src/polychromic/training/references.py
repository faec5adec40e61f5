"""Reference answers as token sequences for the cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polychromic.errors import DataError
from polychromic.models.chat import encode_example
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence
from polychromic.records import Prompt


@dataclass(frozen=True, slots=True)
class ReferenceSequences:
    """Sequences by prompt id; prompts none of whose references fit are absent, and left-out pairs are counted."""

    by_prompt: dict[str, list[TokenSequence]]
    n_too_long: int

    def of(self, prompts: Sequence[Prompt]) -> list[TokenSequence]:
        """The sequences of some prompts, in order."""
        return [sequence for prompt in prompts for sequence in self.by_prompt[prompt.id]]


def reference_sequences(
    language_model: LanguageModel, prompts: Sequence[Prompt], max_length: int, *, split: str = "training"
) -> ReferenceSequences:
    """Encode every reference once. Raises DataError where nothing is left to learn from."""
    found = fitting_references(language_model, prompts, max_length)
    if not found.by_prompt:
        raise DataError(
            f"training.signal is references, but none of {len(prompts)} {split} prompts has one that fits into "
            f"{max_length} tokens ({found.n_too_long} are longer); raise training.max_length or add references"
        )
    return found


def fitting_references(
    language_model: LanguageModel, prompts: Sequence[Prompt], max_length: int
) -> ReferenceSequences:
    """Encode every reference once; those of more than `max_length` tokens with their prompt are left out."""
    by_prompt: dict[str, list[TokenSequence]] = {}
    n_too_long = 0
    for prompt in prompts:
        for reference in prompt.references:
            example = encode_example(
                language_model.tokenizer, prompt, reference, max_length, **language_model.chat_options
            )
            if example is None:
                n_too_long += 1
                continue
            n_prompt = len(example.input_ids) - sum(example.loss_mask)
            by_prompt.setdefault(prompt.id, []).append(TokenSequence(tuple(example.input_ids), n_prompt))
    return ReferenceSequences(by_prompt, n_too_long)
