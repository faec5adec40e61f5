"""Test prompts that training has seen, and test prompts that are there twice: both make a result look better, or surer,
than it is."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from polychromic.diversity.tokens import unicode_words
from polychromic.evaluation.wording import Caution, plural
from polychromic.records import Prompt

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
"""What a near-duplicate is. Few are a tenth of the training prompts, and 50 at most: the rare run leaves out prompts
that have nothing in common but their template."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """Ids of test prompts: `exact` ones stand in training word for word, `alike` ones apart from case and white space,
    `near` ones nearly (NEAR_RULE). `repeated` maps those that repeat an earlier test prompt to that one, and `answered`
    are those with a reference of eight words or more that another prompt has as well. `passed_over` training prompts
    were not searched for near-duplicates."""

    n_test: int
    exact: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    repeated: Mapping[str, str] | None = None
    answered: tuple[str, ...] = ()
    passed_over: int = 0

    @property
    def seen(self) -> tuple[str, ...]:
        """Test prompts that training has seen, exactly or nearly."""
        return self.exact + self.alike + self.near

    def sentences(self) -> list[str]:
        """What was found, each with its count and its first prompt; empty where there is nothing to say."""
        found = []
        if self.seen:
            kinds = {
                "word for word": self.exact,
                "apart from case and white space": self.alike,
                f"nearly ({NEAR_RULE})": self.near,
            }
            counts = ", ".join(f"{len(ids)} {how}" for how, ids in kinds.items() if ids)
            found.append(
                f"{len(self.seen)} of {plural(self.n_test, 'evaluated prompt')} are also in training: {counts} "
                f"(first: {self.seen[0]})"
            )
        if self.answered:
            found.append(
                f"{plural(len(self.answered), 'evaluated prompt')} {'has' if len(self.answered) == 1 else 'have'} a "
                f"reference of {_LEAST_WORDS} words or more that another prompt has as well (first: {self.answered[0]})"
            )
        if self.passed_over and (self.seen or self.answered):
            found.append(f"{self.passed_over:,} training prompts were not searched for near-duplicates")
        return found

    def repetition(self) -> str:
        """That test prompts repeat others and are counted once; empty where none does."""
        if not self.repeated:
            return ""
        later, first = next(iter(self.repeated.items()))
        verbs = "repeats another" if len(self.repeated) == 1 else "repeat others"
        counted = "is" if len(self.repeated) == 1 else "are"
        return (
            f"{plural(len(self.repeated), 'evaluated prompt')} {verbs}, apart from case and white space, and {counted} "
            f"counted once (first: {later} repeats {first})"
        )

    def cautions(self) -> Iterator[Caution]:
        """The findings as warnings of a comparison."""
        for sentence in self.sentences():
            yield Caution("leakage", "", sentence)
        if self.repeated:
            yield Caution("duplicates", "", self.repetition())


def find_leakage(test: Sequence[Prompt], train: Sequence[Prompt]) -> Leakage:
    """Compare test prompts with training prompts and with one another; `train` may be empty where nobody knows it."""
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


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _near(test: Sequence[tuple[str, str]], train: Sequence[str]) -> Iterator[str]:
    """Ids of the test texts that have a near-duplicate in training."""
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
    """The runs of words and marks of a text; none of a text too short to say anything by being alike."""
    words = unicode_words(text)
    return (
        set(zip(*(words[start:] for start in range(_RUN)), strict=False))
        if len(words) >= _LEAST_WORDS
        else set()
    )


def _answered(test: Sequence[Prompt], train: Sequence[Prompt], repeated: Mapping[str, str]) -> Iterable[str]:
    """Ids of the test prompts with a longer reference that a prompt of other content has as well."""
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for prompt in (*train, *test):
        for reference in prompt.references:
            if len(reference.split()) >= _LEAST_WORDS or len(unicode_words(reference)) >= 2 * _LEAST_WORDS:
                owners[_plain(reference)].add(_plain(_content(prompt)))
    for prompt in test:
        if prompt.id not in repeated and any(
            len(owners.get(_plain(one), ())) > 1 for one in prompt.references
        ):
            yield prompt.id
