"""Says what `training.loss` means to all who ask before a model is loaded: settings, preflight, audit, costs.

The steps themselves are `RewardStep` and `ReferenceStep` in `training/steps.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from polychromic.training.settings import DiversitySettings, TrainingSettings


class LossFacts(Protocol):
    """Answers for one arm: what is sampled, how often, and what its quality is measured by."""

    quality: ClassVar[str]
    """The quality term as an audit of fixed answers names it."""
    quality_key: ClassVar[str]
    """The metric that a quality floor speaks of; quality is its negative."""
    num_samples_key: ClassVar[str]
    reads_references: ClassVar[bool]
    floor_keys: ClassVar[frozenset[str]]
    """Keys of `training` that an arm and the baseline that its floor follows have to share."""
    floor_options: ClassVar[Mapping[str, float]]
    """Options of the `FloorController` for this quality."""

    @property
    def num_samples(self) -> int:
        """Samples per prompt, N."""
        ...

    @property
    def num_prompts(self) -> int:
        """Prompts of a step that are sampled."""
        ...

    @property
    def sample_every(self) -> int:
        """Steps from one that samples to the next."""
        ...

    @property
    def samples(self) -> bool:
        """Whether any step samples."""
        ...

    @property
    def reference_tokens(self) -> int | None:
        """Longest prompt with its reference, in tokens; None where no references are learnt."""
        ...


@dataclass(frozen=True)
class RewardFacts:
    """`training.loss: rl`: every step samples its prompts, and the reward is the quality."""

    training: TrainingSettings
    diversity: DiversitySettings
    quality: ClassVar[str] = "reward"
    quality_key: ClassVar[str] = "train/quality_loss"
    num_samples_key: ClassVar[str] = "training.num_samples"
    reads_references: ClassVar[bool] = False
    floor_keys: ClassVar[frozenset[str]] = frozenset({"loss", "prompts_per_step"})
    floor_options: ClassVar[Mapping[str, float]] = {}
    sample_every: ClassVar[int] = 1
    samples: ClassVar[bool] = True
    reference_tokens: ClassVar[int | None] = None

    @property
    def num_samples(self) -> int:
        """The diversity term shares the reward's samples."""
        return self.training.num_samples

    @property
    def num_prompts(self) -> int:
        """All of a step."""
        return self.training.prompts_per_step


@dataclass(frozen=True)
class ReferenceFacts:
    """`training.loss: sft`: every step learns references, and every m-th samples some prompts for diversity."""

    training: TrainingSettings
    diversity: DiversitySettings
    quality: ClassVar[str] = "share of right answers, standing in for references"
    quality_key: ClassVar[str] = "validation/cross_entropy"
    num_samples_key: ClassVar[str] = "diversity.num_samples"
    reads_references: ClassVar[bool] = True
    floor_keys: ClassVar[frozenset[str]] = frozenset(
        {"loss", "prompts_per_step", "validation_every", "validation_prompts", "max_length"}
    )
    # Cross-entropy of the same validation references every time has no sampling noise and is measured every few steps
    # only: a tenth of a nat per token matters, nothing is smoothed, and each measurement may move λ further.
    floor_options: ClassVar[Mapping[str, float]] = {"scale": 0.1, "smoothing": 0.0, "largest_step": 0.7}

    @property
    def num_samples(self) -> int:
        """Of the diversity term."""
        return self.diversity.num_samples

    @property
    def num_prompts(self) -> int:
        """The first ones of a step."""
        return min(self.diversity.num_prompts, self.training.prompts_per_step)

    @property
    def sample_every(self) -> int:
        """m."""
        return self.diversity.sample_every

    @property
    def samples(self) -> bool:
        """Only where there is a diversity term."""
        return self.diversity.is_active

    @property
    def reference_tokens(self) -> int | None:
        """Longer pairs are left out."""
        return self.training.max_length


_FACTS = {"rl": RewardFacts, "sft": ReferenceFacts}


def loss_facts(training: TrainingSettings, diversity: DiversitySettings) -> LossFacts:
    """Returns the facts of an arm with these settings."""
    return _FACTS[training.loss](training, diversity)
