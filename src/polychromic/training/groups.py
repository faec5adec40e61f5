"""The sampled groups of a step: generations, rewards, and each generation's quality and diversity advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polychromic.errors import CheckerError
from polychromic.models.chat import encode_prompt
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence
from polychromic.objective import set_advantages, subset_mean
from polychromic.records import Check, Group, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler
from polychromic.tasks.base import Task
from polychromic.training.settings import DiversitySettings, TrainingSettings

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroupSignals:
    """What the objective is computed from, for P groups of N generations."""

    rewards_PN: FloatArray
    """In [0, 1], nan where the checker failed."""
    passing_PN: FloatArray
    """1 where the reward passes, 0 where not, nan where the checker failed."""
    clusters_PN: NDArray[np.int64]
    distances_PNN: FloatArray


@dataclass(frozen=True, slots=True)
class SampledGroups:
    """Groups with their sequences and advantages; `diversity_score` is the mean set score over groups."""

    groups: list[Group]
    signals: GroupSignals
    sequences: list[TokenSequence]
    quality_PN: FloatArray
    diversity_PN: FloatArray
    diversity_signal_P: NDArray[np.bool_]
    diversity_score: float
    gate_PN: FloatArray | None
    """The part of `diversity_PN` that the quality gate is paid, where pairs are weighed by their rewards."""


def sample_groups(
    sampler: Sampler,
    task: Task,
    prompts: Sequence[Prompt],
    n: int,
    parameters: SamplingParameters,
    seeds: Sequence[int],
    *,
    cut_answers: Literal["judge", "fail"] = "judge",
) -> list[Group]:
    """n generations a prompt, each with its check; with `fail` one that the token limit cut gets a reward of 0."""
    generations = sampler.sample(prompts, n, parameters, seeds)
    pairs = [(prompt, one.text) for prompt, group in zip(prompts, generations, strict=True) for one in group]
    checks = task.check([prompt for prompt, _ in pairs], [text for _, text in pairs])
    if cut_answers == "fail":
        members = [one for group in generations for one in group]
        checks = [
            Check(0.0) if one.finish == "length" else check
            for one, check in zip(members, checks, strict=True)
        ]
    return [
        Group(prompt, tuple(group), tuple(checks[index * n : (index + 1) * n]))
        for index, (prompt, group) in enumerate(zip(prompts, generations, strict=True))
    ]


def group_signals(task: Task, groups: Sequence[Group], *, with_distances: bool) -> GroupSignals:
    """Rewards, passes, clusters and (where an objective asks for them) distances of the groups."""
    rewards_PN = np.array([group.rewards for group in groups])
    passing_PN = np.where(np.isnan(rewards_PN), np.nan, rewards_PN >= task.pass_threshold)
    clusters_PN = np.stack([_cluster_codes(task, group) for group in groups])
    n = rewards_PN.shape[1]
    distances_PNN = np.zeros((len(groups), n, n))
    if with_distances:
        distances_PNN = np.stack([task.distances(group.texts) for group in groups])
    return GroupSignals(rewards_PN, passing_PN, clusters_PN, distances_PNN)


def _cluster_codes(task: Task, group: Group) -> NDArray[np.int64]:
    labels = [task.cluster(group.prompt, text) or text for text in group.texts]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def require_working_checker(groups: Sequence[Group], largest_share: float) -> float:
    """Share of generations the checker failed on; raises CheckerError with the reasons above `largest_share`."""
    errors = [
        check.error or "no reason given" for group in groups for check in group.checks if check.reward is None
    ]
    share = len(errors) / sum(len(group.checks) for group in groups)
    if share > largest_share:
        raise CheckerError(
            f"the checker failed on {share:.0%} of a step's generations (at most {largest_share:.0%} are allowed): "
            f"{'; '.join(sorted(set(errors))[:3])}"
        )
    return share


def quality_advantages(signals: GroupSignals, settings: TrainingSettings) -> FloatArray:
    """Leave-one-out advantages of the mean reward, [P, N]."""
    return set_advantages("reward", 1, rewards=signals.rewards_PN, baseline=settings.quality_baseline)


def diversity_advantages(
    signals: GroupSignals,
    settings: DiversitySettings,
    coefficients: Mapping[int, float] | None = None,
    generator: np.random.Generator | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Advantages [P, N] of the diversity objective and its unbiased estimate [P] for each group.

    `coefficients` are those of the fitted baseline, from earlier steps; None before there are any. `generator` draws
    subsets where `vendi` or `logdet` has too many to score all.
    """
    inputs = {**objective_inputs(signals, settings), "generator": generator}
    advantages_PN = set_advantages(
        settings.objective, settings.set_size, baseline=settings.baseline, coefficients=coefficients, **inputs
    )
    score_P = subset_mean(settings.objective, settings.set_size, **inputs)
    return advantages_PN, score_P


def diversity_signal(
    signals: GroupSignals, settings: DiversitySettings, generator: np.random.Generator | None = None
) -> NDArray[np.bool_]:
    """[P]: whether some generation of a group earns more credit than another.

    Asked of leave-one-out advantages: other baselines give advantages to groups without any signal too, whose
    gradient is noise around zero.
    """
    n = signals.rewards_PN.shape[1]
    advantages_PN = set_advantages(
        settings.objective,
        settings.set_size,
        baseline="leave_one_out" if settings.set_size < n else settings.baseline,
        generator=generator,
        **objective_inputs(signals, settings),
    )
    return np.any(advantages_PN != 0.0, axis=1)


def objective_inputs(signals: GroupSignals, settings: DiversitySettings) -> dict:
    """The arrays that an objective reads. Gates are the rewards themselves, or who passes."""
    if settings.objective in ("distance", "vendi", "logdet"):
        gates = {
            "product": signals.rewards_PN,
            "passing": signals.passing_PN,
            "none": np.ones_like(signals.rewards_PN),
        }[settings.gate]
        return {"distances": signals.distances_PNN, "gates": gates, "gate": settings.gate}
    if settings.objective in ("coverage", "pass_at_k"):
        return {"rewards": signals.passing_PN, "clusters": signals.clusters_PN}
    return {"rewards": signals.rewards_PN, "clusters": signals.clusters_PN}


def group_sequences(language_model: LanguageModel, groups: Sequence[Group]) -> list[TokenSequence]:
    """Prompt and generation of every member of every group as token sequences, in order."""
    sequences = []
    for group in groups:
        prompt_ids = tuple(
            encode_prompt(language_model.tokenizer, group.prompt, **language_model.chat_options)
        )
        sequences += [TokenSequence(prompt_ids + one.token_ids, len(prompt_ids)) for one in group.generations]
    return sequences
