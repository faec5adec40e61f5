"""Code tasks: a model writes Python, tests that it never sees decide. HumanEval, MBPP and the user's own problems."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polychromic.errors import DataError
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.base import Split
from polychromic.tasks.checking.sandbox import DEFAULT_LIMITS, LOCAL, Limits, Place, borrowed_sandbox
from polychromic.tasks.code.behaviour import Call, behaviour, probes_of, without_probes
from polychromic.tasks.code.forms import canonical_form, form_distances
from polychromic.tasks.code.judging import Verdict, extracted, judged, program
from polychromic.tasks.code.problems import Problem
from polychromic.tasks.code.running import called_names

SameAnswer = Literal["form", "behaviour"]


class CodeTask:
    """Problems in Python with tests that decide: reward 1 where all pass, else 0 with the reason.

    Raises DataError where `same_answer` is behaviour and a problem's tests show no call to tell programs apart by.
    """

    pass_threshold = 1.0

    def __init__(
        self,
        name: str,
        problems: Mapping[Split, Sequence[Problem]],
        limits: Limits = DEFAULT_LIMITS,
        same_answer: SameAnswer = "form",
        place: Place = LOCAL,
    ) -> None:
        if same_answer == "behaviour" and (blind := without_probes(chain.from_iterable(problems.values()))):
            raise DataError(
                "task.same_answer: behaviour tells programs apart by the calls that tests make, and the tests of "
                f"{len(blind)} of the problems show none (first: {blind[0]!r}); write calls with plain arguments by "
                "position (assert add(2, 3) == 5), add a solution, or take same_answer: form"
            )
        self.name = name
        self._problems = problems
        self._limits = limits
        self._same_answer = same_answer
        self._place: Place = place
        self._probes: dict[Problem, list[Call]] = {}
        self._behaviours: dict[tuple[Problem, str], str] = {}

    def prompts(self, split: Split) -> list[Prompt]:
        """Returns the prompts of a split with solutions as references; none of a split that a benchmark lacks."""
        return [
            Prompt(problem.id, as_messages(problem.prompt), problem.solutions)
            for problem in self._problems.get(split, ())
        ]

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Returns 1 where every test passes, else 0 with the reason. One text to one prompt is executed once."""
        pairs = [(self._problem(prompt), text) for prompt, text in zip(prompts, texts, strict=True)]
        distinct = list(dict.fromkeys(pairs))
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            verdicts = dict(zip(distinct, threads.map(self._judged, distinct), strict=True))
        return [_check(verdicts[pair]) for pair in pairs]

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Returns None: tests decide alone."""
        return None

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """Returns the canonical form of the answer, or a hash of what it does; its text where it is no Python."""
        if self._same_answer == "behaviour":
            return self._behaviour(self._problem(prompt), text)
        called = called_names(self._problem(prompt))
        return canonical_form(self.program(prompt, text), called) or f"no Python: {text}"

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns 1 − overlap of the programs' pairs of neighbouring tokens."""
        return form_distances([extracted(text) for text in texts])

    def program(self, prompt: Prompt, text: str) -> str:
        """Returns the candidate's whole program."""
        return program(self._problem(prompt), text)

    def _judged(self, pair: tuple[Problem, str]) -> Verdict:
        with borrowed_sandbox(self._place) as sandbox:
            verdict = judged(*pair, sandbox, self._limits)
            if verdict.timed_out and os.getloadavg()[0] > (os.cpu_count() or 1):  # others may have had its time
                verdict = judged(*pair, sandbox, self._limits)
        return verdict

    def _behaviour(self, problem: Problem, text: str) -> str:
        key = (problem, text)
        if key not in self._behaviours:
            with borrowed_sandbox(self._place) as sandbox:
                if problem not in self._probes:
                    self._probes[problem] = probes_of(problem, sandbox)
                self._behaviours[key] = behaviour(problem, text, self._probes[problem], sandbox, self._limits)
        return self._behaviours[key]

    def _problem(self, prompt: Prompt) -> Problem:
        return self._by_prompt[prompt.id, prompt.text]

    @cached_property
    def _by_prompt(self) -> dict[tuple[str, str], Problem]:
        """Problems by id and text: files of two splits may count their problems from 1 each."""
        return {(p.id, p.prompt): p for problems in self._problems.values() for p in problems}


def _check(verdict: Verdict) -> Check:
    return Check(float(verdict.passed), verdict.reason or None, ", ".join(verdict.protection) or None)
