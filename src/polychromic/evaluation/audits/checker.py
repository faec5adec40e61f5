"""Audits before numbers are believed: the checker on control texts, leakage from training to test."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from polychromic.diversity.tokens import unicode_words
from polychromic.evaluation.criteria import ResultWarning, listed, plural
from polychromic.records import NOT_GIVEN, Check, GenerationRow, Prompt
from polychromic.seeding import numpy_generator
from polychromic.tasks.base import Task
from polychromic.tasks.equivalence import equivalence_of


def check_rows(task: Task, prompts: Sequence[Prompt], rows: Sequence[GenerationRow]) -> list[GenerationRow]:
    """Returns the rows, each an answer to prompts[i], with what the task says of them.

    An answer that was never given (`finish` "missing") is not shown to a checker: there is nothing to judge.
    """
    given = [index for index, row in enumerate(rows) if row.finish != "missing"]
    answered, texts = [prompts[index] for index in given], [rows[index].text for index in given]
    checks = task.check(answered, texts)
    same = equivalence_of(task)
    judged = task.judge(answered, texts) or [Check(None)] * len(given)
    checked = [replace(row, error=NOT_GIVEN) for row in rows]
    for index, prompt, text, check, judgement in zip(given, answered, texts, checks, judged, strict=True):
        checked[index] = replace(
            rows[index],
            reward=check.reward,
            error=check.error,
            protection=check.protection,
            judge=judgement.reward,
            judge_error=judgement.error,
            cluster=same.form(prompt, text),
        )
    return checked


CheckFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[Check]]

GOOD = "references"
BAD = ("shuffled references", "shuffled replies", "empty", "echoed prompt", "repeated word")

_REPETITIONS = 20
_FALLBACK_WORD = "the"


@dataclass(frozen=True, slots=True)
class ControlResult:
    """Holds one control: how many texts were tried, how many passed, and how many the checker could not judge.

    `pass_rate` is over those that it judged, nan without any; `reason` is the first one for which it gave no reward.
    """

    n: int
    passed: int
    unjudged: int
    pass_rate: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CheckerAudit:
    """Holds the audit's results by control. `lenient` where a bad control passes more often than allowed, `harsh` where
    references pass less often than `least_good`, `failing` where the checker gives no reward for more than half of the
    references, or for no control at all; `sentence` says which."""

    controls: Mapping[str, ControlResult]
    lenient: bool
    harsh: bool
    sentence: str
    failing: bool = False

    @property
    def judged_none(self) -> bool:
        """Returns True where the checker gave no reward for any control."""
        return all(control.unjudged == control.n for control in self.controls.values())


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
    """Tries a checker on references and on texts that should not pass.

    `replies` are texts that passed, by prompt id: shuffled across prompts they stand in where no prompt has
    references. Controls without a text to try are empty. Raises ValueError without prompts.
    """
    if not prompts:
        raise ValueError("prompts: expected at least one prompt to audit the checker on")
    controls = {
        name: _try(check, pairs, pass_threshold) for name, pairs in _control_texts(prompts, replies or {}, seed).items()
    }
    passing = [name for name in BAD if controls[name].pass_rate > most_bad]
    harsh = controls[GOOD].pass_rate < least_good
    unjudged = _unjudged(controls)
    sentence = _sentence(controls, passing, harsh, unjudged)
    return CheckerAudit(controls, bool(passing), harsh, sentence, failing=bool(unjudged))


def _unjudged(controls: Mapping[str, ControlResult]) -> str:
    """Says of which texts the checker gives no reward, and why; "" where it judges most references, or without any some
    control."""
    tried = sum(control.n for control in controls.values())
    if all(control.unjudged == control.n for control in controls.values()):
        reason = next((control.reason for control in controls.values() if control.reason), "")
        return f"The checker gives no reward for any of {plural(tried, 'control text')}: {reason}."
    good = controls[GOOD]
    if good.unjudged > good.n / 2:
        return f"The checker gives no reward for {good.unjudged} of {plural(good.n, 'reference')}: {good.reason}."
    return ""


def _control_texts(
    prompts: Sequence[Prompt], replies: Mapping[str, str], seed: int
) -> dict[str, list[tuple[Prompt, str]]]:
    with_references = [prompt for prompt in prompts if prompt.references]
    replied = [] if with_references else [prompt for prompt in prompts if prompt.id in replies]
    return {
        GOOD: [(prompt, text) for prompt in with_references for text in prompt.references],
        "shuffled references": _shuffled([(prompt, prompt.references[0]) for prompt in with_references], seed),
        "shuffled replies": _shuffled([(prompt, replies[prompt.id]) for prompt in replied], seed),
        "empty": [(prompt, "") for prompt in prompts],
        "echoed prompt": [(prompt, prompt.text) for prompt in prompts],
        "repeated word": [(prompt, " ".join([_first_word(prompt)] * _REPETITIONS)) for prompt in prompts],
    }


def _shuffled(answered: Sequence[tuple[Prompt, str]], seed: int) -> list[tuple[Prompt, str]]:
    """Returns each prompt with another's text: the next one's in a random circle. Texts that are its own as well, or
    right by its references, are left out."""
    order = numpy_generator("checker-audit", seed).permutation(len(answered)).tolist()
    circle = [answered[index] for index in order]
    pairs = zip(circle, [*circle[1:], *circle[:1]], strict=True)
    return [(prompt, other) for (prompt, own), (_, other) in pairs if other not in (own, *prompt.references)]


def _first_word(prompt: Prompt) -> str:
    words = (prompt.references[0] if prompt.references else prompt.text).split()
    return words[0] if words else _FALLBACK_WORD


def _try(check: CheckFunction, pairs: list[tuple[Prompt, str]], pass_threshold: float) -> ControlResult:
    checks = check([prompt for prompt, _ in pairs], [text for _, text in pairs]) if pairs else []
    rewards = [result.reward for result in checks if result.reward is not None]
    passed = sum(reward >= pass_threshold for reward in rewards)
    rate = passed / len(rewards) if rewards else float("nan")
    reason = next((result.error for result in checks if result.reward is None and result.error), "")
    return ControlResult(len(pairs), passed, len(pairs) - len(rewards), rate, reason)


def _sentence(controls: Mapping[str, ControlResult], passing: Sequence[str], harsh: bool, unjudged: str) -> str:
    parts = [unjudged] if unjudged else []
    if passing:
        rates = listed([f"{name} ({100 * controls[name].pass_rate:.0f} %)" for name in passing])
        parts.append(f"The checker is lenient: it passes {rates}.")
    if harsh:
        parts.append(f"The checker is harsh: it passes {100 * controls[GOOD].pass_rate:.0f} % of references.")
    return " ".join(parts) or "The checker tells references from bad controls."


_ALIKE = 90.0
_RUN = 3
_FEW = 50
_LEAST_WORDS = 8
_CHARACTERS = 2_000
_TRAINING_PROMPTS = 50_000
NEAR_RULE = (
    f"{_ALIKE:.0f} % of the characters alike (rapidfuzz ratio, first {_CHARACTERS:,}), and a run of {_RUN} words or "
    f"marks in common that few training prompts have; prompts of {_LEAST_WORDS} words or more"
)
"""Defines a near-duplicate. Few are a tenth of the training prompts, and 50 at most: the rare run leaves out prompts
that have nothing in common but their template."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """Holds ids of test prompts: `exact` ones stand in training word for word, `alike` ones apart from case and white
    space, `near` ones nearly (NEAR_RULE). `repeated` maps those that repeat an earlier test prompt to that one, and
    `answered` are those with a reference of eight words or more that another prompt has as well. `passed_over` training
    prompts were not searched for near-duplicates."""

    n_test: int
    exact: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    repeated: Mapping[str, str] | None = None
    answered: tuple[str, ...] = ()
    passed_over: int = 0

    @property
    def seen(self) -> tuple[str, ...]:
        """Returns the test prompts that training has seen, exactly or nearly."""
        return self.exact + self.alike + self.near

    def sentences(self) -> list[str]:
        """Returns what was found, each with its count and its first prompt; empty where there is nothing to say."""
        lines = []
        if self.seen:
            kinds = {
                "word for word": self.exact,
                "apart from case and white space": self.alike,
                f"nearly ({NEAR_RULE})": self.near,
            }
            counts = ", ".join(f"{len(ids)} {how}" for how, ids in kinds.items() if ids)
            lines.append(
                f"{len(self.seen)} of {plural(self.n_test, 'evaluated prompt')} are also in training: {counts} "
                f"(first: {self.seen[0]})"
            )
        if self.answered:
            lines.append(
                f"{plural(len(self.answered), 'evaluated prompt')} {'has' if len(self.answered) == 1 else 'have'} a "
                f"reference of {_LEAST_WORDS} words or more that another prompt has as well (first: {self.answered[0]})"
            )
        if self.passed_over and (self.seen or self.answered):
            lines.append(f"{self.passed_over:,} training prompts were not searched for near-duplicates")
        return lines

    def repetition(self) -> str:
        """Says that test prompts repeat others and are counted once; empty where none does."""
        if not self.repeated:
            return ""
        later, first = next(iter(self.repeated.items()))
        verbs = "repeats another" if len(self.repeated) == 1 else "repeat others"
        counted = "is" if len(self.repeated) == 1 else "are"
        return (
            f"{plural(len(self.repeated), 'evaluated prompt')} {verbs}, apart from case and white space, and {counted} "
            f"counted once (first: {later} repeats {first})"
        )

    def warnings(self) -> Iterator[ResultWarning]:
        """Yields the findings as warnings of a comparison."""
        for sentence in self.sentences():
            yield ResultWarning("leakage", "", sentence)
        if self.repeated:
            yield ResultWarning("duplicates", "", self.repetition())


def find_leakage(test: Sequence[Prompt], train: Sequence[Prompt]) -> Leakage:
    """Compares test prompts with training prompts and with one another; `train` may be empty where nobody knows it."""
    exact_train = {_content(prompt) for prompt in train}
    plain_train = {_plain(content) for content in exact_train}
    first_of: dict[str, str] = {}
    repeated: dict[str, str] = {}
    exact, alike, others = [], [], []
    for prompt in test:
        content = _content(prompt)
        plain = _plain(content)
        first = first_of.setdefault(plain, prompt.id)
        if first != prompt.id:
            repeated[prompt.id] = first
        elif content in exact_train:
            exact.append(prompt.id)
        elif plain in plain_train:
            alike.append(prompt.id)
        else:
            others.append((prompt.id, plain))
    searched = sorted(plain_train)[:_TRAINING_PROMPTS]
    return Leakage(
        n_test=len(first_of),
        exact=tuple(exact),
        alike=tuple(alike),
        near=tuple(_near(others, searched)),
        repeated=repeated,
        answered=tuple(_answered(test, train, repeated)),
        passed_over=len(plain_train) - len(searched),
    )


def _content(prompt: Prompt) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


def plain_content(prompt: Prompt) -> str:
    """Returns a prompt's turns apart from case, white space and ways of writing accents: equal where prompts repeat."""
    return _plain(_content(prompt))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _near(test: Sequence[tuple[str, str]], train: Sequence[str]) -> Iterator[str]:
    """Yields ids of the test texts that have a near-duplicate in training."""
    from rapidfuzz import fuzz, process

    cut = [text[:_CHARACTERS] for text in train]
    few = min(_FEW, max(1, len(train) // 10))
    places: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, text in enumerate(cut):
        for run in _runs(text):
            places[run].append(number)
    for prompt_id, text in test:
        shared = [places[run] for run in _runs(text[:_CHARACTERS]) if run in places]
        candidates = sorted({number for numbers in shared if len(numbers) <= few for number in numbers})
        texts = [cut[number] for number in candidates]
        if texts and process.extractOne(text[:_CHARACTERS], texts, scorer=fuzz.ratio, score_cutoff=_ALIKE):
            yield prompt_id


def _runs(text: str) -> set[tuple[str, ...]]:
    """Returns the runs of words and marks of a text; none of a text too short to say anything by being alike."""
    words = unicode_words(text)
    return set(zip(*(words[start:] for start in range(_RUN)), strict=False)) if len(words) >= _LEAST_WORDS else set()


def _answered(test: Sequence[Prompt], train: Sequence[Prompt], repeated: Mapping[str, str]) -> Iterable[str]:
    """Yields ids of the test prompts with a longer reference that a prompt of other content has as well."""
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for prompt in (*train, *test):
        for reference in prompt.references:
            if len(reference.split()) >= _LEAST_WORDS or len(unicode_words(reference)) >= 2 * _LEAST_WORDS:
                owners[_plain(reference)].add(plain_content(prompt))
    for prompt in test:
        if prompt.id not in repeated and any(
            len(owners.get(_plain(reference), ())) > 1 for reference in prompt.references
        ):
            yield prompt.id
