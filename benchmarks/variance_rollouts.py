"""Variance of the gradient estimator on real rollouts of the packaged arithmetic model, over all its parameters.

For every generation ∇ log π(y) is computed, so that the Gram matrices are exact. The fitted mix is cross-fitted: half
of the prompts against the other half, once with the exact Gram matrix and once with the stand-in that training uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.logprobs import answer_logprobs
from polychromic.models.settings import ModelSettings
from polychromic.objective import surprisal_gram
from polychromic.records import Group, SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.tasks.equivalence import equivalence_of
from polychromic.training.rollouts import GroupSignals, group_sequences, group_signals, sample_groups
from variance import PUBLISHED, SCORES, SIZES, K, Moments, N, design, fit, label, print_header, print_row

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Rollout:
    """One group with the gradients [N, D] of its generations' log-probabilities."""

    signals: GroupSignals
    gradients_ND: torch.Tensor
    surrogate_NN: FloatArray

    @property
    def gram(self) -> FloatArray:
        """Inner products of the gradients."""
        return (self.gradients_ND @ self.gradients_ND.T).double().numpy()


def on_rollouts(n_prompts: int, n_groups: int, temperature: float) -> None:
    """Relative variance of every baseline over prompts that the model sometimes solves, for every score."""
    language_model = load_language_model(ModelSettings(source="polychromic:arithmetic-tiny"))
    language_model.model.requires_grad_(True)
    task = ArithmeticTask(validation_problems=n_prompts)
    print(f"{n_prompts} validation problems × {n_groups} groups of {N} at T = {temperature:g}, K = {K}")
    names = [*PUBLISHED, "fitted", "fitted, surprisal Gram"]
    print_header("score", *names, "leave-one-out / fitted", "leave-one-out / surprisal")
    per_score: dict[str, list[list[tuple[FloatArray, FloatArray]]]] = {label(*score): [] for score in SCORES}
    norms: dict[str, list[float]] = {name: [] for name in per_score}
    for prompt in task.prompts("validation"):
        rollouts = sample_rollouts(language_model, task, prompt, n_groups, temperature)
        for objective, gate in SCORES:
            forms, gradients = zip(*(_form(one, objective, gate) for one in rollouts), strict=True)
            per_score[label(objective, gate)].append(list(forms))
            norms[label(objective, gate)].append(_squared_norm(gradients))
    for name, forms in per_score.items():
        _print_score(name, forms, norms[name])


def _print_score(name: str, forms: list[list[tuple[FloatArray, FloatArray]]], norms: list[float]) -> None:
    """forms: of each prompt and group (exact form, form under the surrogate)."""
    exact = [np.mean([one for one, _ in groups], axis=0) for groups in forms]
    signal = float(np.sum(norms))
    variance: dict[str, float] = dict.fromkeys([*PUBLISHED, "fitted", "surprisal"], 0.0)
    halves = (range(0, len(forms), 2), range(1, len(forms), 2))
    for half, others in (halves, halves[::-1]):
        mixes = {
            "fitted": fit(_in_turn([forms[p] for p in others], which=0)),
            "surprisal": fit(_in_turn([forms[p] for p in others], which=1)),
            **PUBLISHED,
        }
        for p in half:
            moments = Moments(exact[p], norms[p])
            for key, mix in mixes.items():
                variance[key] += moments.variance(mix)
    ratios = [variance["leave-one-out"] / variance[key] for key in ("fitted", "surprisal")]
    print_row(name, *(f"{value / signal:.3g}" for value in variance.values()), *(f"{ratio:.2f}" for ratio in ratios))


def _in_turn(forms: list[list[tuple[FloatArray, FloatArray]]], which: int) -> FloatArray:
    """The forms [groups, X, X] of several prompts, the first group of each first, as batches in training are."""
    return np.stack([groups[g][which] for g in range(len(forms[0])) for groups in forms])


def _form(rollout: Rollout, objective: str, gate: str) -> tuple[tuple[FloatArray, FloatArray], torch.Tensor]:
    signals = rollout.signals
    passing = signals.passing_PN
    arrays = {
        "rewards": passing,
        "clusters": signals.clusters_PN,
        "distances": signals.distances_PNN,
        "gates": passing,
    }
    design_NX = design(objective, gate, arrays)[0]
    forms = [design_NX.T @ gram @ design_NX for gram in (rollout.gram, rollout.surrogate_NN)]
    # Leave-one-out's gradient: any unbiased one serves to estimate the squared norm of the mean.
    advantages_N = torch.tensor(design_NX[:, 0] - design_NX[:, 1 + SIZES.index(K)], dtype=torch.float32)
    return (forms[0], forms[1]), advantages_N @ rollout.gradients_ND


def _squared_norm(gradients: Sequence[torch.Tensor]) -> float:
    """‖E g‖² without bias: the mean inner product of different groups' gradients."""
    stacked = torch.stack(list(gradients)).double()
    n = len(stacked)
    return float((stacked.sum(dim=0).square().sum() - stacked.square().sum()) / (n * (n - 1)))


def sample_rollouts(
    language_model: LanguageModel, task: ArithmeticTask, prompt: object, n_groups: int, temperature: float
) -> list[Rollout]:
    """Groups of one prompt with their gradients."""
    parameters = SamplingParameters(temperature, max_new_tokens=24)
    sampler = LocalSampler(language_model)
    groups = sample_groups(sampler, task, [prompt] * n_groups, N, parameters, list(range(n_groups)))  # type: ignore[list-item]
    return [_rollout(language_model, task, group, temperature) for group in groups]


def _rollout(language_model: LanguageModel, task: ArithmeticTask, group: Group, temperature: float) -> Rollout:
    weights = list(language_model.model.parameters())
    logprobs = answer_logprobs(language_model, group_sequences(language_model, [group]), temperature=temperature)
    gradients = []
    for row in logprobs.logprobs_BT:
        parts = torch.autograd.grad(row.sum(), weights, retain_graph=True, allow_unused=True)
        gradients.append(torch.cat([part.ravel() for part in parts if part is not None]))
    sums = logprobs.logprobs_BT.detach().sum(dim=1).double().numpy()
    return Rollout(
        group_signals(
            task, [group], equivalence_of(task).partitions([(group.prompt, group.texts)]), with_distances=True
        ),
        torch.stack(gradients),
        surprisal_gram(sums, np.array(group.texts))[0],
    )
