"""Asks a function of the user's own which answers are the same, in a process of its own."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as LateError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polychromic.diversity.equivalence import MISSING, Partition, TextGroup
from polychromic.diversity.pairwise import RULES, Answer, Question, Rule, pairwise_partitions
from polychromic.errors import CheckerError, ConfigError
from polychromic.processes import open_worker_pool
from polychromic.records import Prompt
from polychromic.registry import resolve

_START_SECONDS = 120.0
Call = Literal["form", "pair", "labels"]


class FunctionEquivalence:
    """Asks a function of the user's own, in a process of its own that is ended where a call takes too long.

    It is `f(prompt, text) -> str` (a form), `f(prompt, a, b) -> bool` (whether both are the same), or
    `f(prompt, texts) -> list of labels`, told apart by the number of arguments and the name `texts`.
    """

    def __init__(self, function: str, seconds: float, rule: Rule = "greedy") -> None:
        self._function = function
        self._seconds = seconds
        self._rule: Rule = rule
        self._pool: ProcessPoolExecutor | None = None
        kind = self._submit(_call_of, function, limit=_START_SECONDS)
        if kind not in ("form", "pair", "labels"):
            raise CheckerError(f"task.same_answer {function!r}: {kind}")
        self.call: Call = kind

    @property
    def name(self) -> str:
        """Returns the function, and the rule that makes a partition of pairwise answers."""
        place, _, function = self._function.rpartition(":")
        rule = f", {RULES[self._rule]}" if self.call == "pair" else ""
        return f"{Path(place).name}:{function}{rule}"

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns the function's form of the text; None where it gives none or divides whole groups."""
        if self.call != "form":
            return None
        answer = self._ask(prompt, [text])
        return None if isinstance(answer, str) else answer[0][0]

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides each group; what the function fails on has no label, with the reason."""
        return [self._partition(prompt, texts) for prompt, texts in groups]

    def _partition(self, prompt: Prompt, texts: Sequence[str]) -> Partition:
        distinct = list(dict.fromkeys(texts))
        answer = self._ask(prompt, distinct)
        if isinstance(answer, str):
            answer = [(None, answer)] * len(distinct)
        answers = dict(zip(distinct, answer, strict=True))
        codes: dict[Any, int] = {}
        labels = [
            MISSING if answers[text][0] is None else codes.setdefault(answers[text][0], len(codes)) for text in texts
        ]
        reasons = tuple(answers[text][1] for text in texts if answers[text][0] is None)
        return Partition(np.array(labels, dtype=np.int64), reasons)

    def _ask(self, prompt: Prompt, texts: Sequence[str]) -> list[tuple[Any, str]] | str:
        """Returns a label and, for None, the reason for each text; or why there is no answer at all."""
        n_calls = {"form": len(texts), "pair": len(texts) ** 2, "labels": 1}[self.call]
        limit = self._seconds * max(1, n_calls) + 5.0
        return self._submit(
            _answers, self._function, self.call, prompt, list(texts), self._seconds, self._rule, limit=limit
        )

    def _submit(self, work: Callable[..., Any], *arguments: Any, limit: float) -> Any:
        if self._pool is None:
            self._pool = open_worker_pool(1)
            self._pool.submit(int).result(_START_SECONDS)  # its start is not the function's time
        try:
            return self._pool.submit(work, *arguments).result(limit)
        except LateError:
            reason = f"no answer within {self._seconds:g} seconds a call; its process was ended"
        except BrokenProcessPool:
            reason = "its process ended before it answered"
        for process in list((self._pool._processes or {}).values()):  # nothing public ends a process that hangs
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        return reason


# What follows runs in the process of the function.


def _call_of(name: str) -> str:
    """Returns how the function is called, or what is wrong with it."""
    try:
        parameters = list(inspect.signature(resolve(name, {}, "same_answer", noun="function")).parameters.values())
    except (ConfigError, TypeError, ValueError) as error:
        return str(error)
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind in _POSITIONAL
    ]
    if len(needed) == 3:
        return "pair"
    if len(needed) == 2:
        return "labels" if needed[1] == "texts" else "form"
    return (
        f"it takes {', '.join(needed) or 'nothing'}; expected f(prompt, text) -> str, f(prompt, a, b) -> bool or "
        "f(prompt, texts) -> list of labels"
    )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _answers(
    name: str, call: Call, prompt: Prompt, texts: list[str], seconds: float, rule: Rule
) -> list[tuple[Any, str]] | str:
    function = resolve(name, {}, "same_answer", noun="function")
    if call == "pair":

        def ask(questions: Sequence[Question]) -> list[Answer]:
            return [_same(function, *question, seconds=seconds) for question in questions]

        [partition] = pairwise_partitions([(prompt, texts)], ask, rule)
        reasons = iter(partition.reasons)
        return [(None, next(reasons)) if label == MISSING else (label, "") for label in partition.labels_N.tolist()]
    if call == "labels":
        try:
            labels = _guarded(list, function, prompt, texts, seconds=seconds)
        except ValueError as error:
            return str(error)
        if len(labels) != len(texts):
            return f"it returned {len(labels)} labels for {len(texts)} texts"
        return [(None if label is None else repr(label), "its label is None: it cannot tell") for label in labels]
    answers: list[tuple[Any, str]] = []
    for text in texts:
        try:
            answers.append((_guarded(str, function, prompt, text, seconds=seconds), ""))
        except ValueError as error:
            answers.append((None, str(error)))
    return answers


def _same(function: Callable[..., Any], *arguments: Any, seconds: float) -> Answer:
    try:
        return bool(_guarded(bool, function, *arguments, seconds=seconds))
    except ValueError as error:
        return str(error)


def _guarded(kind: type, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """Returns what the function says; raises ValueError with the reason where it fails, hangs or says another type."""
    try:
        with _alarm(seconds):
            value = function(*arguments)
            value = value.item() if hasattr(value, "item") else value
            value = value.tolist() if kind is list and hasattr(value, "tolist") else value
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the checker boundary: a failure is no label, and says why
        raise ValueError(f"{type(error).__name__}: {error!s:.500}") from None
    if kind is list and isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, kind):
        words = {str: "a text", bool: "True or False", list: "a list of labels (is it f(prompt, text)?)"}
        raise ValueError(f"it returned {value!r:.200}, expected {words[kind]}")
    return value


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeoutError(f"no answer within {seconds:g} seconds")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
