"""Asks a sample of a checker's verdicts again of a process that has met no other answer.

An answer that changes the process in which it is judged is found out by what that process then says of others: of the
sample, and of *controls*, an empty answer and an answer to another prompt.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from polychromic.errors import CheckerError
from polychromic.records import Check, Prompt

logger = logging.getLogger(__name__)

_ONE_IN = 32
_MOST_SHARE = 0.1  # of the time that passes may go into asking again
_MOST_REPLAY_SECONDS = 60.0
_SAME = 1e-6

Ask = Callable[[Prompt, str], Check]
Pair = tuple[Prompt, str]


class Asked(Protocol):
    """A checker that can also be asked elsewhere."""

    name: str
    executes_answers: bool

    def ask(self, pairs: Sequence[Pair]) -> list[Check]:
        """Its word on each pair, as for any answer."""
        ...

    def elsewhere(self) -> AbstractContextManager[Ask]:
        """Asks a process that has met none of the answers."""
        ...

    def restart(self) -> None:
        """Let no process that has met an answer be asked again."""
        ...


class Recheck:
    """Asks again after every batch, or more seldom where that would cost more than a tenth of all time that passes."""

    def __init__(self, expected_seconds: float) -> None:
        self._cost = expected_seconds
        self._last = time.monotonic()
        self._not_asked_again = 0  # answers of the batches since then
        self._is_on = True
        self._random = random.SystemRandom()  # an answer must not know whether it will be asked again

    def after(
        self, checker: Asked, prompts: Sequence[Prompt], texts: Sequence[str], checks: Sequence[Check]
    ) -> None:
        """Ask some of the batch again. Raises CheckerError where another word is heard."""
        started = time.monotonic()
        judged = [index for index, check in enumerate(checks) if check.reward is not None]
        if not self._is_on or not judged or self._cost > _MOST_SHARE * (started - self._last):
            self._not_asked_again += len(texts)
            return
        sample = self._random.sample(judged, -(-len(judged) // _ONE_IN))
        controls = self._controls(prompts, texts)
        said = checker.ask(controls) + [checks[index] for index in sample]
        pairs = controls + [(prompts[index], texts[index]) for index in sample]
        with (
            checker.elsewhere() as ask
        ):  # controls first: one of the sample may be the answer that changes a process
            heard = [ask(*pair) for pair in pairs]
        for pair, first, second in zip(pairs, said, heard, strict=True):
            if _differ(first, second):
                self._settle(checker, pair, first, second, list(zip(prompts, texts, strict=True)))
        self._last = time.monotonic()
        self._cost = self._last - started
        self._not_asked_again = 0

    def _controls(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Pair]:
        """Answers that are wrong in all likelihood. Their text is not new to the process; what counts is a change."""
        one = self._random.randrange(len(prompts))
        controls = [(prompts[one], "")]
        others = [index for index, prompt in enumerate(prompts) if prompt.id != prompts[one].id]
        return [*controls, (prompts[one], texts[self._random.choice(others)])] if others else controls

    def _settle(self, checker: Asked, pair: Pair, said: Check, heard: Check, batch: Sequence[Pair]) -> None:
        """Raise where both processes keep to their word; one that varies by itself cannot be compared."""
        [again] = checker.ask([pair])
        with checker.elsewhere() as ask:
            heard_again = ask(*pair)
        if _differ(again, said) or _differ(heard_again, heard):
            self._is_on = checker.executes_answers  # there it may be the answer that varies
            logger.warning(
                "checker %r says %s and %s of one answer: it varies by itself, so that its word cannot be compared "
                "with that of a fresh process",
                checker.name, said.reward, heard.reward,
            )  # fmt: skip
            return
        culprit = None if checker.executes_answers else _culprit(checker, pair, heard, batch)
        checker.restart()
        earlier = (
            f"; those of the {self._not_asked_again} answers before may be wrong too, so start anew with --fresh"
            if self._not_asked_again
            else ""
        )
        raise CheckerError(
            f"checker {checker.name!r} says {said.reward:g} of the answer {_shown(pair)}, but {heard.reward:g} in a "
            f"process that has met no other answer: {_cause(culprit)}. The rewards of this batch are not used{earlier}."
            " A checker must depend on prompt and answer alone: give answers that it executes to "
            "polychromic.tasks.run_isolated; task.checker_recheck: false is for one that is meant to vary"
        )


def _culprit(checker: Asked, pair: Pair, clean: Check, batch: Sequence[Pair]) -> Pair | None:
    """The first answer of the batch after which a fresh process changes its word on the pair."""
    deadline = time.monotonic() + _MOST_REPLAY_SECONDS
    with checker.elsewhere() as ask:
        for one in batch:
            ask(*one)
            if _differ(ask(*pair), clean):
                return one
            if time.monotonic() > deadline:
                break
    return None


def _cause(culprit: Pair | None) -> str:
    if culprit is None:
        return "an earlier answer has changed what it judges by, or it keeps something between calls"
    return f"the answer {_shown(culprit)} changes the process that judges it, or that keeps something between calls"


def _shown(pair: Pair) -> str:
    prompt, text = pair
    return f"{text if len(text) <= 80 else text[:80] + '...'!a} to prompt {prompt.id!r}"


def _differ(one: Check, other: Check) -> bool:
    """Whether both are verdicts, and not the same; what failed, as a time limit may on a busy machine, says nothing."""
    return one.reward is not None and other.reward is not None and abs(one.reward - other.reward) > _SAME
