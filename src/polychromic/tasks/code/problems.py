"""Problems of code tasks: HumanEval and MBPP, which ship with the package, and the user's own file."""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.tasks.base import Split

_INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block.\n\n"
# Table 1 of Austin et al. 2021: problems 1 to 10 are examples for prompts.
_MBPP_SPLITS: dict[Split, range] = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: what the model reads, and how an answer is judged.

    `opening` is code that an answer may continue (HumanEval's signature and docstring) and whose other functions tests
    may use; `tests` are lines of trusted code that raise where the candidate is wrong; `cases` are pairs of standard
    input and expected output, for programs in place of functions.
    """

    id: str
    prompt: str
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    opening: str = ""
    setup: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    solutions: tuple[str, ...] = ()


def load_benchmark(name: str) -> dict[Split, list[Problem]]:
    """Loads the problems of `humaneval`, `mbpp` or `mbpp_sanitized`, by split; HumanEval has test problems only."""
    if name == "humaneval":
        return {"test": [_of_humaneval(row) for row in _packaged("humaneval.jsonl.gz")]}
    rows = _packaged(f"{name}.json.gz" if name == "mbpp_sanitized" else f"{name}.jsonl.gz")
    problems = {row["task_id"]: _of_mbpp(row) for row in rows}
    return {
        split: [problems[number] for number in numbers if number in problems] for split, numbers in _MBPP_SPLITS.items()
    }


def load_problems(path: Path) -> list[Problem]:
    """Loads the user's problems, one JSON object per line. Raises one DataError that lists every bad line.

    Keys: `prompt`; `tests`, a list of assertions, with `entry_point` where an answer continues the prompt; or
    `cases`, a list of {"input", "output"}; `id` or `task_id`, `setup` and `solution` may be left out.
    HumanEval's and MBPP's own lines are read as they are.
    """
    problems, faults = [], []
    for number, row in _rows(path, faults):
        try:
            problems.append(_of_user(row, f"{path.stem}-{number:05d}"))
        except (KeyError, TypeError, ValueError, SyntaxError) as error:
            faults.append(f"{path}:{number}: {_fault(error)}")
    counts = Counter(problem.id for problem in problems)
    faults += [f"{path}: id {name!r} stands {n} times, expected unique ids" for name, n in counts.items() if n > 1]
    if faults or not problems:
        raise DataError("\n".join(faults) or f"{path}: holds no problems, expected one JSON object a line")
    return problems


def _rows(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the path") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            faults.append(f"{path}:{number}: no JSON ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            faults.append(f"{path}:{number}: expected a JSON object")


def _fault(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r} is missing"
    return f"a test is no Python ({error})" if isinstance(error, SyntaxError) else str(error)


def _of_user(row: Mapping[str, Any], default_id: str) -> Problem:
    if "canonical_solution" in row and "test" in row:
        return _of_humaneval(row)
    if "test_list" in row:
        return _of_mbpp(row)
    cases = tuple((case["input"], case["output"]) for case in row.get("cases", ()))
    tests = row.get("tests", ())
    if isinstance(tests, str) or not all(isinstance(test, str) for test in tests):
        raise TypeError("tests: expected a list of assertions")
    if not cases and not tests:
        raise ValueError("expected tests (a list of assertions) or cases (pairs of input and output)")
    for test in tests:
        ast.parse(test)
    entry_point, prompt = row.get("entry_point"), row["prompt"]
    solution = row.get("solution")
    return Problem(
        id=str(row.get("id", row.get("task_id", default_id))),
        prompt=prompt,
        tests=tuple(tests),
        entry_point=entry_point,
        opening=prompt if entry_point and re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.MULTILINE) else "",
        setup=row.get("setup", ""),
        cases=cases,
        solutions=(solution,) if solution else (),
    )


def _of_humaneval(row: Mapping[str, Any]) -> Problem:
    entry = row["entry_point"]
    return Problem(
        id=row["task_id"],
        prompt=f"{_INSTRUCTION}```python\n{row['prompt'].rstrip()}\n```",
        tests=(f"{row['test']}\n\ncheck({entry})",),
        entry_point=entry,
        opening=row["prompt"],
        solutions=(row["canonical_solution"],),
    )


def _of_mbpp(row: Mapping[str, Any]) -> Problem:
    tests = tuple(row["test_list"])
    shown = "\n".join(tests)
    setup = "\n".join([*row.get("test_imports", ()), row.get("test_setup_code", "")])
    return Problem(
        id=str(row["task_id"]),
        prompt=f"{row.get('text') or row['prompt']} Answer with one Python code block. "
        f"It should pass these tests:\n\n{shown}",
        tests=tests,
        setup=setup,
        solutions=(row["code"].replace("\r\n", "\n"),),
    )


def _packaged(name: str) -> list[dict[str, Any]]:
    content = (resources.files("polychromic.tasks.code") / "data" / name).read_bytes()
    text = gzip.decompress(content).decode()
    return json.loads(text) if name.endswith(".json.gz") else [json.loads(line) for line in text.splitlines()]
