"""Defines the `training` and `diversity` sections of an experiment file, and what their loss means to all who ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from polychromic.objective.advantages import Baseline
from polychromic.objective.registry import require_objective_name
from polychromic.objective.scores import GateRule
from polychromic.registry import is_import_path
from polychromic.settings import Settings

ENGINES: Mapping[str, str] = {
    "local": "polychromic.training.trainer:LocalTrainer",
    "trl": "polychromic.integrations.trl.engine:TrlTrainer",
}
"""Import path of each trainer by its name, as a trainer of the user's own has one: integrations build on training."""
BaselineName = Literal["none", "leave_one_out", "leave_one_out_minus_one"]


class EarlyStopping(Settings):
    """Stop when the validation reward no longer rises, and keep the best adapter."""

    check_every: int = Field(default=10, ge=1)
    num_prompts: int = Field(default=32, ge=1)
    num_samples: int = Field(default=4, ge=1)
    patience: int = Field(default=3, ge=1)
    """Checks without improvement before training stops."""
    min_improvement: float = Field(default=0.005, ge=0)


class TrainingSettings(Settings):
    """Settings of the quality term and of its optimisation."""

    loss: Literal["rl", "sft"]
    """`rl`: policy gradient on the checker's reward. `sft`: cross-entropy on the reference answers."""
    engine: str = "local"
    """The trainer: `local`, `trl` (docs/integrations.md), or `path/to/file.py:name` or `module:name` of your own
    (docs/run-folder.md)."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the engine: with `trl` any option of its GRPOConfig, such as `use_vllm: true`."""
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training prompts; states the number of steps in place of `steps`."""
    prompts_per_step: int = Field(default=8, ge=1)
    num_samples: int = Field(default=8, ge=2)
    """Samples per prompt where the loss is `rl`; the diversity term shares them."""
    micro_batch_size: int = Field(default=256, ge=1)
    """Sequences a forward pass; gradients accumulate over a step's sequences. Bounds memory, not the result."""
    max_decode_batch: int | None = Field(default=None, ge=1)
    """Sequences decoded at once by the local sampler, at least one prompt's; null: as many as `micro_batch_size`.
    Decoding keeps no activations, so that more fit, and most of a small batch's time is the loop's own."""
    learning_rate: float = Field(default=2e-4, gt=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampled groups; log-probabilities are those of the tempered policy that was sampled."""
    max_new_tokens: int = Field(default=64, ge=1)
    truncation_reward: Literal["checker", "zero"] = "checker"
    """Reward of a generation that `max_new_tokens` cut: the checker's word on what there is, or a reward of 0. A
    checker that likes half-sentences teaches a model never to end."""
    max_length: int = Field(default=512, ge=2)
    """Tokens of prompt plus reference; longer pairs are left out and counted."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the KL to the policy that training started from, where the loss is `rl`: it is estimated on the sampled
    groups, and `sft` does not sample at every step."""
    quality_baseline: BaselineName = "leave_one_out"
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps from one checkpoint to the next. The local trainer writes one after ten minutes, too: a kill that gives no
    warning costs what came after the last."""
    keep_checkpoints: int = Field(default=2, ge=1)
    gradient_share_every: int = Field(default=25, ge=1)
    validation_every: int = Field(default=10, ge=1)
    """Steps between measurements of the cross-entropy of validation references, which is the quality where the loss
    is `sft` and an arm holds a quality floor."""
    validation_prompts: int = Field(default=32, ge=1)
    """Number of validation prompts that it is measured on."""
    max_checker_failures: float = Field(default=0.2, ge=0, le=1)
    """Share of a step's generations the checker may fail on before training stops."""
    max_unlabelled: float = Field(default=0.2, ge=0, le=1)
    """Share of a step's generations that `task.same_answer` may give no label before training stops."""
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _engine_does_what_is_asked(self) -> Self:
        if self.engine not in ENGINES and not is_import_path(self.engine):
            raise ValueError(
                f"engine {self.engine!r} is not known, expected one of {', '.join(ENGINES)}, path/to/file.py:name or "
                "module:name"
            )
        if self.engine == "local" and self.engine_options:
            raise ValueError(f"engine_options: engine local takes none, got {', '.join(self.engine_options)}")
        if self.engine == "trl" and self.loss != "rl":
            raise ValueError(
                "engine: trl trains on rewards (loss: rl); references are learnt by engine: local, on many devices "
                "under accelerate launch"
            )
        if self.engine == "trl" and self.max_decode_batch is not None:
            raise ValueError("max_decode_batch is the local sampler's; engine: trl samples by its own options")
        if self.engine == "trl" and self.early_stopping is not None:
            raise ValueError("early_stopping is not offered with engine: trl; leave it out, or use engine: local")
        return self

    @model_validator(mode="after")
    def _divergence_is_of_samples(self) -> Self:
        if self.loss == "sft" and self.kl_weight > 0:
            raise ValueError(
                f"kl_weight is {self.kl_weight:g}, which has no effect where the loss is sft: references are learnt "
                "without a KL; set it to 0, or train with loss: rl"
            )
        return self

    @property
    def decode_batch(self) -> int:
        """Returns how many sequences training decodes at once."""
        return self.max_decode_batch or self.micro_batch_size

    @model_validator(mode="after")
    def _length_is_stated_once(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"state either steps or epochs, got steps={self.steps} and epochs={self.epochs}")
        return self


class DiversitySettings(Settings):
    """The set-level term: J = J_quality + weight · J_diversity."""

    weight: float | Literal["auto"] = 0.0
    """λ. 0 is the baseline; `auto` lets `mode` choose it while training."""
    mode: Literal["share", "floor"] = "floor"
    """With `weight: auto`. share: hold the diversity gradient's share of the gradient norm at `target_share`.
    floor: as much diversity as keeps quality above `quality_floor`, or within `floor_margin` of the baseline arm."""
    target_share: float = Field(default=0.3, gt=0, lt=1)
    quality_floor: float | None = None
    """Mean training reward, or minus the cross-entropy per token of validation references, that `mode: floor` holds."""
    floor_margin: float | None = Field(default=None, ge=0)
    """Distance by which quality may lie below the baseline arm's at the same step, on the same prompts and seed; in
    nats per token where the loss is `sft`. The baseline is trained first. In place of `quality_floor`."""
    objective: str = "coverage"
    """A set score: one of the package's (`polychromic.objective.OBJECTIVES`), or `path/to/file.py:name` or
    `module:name` of your own, decorated with `@objective`."""
    set_size: int = Field(default=4, ge=1)
    baseline: Baseline = "leave_one_out"
    """`fitted` mixes leave-one-out means of all set sizes with coefficients that earlier steps showed to be best: as
    unbiased as the others, often with less variance (docs/objective.md)."""
    gate: GateRule = "product"
    """Use of quality in a score of distances: weigh each pair by both rewards, count passing generations only, or not
    at all."""
    num_samples: int = Field(default=5, ge=2)
    """Generations a prompt when the loss is `sft`."""
    num_prompts: int = Field(default=8, ge=1)
    """Prompts sampled for the diversity term when the loss is `sft`."""
    sample_every: int = Field(default=3, ge=1)
    """Steps between samplings of the diversity term when the loss is `sft`; its weight is raised to match."""
    max_zero_gradient_steps: int = Field(default=20, ge=1)
    """Diversity steps in a row without any diversity gradient before training stops with the reason."""

    @field_validator("objective")
    @classmethod
    def _objective_has_a_name(cls, objective: str) -> str:
        # Code of the user's own is run by what trains, not by everything that reads the file.
        require_objective_name(objective)
        return objective

    @model_validator(mode="after")
    def _weight_is_not_negative(self) -> Self:
        if self.weight != "auto" and self.weight < 0:
            raise ValueError(f"weight is λ and must be at least 0, got {self.weight}")
        stated = [key for key in ("quality_floor", "floor_margin") if getattr(self, key) is not None]
        if self.mode == "floor" and self.weight == "auto" and len(stated) != 1:
            raise ValueError(
                "weight: auto with mode: floor needs either quality_floor (the quality that must be kept) or "
                f"floor_margin (how far below the baseline arm it may lie), got {' and '.join(stated) or 'neither'}"
            )
        return self

    @property
    def follows_baseline(self) -> bool:
        """Tells whether the floor is the baseline arm's own quality, so that the baseline has to be trained first."""
        return self.holds_floor and self.floor_margin is not None

    @property
    def holds_floor(self) -> bool:
        """Tells whether λ follows a quality floor."""
        return self.weight == "auto" and self.mode == "floor"

    @property
    def lowest_quality(self) -> float | None:
        """Returns the floor, if any: a quality, or where it follows the baseline the lowest difference to that."""
        if not self.holds_floor:
            return None
        return self.quality_floor if self.floor_margin is None else -self.floor_margin

    @property
    def is_active(self) -> bool:
        """Tells whether this arm has a diversity term at all."""
        return self.weight != 0


@dataclass(frozen=True)
class LossFacts:
    """Says what `training.loss` means for one arm, before a model is loaded: what is sampled, how often, and what its
    quality is measured by. The steps themselves are `RewardStep` and `ReferenceStep` in `training/steps.py`."""

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
    reads_rewards: bool
    """True where the quality term is learnt from rewards, so that a checker is needed."""
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

    def measures_held_out(self, diversity: DiversitySettings, *, is_measured_from: bool) -> bool:
        """Tells whether the cross-entropy of validation references is measured: only where a floor asks for it, this
        arm's own or that of another one which follows it."""
        return (diversity.holds_floor or is_measured_from) and self.reads_references


def loss_facts(training: TrainingSettings, diversity: DiversitySettings) -> LossFacts:
    """Returns the facts of an arm with these settings."""
    if training.loss == "rl":  # every step samples all its prompts, and the diversity term shares the reward's samples
        return LossFacts(
            quality="reward",
            quality_key="train/quality_loss",
            num_samples=training.num_samples,
            num_samples_key="training.num_samples",
            num_prompts=training.prompts_per_step,
            sample_every=1,
            samples=True,
            reads_rewards=True,
        )
    return LossFacts(  # every step learns references, and every m-th samples its first prompts for diversity
        quality="share of right answers, standing in for references",
        quality_key="validation/cross_entropy",
        num_samples=diversity.num_samples,
        num_samples_key="diversity.num_samples",
        num_prompts=min(diversity.num_prompts, training.prompts_per_step),
        sample_every=diversity.sample_every,
        samples=diversity.is_active,
        reads_rewards=False,
        reference_tokens=training.max_length,
        floor_keys=frozenset({"loss", "prompts_per_step", "validation_every", "validation_prompts", "max_length"}),
        # Cross-entropy of the same validation references every time has no sampling noise and is measured every few
        # steps only: a tenth of a nat per token matters, nothing is smoothed, and each measurement may move λ further.
        floor_options={"scale": 0.1, "smoothing": 0.0, "largest_step": 0.7},
    )
