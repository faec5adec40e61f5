"""Runs checkers in processes of their own and asks them again whether they keep their word."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from polychromic.errors import CheckerError
from polychromic.files import sha256_file
from polychromic.records import Check, Prompt
from polychromic.tasks.checking.family import Family, Process, ProcessFailedError

logger = logging.getLogger(__name__)

_ONE_IN = 32
_MOST_SHARE = 0.1  # of the time that passes may go into asking again
_MOST_REPLAY_SECONDS = 60.0
_SAME = 1e-6

Ask = Callable[[Prompt, str], Check]
Pair = tuple[Prompt, str]


class Recheck:
    """Asks again after every batch, or more seldom where that would cost more than a tenth of all time that passes."""

    def __init__(self, expected_seconds: float) -> None:
        self._cost = expected_seconds
        self._last = time.monotonic()
        self._not_asked_again = 0  # answers of the batches since then
        self._is_on = True
        self._random = random.SystemRandom()  # an answer must not know whether it will be asked again

    def after(
        self, checker: IsolatedChecker, prompts: Sequence[Prompt], texts: Sequence[str], checks: Sequence[Check]
    ) -> None:
        """Asks some of the batch again. Raises CheckerError where the answer differs."""
        started = time.monotonic()
        judged = [index for index, check in enumerate(checks) if check.reward is not None]
        if not self._is_on or not judged or self._cost > _MOST_SHARE * (started - self._last):
            self._not_asked_again += len(texts)
            return
        sample = self._random.sample(judged, -(-len(judged) // _ONE_IN))
        controls = self._controls(prompts, texts)
        first_answers = checker.ask(controls) + [checks[index] for index in sample]
        pairs = controls + [(prompts[index], texts[index]) for index in sample]
        with checker.elsewhere() as ask:  # controls first: one of the sample may be the answer that changes a process
            second_answers = [ask(*pair) for pair in pairs]
        for pair, first, second in zip(pairs, first_answers, second_answers, strict=True):
            if _differ(first, second):
                self._settle(checker, pair, first, second, list(zip(prompts, texts, strict=True)))
        self._last = time.monotonic()
        self._cost = self._last - started
        self._not_asked_again = 0

    def _controls(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Pair]:
        """Chooses answers that are wrong in all likelihood. Their text is not new to the process; what counts is a
        change."""
        prompt = prompts[self._random.randrange(len(prompts))]
        controls = [(prompt, "")]
        others = [text for other, text in zip(prompts, texts, strict=True) if other.id != prompt.id]
        return [*controls, (prompt, self._random.choice(others))] if others else controls

    def _settle(self, checker: IsolatedChecker, pair: Pair, said: Check, heard: Check, batch: Sequence[Pair]) -> None:
        """Raises CheckerError where both processes keep to their answer; one that varies by itself cannot be
        compared."""
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


def _culprit(checker: IsolatedChecker, pair: Pair, clean: Check, batch: Sequence[Pair]) -> Pair | None:
    """Finds the first answer of the batch after which a fresh process changes its word on the pair."""
    deadline = time.monotonic() + _MOST_REPLAY_SECONDS
    with checker.elsewhere() as ask:
        for earlier in batch:
            ask(*earlier)
            if _differ(ask(*pair), clean):
                return earlier
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


def _differ(first: Check, second: Check) -> bool:
    """Tells whether both are verdicts, and not the same; what failed, as a time limit may on a busy machine, says
    nothing."""
    return first.reward is not None and second.reward is not None and abs(first.reward - second.reward) > _SAME


_MOST_FAILURES_IN_A_ROW = 10
_MOST_LEFT_CHILDREN = 200
_CANNOT_BE_FORKED = (
    "the checker executes the answer in its own process, and cannot have one for each answer, because importing it "
    "leaves threads or connections open; execute answers with polychromic.tasks.run_isolated"
)
_TAMPERED = (
    "the answer, executed by the checker in its own process, has changed what that process says; execute answers with "
    "polychromic.tasks.run_isolated"
)


class IsolatedChecker:
    """A checker by name in processes of its own, started anew when they hang or die.

    Raises CheckerError where the checker cannot be loaded, and when its processes fail many times in a row.
    """

    def __init__(self, name: str, *, seconds: float, memory_gb: float, recheck: bool = True) -> None:
        self.name = name
        self.seconds = seconds
        self.executes_answers = False
        """True once it was about to execute an answer in its own process; then each answer gets a new process."""
        self._failures_in_a_row = 0
        self._family = Family(name, int(memory_gb * 2**30))
        self._server: Process | None = None
        import_seconds = 0.0 if self._family.forkable else self._family.import_seconds
        self._recheck = Recheck(import_seconds) if recheck else None

    def run(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Checks each pair; what it does not answer in time or dies of is a Check with the reason.

        Raises CheckerError where a process that has met no other text says something else (see `Recheck`).
        """
        checks = self.ask(list(zip(prompts, texts, strict=True)))
        if self._recheck is not None:
            self._recheck.after(self, prompts, texts, checks)
        return checks

    def ask(self, pairs: Sequence[Pair]) -> list[Check]:
        """Returns its word on each pair, asked of the processes whose turn it is."""
        checks: list[Check] = []
        while len(checks) < len(pairs):
            if self.executes_answers:
                checks.append(self._ask_fork(self._family.template(), *pairs[len(checks)]))
            else:
                checks += self._ask_server(pairs[len(checks) :])
        return checks

    def close(self) -> None:
        """Ends its processes and everything that they started."""
        self._server = None
        self._family.close()

    @contextmanager
    def elsewhere(self) -> Iterator[Ask]:
        """Asks a process that has met none of the answers; for executed ones, forks of one that is imported anew."""
        process = self._family.import_anew() if self.executes_answers else self._family.fresh()

        def ask(prompt: Prompt, text: str) -> Check:
            if self.executes_answers:
                return self._ask_fork(process, prompt, text)
            try:
                return process.ask(prompt, text, self.seconds, watch=False).check
            except ProcessFailedError as failure:
                return Check(None, str(failure))

        try:
            yield ask
        finally:
            process.end()

    def restart(self) -> None:
        """Ends the process that has met answers, and all that it left; the next text has a new one."""
        if self._server is not None:
            self._server.end()
            self._family.clear()
            self._server = None

    def _ask_server(self, pairs: Sequence[Pair]) -> list[Check]:
        """Asks the server about the first of the pairs, as many as it judges before it has to be replaced."""
        checks: list[Check] = []
        if self._server is None:
            self._server = self._family.server()
        try:
            for answer in self._server.answers(pairs, self.seconds, watch=True):
                if answer.executes:
                    self._note_execution()
                    break
                self._failures_in_a_row = 0
                checks.append(answer.check)
                self._server.left_children += answer.children
                if self._server.left_children > _MOST_LEFT_CHILDREN or answer.exhausted:
                    # Takes its children and what it has leaked along; the next text has a new process.
                    self.restart()
                    break
        except ProcessFailedError as failure:
            self.restart()
            checks.append(self._failed(str(failure)))
        except BaseException:  # such as Ctrl-C: what it says later would be taken for the next answer
            self.restart()
            raise
        return checks

    def _ask_fork(self, template: Process, prompt: Prompt, text: str) -> Check:
        """Asks a fork that ends, with all that it started, when it has answered."""
        if not self._family.forkable:
            return Check(None, _CANNOT_BE_FORKED)
        try:
            process = template.fork(apart=True)
        except ProcessFailedError as failure:  # an answer that was executed has killed it
            template.end()
            return Check(None, str(failure))
        try:
            check = process.ask(prompt, text, self.seconds, watch=False).check
            # What the answer has done to its process must not show in what that says of a known value.
            honest = all(
                process.passes_control(prompt, value, self.seconds) for value in (0.0, random.SystemRandom().random())
            )
            return check if honest else Check(None, _TAMPERED)
        except ProcessFailedError as failure:
            return Check(None, str(failure))
        finally:
            process.end()
            self._family.clear()

    def _note_execution(self) -> None:
        """Gives each answer a process of its own from here on."""
        self.executes_answers = True
        self.restart()
        logger.warning(
            "checker %r executes the answers that it judges in its own process. From here on each has a process of its "
            "own, so that none can touch another's reward; but an answer written to do so can still forge its own: "
            "execute it with polychromic.tasks.run_isolated",
            self.name,
        )

    def _failed(self, reason: str) -> Check:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _MOST_FAILURES_IN_A_ROW:
            self.close()
            raise CheckerError(
                f"checker {self.name!r} failed {self._failures_in_a_row} times in a row: {reason}. Fix it, or raise "
                "task.checker_seconds or task.checker_memory_gb"
            )
        return Check(None, reason)


def isolated_checker(name: str, *, seconds: float, memory_gb: float, recheck: bool = True) -> IsolatedChecker:
    """Returns the checker of that name, one for all who ask in this process while its file stays the same."""
    file = Path(name.rpartition(":")[0])
    content = sha256_file(file) if file.suffix == ".py" and file.is_file() else ""
    return _shared(name, seconds, memory_gb, recheck, content)


@lru_cache(maxsize=8)
def _shared(name: str, seconds: float, memory_gb: float, recheck: bool, _content: str) -> IsolatedChecker:
    return IsolatedChecker(name, seconds=seconds, memory_gb=memory_gb, recheck=recheck)
