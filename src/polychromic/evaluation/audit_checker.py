"""Whether a checker can tell good answers from bad ones: its pass rate on references and on controls that must fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from polychromic.evaluation.wording import listed
from polychromic.records import Check, Prompt
from polychromic.seeding import numpy_generator

CheckFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Check]]

GOOD = "references"
BAD = ("shuffled references", "shuffled replies", "empty", "echoed prompt", "repeated word")

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
    replies: Mapping[str, str] | None = None,
    seed: int = 0,
) -> CheckerAudit:
    """Try a checker on references and on texts that should not pass.

    `replies` are texts that passed, by prompt id: shuffled across prompts they stand in where no prompt has
    references. Controls without a text to try are empty. Raises ValueError without prompts.
    """
    if not prompts:
        raise ValueError("prompts: expected at least one prompt to audit the checker on")
    controls = {
        name: _try(check, pairs, pass_threshold)
        for name, pairs in _control_texts(prompts, replies or {}, seed).items()
    }
    passing = [name for name in BAD if controls[name].pass_rate > most_bad]
    harsh = controls[GOOD].pass_rate < least_good
    return CheckerAudit(controls, bool(passing), harsh, _sentence(controls, passing, harsh))


def _control_texts(
    prompts: Sequence[Prompt], replies: Mapping[str, str], seed: int
) -> dict[str, list[tuple[Prompt, str]]]:
    with_references = [prompt for prompt in prompts if prompt.references]
    replied = [] if with_references else [prompt for prompt in prompts if prompt.id in replies]
    return {
        GOOD: [(prompt, text) for prompt in with_references for text in prompt.references],
        "shuffled references": _shuffled(
            [(prompt, prompt.references[0]) for prompt in with_references], seed
        ),
        "shuffled replies": _shuffled([(prompt, replies[prompt.id]) for prompt in replied], seed),
        "empty": [(prompt, "") for prompt in prompts],
        "echoed prompt": [(prompt, prompt.text) for prompt in prompts],
        "repeated word": [(prompt, " ".join([_first_word(prompt)] * _REPETITIONS)) for prompt in prompts],
    }


def _shuffled(answered: Sequence[tuple[Prompt, str]], seed: int) -> list[tuple[Prompt, str]]:
    """Each prompt with another's text: the next one's in a random circle. Texts that are its own as well, or right
    by its references, are left out."""
    order = numpy_generator("checker-audit", seed).permutation(len(answered)).tolist()
    circle = [answered[index] for index in order]
    pairs = zip(circle, [*circle[1:], *circle[:1]], strict=True)
    return [(prompt, other) for (prompt, own), (_, other) in pairs if other not in (own, *prompt.references)]


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
