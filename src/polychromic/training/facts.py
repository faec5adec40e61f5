"""Says what `training.loss` means to all who ask before a model is loaded: settings, preflight, audit, costs.

The steps themselves are `RewardStep` and `ReferenceStep` in `training/steps.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from polychromic.training.settings import DiversitySettings, TrainingSettings


@dataclass(frozen=True)
class LossFacts:
    """Answers for one arm: what is sampled, how often, and what its quality is measured by."""

    quality: str
    """The quality term as an audit of fixed answers names it."""
    quality_key: str
    """The metric that a quality floor limits; quality is its negative."""
    num_samples: int
    """Samples per prompt, N."""
    num_samples_key: str
    num_prompts: int
    """Prompts of a step that are sampled."""
    sample_every: int
    """Steps from one that samples to the next."""
    samples: bool
    """True where any step samples."""
    reference_tokens: int | None = None
    """Longest prompt with its reference, in tokens; None where no references are learnt."""
    floor_keys: frozenset[str] = frozenset({"loss", "prompts_per_step"})
    """Keys of `training` that an arm and the baseline that its floor follows have to share."""
    floor_options: Mapping[str, float] = field(default_factory=dict)
    """Options of the `FloorController` for this quality."""

    @property
    def reads_references(self) -> bool:
        """Tells whether references are learnt."""
        return self.reference_tokens is not None


def _reward(training: TrainingSettings, diversity: DiversitySettings) -> LossFacts:
    """Every step samples all its prompts, and the diversity term shares the reward's samples."""
    return LossFacts(
        quality="reward",
        quality_key="train/quality_loss",
        num_samples=training.num_samples,
        num_samples_key="training.num_samples",
        num_prompts=training.prompts_per_step,
        sample_every=1,
        samples=True,
    )


def _references(training: TrainingSettings, diversity: DiversitySettings) -> LossFacts:
    """Every step learns references, and every m-th samples its first prompts for diversity."""
    return LossFacts(
        quality="share of right answers, standing in for references",
        quality_key="validation/cross_entropy",
        num_samples=diversity.num_samples,
        num_samples_key="diversity.num_samples",
        num_prompts=min(diversity.num_prompts, training.prompts_per_step),
        sample_every=diversity.sample_every,
        samples=diversity.is_active,
        reference_tokens=training.max_length,
        floor_keys=frozenset(
            {"loss", "prompts_per_step", "validation_every", "validation_prompts", "max_length"}
        ),
        # Cross-entropy of the same validation references every time has no sampling noise and is measured every few
        # steps only: a tenth of a nat per token matters, nothing is smoothed, and each measurement may move λ further.
        floor_options={"scale": 0.1, "smoothing": 0.0, "largest_step": 0.7},
    )


_FACTS = {"rl": _reward, "sft": _references}


def loss_facts(training: TrainingSettings, diversity: DiversitySettings) -> LossFacts:
    """Returns the facts of an arm with these settings."""
    return _FACTS[training.loss](training, diversity)
