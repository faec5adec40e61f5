"""Groups of sampled answers with their rewards and advantages, and batches of references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from polychromic.diversity.equivalence import MISSING, Partition, TextGroup
from polychromic.errors import CheckerError, DataError
from polychromic.models.chat import encode_example, encode_prompt
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence
from polychromic.numerics import BoolArray, FloatArray, IntArray, label_codes
from polychromic.objective import (
    FittedBaseline,
    baseline_equations,
    find_objective,
    set_advantages,
    subset_mean,
    surprisal_gram,
)
from polychromic.records import Check, Generation, Group, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler
from polychromic.tasks.base import Task
from polychromic.training.settings import DiversitySettings


@dataclass(frozen=True, slots=True)
class GroupSignals:
    """Holds what the objective is computed from, for P groups of N generations."""

    rewards_PN: FloatArray
    """In [0, 1], nan where the checker failed."""
    passing_PN: FloatArray
    """1 where the reward passes, 0 where not, nan where the checker failed."""
    clusters_PN: IntArray
    """MISSING where the equivalence failed, for one of the reasons in `unlabelled`."""
    distances_PNN: FloatArray
    unlabelled: tuple[str, ...] = ()
    is_divided: bool = True
    """False where nothing asks for the partition: then equal texts alone share a cluster."""

    @property
    def mean_clusters(self) -> float:
        """Returns the mean number of clusters of a group."""
        return float(np.mean([len(set(labels) - {MISSING}) for labels in self.clusters_PN.tolist()]))


def sample_groups(
    sampler: Sampler,
    task: Task,
    prompts: Sequence[Prompt],
    n: int,
    parameters: SamplingParameters,
    seeds: Sequence[int],
    *,
    truncation_reward: Literal["checker", "zero"] = "checker",
    prompts_at_once: int | None = None,
    on_sampled: Callable[[list[TextGroup]], None] = lambda _: None,
) -> list[Group]:
    """Samples n generations a prompt, each with its check; `truncation_reward: zero` gives 0 to those that the limit
    cut. `on_sampled` gets the texts of every `prompts_at_once` prompts (None: of all) as soon as they are sampled.
    """
    generations: list[list[Generation]] = []
    at_once = prompts_at_once or max(1, len(prompts))
    for start in range(0, len(prompts), at_once):
        chosen = slice(start, start + at_once)
        sampled = sampler.sample(prompts[chosen], n, parameters, seeds[chosen])
        texts = [[generation.text for generation in group] for group in sampled]
        on_sampled(list(zip(prompts[chosen], texts, strict=True)))
        generations += sampled
    checks = checks_of(
        task,
        [prompt for prompt in prompts for _ in range(n)],
        [member for group in generations for member in group],
        truncation_reward,
    )
    return [
        Group(prompt, tuple(group), tuple(checks[index * n : (index + 1) * n]))
        for index, (prompt, group) in enumerate(zip(prompts, generations, strict=True))
    ]


def checks_of(
    task: Task,
    prompts: Sequence[Prompt],
    generations: Sequence[Generation],
    truncation_reward: Literal["checker", "zero"],
) -> list[Check]:
    """Returns what the checker says of generations[i] to prompts[i]; with `zero`, 0 of those that the limit cut."""
    checks = task.check(prompts, [generation.text for generation in generations])
    if truncation_reward == "zero":
        checks = [
            Check(0.0) if generation.finish == "length" else check
            for generation, check in zip(generations, checks, strict=True)
        ]
    return checks


def group_signals(
    task: Task, groups: Sequence[Group], partitions: Sequence[Partition] | None, *, with_distances: bool
) -> GroupSignals:
    """Returns rewards, passes, clusters and (where an objective asks for them) distances of the groups.

    `partitions` are those of the groups, None where nothing asks for them. A generation without a label, because the
    equivalence failed on it, has no reward either: like one that the checker failed on it is left out, where a cluster
    of its own would be paid.
    """
    is_divided = partitions is not None
    if partitions is None:
        partitions = [Partition(label_codes(group.texts)) for group in groups]
    clusters_PN = np.stack([partition.labels_N for partition in partitions])
    rewards_PN = np.array([group.rewards for group in groups])
    rewards_PN = np.where(clusters_PN == MISSING, np.nan, rewards_PN)
    passing_PN = np.where(np.isnan(rewards_PN), np.nan, rewards_PN >= task.pass_threshold)
    n = rewards_PN.shape[1]
    distances_PNN = np.zeros((len(groups), n, n))
    if with_distances:
        distances_PNN = np.stack([task.distances(group.texts) for group in groups])
    unlabelled = tuple(reason for partition in partitions for reason in partition.reasons)
    return GroupSignals(rewards_PN, passing_PN, clusters_PN, distances_PNN, unlabelled, is_divided)


def joined_signals(parts: Sequence[GroupSignals]) -> GroupSignals:
    """Returns the signals of some groups together, in order."""
    return GroupSignals(
        np.concatenate([part.rewards_PN for part in parts]),
        np.concatenate([part.passing_PN for part in parts]),
        np.concatenate([part.clusters_PN for part in parts]),
        np.concatenate([part.distances_PNN for part in parts]),
        tuple(reason for part in parts for reason in part.unlabelled),
        all(part.is_divided for part in parts),
    )


def require_working_equivalence(signals: GroupSignals, largest_share: float) -> None:
    """Raises CheckerError with the reasons where more than `largest_share` of the generations have no label."""
    share = float((signals.clusters_PN == MISSING).mean())
    if share > largest_share:
        raise CheckerError(
            f"task.same_answer failed on {share:.0%} of a step's generations (training.max_unlabelled allows "
            f"{largest_share:.0%}): {'; '.join(sorted(set(signals.unlabelled))[:3])}"
        )


def require_working_checker(groups: Sequence[Group], largest_share: float) -> None:
    """Raises CheckerError with the reasons where the checker failed on more than `largest_share` of generations."""
    errors = [check.error or "no reason given" for group in groups for check in group.checks if check.reward is None]
    share = len(errors) / sum(len(group.checks) for group in groups)
    if share > largest_share:
        raise CheckerError(
            f"the checker failed on {share:.0%} of a step's generations (at most {largest_share:.0%} are allowed): "
            f"{'; '.join(sorted(set(errors))[:3])}"
        )


def diversity_advantages(
    signals: GroupSignals,
    settings: DiversitySettings,
    coefficients: Mapping[int, float] | None = None,
    generator: np.random.Generator | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Advantages [P, N] of the diversity objective and its unbiased estimate [P] for each group.

    `coefficients` are those of the fitted baseline, from earlier steps; None before there are any. `generator` draws
    subsets where a score without a closed form has too many to rate all.
    """
    inputs = {**objective_inputs(signals, settings), "generator": generator}
    advantages_PN = set_advantages(
        settings.objective, settings.set_size, baseline=settings.baseline, coefficients=coefficients, **inputs
    )
    score_P = subset_mean(settings.objective, settings.set_size, **inputs)
    return advantages_PN, score_P


def diversity_signal(
    signals: GroupSignals, settings: DiversitySettings, generator: np.random.Generator | None = None
) -> BoolArray:
    """Returns [P]: whether some generation of a group has another advantage than the others.

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


def objective_inputs(signals: GroupSignals, settings: DiversitySettings) -> dict[str, Any]:
    """Returns the arrays that the objective reads, by argument of `set_advantages`.

    Gates are the rewards themselves, or who passes, by the gate rule.
    """
    reads = find_objective(settings.objective).reads
    inputs: dict[str, Any] = {}
    if "passing" in reads or "rewards" in reads:
        inputs["rewards"] = signals.passing_PN if "passing" in reads else signals.rewards_PN
    if "clusters" in reads:
        # An objective that reads clusters alone sees no reward that is missing.
        labels_PN = signals.clusters_PN.astype(object)
        labels_PN[signals.clusters_PN == MISSING] = None
        inputs["clusters"] = labels_PN
    if "distances" in reads:
        inputs["distances"] = signals.distances_PNN
    if "gates" in reads:
        gates = {"product": signals.rewards_PN, "passing": signals.passing_PN}
        inputs["gates"] = gates.get(settings.gate, np.ones_like(signals.rewards_PN))
        inputs["gate"] = settings.gate
    return inputs


def group_sequences(language_model: LanguageModel, groups: Sequence[Group]) -> list[TokenSequence]:
    """Returns the prompt and generation of every member of every group as token sequences, in order."""
    sequences = []
    for group in groups:
        prompt_ids = tuple(encode_prompt(language_model.tokenizer, group.prompt, **language_model.chat_options))
        sequences += [
            TokenSequence(prompt_ids + generation.token_ids, len(prompt_ids)) for generation in group.generations
        ]
    return sequences


def has_gate_part(settings: DiversitySettings) -> bool:
    """Tells whether pairs are weighed by their rewards, so that the score can also be raised by them."""
    return settings.gate == "product" and find_objective(settings.objective).pairwise


def gate_part(
    signals: GroupSignals, settings: DiversitySettings, coefficients: Mapping[int, float] | None = None
) -> FloatArray:
    """Returns the gate's part [P, N] of the diversity advantages; they minus it are the distance's."""
    n = signals.rewards_PN.shape[1]
    flat_PNN = mean_distances(signals.distances_PNN)[:, None, None] * (1.0 - np.eye(n))
    return diversity_advantages(replace(signals, distances_PNN=flat_PNN), settings, coefficients)[0]


def distance_metrics(signals: GroupSignals, diversity_PN: FloatArray, gate_PN: FloatArray | None) -> dict[str, float]:
    """Returns the mean raw distance within groups, and the gate's share of the advantages where it has a part.

    The cheapest way to raise g_i g_j d_ij may be g: then the score rises while the raw distance falls.
    """
    metrics = {"groups/distance": float(np.nanmean(mean_distances(signals.distances_PNN)))}
    if gate_PN is not None:
        metrics["train/diversity_gate_share"] = gate_share(diversity_PN, gate_PN)
    return metrics


def mean_distances(distances_PNN: FloatArray) -> FloatArray:
    """Returns the mean distance between two members of each group, [P]."""
    n = distances_PNN.shape[-1]
    return distances_PNN.sum(axis=(-2, -1)) / (n * (n - 1))


def gate_share(diversity_PN: FloatArray, gate_PN: FloatArray) -> float:
    """Returns |A_gate| / (|A_gate| + |A_distance|) summed over generations; nan where both are 0."""
    by_gate, by_distance = float(np.abs(gate_PN).sum()), float(np.abs(diversity_PN - gate_PN).sum())
    return by_gate / (by_gate + by_distance) if by_gate + by_distance > 0 else float("nan")


def learn_from(
    baseline: FittedBaseline,
    groups: Sequence[Group],
    signals: GroupSignals,
    settings: DiversitySettings,
    generator: np.random.Generator | None = None,
) -> FittedBaseline:
    """Returns the baseline for the next step, once this step's groups have had their advantages.

    The Gram matrix of the scores is stood in for by the surprisal of the sampled tokens, which costs nothing, or by
    the identity where the sampler does not tell it: a worse stand-in would cost variance, never bias.
    """
    logprobs_PN = np.array([[generation.logprob for generation in group.generations] for group in groups])
    texts_PN = np.array([[str(generation.token_ids) for generation in group.generations] for group in groups])
    gram_PNN = None if np.isnan(logprobs_PN).any() else surprisal_gram(logprobs_PN, texts_PN)
    equations = baseline_equations(
        settings.objective,
        settings.set_size,
        score_gram=gram_PNN,
        set_sizes=baseline.set_sizes or None,  # a resumed run keeps the mix that it began with
        generator=generator,
        **objective_inputs(signals, settings),
    )
    return baseline.update(equations)


@dataclass(frozen=True, slots=True)
class ReferenceSequences:
    """Sequences by prompt id; prompts none of whose references fit are absent, and left-out pairs are counted."""

    by_prompt: dict[str, list[TokenSequence]]
    n_too_long: int

    def of(self, prompts: Sequence[Prompt]) -> list[TokenSequence]:
        """Returns the sequences of some prompts, in order."""
        return [sequence for prompt in prompts for sequence in self.by_prompt[prompt.id]]


def reference_sequences(
    language_model: LanguageModel, prompts: Sequence[Prompt], max_length: int, *, split: str = "training"
) -> ReferenceSequences:
    """Encodes every reference once. Raises DataError where nothing is left to learn from."""
    references = fitting_references(language_model, prompts, max_length)
    if not references.by_prompt:
        raise DataError(
            f"training.loss is sft, but none of {len(prompts)} {split} prompts has one that fits into "
            f"{max_length} tokens ({references.n_too_long} are longer); raise training.max_length or add references"
        )
    return references


def fitting_references(language_model: LanguageModel, prompts: Sequence[Prompt], max_length: int) -> ReferenceSequences:
    """Encodes every reference once; those of more than `max_length` tokens with their prompt are left out."""
    by_prompt: dict[str, list[TokenSequence]] = {}
    n_too_long = 0
    for prompt in prompts:
        for reference in prompt.references:
            example = encode_example(
                language_model.tokenizer, prompt, reference, max_length, **language_model.chat_options
            )
            if example is None:
                n_too_long += 1
                continue
            n_prompt = len(example.input_ids) - sum(example.loss_mask)
            by_prompt.setdefault(prompt.id, []).append(TokenSequence(tuple(example.input_ids), n_prompt))
    return ReferenceSequences(by_prompt, n_too_long)
