"""Code tasks: the benchmarks' own solutions pass, the reference evaluator's example is matched, bad files are named."""

import json
import warnings
from dataclasses import replace

import pytest

from polychromic import run
from polychromic.errors import ConfigError, DataError
from polychromic.evaluation.audits.checker import check_rows
from polychromic.evaluation.warnings import sandbox_notes
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.tasks.checking.sandbox import CandidateError, Handle, Limits, Sandbox
from polychromic.tasks.code import CodeTask, Problem, Verdict, judged, load_benchmark, load_problems
from polychromic.tasks.code.behaviour import behaviour, ordered, probes_of
from polychromic.tasks.code.forms import canonical_form
from polychromic.tasks.code.judging import extracted, program
from polychromic.tasks.code.styles import style_of


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


def pass_all(name, problems):
    task = CodeTask(name, {"test": problems}, Limits(seconds=60.0))
    prompts = task.prompts("test")
    checks = task.check(prompts, [prompt.references[0] for prompt in prompts])
    return {prompt.id: check.error for prompt, check in zip(prompts, checks, strict=True) if check.reward != 1.0}


def test_every_canonical_solution_of_humaneval_passes():
    problems = load_benchmark("humaneval")["test"]
    assert len(problems) == 164
    assert pass_all("humaneval", problems) == {}


@pytest.mark.slow
def test_every_solution_of_mbpp_passes():
    """Past bug: those of 367 and 927 did not, whose tests set attributes of the answer's objects."""
    problems = [problem for split in load_benchmark("mbpp").values() for problem in split]
    assert len(problems) == 964  # and ten that are examples for prompts
    assert pass_all("mbpp", problems) == {}


@pytest.mark.slow
def test_every_solution_of_sanitized_mbpp_passes():
    problems = [problem for split in load_benchmark("mbpp_sanitized").values() for problem in split]
    assert pass_all("mbpp_sanitized", problems) == {}


# The six example samples of github.com/openai/human-eval (MIT), data/example_samples.jsonl: pass@1 is 0.5.
EXAMPLE = {
    "task_id": "test/0", "prompt": "def return1():\n", "canonical_solution": "    return 1",
    "test": "def check(candidate):\n    assert candidate() == 1", "entry_point": "return1",
}  # fmt: skip
SAMPLES = {
    "    import subprocess\n    subprocess.check_output('rm -rf tmp')": False,
    "    import time\n    time.sleep(10)\n    return 1": False,
    "    return input('enter a number')": False,
    "    return 1": True,
    "  return 1": True,
    "\treturn 1": True,
}


def test_the_reference_evaluators_example_is_matched(tmp_path):
    (tmp_path / "problems.jsonl").write_text(json.dumps(EXAMPLE) + "\n")
    task = CodeTask("code", {"test": load_problems(tmp_path / "problems.jsonl")}, Limits(seconds=3.0))
    [prompt] = task.prompts("test")
    checks = task.check([prompt] * len(SAMPLES), list(SAMPLES))
    assert [check.reward == 1.0 for check in checks] == list(SAMPLES.values())
    assert checks[1].error.startswith("timeout")
    assert "EOFError" in checks[2].error


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", True),
        ("Here you are:\n```\ndef add(a, b):\n    return b + a\n```", True),
        ("def add(a, b):\n    return a + b", True),
        ("    return a + b", True),
        ("```python\ndef add(a, b):\n    return a - b\n```", False),
        ("I cannot.", False),
    ],
)
def test_an_answer_may_be_a_block_a_function_or_what_continues_the_prompt(sandbox, text, passed):
    problem = Problem("add", "", ("assert add(2, 3) == 5",), "add", opening='def add(a, b):\n    """Adds."""\n')
    assert judged(problem, text, sandbox).passed == passed


def test_what_is_no_plain_data_stays_with_the_candidate(sandbox):
    code = "class Pair:\n    def __init__(self, a, b): self.a = a\ndef first(pairs): return [p.a for p in pairs]"
    with sandbox.session() as session:
        session.define(code)
        pair = session.call("Pair", 5, 24)
        assert (type(pair), pair.kind) == (Handle, "Pair")
        assert session.call("first", [pair, pair]) == [5, 5]
        assert pair != session.call("Pair", 5, 24)
        with pytest.raises(CandidateError, match="second") as raised:
            session.call("second", 1)
        assert raised.value.words == "NameError: the answer does not define 'second'"


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**100,
        1.5,
        float("inf"),
        "ä\n",
        b"\0",
        None,
        True,
        [1, [2]],
        (1, 2),
        {1, 2},
        {"a": [1], 2: (3,)},
        1 + 2j,
    ],
)
def test_plain_values_come_back_as_they_are(sandbox, value):
    with sandbox.session() as session:
        session.define("def same(x): return x")
        returned = session.call("same", value)
    assert (type(returned), returned) == (type(value), value)


def test_programs_are_judged_by_their_output(sandbox):
    problem = Problem("sum", "", cases=(("1 2\n", "3\n"), ("4 5\n", "9")))
    assert judged(problem, "print(sum(map(int, input().split())))", sandbox).passed
    assert judged(problem, "print(3)", sandbox).reason == "wrong answer"
    assert judged(problem, "print(1/0)", sandbox).reason.startswith("raised: ZeroDivisionError")


def test_bad_lines_are_all_named_at_once(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": "p"},
        {"tests": ["assert f() == 1"]},
        {"prompt": "p", "tests": ["assert ="]},
        {"prompt": "p", "tests": "x"},
    ]
    file.write_text("\n".join([*map(json.dumps, rows), "{", "[1]"]) + "\n")
    with pytest.raises(DataError) as refused:
        load_problems(file)
    told = str(refused.value).splitlines()
    assert [line.partition(": ")[0] for line in told] == [f"{file}:{n}" for n in range(1, 7)]
    assert "expected tests (a list of assertions) or cases" in told[0]
    assert "key 'prompt' is missing" in told[1]


def test_an_arm_cannot_be_trained_on_a_benchmark_that_only_tests(tmp_path):
    with pytest.raises(ConfigError, match="task humaneval has no training prompts, but baseline would be trained"):
        run(
            "experiments/humaneval.yaml",
            ["arms.baseline.untrained=false", "run.preflight=false"],
            out=tmp_path,
        )


def test_a_text_is_executed_once_for_a_prompt(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "polychromic.tasks.code.task.judged", lambda _, text, *rest: seen.append(text) or Verdict(text == "a")
    )
    task = CodeTask("code", {"test": [Problem("p", "", ("assert f()",))]})
    [prompt] = task.prompts("test")
    assert [check.reward for check in task.check([prompt] * 4, ["a", "b", "a", "b"])] == [1.0, 0.0, 1.0, 0.0]
    assert sorted(seen) == ["a", "b"]


def test_rows_and_notes_say_what_kept_answers_from_the_system():
    task = CodeTask("code", {"test": [Problem("p", "", ("assert f() == 1",))]})
    [prompt] = task.prompts("test")
    drawn = [
        GenerationRow("p", index, text, 5, "stop", SamplingParameters(), 0, reward=None)
        for index, text in enumerate(["def f(): return 1", "1 / 0", "import gc; [o.clear() for o in gc.get_objects() "
                                      "if isinstance(o, list) and 'limits' in o]"])
    ]  # fmt: skip
    rows = check_rows(task, [prompt] * 3, drawn)
    [words] = {row.protection for row in rows}
    assert words.split(", ")[0] == "limits"
    assert GenerationRow.from_json(rows[0].to_json()) == rows[0]
    assert "protection" not in drawn[0].to_json()
    [note] = sandbox_notes(rows)
    assert (note.kind, note.text) == ("sandbox", f"answers were executed apart: {words} (SECURITY.md)")
    [mixed] = sandbox_notes([*rows, replace(rows[0], protection="limits")])
    assert f"{words} (3); limits (1)" in mixed.text
    assert sandbox_notes(drawn) == []


SAME = [
    ("def f(a):\n    return a * 2", "def g(x):\n    '''Doubles.'''\n    return 2 * x  # twice"),
    ("def f(a: int) -> int:\n    return a", "def f(a):\n\n    return (a)"),
    ("def f(a):\n    a += 1\n    return a", "def f(b):\n    b = b + 1\n    return b"),
    ("def f(a, b):\n    return a > b", "def f(a, b):\n    return b < a"),
    ("def f(a):\n    return len(a) + 1", "def f(a):\n    return 1 + len(a)"),
    ("def f(a):\n    return [x for x in a if x == 0]", "def h(t):\n    return [y for y in t if 0 == y]"),
    ("import math as m\ndef f(a):\n    return m.sqrt(a)", "import math\ndef f(a):\n    return math.sqrt(a)"),
    ("def f(a):\n    x: int = 1\n    return x", "def f(a):\n    x = 1\n    return x"),
    # Past bug: a comprehension's variable was taken for one of the function, so that x and x, or x and v, were two.
    (
        "def f(a):\n    b = [x for x in a if x]\n    return [x + 1 for x in b]",
        "def f(a):\n    b = [x for x in a if x]\n    return [v + 1 for v in b]",
    ),
    (
        "def f(a):\n    return sorted(a, key=lambda x: -x)",
        "def f(a):\n    return sorted(a, key=lambda a: -a)",
    ),
    # Past bugs: names of builtins, of another function's variables, of exceptions, of keywords, after `global` and of
    # async functions did count.
    ("def f(list):\n    return list[0]", "def f(xs):\n    return xs[0]"),
    ("def f(a):\n    max = 0\n    return max * len(a)", "def f(a):\n    m = 0\n    return len(a) * m"),
    ("def g(x): return x\ndef f(x): return g(x)", "def g(y): return y\ndef f(x): return g(x)"),
    ("try:\n    f()\nexcept OSError as e:\n    print(e)", "try:\n    f()\nexcept OSError as error:\n    print(error)"),
    ("def f(n, memo=0):\n    return f(n, memo=memo)", "def f(n, seen=0):\n    return f(n, seen=seen)"),
    ("def f():\n    global a\n    a = 1", "def f():\n    global b\n    b = 1"),
    ("async def f(a) -> int:\n    'Doc.'\n    return a", "async def g(b):\n    return b"),
    ("def f(a):\n    return u'x'", "def f(a):\n    return 'x'"),
    (
        "def f(a):\n    match a:\n        case [x, *y]:\n            return x",
        "def f(a):\n    match a:\n        case [u, *v]:\n            return u",
    ),
]
APART = [
    ("def f(a, b):\n    return a + b", "def f(a, b):\n    return b + a"),  # of texts these differ
    ("def f(a):\n    return a - 1", "def f(a):\n    return 1 - a"),
    ("def f(a, b):\n    return a", "def f(a, b):\n    return b"),
    ("def f(a):\n    return max(a)", "def f(a):\n    return min(a)"),
    ("def f(a):\n    return sum(a)", "def f(a):\n    s = 0\n    for x in a:\n        s += x\n    return s"),
    (
        "def f(a):\n    a += [1]\n    return a",
        "def f(a):\n    a = a + [1]\n    return a",
    ),  # the first changes its argument
    ("def f(a):\n    return a.lower()", "def f(a):\n    return a.upper()"),
    ("def f(a):\n    return a % 2 + a", "def f(a):\n    return a + a % 2"),  # % formats texts
    (
        "def f(a, b):\n    return [x for x in a for y in b]",
        "def f(a, b):\n    return [y for x in a for y in b]",
    ),
    ("def f(a, x):\n    return [x for x in a]", "def f(a, x):\n    return [x for y in a]"),
    (
        "def f(a):\n    return [[x for x in y] for y in a]",
        "def f(a):\n    return [[y for x in y] for y in a]",
    ),
    ("def f(a, b):\n    return lambda a: a", "def f(a, b):\n    return lambda b: a"),
    # Past bugs: each of these pairs was one program.
    ("def f(d):\n    return d | {'a': 1}", "def f(d):\n    return {'a': 1} | d"),
    ("def f(a):\n    return sum(a, []) + [1]", "def f(a):\n    return [1] + sum(a, [])"),
    ("def f(a):\n    b = a\n    b *= 2\n    return a", "def f(a):\n    b = a\n    b = b * 2\n    return a"),
    ("from math import *\ndef f(a):\n    return floor(a)", "from math import *\ndef f(a):\n    return ceil(a)"),
    (
        "x = 0\ny = 0\ndef f():\n    global x\n    x = 1\n    y = 1",
        "y = 0\nx = 0\ndef f():\n    global x\n    y = 1\n    x = 1",
    ),
    (
        "class A:\n    def p(self): return 1\n    def q(self): return 2\ndef f(a):\n    return A().p()",
        "class A:\n    def q(self): return 1\n    def p(self): return 2\ndef f(a):\n    return A().p()",
    ),
    (
        "@dataclass\nclass A:\n    x: int\n    y: int\ndef f(a):\n    return A(1, 2).x",
        "@dataclass\nclass A:\n    y: int\n    x: int\ndef f(a):\n    return A(1, 2).x",
    ),
    ("def f(max):\n    return max", "def f(a):\n    return max"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_programs_that_differ_in_writing_have_one_form(first, second):
    assert canonical_form(first) == canonical_form(second)


@pytest.mark.parametrize(("first", "second"), APART)
def test_programs_that_differ_in_approach_have_two(first, second):
    assert canonical_form(first) != canonical_form(second)


def test_a_set_and_numbers_commute():
    assert canonical_form("def f(a): return a | {1}") == canonical_form("def f(a): return {1} | a")
    assert canonical_form("def f(a): return a | 1") == canonical_form("def f(a): return 1 | a")


def test_what_is_no_python_has_no_form():
    assert canonical_form("def f(:") is None


def test_what_python_warns_of_is_not_said(capfd):
    """Past bug: "<unknown>:2: SyntaxWarning: invalid decimal literal" between the lines of a run's progress."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert canonical_form("x = 1if y else 2") == canonical_form("x = 1 if y else 2")
        assert style_of("x = '\\d' is 1") == "other"
    assert capfd.readouterr().err == ""


def test_the_program_of_a_completion_is_prompt_and_completion():
    problem = Problem("p", "", (), "f", opening="import math\n\ndef f(a):\n")
    assert program(problem, "    return 1") == "import math\n\ndef f(a):\n    return 1"
    assert extracted("```py\nx = 1\n") == "x = 1\n"


TWICE = Problem("twice", "", ("assert twice([1, 2]) == [1, 1, 2, 2]", "assert twice([]) == []"), solutions=(
    "def twice(a): return [x for x in a for _ in range(2)]",
))  # fmt: skip


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("def twice(b):\n    c = []\n    for x in b: c += [x, x]\n    return c", True),
        ("def twice(a): return sorted(a + a)", False),  # passes the tests, and sorts what was not sorted
        ("def twice(a): return [1, 1, 2, 2] if a else []", False),
        (
            "def twice(a):\n    if len(a) > 2: raise ValueError\n    return [x for x in a for _ in '12']",
            False,
        ),
    ],
)
def test_programs_that_pass_are_told_apart_by_what_else_they_do(sandbox, other, same):
    assert judged(TWICE, TWICE.solutions[0], sandbox).passed
    assert judged(TWICE, other, sandbox).passed
    probes = probes_of(TWICE, sandbox)
    assert probes[:2] == [("twice", ([1, 2],)), ("twice", ([],))]
    assert len(probes) == len({repr(probe) for probe in probes}) > 4
    first, second = (behaviour(TWICE, text, probes, sandbox) for text in (TWICE.solutions[0], other))
    assert (first == second) == same


def test_without_a_solution_probes_are_read_off_the_tests(sandbox):
    problem = Problem("twice", "", TWICE.tests)
    assert probes_of(problem, sandbox)[:2] == [("twice", ([1, 2],)), ("twice", ([],))]


def test_the_order_of_sets_is_no_difference():
    assert ordered({"b", "a"}) == ordered({"a", "b"}) != ordered(["a", "b"])
    assert ordered({1: {2}, 3: 4}) == ordered({3: 4, 1: {2}})
