"""Asks a cross-encoder which answers are the same: a classifier of pairs of texts, from a hub id or a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.diversity.equivalence import Partition, TextGroup
from polychromic.diversity.pairwise import RULES, Answer, Question, pairwise_partitions
from polychromic.errors import ModelError
from polychromic.plain_text import without_lone_surrogates
from polychromic.records import Prompt
from polychromic.tasks.partitions.answers import AnswerCache, answer_key
from polychromic.tasks.partitions.settings import SameAnswer
from polychromic.weights import loading_weights

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_CHARACTERS = 20_000
"""Of each text: tokenizing more takes long, and every classifier cuts it."""
_BATCH = {"cpu": 16}
_BATCH_ELSEWHERE = 256


class ClassifierEquivalence:
    """Takes two texts for the same from a probability on; pairs of all groups of a step share a batch.

    The model is loaded when it is first asked. It reads the first member of a class and the text, not the prompt.
    Its answers are kept on disk by the hash of its weights.
    """

    def __init__(self, same: SameAnswer, cache_folder: Path | None = None) -> None:
        self._same = same
        self._cache = AnswerCache(cache_folder)

    @property
    def name(self) -> str:
        """Returns the weights with their hash, the threshold and the rule."""
        return f"{self._identity}, {RULES[self._same.rule]}"

    @cached_property
    def _identity(self) -> str:
        """All that an answer about a pair depends on."""
        place = Path(str(self._same.model)).name
        length = f", {self._same.max_length} tokens" if self._same.max_length else ""
        label = f", label {self._same.same_label}" if self._model.num_labels > 1 else ""
        weights = _weights_hash(self._model)[:8]
        return f"classifier {place}@{weights}, same from {self._same.threshold:g}{length}{label}"

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns None: the classifier compares texts."""
        return None

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides each group by the stated rule; rounds of all groups are asked together."""
        return pairwise_partitions(groups, self._ask, self._same.rule)

    def _ask(self, questions: Sequence[Question]) -> list[Answer]:
        # Neither the rule nor the prompt has a part in an answer.
        keys = [answer_key(self._identity, first, text) for _, first, text in questions]
        pairs = {key: (first, text) for key, (_, first, text) in zip(keys, questions, strict=True)}
        answers = self._cache.read(list(pairs))
        missing = [key for key in pairs if key not in answers]
        if missing:
            scores = self.probabilities([pairs[key] for key in missing])
            new = {key: bool(score >= self._same.threshold) for key, score in zip(missing, scores, strict=True)}
            self._cache.write(new)
            answers |= new
        return [answers[key] for key in keys]

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Returns [n] probabilities that both texts of a pair are the same."""
        model, n_labels = self._model, self._model.num_labels
        clean: Any = [tuple(without_lone_surrogates(text[:_CHARACTERS]) for text in pair) for pair in pairs]
        scores = model.predict(
            clean,
            batch_size=_BATCH.get(model.device.type, _BATCH_ELSEWHERE),
            apply_softmax=n_labels > 1,
            show_progress_bar=False,
        )
        scores_NL = np.asarray(scores, dtype=np.float64).reshape(len(pairs), -1)
        if not ((scores_NL >= 0.0) & (scores_NL <= 1.0)).all():
            raise ModelError(
                f"task.same_answer.model {self._same.model!r} gives scores outside 0 to 1 ({scores_NL.min():.3g} to "
                f"{scores_NL.max():.3g}): a model that ranks, expected one that classifies pairs"
            )
        return scores_NL[:, self._same.same_label if n_labels > 1 else 0]

    @cached_property
    def _model(self) -> CrossEncoder:
        import torch
        from sentence_transformers import CrossEncoder

        source = str(self._same.model)
        place = f"task.same_answer.model {source!r}"
        # Training's random numbers must not depend on when this model is loaded.
        with loading_weights(place), torch.random.fork_rng(devices=[]):
            model = CrossEncoder(
                str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source,
                model_kwargs={"use_safetensors": True},
                max_length=self._same.max_length,
            ).eval()
        if model.num_labels > 1 and self._same.same_label >= model.num_labels:
            raise ModelError(
                f"{place} has {model.num_labels} labels, and task.same_answer.same_label is {self._same.same_label}; "
                "the first is number 0"
            )
        return model


def _weights_hash(model: CrossEncoder) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
