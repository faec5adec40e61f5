"""Finds what looks wrong in a run: a table of rules over the evidence of an arm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from polychromic.diagnosis.traces import ArmEvidence, switched

Severity = Literal["fault", "warning"]

GRADIENT_SHARE = "train/diversity_gradient_share"
LOSS_SHARE = "train/diversity_loss_share"
GATE_SHARE = "train/diversity_gate_gradient_share"

_FEWEST_MEASUREMENTS = 5  # before which λ has had no time to answer


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that looks wrong: a stable `kind` for programs, a sentence and the fix for people."""

    kind: str
    severity: Severity
    sentence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table: the finding that stands where the condition holds. Comparisons with nan are false."""

    kind: str
    severity: Severity
    holds: Callable[[ArmEvidence], bool]
    sentence: Callable[[ArmEvidence], str]
    fix: str | Callable[[ArmEvidence], str]

    def __call__(self, evidence: ArmEvidence) -> Finding | None:
        """Returns the rule's finding, None where its condition does not hold."""
        if not self.holds(evidence):
            return None
        fix = self.fix if isinstance(self.fix, str) else self.fix(evidence)
        return Finding(self.kind, self.severity, self.sentence(evidence), fix)


def find(evidence: ArmEvidence) -> list[Finding]:
    """Lists all findings of an arm in the order in which to act on them: faults first.

    Of the causes only the first counts, since it explains the next ones: identical generations also close the
    gradient.
    """
    causes = [finding for rule in CAUSES if (finding := rule(evidence)) is not None]
    symptoms = [finding for rule in SYMPTOMS if (finding := rule(evidence)) is not None]
    return sorted([*causes[:1], *symptoms], key=lambda finding: finding.severity != "fault")


def _truncated(evidence: ArmEvidence) -> tuple[float, str]:
    """Returns the share of generations that were cut all along, and of which; nan where they were not from the start.

    An arm that samples nothing while it trains is judged by what was evaluated.
    """
    late = evidence.trace.late("generation/truncated")
    if math.isnan(late) and evidence.texts is not None:
        return evidence.texts.truncated, "the evaluated generations"
    from_the_start = evidence.trace.early("generation/truncated") >= 0.5
    return late if from_the_start else math.nan, "the generations"


def _is_one_answer(evidence: ArmEvidence) -> bool:
    return evidence.trace.early("groups/clusters") <= 1.05


def _passes_everything(evidence: ArmEvidence) -> bool:
    return evidence.trace.early("train/passing") >= 0.98 and not _is_one_answer(evidence)


def _said_of_passing(evidence: ArmEvidence) -> str:
    return (
        f"{_percent(evidence.trace.early('train/passing'))} of the generations passed from the first steps on: the "
        "checker accepts nearly anything, or the task is solved already"
    )


_AUDIT = "audit the checker (`polychromic preflight`): it has to refuse shuffled, empty and repeated answers"


def _needed_weight(evidence: ArmEvidence) -> float:
    """Returns the λ that would give the diversity term 30 % of the gradient."""
    share = evidence.trace.mean(GRADIENT_SHARE)
    return evidence.weight * 0.3 / 0.7 * (1 - share) / share


def _fell_apart(evidence: ArmEvidence) -> str:
    clusters, entropy = evidence.trace.edges("groups/clusters"), evidence.trace.edges("generation/entropy")
    sentence = f"distinct answers per group fell from {clusters[0]:.1f} to {clusters[1]:.1f}"
    if math.isnan(entropy[1]):
        return sentence
    return f"{sentence}, entropy from {entropy[0]:.2f} to {entropy[1]:.2f} nats per token"


def _collapsed(evidence: ArmEvidence) -> bool:
    before, after = evidence.trace.edges("groups/clusters")
    return after < 0.6 * before and before > 1.05


def _entropy_grew(evidence: ArmEvidence) -> bool:
    before, after = evidence.trace.edges("generation/entropy")
    return after > 1.5 * before and after > before + 0.5


def _lengths_grew(evidence: ArmEvidence) -> bool:
    tokens, truncated = evidence.trace.edges("generation/tokens"), evidence.trace.edges("generation/truncated")
    much_longer = tokens[1] > 1.5 * tokens[0] and tokens[1] > tokens[0] + 5
    return much_longer or truncated[1] > truncated[0] + 0.25


def _said_of_lengths(evidence: ArmEvidence) -> str:
    tokens, truncated = evidence.trace.edges("generation/tokens"), evidence.trace.edges("generation/truncated")
    return (
        f"answers grew from {tokens[0]:.0f} to {tokens[1]:.0f} tokens while training, and {_percent(truncated[1])} of "
        f"them are cut at max_new_tokens = {evidence.facts.max_new_tokens} ({_percent(truncated[0])} at the beginning)"
    )


def _gate_ate(evidence: ArmEvidence) -> bool:
    distance, score = evidence.trace.edges("groups/distance"), evidence.trace.edges("train/diversity_score")
    return evidence.weight != 0 and distance[1] < 0.85 * distance[0] and score[1] > score[0]


def _said_of_the_gate(evidence: ArmEvidence) -> str:
    distance, score = evidence.trace.edges("groups/distance"), evidence.trace.edges("train/diversity_score")
    share, of_what = evidence.trace.mean(GATE_SHARE), "diversity gradient"
    if math.isnan(share):
        share, of_what = evidence.trace.mean("train/diversity_gate_share"), "advantages"
    return (
        f"the gated score rose from {score[0]:.2f} to {score[1]:.2f} while the raw distance between answers fell from "
        f"{distance[0]:.2f} to {distance[1]:.2f}; {_percent(share)} of the {of_what} came from the gate"
    )


def _broke_the_floor(evidence: ArmEvidence) -> bool:
    floor = evidence.floor
    return floor is not None and bool(floor.broken) and floor.measurements >= _FEWEST_MEASUREMENTS


def _said_of_the_floor(evidence: ArmEvidence) -> str:
    floor = evidence.floor
    assert floor is not None
    clear = any(seed.mean + 2 * seed.standard_error < floor.lowest for seed in floor.broken)
    sentence = f"{floor.sentence}: {len(floor.broken)} of {len(floor.seeds)} seeds ended below it"
    return sentence if clear else f"{sentence}, though not by more than two standard errors"


def _switched(evidence: ArmEvidence) -> tuple[float, str]:
    if evidence.texts is None or evidence.baseline_texts is None:
        return 0.0, ""
    return switched(evidence.texts, evidence.baseline_texts)


def _percent(share: float) -> str:
    if math.isnan(share):
        return "an unknown share"
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.2g} %"


# In the order in which one explains the next; the first that holds is the cause.
CAUSES: tuple[Rule, ...] = (
    Rule(
        "never-ends", "fault",
        lambda e: _truncated(e)[0] >= 0.9,
        lambda e: f"{_percent(_truncated(e)[0])} of {_truncated(e)[1]} were cut at max_new_tokens = "
        f"{e.facts.max_new_tokens}: the model does not end its answers",
        "train on references that end with the turn end first (the loss mask covers it), or raise max_new_tokens",
    ),
    Rule(
        "gate-closed", "warning",
        lambda e: e.trace.largest("train/passing") == 0.0 and e.trace.largest("train/reward") > 0.0,
        lambda e: "no generation ever reached the pass threshold (mean reward of a step at most "
        f"{e.trace.largest('train/reward'):.2f}), so that diversity among passing answers has nothing to follow",
        "lower the threshold, train for quality first, or weigh by the reward itself (gate: product)",
    ),
    Rule(
        "gate-closed", "fault",
        lambda e: e.trace.largest("train/passing") == 0.0,
        lambda e: "no generation ever passed the checker, so that neither reward nor gated diversity has anything to "
        "follow",
        "look at generations beside the checker's verdict; train on references first, or use an easier checker",
    ),
    Rule(
        "identical-generations", "fault",
        _is_one_answer,
        lambda e: "all generations of a prompt were the same from the beginning (sampled at temperature "
        f"{e.facts.temperature:g}): without differences there is nothing to learn from",
        "sample at training.temperature near 1, and start from a model that has not collapsed",
    ),
    Rule(
        "checker-passes-everything", "fault",
        lambda e: e.facts.learns_from_rewards and _passes_everything(e), _said_of_passing, _AUDIT,
    ),
    Rule("checker-passes-everything", "warning", _passes_everything, _said_of_passing, _AUDIT),
    Rule(
        "no-gradient-path", "fault",
        lambda e: e.weight != 0 and e.trace.largest(GRADIENT_SHARE) == 0.0
        and e.trace.mean("groups/diversity_signal") > 0,
        lambda e: f"the diversity term is {_percent(e.trace.mean(LOSS_SHARE))} of the loss and 0 % of the gradient at "
        f"λ = {e.weight:g}: its score is detached, and training at any λ is training at λ = 0",
        "compute the term from log-probabilities of the sampled tokens (objective.losses), never from a number",
    ),
    Rule(
        "weight-too-small", "warning",
        lambda e: e.weight != 0 and 0 < e.trace.mean(GRADIENT_SHARE) < 0.01,
        lambda e: f"at λ = {e.weight:g} the diversity term is {_percent(e.trace.mean(GRADIENT_SHARE))} of the "
        "gradient: the arm can hardly differ from the baseline",
        lambda e: f"raise diversity.weight; about {_needed_weight(e):.2g} would give it 30 %, or let it tune itself "
        "(weight: auto)",
    ),
    Rule(
        "no-diversity-signal", "warning",
        lambda e: e.weight != 0 and e.trace.mean("groups/diversity_signal") < 0.1,
        lambda e: f"only {_percent(e.trace.mean('groups/diversity_signal'))} of the groups gave the diversity term "
        "anything to prefer",
        "use more generations per prompt, another set size, or prompts of middling difficulty",
    ),
)  # fmt: skip
below_floor = Rule(
    "below-floor", "warning", _broke_the_floor, _said_of_the_floor,
    "train longer, since λ needs steps to come down, or ask for a floor that lies higher; see whether λ is at its "
    "lowest bound",
)  # fmt: skip
SYMPTOMS: tuple[Rule, ...] = (
    Rule(
        "same-weights-as-baseline", "fault",
        lambda e: not e.is_baseline and e.weight != 0 and e.distance is not None and e.distance.relative < 1e-6,
        lambda e: "the trained weights equal the baseline's: the diversity term changed nothing",
        "compare loss share and gradient share above; a term without a gradient trains nothing",
    ),
    Rule(
        "weights-did-not-move", "fault",
        lambda e: e.distance is not None and e.distance.norm == 0.0,
        lambda e: "the adapter's update is exactly zero: nothing was learnt",
        "raise training.learning_rate, and see whether any group had a signal (groups/no_signal)",
    ),
    Rule(
        "collapse", "warning", _collapsed, _fell_apart,
        "expected of the baseline in reward training; in a diversity arm raise λ, add kl_weight (loss: rl) or stop "
        "earlier",
    ),
    Rule(
        "gibberish-growth", "warning", _entropy_grew,
        lambda e: "entropy per token grew from {:.2f} to {:.2f} nats: the answers drift towards noise".format(
            *e.trace.edges("generation/entropy")
        ),
        "lower λ, gate diversity by quality (gate: product or passing), or hold a floor (weight: auto, mode: floor)",
    ),
    Rule(
        "length-hacking", "warning", _lengths_grew, _said_of_lengths,
        "checker or diversity measure pays for length: set training.truncation_reward: zero, raise max_new_tokens, and "
        "compare at matched length (rarefied Distinct-n)",
    ),
    Rule(
        "gate-eats-diversity", "warning", _gate_ate, _said_of_the_gate,
        "use gate: passing, or no gate under a quality floor (weight: auto, mode: floor); judge by the frontier",
    ),
    Rule(
        "reward-without-signal", "warning",
        lambda e: e.facts.learns_from_rewards and e.trace.late("groups/no_signal") > 0.8,
        lambda e: f"{_percent(e.trace.late('groups/no_signal'))} of the last groups had no signal: all their "
        "generations get one and the same reward",
        "choose prompts of middling difficulty, more generations per prompt, or stop earlier",
    ),
    Rule(
        "overfitting", "warning",
        lambda e: e.trace.late("validation/cross_entropy") > 1.05 * e.trace.early("validation/cross_entropy"),
        lambda e: "cross-entropy of validation references rose from {:.2f} to {:.2f} nats per token".format(
            *e.trace.edges("validation/cross_entropy")
        ),
        "stop earlier, lower training.learning_rate or add references: these are being learnt by heart",
    ),
    below_floor,
    Rule(
        "far-from-the-start", "warning",
        lambda e: e.trace.late("train/kl") > 10.0,
        lambda e: f"the policy is {e.trace.late('train/kl'):.1f} nats per generation away from where it started",
        "raise training.kl_weight or lower the learning rate",
    ),
    Rule(
        "script-switching", "warning",
        lambda e: _switched(e)[0] > 0.1,
        lambda e: f"{_percent(_switched(e)[0])} of the evaluated answers are in another script than the "
        f"baseline's, most of all {_switched(e)[1].capitalize()}",
        "let the checker refuse answers in another script: switching is the cheapest diversity",
    ),
)  # fmt: skip
