"""What tasks whose prompts are JSON lines have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polychromic.diversity.semantic import cosine_distances
from polychromic.records import Prompt
from polychromic.tasks.base import Split
from polychromic.tasks.jsonl import load_prompts

if TYPE_CHECKING:
    from polychromic.diversity.embedder import Embedder


class FileTask:
    """Prompts from three files and distances of meaning; subclasses add the checkers."""

    def __init__(self, train: Path, validation: Path, test: Path, embedder: str):
        self._files: dict[Split, Path] = {"train": train, "validation": validation, "test": test}
        self._embedder_name = embedder
        self._loaded: dict[Split, list[Prompt]] = {}

    def prompts(self, split: Split) -> list[Prompt]:
        """All prompts of a split; raises DataError that lists every bad line."""
        if split not in self._loaded:
            self._loaded[split] = load_prompts(self._files[split])
        return list(self._loaded[split])

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """None: which answers say the same is found from their embeddings."""
        return None

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """1 − cosine of the embeddings, opposed meanings counted as 1."""
        return np.minimum(cosine_distances(self.embedder.encode(texts)), 1.0)

    @cached_property
    def embedder(self) -> Embedder:
        """The sentence embedder, loaded when first asked for."""
        from polychromic.diversity.embedder import load_embedder

        return load_embedder(self._embedder_name)
