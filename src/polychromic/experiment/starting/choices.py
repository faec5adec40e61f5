"""Chooses loss, objective, sizes and reachable criteria from the data and the probe, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polychromic.evaluation.criteria import Criterion, criterion_possible, number
from polychromic.experiment.starting.probing import DISTINCT_CORRECT, Probed

Loss = Literal["rl", "sft"]
_LITTLE = 0.02
_THRESHOLD = 0.5
_STEP_OF_SAMPLING, _STEP_OF_REFERENCE = 3.0, 1.5
"""Time of a training step over that of sampling as many answers: forward and backward passes come on top, or alone."""
_SAMPLES = (32, 16, 8)
_BATCHES = ((8, 8), (8, 4), (4, 4), (4, 2))
_ENOUGH_STEPS = 20
"""Generations a prompt and prompts a step: the first that fits that many steps into the time, or the last."""
_SEEDS_FROM_STEPS = 40  # a step count from which three seeds are worth more than longer training
_MOST_EPOCHS = 4
SAMPLE_EVERY = 2
"""Steps from one that samples for the diversity term to the next, where references are learnt."""
_CHANGES = (0.12, 0.05)
"""Relative changes that are asked for, the largest first that the metric leaves room for with as much to spare."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A criterion of the file, or one that is left out with the reason."""

    criterion: Criterion
    left_out: str = ""

    @property
    def least(self) -> str:
        """Returns the key and value of what is asked for."""
        margin = self.criterion.margin
        return f"relative_change: {self.criterion.asked:g}" if margin is None else f"margin: {margin:g}"


@dataclass(frozen=True, slots=True)
class Choices:
    """Values of the file beyond names and paths; `why` explains a key, in words for a comment."""

    loss: Loss | None
    """None where nothing says what a good answer is, so that nothing can be trained."""
    objective: str
    gate: str
    weight: str
    same_answer: str
    pass_threshold: float
    steps: int
    prompts_per_step: int
    group: int
    """Generations per prompt in a group."""
    seeds: tuple[int, ...]
    num_prompts: int
    num_samples: int
    minutes: float
    """The time that training and evaluation are expected to take."""
    goals: tuple[Goal, ...]
    why: Mapping[str, str]

    @property
    def sampled_prompts(self) -> int:
        """Returns the prompts of a step that are sampled for diversity where references are learnt."""
        return max(1, self.prompts_per_step // 2)

    @property
    def measured_every(self) -> int:
        """Returns the steps from one that measures both gradients to the next: λ that tunes itself moves there alone,
        and wants some twenty moves."""
        return max(1, self.steps // 20)

    @property
    def set_size(self) -> int:
        """Returns K: pairs for distances, else half of a group."""
        return 2 if self.objective == "distance" else max(2, self.group // 2)


def choose(probed: Probed, n_train: int, n_test: int, *, references: float, minutes: float) -> Choices:
    """Chooses everything. `references` is the share of training prompts that have any, `minutes` the time that
    training and evaluation may take."""
    why: dict[str, str] = {}
    threshold = _threshold(probed, why)
    loss = _loss(probed, threshold, references, why)
    objective, gate, weight = _diversity(loss, probed, threshold, why)
    why["same_answer"] = (
        f"{100 * probed.wordings:.0f} % of answers differ in wording: those of one "
        f"{'meaning' if probed.same_answer == 'embedding' else 'wording'} are one"
    )
    sizes = _sizes(probed, loss, n_train, n_test, 60.0 * minutes)
    return Choices(
        loss=loss,
        objective=objective,
        gate=gate,
        weight=weight,
        same_answer=probed.same_answer,
        pass_threshold=threshold,
        goals=tuple(_goals(probed, loss, threshold, sizes["num_samples"])),
        why=why,
        **sizes,
    )


def passing(probed: Probed, threshold: float) -> float:
    """Returns the share of judged answers that pass; nan without any."""
    judged = [reward for group in probed.rewards for reward in group]
    return sum(reward >= threshold for reward in judged) / len(judged) if judged else math.nan


def _threshold(probed: Probed, why: dict[str, str]) -> float:
    """Returns 0.5, or, where no answer or every answer would pass although rewards differ, one that parts them."""
    judged = sorted(reward for group in probed.rewards for reward in group)
    if not judged or judged[0] < _THRESHOLD <= judged[-1] or judged[0] == judged[-1]:
        return _THRESHOLD
    chosen = judged[int(0.7 * (len(judged) - 1))]
    chosen = math.floor(100 * chosen) / 100 if chosen > judged[0] else judged[-1]
    why["pass_threshold"] = (
        f"the checker's rewards lie between {number(judged[0], 2)} and {number(judged[-1], 2)}: 0.5 would part nothing"
    )
    return chosen


def _loss(probed: Probed, threshold: float, references: float, why: dict[str, str]) -> Loss | None:
    rate, seen = passing(probed, threshold), f"{probed.n_prompts * probed.n_samples} untrained answers"
    if probed.rewards and (probed.spread > 0 or (rate > _LITTLE and not references)):
        why["loss"] = f"policy gradient on the checker's word: it passes {100 * rate:.0f} % of {seen}"
        return "rl"
    if references > 0:
        checked = f"; the checker gives all {seen} one reward, which teaches nothing" if probed.rewards else ""
        why["loss"] = f"cross-entropy on the references{checked}"
        return "sft"
    if probed.rewards:
        why["loss"] = (
            f"policy gradient on the checker's word; it gives all {seen} one reward: training may learn nothing"
        )
        return "rl"
    return None


def _diversity(loss: Loss | None, probed: Probed, threshold: float, why: dict[str, str]) -> tuple[str, str, str]:
    """Returns objective, gate and λ."""
    if probed.rewards and passing(probed, threshold) > _LITTLE:
        why["objective"] = "different answers among those that pass, of set_size"
        why["weight"] = "λ; coverage and reward both lie between 0 and 1"
        return "coverage", "product", "1.0"
    why["objective"] = "mean distance in meaning of two answers"
    why["weight"] = "λ is tuned to that share of the gradient"
    if loss == "rl":
        why["objective"] += ", weighed by rewards: hardly any passes yet"
        return "distance", "product", "auto"
    why["objective"] += "; the references keep quality"
    return "distance", "none", "auto"


def _sizes(probed: Probed, loss: Loss | None, n_train: int, n_test: int, seconds: float) -> dict[str, Any]:
    """Returns the sizes that fit into the time: half of it for evaluation, half for training, but no less than makes a
    comparison. A second seed comes before longer training only where steps are many."""
    each = max(probed.seconds_per_generation, 1e-4)
    arms = 3 if loss else 2
    for_evaluation = seconds / 2 if loss else seconds
    num_prompts = min(n_test, 200)
    num_samples = next((n for n in _SAMPLES if arms * num_prompts * n * each <= for_evaluation), _SAMPLES[-1])
    num_prompts = max(1, min(num_prompts, int(for_evaluation / (arms * num_samples * each))))
    num_prompts = max(num_prompts, min(n_test, 8))
    group, prompts_per_step, step = _batch(loss, each, n_train, seconds / 2)
    steps = int(seconds / 2 / step) if loss else 1
    most = max(8, math.ceil(_MOST_EPOCHS * n_train / prompts_per_step)) if loss == "sft" else 300
    seeds = (0, 1, 2) if steps >= 3 * _SEEDS_FROM_STEPS else (0,)
    steps = max(4, min(most, steps // len(seeds)))
    evaluation = (len(seeds) * (arms - 1) + 1) * num_prompts * num_samples * each
    return {
        "group": group,
        "prompts_per_step": prompts_per_step,
        "steps": steps,
        "seeds": seeds,
        "num_prompts": num_prompts,
        "num_samples": num_samples,
        "minutes": (evaluation + (steps * len(seeds) * step if loss else 0.0)) / 60,
    }


def _batch(loss: Loss | None, each: float, n_train: int, seconds: float) -> tuple[int, int, float]:
    """Returns group, prompts and seconds of a step: the largest that leaves time for enough steps, or the smallest."""
    tried = [(group, min(prompts, n_train)) for group, prompts in _BATCHES]
    timed = [(group, prompts, _step_seconds(loss, each, group, prompts)) for group, prompts in tried]
    return next((batch for batch in timed if batch[2] * _ENOUGH_STEPS <= seconds), timed[-1])


def _step_seconds(loss: Loss | None, each: float, group: int, prompts_per_step: int) -> float:
    """Estimates a step of both arms together, from the time of a sampled answer."""
    if loss == "rl":
        return 2 * _STEP_OF_SAMPLING * group * prompts_per_step * each
    sampled = _STEP_OF_SAMPLING * group * (prompts_per_step // 2) * each / SAMPLE_EVERY
    return 2 * _STEP_OF_REFERENCE * prompts_per_step * each + sampled


def _goals(probed: Probed, loss: Loss | None, threshold: float, num_samples: int) -> Iterator[Goal]:
    """Yields criteria: what is to rise as far as its bounds allow, and what may not be lost."""
    is_checked = bool(probed.rewards)
    wanted: Sequence[tuple[str, Literal["higher", "lower"]]] = [("distinct_2", "higher"), ("self_bleu", "lower")]
    if is_checked and passing(probed, threshold) > _LITTLE:
        wanted = [(DISTINCT_CORRECT, "higher"), *wanted]
    tried = [_reachable(key, direction, probed.metric(key)) for key, direction in wanted]
    yield from tried
    if all(goal.left_out for goal in tried):
        yield Goal(Criterion("vendi", "higher", _CHANGES[-1]))  # has no bound that answers could be at
    if is_checked:
        yield Goal(Criterion("pass@1", "not_worse", margin=0.05))
    elif loss == "sft" and math.isfinite(probed.reference_perplexity):
        margin = float(f"{0.1 * probed.reference_perplexity:.1g}")
        yield Goal(Criterion("reference_perplexity", "not_worse", margin=margin))


def _reachable(key: str, direction: Literal["higher", "lower"], now: float) -> Goal:
    """Returns the largest change that leaves room for as much again, or the smallest one, left out, with the reason."""
    for change in _CHANGES:
        goal = Criterion(key, direction, change)
        if criterion_possible(Criterion(key, direction, min(2 * change, 1.0)), now).possible:
            return Goal(goal)
    smallest = Criterion(key, direction, _CHANGES[-1])
    judged = criterion_possible(smallest, now)
    return Goal(smallest, "" if judged.possible else judged.sentence)
