"""Whether a checker can tell good answers from bad ones: its pass rate on references and on controls that must fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from polychromic.evaluation.wording import listed
from polychromic.records import Check, Prompt
from polychromic.seeding import numpy_generator

CheckFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Check]]

GOOD = "references"
BAD = ("shuffled references", "empty", "echoed prompt", "repeated word")

_REPETITIONS = 20
_FALLBACK_WORD = "the"


@dataclass(frozen=True, slots=True)
class ControlResult:
    """One control: how many texts were tried, how many passed, and how many the checker could not judge.

    `pass_rate` is over those that it judged, nan without any.
    """

    n: int
    passed: int
    unjudged: int
    pass_rate: float


@dataclass(frozen=True, slots=True)
class CheckerAudit:
    """The audit's results by control. `lenient` where a bad control passes more often than allowed, `harsh` where
    references pass less often than `least_good`; `sentence` says which."""

    controls: Mapping[str, ControlResult]
    lenient: bool
    harsh: bool
    sentence: str


def audit_checker(
    check: CheckFunction,
    prompts: Sequence[Prompt],
    *,
    pass_threshold: float,
    most_bad: float = 0.1,
    least_good: float = 0.5,
    seed: int = 0,
) -> CheckerAudit:
    """Try a checker on references and on texts that should not pass.

    Controls without a text to try (no references) are empty. Raises ValueError without prompts.
    """
    if not prompts:
        raise ValueError("prompts: expected at least one prompt to audit the checker on")
    controls = {
        name: _try(check, pairs, pass_threshold) for name, pairs in _control_texts(prompts, seed).items()
    }
    passing = [name for name in BAD if controls[name].pass_rate > most_bad]
    harsh = controls[GOOD].pass_rate < least_good
    return CheckerAudit(controls, bool(passing), harsh, _sentence(controls, passing, harsh))


def _control_texts(prompts: Sequence[Prompt], seed: int) -> dict[str, list[tuple[Prompt, str]]]:
    with_references = [prompt for prompt in prompts if prompt.references]
    return {
        GOOD: [(prompt, text) for prompt in with_references for text in prompt.references],
        "shuffled references": _shuffled(with_references, seed),
        "empty": [(prompt, "") for prompt in prompts],
        "echoed prompt": [(prompt, prompt.text) for prompt in prompts],
        "repeated word": [(prompt, " ".join([_first_word(prompt)] * _REPETITIONS)) for prompt in prompts],
    }


def _shuffled(prompts: Sequence[Prompt], seed: int) -> list[tuple[Prompt, str]]:
    """Each prompt with another's reference: the next one's in a random circle. Texts that are right anyway are left
    out."""
    order = numpy_generator("checker-audit", seed).permutation(len(prompts)).tolist()
    circle = [prompts[index] for index in order]
    pairs = zip(circle, [*circle[1:], *circle[:1]], strict=True)
    return [
        (prompt, other.references[0])
        for prompt, other in pairs
        if other.references[0] not in prompt.references
    ]


def _first_word(prompt: Prompt) -> str:
    words = (prompt.references[0] if prompt.references else prompt.text).split()
    return words[0] if words else _FALLBACK_WORD


def _try(check: CheckFunction, pairs: list[tuple[Prompt, str]], pass_threshold: float) -> ControlResult:
    checks = check([prompt for prompt, _ in pairs], [text for _, text in pairs]) if pairs else []
    rewards = [one.reward for one in checks if one.reward is not None]
    passed = sum(reward >= pass_threshold for reward in rewards)
    rate = passed / len(rewards) if rewards else float("nan")
    return ControlResult(len(pairs), passed, len(pairs) - len(rewards), rate)


def _sentence(controls: Mapping[str, ControlResult], passing: Sequence[str], harsh: bool) -> str:
    parts = []
    if passing:
        rates = listed([f"{name} ({100 * controls[name].pass_rate:.0f} %)" for name in passing])
        parts.append(f"The checker is lenient: it passes {rates}.")
    if harsh:
        parts.append(f"The checker is harsh: it passes {100 * controls[GOOD].pass_rate:.0f} % of references.")
    return " ".join(parts) or "The checker tells references from bad controls."
