"""Problems of code tasks: HumanEval and MBPP, which ship with the package, and the user's own file."""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.tasks.base import Split
from polychromic.tasks.checking.sandbox import MOST_PRINTED
from polychromic.tasks.data.lines import (
    any_text,
    decode_object,
    filled_lines,
    filled_text,
    identifier,
    kind,
    shown,
    value_of,
)

_INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block.\n\n"
_CODE = re.compile(r"from |import |async |def |class |@|[A-Za-z_]\w* *[=:]")
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

    Keys: `prompt`; `tests`, a list of assertions or of other Python that raises (functions of pytest, classes of
    unittest), with `entry_point` where an answer continues the prompt; or
    `cases`, a list of {"input", "output"}; `id` or `task_id`, `setup` and `solution` may be left out.
    HumanEval's and MBPP's own lines are read as they are.
    """
    from polychromic.tasks.code.running import fault_of_tests

    problems, faults = [], []
    for number, line in filled_lines(path):
        try:
            problems.append(_of_user(decode_object(line), f"{path.stem}-{number:05d}"))
            if fault := fault_of_tests(problems[-1]):
                faults.append(f"{path}:{number}: {fault}")
        except (KeyError, TypeError, ValueError, SyntaxError) as error:
            faults.append(f"{path}:{number}: {_fault(error)}")
    counts = Counter(problem.id for problem in problems)
    faults += [f"{path}: id {name!r} stands {n} times, expected unique ids" for name, n in counts.items() if n > 1]
    if faults or not problems:
        raise DataError("\n".join(faults) or f"{path}: holds no problems, expected one JSON object a line")
    return problems


def _fault(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r} is missing"
    return f"a test is no Python ({error})" if isinstance(error, SyntaxError) else str(error)


def _of_user(row: Mapping[str, Any], default_id: str) -> Problem:
    if "canonical_solution" in row and "test" in row:
        return _of_humaneval(row)
    if "test_list" in row:
        return _of_mbpp(row)
    cases, tests = tuple(_case(row, number) for number in range(len(_list(row, "cases")))), _texts(row, "tests")
    if bool(cases) == bool(tests):
        both = ", not both" if tests else ""
        raise ValueError(f"expected tests (a list of assertions) or cases (pairs of input and output){both}")
    prompt, entry_point = value_of("prompt", row["prompt"], filled_text), _text(row, "entry_point") or None
    setup, solution = _text(row, "setup"), _text(row, "solution")
    for code in (setup, *tests):
        ast.parse(code)
    key = next((key for key in ("id", "task_id") if row.get(key) is not None), None)
    return Problem(
        id=default_id if key is None else value_of(key, row[key], identifier),
        prompt=prompt,
        tests=tests,
        entry_point=entry_point,
        opening=_opening(prompt, entry_point) if entry_point else "",
        setup=setup,
        cases=cases,
        solutions=(solution,) if solution else (),
    )


def _text(row: Mapping[str, Any], key: str) -> str:
    """Returns the text of a key that may be left out, or be null."""
    return "" if row.get(key) is None else value_of(key, row[key], any_text)


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    if value is not None and not isinstance(value, list):
        raise TypeError(f"{key}: expected a list{' of assertions' if key == 'tests' else ''}, not {kind(value)}")
    return value or []


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(value_of(f"{key}[{number}]", text, any_text) for number, text in enumerate(_list(row, key)))


def _case(row: Mapping[str, Any], number: int) -> tuple[str, str]:
    case, place = row["cases"][number], f"cases[{number}]"
    if not isinstance(case, dict) or not {"input", "output"} <= case.keys():
        raise TypeError(f'{place}: {shown(case)}, expected an object such as {{"input": "1 2", "output": "3"}}')
    given, expected = (
        str(value) if type(value) in (int, float) else value_of(f"{place}.{key}", value, any_text)
        for key, value in ((key, case[key]) for key in ("input", "output"))
    )
    if len(expected) > MOST_PRINTED:
        raise ValueError(
            f"{place}.output: has {len(expected):,} characters, and {MOST_PRINTED:,} of a program are read"
        )
    return given, expected


def _opening(prompt: str, entry_point: str) -> str:
    """Returns the code that an answer may continue: the prompt, or what stands behind its words, without fences; ""
    where the prompt does not open the function."""
    defined = re.compile(rf"^(?:async )?def {re.escape(entry_point)}\b", re.MULTILINE)
    lines = re.sub(r"\n```[ \t]*\n*\Z", "\n", prompt).split("\n")
    begins = [number for number, line in enumerate(lines) if number == 0 or _CODE.match(line)]
    parts = ("\n".join(lines[number:]) for number in begins)
    return next((part for part in parts if defined.search(part) and _is_opening(part)), "")


def _is_opening(code: str) -> bool:
    try:
        ast.parse(f"{code}\n    pass\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _of_humaneval(row: Mapping[str, Any]) -> Problem:
    for key in ("task_id", "prompt", "test", "entry_point", "canonical_solution"):
        value_of(key, row[key], any_text)
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
    tests = _texts(row, "test_list")
    told = "\n".join(tests)
    more = _text(row, "test")  # MBPP+ has many more
    setup = "\n".join([*_texts(row, "test_imports"), _text(row, "test_setup_code")])
    return Problem(
        id=str(row["task_id"]),
        prompt=f"{_text(row, 'text') or row['prompt']} Answer with one Python code block. "
        f"It should pass these tests:\n\n{told}",
        tests=(*tests, more) if more else tests,
        setup=setup,
        solutions=(value_of("code", row["code"], any_text).replace("\r\n", "\n"),),
    )


def _packaged(name: str) -> list[dict[str, Any]]:
    content = (resources.files("polychromic.tasks.code") / "data" / name).read_bytes()
    text = gzip.decompress(content).decode()
    return json.loads(text) if name.endswith(".json.gz") else [json.loads(line) for line in text.splitlines()]
