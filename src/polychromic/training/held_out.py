"""Cross-entropy of validation references while training: a quality floor on references holds it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from polychromic.errors import DataError
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import answer_logprobs, micro_batches
from polychromic.training.references import reference_sequences

if TYPE_CHECKING:
    from polychromic.training.loop import ArmRun


class HeldOutReferences:
    """The same validation references every time, so that arms and steps differ by their policies alone."""

    def __init__(self, run: ArmRun, language_model: LanguageModel) -> None:
        """Raises DataError where no validation prompt has a reference that fits into `training.max_length`."""
        settings = run.training
        with_references = [prompt for prompt in run.task.prompts("validation") if prompt.references]
        chosen = with_references[: settings.validation_prompts]
        if not chosen:
            raise DataError(
                "a quality floor is measured on the references of validation prompts, and none has any; add some, or "
                "train with training.signal: reward"
            )
        self.language_model = language_model
        self.every = settings.validation_every
        self.micro_batch = settings.micro_batch
        found = reference_sequences(language_model, chosen, settings.max_length, split="validation")
        self.sequences = [sequence for prompt in chosen for sequence in found.by_prompt.get(prompt.id, [])]

    def cross_entropy(self, step: int) -> float:
        """Nats per reference token (turn ends included) before the update of `step`; nan where none is due."""
        return math.nan if step % self.every else self.measure()

    def measure(self) -> float:
        """The same, now. Dropout is off."""
        total = 0.0
        with torch.inference_mode():
            for batch in micro_batches(self.sequences, self.micro_batch):
                answers = answer_logprobs(self.language_model, [self.sequences[index] for index in batch])
                total -= float(answers.logprobs_BT.masked_fill(answers.mask_BT == 0, 0.0).double().sum())
        return total / sum(sequence.n_answer for sequence in self.sequences)
