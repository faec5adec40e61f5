"""Judges every arm, every level and the whole, and holds all that a comparison found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from polychromic.evaluation.audits.checker import CheckerAudit
from polychromic.evaluation.audits.partition import PartitionAudit
from polychromic.evaluation.counting.sameness import ArmSameness
from polychromic.evaluation.criteria import DEFAULT_LEVELS, Criterion, Levels, ResultWarning, listed, plural
from polychromic.evaluation.outcomes import CriterionOutcome, Evidence, Status, decide, test_p_value
from polychromic.evaluation.statistics.frontier import Curve, MatchedGain
from polychromic.evaluation.statistics.intervals import Resampling
from polychromic.evaluation.statistics.paired import PairedComparison
from polychromic.evaluation.statistics.sensitivity import Overtaking, Robustness
from polychromic.files import strict_json

Found = Mapping[tuple[str, Criterion], Evidence]
"""Evidence by arm and criterion; what was not measured is absent."""

# What one criterion says of a whole level: a demand that failed outweighs one that could not be met, and so on.
_WORST_FIRST: tuple[Status, ...] = ("not met", "impossible", "undecided", "met")
# The arm that stands for a level is the one that came furthest.
_BEST_FIRST: tuple[Status, ...] = ("met", "undecided", "not met", "impossible")


@dataclass(frozen=True, slots=True)
class LevelVerdict:
    """Holds one level: the status of each arm, and that of the arm that came furthest."""

    name: str
    status: Status
    best_arm: str
    arms: Mapping[str, Status]
    outcomes: tuple[CriterionOutcome, ...]

    def of_arm(self, arm: str) -> tuple[CriterionOutcome, ...]:
        """Returns the outcomes of one arm, in the order of the criteria."""
        return tuple(outcome for outcome in self.outcomes if outcome.arm == arm)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Holds the whole: the status of the first level, a sentence for people, and every level.

    `question` says whom the first level answers for: these trained models, or the way of training. `hacked` names
    arms whose training reward rose while the judge did not follow, `gamed` those whose different answers rose while the
    second partition did not follow, `chosen_late` settings that decide the verdict and were changed after results had
    been seen, `leaked` what of the evaluated prompts training has seen, `unjudged` how many rewards are missing that
    criteria rest on. `unsound` says what is wrong with the
    partition that every count of different answers rests on, and stands before all else.
    """

    status: Status
    sentence: str
    levels: tuple[LevelVerdict, ...]
    question: str = ""
    hacked: tuple[str, ...] = ()
    chosen_late: tuple[str, ...] = ()
    leaked: str = ""
    unjudged: str = ""
    gamed: tuple[str, ...] = ()
    unsound: str = ""

    def level(self, name: str) -> LevelVerdict:
        """Returns the level called `name`; raises ValueError that lists the levels."""
        for level in self.levels:
            if level.name == name:
                return level
        raise ValueError(f"level {name!r}: expected one of {[level.name for level in self.levels]}")


COMPARISON_SCHEMA = 2
"""Version of the content of comparison.json."""


@dataclass(frozen=True, slots=True)
class ArmMean:
    """Holds one metric's mean over prompts and seeds with its interval, and the mean of each seed."""

    arm: str
    sampling: str
    metric: str
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    n_prompts: int


@dataclass(frozen=True, slots=True)
class Contrast:
    """Holds one arm against the baseline on one metric under one sampling setting (differences are arm − baseline)."""

    arm: str
    sampling: str
    metric: str
    comparison: PairedComparison


@dataclass(frozen=True, slots=True)
class ArmCurve:
    """Holds Pass@k or distinct correct answers of k, of one arm under one sampling setting."""

    arm: str
    sampling: str
    name: str
    curve: Curve


@dataclass(frozen=True, slots=True)
class AtDistance:
    """Holds the verdict with embeddings clustered at another distance."""

    distance: float
    status: Status
    sentence: str


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Holds one arm against the baseline on a metric that a criterion names, looked at prompt by prompt: the
    differences (arm − baseline, seeds averaged, nan where undefined) in the order of the comparison's prompts, and what
    other customary tests say of them."""

    arm: str
    metric: str
    differences: tuple[float, ...]
    robustness: Robustness


@dataclass(frozen=True, slots=True)
class Comparison:
    """Holds all that is known of an experiment's arms; `to_json` is the content of comparison.json."""

    baseline: str
    arms: tuple[str, ...]
    seeds: Mapping[str, tuple[int, ...]]
    primary_sampling: str
    prompts: tuple[str, ...]
    means: tuple[ArmMean, ...]
    contrasts: tuple[Contrast, ...]
    sensitivity: tuple[Sensitivity, ...]
    frontier: tuple[MatchedGain, ...]
    curves: tuple[ArmCurve, ...]
    warnings: tuple[ResultWarning, ...]
    verdict: Verdict
    clusters: str
    signatures: Mapping[str, str]
    resampling: Resampling
    checker: CheckerAudit | None = None
    """The training checker's rewards of texts known to be good or bad; None where no audit was made."""
    partition: PartitionAudit | None = None
    """The trials of the partition into same answers; None for a task's own canonical form."""
    at_distances: tuple[AtDistance, ...] = ()
    """The verdict at other distances; empty where embeddings do not divide, or no criterion rests on the partition."""
    untrained: str | None = None
    """The arm that is the model before training: shown, never judged. None where it was not sampled."""
    against_untrained: tuple[Contrast, ...] = ()
    """Every trained arm against the untrained model (differences are arm − untrained), on the criteria's metrics."""
    overtakings: tuple[Overtaking, ...] = ()
    """By arm, the smallest k from which on the untrained model's pass@k is higher."""
    equal_length: tuple[Contrast, ...] = ()
    """Contrasts with texts cut to equal lengths, of arms whose lengths differ from the baseline's."""
    sameness: tuple[ArmSameness, ...] = ()
    """Shares in which every two arms give the same answer, at the primary sampling; all arms of one partition."""
    n_answered: int | None = None
    """Prompts that the baseline and every judged arm answered at the primary sampling; None: all of `prompts`."""

    def to_json(self) -> dict[str, Any]:
        """Returns a plain mapping with its schema version; what is undefined (nan) is null."""
        return json.loads(strict_json({"schema_version": COMPARISON_SCHEMA, **asdict(self)}))

    @property
    def n_prompts(self) -> int:
        """Counts the prompts that are compared at the primary sampling."""
        return len(self.prompts) if self.n_answered is None else self.n_answered

    def mean(self, arm: str, metric: str, sampling: str | None = None) -> ArmMean | None:
        """Returns an arm's mean of a metric, at the primary sampling unless another is named."""
        wanted = (arm, sampling or self.primary_sampling, metric)
        return next((mean for mean in self.means if (mean.arm, mean.sampling, mean.metric) == wanted), None)

    def contrast(self, arm: str, metric: str, sampling: str | None = None) -> PairedComparison | None:
        """Returns an arm's comparison with the baseline on a metric, at the primary sampling unless another way is
        named."""
        named = {(contrast.arm, contrast.sampling, contrast.metric): contrast.comparison for contrast in self.contrasts}
        return named.get((arm, sampling or self.primary_sampling, metric))


def judge(
    levels: Levels,
    arms: Sequence[str],
    evidence: Found,
    *,
    basis: str = "",
    hacked: Sequence[str] = (),
    gamed: Sequence[str] = (),
    chosen_late: Sequence[str] = (),
    leaked: str = "",
    unjudged: str = "",
    unsound: str = "",
    alone: Sequence[str] = (),
) -> Verdict:
    """Judges every arm by every criterion. p-values are corrected by Holm over all arms and criteria of a level.

    `basis` says what it rests on ("200 prompts, 3 seeds"), `alone` names arms of one seed that stand against each seed
    of another. Without an arm, or without a criterion, nothing is decided.
    """
    stated = {name: criteria for name, criteria in levels.items() if criteria}
    if not arms or not stated:
        missing = "no criterion was stated" if arms else "the baseline is the only arm"
        return Verdict("undecided", f"Nothing to judge: {missing}.", ())
    judged = tuple(_judge_level(name, criteria, arms, evidence) for name, criteria in stated.items())
    sentence = _sentence(judged, basis, hacked, gamed)
    if chosen_late:
        sentence += f" Changed after results had been seen, and perhaps because of them: {listed(list(chosen_late))}."
    sentence += "".join(f" But {fault}." for fault in (leaked, unjudged) if fault)
    if unsound:
        sentence = f"The partition fails its audit: {unsound}. {sentence}"
    return Verdict(
        judged[0].status,
        sentence,
        judged,
        _question(judged[0], alone),
        hacked=tuple(hacked),
        chosen_late=tuple(chosen_late),
        leaked=leaked,
        unjudged=unjudged,
        gamed=tuple(gamed),
        unsound=unsound,
    )


def judge_means(
    baseline: Mapping[str, float], arm: Mapping[str, float], *, levels: Levels = DEFAULT_LEVELS, name: str = "arm"
) -> Verdict:
    """Judges published means by metric key, of which no values of single prompts are known.

    What falls short is not met (or impossible); what reaches the change asked for stays undecided, because a
    mean carries no test.
    """
    in_both = arm.keys() & baseline.keys()
    evidence = {
        (name, criterion): Evidence(arm[criterion.metric], baseline[criterion.metric])
        for criteria in levels.values()
        for criterion in criteria
        if criterion.metric in in_both
    }
    return judge(levels, [name], evidence, basis="means only")


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected over their family by Holm's method; nan stays nan and is not counted.

    The i-th smallest of m is multiplied by m − i + 1, and is no smaller than the one before it.
    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    p_M = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_M)[: np.count_nonzero(~np.isnan(p_M))]  # nan comes last
    p_M[order] = np.minimum(np.maximum.accumulate(p_M[order] * np.arange(len(order), 0, -1)), 1.0)
    return p_M.tolist()


def _question(level: LevelVerdict, alone: Sequence[str]) -> str:
    """Returns one sentence on whom the level's p-values and intervals answer for; empty where nothing was tested."""
    verb = "has one seed and is" if len(alone) == 1 else "have one seed each and are"
    but = f"; {listed(list(alone))} {verb} taken as it stands" if alone else ""
    tested = [
        outcome.evidence.comparison for outcome in level.outcomes if outcome.evidence and outcome.evidence.comparison
    ]
    kinds = {comparison.asks_over_seeds for comparison in tested}
    if not kinds:
        return ""
    if len(kinds) > 1:
        return (
            "Criteria over seeds answer for this way of training, on other prompts and with other seeds; the others "
            f"for these trained models, on other prompts{but}."
        )
    if kinds == {True}:
        n_seeds = min(comparison.n_seeds for comparison in tested)
        return (
            "This answers for the way of training, on other prompts and with other seeds, as far as "
            f"{plural(n_seeds, 'training seed')} can tell{but}."
        )
    return "This answers for these trained models, on other prompts; training again with other seeds may differ."


def _judge_level(name: str, criteria: Sequence[Criterion], arms: Sequence[str], all_evidence: Found) -> LevelVerdict:
    family = [(arm, criterion, all_evidence.get((arm, criterion))) for arm in arms for criterion in criteria]
    adjusted = holm([test_p_value(criterion, evidence) for _, criterion, evidence in family])
    outcomes = tuple(
        decide(arm, name, criterion, evidence, p)
        for (arm, criterion, evidence), p in zip(family, adjusted, strict=True)
    )
    counts = Counter((outcome.arm, outcome.status) for outcome in outcomes)
    by_arm: dict[str, Status] = {arm: next(status for status in _WORST_FIRST if counts[arm, status]) for arm in arms}
    best_arm = min(arms, key=lambda arm: (_BEST_FIRST.index(by_arm[arm]), -counts[arm, "met"]))
    return LevelVerdict(name, by_arm[best_arm], best_arm, by_arm, outcomes)


def _sentence(levels: Sequence[LevelVerdict], basis: str, hacked: Sequence[str], gamed: Sequence[str]) -> str:
    first = levels[0]
    sentence = _first_level(first)
    further = [level.name for level in levels[1:] if level.arms[first.best_arm] == "met"]
    if first.status == "met" and further:
        sentence += f" It also meets the {listed(further)} criteria."
    if hacked:
        sentence += f" Reward hacking: in {listed(list(hacked))} the training reward rose and the judge did not follow."
    if gamed:
        sentence += (
            f" Partition gaming: in {listed(list(gamed))} different answers rose by task.same_answer and the second "
            "partition did not follow."
        )
    return f"{sentence} ({basis})" if basis else sentence


def _first_level(level: LevelVerdict) -> str:
    outcomes = level.of_arm(level.best_arm)
    if level.status == "met":
        return f"{level.best_arm} meets the {level.name} criteria: {listed([o.sentence for o in outcomes])}."
    failed = [outcome for outcome in outcomes if outcome.status != "met"]
    reasons = "; ".join(outcome.sentence for outcome in failed)
    if level.status == "undecided":
        takes = "; ".join(dict.fromkeys(outcome.would_take for outcome in failed))
        return f"Undecided whether {level.best_arm} meets the {level.name} criteria: {reasons}. It would take {takes}."
    if len(level.arms) > 1:
        verb = "can meet" if level.status == "impossible" else "meets"
        return f"No arm ({level.best_arm} came furthest) {verb} the {level.name} criteria: {reasons}."
    verb = "cannot meet" if level.status == "impossible" else "does not meet"
    return f"{level.best_arm} {verb} the {level.name} criteria: {reasons}."
