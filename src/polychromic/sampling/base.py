"""The one thing that training and evaluation ask of a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from polychromic.records import Generation, Prompt, SamplingParameters


class Sampler(Protocol):
    """Draws generations from the policy as it stands."""

    def sample(
        self, prompts: Sequence[Prompt], n: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """n generations for each prompt; `seeds[i]` alone decides the randomness of `prompts[i]`."""
        ...
